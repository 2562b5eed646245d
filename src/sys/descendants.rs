//! Finds and kills every process of a worker, on machines without a cgroup for the worker.
//!
//! Law: a process is killed only through a pidfd that was opened before the last check of the process's identity.
//!
//! A process belongs to a worker if its environment at execve(2) had the worker's marks: `RATOON_WORKER` and the worker's own
//! `NOTIFY_SOCKET`. While the worker itself isn't reaped, and so keeps its number, a process also belongs to it by session or by
//! ancestry. So detect the worker's exit with [`PidFd::peek`], kill its descendants, then reap it. A process that has left the
//! session, dropped its environment *and* lost its parents is not found; a cgroup would find it. During execve(2) a process
//! has no environment for a moment, so one scan after the reaping may miss it: scan again.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::environ;
use super::process::{PidFd, Stat};

/// The worker whose processes are wanted.
#[derive(Clone, Debug)]
pub struct Worker<'a> {
    /// The worker's process.
    pub pidfd: &'a PidFd,
    /// The number of the worker's process.
    pub pid: u32,
    /// The worker's id, as in its `RATOON_WORKER`.
    pub id: u64,
    /// The worker's `NOTIFY_SOCKET`.
    pub notify_socket: PathBuf,
}

/// The most scans of all processes in one call. Processes that fork faster are left to the next call.
const ROUNDS: usize = 8;

/// The most processes handled in one call, since each takes a descriptor.
const HELD: usize = 4096;

/// Kills (SIGKILL) every process of a worker, the worker included. Returns number and name of each process that got the signal.
///
/// All processes are stopped (SIGSTOP) before the first is killed: a stopped process can't fork, and remains the parent by which its
/// children are found. Reads all of /proc at least twice, which takes some milliseconds for a thousand processes.
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
        // A process that was forked during this scan is found by the next one.
        if held.len() == before {
            break;
        }
    }
    // Read the names before the kill: a process that is gone has none.
    let named: Vec<_> =
        held.iter().map(|((pid, _), pidfd)| (pidfd, *pid, super::process::name(*pid).unwrap_or_default())).collect();
    named.into_iter().filter(|(pidfd, ..)| pidfd.signal(libc::SIGKILL).is_ok()).map(|(_, pid, name)| (pid, name)).collect()
}

/// The living processes of a worker, the worker included. Reads all of /proc.
pub fn living(worker: &Worker<'_>) -> Vec<(u32, PidFd)> {
    find(worker).iter().take(HELD).filter_map(|found| Some((found.process.0, open(worker, found)?))).collect()
}

/// Whether a process of the worker, the worker included, is still alive. Reads all of /proc.
pub fn any_left(worker: &Worker<'_>) -> bool {
    !find(worker).is_empty()
}

/// Whether the process with this number belongs to the worker. Call it with a pidfd of the process open, so that the number stays its
/// own. Reads only the process and its ancestors.
pub fn is_one(worker: &Worker<'_>, pid: u32) -> bool {
    let look = |pid| Stat::read(pid).map(|stat| (stat.parent, stat.start));
    let Some(stat) = Stat::read(pid).filter(|stat| !matches!(stat.state, b'Z' | b'X')) else { return false };
    let kin = stat.session == worker.pid || ancestry(worker.pid, pid, look).is_some();
    // Checked after the read: if the worker is not reaped now, its number was its own during the read.
    (kin && worker.pidfd.signal(0).is_ok()) || has_marks(pid, worker)
}

/// The worker's id in a process's environment. Any process can set it, so check it with [`has_marks`].
pub fn mark(pid: u32) -> Option<u64> {
    let environment = environ::read(pid)?;
    let mark = environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(b"RATOON_WORKER="))?;
    std::str::from_utf8(mark).ok()?.parse().ok()
}

/// A process: its number and its start time, in clock ticks since boot.
type Process = (u32, u64);

/// A process of the worker, and the evidence for that.
struct Found {
    process: Process,
    why: Why,
}

#[derive(PartialEq, Eq)]
enum Why {
    /// The marks in its environment.
    Marks,
    /// The worker's session.
    Session,
    /// Its ancestors, from the process itself up to the worker.
    Ancestry(Vec<Process>),
}

fn find(worker: &Worker<'_>) -> Vec<Found> {
    let own = std::process::id();
    let alive: HashMap<u32, Stat> = numbers().filter(|&pid| pid != own).filter_map(|pid| Some((pid, Stat::read(pid)?))).collect();
    // Checked after the read: if the worker is not reaped now, its number was its own during the read.
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

/// Opens a pidfd of a found process, and checks that it is of this very process.
fn open(worker: &Worker<'_>, found: &Found) -> Option<PidFd> {
    let (pid, start) = found.process;
    let pidfd = PidFd::open(pid).ok()?;
    // Check again with the pidfd open: the number must still be this process, and the process must belong to the worker.
    let stat = Stat::read(pid).filter(|stat| stat.start == start)?;
    let still = match &found.why {
        Why::Marks => has_marks(pid, worker),
        Why::Session => stat.session == worker.pid && worker.pidfd.signal(0).is_ok(),
        // The same ancestors in two reads: so between the reads all of them existed at the same time.
        Why::Ancestry(chain) => {
            let look = |pid| Stat::read(pid).map(|stat| (stat.parent, stat.start));
            ancestry(worker.pid, pid, look).as_ref() == Some(chain) && worker.pidfd.signal(0).is_ok()
        }
    };
    still.then_some(pidfd)
}

/// The ancestors of a process up to the worker, both included; `None` if the worker is no ancestor. `look` gives a process's parent
/// and start time.
fn ancestry(worker: u32, pid: u32, look: impl Fn(u32) -> Option<Process>) -> Option<Vec<Process>> {
    let mut chain = Vec::new();
    let mut next = pid;
    // The length is bounded, since parents that are read at different moments may form a circle.
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
