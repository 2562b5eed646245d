//! Sockets that the master binds itself (`--listen`) when systemd passes none.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::{Error, Listener};
use crate::stored_name::{PREFIX, is_stored};
use crate::sys::credentials::own_uid;
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::trust;
use crate::sys::unix_socket::bind_with_mode;

/// The backlog of a listening socket, connections. The kernel limits it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The name of a socket for which the user gives no name.
const DEFAULT_NAME: &str = "listen";

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Path(PathBuf),
    Abstract(String),
}

/// Binds all addresses, see [`bind`]. An IPv6 address takes no IPv4 connections where an IPv4 address has the same port: otherwise
/// the first bound address would take the port, and the other bind(2) would fail.
pub fn bind_all(specs: &[String]) -> Result<Vec<Listener>, Error> {
    specs.iter().map(|spec| bind_with(spec, is_beside_ipv4(spec, specs))).collect()
}

/// Whether `spec` is an IPv6 address, and one of `others` is an IPv4 address with the same port.
pub fn is_beside_ipv4(spec: &str, others: &[String]) -> bool {
    let address = |spec: &str| match parse(split_name(spec).ok()?.1).ok()? {
        Address::Tcp(ip) => Some((SocketType::STREAM, ip)),
        Address::Udp(ip) => Some((SocketType::DGRAM, ip)),
        Address::Path(_) | Address::Abstract(_) => None,
    };
    let Some((kind, SocketAddr::V6(six))) = address(spec) else { return false };
    let is_four = |other: &String| {
        address(other).is_some_and(|(other, ip)| other == kind && ip.is_ipv4() && ip.port() == six.port() && ip.port() != 0)
    };
    others.iter().any(is_four)
}

/// Binds `127.0.0.1:8080`, `[::]:80`, `/run/x.sock`, `@abstract` or `udp:127.0.0.1:53`, optionally `name=ADDR`.
///
/// A TCP socket has `SO_REUSEADDR`, and `TCP_NODELAY`, which accepted sockets inherit. As for a socket unit, the system's default
/// decides whether `[::]` takes IPv4 connections too, and a socket file has mode 0666. A stale socket file is replaced. A root master
/// refuses a directory in which another user could replace the file. The sockets are blocking, as a plain accept(2) loop needs them;
/// a worker that needs a non-blocking socket sets the flag itself.
pub fn bind(spec: &str) -> Result<Listener, Error> {
    bind_with(spec, false)
}

fn bind_with(spec: &str, v6_only: bool) -> Result<Listener, Error> {
    let (name, text) = split_name(spec)?;
    let address = parse(text)?;
    let fd = match &address {
        Address::Tcp(ip) => bind_ip(*ip, SocketType::STREAM, v6_only),
        Address::Udp(ip) => bind_ip(*ip, SocketType::DGRAM, v6_only),
        Address::Path(path) => return Ok(listener(name, bind_path(path)?)),
        Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()).and_then(|address| {
            let fd = unix_socket()?;
            rustix::net::bind(&fd, &address)?;
            rustix::net::listen(&fd, BACKLOG)?;
            Ok(fd)
        }),
    };
    Ok(listener(name, fd.map_err(|error| refused(text, &address, error))?))
}

/// Checks the syntax of an address.
///
/// # Errors
/// The address is invalid; the text says why, and what was probably meant.
pub fn check(spec: &str) -> Result<(), Error> {
    parse(spec).map(drop)
}

fn listener(name: &str, fd: OwnedFd) -> Listener {
    Listener::of(name.to_owned(), dup_high(fd, RESERVED_FD_BASE), false)
}

/// Splits `name=ADDR`. A path or an abstract name may contain an equals sign.
fn split_name(spec: &str) -> Result<(&str, &str), Error> {
    let Some((name, address)) = spec.split_once('=').filter(|(name, _)| !name.contains(['/', '@', '[', ':'])) else {
        return Ok((DEFAULT_NAME, spec));
    };
    let fits = (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if fits && !is_stored(name) {
        return Ok((name, address));
    }
    Err(Error(format!(
        "{spec:?}: the name before the = has 1 to 255 visible ASCII characters, no colon, and is no \"{PREFIX}KIND-NUMBER\", as \
         descriptors in systemd's store are called"
    )))
}

fn parse(text: &str) -> Result<Address, Error> {
    if let Some(path) = text.strip_prefix("unix:").or(text.starts_with('/').then_some(text)) {
        let path = Path::new(path);
        return match path.as_os_str().len() {
            _ if !path.is_absolute() => Err(Error(format!("cannot listen on {text:?}: write an absolute path"))),
            length @ 108.. => Err(Error(format!(
                "cannot listen on {text:?}: a socket's path has at most 107 bytes, this one {length}; use a shorter directory"
            ))),
            _ => Ok(Address::Path(path.to_path_buf())),
        };
    }
    if let Some(name) = text.strip_prefix('@').filter(|name| !name.is_empty()) {
        return Ok(Address::Abstract(name.to_owned()));
    }
    let (datagram, ip) = match text.strip_prefix("udp:") {
        Some(ip) => (true, ip),
        None => (false, text.strip_prefix("tcp:").unwrap_or(text)),
    };
    match ip.parse::<SocketAddr>() {
        Ok(ip) if datagram => Ok(Address::Udp(ip)),
        Ok(ip) => Ok(Address::Tcp(ip)),
        Err(_) => Err(Error(format!("cannot listen on {text:?}: {}", hint(ip)))),
    }
}

/// A hint for an invalid address: what was probably meant.
fn hint(text: &str) -> String {
    let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    let host = text.rsplit_once(':').map_or("", |(host, _)| host);
    match (host, port) {
        ("" | "*", Some(port)) => {
            format!(
                "say which address: \"127.0.0.1:{port}\" (this machine only), \"0.0.0.0:{port}\" or \"[::]:{port}\" (everyone)"
            )
        }
        ("localhost", Some(port)) => format!("names are not looked up: write \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
        (host, Some(port)) if host.contains(':') && !host.starts_with('[') => {
            format!("an IPv6 address stands in brackets: \"[{host}]:{port}\"")
        }
        (_, Some(_)) => "names are not looked up: write an IP address and a port, like \"127.0.0.1:8080\"".to_owned(),
        _ if text.parse::<std::net::IpAddr>().is_ok() => {
            "the port is missing: write it behind a colon, like \"127.0.0.1:8080\"".to_owned()
        }
        _ => "write an address like \"127.0.0.1:8080\", \"[::]:80\", \"/run/x.sock\" or \"@name\"".to_owned(),
    }
}

fn bind_ip(address: SocketAddr, socket_type: SocketType, v6_only: bool) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = rustix::net::socket_with(family, socket_type, SocketFlags::CLOEXEC, None)?;
    if socket_type == SocketType::STREAM {
        // Connections of an earlier instance may still be in TIME_WAIT. For UDP this option would let two sockets share a port.
        sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    if v6_only {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    rustix::net::bind(&fd, &address)?;
    if socket_type == SocketType::STREAM {
        // Accepted sockets inherit this option. A server that writes head and body separately then does not wait for the
        // client's acknowledgement.
        sockopt::set_tcp_nodelay(&fd, true)?;
        // A socket that listens with this option can get slot sockets beside it later (worker.balance). Until then no other
        // socket may share the address.
        sockopt::set_socket_reuseport(&fd, true)?;
        rustix::net::listen(&fd, BACKLOG)?;
        sockopt::set_socket_reuseport(&fd, false)?;
    }
    Ok(fd)
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn bind_path(path: &Path) -> Result<OwnedFd, Error> {
    let fail = |error| refused(&path.display().to_string(), &Address::Path(path.to_path_buf()), error);
    let address = SocketAddrUnix::new(path.as_os_str().as_bytes()).map_err(fail)?;
    check_directory(path)?;
    let fd = unix_socket().map_err(fail)?;
    match bind_with_mode(&fd, &address, 0o666) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(path, &address)?;
            bind_with_mode(&fd, &address, 0o666).map_err(fail)?;
        }
        result => result.map_err(fail)?,
    }
    rustix::net::listen(&fd, BACKLOG).map_err(fail)?;
    Ok(fd)
}

/// Law 11: a root master makes and removes socket files only where no other user can rename a directory of the path.
///
/// # Errors
/// Another user can rename a directory; the text names it.
pub fn check_directory(path: &Path) -> Result<(), Error> {
    let Some(directory) = path.parent().filter(|directory| own_uid() == 0 && directory.exists()) else { return Ok(()) };
    trust::check(directory).map(drop).map_err(|untrusted| {
        Error(format!(
            "cannot listen on {} as root: {untrusted}, and so another file could be put in the socket's place; choose a directory of \
             root's, such as /run, or let systemd open the socket (ratoon@.socket)",
            path.display()
        ))
    })
}

/// Removes a socket file on which no process listens any more. Any other file stays.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), Error> {
    let shown = path.display();
    let file = std::fs::symlink_metadata(path).map_err(|error| Error(format!("cannot listen on {shown}: {error}")))?;
    if !file.file_type().is_socket() {
        return Err(Error(format!(
            "cannot listen on {shown}: there is a file that is no socket; remove it or choose another path"
        )));
    }
    // Non-blocking: connect(2) would wait for a process that listens but does not accept.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| Error(format!("cannot listen on {shown}: {error}")))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(|error| Error(format!("cannot remove the stale socket {shown}: {error}")))
        }
        _ => Err(Error(format!(
            "cannot listen on {shown}: another process listens there (`ss -xlp src {shown}` shows it); stop it or choose another path"
        ))),
    }
}

/// An error text with the cause and a hint.
fn refused(text: &str, address: &Address, error: Errno) -> Error {
    let port = match address {
        Address::Tcp(ip) | Address::Udp(ip) => Some(ip.port()),
        Address::Path(_) | Address::Abstract(_) => None,
    };
    let why = match (error, port) {
        (Errno::ADDRINUSE, Some(port)) => {
            format!("another process has this port (`ss -lntup 'sport = :{port}'` shows it); stop it or choose another port")
        }
        (Errno::ADDRINUSE, None) => "another process listens there; stop it or choose another name".to_owned(),
        (Errno::ACCESS, Some(port)) if port < 1024 => format!(
            "ports below 1024 need CAP_NET_BIND_SERVICE, and this process hasn't it: let systemd open port {port} (ratoon@.socket), \
             or choose one from 1024 on"
        ),
        (Errno::ADDRNOTAVAIL, Some(_)) => {
            "no interface of this machine has this address; use one that `ip address` shows, or 0.0.0.0 or [::]".to_owned()
        }
        (Errno::AFNOSUPPORT, Some(_)) => "this machine has no IPv6; use an IPv4 address".to_owned(),
        (Errno::NOENT, None) => "its directory does not exist; create it first".to_owned(),
        (Errno::ACCESS | Errno::PERM | Errno::ROFS, None) => {
            "no right to create a file in its directory; choose another one, or change its owner".to_owned()
        }
        (error, _) => crate::sys::spawn::describe(error.raw_os_error()),
    };
    Error(format!("cannot listen on {text}: {why}"))
}
