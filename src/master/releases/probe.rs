//! The probe of a release (`reload.probe`): private sockets for one worker, and the request that the worker must answer.
//!
//! Law: no client can reach a private socket by an address that it knows, and a probe always comes to an end: the request has a
//! timeout.

use std::ffi::CString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use crate::config::{Config, Probe};
use crate::master::listeners::sockets::{Kind, Listener};
use crate::master::log::text::one_line;
use crate::pool::{Reason, Span};
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::unix_socket::bind_for_owner;

/// Backlog of a private stream socket, as of those that the master binds.
const BACKLOG: i32 = 4096;
/// Interval between two looks whether a connection was accepted.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The part of an answer's body that is read, bytes, and the part of its first line that is told.
const BODY_MAX: usize = 64 * 1024;
const LINE_MAX: usize = 500;

/// The sockets of one probed worker: one for each socket of its release, in the same order. Dropping them removes their files.
#[derive(Debug)]
pub struct PrivateSockets {
    sockets: Vec<Arc<OwnedFd>>,
    /// The first stream socket, to which the request goes.
    target: Option<Target>,
    files: Vec<PathBuf>,
    /// `RATOON_PROBE=1`, and `RATOON_PROBE_ADDRESSES`: the addresses for which the sockets stand in.
    environment: Vec<CString>,
}

/// The socket to which the request goes.
#[derive(Clone, Debug)]
struct Target {
    listener: Arc<OwnedFd>,
    address: Address,
}

#[derive(Clone, Debug)]
enum Address {
    Ip(SocketAddr),
    Path(PathBuf),
}

impl PrivateSockets {
    /// Opens the sockets that stand in for `public`. Those of Unix are files in `directory`, with names that begin with `prefix`.
    ///
    /// # Errors
    /// A sentence that names the socket that has no stand-in.
    pub fn open(public: &[Listener], directory: &Path, prefix: &str) -> Result<PrivateSockets, String> {
        let mut made = PrivateSockets { sockets: Vec::new(), target: None, files: Vec::new(), environment: Vec::new() };
        for (index, listener) in public.iter().enumerate() {
            let path = directory.join(format!("{prefix}-{index}"));
            let (fd, address) = stand_in(listener, &path).map_err(|why| {
                format!("the probe has no socket that stands in for {} ({}): {why}", listener.name, listener.address)
            })?;
            if let Address::Path(path) = &address {
                made.files.push(path.clone());
            }
            let fd = Arc::new(dup_high(fd, RESERVED_FD_BASE));
            if made.target.is_none() && matches!(listener.kind, Kind::TcpStream | Kind::UnixStream) {
                made.target = Some(Target { listener: fd.clone(), address });
            }
            made.sockets.push(fd);
        }
        let addresses: Vec<&str> = public.iter().map(|listener| listener.address.as_str()).collect();
        let entries = ["RATOON_PROBE=1".to_owned(), format!("RATOON_PROBE_ADDRESSES={}", addresses.join(" "))];
        made.environment = entries.into_iter().filter_map(|entry| CString::new(entry).ok()).collect();
        Ok(made)
    }

    /// The sockets, in the order of the release's.
    pub fn sockets(&self) -> &[Arc<OwnedFd>] {
        &self.sockets
    }

    /// The variables of the probed worker.
    pub fn environment(&self) -> impl Iterator<Item = CString> {
        self.environment.iter().cloned()
    }

    /// The request that `config` asks for; `None` when the worker's readiness is all that can be asked: the release has no probe, or
    /// no stream socket.
    pub fn request(&self, config: &Config) -> Option<ProbeRequest> {
        let (probe, target) = (config.reload.probe.clone()?, self.target.clone()?);
        Some(ProbeRequest {
            target,
            probe,
            passes: config.reload.probe_status.0.clone(),
            host: config.reload.probe_host.clone(),
            timeout: config.reload.probe_timeout,
        })
    }
}

impl Drop for PrivateSockets {
    fn drop(&mut self) {
        for file in &self.files {
            // The runtime directory is removed at the end, whatever is left in it.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// A socket of the same family and type as `public`, on an address that nobody knows.
fn stand_in(public: &Listener, path: &Path) -> Result<(OwnedFd, Address), String> {
    let refused = |error: rustix::io::Errno| error.to_string();
    let socket = public.fd.as_fd();
    let (family, socket_type) = match public.kind {
        Kind::TcpStream | Kind::Udp | Kind::UnixStream | Kind::UnixDatagram => {
            (sockopt::socket_domain(socket).map_err(refused)?, sockopt::socket_type(socket).map_err(refused)?)
        }
        Kind::Fifo | Kind::Other => return Err("it is no socket of TCP, UDP or Unix; unset reload.probe".to_owned()),
    };
    let protocol = if family == AddressFamily::UNIX { None } else { sockopt::socket_protocol(socket).map_err(refused)? };
    let fd = rustix::net::socket_with(family, socket_type, SocketFlags::CLOEXEC, protocol).map_err(refused)?;
    let address = match family {
        AddressFamily::UNIX => {
            let address = SocketAddrUnix::new(path.as_os_str().as_bytes()).map_err(refused)?;
            bind_for_owner(&fd, &address).map_err(refused)?;
            Address::Path(path.to_owned())
        }
        AddressFamily::INET6 => Address::Ip(bind_ip(&fd, (Ipv6Addr::LOCALHOST, 0).into()).map_err(refused)?),
        _ => Address::Ip(bind_ip(&fd, (Ipv4Addr::LOCALHOST, 0).into()).map_err(refused)?),
    };
    if socket_type != SocketType::DGRAM {
        rustix::net::listen(&fd, BACKLOG).map_err(refused)?;
    }
    Ok((fd, address))
}

fn bind_ip(fd: &OwnedFd, any_port: SocketAddr) -> Result<SocketAddr, rustix::io::Errno> {
    rustix::net::bind(fd, &any_port)?;
    rustix::net::getsockname(fd)?.try_into()
}

/// A request to a probed worker.
#[derive(Clone, Debug)]
pub struct ProbeRequest {
    target: Target,
    probe: Probe,
    passes: std::ops::RangeInclusive<u16>,
    host: String,
    timeout: Duration,
}

impl ProbeRequest {
    /// Sends the request and judges the answer.
    ///
    /// # Errors
    /// The cause, without a word of the worker's; as its detail the first line of the answer's body.
    pub async fn send(self) -> Result<(), Reason> {
        let what = match &self.probe {
            Probe::Get(path) => format!("GET {path}"),
            Probe::Connect => "connect".to_owned(),
        };
        let late = match self.probe {
            Probe::Get(_) => "had no answer",
            Probe::Connect => "was not accepted",
        };
        let within = self.timeout;
        match timeout(within, self.judge(&what)).await {
            Ok(judged) => judged,
            Err(_) => Err(format!("{what} {late} within {}", Span(within)).into()),
        }
    }

    async fn judge(&self, what: &str) -> Result<(), Reason> {
        let broken = |error: &dyn std::fmt::Display| Reason::from(format!("{what}: {error}"));
        match (&self.target.address, &self.probe) {
            (Address::Ip(address), Probe::Get(path)) => {
                self.get(what, path, TcpStream::connect(address).await.map_err(|error| broken(&error))?).await
            }
            (Address::Path(file), Probe::Get(path)) => {
                self.get(what, path, UnixStream::connect(file).await.map_err(|error| broken(&error))?).await
            }
            (Address::Ip(address), Probe::Connect) => {
                let _connection = TcpStream::connect(address).await.map_err(|error| broken(&error))?;
                self.accepted().await;
                Ok(())
            }
            (Address::Path(file), Probe::Connect) => {
                let _connection = connect(file, self.target.listener.as_fd()).map_err(|error| broken(&error))?;
                self.accepted().await;
                Ok(())
            }
        }
    }

    /// Waits until the worker has accepted the connection: then no connection waits in the socket's queue.
    async fn accepted(&self) {
        let waits = || {
            let mut queue = [PollFd::new(&*self.target.listener, PollFlags::IN)];
            poll(&mut queue, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        };
        // TCP may put the connection into the queue a moment after the client has it, so the first look waits, too.
        sleep(LOOK_AGAIN).await;
        while waits() {
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn get(
        &self,
        what: &str,
        path: &str,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), Reason> {
        let broken = |error: &dyn std::fmt::Display| Reason::from(format!("{what}: {error}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // Ends with the connection; its errors are those of the request.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let request = Request::builder().method(Method::GET).uri(path).header(HOST, &self.host).header("connection", "close");
        let request = request.header("user-agent", "ratoon-probe").body(Empty::<Bytes>::new()).map_err(|error| broken(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = answer.status();
        if self.passes.contains(&status.as_u16()) {
            return Ok(());
        }
        // A body that is too long or cut off: the status says enough.
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let first = body.split(|byte| *byte == b'\n').find(|line| !line.iter().all(u8::is_ascii_whitespace));
        let name = status.canonical_reason().map_or_else(String::new, |name| format!(" {name}"));
        let (from, to) = (self.passes.start(), self.passes.end());
        Err(Reason {
            detail: first.map(|line| one_line(line, LINE_MAX)),
            ..Reason::from(format!("{what} was answered with {}{name}; {from} to {to} pass", status.as_u16()))
        })
    }
}

/// Connects to a Unix socket of the type of `listener`: stream, or sequential packets.
fn connect(path: &Path, listener: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    if sockopt::socket_type(listener)? == SocketType::STREAM {
        return StdUnixStream::connect(path).map(Into::into);
    }
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path.as_os_str().as_bytes())?)?;
    Ok(fd)
}

#[cfg(test)]
mod tests;
