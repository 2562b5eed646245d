//! A listening Unix socket in the runtime directory, with the identity of its file.
//!
//! Law: the caller holds the lock of the directory, so only a cleaner or an administrator removes the file.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::sys::unix_socket::{bind_with_mode, refuse_descriptors};

/// Number of connections that may wait, as in std; the kernel limits it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Device and inode of a socket's file.
pub type Identity = (u64, u64);

/// A bound socket. Dropping it does not remove its file.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: Identity,
}

impl BoundSocket {
    /// Binds a socket that every user with access to its directory may open: reads are for all, changes are checked by user. A file that is
    /// there is removed. The listener does not block.
    ///
    /// # Errors
    /// The file cannot be removed, or the socket cannot be bound.
    pub fn bind(path: PathBuf) -> io::Result<BoundSocket> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (listener, identity) = listen(&path)?;
        Ok(BoundSocket { listener, path, identity })
    }

    /// A socket that an earlier program of this process has bound.
    pub fn from_parts(path: PathBuf, listener: OwnedFd, identity: Identity) -> BoundSocket {
        BoundSocket { listener: listener.into(), path, identity }
    }

    /// Device and inode of the socket's file.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The listening socket.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// A copy of the listener, for the server.
    ///
    /// # Errors
    /// The process has no free descriptor.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Whether the path still leads to this socket: a cleaner of `/tmp` or an administrator may have removed it.
    pub fn is_there(&self) -> bool {
        identity(&self.path).is_ok_and(|found| found == self.identity)
    }

    /// Binds the path anew after it was lost; the listener is the new one.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn bind_again(&mut self) -> io::Result<()> {
        (self.listener, self.identity) = listen(&self.path)?;
        Ok(())
    }

    /// Removes the file, if the path still leads to this socket.
    pub fn remove(&self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, Identity)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind_with_mode(&socket, &SocketAddrUnix::new(path.as_os_str().as_bytes())?, 0o666)?;
    // Not possible before Linux 6.16.
    let _ = refuse_descriptors(&socket);
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((UnixListener::from(socket), identity(path)?))
}

/// Device and inode of the file at a path.
///
/// # Errors
/// As lstat(2).
pub fn identity(path: &Path) -> io::Result<Identity> {
    fs::symlink_metadata(path).map(|it| (it.dev(), it.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn removed_socket_is_bound_again_and_another_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        fs::write(&path, "left by a dead master").unwrap();
        let mut socket = BoundSocket::bind(path.clone()).unwrap();
        UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!socket.is_there());
        socket.bind_again().unwrap();
        UnixStream::connect(&path).unwrap();
        let parts = (socket.descriptor().try_clone_to_owned().unwrap(), socket.identity());
        let next = BoundSocket::from_parts(path.clone(), parts.0, parts.1);
        drop(socket);
        assert!(next.is_there() && UnixStream::connect(&path).is_ok());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "of another program").unwrap();
        next.remove();
        assert!(path.exists());
    }
}
