//! Binds the control socket, and beside it the socket of varlink: one master for each name. A socket that a dead master has left is replaced.
//!
//! Law: a master replaces a socket only while it holds the lock beside the socket. Of two masters that start at once, one gets
//! the lock and the other reports that. The kernel releases the lock when the process ends, in whatever way.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::bound::{BoundSocket, Identity, identity};
use super::paths::{Env, LONGEST, SOCKET, weak_directory};
use super::varlink;
use crate::sys::trust::{self, Untrusted};

/// Name of the lock file beside the socket.
const LOCK: &str = "lock";

/// Why the control socket cannot be bound.
#[derive(Debug)]
pub enum Error {
    /// Another master uses this directory.
    Taken(PathBuf),
    /// The path does not fit into a socket's address.
    TooLong(PathBuf),
    /// Another user owns the directory under `/tmp`: the directory, its owner, and the user of this process.
    Foreign(PathBuf, u32, u32),
    /// Every user may write to this directory between `/tmp` and the socket.
    Open(PathBuf),
    /// The directory of a master that runs as root, and the part of its path that another user may change.
    Unsafe(PathBuf, Untrusted),
    /// The operation that failed, the path, and the error.
    Io(&'static str, PathBuf, io::Error),
}

impl std::error::Error for Error {}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Taken(directory) => write!(
                f,
                "another master runs in {}: two instances of one name cannot run at once; give this one another --name, or \
                 end the other (`ratoon list` shows it)",
                directory.display()
            ),
            Error::TooLong(path) => write!(
                f,
                "the control socket's path {} has {} bytes, but a Unix socket's address holds {LONGEST}; choose a shorter \
                 name, or a shorter RUNTIME_DIRECTORY or XDG_RUNTIME_DIR",
                path.display(),
                path.as_os_str().len()
            ),
            Error::Foreign(directory, owner, own) => write!(
                f,
                "{} belongs to user {owner}, not to user {own} who runs this master; remove it, or set XDG_RUNTIME_DIR to a \
                 directory of your own",
                directory.display()
            ),
            Error::Open(directory) => write!(
                f,
                "every user may write to {}, and could put another control socket there; take that away (`chmod o-w`), or set \
                 RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to another directory",
                directory.display()
            ),
            Error::Unsafe(directory, untrusted) => write!(
                f,
                "{} is no runtime directory for a master that runs as root: {untrusted}, and so files there could be exchanged; let \
                 RUNTIME_DIRECTORY name a directory of root's, or run the master as that user",
                directory.display()
            ),
            Error::Io(what, path, error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                write!(
                    f,
                    "cannot {what} {}: {error}; set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory of this user's, or let a unit \
                     have one (RuntimeDirectory=)",
                    path.display()
                )
            }
            Error::Io(what, path, error) => write!(f, "cannot {what} {}: {error}", path.display()),
        }
    }
}

/// A bound control socket. Dropping it removes the sockets, the lock, and the directory if it was made for them.
#[derive(Debug)]
pub struct Control {
    socket: BoundSocket,
    /// `None` until [`Control::open_varlink`].
    varlink: Option<BoundSocket>,
    directory: PathBuf,
    made: bool,
    lock: File,
}

/// The parts of a [`Control`], see [`Control::from_parts`].
#[derive(Debug)]
pub struct Parts {
    /// The runtime directory.
    pub directory: PathBuf,
    /// Whether this process made the directory.
    pub made: bool,
    /// Device and inode of the socket's file.
    pub identity: Identity,
    /// The listening socket.
    pub listener: OwnedFd,
    /// The listening socket of varlink, with the identity of its file.
    pub varlink: Option<(OwnedFd, Identity)>,
    /// The lock.
    pub lock: OwnedFd,
}

impl Control {
    /// Binds `control` in `directory` (from [`super::paths::runtime_directory`]), and makes the directory if it is missing. The
    /// listener does not block.
    ///
    /// # Errors
    /// [`Error`]
    pub fn bind(directory: &Path, env: &Env) -> Result<Control, Error> {
        let path = directory.join(SOCKET);
        if path.as_os_str().len() > LONGEST {
            return Err(Error::TooLong(path));
        }
        let made = make(directory, env)?;
        // Law 11: sockets in this directory are made, given to workers and removed by path.
        if env.uid == 0 {
            let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
            trust::check(&absolute).map_err(|untrusted| Error::Unsafe(directory.to_owned(), untrusted))?;
        }
        let lock = lock(directory)?;
        // A master that was handed over or has lost its lock may still answer here. Only a dead socket may be removed.
        if UnixStream::connect(&path).is_ok() {
            return Err(Error::Taken(directory.to_owned()));
        }
        let socket = BoundSocket::bind(path.clone()).map_err(|error| Error::Io("bind the control socket", path, error))?;
        Ok(Control { socket, varlink: None, directory: directory.to_owned(), made, lock })
    }

    /// The socket's path.
    pub fn path(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }

    /// Binds the socket of varlink, unless it is bound.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn open_varlink(&mut self) -> io::Result<&BoundSocket> {
        if self.varlink.is_none() {
            self.varlink = Some(BoundSocket::bind(self.directory.join(varlink::SOCKET))?);
        }
        self.varlink.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The socket of varlink, if it is bound.
    pub fn varlink(&mut self) -> Option<&mut BoundSocket> {
        self.varlink.as_mut()
    }

    /// A control socket that an earlier program of this process has bound.
    pub fn from_parts(parts: Parts) -> Control {
        let Parts { directory, made, identity, listener, varlink, lock } = parts;
        let socket = BoundSocket::from_parts(directory.join(SOCKET), listener, identity);
        let varlink =
            varlink.map(|(listener, identity)| BoundSocket::from_parts(directory.join(varlink::SOCKET), listener, identity));
        Control { socket, varlink, directory, made, lock: lock.into() }
    }

    /// Whether the directory was made for the socket.
    pub fn made(&self) -> bool {
        self.made
    }

    /// Device and inode of the socket's file.
    pub fn identity(&self) -> Identity {
        self.socket.identity()
    }

    /// The listening socket and the lock.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.socket.descriptor(), self.lock.as_fd())
    }

    /// A copy of the listener, for the server.
    ///
    /// # Errors
    /// The process has no free descriptor.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.socket.listener()
    }

    /// The listening socket of varlink, with the identity of its file.
    pub fn varlink_parts(&self) -> Option<(BorrowedFd<'_>, Identity)> {
        self.varlink.as_ref().map(|socket| (socket.descriptor(), socket.identity()))
    }

    /// Whether the path still leads to this socket: a cleaner of `/tmp` or an administrator may have removed it.
    pub fn is_there(&self) -> bool {
        self.socket.is_there()
    }

    /// Binds the path anew after it was lost; the listener is the new one.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn bind_again(&mut self) -> Result<(), Error> {
        self.socket.bind_again().map_err(|error| Error::Io("bind the control socket", self.path(), error))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.socket.remove();
        if let Some(varlink) = &self.varlink {
            varlink.remove();
        }
        let _ = fs::remove_file(self.directory.join(LOCK));
        if self.made {
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

/// Makes the directory; returns whether it was missing. Under `/tmp` any user may have made it earlier, so its owner is checked.
fn make(directory: &Path, env: &Env) -> Result<bool, Error> {
    let made = !directory.exists();
    let shared = directory.starts_with(&env.tmp);
    let mode = if shared { 0o700 } else { 0o755 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(|error| Error::Io("make the directory", directory.to_owned(), error))?;
    if shared {
        match weak_directory(&directory.join(SOCKET), env) {
            Some((path, owner)) if owner == env.uid || owner == 0 => return Err(Error::Open(path)),
            Some((path, owner)) => return Err(Error::Foreign(path, owner, env.uid)),
            None => {}
        }
    }
    Ok(made)
}

fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LOCK);
    let failed = |what, error| Error::Io(what, path.clone(), error);
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| failed("open the lock", error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Taken(directory.to_owned())),
            Err(error) => return Err(failed("lock", error.into())),
        }
        // The last holder removes the lock file. If that happened before the lock was taken, the locked file is not the one at the path:
        // try again.
        let held = file.metadata().map(|it| (it.dev(), it.ino())).map_err(|error| failed("look at", error))?;
        if identity(&path).is_ok_and(|found| found == held) {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn env(base: &Path) -> Env {
        Env {
            runtime_directory: None,
            xdg_runtime_dir: None,
            control: None,
            uid: rustix::process::geteuid().as_raw(),
            run: base.join("run"),
            tmp: base.join("tmp"),
        }
    }

    #[test]
    fn one_master_a_directory_and_nothing_left_behind() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("run/ratoon/web");
        let first = Control::bind(&directory, &env(base.path())).unwrap();
        assert!(first.is_there());
        let refused = Control::bind(&directory, &env(base.path())).unwrap_err();
        assert!(matches!(refused, Error::Taken(_)), "{refused}");
        UnixStream::connect(first.path()).unwrap();
        drop(first);
        assert!(!directory.exists());
        Control::bind(&directory, &env(base.path())).unwrap();
    }

    #[test]
    fn error_names_the_variables_where_another_directory_helps() {
        let said = |code: rustix::io::Errno| Error::Io("make the directory", "/run/ratoon/web".into(), code.into()).to_string();
        for code in [rustix::io::Errno::ACCESS, rustix::io::Errno::ROFS] {
            assert!(said(code).contains("set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory"), "{}", said(code));
        }
        assert!(!said(rustix::io::Errno::NOSPC).contains("RUNTIME_DIRECTORY"), "{}", said(rustix::io::Errno::NOSPC));
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join(SOCKET);
        let living = UnixListener::bind(&path).unwrap();
        let refused = Control::bind(base.path(), &env(base.path())).unwrap_err();
        assert!(matches!(refused, Error::Taken(_)), "{refused}");
        drop(living);
        let control = Control::bind(base.path(), &env(base.path())).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(control);
        assert!(base.path().exists(), "only a directory that was made is removed");
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_that_was_removed_is_missed_and_bound_again() {
        let base = tempfile::tempdir().unwrap();
        let mut control = Control::bind(base.path(), &env(base.path())).unwrap();
        fs::remove_file(control.path()).unwrap();
        assert!(!control.is_there());
        control.bind_again().unwrap();
        assert!(control.is_there());
        UnixStream::connect(control.path()).unwrap();
    }

    #[test]
    fn a_path_that_is_too_long_is_told_with_its_length() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("x".repeat(LONGEST));
        let words = Control::bind(&directory, &env(base.path())).unwrap_err().to_string();
        assert!(words.contains("address holds 107"), "{words}");
        assert!(!directory.exists());
    }

    #[test]
    fn under_tmp_a_directory_of_somebody_else_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let mut env = env(base.path());
        let directory = env.tmp.join("ratoon-1/web");
        fs::create_dir_all(&directory).unwrap();
        Control::bind(&directory, &env).unwrap();
        if env.uid == 0 {
            // A directory that root owns would be accepted.
            std::os::unix::fs::chown(env.tmp.join("ratoon-1"), Some(65534), None).unwrap();
        }
        env.uid += 1;
        let refused = Control::bind(&directory, &env).unwrap_err();
        assert!(matches!(refused, Error::Foreign(..)), "{refused}");
    }

    #[test]
    fn under_tmp_only_what_can_be_attacked_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let env = env(base.path());
        let directory = env.tmp.join("parent/web");
        fs::create_dir_all(&directory).unwrap();
        let mode = |mode: u32| fs::set_permissions(env.tmp.join("parent"), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o1777);
        drop(Control::bind(&directory, &env).unwrap());
        mode(0o777);
        let refused = Control::bind(&directory, &env).unwrap_err();
        assert!(matches!(refused, Error::Open(..)) && refused.to_string().contains("chmod o-w"), "{refused}");
    }

    /// The result depends on the user of the test, because only root can make a directory that root owns.
    #[test]
    fn under_tmp_a_parent_of_root_is_no_danger() {
        let base = tempfile::tempdir().unwrap();
        let mut env = env(base.path());
        let directory = env.tmp.join("parent/web");
        fs::create_dir_all(&directory).unwrap();
        let is_root = env.uid == 0;
        env.uid += 1;
        assert_eq!(Control::bind(&directory, &env).is_ok(), is_root);
    }
}
