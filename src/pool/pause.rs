//! The pause: all workers drain, the listening sockets stay, and connections wait in the kernel's queues until the instance resumes.
//!
//! Law: while the instance is paused no worker starts and no reload runs, so that it resumes with the generation that it had. A requester
//! of a pause is answered once: when the last worker is gone, or when the pause ends before that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::exit_cause::Span;
use super::ids::{RequesterId, Slot, WorkerId};
use super::report::workers;
use super::timers::Key;
use super::vocabulary::{Action, Answer, Kind, Outcome, Purpose};
use super::worker::StopReason;

/// The reason with which requests that need workers are refused while the instance is paused.
pub(super) const REFUSAL: &str = "the instance is paused; `ratoon resume` first";

/// The pause that is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pause {
    /// The time after which the instance resumes by itself; `None`: it waits for a request.
    length: Option<Duration>,
    /// The requesters that wait for the end of the last worker.
    waiting: Vec<RequesterId>,
    /// The rest of the watch after a commit, which goes on when the instance resumes.
    watch_left: Option<Duration>,
}

impl Pool {
    /// Whether the instance is paused.
    pub fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// The time until the instance resumes by itself; `None` without a pause, and if it waits for a request.
    pub fn pause_left(&self) -> Option<Duration> {
        self.timers.get(Key::Resume).map(|at| at - self.now)
    }

    /// Begins a pause. During a pause: sets its length anew, counted from now.
    pub(super) fn ask_pause(&mut self, length: Option<Duration>, requester: Option<RequesterId>) {
        if let Some(why) = self.pause_refusal() {
            self.log(Kind::Warning, format!("not paused: {why}"), Some(self.current), None);
            return self.answer(requester, Answer::Failed(why));
        }
        match length {
            Some(length) => self.timers.set(Key::Resume, self.after(length)),
            None => self.timers.clear(Key::Resume),
        }
        match &mut self.pause {
            Some(pause) => {
                pause.length = length;
                pause.waiting.extend(requester);
            }
            None => self.begin_pause(length, requester),
        }
    }

    /// Refuses a reload: its workers would serve while nobody is to.
    pub(super) fn refuse_reload_in_pause(&mut self, requester: Option<RequesterId>) {
        self.log(Kind::Refused, format!("the reload is refused: {REFUSAL}"), Some(self.current), None);
        self.answer(requester, Answer::Reload(0, Outcome::Refused, REFUSAL.into()));
    }

    fn pause_refusal(&self) -> Option<String> {
        if self.stopping.is_some() {
            return Some("the instance is stopping".to_owned());
        }
        if !self.announced {
            return Some("the instance still starts; ask again when it serves".to_owned());
        }
        match &self.reload {
            Some(reload) if reload.purpose != Purpose::Probe => Some(format!(
                "a reload to generation {} is under way; ask again at its end, or end it with `ratoon abort`",
                reload.number
            )),
            None if !self.is_probing() => None,
            Some(_) | None => Some("a release is probed; ask again at the end of that".to_owned()),
        }
    }

    fn begin_pause(&mut self, length: Option<Duration>, requester: Option<RequesterId>) {
        let message = format!("paused{}: {} to drain, connections wait", for_length(length), workers(self.workers.len()));
        self.log(Kind::Paused, message, Some(self.current), None);
        let watch_left = self.timers.get(Key::Watch).map(|at| at - self.now);
        self.timers.clear(Key::Watch);
        self.timers.clear(Key::GiveUp);
        self.recycle_over(&Answer::Failed(REFUSAL.to_owned()));
        self.pause = Some(Pause { length, waiting: requester.into_iter().collect(), watch_left });
        self.idling.end();
        self.drain_all();
        // The queue of a slot that stays need not be empty: its next worker serves it.
        let is_next = |slot: Slot, second: bool| slot < self.target && second == self.second_queue(self.current, slot);
        let kept = |id: &WorkerId| self.workers.get(id).is_some_and(|worker| is_next(worker.slot, worker.second_queue));
        for id in self.draining_queues().filter(kept).collect::<Vec<_>>() {
            self.stop_after_all(id);
        }
    }

    /// Drains all workers. The slots are empty at once, so that their next workers need not wait for the end of the present ones.
    pub(super) fn drain_all(&mut self) {
        let slots = self.generations.get_mut(&self.current).map_or(&mut [][..], |home| &mut home.slots);
        for place in slots.iter_mut() {
            (place.worker, place.successor, place.stand_in, place.delay) = (None, None, None, Duration::ZERO);
        }
        for slot in 0..slots.len() {
            self.timers.clear(Key::Restart(self.current, slot as Slot));
        }
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            self.drain(id, StopReason::Asked);
        }
    }

    /// Ends the pause: every slot gets a worker of the current generation.
    pub(super) fn ask_resume(&mut self, requester: Option<RequesterId>) {
        if self.stopping.is_some() || self.pause.is_none() {
            let why = if self.stopping.is_some() { "the instance is stopping" } else { "the instance is not paused" };
            return self.answer(requester, Answer::Failed(why.to_owned()));
        }
        self.end_pause("resumed on request");
        self.answer(requester, Answer::Done);
    }

    /// The time of the pause is over.
    pub(super) fn pause_over(&mut self) {
        self.end_pause("resumed after the time of the pause");
    }

    fn end_pause(&mut self, why: &str) {
        let Some(pause) = self.abandon_pause("the instance resumed before all workers had ended") else { return };
        let message = format!("{why}: {} starts with {}", self.named(self.current), workers(self.target as usize));
        self.log(Kind::Resumed, message, Some(self.current), None);
        if let Some(left) = pause.watch_left.filter(|_| self.watch.is_some()) {
            self.timers.set(Key::Watch, self.after(left));
        }
        for slot in 0..self.target {
            self.fill(slot);
        }
    }

    /// Takes the pause away and starts no worker; its requesters are told why.
    pub(super) fn abandon_pause(&mut self, why: &str) -> Option<Pause> {
        let mut pause = self.pause.take()?;
        self.timers.clear(Key::Resume);
        for requester in pause.waiting.drain(..) {
            self.act(Action::Answer(requester, Answer::Failed(why.to_owned())));
        }
        Some(pause)
    }

    /// Answers the requesters of the pause when the last worker is gone. Called after every step.
    pub(super) fn check_pause(&mut self) {
        if !self.workers.is_empty() {
            return;
        }
        let Some(pause) = &mut self.pause else { return };
        for requester in std::mem::take(&mut pause.waiting) {
            self.act(Action::Answer(requester, Answer::Done));
        }
    }

    /// A requester of the pause went away. The pause goes on.
    pub(super) fn pause_requester_gone(&mut self, requester: RequesterId) {
        if let Some(pause) = &mut self.pause {
            pause.waiting.retain(|waiting| *waiting != requester);
        }
    }

    /// The part of the status text about the pause: `paused for 30s, 2 workers left`.
    pub(super) fn pause_in_words(&self) -> Option<String> {
        let pause = self.pause.as_ref()?;
        let length = for_length(pause.length);
        let left = match self.workers.len() {
            0 => String::new(),
            left => format!(", {} left", workers(left)),
        };
        Some(format!("paused{length}{left}"))
    }
}

/// ` for 30s`; empty for a pause without a length.
fn for_length(length: Option<Duration>) -> String {
    length.map_or_else(String::new, |length| format!(" for {}", Span(length)))
}
