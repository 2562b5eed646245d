//! The fallback of a first start (`start.fallback`): when the release on disk does not come up, the last good release that the master
//! has recorded is started instead.
//!
//! Law: one fallback for a start. The pool is degraded, and says both why and what runs, until another release is committed.

use serde::{Deserialize, Serialize};

use super::Pool;
use super::ids::GenerationId;
use super::requesters::Requesters;
use super::vocabulary::{Action, Kind, Outcome, Purpose};
use super::watch::WatchState;

/// The fallback of this start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fallback {
    /// The generation of the last good release.
    number: GenerationId,
    /// Why the release on disk does not run.
    why: String,
}

impl Pool {
    /// The same pool, whose first generation is the last good release, because the one on disk could not be prepared, and why.
    #[must_use]
    pub fn instead_of_the_release_on_disk(mut self, why: String) -> Pool {
        self.fallback = Some(Fallback { number: 1, why });
        self
    }

    /// Why the last good release runs, or starts, in place of the release on disk.
    pub fn fallback(&self) -> Option<String> {
        let Fallback { why, .. } = self.fallback.as_ref()?;
        Some(format!("{why}; the last good release runs instead"))
    }

    /// The key by which the pool itself has begun this reload; `None` if it was requested.
    pub fn own_reload(&self, number: GenerationId) -> Option<&'static str> {
        let is_fallback = self.fallback.as_ref().is_some_and(|fallback| fallback.number == number);
        let is_undo = self.watch().is_some_and(|watch| watch.state == WatchState::Undoing) && self.candidate() == Some(number);
        match (is_fallback, is_undo) {
            (true, _) => Some("start.fallback"),
            (false, true) => Some("reload.watch"),
            (false, false) => None,
        }
    }

    /// The first start cannot succeed: starts the last good release, if there is one that was not tried; else ends the instance.
    pub(super) fn fall_back(&mut self, why: String) {
        let may = self.generations.get(&self.current).is_some_and(|home| home.settings.fallback);
        if !may || self.fallback.is_some() {
            let why = match self.fallback.take() {
                Some(fallback) => format!("{}; nor does the last good release: {why}", fallback.why),
                None => why,
            };
            return self.end_for(why);
        }
        self.last_number += 1;
        let number = self.last_number;
        let message = format!("{why}; starting the last good release as generation {number}");
        self.log(Kind::Degraded, message, Some(self.current), None);
        self.failure_text = None;
        self.fallback = Some(Fallback { number, why });
        self.act(Action::ReloadStarted(number, None));
        self.prepare(number, Purpose::LastGood, Requesters::default());
    }

    /// Ends the fallback if a worker of the release on disk is ready before the last good release serves.
    pub(super) fn check_fallback(&mut self) {
        let is_fallback = self.reload.as_ref().is_some_and(|reload| reload.purpose == Purpose::LastGood);
        if is_fallback && self.ready() > 0 {
            self.rollback(Outcome::Aborted, "the release on disk has come up after all".into());
        }
    }

    /// Logs that the last good release runs, if it does.
    pub(super) fn tell_fallback(&mut self) {
        if let Some(why) = self.fallback() {
            self.log(Kind::Degraded, format!("degraded: {why}"), Some(self.current), None);
        }
    }

    /// A reload has ended, and its requesters are answered.
    pub(super) fn reload_ended(&mut self, number: GenerationId, outcome: Outcome) {
        self.undo_ended(number, outcome);
        self.fallback_ended(number, outcome);
    }

    /// A reload has ended: the fallback, or one that ends the fallback.
    fn fallback_ended(&mut self, number: GenerationId, outcome: Outcome) {
        let Some(fallback) = &self.fallback else { return };
        match (fallback.number == number, outcome == Outcome::Committed) {
            (true, true) => {
                self.abandon_probe();
                self.tell_fallback();
            }
            (false, true) => {
                self.fallback = None;
                self.log(Kind::Recovered, "recovered: the release on disk serves".to_owned(), Some(number), None);
            }
            // The release on disk came up after all.
            (true, false) if self.ready() > 0 => self.fallback = None,
            (true, false) if self.stopping.is_none() => {
                let why = self.failure_text.take().unwrap_or_else(|| outcome.as_str().to_owned());
                self.fall_back(why);
            }
            (_, false) => {}
        }
    }
}
