//! The first start: it ends when it cannot succeed, so that `systemctl start` fails at once and says why.
//!
//! Law: a pool that had a ready worker once goes on for ever. One that serves beside workers of an earlier master does, too.

use super::vocabulary::Kind;
use super::{Pool, Stopping};

/// Failures of every slot after which a first start cannot succeed.
const ATTEMPTS: u32 = 3;

impl Stopping {
    /// Nobody asked for the end: the instance cannot go on.
    pub(super) fn by_itself(self) -> bool {
        self.code != 0 && !self.now
    }
}

impl Pool {
    /// The same, beside workers of an earlier master, which serve: its start does not end by itself.
    #[must_use]
    pub fn beside_other_workers(mut self) -> Pool {
        self.unproven = false;
        self
    }

    /// No worker of this pool was ever ready, and some have failed.
    pub fn start_fails(&self) -> bool {
        let ends = self.stopping.is_none_or(Stopping::by_itself);
        self.unproven && ends && self.failing_slot().is_some()
    }

    /// Ends the instance when no worker was ever ready and every slot has failed [`ATTEMPTS`] times. A reload that is under way
    /// may bring a release that starts: it is waited for.
    pub(super) fn end_hopeless_start(&mut self) {
        if !self.unproven || self.stopping.is_some() || self.reload.is_some() {
            return;
        }
        let Some(home) = self.generations.get(&self.current) else { return };
        if home.slots.is_empty() || home.slots.iter().any(|place| place.consecutive_failures < ATTEMPTS) {
            return;
        }
        let Some(failures) = self.failures_in_words() else { return };
        let reason = format!("generation {} cannot start: {failures}", self.current);
        self.log(Kind::CannotStart, reason.clone(), Some(self.current), None);
        self.stop(false, 1);
        self.failure_text = Some(reason);
    }
}
