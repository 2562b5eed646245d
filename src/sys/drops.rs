//! Number of connections that the kernel dropped at a listening socket: `SO_MEMINFO` of socket(7), which the libc crate does not have.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// <asm-generic/socket.h>
const SO_MEMINFO: libc::c_int = 55;
/// Index of the drops in `SO_MEMINFO`, <linux/sock_diag.h> `SK_MEMINFO_DROPS`.
const DROPS: usize = 8;

/// Number of connections dropped since the socket was made: TCP drops them when the accept queue is full, or without memory. The
/// counter has 32 bits and wraps around.
///
/// # Errors
/// The descriptor is not a socket, or the kernel is older than Linux 4.12.
pub fn drops(socket: impl AsFd) -> io::Result<u32> {
    let mut info = [0_u32; DROPS + 1];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `info`, to it.
    let result = unsafe {
        let fd = socket.as_fd().as_raw_fd();
        libc::getsockopt(fd, libc::SOL_SOCKET, SO_MEMINFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info[DROPS]) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn connections_beyond_a_full_queue_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        rustix::net::listen(&listener, 1).expect("a shorter queue");
        assert_eq!(drops(&listener).expect("a socket"), 0);
        let address = listener.local_addr().expect("an address");
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut kept = Vec::new();
        // The queue holds two connections. The kernel drops later ones, so the client's connect times out.
        while drops(&listener).expect("a socket") == 0 {
            assert!(Instant::now() < deadline, "{} connections were taken", kept.len());
            kept.extend(TcpStream::connect_timeout(&address, Duration::from_millis(50)));
        }
        assert!(drops(std::fs::File::open("/dev/null").expect("a file")).is_err());
    }
}
