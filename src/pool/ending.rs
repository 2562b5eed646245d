//! Classifies the end of a worker's main process: whether it is a failure, and whether the slot needs another worker.
//!
//! Law: every end that is not clean is recorded as a failure, also the end of a draining worker, which may have cut requests off.

use std::time::Duration;

use super::Pool;
use super::exit_cause::ExitCause;
use super::generation::Role;
use super::ids::{Slot, WorkerId};
use super::reason::Reason;
use super::settings::Settings;
use super::vocabulary::{Kind, Outcome};
use super::worker::{StopReason, Worker};

/// The class of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The worker ended as it was asked to, or as it had announced by `STOPPING=1`.
    Clean,
    /// The worker failed while it drained. The failure is recorded, but starts no other worker for the slot.
    FailedDrain,
    /// The worker failed before or while it served. Its slot needs another worker, or its reload fails.
    Crash,
}

/// The end of a worker's main process, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub how: ExitCause,
    pub verdict: Verdict,
    /// The end is a failure of a worker that was not asked to end.
    pub unasked: bool,
}

impl Ending {
    /// The end of a worker that was not asked to end and sent no `STOPPING=1`.
    pub fn unasked(how: ExitCause) -> Ending {
        Ending { how, verdict: Verdict::Crash, unasked: true }
    }

    /// Classifies the end of `worker`, whose `how` is not set yet. `killed`: the worker got SIGKILL because it had not stopped in time,
    /// or because the whole instance ends at once.
    pub fn of(worker: &Worker, how: ExitCause, killed: bool, settings: &Settings) -> Ending {
        let clean = is_clean(&how, settings.stop_signal);
        let failed_drain = |how, unasked| Ending { how, verdict: Verdict::FailedDrain, unasked };
        match worker.stop_reason {
            None => Ending::unasked(how),
            Some(StopReason::StartTimeout(limit)) => Ending::unasked(ExitCause::StartTimeout(limit)),
            Some(StopReason::Watchdog) => Ending::unasked(ExitCause::Watchdog),
            Some(StopReason::Asked | StopReason::Leaving | StopReason::LeavingAtOnce) if worker.killed => {
                failed_drain(ExitCause::StopTimeout(settings.stop_timeout), false)
            }
            Some(StopReason::LeavingAtOnce) => failed_drain(if clean { ExitCause::Left } else { how }, true),
            Some(StopReason::Leaving) if !clean && !killed => failed_drain(how, true),
            Some(StopReason::Asked) if !clean && !killed => failed_drain(how, false),
            Some(StopReason::Asked | StopReason::Leaving) => Ending { how, verdict: Verdict::Clean, unasked: false },
        }
    }
}

/// Whether a worker that was told to stop ended cleanly: with status 0, or by the stop signal, which shells and Java report as status
/// 128 + the signal's number.
fn is_clean(how: &ExitCause, stop_signal: i32) -> bool {
    match how {
        ExitCause::Exit(status) => *status == 0 || *status == 128 + stop_signal,
        ExitCause::Signal { signal, core: _ } => *signal == stop_signal,
        // No program ran, the end is not known, or the end was clean by definition.
        ExitCause::NotStarted(_) | ExitCause::Unknown | ExitCause::Left => true,
        ExitCause::OutOfMemory | ExitCause::StartTimeout(_) | ExitCause::StopTimeout(_) | ExitCause::Watchdog => false,
    }
}

impl Pool {
    /// A worker sent `STOPPING=1`. Its replacement starts at once if the worker was ready for `restart.initial`; else the backoff applies.
    pub(super) fn leaves(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (generation, slot) = (worker.generation, worker.slot);
        let ready_for = worker.ready_at.map(|since| self.now - since);
        let Some(home) = self.generations.get_mut(&generation) else { return };
        let (role, lived) = (home.role, ready_for.is_some_and(|life| life >= home.settings.restart.initial));
        match role {
            _ if self.workers.get(&id).is_some_and(|worker| worker.is_probe) => {
                let reason = self.reason(id, "it left by its own will (STOPPING=1)".to_owned());
                self.drain(id, StopReason::Leaving);
                self.probe_failed(id, reason);
            }
            _ if self.workers.get(&id).is_some_and(|worker| worker.is_preload()) => {
                let reason = self.reason(id, "it left by its own will (STOPPING=1)".to_owned());
                self.drain(id, StopReason::Leaving);
                self.preload_failed(id, reason);
            }
            Role::Candidate => {
                let reason = self.reason(id, "it left by its own will (STOPPING=1)".to_owned());
                self.drain(id, StopReason::Leaving);
                self.rollback(Outcome::RolledBack, reason);
            }
            Role::Current => {
                self.drain(id, StopReason::Leaving);
                if self.unlink(id) {
                    let delay = if lived { Duration::ZERO } else { self.strike(generation, slot, ready_for) };
                    if !delay.is_zero() {
                        self.leaves_at_once(id, slot);
                    }
                    self.restart_in(generation, slot, delay);
                }
            }
            Role::Retired => self.drain(id, StopReason::Leaving),
        }
    }
    /// Records `STOPPING=1` as a failure, which may degrade the pool: the worker was never ready, or its slot had failed before.
    fn leaves_at_once(&mut self, id: WorkerId, slot: Slot) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.stop_reason = Some(StopReason::LeavingAtOnce);
        }
        self.remember_failure(slot, ExitCause::Left, true);
    }

    /// A worker that is not in a slot of the current generation failed: if its generation depends on it, the reload or the probe ends.
    pub(super) fn candidate_failed(&mut self, id: WorkerId, role: Role, reason: Reason) {
        if self.workers.get(&id).is_some_and(|worker| worker.is_probe) {
            self.probe_failed(id, reason);
        } else if self.workers.get(&id).is_some_and(|worker| worker.is_preload()) {
            self.preload_failed(id, reason);
        } else if role == Role::Candidate {
            self.rollback(Outcome::RolledBack, reason);
        }
    }

    /// The reason for a failure of a worker: the cause, and as its detail the worker's last `STATUS=`.
    pub(super) fn reason(&self, id: WorkerId, cause: String) -> Reason {
        let Some(worker) = self.workers.get(&id) else { return cause.into() };
        let detail = (!worker.status.is_empty()).then(|| format!("its last status: {}", worker.status));
        Reason { cause: format!("{}: {cause}", worker.named(id)), detail, output: Vec::new(), worker: Some(id) }
    }

    /// The worker was not ready in time.
    pub(super) fn start_timeout(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (generation, slot) = (worker.generation, worker.slot);
        let Some(home) = self.generations.get(&generation) else { return };
        let (role, limit) = (home.role, home.settings.start_timeout);
        let how = ExitCause::StartTimeout(limit);
        let message = format!("{} is not ready: {how}", worker.named(id));
        self.log(Kind::StartTimeout, message, Some(generation), Some((id, slot)));
        self.preload_hangs(id);
        let reason = self.reason(id, format!("{how}{}", self.why_not_ready(id)));
        self.drain(id, StopReason::StartTimeout(limit));
        self.candidate_failed(id, role, reason);
    }

    /// The worker sent no `WATCHDOG=1` in time, or `WATCHDOG=trigger`.
    pub(super) fn watchdog(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (generation, slot) = (worker.generation, worker.slot);
        let message = format!("worker {id} (slot {slot}) is silent: watchdog");
        self.log(Kind::Watchdog, message, Some(generation), Some((id, slot)));
        let reason = self.reason(id, ExitCause::Watchdog.to_string());
        self.drain(id, StopReason::Watchdog);
        if let Some(role) = self.generations.get(&generation).map(|home| home.role) {
            self.candidate_failed(id, role, reason);
        }
    }
}
