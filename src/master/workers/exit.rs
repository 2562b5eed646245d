//! The exit of a worker: detects it by pidfd, finds the cause, reports it to the pool, and releases the worker's resources.
//!
//! Law: the notifications that a worker sent before its exit are read before the exit is reported.

use std::time::{Duration, Instant};

use crate::master::event_queue::EventQueue;
use crate::master::task_result::TaskResult;
use crate::master::workers::processes::{Process, Token};
use crate::master::workers::runtime_dir::RuntimeDir;
use crate::master::workers::start_failure;
use crate::master::workers::{Keep, WorkerSet};
use crate::pool::{Event, ExitCause, WorkerId};
use crate::status::scoreboard::Totals;
use crate::sys::awaited::is_awaited;
use crate::sys::descendants;
use crate::sys::process::{Ended, PidFd, of_the_first_thread, reap_orphans};

/// The longest wait for systemd to reap a worker that an earlier master started. Shorter than any delay before a replacement.
const REAPING: Duration = Duration::from_millis(50);

impl WorkerSet {
    /// Notes that a child has exited (SIGCHLD); see [`Self::reap`].
    pub(in crate::master) fn child_has_ended(&mut self) {
        self.child_ended = true;
    }

    /// Handles the exit of children, if one has exited and no worker waits for its start: a start is more urgent, and the check takes
    /// longer the more workers there are.
    pub(in crate::master) fn reap(&mut self, now: Instant, events: &mut EventQueue) {
        if self.to_spawn.is_empty() && std::mem::take(&mut self.child_ended) {
            self.read_all_forks(now, events);
            self.children(events);
        }
    }

    /// Does what is due: reads the sockets of paused workers again, and reports exits whose status did not come.
    pub(in crate::master) fn on_deadline(&mut self, now: Instant, keep: Keep<'_>, events: &mut EventQueue) {
        self.resume_paused(now);
        self.check_awaiting_status(now, keep, events);
    }

    /// Handles the exit of main processes.
    pub(in crate::master) fn ended(&mut self, workers: &[WorkerId], now: Instant, keep: Keep<'_>, events: &mut EventQueue) {
        if workers.is_empty() {
            return;
        }
        for worker in workers {
            self.read_all(*worker, now, keep, events);
            self.read_forks(*worker, now, events);
        }
        for error in self.errors.drain() {
            self.spawn_errors.insert(error.tag, error);
        }
        // Without control groups: a process that loses its parent becomes a child of the master. If the master has no child but the
        // workers, no worker left an orphaned process.
        let strangers = self.cgroups.is_none() && self.strangers();
        for worker in workers {
            self.one_ended(*worker, strangers, now, events);
        }
    }

    fn one_ended(&mut self, worker: WorkerId, strangers: bool, now: Instant, events: &mut EventQueue) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if process.left_behind {
            return;
        }
        let ended = match process.pidfd.peek() {
            Ok(Some(Ended::Unknown))
                if process.pidfd.lacks_status() && self.awaiting_status.get(&worker).is_none_or(|until| *until > now) =>
            {
                // The worker is not a child of this master: systemd reaps it soon, and only then the kernel gives the exit status.
                if !self.awaiting_status.contains_key(&worker) {
                    let _ = self.poll.pause(&process.pidfd, Token::Exit(worker).to_u64());
                    self.awaiting_status.insert(worker, now + REAPING);
                }
                return;
            }
            Ok(Some(ended)) => ended,
            Ok(None) => return,
            Err(_) => Ended::Unknown,
        };
        self.awaiting_status.remove(&worker);
        let _ = self.poll.remove(&process.pidfd);
        let left = match &process.group {
            Some(group) => {
                let _ = process.pidfd.wait();
                group.populated()
            }
            None => {
                // A former main process is in `pids`, so it does not count as a stranger. The main process stays a zombie until it is
                // reaped in `cleared` or `forget`.
                (strangers || !process.former().is_empty())
                    && descendants::any_left(&Self::family(&self.runtime_dir, worker, process))
            }
        };
        process.left_behind = left;
        let killed_for_memory = matches!(ended, Ended::Signal { signal: libc::SIGKILL, .. })
            && process.group.as_ref().and_then(|group| group.oom_kills()).is_some_and(|kills| kills > 0);
        let how = match (self.spawn_errors.remove(&worker), ended) {
            (Some(error), _) => ExitCause::NotStarted(start_failure::in_words(&error, &process.release)),
            (None, _) if killed_for_memory => ExitCause::OutOfMemory,
            (None, Ended::Exit(status)) => ExitCause::Exit(status),
            (None, Ended::Signal { signal, core }) => ExitCause::Signal { signal, core },
            (None, Ended::Unknown) => ExitCause::Unknown,
        };
        events.push(Event::Exited { worker, how, left });
        self.parent_ended(worker, events);
    }

    /// Reports the exit of workers whose status did not come within [`REAPING`], with an unknown cause.
    fn check_awaiting_status(&mut self, now: Instant, keep: Keep<'_>, events: &mut EventQueue) {
        let due: Vec<WorkerId> =
            self.awaiting_status.iter().filter(|(_, until)| **until <= now).map(|(worker, _)| *worker).collect();
        self.ended(&due, now, keep, events);
        for worker in due {
            self.awaiting_status.remove(&worker);
        }
    }

    /// Handles control groups that became empty.
    pub(in crate::master) fn groups_emptied(&mut self, events: &mut EventQueue) {
        let Some(cgroups) = self.cgroups.as_mut() else { return };
        for worker in cgroups.drain() {
            self.cleared(worker, events);
        }
    }

    /// Reports the workers as cleared whose main process is gone and whose control group is empty.
    pub(in crate::master) fn look_for_cleared(&mut self, events: &mut EventQueue) {
        let is_empty = |process: &Process| process.group.as_ref().is_some_and(|group| !group.populated());
        let empty: Vec<_> = self.iter().filter(|(_, it)| it.left_behind && is_empty(it)).map(|(id, _)| id).collect();
        for worker in empty {
            self.cleared(worker, events);
        }
    }

    fn cleared(&mut self, worker: WorkerId, events: &mut EventQueue) {
        if let Some(process) = self.processes.get_mut(&worker).filter(|process| process.left_behind) {
            process.left_behind = false;
            let _ = process.pidfd.wait();
            events.push(Event::Cleared(worker));
        }
    }

    /// Handles the exit of children: reaps orphaned processes, and reports the workers that have none left.
    pub(in crate::master) fn children(&mut self, events: &mut EventQueue) {
        let pids = &self.pids;
        // Not reaped here: workers; and hooks, checks and journalctl, for which a thread waits. All other children are reaped: orphaned
        // processes of workers and hooks, and children that this process had before it became the master.
        let reaped = reap_orphans(|pid| pids.contains_key(&pid) || is_awaited(pid));
        self.dismissed.retain(|pidfd| matches!(pidfd.wait(), Ok(None)));
        let reaped = reaped.unwrap_or_default();
        self.reaped_orphans(&reaped.ended, events);
        if reaped.more && !reaped.ended.is_empty() {
            // No further signal comes for the children that are left, so the next loop iteration reaps them.
            let _ = self.results.send(TaskResult::Orphans);
        }
        let waiting: Vec<WorkerId> = self
            .processes
            .iter()
            .filter(|(_, process)| process.left_behind && process.group.is_none())
            .map(|(id, _)| *id)
            .collect();
        for worker in waiting {
            let gone = self
                .processes
                .get(&worker)
                .is_some_and(|process| !descendants::any_left(&Self::family(&self.runtime_dir, worker, process)));
            if gone {
                self.cleared(worker, events);
            }
        }
        // The kernel's notification of an empty control group comes from a thread of its own, on a busy machine much later.
        self.look_for_cleared(events);
    }

    /// Handles the exit of former main processes of a worker. The worker itself goes on.
    pub(in crate::master) fn former_ended(&mut self, worker: WorkerId) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        let (poll, pids) = (&self.poll, &mut self.pids);
        let Some(more) = &mut process.more else { return };
        more.former.retain(|(pid, pidfd)| {
            let alive = matches!(pidfd.wait(), Ok(None));
            if !alive {
                let _ = poll.remove(pidfd);
                pids.remove(pid);
            }
            alive
        });
    }

    /// Whether the master has a child that is no worker: an orphaned process that a worker left.
    fn strangers(&self) -> bool {
        match of_the_first_thread() {
            // Workers are children of the loop's thread, which is another one than the first until an upgrade, so this list is short.
            Some(children) => children.iter().any(|pid| !self.pids.contains_key(pid)),
            // The kernel does not list children: the caller scans all processes instead.
            None => true,
        }
    }

    /// Reaps a child that belongs to no worker any more, now or when it exits.
    pub(in crate::master) fn dismiss(&mut self, pidfd: PidFd) {
        if matches!(pidfd.wait(), Ok(None)) {
            self.dismissed.push(pidfd);
        }
    }

    /// The data by which the processes of a worker are found.
    pub(in crate::master) fn family<'a>(
        runtime_dir: &RuntimeDir,
        worker: WorkerId,
        process: &'a Process,
    ) -> descendants::Worker<'a> {
        let notify_socket = runtime_dir.notify_path(worker);
        descendants::Worker { pidfd: &process.pidfd, pid: process.pid, id: worker, notify_socket }
    }

    /// Releases all resources of a worker that has no process left. Returns the figures that the worker reported.
    pub(in crate::master) fn forget(&mut self, worker: WorkerId) -> Option<Totals> {
        let process = self.processes.remove(&worker)?;
        self.forget_parent(worker);
        let _ = process.pidfd.wait();
        self.paused.retain(|(_, paused)| *paused != worker);
        self.awaiting_status.remove(&worker);
        self.orphaned.forget(worker);
        self.pids.remove(&process.pid);
        let poll = &self.poll;
        let _ = poll.remove(&process.pidfd);
        for (pid, pidfd) in process.former() {
            self.pids.remove(pid);
            let _ = poll.remove(pidfd);
        }
        let _ = poll.remove(&process.notify);
        if let Some(again) = &process.notify_again {
            let _ = poll.remove(again);
        }
        let _ = std::fs::remove_file(self.runtime_dir.notify_path(worker));
        let totals = process.totals();
        let process = *process;
        if let (Some(group), Some(cgroups)) = (&process.group, self.cgroups.as_mut())
            && let Err(error) = cgroups.remove(group)
        {
            self.log.warn(format!("the control group of worker {worker} stays: {error}"));
        }
        for socket in std::iter::once(process.notify).chain(process.notify_again) {
            self.close_notify(worker, socket);
        }
        for (_, pidfd) in process.more.into_iter().flat_map(|more| more.former) {
            self.dismiss(pidfd);
        }
        Some(totals)
    }
}
