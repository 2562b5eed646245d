//! Pins a release: opens the configured program and directory, and resolves their paths.
//!
//! Law: done once for each generation. After that, no symlink, rename or changed `PATH` affects what its workers run.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::master::listeners::sockets::is_masters_own;
use crate::sys::access::{self, Want};
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::program::Program;
use crate::sys::spawn::describe;

/// The search path when `PATH` is not set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program, arguments and directory of a generation's workers.
#[derive(Debug)]
pub struct Pinned {
    /// The executable.
    pub program: Program,
    /// The arguments. The first is as configured, or the resolved path if a symlink led to the program.
    pub argv: Vec<CString>,
    /// The working directory, opened.
    pub directory: Arc<OwnedFd>,
    /// The path of the working directory, without symlinks.
    pub directory_path: PathBuf,
    /// The absolute path that led to the executable, with its symlinks.
    pub asked: PathBuf,
}

/// Resolves `worker.directory` and the command of the configuration's `key`.
///
/// A program with a slash is relative to the directory. A program without one is looked up in `path_env`, the master's `PATH`,
/// only: files in the directory may be another user's.
/// The program's directory is resolved, so a `current` symlink is pinned. The program's own name is kept, because a program may
/// depend on it (`venv/bin/python`).
///
/// # Errors
/// Why the release cannot be started: the key, its value, and the cause.
pub fn pin(key: &str, command: &[String], directory: &Path, path_env: Option<&OsStr>) -> Result<Pinned, String> {
    let (directory_path, directory_fd) = open_directory(directory)?;
    let Some(name) = command.first().filter(|name| !name.is_empty()) else {
        return Err(format!("{key} is empty: name a program, like [\"/usr/bin/python3\", \"app.py\"]"));
    };
    let mut argv = command
        .iter()
        .map(|argument| CString::new(argument.as_str()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| format!("{key} {command:?}: an argument holds a NUL character, which no program can be given"))?;

    let (asked, program) = if name.contains('/') {
        let asked = directory_path.join(name);
        let program = resolve(&asked).map_err(|error| cannot_start(key, name, &asked, &error))?;
        if program.path() != asked {
            argv[0] = c_string(program.path())?;
        }
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        (directory.join(name), program)
    } else {
        look_up(key, name, &directory_path, path_env)?
    };
    Ok(Pinned { program, argv, directory: Arc::new(directory_fd), directory_path, asked })
}

fn open_directory(directory: &Path) -> Result<(PathBuf, OwnedFd), String> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("worker.directory {directory:?}: {}", access::denied(directory, Want::Enter))
        }
        _ => format!("worker.directory {directory:?}: {}", in_words(&error)),
    };
    let path = std::fs::canonicalize(directory).map_err(fail)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
    Ok((path, dup_high(fd, RESERVED_FD_BASE)))
}

/// Pins the program at a path: resolves its directory and keeps its last component.
fn resolve(path: &Path) -> io::Result<Program> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::ISDIR.raw_os_error()));
    };
    Program::pin(&std::fs::canonicalize(parent)?.join(name))
}

fn look_up(key: &str, name: &str, directory: &Path, path_env: Option<&OsStr>) -> Result<(PathBuf, Program), String> {
    let path_env = path_env.unwrap_or(OsStr::new(DEFAULT_PATH));
    let mut obstacle = None;
    // An empty or relative entry would mean the working directory: skip it.
    for candidate in std::env::split_paths(path_env).filter(|entry| entry.is_absolute()).map(|entry| entry.join(name)) {
        match resolve(&candidate) {
            Ok(program) => return Ok((candidate, program)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            // Search on, as a shell does; this error is reported if no program is found.
            Err(error) => {
                obstacle.get_or_insert_with(|| cannot_start(key, name, &candidate, &error));
            }
        }
    }
    Err(obstacle.unwrap_or_else(|| {
        let hint = if directory.join(name).is_file() {
            format!("the one in {} is started when you write \"./{name}\"", directory.display())
        } else {
            "write the program's whole path".to_owned()
        };
        format!(
            "{key} {name:?}: No such file or directory in the master's PATH={}; {hint}, or set PATH for the master \
             (Environment= in a drop-in)",
            path_env.display()
        )
    }))
}

fn cannot_start(key: &str, name: &str, path: &Path, error: &io::Error) -> String {
    let path = path.display();
    let what = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::ISDIR) => "is a directory; name the program in it".to_owned(),
        Some(rustix::io::Errno::ACCESS) => {
            format!(
                "Permission denied; the program must be a regular file that may be executed (`ls -l {path}` shows it, `chmod +x` allows it)"
            )
        }
        Some(rustix::io::Errno::NOENT) if name.starts_with('/') => {
            "No such file or directory; correct the path, or put the program there".to_owned()
        }
        Some(rustix::io::Errno::NOENT) => {
            "No such file or directory; a path that does not begin with / begins in worker.directory".to_owned()
        }
        _ => in_words(error),
    };
    format!("{key} {name:?}: {path}: {what}")
}

fn in_words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), describe)
}

fn c_string(path: &Path) -> Result<CString, String> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| format!("{path:?}: a path can't hold a NUL character"))
}

/// The environment that all workers of a generation share: the master's own, without the variables meant for the master alone, then
/// the configured variables. These cannot set the master's variables either.
///
/// # Errors
/// A name that is not a variable's, or a value with a NUL character.
pub fn environment<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    own: impl IntoIterator<Item = (OsString, OsString)>,
    configured: impl IntoIterator<Item = (K, V)>,
) -> Result<Vec<CString>, String> {
    let mut all: BTreeMap<OsString, OsString> = own.into_iter().filter(|(name, _)| is_a_name(name)).collect();
    for (name, value) in configured {
        let (name, value) = (name.as_ref(), value.as_ref());
        if !is_a_name(name) {
            return Err(format!("worker.environment: {name:?} is not a variable's name: no '=', no NUL, not empty"));
        }
        if value.as_bytes().contains(&0) {
            return Err(format!("worker.environment: the value of {name:?} holds a NUL character"));
        }
        all.insert(name.to_owned(), value.to_owned());
    }
    let worker_s = all.into_iter().filter(|(name, _)| !name.to_str().is_some_and(is_masters_own));
    Ok(worker_s.filter_map(|(name, value)| CString::new([name.into_vec(), value.into_vec()].join(&b'=')).ok()).collect())
}

fn is_a_name(name: &OsStr) -> bool {
    !name.is_empty() && !name.as_bytes().contains(&b'=') && !name.as_bytes().contains(&0)
}

#[cfg(test)]
mod tests;
