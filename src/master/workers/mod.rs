//! Worker processes: spawn, notifications, readiness, exit, and orphaned processes.
//!
//! | module | owns |
//! |---|---|
//! | `processes` | the table of worker processes, with the resources of each |
//! | `spawn` | starts a worker |
//! | `fork` | workers that are forked from a preload process |
//! | `start_failure` | the text of a failed start |
//! | `exit` | the exit of a worker: its cause, and processes and resources that are left |
//! | `orphaned` | processes that outlive the main process of their worker |
//! | `runtime_dir` | the control socket and the workers' notify sockets |
//! | `notify_reader` | reads notifications, a bounded number per loop iteration |
//! | `sd_notify` | parses notifications (sd_notify(3)) |
//! | `senders` | which processes may send notifications for a worker |
//! | `discarder` | descriptors that workers send, closed by another process |
//! | `readiness` | observes whether starting workers accept connections |
//! | `cgroup` | control groups |
//! | `missing_limits` | limits that cannot be applied |
//! | `reports` | what other threads report of workers |
//! | `views` | what other parts of the master are told of the workers |
//! | `cpus` | the CPUs of each slot |
//! | `adopt` | processes that an earlier program of the master started |

mod adopt;
pub mod cgroup;
mod cpus;
pub(in crate::master) mod discarder;
pub(in crate::master) mod exit;
pub(in crate::master) mod fork;
pub(in crate::master) mod missing_limits;
pub(in crate::master) mod notify_reader;
pub(in crate::master) mod orphaned;
pub(in crate::master) mod processes;
pub(in crate::master) mod readiness;
pub(in crate::master) mod reports;
pub(in crate::master) mod runtime_dir;
pub mod sd_notify;
pub(in crate::master) mod senders;
pub(in crate::master) mod spawn;
pub(in crate::master) mod start_failure;
pub(in crate::master) mod views;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use self::cgroup::Cgroups;
use self::discarder::Discarder;
use self::fork::Forks;
use self::orphaned::Orphaned;
use self::processes::{Process, Processes};
use self::readiness::ReadinessWatch;
use self::runtime_dir::RuntimeDir;
use self::spawn::Pages;
use crate::master::log::Log;
use crate::master::output::Outputs;
use crate::master::task_result::{TaskResult, TaskResults};
use crate::master::tasks::Tasks;
use crate::pool::{GenerationId, Slot, WorkerId};
use crate::sys::poll::Poll;
use crate::sys::process::PidFd;
use crate::sys::spawn::{ErrorPipe, SpawnError};
use crate::table::Table;

/// Spawns per turn; further ones wait, so that signals are handled in between even with a thousand workers to start.
const SPAWNS_PER_TURN: usize = 8;

/// Keeps a notification for the next master, before it is taken from its socket.
pub(in crate::master) type Keep<'a> = &'a mut dyn FnMut(WorkerId, &[u8]);

/// Parts of the master that the workers need: descriptors and channels that the whole master shares.
pub(in crate::master) struct Shared {
    pub poll: Arc<Poll>,
    pub log: Log,
    pub outputs: Outputs,
    pub tasks: Tasks,
    /// Where tasks send their results.
    pub results: TaskResults,
}

/// The processes of all workers: starts, notifications, exits.
pub(in crate::master) struct WorkerSet {
    processes: Processes,
    /// Workers by the pid of their main process, to find the sender of a notification.
    pids: Table<u32, WorkerId>,
    /// Errors of children that could not become workers, as they come.
    errors: ErrorPipe,
    /// The same, once they are read; they are read before the exits of these children.
    spawn_errors: HashMap<WorkerId, SpawnError>,
    /// The preload processes, and the workers that they are to fork.
    forks: Forks,
    pages: Pages,
    /// Workers that are still to be spawned.
    to_spawn: VecDeque<(WorkerId, Slot, GenerationId)>,
    /// Workers that may still be spawned in this turn.
    spawns_left: usize,
    /// Exited workers whose exit status is not known yet, and until when the master waits for it.
    awaiting_status: HashMap<WorkerId, Instant>,
    /// Workers that sent too many notifications, by the time at which the master reads from them again.
    paused: BTreeSet<(Instant, WorkerId)>,
    /// A child has exited. Whether it was an orphan is checked when there is nothing more urgent.
    child_ended: bool,
    /// Child processes that the master has no use for and has not reaped yet.
    dismissed: Vec<PidFd>,
    /// Processes that outlived the main process of their worker.
    orphaned: Orphaned,
    /// Drops the descriptors that workers send.
    discarder: Discarder,
    /// Observes starting workers from outside.
    readiness: ReadinessWatch,
    runtime_dir: RuntimeDir,
    cgroups: Option<Cgroups>,
    poll: Arc<Poll>,
    log: Log,
    outputs: Outputs,
    tasks: Tasks,
    results: TaskResults,
}

impl WorkerSet {
    /// A set without workers.
    pub fn new(errors: ErrorPipe, runtime_dir: RuntimeDir, cgroups: Option<Cgroups>, shared: Shared) -> WorkerSet {
        let Shared { poll, log, outputs, tasks, results } = shared;
        let readings = results.clone();
        let readiness = ReadinessWatch::new(move |worker, observation| {
            let _ = readings.send(TaskResult::Readiness(worker, observation));
        });
        WorkerSet {
            processes: Processes::new(),
            pids: Table::new(),
            errors,
            spawn_errors: HashMap::new(),
            forks: Forks::default(),
            pages: Pages::default(),
            to_spawn: VecDeque::new(),
            spawns_left: 0,
            awaiting_status: HashMap::new(),
            paused: BTreeSet::new(),
            child_ended: false,
            dismissed: Vec::new(),
            orphaned: Orphaned::default(),
            discarder: Discarder::default(),
            readiness,
            runtime_dir,
            cgroups,
            poll,
            log,
            outputs,
            tasks,
            results,
        }
    }

    /// The process of a worker.
    pub fn get(&self, worker: WorkerId) -> Option<&Process> {
        self.processes.get(&worker).map(|process| &**process)
    }

    /// The processes of all workers, in the order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (WorkerId, &Process)> {
        self.processes.iter().map(|(worker, process)| (*worker, &**process))
    }

    /// The ids of all workers that have a process.
    pub fn ids(&self) -> Vec<WorkerId> {
        self.processes.keys().copied().collect()
    }

    /// The number of workers that have a process.
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Sends a signal to the main process of a worker.
    pub fn signal(&self, worker: WorkerId, signal: i32) {
        let Some(process) = self.get(worker) else { return };
        if let Err(error) = process.pidfd.signal(signal) {
            // ESRCH: the process has just ended; its pidfd reports that.
            if error.raw_os_error() != Some(libc::ESRCH) {
                self.log.warn(format!("cannot signal worker {worker} (pid {}): {error}", process.pid));
            }
        }
    }

    /// Asks a worker to stop, by its stop signal.
    pub fn stop(&self, worker: WorkerId) {
        self.signal(worker, self.get(worker).map_or(libc::SIGTERM, Process::stop_signal));
        // A stopped process (SIGSTOP) handles no signal before SIGCONT.
        self.signal(worker, libc::SIGCONT);
    }

    /// The runtime directory, with the control socket and the notify sockets.
    pub fn runtime_dir(&self) -> &RuntimeDir {
        &self.runtime_dir
    }

    /// The next deadline of a worker's process; see [`Self::on_deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        let paused = self.paused.first().map(|(at, _)| *at);
        paused.into_iter().chain(self.awaiting_status.values().copied()).min()
    }
}

#[cfg(test)]
mod tests;
