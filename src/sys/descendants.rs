//! Every process of a worker, on machines without a cgroup for it.
//!
//! Law: a process is killed through a descriptor that was opened before the last look at who it is.
//!
//! A worker's process is known by what its environment said when it was executed (`RATOON_WORKER` and the worker's own
//! `NOTIFY_SOCKET`). While the worker itself isn't reaped, and so keeps its number, also by the worker's session and by
//! its ancestors. So: see the end of the worker with [`PidFd::peek`], kill its descendants, then reap it. What has left
//! the session, dropped its environment *and* lost its parents is not found; a cgroup would. In the middle of an
//! execve(2) a process has no environment for a moment, so after the reaping one look may miss it: look again.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::environ;
use super::process::{PidFd, Stat};

/// Whose processes.
#[derive(Clone, Debug)]
pub struct Worker<'a> {
    /// The worker's process.
    pub pidfd: &'a PidFd,
    /// Its number.
    pub pid: u32,
    /// The worker's id, as in its `RATOON_WORKER`.
    pub id: u64,
    /// Its `NOTIFY_SOCKET`.
    pub notify_socket: PathBuf,
}

/// No more than this many looks at all processes: who forks faster is left to the next call.
const ROUNDS: usize = 8;

/// No more than this many processes at once: each takes a descriptor.
const HELD: usize = 4096;

/// Kills (SIGKILL) every process of a worker, itself included, and returns the number and the name of each that was hit.
///
/// All are stopped before the first is killed: who is stopped can't fork, and remains the parent by which its children
/// are known. Reads all of /proc at least twice: some milliseconds for a thousand processes.
pub fn kill(worker: &Worker<'_>) -> Vec<(u32, Vec<u8>)> {
    let mut held: HashMap<Process, PidFd> = HashMap::new();
    for _ in 0..ROUNDS {
        let before = held.len();
        for found in find(worker) {
            if !held.contains_key(&found.process)
                && held.len() < HELD
                && let Some(pidfd) = open(worker, &found)
                && pidfd.signal(libc::SIGSTOP).is_ok()
            {
                held.insert(found.process, pidfd);
            }
        }
        // Who was forked while we looked is seen in the next round.
        if held.len() == before {
            break;
        }
    }
    // The names first: of a process that is gone nothing is known.
    let named: Vec<_> =
        held.iter().map(|((pid, _), pidfd)| (pidfd, *pid, super::process::name(*pid).unwrap_or_default())).collect();
    named.into_iter().filter(|(pidfd, ..)| pidfd.signal(libc::SIGKILL).is_ok()).map(|(_, pid, name)| (pid, name)).collect()
}

/// The living processes of a worker, itself included. Reads all of /proc.
pub fn living(worker: &Worker<'_>) -> Vec<(u32, PidFd)> {
    find(worker).iter().take(HELD).filter_map(|found| Some((found.process.0, open(worker, found)?))).collect()
}

/// Whether a process of the worker, itself included, is still alive.
pub fn any_left(worker: &Worker<'_>) -> bool {
    !find(worker).is_empty()
}

/// Whether the process with this number is one of the worker's; ask with its pidfd open. Looks at it and its parents only.
pub fn is_one(worker: &Worker<'_>, pid: u32) -> bool {
    let look = |pid| Stat::read(pid).map(|stat| (stat.parent, stat.start));
    let Some(stat) = Stat::read(pid).filter(|stat| !matches!(stat.state, b'Z' | b'X')) else { return false };
    let kin = stat.session == worker.pid || ancestry(worker.pid, pid, look).is_some();
    // Asked after the look: then the number was the worker's own all the time.
    (kin && worker.pidfd.signal(0).is_ok()) || has_marks(pid, worker)
}

/// The worker's id that stands in a process's environment: to be checked with [`has_marks`], since anybody can write it.
pub fn mark(pid: u32) -> Option<u64> {
    let environment = environ::read(pid)?;
    let mark = environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(b"RATOON_WORKER="))?;
    std::str::from_utf8(mark).ok()?.parse().ok()
}

/// A process: its number and when it began.
type Process = (u32, u64);

/// A process of the worker, and why we think so.
struct Found {
    process: Process,
    why: Why,
}

#[derive(PartialEq, Eq)]
enum Why {
    /// Its environment.
    Marks,
    /// Its session.
    Session,
    /// Its parents, from itself up to the worker.
    Ancestry(Vec<Process>),
}

fn find(worker: &Worker<'_>) -> Vec<Found> {
    let own = std::process::id();
    let alive: HashMap<u32, Stat> = numbers().filter(|&pid| pid != own).filter_map(|pid| Some((pid, Stat::read(pid)?))).collect();
    // Asked after the look: then the number was the worker's own all the time.
    let unreaped = worker.pidfd.signal(0).is_ok();
    let why = |pid: u32, stat: &Stat| {
        if unreaped && stat.session == worker.pid {
            return Some(Why::Session);
        }
        let chain = unreaped.then(|| ancestry(worker.pid, pid, |pid| alive.get(&pid).map(|stat| (stat.parent, stat.start))));
        chain.flatten().map(Why::Ancestry)
    };
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for (&pid, stat) in alive.iter().filter(|(_, stat)| !matches!(stat.state, b'Z' | b'X')) {
        match why(pid, stat) {
            Some(why) => found.push(Found { process: (pid, stat.start), why }),
            None => others.push(pid),
        }
    }
    let marked = with_marks(others, worker).into_iter();
    found.extend(marked.filter_map(|pid| Some(Found { process: (pid, alive.get(&pid)?.start), why: Why::Marks })));
    found
}

/// Opens a process, and makes sure that the descriptor is of the process that was found.
fn open(worker: &Worker<'_>, found: &Found) -> Option<PidFd> {
    let (pid, start) = found.process;
    let pidfd = PidFd::open(pid).ok()?;
    // With the descriptor open, once more: is the number still that process, and is it the worker's?
    let stat = Stat::read(pid).filter(|stat| stat.start == start)?;
    let still = match &found.why {
        Why::Marks => has_marks(pid, worker),
        Why::Session => stat.session == worker.pid && worker.pidfd.signal(0).is_ok(),
        // The same parents twice: so all of them were what they seemed at once, between the two looks.
        Why::Ancestry(chain) => {
            let look = |pid| Stat::read(pid).map(|stat| (stat.parent, stat.start));
            ancestry(worker.pid, pid, look).as_ref() == Some(chain) && worker.pidfd.signal(0).is_ok()
        }
    };
    still.then_some(pidfd)
}

/// The way from a process up to the worker, both included; `look` gives a process's parent and start.
fn ancestry(worker: u32, pid: u32, look: impl Fn(u32) -> Option<Process>) -> Option<Vec<Process>> {
    let mut chain = Vec::new();
    let mut next = pid;
    // A bound, since what is read at different moments may form a circle.
    while chain.len() < 1024 {
        let (parent, start) = look(next)?;
        chain.push((next, start));
        if next == worker {
            return Some(chain);
        }
        next = parent;
    }
    None
}

/// Whether a process was executed with the worker's own marks in its environment.
pub fn has_marks(pid: u32, worker: &Worker<'_>) -> bool {
    !with_marks(vec![pid], worker).is_empty()
}

/// The processes that were executed with the worker's own marks in their environment.
fn with_marks(pids: Vec<u32>, worker: &Worker<'_>) -> Vec<u32> {
    let id = format!("RATOON_WORKER={}", worker.id);
    let socket = [b"NOTIFY_SOCKET=", worker.notify_socket.as_os_str().as_bytes()].concat();
    let marked = move |environment: Vec<u8>| {
        let has = |wanted: &[u8]| environment.split(|&byte| byte == 0).any(|entry| entry == wanted);
        (has(id.as_bytes()) && has(&socket)).then_some(())
    };
    environ::read_all(pids, marked).into_iter().map(|(pid, ())| pid).collect()
}

/// The numbers of all processes.
fn numbers() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests;
