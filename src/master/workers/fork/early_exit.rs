//! Forked processes that end before they have confirmed their worker.
//!
//! The first child announces the pid of the second one before it exits, and only then the second one becomes a child of the master. So
//! the master knows the pid when it reaps the process. A wrong pid harms the worker alone for which it was announced.

use super::Pending;
use crate::master::event_queue::EventQueue;
use crate::master::workers::WorkerSet;
use crate::pool::WorkerId;
use crate::sys::process::Ended;

impl WorkerSet {
    /// The preload process has announced the process that is to confirm this worker.
    pub(super) fn announced(&mut self, parent: WorkerId, worker: WorkerId, pid: u32) {
        match self.forks.pending.get_mut(&worker) {
            Some(pending) if pending.parent == parent && pending.announced.is_none() => pending.announced = Some(pid),
            Some(_) | None => self.not_asked(parent),
        }
    }

    /// Orphaned processes were reaped: the workers that one of them was to confirm do not come.
    pub(in crate::master) fn reaped_orphans(&mut self, ended: &[(u32, Ended)], events: &mut EventQueue) {
        if self.forks.pending.is_empty() {
            return;
        }
        for (pid, end) in ended {
            let of = |pending: &Pending| pending.announced == Some(*pid);
            let Some(worker) = self.forks.pending.iter().find(|(_, pending)| of(pending)).map(|(worker, _)| *worker) else {
                continue;
            };
            self.fork_failed(worker, format!("not forked: {end} before it confirmed"), events);
        }
    }
}
