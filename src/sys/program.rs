//! A pinned executable: the file at a path when a generation was planned. The generation's workers start from this file, even if the
//! path is changed later.
//!
//! Law: the old release starts as long as its file exists at all. While a path still leads to this very file, the file is
//! executed by that path, so that `ps` and `$0` look right ([`Start`]); else the pinned descriptor is executed.
//! One exception: a *binary* that is rewritten in place starts with its new contents, since the old bytes are stored nowhere. (No
//! deployment tool does that, and the kernel refuses it while the binary runs.)

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, MemfdFlags, Mode, OFlags, SealFlags};

use super::fd::{RESERVED_FD_BASE, dup_high};

/// The identity of a file and of its contents: it differs when the file was replaced or modified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: i64,
    /// Modification time, seconds and nanoseconds.
    pub modified: (i64, i64),
}

impl Identity {
    pub(crate) fn of(stat: &libc::stat) -> Identity {
        Identity { device: stat.st_dev, inode: stat.st_ino, size: stat.st_size, modified: (stat.st_mtime, stat.st_mtime_nsec) }
    }
}

/// One way to start a program. A worker uses the first way whose condition holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The path that is checked; a relative path begins in the worker's directory.
    pub path: CString,
    /// If true, the file at the path must be the pinned one; else any file will do.
    pub same: bool,
    /// The path that is executed.
    pub execute: CString,
    /// Arguments that replace `argv[0]`; `None`: it stays.
    pub head: Option<Vec<CString>>,
}

/// A pinned executable.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    starts: Vec<Start>,
    /// The pinned file, opened with `O_PATH`.
    file: OwnedFd,
    identity: Identity,
    /// A copy of a script's text, since the file of a script can be rewritten in place while it runs.
    script: Option<OwnedFd>,
}

/// The largest script that is copied, bytes.
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

    /// Takes over an executable that an earlier program of this process has pinned, see [`Program::descriptors`]. Fails when the
    /// descriptor is of a file with another device or inode.
    pub fn from_parts(path: &Path, identity: Identity, file: OwnedFd, script: Option<OwnedFd>) -> io::Result<Program> {
        let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let stat = rustix::fs::fstat(&file)?;
        if (stat.st_dev, stat.st_ino) != (identity.device, identity.inode) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the descriptor is of another file"));
        }
        Ok(Program { path: path.to_path_buf(), starts: by_path(c_path), file, identity, script })
    }

    /// The pinned file, and the copy of a script's text, for the next program of this process.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.file.as_fd(), self.script.as_ref().map(AsFd::as_fd))
    }

    /// The path at which the executable was pinned.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's identity when it was pinned.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the executable is a `#!` script whose text was copied.
    pub fn is_script(&self) -> bool {
        self.script.is_some()
    }

    /// The text of a script when it was pinned; `None` if no text was copied.
    pub fn script_text(&self) -> Option<Vec<u8>> {
        let mut text = vec![0; SCRIPT_MAX as usize];
        // By pread(2): the descriptor's file offset is used by the interpreter that executes the script.
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

    /// The ways to start the program, in the order in which they are tried.
    pub fn starts(&self) -> &[Start] {
        &self.starts
    }

    /// Sets the ways to start the program. If the list is empty, the pinned descriptor is executed.
    pub fn set_starts(&mut self, starts: Vec<Start>) {
        self.starts = starts;
    }

    /// The descriptor that is executed when no path leads to the file, and whether it must stay open for an interpreter.
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

/// Makes a sealed copy of a `#!` script in memory. `None` for a binary, for an unreadable file, and above [`SCRIPT_MAX`].
fn copy_of_script(path: &Path, identity: &Identity) -> Option<OwnedFd> {
    if identity.size as u64 > SCRIPT_MAX {
        return None;
    }
    // Non-blocking: if the path leads to a FIFO by now, the open must not wait for a writer.
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

/// Makes an executable memfd that is sealed against every change.
fn sealed(text: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 don't know MFD_EXEC; there every memfd is executable.
    let fd = rustix::fs::memfd_create("ratoon-script", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("ratoon-script", flags))?;
    let mut file = File::from(fd);
    file.write_all(text)?;
    // An open write descriptor makes every exec fail with "text file busy", so the file is opened again for reading.
    let reading =
        rustix::fs::open(format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(reading)
}
