//! Groups of sockets that listen at one address (`SO_REUSEPORT`). A small program of classic BPF, which needs no privilege, decides
//! which socket gets a new connection; socket(7), `Documentation/networking/filter.rst`.
//!
//! Law: only the kernel verifies programs; nothing here interprets them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// One instruction of classic BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// Number of instructions to skip when a comparison holds (`jt`).
    pub yes: u8,
    /// Number of instructions to skip when a comparison does not hold (`jf`).
    pub no: u8,
    /// The operand.
    pub k: u32,
}

/// The longest program that the kernel accepts, instructions (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// Attaches a program that selects a socket of the group by its result: 0 is the socket that joined first. With a result that is no
/// socket's index, the kernel's hash selects. Applies to the whole group and replaces the previous program.
///
/// # Errors
/// `EINVAL`: the socket is in no group yet, or the program is invalid; `ENOMEM`.
pub fn steer(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let too_long = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|it| libc::sock_filter { code: it.code, jt: it.yes, jf: it.no, k: it.k }).collect();
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).map_err(too_long)?, filter: filter.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel reads `program` and the `len` instructions that it points to, which both live until the call returns,
    // and keeps a copy.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Number of connections in the accept queue of a listening socket, and the queue's limit; tcp(7), `TCP_INFO`.
///
/// # Errors
/// The socket is not a TCP socket.
pub fn accept_queue(socket: impl AsFd) -> io::Result<(u32, u32)> {
    // SAFETY: `tcp_info` is made of numbers, for which zeros are valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `info`, to it.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok((info.tcpi_unacked, info.tcpi_sacked)) }
}

/// A number that identifies the socket's network namespace (`SO_NETNS_COOKIE`); `None` before Linux 5.14.
pub fn network(socket: impl AsFd) -> Option<u64> {
    let bytes = get::<8>(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE).ok()?;
    bytes.try_into().map(u64::from_ne_bytes).ok()
}

/// <asm-generic/socket.h>
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Options that accepted connections inherit, or that decide which clients can connect. All sockets of a group must have the same.
const INHERITED: [(libc::c_int, libc::c_int); 20] = [
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
];

/// Copies socket options from one socket to another, if they differ and the kernel allows it.
pub fn copy_options(from: impl AsFd, to: impl AsFd) {
    for (level, option) in INHERITED {
        if let (Ok(wanted), Ok(has)) = (number(&from, level, option), number(&to, level, option))
            && wanted != has
        {
            let _ = set_number(&to, level, option, wanted);
        }
    }
    // The kernel doubles the value that it is given, so set half. Equal sizes are left alone, since setting one stops the kernel from
    // growing the buffer automatically.
    for option in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
        if let (Ok(wanted), Ok(has)) = (number(&from, libc::SOL_SOCKET, option), number(&to, libc::SOL_SOCKET, option))
            && wanted != has
        {
            let _ = set_number(&to, libc::SOL_SOCKET, option, wanted / 2);
        }
    }
    for (level, option) in [(libc::SOL_SOCKET, libc::SO_BINDTODEVICE), (libc::IPPROTO_TCP, libc::TCP_CONGESTION)] {
        if let (Ok(wanted), Ok(has)) = (text(&from, level, option), text(&to, level, option))
            && wanted != has
        {
            let _ = set(&to, level, option, &wanted);
        }
    }
}

/// Forbids every further change of a socket's filters and of the program of its group (`SO_LOCK_FILTER`).
///
/// # Errors
/// `EBADF`.
#[cfg(test)]
pub fn lock_filter(socket: impl AsFd) -> io::Result<()> {
    set_number(socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
}

fn number(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int> {
    let bytes = get::<4>(socket, level, option)?;
    bytes.try_into().map(libc::c_int::from_ne_bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn text(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<Vec<u8>> {
    get::<16>(socket, level, option)
}

fn get<const N: usize>(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<Vec<u8>> {
    let mut value = [0_u8; N];
    let mut length = N as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`, to it.
    let result =
        unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value[..N.min(length as usize)].to_vec()) }
}

fn set_number(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set(socket, level, option, &value.to_ne_bytes())
}

fn set(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: &[u8]) -> io::Result<()> {
    let length = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes, the size of `value`, from it; no option that is set here contains a pointer.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_queue_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        assert_eq!(accept_queue(&listener).expect("TCP").0, 0);
        let address = listener.local_addr().expect("an address");
        let _waiting: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).expect("a connection")).collect();
        let (waiting, most) = accept_queue(&listener).expect("TCP");
        assert_eq!(waiting, 3);
        assert!(most >= 3);
        assert!(accept_queue(std::os::unix::net::UnixDatagram::unbound().expect("a socket")).is_err());
    }

    #[test]
    fn who_is_in_no_group_is_not_steered() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let whole = [Instruction { code: 0x06, yes: 0, no: 0, k: 0 }];
        assert_eq!(steer(&listener, &whole).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        // Invalid: the program has no return instruction.
        let endless = [Instruction { code: 0x00, yes: 0, no: 0, k: 0 }];
        assert_eq!(steer(&listener, &endless).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert!(steer(&listener, &vec![whole[0]; 70_000]).is_err());
    }

    #[test]
    fn options_are_copied() {
        let (from, to) = (TcpListener::bind("127.0.0.1:0").expect("a port"), TcpListener::bind("127.0.0.1:0").expect("a port"));
        set_number(&from, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1).expect("an option");
        set_number(&from, libc::SOL_SOCKET, libc::SO_RCVBUF, 20_000).expect("an option");
        set(&from, libc::IPPROTO_TCP, libc::TCP_CONGESTION, b"reno").expect("an option");
        copy_options(&from, &to);
        assert_eq!(number(&to, libc::IPPROTO_TCP, libc::TCP_NODELAY).expect("an option"), 1);
        assert_eq!(number(&to, libc::SOL_SOCKET, libc::SO_RCVBUF).expect("an option"), 40_000);
        assert!(text(&to, libc::IPPROTO_TCP, libc::TCP_CONGESTION).expect("an option").starts_with(b"reno"));
    }
}
