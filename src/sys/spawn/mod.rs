//! A worker's process: everything is prepared, then one clone3, and on goes the master.
//!
//! Law: the parent never waits for the child's exec; what fails in the child comes back over the [`ErrorPipe`].
//! The child shares the master's memory or has a copy (`make.rs`); it makes system calls only, without the C library: no
//! allocation, no lock, no panic, no errno (`child.rs`, `raw.rs`). It leaves with
//! nothing of the master: default signals, an empty mask, a session of its own, 0-2, the sockets from 3 on, the
//! scoreboard; everything else is close-on-exec.

mod child;
mod errors;
mod make;
mod raw;
#[cfg(test)]
mod tests;
mod texts;
mod user;

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, LazyLock};

pub(super) use self::child::{block_everything, restore};
pub use self::errors::{ErrorPipe, SpawnError, Stage, describe};
pub use self::user::{as_user, become_user};
use super::fd::crowded;
pub use super::fd::{RESERVED_FD_BASE, dup_high};
use super::process::PidFd;
pub use super::program::Program;
use make::CloneMode;

/// Whose rights a worker has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What all workers of a generation have in common; everything in it is resolved and open.
#[derive(Debug)]
pub struct Plan {
    /// What they run.
    pub program: Program,
    /// Its arguments, `argv[0]` included.
    pub argv: Vec<CString>,
    /// `KEY=VALUE`, without what [`Birth::env`] and [`spawn`] add.
    pub env: Vec<CString>,
    /// Where they run.
    pub directory: Arc<OwnedFd>,
    /// Their descriptors 3, 4, …
    pub listeners: Vec<Arc<OwnedFd>>,
    /// Whose rights they get; `None`: the master's.
    pub identity: Option<Identity>,
    /// Limit of open files, soft and hard; `u64::MAX` is "unlimited". `None`: the master's.
    pub nofile: Option<(u64, u64)>,
    /// The signal that they get when the thread that started them ends.
    pub die_with_parent: Option<i32>,
}

/// What one worker has of its own.
#[derive(Debug)]
pub struct Birth<'a> {
    /// The worker's id: comes back in [`SpawnError::tag`].
    pub tag: u64,
    /// Its arguments, in place of [`Plan::argv`]; as many as those.
    pub argv: Option<Vec<CString>>,
    /// `KEY=VALUE`, in place of [`Plan::env`].
    pub plan_env: Option<Vec<CString>>,
    /// `KEY=VALUE`, added to [`Plan::env`].
    pub env: Vec<CString>,
    /// Its standard input; `None`: `/dev/null`.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Its standard output; `None`: the master's.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Its standard error; `None`: the master's.
    pub stderr: Option<BorrowedFd<'a>>,
    /// Its descriptors 3, 4, … in place of [`Plan::listeners`], as many as those.
    pub listeners: Option<&'a [Arc<OwnedFd>]>,
    /// Its status page; put behind the listeners, and its number said in `RATOON_SCOREBOARD`.
    pub scoreboard: Option<BorrowedFd<'a>>,
    /// The directory of its cgroup (v2).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// That cgroup has a limit of memory which arguments and environment alone may reach.
    pub small: bool,
    /// Say `WATCHDOG_PID` too.
    pub watchdog_pid: bool,
}

/// A worker's process. Whether the program in it could be started is not known yet.
#[derive(Debug)]
pub struct Child {
    /// Its number: to show, never to kill.
    pub pid: u32,
    /// The process itself.
    pub pidfd: PidFd,
}

/// A program that ignores a signal does so from its beginning: the master has no handlers, and nothing in it changes this.
static IGNORED: LazyLock<u64> = LazyLock::new(child::ignored_signals);

/// Starts a worker. Returns as soon as the process exists.
///
/// Adds `LISTEN_PID` and `LISTEN_PIDFDID` (when there are listeners; without any, no `LISTEN_` variable is passed on),
/// `WATCHDOG_PID` and `RATOON_SCOREBOARD`. Errors are those of clone3(2): `EAGAIN` and `ENOMEM` mean "later", and with
/// a cgroup `EACCES`, `EBUSY`, `ENOENT`, `EOPNOTSUPP` mean that this cgroup takes no process.
pub fn spawn(plan: &Plan, birth: &Birth<'_>, errors: &ErrorPipe) -> io::Result<Child> {
    let way = if crowded() { CloneMode::ShareAll } else { CloneMode::Share };
    spawn_by(plan, birth, errors, way)
}

/// Lets go of what children needed that have left our memory by now: copies of descriptors, too. Call it before anything that
/// waits for the last copy of one to be closed.
pub fn sweep() {
    make::sweep();
}

fn spawn_by(plan: &Plan, birth: &Birth<'_>, errors: &ErrorPipe, way: CloneMode) -> io::Result<Child> {
    let way = way.for_this(plan.identity.is_some(), birth.small);
    match spawn_this_way(plan, birth, errors, way) {
        // No number is left for copies of descriptors.
        Err(error) if way == CloneMode::ShareAll && error.raw_os_error() == Some(libc::EMFILE) => {
            spawn_this_way(plan, birth, errors, CloneMode::Share)
        }
        made => made,
    }
}

fn spawn_this_way(plan: &Plan, birth: &Birth<'_>, errors: &ErrorPipe, way: CloneMode) -> io::Result<Child> {
    let first = 3;
    let listeners = birth.listeners.unwrap_or(&plan.listeners);
    let next = first + listeners.len() as RawFd + RawFd::from(birth.scoreboard.is_some());
    let mut above = FdRemap { least: next, all: way == CloneMode::ShareAll, moved: Vec::new() };

    let mut descriptors = Vec::with_capacity(listeners.len() + 1);
    for listener in listeners {
        descriptors.push(above.number(listener.as_fd())?);
    }
    if let Some(scoreboard) = birth.scoreboard {
        descriptors.push(above.number(scoreboard)?);
    }
    let (pinned, keep_pinned) = plan.program.pinned();

    let order = child::Order {
        tag: birth.tag,
        errors: above.number(errors.writer())?,
        parent: std::process::id() as i32,
        // Only without CLONE_INTO_CGROUP does the child move itself.
        cgroup: optional(birth.cgroup, |fd| above.number(fd))?,
        stdin: optional(birth.stdin, |fd| above.number(fd))?,
        stdout: optional(birth.stdout, |fd| above.number(fd))?,
        stderr: optional(birth.stderr, |fd| above.number(fd))?,
        descriptors,
        first,
        next,
        directory: above.number(plan.directory.as_fd())?,
        identity: plan.identity.clone(),
        nofile: plan.nofile,
        death_signal: plan.die_with_parent,
        ignored: *IGNORED,
        file: plan.program.identity(),
        pinned: above.number(pinned)?,
        keep_pinned,
        texts: texts::texts(plan, birth, next),
        copied_up_to: above.moved.iter().map(AsRawFd::as_raw_fd).max().filter(|_| above.all),
        moved: if above.all { std::mem::take(&mut above.moved) } else { Vec::new() },
    };

    let mask = child::block_everything()?;
    // SAFETY: all signals are blocked, so no handler of ours runs in the child; the order's pointers lead into it.
    let born = unsafe { make::process(order, way) };
    child::restore(&mask);
    let (pid, pidfd) = born?;
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // Out of the way: the low numbers are copied for each child.
    Ok(Child { pid: pid as u32, pidfd: PidFd::from(dup_high(pidfd, RESERVED_FD_BASE)) })
}

fn optional(
    fd: Option<BorrowedFd<'_>>,
    mut number: impl FnMut(BorrowedFd<'_>) -> io::Result<RawFd>,
) -> io::Result<Option<RawFd>> {
    fd.map(&mut number).transpose()
}

/// Sources must not be where the child puts something: those that are, are duplicated. For a child that shares our table all
/// are: its copies stay what they are until it has a table of its own, and have low numbers.
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

/// Digits of the largest number, and the NUL.
const DIGITS: usize = 21;

/// A list for execve(2), ended by a null; it points into the entries.
pub(super) fn pointers(entries: &[CString]) -> Vec<*const c_char> {
    entries.iter().map(|entry| entry.as_ptr()).chain([std::ptr::null()]).collect()
}
