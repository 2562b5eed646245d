//! A pinned executable: the file that a path led to when a generation was planned, and that its workers start from
//! whatever has become of the path since.
//!
//! Law: the old release starts as long as its file exists at all. While a path still leads to the very file, it is
//! executed by that path, so that `ps` and `$0` look right ([`Start`]); where none does, the pinned descriptor is.
//! The one hole: a *binary* that is rewritten in place (no deployment tool does, and the kernel refuses it while it
//! runs) starts as it is now, since its old bytes are nowhere.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, MemfdFlags, Mode, OFlags, SealFlags};

use super::fd::{RESERVED_FD_BASE, dup_high};

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Bytes.
    pub size: i64,
    /// Modification time, seconds and nanoseconds.
    pub modified: (i64, i64),
}

impl Identity {
    pub(crate) fn of(stat: &libc::stat) -> Identity {
        Identity { device: stat.st_dev, inode: stat.st_ino, size: stat.st_size, modified: (stat.st_mtime, stat.st_mtime_nsec) }
    }
}

/// One way to start a program; the first that fits is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The file that is looked at; a relative path begins in the worker's directory.
    pub path: CString,
    /// It must be the pinned file; else any file at this path will do.
    pub same: bool,
    /// What is executed.
    pub execute: CString,
    /// What stands in place of the first argument; `None`: that one stays.
    pub head: Option<Vec<CString>>,
}

/// A pinned executable.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    starts: Vec<Start>,
    /// The file itself, by `O_PATH`.
    file: OwnedFd,
    identity: Identity,
    /// A script's text as it was: its file can be rewritten in place while it runs.
    script: Option<OwnedFd>,
}

/// A larger script isn't copied.
const SCRIPT_MAX: u64 = 4 << 20;

impl Program {
    /// Opens the executable at an absolute path. Errors: `ENOENT`, `EACCES` (no right to execute it, or not a regular
    /// file), `EISDIR`.
    pub fn pin(path: &Path) -> io::Result<Program> {
        let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
            _ => return Err(io::Error::from_raw_os_error(libc::EACCES)),
        }
        rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
        let identity = Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        };
        let script = copy_of_script(path, &identity).map(|fd| dup_high(fd, RESERVED_FD_BASE));
        Ok(Program {
            path: path.to_path_buf(),
            starts: by_path(c_path),
            file: dup_high(file, RESERVED_FD_BASE),
            identity,
            script,
        })
    }

    /// One that an earlier program of this process has pinned, see [`Program::descriptors`]. An error when the
    /// descriptor is not the file of that identity.
    pub fn from_parts(path: &Path, identity: Identity, file: OwnedFd, script: Option<OwnedFd>) -> io::Result<Program> {
        let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let stat = rustix::fs::fstat(&file)?;
        if (stat.st_dev, stat.st_ino) != (identity.device, identity.inode) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the descriptor is of another file"));
        }
        Ok(Program { path: path.to_path_buf(), starts: by_path(c_path), file, identity, script })
    }

    /// The file itself, and the copy of a script's text, for a later program of this process.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.file.as_fd(), self.script.as_ref().map(AsFd::as_fd))
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's state when it was pinned.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether it is a `#!` script whose text was copied.
    pub fn is_script(&self) -> bool {
        self.script.is_some()
    }

    /// The text of a script as it was.
    pub fn script_text(&self) -> Option<Vec<u8>> {
        let mut text = vec![0; SCRIPT_MAX as usize];
        // At a place of its own: the descriptor's belongs to whoever executes it.
        let (mut length, script) = (0, self.script.as_ref()?);
        while length < text.len() {
            match rustix::io::pread(script, &mut text[length..], length as u64).ok()? {
                0 => break,
                more => length += more,
            }
        }
        text.truncate(length);
        Some(text)
    }

    /// The ways in which it is started, in their order.
    pub fn starts(&self) -> &[Start] {
        &self.starts
    }

    /// Other ways; none: only the pinned descriptor is left.
    pub fn set_starts(&mut self, starts: Vec<Start>) {
        self.starts = starts;
    }

    /// What is executed when the path leads elsewhere, and whether it must stay open for an interpreter to read.
    pub(crate) fn pinned(&self) -> (BorrowedFd<'_>, bool) {
        match &self.script {
            Some(script) => (script.as_fd(), true),
            None => (self.file.as_fd(), false),
        }
    }
}

fn by_path(path: CString) -> Vec<Start> {
    vec![Start { execute: path.clone(), path, same: true, head: None }]
}

/// A sealed copy in memory of a `#!` script; `None` for a binary, for what can't be read, and for a giant.
fn copy_of_script(path: &Path, identity: &Identity) -> Option<OwnedFd> {
    if identity.size as u64 > SCRIPT_MAX {
        return None;
    }
    // Non-blocking: should the path lead to a FIFO by now, opening it must not wait for a writer.
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    if (stat.st_dev, stat.st_ino) != (identity.device, identity.inode) {
        return None;
    }
    let mut file = File::from(fd);
    let mut start = [0u8; 2];
    file.read_exact(&mut start).ok()?;
    if &start != b"#!" {
        return None;
    }
    let mut text = start.to_vec();
    file.take(SCRIPT_MAX).read_to_end(&mut text).ok()?;
    sealed(&text).ok()
}

/// An executable file in memory that nobody can change any more.
fn sealed(text: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 don't know MFD_EXEC; there every such file is executable.
    let fd = rustix::fs::memfd_create("ratoon-script", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("ratoon-script", flags))?;
    let mut file = File::from(fd);
    file.write_all(text)?;
    // A write descriptor would make every exec of it fail with "text file busy", so it is opened again for reading.
    let reading =
        rustix::fs::open(format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(reading)
}
