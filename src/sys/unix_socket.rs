//! Unix sockets whose file has its final mode from its creation on.
//!
//! Law 11: the mode is never set by path afterwards, since the path may lead to another file by then.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::LazyLock;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use rustix::process::umask;

use super::thread;

/// Binds a socket to a path. The file gets this mode, whatever the umask is.
///
/// # Errors
/// As bind(2).
pub fn bind_with_mode(socket: impl AsFd, address: &SocketAddrUnix, mode: u32) -> Result<(), Errno> {
    let socket = socket.as_fd();
    // bind(2) gives the file the mode of the socket, without the bits of the umask.
    rustix::fs::fchmod(socket, Mode::from_raw_mode(mode))?;
    thread::aside("ratoon-bind", || bind_without_umask(socket, address))
}

/// Binds a socket to a path; the file gets mode 600. Starts a thread only if the umask clears one of these bits, which is unusual:
/// the start of a worker waits for this call.
///
/// # Errors
/// As bind(2).
pub fn bind_for_owner(socket: impl AsFd, address: &SocketAddrUnix) -> Result<(), Errno> {
    const MODE: u32 = 0o600;
    if *UMASK & MODE != 0 {
        return bind_with_mode(socket, address, MODE);
    }
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    rustix::net::bind(&socket, address)
}

/// Makes connections to this listening socket refuse descriptors: a client that sends one gets EPERM. Otherwise the kernel would drop
/// them in the reading process, and the last close of a file may never return.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 6.16.
pub fn refuse_descriptors(socket: impl AsFd) -> Result<(), Errno> {
    // This number is the same on all architectures except parisc and sparc (asm-generic/socket.h).
    const SO_PASSRIGHTS: libc::c_int = 83;
    let (off, length) = (0 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the option is an int, and the kernel copies it before the call returns.
    let set =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const off).cast(), length) };
    if set == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOPROTOOPT)) }
}

/// The umask with which this process was started. It is read from /proc, since umask(2) would change it for a moment.
static UMASK: LazyLock<u32> = LazyLock::new(|| {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // An unknown umask is treated as one that clears all bits.
    umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok()).unwrap_or(0o777)
});

/// Binds a socket with umask 0. Call it on a thread of its own: files that other threads create meanwhile must keep their umask.
fn bind_without_umask(socket: BorrowedFd<'_>, address: &SocketAddrUnix) -> Result<(), Errno> {
    // A filter of system calls (SystemCallFilter=) may refuse unshare(2). Then umask 0 holds for the whole process for a moment.
    // SAFETY: the argument is a number. The umask and the working directory become the calling thread's own.
    let _ = unsafe { libc::unshare(libc::CLONE_FS) };
    let before = umask(Mode::empty());
    let bound = rustix::net::bind(socket, address);
    umask(before);
    bound
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::inotify;
    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    fn socket() -> OwnedFd {
        rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap()
    }

    #[test]
    fn bind_with_mode_keeps_the_umask_of_the_caller() {
        let directory = tempfile::tempdir().unwrap();
        let bind = |name: &str, mode: u32| {
            let path = directory.path().join(name);
            bind_with_mode(socket(), &SocketAddrUnix::new(path.as_os_str().as_bytes()).unwrap(), mode).unwrap();
            std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
        };
        std::thread::scope(|scope| {
            let narrow = scope.spawn(|| {
                // SAFETY: the argument is a number. From here on this thread's umask is its own.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_FS) }, 0);
                umask(Mode::from_raw_mode(0o777));
                assert_eq!((bind("all", 0o666), bind("own", 0o600)), (0o666, 0o600));
                umask(Mode::empty())
            });
            assert_eq!(narrow.join().unwrap(), Mode::from_raw_mode(0o777));
        });
    }

    #[test]
    fn refuse_descriptors_holds_for_connections() {
        use std::os::unix::net::UnixStream;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        if refuse_descriptors(&listener) == Err(Errno::NOPROTOOPT) {
            println!("SKIPPED refuse_descriptors_holds_for_connections: this kernel is older than 6.16");
            return;
        }
        let client = UnixStream::connect(&path).unwrap();
        let _server = listener.accept().unwrap();
        let send = |fds: &[BorrowedFd<'_>]| {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(rustix::net::SendAncillaryMessage::ScmRights(fds));
            }
            let text = [std::io::IoSlice::new(b"GET")];
            rustix::net::sendmsg(&client, &text, &mut control, rustix::net::SendFlags::NOSIGNAL)
        };
        assert_eq!(send(&[]), Ok(3));
        assert_eq!(send(&[listener.as_fd()]), Err(Errno::PERM));
    }

    #[test]
    fn bind_with_mode_changes_no_file_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, directory.path(), inotify::WatchFlags::ATTRIB | inotify::WatchFlags::CREATE).unwrap();
        let path = directory.path().join("socket");
        bind_with_mode(socket(), &SocketAddrUnix::new(path.as_os_str().as_bytes()).unwrap(), 0o666).unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watch, &mut buffer);
        assert_eq!(reader.next().unwrap().events(), inotify::ReadFlags::CREATE);
        assert_eq!(reader.next().err(), Some(Errno::AGAIN));
    }
}
