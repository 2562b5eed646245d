//! The watch (`reload.watch`): for some time after a reload the new generation is compared with the one before, and the pool undoes the
//! reload by itself if the new one is worse.
//!
//! Law: at most one undo for one reload, and none for an undo; one that the death of the master cut off begins again. While another reload is under way nothing is undone; its commit ends the
//! watch, after its rollback the watch goes on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::exit_cause::{ExitCause, Span};
use super::ids::GenerationId;
use super::reason::Reason;
use super::requesters::Requesters;
use super::settings::WatchFor;
use super::time::Time;
use super::timers::Key;
use super::verdict::{self, Comparison, Figures, Judgement};
use super::vocabulary::{Action, Kind, Outcome, Purpose};

/// The time after a commit in which failures of every slot undo the reload.
pub(super) const EVERY_SLOT_WITHIN: Duration = Duration::from_secs(30);
/// SIGKILL, signal(7). A release cannot be blamed for a single worker that somebody killed.
const SIGKILL: i32 = 9;
/// The pause before the end of a watch that came while a reload was under way is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// The watch that is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Watch {
    /// The generation that is watched.
    generation: GenerationId,
    /// The generation whose release comes back.
    before: GenerationId,
    /// The time of the commit.
    since: Time,
    /// The figures of both generations, as far as they are known.
    figures: Option<Comparison>,
    /// The undo that the watch has begun.
    undo: Option<Undo>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Undo {
    /// The number of the generation that brings the former release back.
    number: GenerationId,
    /// Why the watched generation is undone.
    why: String,
    /// The undo was rolled back, refused or aborted: the watched generation serves on, and no other undo follows.
    failed: bool,
}

/// The state of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// The generation is watched.
    Watching,
    /// The release before comes back.
    Undoing,
    /// The release before did not come up: the watched generation serves on.
    UndoFailed,
}

impl WatchState {
    /// All states.
    pub const ALL: [WatchState; 3] = [WatchState::Watching, WatchState::Undoing, WatchState::UndoFailed];

    /// The word in the status document.
    pub fn as_str(self) -> &'static str {
        match self {
            WatchState::Watching => "watching",
            WatchState::Undoing => "undoing",
            WatchState::UndoFailed => "undo-failed",
        }
    }
}

/// A watch as the front ends show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchView {
    /// The generation that is watched.
    pub generation: GenerationId,
    /// The generation whose release comes back if the watched one is worse.
    pub before: GenerationId,
    /// The state of the watch.
    pub state: WatchState,
    /// Requests are compared, too: `reload.watch` is a time.
    pub compares: bool,
    /// The time until the watch ends; `None` once it has begun an undo.
    pub left: Option<Duration>,
    /// The figures of the generation since its start, and of the one before in the lives of its last workers.
    pub figures: Option<Comparison>,
}

impl Pool {
    /// The watch that is under way.
    pub fn watch(&self) -> Option<WatchView> {
        let watch = self.watch.as_ref()?;
        Some(WatchView {
            generation: watch.generation,
            before: watch.before,
            state: match &watch.undo {
                None => WatchState::Watching,
                Some(undo) if undo.failed => WatchState::UndoFailed,
                Some(_) => WatchState::Undoing,
            },
            compares: matches!(self.watch_for(watch.generation), WatchFor::Time(_)),
            left: self.timers.get(Key::Watch).map(|at| at - self.now),
            figures: watch.figures,
        })
    }

    /// Whether this generation is to bring back the release before one that the watch undoes.
    fn is_undo_of_watch(&self, number: GenerationId) -> bool {
        self.watch.as_ref().and_then(|watch| watch.undo.as_ref()).is_some_and(|undo| undo.number == number && !undo.failed)
    }

    /// The generations whose requests the watch compares: the one before, and the watched one.
    pub(super) fn watch_compares(&self) -> Option<(GenerationId, GenerationId)> {
        let watch = self.watch.as_ref().filter(|watch| watch.undo.is_none() && self.pause.is_none())?;
        matches!(self.watch_for(watch.generation), WatchFor::Time(_)).then_some((watch.before, watch.generation))
    }

    fn watch_for(&self, generation: GenerationId) -> WatchFor {
        self.generations.get(&generation).map_or(WatchFor::Off, |home| home.settings.watch)
    }

    /// A generation was committed: its watch begins, unless it is an undo or the release before it is not kept.
    pub(super) fn begin_watch(&mut self, before: GenerationId, purpose: Purpose) {
        if self.is_undo_of_watch(self.current) {
            // The end of the undo is told by `undo_ended`.
            return;
        }
        self.end_watch();
        let time = match self.watch_for(self.current) {
            WatchFor::Off => return,
            WatchFor::EverySlot => EVERY_SLOT_WITHIN,
            WatchFor::Time(time) => time,
        };
        if purpose != Purpose::Reload || !self.keeps(before) {
            return;
        }
        self.timers.set(Key::Watch, self.after(time));
        self.watch = Some(Watch { generation: self.current, before, since: self.now, figures: None, undo: None });
    }

    /// Ends the watch without a verdict.
    pub(super) fn end_watch(&mut self) {
        self.watch = None;
        self.timers.clear(Key::Watch);
    }

    /// New figures of the watched generation, and of the one before in the lives of its last workers.
    pub(super) fn watch_compared(&mut self, number: GenerationId, figures: Option<Comparison>) {
        let Some(watch) = self.watch.as_mut().filter(|watch| watch.generation == number && watch.undo.is_none()) else { return };
        let known = watch.figures.unwrap_or_default();
        // The workers of the generation before exit, and another master may not know them: what was known of them stays.
        let old = |seen: Figures| if seen.requests < known.old.requests { known.old } else { seen };
        watch.figures = figures.map(|seen| Comparison { old: old(seen.old), ..seen }).or(watch.figures);
        if let Some(Judgement::Fails(why)) = self.watch_verdict(verdict::EARLY) {
            self.undo_watched(why);
        }
    }

    fn watch_verdict(&self, quantile: f64) -> Option<Judgement> {
        let watch = self.watch.as_ref()?;
        Some(verdict::judge(watch.figures?, self.generations.get(&watch.generation)?.settings.steps.judge, quantile))
    }

    /// Undoes the watched generation if every slot of it has failed, or if it is degraded. Called after every step.
    pub(super) fn check_watch(&mut self) {
        let Some(watch) = self.watch.as_ref().filter(|watch| watch.undo.is_none()) else { return };
        let Some(home) = self.generations.get(&watch.generation) else { return };
        let early = self.now < watch.since + EVERY_SLOT_WITHIN;
        let failures = home.slots.iter().filter_map(|place| place.failures.as_ref().filter(|failures| failures.last.is_some()));
        let (slots, total) = failures.fold((0, 0), |(slots, total), failures| (slots + 1, total + failures.at.len()));
        if early && slots == home.slots.len() {
            let last = home.slots.iter().filter_map(|place| place.failures.as_ref()?.last.as_ref()).next_back();
            let killed_once =
                total == 1 && last.is_some_and(|failure| matches!(failure.how, ExitCause::Signal { signal: SIGKILL, .. }));
            if !killed_once {
                let how = last.map_or(String::new(), |failure| format!(" ({})", failure.how));
                return self.undo_watched(format!("every slot has failed within {} of the commit{how}", Span(EVERY_SLOT_WITHIN)));
            }
        }
        if self.degraded && self.watch_compares().is_some() {
            let how = self.failures_in_words().map_or(String::new(), |failures| format!(": {failures}"));
            self.undo_watched(format!("the pool is degraded{how}"));
        }
    }

    /// The time of the watch is over: the last verdict.
    pub(super) fn watch_over(&mut self) {
        let Some(watch) = self.watch.as_ref().filter(|watch| watch.undo.is_none()) else { return };
        let number = watch.generation;
        if self.reload.is_some() {
            return self.timers.set(Key::Watch, self.after(AGAIN));
        }
        let told = match self.watch_verdict(verdict::FINAL) {
            Some(Judgement::Fails(why)) => return self.undo_watched(why),
            Some(Judgement::Unknown(why)) => format!(": {why}"),
            Some(Judgement::Passes) => String::new(),
            None => ": its workers count no requests, so only their failures were watched".to_owned(),
        };
        if let WatchFor::Time(time) = self.watch_for(number) {
            let message = format!("generation {number} has passed its watch of {}{told}", Span(time));
            self.log(Kind::Info, message, Some(number), None);
        }
        self.end_watch();
    }

    /// The master before this one died: rolls the running reload back. If that is the undo of the watch, for which nobody asked, it begins
    /// again, after a reload that waited for its end.
    pub(super) fn master_died(&mut self) {
        let Some(number) = self.candidate() else { return };
        let is_undo = self.is_undo_of_watch(number);
        self.rollback(Outcome::Aborted, "the master died meanwhile".into());
        let Some(Undo { why, .. }) = self.watch.as_mut().filter(|_| is_undo).and_then(|watch| watch.undo.take()) else { return };
        self.failure_text = None;
        self.timers.set(Key::Watch, self.after(AGAIN));
        self.undo_watched(why);
    }

    /// Begins to go back to the release before the watched one.
    fn undo_watched(&mut self, why: String) {
        if self.reload.is_some() || self.stopping.is_some() || self.pause.is_some() {
            // Looked at again after the reload, or the pause.
            return;
        }
        let Some(watch) = &mut self.watch else { return };
        let (generation, before, number) = (watch.generation, watch.before, self.last_number + 1);
        watch.undo = Some(Undo { number, why: why.clone(), failed: false });
        self.timers.clear(Key::Watch);
        match self.undo_target(Some(before)) {
            Ok(target) => {
                self.log(Kind::Undone, format!("generation {generation} is undone: {why}"), Some(generation), None);
                self.begin_undo(target, Requesters::default());
            }
            Err(refusal) => {
                self.end_watch();
                let message = format!("generation {generation} is not undone ({why}): {refusal}");
                self.log(Kind::Warning, message, Some(generation), None);
            }
        }
    }

    /// A reload has ended: if it was the undo of the watch, tells whether the watched generation is undone.
    pub(super) fn undo_ended(&mut self, number: GenerationId, outcome: Outcome) {
        if !self.is_undo_of_watch(number) {
            return;
        }
        let Some(Watch { generation, undo: Some(undo), .. }) = &mut self.watch else { return };
        let (generation, why) = (*generation, undo.why.clone());
        if outcome == Outcome::Committed {
            self.end_watch();
            self.failure_text = Some(format!("generation {generation} was undone: {why}"));
            let release = self.release_of(number);
            return self.act(Action::Undone { generation, release, reason: Reason::from(why) });
        }
        undo.failed = true;
        let failure = self.failure_text.take().unwrap_or_else(|| outcome.as_str().to_owned());
        self.failure_text = Some(format!("generation {generation} was to be undone ({why}), but: {failure}"));
    }
}
