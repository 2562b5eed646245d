//! The process that a notification comes from.
//!
//! Law: the socket of a worker hears the processes of that worker, whatever their user is, and no other process. A process is the
//! worker's by its control group, by its parents, or by its session; a process that has lost all of these, by its environment.
//! A process that has ended before its datagram is read (`systemd-notify` in a script) cannot be looked at any more: it is heard
//! when its user is that of the worker, or of the worker's main process.

use crate::master::turn::Master;
use crate::master::workers::processes::Process;
use crate::pool::WorkerId;
use crate::sys::credentials::own_uid;
use crate::sys::descendants;
use crate::sys::process::{Stat, effective_uid};

/// More parents than any process has.
const PARENTS_MAX: usize = 1024;

/// Where the way from a process up its parents ends.
#[derive(Debug, PartialEq, Eq)]
enum Descent {
    /// At a process of this worker.
    Worker(WorkerId),
    /// At the master, which is the parent of processes that have lost theirs.
    Orphan,
    /// Outside.
    Stranger,
    /// The process has ended.
    Ended,
}

impl Master {
    /// Whether this process may speak for the worker.
    ///
    /// # Errors
    /// Why not, in words that are the same for all processes of a kind: they are told once.
    pub(in crate::master) fn may_speak(
        &self,
        worker: WorkerId,
        process: &Process,
        uid: Option<u32>,
        pid: Option<u32>,
    ) -> Result<(), String> {
        let Some(uid) = uid else { return Err("a message without credentials".to_owned()) };
        let foreign = || Err(format!("a message of user {uid} from a process that is none of the worker's"));
        // A sender in an outer PID namespace has no number here.
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
                let configured = self.releases.get(&process.generation).and_then(|release| release.plan.identity.as_ref());
                let known = uid == configured.map_or_else(own_uid, |identity| identity.uid);
                return if known || effective_uid(process.pid) == Some(uid) { Ok(()) } else { foreign() };
            }
        };
        match found {
            Some(found) if found == worker => Ok(()),
            Some(other) => Err(format!("a message that worker {other} sent in its name")),
            None => foreign(),
        }
    }

    /// The worker whose marks a process has in its environment.
    fn marked(&self, pid: u32) -> Option<WorkerId> {
        let worker = descendants::mark(pid)?;
        let process = self.processes.get(&worker)?;
        descendants::has_marks(pid, &Self::family(&self.runtime_dir, worker, process)).then_some(worker)
    }
}

/// The way up the parents. `owner`: the worker whose main process has this number; `look`: parent and session of a process.
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
            // The master itself is no orphan of its own.
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
        // As PID 1 the master is the parent of all orphans.
        assert_eq!(descent(40, 1, owner, look), Descent::Orphan);
        let circle = |pid: u32| Some((pid ^ 1, 99));
        assert_eq!(descent(2, 10, owner, circle), Descent::Stranger);
    }
}
