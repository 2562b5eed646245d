//! Starts a worker's process: the master prepares everything, makes one clone3 call, and continues.
//!
//! Law: the parent never waits for the child's exec; the child reports a failure through the [`ErrorPipe`].
//! The child shares the master's memory or has a copy (`make.rs`). It only makes system calls, without the C library: no
//! allocation, no lock, no panic, no errno (`child.rs`, `raw.rs`). Nothing of the master leaks into the program: it has default
//! signals, an empty mask, a session of its own, the descriptors 0 to 2, the sockets from 3 on and the scoreboard; all other
//! descriptors are close-on-exec.

mod child;
mod errors;
mod make;
mod raw;
mod run_as;
#[cfg(test)]
mod tests;
mod texts;

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use rustix::thread::CpuSet;

pub(super) use self::child::{block_everything, restore};
pub use self::errors::{ErrorPipe, SpawnError, Stage, describe};
pub use self::make::always_copy;
pub use self::run_as::{as_user, become_user};
use super::fd::crowded;
pub use super::fd::{RESERVED_FD_BASE, dup_high};
use super::process::PidFd;
pub use super::program::Program;
use make::CloneMode;

/// The user and the groups of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The values that all workers of a generation have in common; all files are resolved and open.
#[derive(Debug)]
pub struct Plan {
    /// The program.
    pub program: Program,
    /// The program's arguments, `argv[0]` included.
    pub argv: Vec<CString>,
    /// `KEY=VALUE`, without what [`SpawnRequest::env`] and [`spawn`] add.
    pub env: Vec<CString>,
    /// The working directory.
    pub directory: Arc<OwnedFd>,
    /// The sockets that become descriptors 3, 4, …
    pub listeners: Vec<Arc<OwnedFd>>,
    /// The user and the groups; `None`: the master's.
    pub identity: Option<Identity>,
    /// Limit of open files, soft and hard; `u64::MAX` is "unlimited". `None`: the master's.
    pub nofile: Option<(u64, u64)>,
    /// The signal that a worker gets when the thread that started it ends.
    pub die_with_parent: Option<i32>,
}

impl Plan {
    /// The plan of a preload process, which has no sockets, from that of the workers.
    pub fn for_preload(&self, program: Program, argv: Vec<CString>) -> Plan {
        Plan {
            program,
            argv,
            env: self.env.clone(),
            directory: self.directory.clone(),
            listeners: Vec::new(),
            identity: self.identity.clone(),
            nofile: self.nofile,
            die_with_parent: self.die_with_parent,
        }
    }

    /// The path of the working directory now; it ends in ` (deleted)` if the directory was removed (proc(5)).
    pub fn directory_path(&self) -> PathBuf {
        let link = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        std::fs::read_link(link).unwrap_or_else(|_| PathBuf::from("/"))
    }
}

/// The values of one worker.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    /// The worker's id, which is returned in [`SpawnError::tag`].
    pub tag: u64,
    /// The arguments, in place of [`Plan::argv`] and of the same number.
    pub argv: Option<Vec<CString>>,
    /// `KEY=VALUE`, in place of [`Plan::env`].
    pub plan_env: Option<Vec<CString>>,
    /// `KEY=VALUE`, added to [`Plan::env`].
    pub env: Vec<CString>,
    /// Standard input; `None`: `/dev/null`.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output; `None`: the master's.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Standard error; `None`: the master's.
    pub stderr: Option<BorrowedFd<'a>>,
    /// The sockets that become descriptors 3, 4, … in place of [`Plan::listeners`] and of the same number.
    pub listeners: Option<&'a [Arc<OwnedFd>]>,
    /// The worker's scoreboard; its descriptor follows those of the listeners, and `RATOON_SCOREBOARD` is its number.
    pub scoreboard: Option<BorrowedFd<'a>>,
    /// The socket of a preload process; its descriptor is the last, and `RATOON_FORK` is its number.
    pub fork: Option<BorrowedFd<'a>>,
    /// The directory of the worker's cgroup (v2).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether the cgroup's memory limit is so low that arguments and environment alone may reach it.
    pub small: bool,
    /// Whether to set `WATCHDOG_PID`.
    pub watchdog_pid: bool,
    /// The CPUs that the worker may use; `None`: the master's.
    pub cpus: Option<CpuSet>,
}

/// A worker's process. Its program may not be executed yet, or may have failed to execute.
#[derive(Debug)]
pub struct Child {
    /// The process's number: only to show, never to kill.
    pub pid: u32,
    /// The process by descriptor.
    pub pidfd: PidFd,
}

/// The ignored signals that children reset, read once: the master never changes the disposition of a signal later.
static IGNORED: LazyLock<u64> = LazyLock::new(child::ignored_signals);

/// Starts a worker. Returns as soon as the process exists.
///
/// Adds `LISTEN_PID` and `LISTEN_PIDFDID` if there are listeners; without listeners, removes all variables that begin with `LISTEN_FD`.
/// Adds `WATCHDOG_PID` and `RATOON_SCOREBOARD` where wanted. Errors are those of clone3(2): `EAGAIN` and `ENOMEM` mean "later", and
/// with a cgroup `EACCES`, `EBUSY`, `ENOENT`, `EOPNOTSUPP` mean that this cgroup accepts no process.
pub fn spawn(plan: &Plan, request: &SpawnRequest<'_>, errors: &ErrorPipe) -> io::Result<Child> {
    let way = if crowded() { CloneMode::ShareAll } else { CloneMode::Share };
    spawn_by(plan, request, errors, way)
}

/// Frees the resources of children that have left the master's memory, duplicates of descriptors included. Call it before waiting for
/// the last duplicate of a descriptor to be closed.
pub fn sweep() {
    make::sweep();
}

fn spawn_by(plan: &Plan, request: &SpawnRequest<'_>, errors: &ErrorPipe, way: CloneMode) -> io::Result<Child> {
    let way = way.for_this(plan.identity.is_some(), request.small);
    match spawn_this_way(plan, request, errors, way) {
        // No number is left for duplicates of descriptors.
        Err(error) if way == CloneMode::ShareAll && error.raw_os_error() == Some(libc::EMFILE) => {
            spawn_this_way(plan, request, errors, CloneMode::Share)
        }
        made => made,
    }
}

fn spawn_this_way(plan: &Plan, request: &SpawnRequest<'_>, errors: &ErrorPipe, way: CloneMode) -> io::Result<Child> {
    let first = 3;
    let listeners = request.listeners.unwrap_or(&plan.listeners);
    let next = first + listeners.len() as RawFd + RawFd::from(request.scoreboard.is_some()) + RawFd::from(request.fork.is_some());
    let mut above = FdRemap { least: next, all: way == CloneMode::ShareAll, moved: Vec::new() };

    let mut descriptors = Vec::with_capacity(listeners.len() + 1);
    for listener in listeners {
        descriptors.push(above.number(listener.as_fd())?);
    }
    if let Some(scoreboard) = request.scoreboard {
        descriptors.push(above.number(scoreboard)?);
    }
    if let Some(fork) = request.fork {
        descriptors.push(above.number(fork)?);
    }
    let (pinned, keep_pinned) = plan.program.pinned();

    let order = child::Order {
        tag: request.tag,
        errors: above.number(errors.writer())?,
        parent: std::process::id() as i32,
        // The child moves itself only after fork, which has no CLONE_INTO_CGROUP.
        cgroup: optional(request.cgroup, |fd| above.number(fd))?,
        stdin: optional(request.stdin, |fd| above.number(fd))?,
        stdout: optional(request.stdout, |fd| above.number(fd))?,
        stderr: optional(request.stderr, |fd| above.number(fd))?,
        descriptors,
        first,
        next,
        directory: above.number(plan.directory.as_fd())?,
        identity: plan.identity.clone(),
        nofile: plan.nofile,
        cpus: request.cpus,
        death_signal: plan.die_with_parent,
        ignored: *IGNORED,
        file: plan.program.identity(),
        pinned: above.number(pinned)?,
        keep_pinned,
        texts: texts::texts(plan, request, next),
        copied_up_to: above.moved.iter().map(AsRawFd::as_raw_fd).max().filter(|_| above.all),
        moved: if above.all { std::mem::take(&mut above.moved) } else { Vec::new() },
    };

    let mask = child::block_everything()?;
    // SAFETY: all signals are blocked, so no handler of the master runs in the child; the order owns what its pointers point to.
    let born = unsafe { make::process(order, way) };
    child::restore(&mask);
    let (pid, pidfd) = born?;
    // SAFETY: the kernel has just made this descriptor, so it has no other owner.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // Move it to a high number: each child copies the table of low numbers.
    Ok(Child { pid: pid as u32, pidfd: PidFd::from(dup_high(pidfd, RESERVED_FD_BASE)) })
}

fn optional(
    fd: Option<BorrowedFd<'_>>,
    mut number: impl FnMut(BorrowedFd<'_>) -> io::Result<RawFd>,
) -> io::Result<Option<RawFd>> {
    fd.map(&mut number).transpose()
}

/// Duplicates source descriptors whose numbers the child will overwrite. For a child that shares the master's descriptor table all
/// sources are duplicated: the duplicates stay unchanged until the child has a table of its own, and have low numbers.
struct FdRemap {
    least: RawFd,
    all: bool,
    moved: Vec<OwnedFd>,
}

impl FdRemap {
    fn number(&mut self, fd: BorrowedFd<'_>) -> io::Result<RawFd> {
        if fd.as_raw_fd() >= self.least && !self.all {
            return Ok(fd.as_raw_fd());
        }
        let moved = rustix::io::fcntl_dupfd_cloexec(fd, self.least)?;
        let number = moved.as_raw_fd();
        self.moved.push(moved);
        Ok(number)
    }
}

/// Bytes for the digits of the largest 64-bit number and the NUL.
const DIGITS: usize = 21;

/// A list for execve(2) that ends with a null pointer; it points into the entries.
pub(super) fn pointers(entries: &[CString]) -> Vec<*const c_char> {
    entries.iter().map(|entry| entry.as_ptr()).chain([std::ptr::null()]).collect()
}
