//! How a worker that could not be started tells so: one pipe for all of them.
//!
//! Law: a record is written at once or not at all (it is far below `PIPE_BUF`), and before its writer ends; nobody
//! waits for an end of file. The writing end is close-on-exec, so no program that was started ever has it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::sys::fd::{RESERVED_FD_BASE, dup_high};

/// What the child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// A session of its own, setsid(2).
    Session = 1,
    /// Into its cgroup.
    Cgroup,
    /// Standard input from /dev/null.
    Stdin,
    /// Standard output and error.
    Output,
    /// The listening sockets and the scoreboard to their numbers.
    Sockets,
    /// The limit of open files.
    Limits,
    /// Supplementary groups.
    Groups,
    /// Group.
    SetGid,
    /// User.
    SetUid,
    /// The signal at the master's death.
    DeathSignal,
    /// The working directory.
    Chdir,
    /// The program itself.
    Exec,
    /// A record that no child of this version writes.
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
            Stage::Stdin => "stdin from /dev/null",
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

/// A worker that could not be started; reads like `exec: No such file or directory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnError {
    /// [`super::Birth::tag`] of the worker.
    pub tag: u64,
    /// Where it failed.
    pub stage: Stage,
    /// Why, errno(3).
    pub errno: i32,
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.stage, describe(self.errno))
    }
}

/// An errno's text without the number that std appends.
pub fn describe(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.strip_suffix(&format!(" (os error {errno})")).map(str::to_owned).unwrap_or(text)
}

/// What a failing child writes.
pub(super) const RECORD: usize = 16;

/// The pipe; one for the master's whole life. Its descriptor is readable when a start has failed.
#[derive(Debug)]
pub struct ErrorPipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl ErrorPipe {
    /// A new one.
    pub fn new() -> io::Result<ErrorPipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The writing end must not be where a child puts a socket.
        Ok(ErrorPipe { read, write: dup_high(write, RESERVED_FD_BASE) })
    }

    /// One that an earlier program of this process has made: the reading and the writing end.
    pub fn from_ends(read: OwnedFd, write: OwnedFd) -> ErrorPipe {
        ErrorPipe { read, write: dup_high(write, RESERVED_FD_BASE) }
    }

    /// Both ends, for a later program of this process.
    pub fn ends(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.read.as_fd(), self.write.as_fd())
    }

    /// Puts a failure that nobody was told of yet back behind the others.
    pub fn put_back(&self, error: &SpawnError) {
        let _ = rustix::io::write(&self.write, &encode(error.tag, error.stage, error.errno));
    }

    /// All failures so far; never waits. A child's exit is seen only after its record is here.
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

/// A record's bytes, without allocation: for the child.
pub(super) fn encode(tag: u64, stage: Stage, errno: i32) -> [u8; RECORD] {
    // One number instead of slices: nothing here can panic.
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
