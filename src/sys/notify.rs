//! Datagrams of sd_notify(3): the sockets that workers talk to, and our own words to systemd.
//!
//! Law: nothing here waits. No descriptor that a sender attaches is ever installed in this process: datagrams are read with MSG_PEEK
//! and room for credentials only, and those with descriptors are taken by another process ([`super::discard`]), which is also the
//! answer to `BARRIER=1`.

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

/// The longest message, as PID 1 has it (`PIPE_BUF`).
pub const MESSAGE_MAX: usize = 4096;

/// The most descriptors that the kernel lets one datagram carry (`SCM_MAX_FD`).
const FDS_MAX: usize = 253;

/// A worker's own notify socket.
#[derive(Debug)]
pub struct NotifySocket {
    fd: OwnedFd,
}

/// One datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// What it said, at most [`MESSAGE_MAX`] bytes.
    pub bytes: &'a [u8],
    /// The sender's user, as the kernel vouches for it.
    pub uid: Option<u32>,
    /// The sender's process; `None` when it is in a PID namespace that we can't see. Root may lie about it.
    pub pid: Option<u32>,
    /// It was longer: what is here is its beginning.
    pub truncated: bool,
    /// It has descriptors. [`super::discard`] takes it; [`NotifySocket::skip`] would drop them here, which may take for ever.
    pub attached: bool,
}

impl NotifySocket {
    /// Makes the socket file, for `owner` (user, group) alone, or for our own user. A stale one is replaced. Where that is root all may
    /// send: a worker that starts as root may become any user.
    ///
    /// The file is never removed here: some clients connect once and keep that for their life.
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
            // By path, as there is no other way: the runtime directory of a root master is root's (control/listen.rs).
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if owner.map_or_else(own_uid, |(uid, _)| uid) == 0 {
            rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(0o666), AtFlags::empty())?;
        }
        NotifySocket::ready(fd)
    }

    /// From a descriptor that was handed over.
    pub fn from_fd(fd: OwnedFd) -> io::Result<NotifySocket> {
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        NotifySocket::ready(fd)
    }

    fn ready(fd: OwnedFd) -> io::Result<NotifySocket> {
        sockopt::set_socket_passcred(&fd, true)?;
        // Room for a burst; beyond the system's limit only where we may.
        if sockopt::set_socket_recv_buffer_size_force(&fd, 8 << 20).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&fd, 8 << 20);
        }
        Ok(NotifySocket { fd: dup_high(fd, RESERVED_FD_BASE) })
    }

    /// The next datagram, which stays there; `None` when there is none. `buffer` should hold [`MESSAGE_MAX`] bytes.
    pub fn peek<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Received<'a>>> {
        Ok(self.peek_with(0, buffer)?.map(|(received, _)| received))
    }

    /// Takes the datagram that [`NotifySocket::peek`] has given, and has no descriptors; `false` when there is none.
    pub fn skip(&self) -> io::Result<bool> {
        super::discard::skip(self.fd.as_fd())
    }

    /// Gives all datagrams, at most `max`, and leaves them there.
    pub fn peek_all(&self, max: usize, mut each: impl FnMut(Received<'_>)) -> io::Result<()> {
        let mut buffer = [0; MESSAGE_MAX];
        let mut offset = 0;
        self.peek_from(0)?;
        for _ in 0..max {
            let Some((received, length)) = self.peek_with(libc::MSG_TRUNC, &mut buffer)? else { break };
            offset += i32::try_from(length).unwrap_or(i32::MAX);
            if received.truncated {
                // The kernel goes on behind what it has given: in the middle of this one.
                self.peek_from(offset)?;
            }
            each(received);
        }
        self.peek_from(-1)
    }

    /// From which byte of the queue MSG_PEEK gives something (SO_PEEK_OFF); -1: always the first datagram.
    fn peek_from(&self, offset: i32) -> io::Result<()> {
        let length = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the option is an int, and the kernel copies it before the call returns.
        let set = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, (&raw const offset).cast(), length)
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// From now on nobody can send to this socket (EPIPE); what was sent before can still be read.
    pub fn refuse(&self) {
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Read);
    }

    /// A datagram, and its length (with MSG_TRUNC the whole one).
    fn peek_with<'a>(&self, flags: i32, buffer: &'a mut [u8]) -> io::Result<Option<(Received<'a>, usize)>> {
        let room = buffer.len().min(MESSAGE_MAX);
        // By hand: rustix's type for credentials can't hold the pid 0 that a sender from an outer namespace has.
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
            // The credentials have their room: what does not fit are descriptors.
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

/// Room for credentials, and not for a single descriptor.
// SAFETY: arithmetic only.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// User and process that have sent a message, cmsg(3).
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

/// `/path` or `@abstract`.
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

/// Our end of the talk with systemd, or with whoever set `NOTIFY_SOCKET`.
#[derive(Debug)]
pub struct Systemd {
    fd: OwnedFd,
    address: SocketAddrUnix,
}

impl Systemd {
    /// From the value of `NOTIFY_SOCKET`: a path or an `@abstract` name.
    pub fn new(value: &OsStr) -> io::Result<Systemd> {
        let address = unix_address(value)?;
        let fd = datagram_socket()?;
        let _ = sockopt::set_socket_send_buffer_size(&fd, 8 << 20);
        Ok(Systemd { fd: dup_high(fd, RESERVED_FD_BASE), address })
    }

    /// Says something, in one datagram. `false`: the reader is behind, nothing was sent, try again later.
    pub fn send(&self, message: &str) -> io::Result<bool> {
        self.send_with_fds(message, &[])
    }

    /// The same with descriptors, for `FDSTORE=1`. At most 253.
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
            // To the address each time: after a restart of systemd there is a new socket under it.
            return match rustix::net::sendmsg_addr(&self.fd, &self.address, &iov, &mut control, flags) {
                Ok(_) => Ok(true),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Sends `BARRIER=1`: the descriptor that comes back hangs up when all that was said before has been read.
    /// `None`: the reader is behind.
    pub fn barrier(&self) -> io::Result<Option<OwnedFd>> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)?;
        Ok(self.send_with_fds("BARRIER=1", &[write.as_fd()])?.then_some(read))
    }
}

#[cfg(test)]
mod tests;
