//! What the end of a worker's main process means: whether it is a failure, and whether its slot needs another worker.
//!
//! Law: an end that was not clean is a failure with a record, also that of a worker that drains: it may have cut requests off.

use std::time::Duration;

use super::Pool;
use super::exit_cause::ExitCause;
use super::generation::Role;
use super::vocabulary::{Outcome, Settings, Slot, WorkerId};
use super::worker::{StopReason, Worker};

/// What an end is to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The worker did what it was asked to, or said that it would.
    Clean,
    /// It drained and failed at that: a record, but its slot has, or needs, no other worker because of it.
    FailedDrain,
    /// It failed while it was to serve: its slot needs another worker, or its reload fails.
    Crash,
}

/// An end as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub how: ExitCause,
    pub verdict: Verdict,
    /// A failure of a worker that nobody had asked to end.
    pub unasked: bool,
}

impl Ending {
    /// The end of a worker that nobody had asked to end.
    pub fn unasked(how: ExitCause) -> Ending {
        Ending { how, verdict: Verdict::Crash, unasked: true }
    }

    /// The end of `worker`, before it is noted in it. `killed`: SIGKILL was sent to it because it had not stopped in time, or
    /// because the whole instance was to end at once.
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

/// Whether this is how a worker ends that stops as it is told: with status 0, or by the stop signal, which shells and Java
/// report as status 128 + its number.
fn is_clean(how: &ExitCause, stop_signal: i32) -> bool {
    match how {
        ExitCause::Exit(status) => *status == 0 || *status == 128 + stop_signal,
        ExitCause::Signal { signal, core: _ } => *signal == stop_signal,
        // Nothing ran; nothing is known; or it is said by itself.
        ExitCause::NotStarted(_) | ExitCause::Unknown | ExitCause::Left => true,
        ExitCause::OutOfMemory | ExitCause::StartTimeout(_) | ExitCause::StopTimeout(_) | ExitCause::Watchdog => false,
    }
}

impl Pool {
    /// `STOPPING=1`: its replacement starts at once, if it has lived a life.
    pub(super) fn leaves(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (generation, slot) = (worker.generation, worker.slot);
        let ready_for = worker.ready_at.map(|since| self.now - since);
        let Some(home) = self.generations.get_mut(&generation) else { return };
        let (role, lived) = (home.role, ready_for.is_some_and(|life| life >= home.settings.restart.initial));
        match role {
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
    /// It is not the first of its slot to leave before it has served: that is a failure, and what the pool may be degraded by.
    fn leaves_at_once(&mut self, id: WorkerId, slot: Slot) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.stop_reason = Some(StopReason::LeavingAtOnce);
        }
        self.remember_failure(slot, ExitCause::Left, true);
    }
}
