//! Reports of workers that could not be started, through one pipe for all workers.
//!
//! Law: a record is written whole or not at all (it is far below `PIPE_BUF`), and before its writer exits; the reader never
//! waits for an end of file. The writing end is close-on-exec, so no started program ever has it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::sys::fd::{RESERVED_FD_BASE, dup_high};

/// The step at which a child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Make a new session, setsid(2).
    Session = 1,
    /// Move into the cgroup.
    Cgroup,
    /// Open standard input.
    Stdin,
    /// Set standard output and error.
    Output,
    /// Move the listening sockets and the scoreboard to their numbers.
    Sockets,
    /// Set the limit of open files.
    Limits,
    /// Set the supplementary groups.
    Groups,
    /// Set the group.
    SetGid,
    /// Set the user.
    SetUid,
    /// Set the signal that the child gets when its parent exits.
    DeathSignal,
    /// Change to the working directory.
    Chdir,
    /// Execute the program.
    Exec,
    /// An unknown number in a record, which no child of this version writes.
    Unknown,
}

impl Stage {
    const ALL: [Stage; 12] = [
        Stage::Session,
        Stage::Cgroup,
        Stage::Stdin,
        Stage::Output,
        Stage::Sockets,
        Stage::Limits,
        Stage::Groups,
        Stage::SetGid,
        Stage::SetUid,
        Stage::DeathSignal,
        Stage::Chdir,
        Stage::Exec,
    ];
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Session => "setsid",
            Stage::Cgroup => "cgroup",
            Stage::Stdin => "stdin",
            Stage::Output => "stdout or stderr",
            Stage::Sockets => "sockets",
            Stage::Limits => "limit of open files",
            Stage::Groups => "setgroups",
            Stage::SetGid => "setgid",
            Stage::SetUid => "setuid",
            Stage::DeathSignal => "prctl(PR_SET_PDEATHSIG)",
            Stage::Chdir => "chdir",
            Stage::Exec => "exec",
            Stage::Unknown => "start",
        })
    }
}

/// The failure to start a worker, displayed like `exec: No such file or directory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnError {
    /// The worker's id, from [`super::SpawnRequest::tag`].
    pub tag: u64,
    /// The step that failed.
    pub stage: Stage,
    /// The error, errno(3).
    pub errno: i32,
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.stage, describe(self.errno))
    }
}

/// The text of an errno, without the number that std appends.
pub fn describe(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.strip_suffix(&format!(" (os error {errno})")).map(str::to_owned).unwrap_or(text)
}

/// Size of the record that a failing child writes, bytes.
pub(super) const RECORD: usize = 16;

/// The pipe of failure records, one for as long as the master runs. Its descriptor is readable when a start has failed.
#[derive(Debug)]
pub struct ErrorPipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl ErrorPipe {
    /// Makes a new pipe.
    pub fn new() -> io::Result<ErrorPipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The writing end must not have a number at which a child puts a socket.
        Ok(ErrorPipe { read, write: dup_high(write, RESERVED_FD_BASE) })
    }

    /// Takes over the reading and the writing end of a pipe that an earlier program of this process has made.
    pub fn from_ends(read: OwnedFd, write: OwnedFd) -> ErrorPipe {
        ErrorPipe { read, write: dup_high(write, RESERVED_FD_BASE) }
    }

    /// The reading and the writing end, for the next program of this process.
    pub fn ends(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.read.as_fd(), self.write.as_fd())
    }

    /// Writes a failure that was read but not handled back to the end of the pipe.
    pub fn put_back(&self, error: &SpawnError) {
        let _ = rustix::io::write(&self.write, &encode(error.tag, error.stage, error.errno));
    }

    /// Reads all failures so far; never waits. A child's record is in the pipe before its exit can be seen.
    pub fn drain(&self) -> Vec<SpawnError> {
        let mut errors = Vec::new();
        let mut records = [0u8; RECORD * 64];
        loop {
            match rustix::io::read(&self.read, &mut records[..]) {
                Ok(0) => return errors,
                Ok(length) => errors.extend(records[..length].chunks_exact(RECORD).map(decode)),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return errors,
            }
        }
    }

    pub(super) fn writer(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }
}

impl AsFd for ErrorPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

impl std::os::fd::AsRawFd for ErrorPipe {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.read.as_raw_fd()
    }
}

/// Encodes a record without allocation, for use in the child.
pub(super) fn encode(tag: u64, stage: Stage, errno: i32) -> [u8; RECORD] {
    // Built as one number instead of by slices, so that nothing can panic.
    let record = u128::from(tag) | (stage as u128) << 64 | u128::from(errno as u32) << 96;
    record.to_ne_bytes()
}

fn decode(record: &[u8]) -> SpawnError {
    let mut bytes = [0u8; RECORD];
    bytes.copy_from_slice(record);
    let record = u128::from_ne_bytes(bytes);
    let stage = (record >> 64) as u32;
    SpawnError {
        tag: record as u64,
        stage: Stage::ALL.into_iter().find(|known| *known as u32 == stage).unwrap_or(Stage::Unknown),
        errno: (record >> 96) as u32 as i32,
    }
}
