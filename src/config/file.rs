//! Reads a file that another user may have written: it may be a FIFO without a writer, a directory, or 1 GB.
//!
//! Law: reading never blocks because of the file's type, never takes more than [`LIMIT`] bytes, and an error says path, cause and hint.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::error::Error;
use crate::sys::access::{self, Want};

/// Longest file, in bytes.
const LIMIT: u64 = 1 << 20;

/// Which file is read; the hints of errors differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Configuration,
    Environment,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Kind::Configuration => "a configuration",
            Kind::Environment => "an environment file",
        }
    }
}

/// Reads the text of the file.
pub(super) fn read(path: &Path, kind: Kind) -> Result<String, Error> {
    let Some(text) = read_if_there(path, kind)? else {
        let hint = match kind {
            Kind::Configuration => {
                "create it, for instance by `ratoon init NAME -- COMMAND`, or with the two lines\n    [worker]\n    command = [\"/usr/bin/my-server\", \"--flag\"]"
            }
            Kind::Environment => "create it, or write - before its path in worker.environment_file if it may be missing",
        };
        return Err(Error::elsewhere(path.display(), format!("there is no such file; {hint}")));
    };
    Ok(text)
}

/// Reads the text of the file; `None` when there is no file.
pub(super) fn read_if_there(path: &Path, kind: Kind) -> Result<Option<String>, Error> {
    let bytes = match bytes(path) {
        Ok(bytes) => bytes,
        Err(Trouble::Io(error)) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(Trouble::Io(error)) => return Err(Error::elsewhere(path.display(), unreadable(path, &error))),
        Err(Trouble::Kind(what)) => {
            let message = format!("this is {what}; {} is a regular file", kind.noun());
            return Err(Error::elsewhere(path.display(), message));
        }
        Err(Trouble::TooLong) => {
            let message = format!("this is longer than 1 MiB, more than {} may have; is it the right file?", kind.noun());
            return Err(Error::elsewhere(path.display(), message));
        }
    };
    String::from_utf8(bytes).map(Some).map_err(|error| not_utf8(path, &error))
}

enum Trouble {
    Io(io::Error),
    Kind(&'static str),
    TooLong,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Io(error)
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, Trouble> {
    // Opening some devices has side effects, so the type is checked before. The opened file may be another one, so it is checked again.
    regular(std::fs::metadata(path)?.file_type())?;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    regular(file.metadata()?.file_type())?;
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT { Err(Trouble::TooLong) } else { Ok(bytes) }
}

fn regular(kind: FileType) -> Result<(), Trouble> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "no file that could be read",
    };
    Err(Trouble::Kind(what))
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => access::denied(path, Want::Read).to_string(),
        _ => format!("it cannot be read: {error}"),
    }
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> Error {
    let at = error.utf8_error().valid_up_to();
    let before = &error.as_bytes()[..at];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    let byte = error.as_bytes().get(at).copied().unwrap_or_default();
    let place = format!("{}:{line}:{column}", path.display());
    Error::elsewhere(place, format!("the byte 0x{byte:02x} (offset {at}) is not UTF-8; save the file as UTF-8"))
}
