//! Orphaned processes: the processes of a worker that still live after the worker's main process has ended.
//!
//! The stop signal goes to the main process only, so a wrapper that does not `exec` its server ends without the server. [`GRACE`] later
//! the orphaned processes that serve get the signal, too. When none of them serves any more, the others get SIGKILL after [`GRACE`].
//! `worker.stop_timeout` limits the whole.

use std::time::Duration;

use super::Pool;
use super::ids::WorkerId;
use super::timers::Key;
use super::vocabulary::{Action, Notification};
use super::worker::Phase;
use super::worker_states::{FOREVER, KILL_AGAIN};

/// Time for a wrapper to forward the stop signal, and for orphaned processes that serve nothing to end by themselves.
const GRACE: Duration = Duration::from_secs(1);
/// Longest wait for [`Event::Orphaned`](super::Event::Orphaned) before the next inspection: the thread may be lost, or the master replaced.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the inspections while orphaned processes serve.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Pool {
    /// The main process of a worker ended before the worker's other processes; `failed`: it crashed, or the master killed the worker.
    pub(super) fn orphaned(&mut self, id: WorkerId, failed: bool) {
        if failed || self.stopping.is_some_and(|stopping| stopping.now) {
            return self.kill_orphaned(id);
        }
        let was_ready = self.workers.get(&id).is_some_and(|worker| worker.ready_at.is_some());
        // A worker that was never ready serves no client: its processes are killed without an inspection.
        let key = if was_ready { Key::Orphaned(id) } else { Key::KillOrphaned(id) };
        self.timers.set(key, self.after(GRACE));
    }

    /// A notification from an orphaned process. Only `EXTEND_TIMEOUT_USEC=` counts: a server whose wrapper is gone may need time to drain.
    pub(super) fn orphaned_said(&mut self, id: WorkerId, said: Notification) {
        let until = match said {
            Notification::Extend(by) => self.after(by.min(FOREVER)),
            Notification::Ready
            | Notification::Stopping
            | Notification::Status(_)
            | Notification::Watchdog
            | Notification::WatchdogTrigger
            | Notification::WatchdogEvery(_) => {
                return;
            }
        };
        if self.workers.get(&id).is_some_and(|worker| worker.phase == Phase::Draining) {
            self.timers.extend(Key::Stop(id), until);
        }
    }

    /// Asks the master to inspect the orphaned processes.
    pub(super) fn look_at_orphaned(&mut self, id: WorkerId) {
        self.act(Action::DrainOrphaned(id));
        self.timers.set(Key::Orphaned(id), self.after(LOOK_TIMEOUT));
    }

    /// The master has inspected the orphaned processes and sent the stop signal to those that serve; `serving`: at least one serves.
    pub(super) fn orphans_seen(&mut self, id: WorkerId, serving: bool) {
        if self.workers.get(&id).is_none_or(|worker| worker.how.is_none()) {
            return self.ignore_event("orphaned processes of a worker whose main process lives", Some(id));
        }
        if serving {
            self.timers.clear(Key::KillOrphaned(id));
            self.timers.set(Key::Orphaned(id), self.after(LOOK_AGAIN));
        } else if !self.timers.is_set(Key::KillOrphaned(id)) {
            self.timers.clear(Key::Orphaned(id));
            self.timers.set(Key::KillOrphaned(id), self.after(GRACE));
        }
    }

    /// Kills the orphaned processes: none has served for [`GRACE`], or the pool does not wait for them.
    pub(super) fn kill_orphaned(&mut self, id: WorkerId) {
        self.timers.clear(Key::Orphaned(id));
        self.act(Action::Kill(id));
        self.timers.set(Key::Stop(id), self.after(KILL_AGAIN));
    }
}
