//! Groups of sockets that listen at one address (`SO_REUSEPORT`): which of them gets a new connection, decided by a small
//! program of classic BPF that needs no privilege; socket(7), `Documentation/networking/filter.rst`.
//!
//! Law: what a program may do is the kernel's to judge; nothing here interprets it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// One instruction of classic BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// So many instructions are left out when a comparison holds …
    pub yes: u8,
    /// … and so many when it does not.
    pub no: u8,
    /// Its number.
    pub k: u32,
}

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// Lets this program choose, by its result, the socket of the group: 0 is the one that joined first. A result that no
/// socket has leaves the choice to the kernel's hash. Holds for the whole group, and replaces the program before.
///
/// # Errors
/// `EINVAL`: the socket is in no group yet, or the program is none; `ENOMEM`.
pub fn steer(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let too_long = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|it| libc::sock_filter { code: it.code, jt: it.yes, jf: it.no, k: it.k }).collect();
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).map_err(too_long)?, filter: filter.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel reads `program` and the `len` instructions that it points to, which both live until the call is over,
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

/// How many connections wait in a listening socket's queue to be accepted, and how many may; tcp(7), `TCP_INFO`.
///
/// # Errors
/// Not a TCP socket.
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

/// What tells the socket's network namespace apart from others; `None` before Linux 5.14.
pub fn network(socket: impl AsFd) -> Option<u64> {
    let bytes = get::<8>(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE).ok()?;
    bytes.try_into().map(u64::from_ne_bytes).ok()
}

/// <asm-generic/socket.h>
const SO_NETNS_COOKIE: libc::c_int = 71;

/// What accepted connections inherit, and who may connect: a socket of a group has these like the first.
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

/// Gives a socket the options of another, as far as they differ and the kernel allows it.
pub fn copy_options(from: impl AsFd, to: impl AsFd) {
    for (level, option) in INHERITED {
        if let (Ok(wanted), Ok(has)) = (number(&from, level, option), number(&to, level, option))
            && wanted != has
        {
            let _ = set_number(&to, level, option, wanted);
        }
    }
    // The kernel doubles what it is given, and a socket whose buffers were never set has them grow by themselves.
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
    // SAFETY: the kernel reads `length` bytes, the size of `value`, from it; none of the options that are set here holds a
    // pointer.
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
        // Not a program: it has no end.
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
