//! The listening sockets: passed by the service manager and taken by position or name, or bound when the program runs alone.
//!
//! Law: a passed socket is used as it is. O_NONBLOCK is a flag of the open file description, which all generations share, so it is
//! set where tokio needs it and never cleared. Every socket that is taken is close-on-exec.

use std::io;
use std::net;
use std::os::fd::OwnedFd;
use std::os::unix::net as unix;
use std::path::Path;

use listenfd::ListenFd;

/// The most sockets accepted from `LISTEN_FDS`. `listenfd` has no limit of its own.
const MOST: usize = 4096;

/// The sockets that were passed to this process, to be taken one by one.
#[derive(Debug, Default)]
pub struct Listeners {
    sockets: Vec<Passed>,
}

#[derive(Debug)]
struct Passed {
    name: String,
    socket: Option<Socket>,
}

/// Selects a passed socket by position or by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// The socket at this position, counted from 0.
    Place(usize),
    /// The first socket with this name (`FileDescriptorName=`, or `--listen name=…`) that isn't taken yet.
    Name(&'a str),
}

impl From<usize> for Which<'_> {
    fn from(place: usize) -> Self {
        Which::Place(place)
    }
}

impl<'a> From<&'a str> for Which<'a> {
    fn from(name: &'a str) -> Self {
        Which::Name(name)
    }
}

impl std::fmt::Display for Which<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Which::Place(place) => write!(f, "socket {place}"),
            Which::Name(name) => write!(f, "socket \"{name}\""),
        }
    }
}

/// A socket as it was passed; `try_into()` converts it to a std, tokio or socket2 type.
#[derive(Debug)]
pub enum Socket {
    /// TCP listener.
    Tcp(net::TcpListener),
    /// Unix stream listener.
    Unix(unix::UnixListener),
    /// UDP socket.
    Udp(net::UdpSocket),
    /// Unix datagram socket.
    Datagram(unix::UnixDatagram),
}

impl Listeners {
    /// Takes all sockets that the environment names (`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`); an empty list without them.
    ///
    /// Call it once, first in `main`: it removes the variables, so that no child of the worker uses them.
    pub fn from_env() -> io::Result<Self> {
        let count = std::env::var("LISTEN_FDS").ok().and_then(|text| text.parse::<usize>().ok());
        if let Some(count) = count.filter(|&count| count > MOST) {
            return Err(invalid(format!("LISTEN_FDS={count}: more than {MOST} sockets are not believed")));
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = ListenFd::from_env();
        let mut names = names.split(':');
        let mut sockets = Vec::with_capacity(passed.len());
        for place in 0..passed.len() {
            let name = names.next().unwrap_or("unknown").to_owned();
            let socket = take(&mut passed, place).map_err(|error| invalid(format!("socket {place} (\"{name}\"): {error}")))?;
            sockets.push(Passed { name, socket: Some(socket) });
        }
        Ok(Listeners { sockets })
    }

    /// Number of passed sockets, taken ones included.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether no socket was passed: the program runs alone.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Names of all passed sockets, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(|passed| passed.name.as_str())
    }

    /// Takes one socket as the type that the caller names:
    /// `let admin: tokio::net::UnixListener = listeners.take("admin")?;`
    ///
    /// Fails when there is no such socket, when it is taken already, and when it is of another kind.
    pub fn take<'a, T: TryFrom<Socket, Error = io::Error>>(&mut self, which: impl Into<Which<'a>>) -> io::Result<T> {
        let which = which.into();
        let found = match which {
            Which::Place(place) => self.sockets.get_mut(place),
            Which::Name(name) => self.sockets.iter_mut().find(|passed| passed.name == name && passed.socket.is_some()),
        };
        match found.and_then(|passed| passed.socket.take()) {
            Some(socket) => T::try_from(socket).map_err(|error| io::Error::new(error.kind(), format!("{which}: {error}"))),
            None => {
                let names: Vec<_> = self.names().collect();
                let text =
                    format!("{which} was not handed over, or is taken already; there are {} ({})", names.len(), names.join(", "));
                Err(io::Error::new(io::ErrorKind::NotFound, text))
            }
        }
    }
}

/// Returns the first passed socket, or binds `address` when none was passed, so that one program runs under a supervisor and
/// alone. `address` is `host:port`, or the path of a Unix socket if it contains a `/`.
pub fn listen(address: &str) -> io::Result<Listener> {
    let mut passed = Listeners::from_env()?;
    if passed.is_empty() { Listener::bind(address) } else { passed.take(0) }
}

/// A stream listener that tokio serves, TCP or Unix.
#[derive(Debug)]
pub struct Listener {
    pub(super) kind: Kind,
    own: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Listener {
    /// Binds `address`: `host:port`, or the path of a Unix socket. A socket file that refuses connections is replaced.
    pub fn bind(address: &str) -> io::Result<Self> {
        let told = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let kind = if address.contains('/') {
            let path = Path::new(address);
            if unix::UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                std::fs::remove_file(path).map_err(told)?;
            }
            Kind::Unix(Socket::Unix(unix::UnixListener::bind(path).map_err(told)?).try_into()?)
        } else {
            Kind::Tcp(Socket::Tcp(net::TcpListener::bind(address).map_err(told)?).try_into()?)
        };
        Ok(Listener { kind, own: true })
    }

    /// Whether this process bound the listener, so that no other process accepts the connections in its queue.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// The listener's address, as text for people.
    pub fn address(&self) -> String {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string()),
            Kind::Unix(unix) => match unix.local_addr() {
                Ok(address) => address.as_pathname().map_or_else(|| "unix".to_owned(), |path| path.display().to_string()),
                Err(error) => error.to_string(),
            },
        }
    }
}

impl From<tokio::net::TcpListener> for Listener {
    fn from(tcp: tokio::net::TcpListener) -> Self {
        Listener { kind: Kind::Tcp(tcp), own: false }
    }
}

impl From<tokio::net::UnixListener> for Listener {
    fn from(unix: tokio::net::UnixListener) -> Self {
        Listener { kind: Kind::Unix(unix), own: false }
    }
}

impl TryFrom<Socket> for Listener {
    type Error = io::Error;
    fn try_from(socket: Socket) -> io::Result<Self> {
        match socket {
            tcp @ Socket::Tcp(_) => tokio::net::TcpListener::try_from(tcp).map(Into::into),
            unix @ Socket::Unix(_) => tokio::net::UnixListener::try_from(unix).map(Into::into),
            other => Err(other.is_not("a stream listener")),
        }
    }
}

impl Socket {
    fn is_not(&self, wanted: &str) -> io::Error {
        let is = match self {
            Socket::Tcp(_) => "a TCP listener",
            Socket::Unix(_) => "a Unix stream listener",
            Socket::Udp(_) => "a UDP socket",
            Socket::Datagram(_) => "a Unix datagram socket",
        };
        invalid(format!("it is {is}, not {wanted}"))
    }
}

/// Implements the conversions from a [`Socket`] variant to its std type and to its tokio type.
macro_rules! socket_types {
    ($($variant:ident: $std:ty, $tokio:ty, $words:literal;)*) => {$(
        impl TryFrom<Socket> for $std {
            type Error = io::Error;
            fn try_from(socket: Socket) -> io::Result<Self> {
                match socket {
                    Socket::$variant(socket) => Ok(socket),
                    other => Err(other.is_not($words)),
                }
            }
        }
        impl TryFrom<Socket> for $tokio {
            type Error = io::Error;
            fn try_from(socket: Socket) -> io::Result<Self> {
                let socket: $std = socket.try_into()?;
                socket.set_nonblocking(true)?;
                <$tokio>::from_std(socket)
            }
        }
    )*};
}

socket_types! {
    Tcp: net::TcpListener, tokio::net::TcpListener, "a TCP listener";
    Unix: unix::UnixListener, tokio::net::UnixListener, "a Unix stream listener";
    Udp: net::UdpSocket, tokio::net::UdpSocket, "a UDP socket";
    Datagram: unix::UnixDatagram, tokio::net::UnixDatagram, "a Unix datagram socket";
}

impl TryFrom<Socket> for socket2::Socket {
    type Error = io::Error;
    fn try_from(socket: Socket) -> io::Result<Self> {
        Ok(OwnedFd::from(socket).into())
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(socket) => socket.into(),
            Socket::Unix(socket) => socket.into(),
            Socket::Udp(socket) => socket.into(),
            Socket::Datagram(socket) => socket.into(),
        }
    }
}

/// Takes a socket by trying each kind in turn: `listenfd` checks the kind of a socket when it returns it.
fn take(passed: &mut ListenFd, place: usize) -> io::Result<Socket> {
    if let Ok(Some(socket)) = passed.take_tcp_listener(place) {
        return Ok(Socket::Tcp(socket));
    }
    if let Ok(Some(socket)) = passed.take_unix_listener(place) {
        return Ok(Socket::Unix(socket));
    }
    if let Ok(Some(socket)) = passed.take_udp_socket(place) {
        return Ok(Socket::Udp(socket));
    }
    match passed.take_unix_datagram(place) {
        Ok(Some(socket)) => Ok(Socket::Datagram(socket)),
        _ => Err(invalid("neither a TCP, Unix stream, UDP nor Unix datagram socket".into())),
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed() -> Listeners {
        let tcp = || Socket::Tcp(net::TcpListener::bind("127.0.0.1:0").unwrap());
        let udp = Socket::Udp(net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let entry = |name: &str, socket| Passed { name: name.into(), socket: Some(socket) };
        Listeners { sockets: vec![entry("web", tcp()), entry("dns", udp), entry("web", tcp())] }
    }

    #[tokio::test]
    async fn sockets_are_taken_by_place_and_by_name_once() {
        let mut all = passed();
        assert_eq!(all.names().collect::<Vec<_>>(), ["web", "dns", "web"]);
        let first: tokio::net::TcpListener = all.take("web").unwrap();
        let second: net::TcpListener = all.take(2).unwrap();
        assert_ne!(first.local_addr().unwrap(), second.local_addr().unwrap());
        let text = all.take::<Listener>("web").unwrap_err().to_string();
        assert_eq!(text, "socket \"web\" was not handed over, or is taken already; there are 3 (web, dns, web)");
        let text = all.take::<Listener>("dns").unwrap_err().to_string();
        assert_eq!(text, "socket \"dns\": it is a UDP socket, not a stream listener");
        assert_eq!(all.take::<net::UdpSocket>(9).unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut all = passed();
        let any: socket2::Socket = all.take(1).unwrap();
        assert_eq!(any.r#type().unwrap(), socket2::Type::DGRAM);
    }

    #[tokio::test]
    async fn a_dead_unix_socket_is_replaced_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s").display().to_string();
        drop(Listener::bind(&path).unwrap()); // leaves its file behind
        let living = Listener::bind(&path).unwrap();
        assert_eq!(living.address(), path);
        let refused = Listener::bind(&path).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("cannot listen on {path}: ")), "{refused}");
    }
}
