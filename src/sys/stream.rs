//! The state of a stream socket: unread bytes, and whether its peer is gone.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::event::{PollFd, PollFlags, Timespec};

/// Bytes (with the kernel's overhead) that were written to this Unix stream socket and that its peer has not read yet;
/// 0 when it has read everything. `SIOCOUTQ`, unix(7).
///
/// # Errors
/// The descriptor is not a socket.
pub fn unread_by_peer(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the same number as SIOCOUTQ) writes one int to the given address, which is that of `bytes`.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

/// Whether the peer of this stream is gone, so that no written byte can arrive any more.
pub fn is_dead(stream: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&stream, PollFlags::empty())];
    let asked = rustix::event::poll(&mut fds, Some(&Timespec::default()));
    asked.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::{is_dead, unread_by_peer};

    #[test]
    fn counts_what_the_peer_has_not_read() {
        let (mut near, mut far) = UnixStream::pair().expect("a pair");
        assert_eq!(unread_by_peer(&near).expect("a socket"), 0);
        near.write_all(b"line\n").expect("room");
        assert!(unread_by_peer(&near).expect("a socket") > 0);
        far.read_exact(&mut [0; 5]).expect("five bytes");
        assert_eq!(unread_by_peer(&near).expect("a socket"), 0);
    }

    #[test]
    fn dead_is_a_stream_whose_peer_is_gone() {
        let (near, far) = UnixStream::pair().expect("a pair");
        near.shutdown(std::net::Shutdown::Read).expect("a socket");
        assert!(!is_dead(&near), "as streams to journald are");
        drop(far);
        assert!(is_dead(&near));
        let (read, write) = std::io::pipe().expect("a pipe");
        assert!(!is_dead(&write));
        drop(read);
        assert!(is_dead(&write));
        assert!(!is_dead(std::fs::File::open("/dev/null").expect("/dev/null")));
    }

    #[test]
    fn refuses_what_is_no_socket() {
        assert!(unread_by_peer(std::fs::File::open("/dev/null").expect("/dev/null")).is_err());
    }
}
