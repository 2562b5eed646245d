//! The requesters of a reload or a probe: they get its outcome, and it may end when they go away.

use serde::{Deserialize, Serialize};

use super::Pool;
use super::ids::RequesterId;
use super::vocabulary::{Answer, Outcome};

/// The requesters of a reload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Requesters {
    pub(super) waiting: Vec<RequesterId>,
    /// A request without a waiting requester (SIGHUP) was made: the reload runs to its end, whichever requesters disconnect.
    pub(super) unattended: bool,
}

impl Requesters {
    pub(super) fn join(&mut self, requester: Option<RequesterId>) {
        match requester {
            Some(requester) => self.waiting.push(requester),
            None => self.unattended = true,
        }
    }

    /// Removes a requester. Returns whether it was the last one and the reload has no unattended request.
    pub(super) fn leave(&mut self, requester: RequesterId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| *waiting != requester);
        self.waiting.len() < before && self.waiting.is_empty() && !self.unattended
    }
}

impl Pool {
    /// The answer to a reload that cannot begin, because the instance stops.
    pub(super) fn aborted_by_stop(&self) -> Answer {
        Answer::Reload(self.last_number + 1, Outcome::Aborted, "the instance is stopping".into())
    }
}
