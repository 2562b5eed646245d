//! Reloads: one runs, at most one waits, and who waits for each.
//!
//! Law: the old generation is touched only after the commit, but for slots that make room when `reload.surge` is
//! smaller than the pool; every asker is answered exactly once, with the outcome of the reload that covers its wish.

use std::collections::BTreeMap;

use super::Pool;
use super::generation::{Generation, Role};
use super::timers::Key;
use super::vocabulary::{Action, Answer, AskerId, Kind, Number, Outcome, Settings, Slot, WorkerId};
use super::worker::{Doom, Phase};

/// Who waits for a reload.
#[derive(Clone, Debug, Default)]
pub(super) struct Askers {
    pub(super) waiting: Vec<AskerId>,
    /// Somebody asked who does not wait (SIGHUP): it runs to its end whoever goes away.
    pub(super) unattended: bool,
}

impl Askers {
    fn join(&mut self, asker: Option<AskerId>) {
        match asker {
            Some(asker) => self.waiting.push(asker),
            None => self.unattended = true,
        }
    }

    /// Strikes one off; whether nobody is left that wants it.
    fn leave(&mut self, asker: AskerId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| *waiting != asker);
        self.waiting.len() < before && self.waiting.is_empty() && !self.unattended
    }
}

/// How far a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Configuration, check, hooks, pinning.
    Preparing,
    /// Its workers start.
    Starting,
    /// All are ready; a crash still rolls back.
    Probation,
}

/// The reload that runs.
#[derive(Clone, Debug)]
pub(super) struct Reload {
    pub number: Number,
    pub stage: Stage,
    pub askers: Askers,
    /// How many workers the new generation shall have.
    pub target: u32,
    /// How many of its slots have been started, and how many of those still stand beside an old worker.
    pub started: u32,
    pub unsettled: u32,
    /// Old workers that make room, and for which slot.
    pub yields: BTreeMap<WorkerId, Slot>,
}

impl Pool {
    pub(super) fn ask_reload(&mut self, asker: Option<AskerId>) {
        if self.stopping.is_some() {
            if let Some(asker) = asker {
                let answer = Answer::Reload(self.last_number + 1, Outcome::Aborted, "the instance is stopping".to_owned());
                self.act(Action::Answer(asker, answer));
            }
            return;
        }
        if self.reload.is_some() {
            self.waiting.get_or_insert_default().join(asker);
        } else {
            let mut askers = Askers::default();
            askers.join(asker);
            self.begin(askers);
        }
    }

    fn begin(&mut self, askers: Askers) {
        self.last_number += 1;
        let number = self.last_number;
        self.reload = Some(Reload {
            number,
            stage: Stage::Preparing,
            askers,
            target: self.target,
            started: 0,
            unsettled: 0,
            yields: BTreeMap::new(),
        });
        self.failure_text = None;
        self.log(Kind::ReloadStarted, format!("reloading to generation {number}"), Some(number), None);
        self.act(Action::ReloadStarted(number));
        self.act(Action::Prepare(number));
    }

    pub(super) fn prepared(&mut self, number: Number, settings: Settings) {
        let Some(reload) = self.reload.as_mut().filter(|reload| reload.number == number && reload.stage == Stage::Preparing)
        else {
            // It was aborted meanwhile.
            return self.act(Action::Release(number));
        };
        reload.stage = Stage::Starting;
        // A number set by `scale` holds until the file's number changes.
        if settings.count != self.configured {
            reload.target = settings.count;
        }
        let target = reload.target;
        self.generations.insert(number, Generation::new(settings, Role::Candidate));
        self.resize(number, target);
        self.advance();
    }

    pub(super) fn refused(&mut self, number: Number, reason: String) {
        if self.reload.as_ref().is_some_and(|reload| reload.number == number && reload.stage == Stage::Preparing) {
            self.rollback(Outcome::Refused, reason);
        }
    }

    /// Starts as many workers of the candidate as the surge allows.
    fn advance(&mut self) {
        loop {
            let Some(reload) = self.reload.as_mut() else { return };
            let number = reload.number;
            let Some(candidate) = self.generations.get(&number) else { return };
            if reload.started >= reload.target || reload.unsettled >= candidate.settings.surge.of(reload.target) {
                return;
            }
            let slot = reload.started;
            reload.started += 1;
            reload.unsettled += 1;
            let worker = self.spawn(number, slot);
            if let Some(place) = self.generations.get_mut(&number).and_then(|home| home.places.get_mut(slot as usize)) {
                place.worker = Some(worker);
            }
        }
    }

    /// A worker of the candidate is ready.
    pub(super) fn candidate_ready(&mut self, slot: Slot) {
        let Some(reload) = self.reload.as_ref() else { return };
        if reload.started < reload.target {
            self.make_room(slot);
        }
        self.check_candidate();
    }

    /// The old worker of this slot ends, so that one more new worker can start.
    fn make_room(&mut self, slot: Slot) {
        self.timers.clear(Key::Restart(self.current, slot));
        let (old, others) = match self.place(slot) {
            Some(place) => {
                place.settled = true;
                (place.worker.take(), [place.successor.take(), place.holder.take()])
            }
            None => (None, [None, None]),
        };
        for other in others.into_iter().flatten() {
            self.drain(other, Doom::Asked);
        }
        match (old, self.reload.as_mut()) {
            (Some(old), Some(reload)) => {
                reload.yields.insert(old, slot);
                self.drain(old, Doom::Asked);
            }
            (None, Some(_)) => self.settle(slot),
            (_, None) => {}
        }
    }

    /// A worker is gone: if it made room, the room is there.
    pub(super) fn yielded(&mut self, id: WorkerId) {
        if let Some(slot) = self.reload.as_mut().and_then(|reload| reload.yields.remove(&id)) {
            self.settle(slot);
        }
    }

    /// The candidate has the slot for itself.
    fn settle(&mut self, slot: Slot) {
        let Some(reload) = self.reload.as_mut() else { return };
        let place = self.generations.get_mut(&reload.number).and_then(|home| home.places.get_mut(slot as usize));
        if let Some(place) = place.filter(|place| !place.settled) {
            place.settled = true;
            reload.unsettled -= 1;
            self.advance();
        }
    }

    /// Commits when all of the candidate are ready, after its probation.
    fn check_candidate(&mut self) {
        let Some(reload) = self.reload.as_ref() else { return };
        let Some(candidate) = self.generations.get(&reload.number) else { return };
        if reload.stage != Stage::Starting || candidate.ready < reload.target {
            return;
        }
        let probation = self.probation_of(reload.number);
        if probation.is_zero() {
            return self.commit();
        }
        let Some(reload) = self.reload.as_mut() else { return };
        reload.stage = Stage::Probation;
        let number = reload.number;
        self.timers.set(Key::Probation, self.after(probation));
        let message = format!("generation {number} is ready; on probation for {}", super::how::Span(probation));
        self.log(Kind::Info, message, Some(number), None);
    }

    pub(super) fn probation_over(&mut self) {
        let Some(reload) = self.reload.as_mut() else { return };
        let ready = self.generations.get(&reload.number).map_or(0, |candidate| candidate.ready);
        if ready < reload.target {
            // The pool was scaled up meanwhile: the new ones must prove themselves too.
            reload.stage = Stage::Starting;
        } else {
            self.commit();
        }
    }

    fn commit(&mut self) {
        let Some(reload) = self.reload.take() else { return };
        let (old, number) = (self.current, reload.number);
        self.timers.clear(Key::Probation);
        self.timers.clear(Key::GiveUp);
        self.recycle_over(&Answer::Done);
        self.current = number;
        self.target = reload.target;
        if let Some(home) = self.generations.get_mut(&number) {
            home.role = Role::Current;
            self.configured = home.settings.count;
            for place in &mut home.places {
                place.settled = false;
            }
        }
        self.forgive();
        let message = format!("generation {number} is serving: {0}/{0} ready", self.target);
        self.log(Kind::Committed, message, Some(number), None);
        self.retire(old);
        self.finish(number, reload.askers, Outcome::Committed, String::new());
    }

    /// Ends the reload that runs without a commit: the new generation goes, the old one stays.
    pub(super) fn rollback(&mut self, outcome: Outcome, reason: String) {
        let Some(reload) = self.reload.take() else { return };
        let number = reload.number;
        self.timers.clear(Key::Probation);
        let kind = if outcome == Outcome::Refused { Kind::Refused } else { Kind::RolledBack };
        let words = match outcome {
            Outcome::Refused => "refused",
            Outcome::Aborted => "aborted",
            Outcome::RolledBack | Outcome::Committed => "rolled back",
        };
        let current = self.generations.get(&self.current);
        let replaced: Vec<Slot> = current.map_or(Vec::new(), |home| {
            home.places.iter().enumerate().filter(|(_, place)| place.settled).map(|(slot, _)| slot as Slot).collect()
        });
        let mut reason = reason;
        if !replaced.is_empty() {
            reason += &format!("; slots {replaced:?} had been replaced and go back to generation {}", self.current);
        }
        self.log(kind, format!("reload to generation {number} {words}: {reason}"), Some(number), None);
        self.failure_text = Some(format!("reload to generation {number} {words}: {reason}"));
        self.hold(number, &replaced);
        self.retire_candidate(number);
        for slot in replaced {
            if let Some(place) = self.place(slot) {
                place.settled = false;
            }
            self.restart_in(self.current, slot, std::time::Duration::ZERO);
        }
        self.finish(number, reload.askers, outcome, reason);
    }

    /// Ready workers of the candidate go on serving in slots that the old generation had given up, until it is back.
    fn hold(&mut self, number: Number, replaced: &[Slot]) {
        if self.stopping.is_some() {
            return;
        }
        for slot in replaced {
            let holder =
                self.generations.get(&number).and_then(|home| home.places.get(*slot as usize)).and_then(|place| place.worker);
            let ready = holder
                .and_then(|id| self.workers.get(&id))
                .is_some_and(|worker| worker.phase == Phase::Ready && worker.how.is_none());
            if let Some(place) = self.place(*slot).filter(|_| ready) {
                place.holder = holder;
            }
        }
    }

    /// Drains the candidate, but for those who hold a place.
    fn retire_candidate(&mut self, number: Number) {
        let holders: Vec<WorkerId> = self
            .generations
            .get(&self.current)
            .map_or(Vec::new(), |home| home.places.iter().filter_map(|place| place.holder).collect());
        let Some(candidate) = self.generations.get_mut(&number) else { return };
        candidate.role = Role::Retired;
        for worker in self.members(number).into_iter().filter(|id| !holders.contains(id)) {
            self.drain(worker, Doom::Asked);
        }
        self.release_if_empty(number);
    }

    fn finish(&mut self, number: Number, askers: Askers, outcome: Outcome, reason: String) {
        self.act(Action::ReloadFinished(number, outcome, reason.clone()));
        for asker in askers.waiting {
            self.act(Action::Answer(asker, Answer::Reload(number, outcome, reason.clone())));
        }
        match self.waiting.take() {
            Some(next) if self.stopping.is_none() => self.begin(next),
            Some(next) => {
                let answer = Answer::Reload(number + 1, Outcome::Aborted, "the instance is stopping".to_owned());
                for asker in next.waiting {
                    self.act(Action::Answer(asker, answer.clone()));
                }
            }
            None => self.recycle_next(),
        }
    }

    pub(super) fn abort(&mut self, asker: Option<AskerId>) {
        let running = self.reload.is_some();
        if running {
            self.rollback(Outcome::Aborted, "aborted on request".to_owned());
        }
        if let Some(asker) = asker {
            let answer = if running { Answer::Done } else { Answer::Failed("no reload is under way".to_owned()) };
            self.act(Action::Answer(asker, answer));
        }
    }

    pub(super) fn reload_asker_gone(&mut self, asker: AskerId) {
        if self.waiting.as_mut().is_some_and(|waiting| waiting.leave(asker)) {
            self.waiting = None;
        }
        if self.reload.as_mut().is_some_and(|reload| reload.askers.leave(asker)) {
            self.rollback(Outcome::Aborted, "whoever asked went away before the commit".to_owned());
        }
    }

    /// The candidate's part of a change of size.
    pub(super) fn scale_candidate(&mut self, count: u32) {
        let Some(reload) = self.reload.as_mut() else { return };
        reload.target = count;
        reload.started = reload.started.min(count);
        let (number, started) = (reload.number, reload.started as usize);
        if !self.generations.contains_key(&number) {
            return;
        }
        self.resize(number, count);
        if let Some(home) = self.generations.get(&number) {
            let unsettled = home.places[..started].iter().filter(|place| !place.settled).count() as u32;
            if let Some(reload) = self.reload.as_mut() {
                reload.unsettled = unsettled;
            }
        }
        self.advance();
        self.make_room_for_more();
        self.check_candidate();
    }

    /// The candidate has grown: slots that waited for the commit beside their old workers must make room after all.
    fn make_room_for_more(&mut self) {
        let Some(reload) = self.reload.as_ref().filter(|reload| reload.started < reload.target) else { return };
        let Some(candidate) = self.generations.get(&reload.number) else { return };
        let waits = |slot: &Slot| {
            let place = &candidate.places[*slot as usize];
            let ready = place.worker.and_then(|id| self.workers.get(&id)).is_some_and(|worker| worker.phase == Phase::Ready);
            ready && !place.settled && !reload.yields.values().any(|yielding| yielding == slot)
        };
        for slot in (0..reload.started).filter(waits).collect::<Vec<_>>() {
            self.make_room(slot);
        }
    }
}
