//! The listening sockets: inherited from systemd, or bound by the master.
//!
//! Law: no listening socket is closed while the instance lives. On an inherited socket only the descriptor number is changed, unless
//! the configuration asks for more: flags such as `O_NONBLOCK` belong to the open file that all generations and systemd share.

mod bind;
mod inherit;
mod nonblocking;
mod slot_group;
mod slots;
mod steer;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, fstat};
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketType, getsockname, sockopt};

pub use self::bind::{bind, bind_all, check, check_directory, is_beside_ipv4};
pub use self::inherit::{Inherited, from_systemd};
pub use self::nonblocking::Nonblocking;
pub use self::slots::{Slots, one_each};

/// A socket that the workers serve.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The name in `LISTEN_FDNAMES`. Several sockets may have the same name.
    pub name: String,
    /// The socket.
    pub fd: Arc<OwnedFd>,
    /// The address as text: `127.0.0.1:8080`, `[::]:80`, `/run/x.sock`, `@abstract`.
    pub address: String,
    /// The kind of socket.
    pub kind: Kind,
    /// Whether the socket was inherited. An inherited socket outlives the master.
    pub inherited: bool,
}

/// The kind of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A listening socket of TCP or another IP stream protocol.
    TcpStream,
    /// A listening Unix stream or sequential-packet socket.
    UnixStream,
    /// A UDP socket.
    Udp,
    /// A Unix datagram socket.
    UnixDatagram,
    /// A FIFO.
    Fifo,
    /// Any other descriptor that systemd can pass: netlink, vsock, a message queue, a device.
    Other,
}

/// The reason why a socket cannot be opened, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl Listener {
    /// Makes a listener of a descriptor: finds its kind and address.
    pub(in crate::master) fn of(name: String, fd: OwnedFd, inherited: bool) -> Listener {
        let (kind, address) = describe(fd.as_fd());
        Listener { name, fd: Arc::new(fd), address, kind, inherited }
    }
}

/// `LISTEN_FDS` and `LISTEN_FDNAMES` for the workers of these listeners. `LISTEN_PID` and others are added at the spawn.
pub fn environment<'a>(listeners: impl IntoIterator<Item = &'a Listener>) -> Vec<CString> {
    let names: Vec<&str> = listeners.into_iter().map(|listener| listener.name.as_str()).collect();
    if names.is_empty() {
        return Vec::new();
    }
    [format!("LISTEN_FDS={}", names.len()), format!("LISTEN_FDNAMES={}", names.join(":"))]
        .into_iter()
        .filter_map(|entry| CString::new(entry).ok())
        .collect()
}

/// The variables of the master's environment that must never reach a worker: systemd sets them for the master alone, or the master
/// sets them anew for each worker.
pub const MASTERS_OWN: [&str; 41] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_FDS_FIRST_FD",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "MAINPID",
    "MAINPIDFDID",
    "MANAGERPID",
    "MANAGERPIDFDID",
    "SYSTEMD_EXEC_PID",
    "FDSTORE",
    "JOURNAL_STREAM",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "CPU_PRESSURE_WATCH",
    "CPU_PRESSURE_WRITE",
    "IO_PRESSURE_WATCH",
    "IO_PRESSURE_WRITE",
    "PIDFILE",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "SERVICE_RESULT",
    "EXIT_CODE",
    "EXIT_STATUS",
    "TRIGGER_PATH",
    "TRIGGER_UNIT",
    "TRIGGER_TIMER_REALTIME_USEC",
    "TRIGGER_TIMER_MONOTONIC_USEC",
    "RATOON_INSTANCE",
    "RATOON_GENERATION",
    "RATOON_WORKER",
    "RATOON_SLOT",
    "RATOON_CONTROL",
    "RATOON_SCOREBOARD",
    "RATOON_STATE",
    "RATOON_SURVIVE",
    "RATOON_DELEGATED",
    "RATOON_SPAWN",
];

/// Whether a variable is one of [`MASTERS_OWN`]. Compares whole names, because `LISTEN_ADDR` and the like are the user's.
pub fn is_masters_own(name: &str) -> bool {
    MASTERS_OWN.contains(&name)
}

/// The kind of a descriptor, and its address as text.
fn describe(fd: BorrowedFd<'_>) -> (Kind, String) {
    let file_type = fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match file_type {
        Ok(FileType::Socket) => {}
        Ok(FileType::Fifo) => return (Kind::Fifo, path_of(fd)),
        _ => return (Kind::Other, path_of(fd)),
    }
    let address = getsockname(fd).ok();
    let address = address.as_ref().and_then(in_words).unwrap_or_else(|| "unknown address".to_owned());
    let listens = sockopt::socket_acceptconn(fd).unwrap_or(false);
    let kind = match (sockopt::socket_domain(fd), sockopt::socket_type(fd)) {
        (Ok(AddressFamily::INET | AddressFamily::INET6), Ok(SocketType::STREAM)) if listens => Kind::TcpStream,
        (Ok(AddressFamily::INET | AddressFamily::INET6), Ok(SocketType::DGRAM)) => Kind::Udp,
        (Ok(AddressFamily::UNIX), Ok(SocketType::STREAM | SocketType::SEQPACKET)) if listens => Kind::UnixStream,
        (Ok(AddressFamily::UNIX), Ok(SocketType::DGRAM)) => Kind::UnixDatagram,
        _ => Kind::Other,
    };
    (kind, address)
}

fn in_words(address: &SocketAddrAny) -> Option<String> {
    if let Ok(ip) = std::net::SocketAddr::try_from(address.clone()) {
        return Some(ip.to_string());
    }
    let unix = SocketAddrUnix::try_from(address.clone()).ok()?;
    match (unix.path(), unix.abstract_name()) {
        (Some(path), _) => Some(path.to_string_lossy().into_owned()),
        (None, Some(name)) => Some(format!("@{}", String::from_utf8_lossy(name))),
        (None, None) => None,
    }
}

fn path_of(fd: BorrowedFd<'_>) -> String {
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    std::fs::read_link(link).map_or_else(|_| "unknown".to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests;
