//! Decides when a starting worker is ready, from its READY=1 and from observations from outside.
//!
//! Many servers send READY=1 too early: gunicorn's parent process sends it before the application is imported. With
//! `worker.ready = "auto"` READY=1 therefore counts only together with an observation from outside that the worker accepts.

use std::time::Duration;

use super::Pool;
use super::ids::{GenerationId, WorkerId};
use super::settings::{Accepting, Readiness};
use super::timers::Key;
use super::worker::{Phase, Worker};

impl Worker {
    /// Whether the worker has a process, is not ready, and may be observed from outside.
    fn starts_unseen(&self) -> bool {
        self.phase == Phase::Starting && self.pid.is_some() && !self.is_preload()
    }
}

impl Pool {
    /// Whether the pool needs an observation from outside of this worker: the worker starts, and `worker.ready` or the length of the
    /// probation depends on the observation.
    pub fn wants_a_look(&self, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get(&id).map(|worker| &**worker).filter(|worker| worker.starts_unseen()) else {
            return false;
        };
        let settings = self.generations.get(&worker.generation).map(|home| &home.settings);
        settings
            .is_some_and(|settings| settings.listens && matches!(settings.ready, Readiness::Accepting(_) | Readiness::Auto(_)))
    }

    /// Whether the worker sent READY=1 and no observation from outside has shown that the worker accepts.
    pub fn said_ready_alone(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| worker.signs.said && worker.signs.seen.sockets == 0)
    }

    /// A worker sent READY=1.
    pub(super) fn said_ready(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.signs.said = true;
        let (generation, phase, is_preload) = (worker.generation, worker.phase, worker.is_preload());
        if let Some(home) = self.generations.get_mut(&generation).filter(|_| !is_preload) {
            home.says_ready = true;
        }
        if phase == Phase::Starting {
            self.judge_readiness(id);
        }
    }

    /// A worker was observed from outside.
    pub(super) fn seen_accepting(&mut self, id: WorkerId, seen: Accepting) {
        // The worker may have ended since the observation; that is not worth a log line.
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.how.is_none()) else { return };
        worker.signs.seen = seen;
        if worker.phase == Phase::Starting {
            self.judge_readiness(id);
        }
    }

    fn judge_readiness(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| !worker.awaits_fork()) else { return };
        if worker.is_preload() {
            // A preload process has no socket; READY=1 is its promise that it can fork.
            return if worker.signs.said {
                self.become_ready(id)
            };
        }
        let (signs, generation) = (worker.signs, worker.generation);
        let Some(home) = self.generations.get(&generation) else { return };
        let accepts = self.accepts_enough(generation, signs.seen);
        match home.settings.ready {
            Readiness::Notify | Readiness::Running(_) if signs.said => self.become_ready(id),
            Readiness::Accepting(_) if accepts => self.become_ready(id),
            Readiness::Accepting(_) | Readiness::Auto(_) if signs.said && (accepts || signs.seen.hidden) => self.become_ready(id),
            Readiness::Auto(settle) | Readiness::Accepting(settle) if !signs.said => {
                // The settle time starts with the first observation that the worker accepts.
                let waits = self.timers.is_set(Key::Settle(id));
                match accepts || signs.seen.hidden {
                    true if !waits => self.timers.set(Key::Settle(id), self.after(settle)),
                    false => self.timers.clear(Key::Settle(id)),
                    true => {}
                }
            }
            Readiness::Notify | Readiness::Running(_) | Readiness::Accepting(_) | Readiness::Auto(_) => {}
        }
    }

    /// `worker.settle` is over. With `worker.ready = "running"` the worker has lived for so long; otherwise it has sent no READY=1 for
    /// so long and was observed to accept, or could not be observed.
    pub(super) fn settled(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let generation = worker.generation;
        let Some(home) = self.generations.get(&generation) else { return };
        let committed_says_ready = self.generations.get(&self.current).is_some_and(|current| current.says_ready);
        match home.settings.ready {
            Readiness::Running(_) | Readiness::Accepting(_) => self.become_ready(id),
            // Workers of the committed generation send READY=1, so this worker must send it too.
            Readiness::Auto(_) if committed_says_ready => {}
            Readiness::Auto(_) => self.become_ready(id),
            Readiness::Notify => {}
        }
    }

    /// For the message of a start timeout: what the worker lacked. Empty with `notify` and `running`, and with `auto` if the worker
    /// neither sent READY=1 nor was observed to accept.
    pub(super) fn why_not_ready(&self, id: WorkerId) -> &'static str {
        let Some(worker) = self.workers.get(&id) else { return "" };
        match self.generations.get(&worker.generation).map(|home| home.settings.ready) {
            Some(Readiness::Auto(_) | Readiness::Accepting(_)) if worker.signs.said => {
                ": it said that it is ready but accepts on no listening socket, or not on all on which the workers before it accept; \
                 worker.ready = \"notify\" believes the word alone"
            }
            Some(Readiness::Auto(_)) if worker.signs.seen.sockets != 0 => {
                ": it accepts, but did not say that it is ready, as the workers before it did; worker.ready = \"accepting\" does not ask for it"
            }
            Some(Readiness::Accepting(_)) => {
                ": it accepts on no listening socket, or not on all on which the workers before it accept"
            }
            Some(Readiness::Auto(_) | Readiness::Notify | Readiness::Running(_)) | None => "",
        }
    }

    /// Whether a worker accepts on each socket on which the committed generation accepted; on at least one socket if the worker is of
    /// that generation, or if no socket of that generation is known.
    fn accepts_enough(&self, generation: GenerationId, seen: Accepting) -> bool {
        let committed = self.generations.get(&self.current).filter(|_| self.current != generation);
        let needed = committed.map_or(0, |home| home.accepted_on);
        if needed == 0 { seen.sockets != 0 } else { seen.sockets & needed == needed }
    }

    /// A worker became ready: adds the worker's sockets and evidence to its generation.
    pub(super) fn note_readiness(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (signs, generation) = (worker.signs, worker.generation);
        if let Some(home) = self.generations.get_mut(&generation) {
            home.accepted_on |= signs.seen.sockets;
            // With `notify` the configuration relies on READY=1 alone.
            let seen = signs.seen.sockets != 0 || !home.settings.listens || home.settings.ready == Readiness::Notify;
            home.proven &= signs.said && seen;
        }
    }

    /// The probation of a candidate: `reload.probation` if it is set; else zero if the candidate is proven (every worker sent READY=1 and
    /// was observed to accept), and [`UNPROVEN_PROBATION`] otherwise.
    pub(super) fn probation_of(&self, generation: GenerationId) -> Duration {
        let Some(home) = self.generations.get(&generation) else { return Duration::ZERO };
        home.settings.probation.unwrap_or(if home.proven { Duration::ZERO } else { UNPROVEN_PROBATION })
    }
}

/// The probation, if `reload.probation` is not set, of a generation in which at least one worker became ready without READY=1 or
/// without an observation that the worker accepts.
pub const UNPROVEN_PROBATION: Duration = Duration::from_secs(3);
