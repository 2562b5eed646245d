//! Checks the process that sent a notification.
//!
//! Law: only processes of a worker may send notifications for it, whatever their user is. A process belongs to the worker by its
//! control group, its parents or its session; a process that has lost all of these belongs to the worker by its environment.
//! A process that exits before its datagram is read (`systemd-notify` in a script) cannot be examined. Its notification is accepted
//! if its user is the worker's user, or the user of the worker's main process.

use crate::master::workers::WorkerSet;
use crate::master::workers::processes::Process;
use crate::pool::WorkerId;
use crate::sys::credentials::own_uid;
use crate::sys::descendants;
use crate::sys::process::{Stat, effective_uid};

/// The most parents that are followed; more than any process has.
const PARENTS_MAX: usize = 1024;

/// The end of the walk from a process up its parents.
#[derive(Debug, PartialEq, Eq)]
enum Descent {
    /// A main process or a session of this worker was found.
    Worker(WorkerId),
    /// The walk ended at the master, which is the parent of processes that have lost theirs.
    Orphan,
    /// The walk ended at a process outside of the instance.
    Stranger,
    /// The process itself has ended.
    Ended,
}

impl WorkerSet {
    /// Checks whether this process may send notifications for the worker.
    ///
    /// # Errors
    /// It may not. The text is the same for all processes of a kind, because it is logged once.
    pub(in crate::master) fn check_sender(
        &self,
        worker: WorkerId,
        process: &Process,
        uid: Option<u32>,
        pid: Option<u32>,
    ) -> Result<(), String> {
        let Some(uid) = uid else { return Err("a message without credentials".to_owned()) };
        let foreign = || Err(format!("a message of user {uid} from a process that is none of the worker's"));
        // A sender in an outer PID namespace has no process id here.
        let Some(pid) = pid else { return foreign() };
        let owner = |pid: u32| self.pids.get(&pid).copied();
        if process.group.as_ref().is_some_and(|group| owner(pid) != Some(worker) && group.holds(pid)) {
            return Ok(());
        }
        let own = std::process::id();
        let found = match descent(pid, own, owner, |pid| Stat::read(pid).map(|stat| (stat.parent, stat.session))) {
            Descent::Worker(found) => Some(found),
            Descent::Orphan if process.group.is_none() => self.marked(pid),
            Descent::Orphan | Descent::Stranger => None,
            Descent::Ended => {
                let known = uid == process.owner().map_or_else(own_uid, |(uid, _)| uid);
                return if known || effective_uid(process.pid) == Some(uid) { Ok(()) } else { foreign() };
            }
        };
        match found {
            Some(found) if found == worker => Ok(()),
            Some(other) => Err(format!("a message that worker {other} sent in its name")),
            None => foreign(),
        }
    }

    /// The worker to which a process belongs by the variables in its environment.
    fn marked(&self, pid: u32) -> Option<WorkerId> {
        let worker = descendants::mark(pid)?;
        let process = self.processes.get(&worker)?;
        descendants::has_marks(pid, &Self::family(&self.runtime_dir, worker, process)).then_some(worker)
    }
}

/// Walks up the parents of a process. `owner` returns the worker whose main process has this id; `look` returns the parent and the
/// session of a process.
fn descent(pid: u32, own: u32, owner: impl Fn(u32) -> Option<WorkerId>, look: impl Fn(u32) -> Option<(u32, u32)>) -> Descent {
    let mut next = pid;
    for _ in 0..PARENTS_MAX {
        if let Some(worker) = owner(next) {
            return Descent::Worker(worker);
        }
        let Some((parent, session)) = look(next) else {
            return if next == pid { Descent::Ended } else { Descent::Stranger };
        };
        if let Some(worker) = owner(session) {
            return Descent::Worker(worker);
        }
        match parent {
            0 | 1 if parent != own => return Descent::Stranger,
            // The parent is compared, not the process itself, so that the master is no orphan.
            parent if parent == own => return Descent::Orphan,
            parent => next = parent,
        }
    }
    Descent::Stranger
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descent_ends_at_worker_master_or_outside() {
        // The master is 10, the worker's main process 20 with session 20.
        let owner = |pid: u32| (pid == 20).then_some(7);
        let look = |pid: u32| match pid {
            20 => Some((10, 20)),
            21 => Some((20, 20)),
            22 => Some((21, 22)),
            30 => Some((10, 30)),
            31 => Some((30, 30)),
            32 => Some((10, 20)),
            40 => Some((1, 40)),
            50 => Some((51, 50)),
            _ => None,
        };
        let found = |pid| descent(pid, 10, owner, look);
        assert_eq!([20, 21, 22, 32].map(found), [7; 4].map(Descent::Worker), "itself, child, grandchild, session");
        assert_eq!([30, 31].map(found), [Descent::Orphan, Descent::Orphan]);
        assert_eq!([40, 50, 60].map(found), [Descent::Stranger, Descent::Stranger, Descent::Ended]);
        // A master with PID 1 is the parent of all orphaned processes.
        assert_eq!(descent(40, 1, owner, look), Descent::Orphan);
        let circle = |pid: u32| Some((pid ^ 1, 99));
        assert_eq!(descent(2, 10, owner, circle), Descent::Stranger);
    }
}
