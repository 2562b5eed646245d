//! Moves workers from one state to the next: `Starting → Ready → Draining → gone`, with their timeouts, notifications and end.
//!
//! Law: a worker leaves the table only when the last of its processes is gone ([`Event::Cleared`](super::Event::Cleared)). The
//! consequence of a worker's end for its slot is decided once, here, by the role of the worker's generation.

use std::time::Duration;

use super::Pool;
use super::ending::{Ending, Verdict};
use super::exit_cause::ExitCause;
use super::generation::Role;
use super::ids::WorkerId;
use super::reason::Cause;
use super::serving::QUEUE_DRAIN_TIMEOUT;
use super::timers::Key;
use super::vocabulary::{Action, Ended, Kind, Notification, Outcome};
use super::worker::{Phase, StopReason};

/// Longest time from the SIGABRT of a watchdog to SIGKILL: enough for a core dump.
const ABORT_GRACE: Duration = Duration::from_secs(10);

/// SIGKILL is sent again after this time if processes of the worker are still alive.
pub(super) const KILL_AGAIN: Duration = Duration::from_secs(5);

/// Upper limit of a timeout extension or watchdog interval that a worker asks for: 366 days.
pub(super) const FOREVER: Duration = Duration::from_secs(366 * 24 * 3600);

impl Pool {
    pub(super) fn main_pid(&mut self, id: WorkerId, pid: u32) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.how.is_none() && !worker.awaits_fork()) else {
            return self.ignore_event("another process of a worker that has none", Some(id));
        };
        worker.pid = Some(pid);
        self.act(Action::Changed(id));
    }

    pub(super) fn said(&mut self, id: WorkerId, said: Notification) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else { return self.ignore_event("words of an unknown worker", Some(id)) };
        if worker.how.is_some() {
            return self.orphaned_said(id, said);
        }
        if worker.awaits_fork() {
            return self.ignore_event("words of a worker that has no process yet", Some(id));
        }
        match (said, worker.phase) {
            (Notification::Ready, Phase::Starting | Phase::Ready | Phase::Draining) => self.said_ready(id),
            (Notification::Stopping, Phase::Starting | Phase::Ready) => self.leaves(id),
            (Notification::Stopping, Phase::Draining) => {}
            (Notification::Status(text), _) => {
                if worker.status != text {
                    worker.status = text;
                    self.act(Action::Changed(id));
                }
            }
            (Notification::Watchdog, Phase::Ready) => {
                if let Some(every) = worker.watchdog {
                    self.timers.set(Key::Watchdog(id), now + every);
                }
            }
            (Notification::Watchdog, Phase::Starting | Phase::Draining) => {}
            (Notification::WatchdogTrigger, Phase::Starting | Phase::Ready) => self.watchdog(id),
            (Notification::WatchdogTrigger, Phase::Draining) => {}
            (Notification::WatchdogEvery(every), phase) => {
                worker.watchdog = (!every.is_zero()).then_some(every.min(FOREVER));
                match (worker.watchdog, phase) {
                    (Some(every), Phase::Ready) => self.timers.set(Key::Watchdog(id), now + every),
                    (None, _) => self.timers.clear(Key::Watchdog(id)),
                    (Some(_), Phase::Starting | Phase::Draining) => {}
                }
            }
            // The stop timeout starts with the stop signal, which comes when the queue is empty.
            (Notification::Extend(_), Phase::Draining) if worker.draining_queue => {}
            (Notification::Extend(by), phase) => {
                let until = now + by.min(FOREVER);
                self.timers.extend(
                    match phase {
                        Phase::Starting => Key::Start(id),
                        Phase::Ready => Key::Watchdog(id),
                        Phase::Draining => Key::Stop(id),
                    },
                    until,
                );
            }
        }
    }

    pub(super) fn become_ready(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.phase != Phase::Starting || worker.how.is_some() {
            return;
        }
        worker.phase = Phase::Ready;
        worker.ready_at = Some(now);
        worker.counted = worker.has_slot();
        let (generation, slot, watchdog) = (worker.generation, worker.slot, worker.watchdog);
        let (is_probe, is_preload) = (worker.is_probe, worker.is_preload());
        let is_relief = worker.is_relief;
        self.timers.clear(Key::Start(id));
        self.timers.clear(Key::Settle(id));
        if let Some(every) = watchdog {
            self.timers.set(Key::Watchdog(id), now + every);
        }
        self.act(Action::Changed(id));
        if is_probe {
            return self.probe_ready(id);
        }
        if is_preload {
            return self.preload_ready(id);
        }
        if is_relief {
            return self.drain(id, StopReason::Asked);
        }
        self.unproven = false;
        self.note_readiness(id);
        self.queue_is_served(id);
        let Some(home) = self.generations.get_mut(&generation) else { return };
        home.ready += 1;
        let (role, max_age) = (home.role, home.settings.max_age);
        if let Some(age) = max_age {
            // Up to a tenth earlier, so that workers that were spawned together are not recycled together.
            let age = age.mul_f64(1.0 - 0.1 * self.chance());
            self.timers.set(Key::Age(id), now + age);
        }
        match role {
            Role::Candidate => self.candidate_ready(slot),
            Role::Current => self.place_ready(id, slot),
            Role::Retired => {}
        }
    }

    /// Removes the worker from the `ready` count of its generation, and from the workers that hang.
    fn uncount(&mut self, id: WorkerId) {
        self.forget_hang(id);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if std::mem::take(&mut worker.counted) {
            let generation = worker.generation;
            if let Some(home) = self.generations.get_mut(&generation) {
                home.ready -= 1;
            }
        }
    }

    /// Asks a worker to end. The caller has removed the worker from its slot, or leaves it there until its last process is gone.
    pub(super) fn drain(&mut self, id: WorkerId, stop_reason: StopReason) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.phase == Phase::Draining || worker.how.is_some() {
            return;
        }
        let draining_queue = stop_reason == StopReason::Asked && self.has_a_queue_to_empty(id);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.phase = Phase::Draining;
        worker.stop_reason = Some(stop_reason);
        worker.draining_queue = draining_queue;
        let (has_process, generation) = (worker.pid.is_some(), worker.generation);
        if draining_queue && self.avoided(id).is_some() {
            // It does not empty its queue itself.
            self.relieve_hung(id);
        }
        if stop_reason == StopReason::Asked {
            self.preload_dismissed(id);
        }
        self.uncount(id);
        self.timers.clear_worker(id);
        self.recycle_failed(id, "its replacement did not get ready");
        let mut grace = self.generations.get(&generation).map_or(Duration::ZERO, |home| home.settings.stop_timeout);
        if stop_reason == StopReason::Watchdog {
            grace = grace.min(ABORT_GRACE);
        }
        self.timers.set(Key::Stop(id), self.after(if draining_queue { QUEUE_DRAIN_TIMEOUT } else { grace }));
        if has_process {
            match stop_reason {
                StopReason::Asked if draining_queue => self.act(Action::DrainQueue(id)),
                StopReason::Asked | StopReason::StartTimeout(_) => self.act(Action::Stop(id)),
                StopReason::Watchdog => self.act(Action::Abort(id)),
                StopReason::Leaving | StopReason::LeavingAtOnce => {}
            }
        }
        self.act(Action::Changed(id));
    }

    pub(super) fn stop_timeout(&mut self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(|worker| worker.draining_queue) {
            return self.queue_is_left(id);
        }
        if self.workers.get(&id).is_some_and(|worker| worker.pid.is_none()) {
            self.preload_hangs(id);
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let again = std::mem::replace(&mut worker.killed, true) || worker.how.is_some();
        let (generation, slot) = (worker.generation, worker.slot);
        if !again {
            let message = format!("worker {id} (slot {slot}) did not stop in time: SIGKILL");
            self.log(Kind::StopTimeout, message, Some(generation), Some((id, slot)));
        }
        self.act(Action::Kill(id));
        self.timers.set(Key::Stop(id), self.after(KILL_AGAIN));
    }

    /// The main process of a worker ended; `left`: other processes of the worker still live.
    pub(super) fn exited(&mut self, id: WorkerId, how: ExitCause, left: bool) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else { return self.ignore_event("the end of an unknown worker", Some(id)) };
        if worker.how.is_some() {
            return self.ignore_event("a second end of one worker", Some(id));
        }
        let (generation, slot) = (worker.generation, worker.slot);
        let killed_by_us = worker.killed || self.stopping.as_ref().is_some_and(|stopping| stopping.now);
        let ending = match self.generations.get(&generation) {
            Some(home) => Ending::of(worker, how, killed_by_us, &home.settings),
            None => Ending::unasked(how),
        };
        let (how, crashed) = (ending.how, ending.verdict == Verdict::Crash);
        let ready_for = worker.ready_at.map(|since| now - since);
        worker.how = Some(Box::new(how.clone()));
        let leaves_a_queue = ready_for.is_some() && (worker.draining_queue || worker.stop_reason != Some(StopReason::Asked));
        worker.draining_queue = false;
        let phase = match (worker.phase, worker.stop_reason) {
            (Phase::Starting, _) | (Phase::Draining, Some(StopReason::StartTimeout(_))) => Phase::Starting,
            (Phase::Ready, _) | (Phase::Draining, Some(StopReason::Watchdog)) => Phase::Ready,
            (Phase::Draining, _) => Phase::Draining,
        };
        let (pid, status, is_probe, is_preload) = (worker.pid, worker.status.clone(), worker.is_probe, worker.is_preload());
        worker.has_process_now();
        let reason = self.reason(id, Cause { how: how.clone(), phase }.to_string());
        self.uncount(id);
        for key in [Key::Start(id), Key::Settle(id), Key::Watchdog(id), Key::Age(id)] {
            self.timers.clear(key);
        }
        let failed = ending.verdict != Verdict::Clean;
        self.act(Action::Ended(Ended { worker: id, slot, generation, pid, how: how.clone(), phase, failed, status }));
        self.crashes += u64::from(ending.unasked && !is_preload);
        if failed && !crashed && !matches!(how, ExitCause::StopTimeout(_)) {
            self.log(Kind::WorkerFailed, reason.in_full(), Some(generation), Some((id, slot)));
        }
        if crashed {
            // A start timeout was logged when it expired.
            if !matches!(how, ExitCause::StartTimeout(_)) {
                self.log(Kind::WorkerFailed, reason.in_full(), Some(generation), Some((id, slot)));
            }
            self.recycle_failed(id, &reason.cause);
            match self.generations.get(&generation).map(|home| home.role).filter(|_| !is_probe && !is_preload) {
                Some(Role::Candidate) => self.rollback(Outcome::RolledBack, reason.clone()),
                Some(Role::Current) => self.place_crashed(id, slot, ready_for, &how),
                Some(Role::Retired) | None => {}
            }
        }
        if is_probe && failed {
            self.probe_failed(id, reason);
        } else if is_preload {
            self.preload_failed(id, reason);
        }
        if leaves_a_queue && !is_probe && !is_preload {
            self.relieve(id);
        }
        if left { self.orphaned(id, crashed || killed_by_us) } else { self.cleared(id) }
    }

    /// The last process of the worker is gone.
    pub(super) fn cleared(&mut self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(|worker| worker.how.is_none()) {
            return self.ignore_event("nothing left of a worker that lives", Some(id));
        }
        let Some(worker) = self.workers.remove(&id) else {
            return self.ignore_event("nothing left of an unknown worker", Some(id));
        };
        self.timers.clear_worker(id);
        self.act(Action::Forget(id));
        let (generation, slot) = (worker.generation, worker.slot);
        if let Some(home) = self.generations.get_mut(&generation) {
            home.members -= 1;
            if home.role == Role::Current {
                self.place_cleared(id, slot);
            }
        }
        self.holder_gone(id, slot);
        self.yielded(id);
        self.probe_cleared(id);
        self.release_if_empty(generation);
    }
}
