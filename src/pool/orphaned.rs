//! Orphaned processes: the processes of a worker that live on when its main process has ended at a stop.
//!
//! A wrapper that does not `exec` its server dies of the stop signal alone. [`GRACE`] later the orphaned processes that serve get the
//! signal, too. When none of them serves any more, the rest has [`GRACE`], then SIGKILL. `worker.stop_timeout` bounds the whole.

use std::time::Duration;

use super::Pool;
use super::timers::Key;
use super::vocabulary::{Action, Notification, WorkerId};
use super::worker::{FOREVER, KILL_AGAIN, Phase};

/// A wrapper that forwards the signal has so long to do it; processes that serve nothing have so long to end by themselves.
const GRACE: Duration = Duration::from_secs(1);
/// The answer to a look that takes longer is not waited for: its thread may be lost, or the master be another one by now.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// While orphaned processes serve, they are looked at this often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Pool {
    /// The main process of a worker has ended before other processes of the worker; `failed`: not in good order.
    pub(super) fn orphaned(&mut self, id: WorkerId, failed: bool) {
        if failed || self.stopping.is_some_and(|stopping| stopping.now) {
            return self.kill_orphaned(id);
        }
        let was_ready = self.workers.get(&id).is_some_and(|worker| worker.ready_at.is_some());
        // A start that failed has promised no client anything.
        let key = if was_ready { Key::Orphaned(id) } else { Key::KillOrphaned(id) };
        self.timers.set(key, self.after(GRACE));
    }

    /// A server whose wrapper is gone may still ask for time to drain.
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

    /// It is time to look at the orphaned processes.
    pub(super) fn look_at_orphaned(&mut self, id: WorkerId) {
        self.act(Action::DrainOrphaned(id));
        self.timers.set(Key::Orphaned(id), self.after(LOOK_TIMEOUT));
    }

    /// The orphaned processes were looked at, and those that serve have the stop signal.
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

    /// None of the orphaned processes has served for [`GRACE`], or none is to be waited for.
    pub(super) fn kill_orphaned(&mut self, id: WorkerId) {
        self.timers.clear(Key::Orphaned(id));
        self.act(Action::Kill(id));
        self.timers.set(Key::Stop(id), self.after(KILL_AGAIN));
    }
}
