//! Datagrams of sd_notify(3): the sockets that receive notifications of workers, and the socket that sends those to systemd.
//!
//! Law: nothing here waits. No descriptor that a sender attaches is ever installed in this process: datagrams are read with MSG_PEEK
//! and room for credentials only. Datagrams with descriptors are received by another process ([`super::discard`]), which drops the
//! descriptors and so answers `BARRIER=1`, too.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::{Errno, FdFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use super::credentials::own_uid;
use super::fd::{RESERVED_FD_BASE, dup_high};
use super::unix_socket::bind_for_owner;

/// The longest message in bytes: the limit of systemd (`PIPE_BUF`).
pub const MESSAGE_MAX: usize = 4096;

/// The most descriptors that one datagram can carry (`SCM_MAX_FD`).
const FDS_MAX: usize = 253;

/// The notify socket of one worker.
#[derive(Debug)]
pub struct NotifySocket {
    fd: OwnedFd,
}

/// A received datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// The text, at most [`MESSAGE_MAX`] bytes.
    pub bytes: &'a [u8],
    /// The sender's user, from the credentials that the kernel attaches.
    pub uid: Option<u32>,
    /// The sender's process; `None` when it is in a PID namespace that this process can't see. A sender that is root may forge it.
    pub pid: Option<u32>,
    /// The datagram was longer; `bytes` is its beginning.
    pub truncated: bool,
    /// The datagram has descriptors. Let [`super::discard`] receive it: [`NotifySocket::skip`] would drop them here, which may block for
    /// ever.
    pub attached: bool,
}

impl NotifySocket {
    /// Binds the socket to a file that belongs to `owner` (user, group), or to this process's user. Only that user can send. If that user
    /// is root, all users can send, since a worker that starts as root may become any user. A stale socket file is replaced.
    ///
    /// The file is never removed here, since some clients connect once and keep the connection as long as they run.
    pub fn bind(path: &Path, owner: Option<(u32, u32)>) -> io::Result<NotifySocket> {
        let address = unix_address(path.as_os_str())?;
        let fd = datagram_socket()?;
        match bind_for_owner(&fd, &address) {
            Err(Errno::ADDRINUSE) if std::fs::symlink_metadata(path)?.file_type().is_socket() => {
                std::fs::remove_file(path)?;
                bind_for_owner(&fd, &address)?;
            }
            result => result?,
        }
        if let Some((uid, gid)) = owner {
            // By path, since there is no other way. That is safe: the runtime directory of a root master belongs to root
            // (control/listen.rs).
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if owner.map_or_else(own_uid, |(uid, _)| uid) == 0 {
            rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(0o666), AtFlags::empty())?;
        }
        NotifySocket::ready(fd)
    }

    /// Takes over a bound socket that was passed as a descriptor.
    pub fn from_fd(fd: OwnedFd) -> io::Result<NotifySocket> {
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        NotifySocket::ready(fd)
    }

    fn ready(fd: OwnedFd) -> io::Result<NotifySocket> {
        sockopt::set_socket_passcred(&fd, true)?;
        // Room for a burst. Only a privileged process may exceed the system's limit.
        if sockopt::set_socket_recv_buffer_size_force(&fd, 8 << 20).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&fd, 8 << 20);
        }
        Ok(NotifySocket { fd: dup_high(fd, RESERVED_FD_BASE) })
    }

    /// Reads the next datagram and leaves it in the queue; `None` when there is none. `buffer` should hold [`MESSAGE_MAX`] bytes.
    pub fn peek<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Received<'a>>> {
        Ok(self.peek_with(0, buffer)?.map(|(received, _)| received))
    }

    /// Removes the datagram that [`NotifySocket::peek`] has returned; only for one without descriptors. `false` when there is none.
    pub fn skip(&self) -> io::Result<bool> {
        super::discard::skip(self.fd.as_fd())
    }

    /// Passes all queued datagrams, at most `max`, to `each`, and leaves them in the queue.
    pub fn peek_all(&self, max: usize, mut each: impl FnMut(Received<'_>)) -> io::Result<()> {
        let mut buffer = [0; MESSAGE_MAX];
        let mut offset = 0;
        self.peek_from(0)?;
        for _ in 0..max {
            let Some((received, length)) = self.peek_with(libc::MSG_TRUNC, &mut buffer)? else { break };
            offset += i32::try_from(length).unwrap_or(i32::MAX);
            if received.truncated {
                // The kernel would continue in the middle of this datagram, after the part that it has returned.
                self.peek_from(offset)?;
            }
            each(received);
        }
        self.peek_from(-1)
    }

    /// Sets the byte of the queue from which MSG_PEEK reads (SO_PEEK_OFF). -1: MSG_PEEK always reads the first datagram.
    fn peek_from(&self, offset: i32) -> io::Result<()> {
        let length = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the option is an int, and the kernel copies it before the call returns.
        let set = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, (&raw const offset).cast(), length)
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Makes all later sends to this socket fail (EPIPE). Datagrams that were sent before can still be read.
    pub fn refuse(&self) {
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Read);
    }

    /// Reads a datagram and leaves it in the queue. Also returns its length in bytes (with MSG_TRUNC the whole length).
    fn peek_with<'a>(&self, flags: i32, buffer: &'a mut [u8]) -> io::Result<Option<(Received<'a>, usize)>> {
        let room = buffer.len().min(MESSAGE_MAX);
        // Not by rustix: its type for credentials can't hold the pid 0 that a sender in an outer namespace has.
        let mut control = [0u64; CONTROL.div_ceil(8)];
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: room };
        // SAFETY: all zeroes is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = CONTROL as _;
        let length = loop {
            let flags = flags | libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
            // SAFETY: the header leads to a buffer of `room` bytes and to an aligned control buffer of CONTROL bytes.
            let length = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, flags) };
            if let Ok(length) = usize::try_from(length) {
                break length;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => return Ok(None),
                _ => return Err(error),
            }
        };
        // SAFETY: the kernel has just filled this header.
        let (uid, pid) = unsafe { credentials(&message) };
        let received = Received {
            bytes: &buffer[..length.min(room)],
            uid,
            pid,
            truncated: message.msg_flags & libc::MSG_TRUNC != 0,
            // The control buffer has room for the credentials, so only descriptors can be missing.
            attached: message.msg_flags & libc::MSG_CTRUNC != 0,
        };
        Ok(Some((received, length)))
    }
}

impl From<NotifySocket> for OwnedFd {
    fn from(socket: NotifySocket) -> OwnedFd {
        socket.fd
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for NotifySocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Size of the control buffer in bytes: room for credentials, and not for a single descriptor.
// SAFETY: arithmetic only.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// The user and the process that sent a message, cmsg(3).
///
/// # Safety
/// `message` is as recvmsg(2) left it.
unsafe fn credentials(message: &libc::msghdr) -> (Option<u32>, Option<u32>) {
    // SAFETY: the macros walk the headers that the kernel wrote, within `msg_controllen`; the payload is read unaligned and no
    // further than its header says.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(current) = header.as_ref() {
            #[allow(clippy::unnecessary_cast, reason = "it is a usize with glibc and a u32 with musl")]
            let length = (current.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            let is_credentials = (current.cmsg_level, current.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS);
            if is_credentials && length >= size_of::<libc::ucred>() {
                let credentials = libc::CMSG_DATA(current).cast::<libc::ucred>().read_unaligned();
                return (Some(credentials.uid), u32::try_from(credentials.pid).ok().filter(|&pid| pid != 0));
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    (None, None)
}

fn datagram_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?)
}

/// Parses an address: `/path` or `@abstract`.
fn unix_address(text: &OsStr) -> io::Result<SocketAddrUnix> {
    let bytes = text.as_bytes();
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", text.display()));
    match bytes {
        [b'/', ..] if bytes.len() > 107 => {
            Err(invalid(&format!("a socket's path has at most 107 bytes, this one {}: use a shorter directory", bytes.len())))
        }
        [b'/', ..] => SocketAddrUnix::new(bytes).map_err(|_| invalid("not a path")),
        [b'@', _, ..] => SocketAddrUnix::new_abstract_name(&bytes[1..]).map_err(|_| invalid("too long")),
        _ => Err(invalid("neither an absolute path nor an @abstract name")),
    }
}

/// The sending socket for notifications to systemd, or to another manager that set `NOTIFY_SOCKET`.
#[derive(Debug)]
pub struct Systemd {
    fd: OwnedFd,
    address: SocketAddrUnix,
}

impl Systemd {
    /// Makes a socket for the value of `NOTIFY_SOCKET`: a path or an `@abstract` name.
    pub fn new(value: &OsStr) -> io::Result<Systemd> {
        let address = unix_address(value)?;
        let fd = datagram_socket()?;
        let _ = sockopt::set_socket_send_buffer_size(&fd, 8 << 20);
        Ok(Systemd { fd: dup_high(fd, RESERVED_FD_BASE), address })
    }

    /// Sends a message in one datagram. `false`: the reader's queue is full and nothing was sent; try again later.
    pub fn send(&self, message: &str) -> io::Result<bool> {
        self.send_with_fds(message, &[])
    }

    /// Sends a message with descriptors, at most 253, for `FDSTORE=1`. Returns as [`Systemd::send`].
    pub fn send_with_fds(&self, message: &str, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        if fds.len() > FDS_MAX {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let iov = [io::IoSlice::new(message.as_bytes())];
        loop {
            // Send to the address each time: after a restart of systemd there is a new socket at it.
            return match rustix::net::sendmsg_addr(&self.fd, &self.address, &iov, &mut control, flags) {
                Ok(_) => Ok(true),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Sends `BARRIER=1`. The returned descriptor hangs up when the reader has read all earlier messages.
    /// `None`: the reader's queue is full.
    pub fn barrier(&self) -> io::Result<Option<OwnedFd>> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)?;
        Ok(self.send_with_fds("BARRIER=1", &[write.as_fd()])?.then_some(read))
    }
}

#[cfg(test)]
mod tests;
