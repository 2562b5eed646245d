//! When a starting worker is ready: what it said, and what was seen of it from outside.
//!
//! READY=1 is a promise that many servers break: gunicorn's parent process says it before the application is imported. So with
//! `worker.ready = "auto"` it counts only together with a look from outside, which shows that the worker accepts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::timers::Key;
use super::vocabulary::{Accepting, GenerationId, Readiness, WorkerId};
use super::worker::Phase;

/// What is known of a worker's readiness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signs {
    /// It said READY=1.
    pub said: bool,
    /// What the last look from outside showed.
    pub seen: Accepting,
}

impl Pool {
    /// READY=1.
    pub(super) fn said_ready(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.signs.said = true;
        let (generation, phase) = (worker.generation, worker.phase);
        if let Some(home) = self.generations.get_mut(&generation) {
            home.says_ready = true;
        }
        if phase == Phase::Starting {
            self.judge_readiness(id);
        }
    }

    /// A look from outside.
    pub(super) fn seen_accepting(&mut self, id: WorkerId, seen: Accepting) {
        // A worker that has ended meanwhile is nothing to log.
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.how.is_none()) else { return };
        worker.signs.seen = seen;
        if worker.phase == Phase::Starting {
            self.judge_readiness(id);
        }
    }

    fn judge_readiness(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (signs, generation) = (worker.signs, worker.generation);
        let Some(home) = self.generations.get(&generation) else { return };
        let accepts = self.accepts_enough(generation, signs.seen);
        match home.settings.ready {
            Readiness::Notify | Readiness::Running(_) if signs.said => self.become_ready(id),
            Readiness::Accepting(_) if accepts => self.become_ready(id),
            Readiness::Accepting(_) | Readiness::Auto(_) if signs.said && (accepts || signs.seen.hidden) => self.become_ready(id),
            Readiness::Auto(settle) | Readiness::Accepting(settle) if !signs.said => {
                // Counted from the first look that shows it.
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

    /// A worker has been silent for `worker.settle`, and was seen to accept or could not be seen, or it only had to live for so long.
    pub(super) fn settled(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let generation = worker.generation;
        let Some(home) = self.generations.get(&generation) else { return };
        let committed_says_ready = self.generations.get(&self.current).is_some_and(|current| current.says_ready);
        match home.settings.ready {
            Readiness::Running(_) | Readiness::Accepting(_) => self.become_ready(id),
            // Workers of the committed generation say READY=1: so does this one, or it does not get ready.
            Readiness::Auto(_) if committed_says_ready => {}
            Readiness::Auto(_) => self.become_ready(id),
            Readiness::Notify => {}
        }
    }

    /// What a worker lacked that was not ready in time; empty when it said nothing, or its word alone was asked for.
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

    /// Whether a worker accepts on each socket on which the committed generation accepted; before there is one, on any.
    fn accepts_enough(&self, generation: GenerationId, seen: Accepting) -> bool {
        let committed = self.generations.get(&self.current).filter(|_| self.current != generation);
        let needed = committed.map_or(0, |home| home.accepted_on);
        if needed == 0 { seen.sockets != 0 } else { seen.sockets & needed == needed }
    }

    /// A worker became ready: its generation accepts on what this worker accepts on.
    pub(super) fn note_readiness(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (signs, generation) = (worker.signs, worker.generation);
        if let Some(home) = self.generations.get_mut(&generation) {
            home.accepted_on |= signs.seen.sockets;
            // With `notify` the configuration vouches for what the worker says.
            let seen = signs.seen.sockets != 0 || !home.settings.listens || home.settings.ready == Readiness::Notify;
            home.proven &= signs.said && seen;
        }
    }

    /// How long a candidate is on probation: as configured, else not at all when every worker of it said READY=1 and was seen to
    /// accept, and [`UNPROVEN_PROBATION`] otherwise.
    pub(super) fn probation_of(&self, generation: GenerationId) -> Duration {
        let Some(home) = self.generations.get(&generation) else { return Duration::ZERO };
        home.settings.probation.unwrap_or(if home.proven { Duration::ZERO } else { UNPROVEN_PROBATION })
    }
}

/// Probation of a generation whose readiness is less than certain, when `reload.probation` is not set.
pub const UNPROVEN_PROBATION: Duration = Duration::from_secs(3);
