//! The first start: the instance ends if its start cannot succeed, so that `systemctl start` fails at once and says why.
//!
//! Law: a failing start does not end the instance if a worker of the pool was ever ready, or if workers of an earlier master serve.

use serde::{Deserialize, Serialize};

use super::Pool;
use super::vocabulary::Kind;

/// The number of failures of each slot after which a first start counts as hopeless.
const ATTEMPTS: u32 = 3;

/// The end of the instance.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Stopping {
    /// The exit status.
    pub code: u8,
    /// The workers are killed, not drained.
    pub now: bool,
    /// [`Action::Exit`](super::Action::Exit) was returned.
    pub exited: bool,
}

impl Stopping {
    /// Whether the instance ends by itself, because it cannot go on, and not on request.
    pub(super) fn by_itself(self) -> bool {
        self.code != 0 && !self.now
    }
}

impl Pool {
    /// The same pool, whose failed start does not end the instance, because workers of an earlier master still serve.
    #[must_use]
    pub fn beside_other_workers(mut self) -> Pool {
        self.unproven = false;
        self
    }

    /// Whether no worker of this pool was ever ready and some have failed.
    pub fn start_fails(&self) -> bool {
        let ends = self.stopping.is_none_or(Stopping::by_itself);
        self.unproven && ends && (self.failing_slot().is_some() || self.probe.is_some() && self.failure_text.is_some())
    }

    /// Ends the instance when no worker was ever ready and every slot has failed [`ATTEMPTS`] times. Not during a reload, whose release
    /// may be able to start.
    pub(super) fn end_hopeless_start(&mut self) {
        if !self.unproven || self.stopping.is_some() || self.reload.is_some() {
            return;
        }
        let Some(home) = self.generations.get(&self.current) else { return };
        if home.slots.is_empty() || home.slots.iter().any(|place| place.consecutive_failures < ATTEMPTS) {
            return;
        }
        let Some(failures) = self.failures_in_words() else { return };
        self.fall_back(format!("generation {} cannot start: {failures}", self.current));
    }

    /// Ends the instance with status 1, because its first start cannot succeed.
    pub(super) fn end_for(&mut self, reason: String) {
        self.log(Kind::CannotStart, reason.clone(), Some(self.current), None);
        self.stop(false, 1);
        self.failure_text = Some(reason);
    }
}
