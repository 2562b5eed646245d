//! Reloads: at most one runs and one waits, each with its requesters.
//!
//! Law: the old generation is touched only after the commit, except for slots that make room when `reload.surge` is smaller than the
//! pool. Every requester is answered exactly once, with the outcome of the reload that covers its request.

use std::collections::BTreeMap;

use super::Pool;
use super::generation::{Generation, Role};
use super::ids::{GenerationId, RequesterId, Slot, WorkerId};
use super::reason::Reason;
use super::reload_state::{Reload, Stage};
use super::requesters::Requesters;
use super::scaling::Controller;
use super::settings::Settings;
use super::timers::Key;
use super::vocabulary::{Action, Answer, Kind, Outcome, Purpose};
use super::worker::{Phase, StopReason};

impl Pool {
    pub(super) fn ask_reload(&mut self, requester: Option<RequesterId>) {
        if self.stopping.is_some() {
            return self.answer(requester, self.aborted_by_stop());
        }
        if self.pause.is_some() {
            return self.refuse_reload_in_pause(requester);
        }
        // A reload also waits for the probe of the first generation.
        if self.reload.is_some() || self.is_probing() {
            self.waiting.get_or_insert_default().join(requester);
        } else {
            let mut requesters = Requesters::default();
            requesters.join(requester);
            self.begin(requesters);
        }
    }

    fn begin(&mut self, requesters: Requesters) {
        self.last_number += 1;
        let number = self.last_number;
        self.failure_text = None;
        self.log(Kind::ReloadStarted, format!("reloading to generation {number}"), Some(number), None);
        self.act(Action::ReloadStarted(number, requesters.waiting.first().copied()));
        self.prepare(number, Purpose::Reload, requesters);
    }

    pub(super) fn prepare(&mut self, number: GenerationId, purpose: Purpose, requesters: Requesters) {
        self.reload = Some(Reload {
            number,
            stage: Stage::Preparing,
            purpose,
            requesters,
            canary: None,
            target: self.target,
            started: 0,
            unsettled: 0,
            frees_number: false,
            draining_for_surge: BTreeMap::new(),
        });
        self.act(Action::Prepare(number, purpose));
    }

    pub(super) fn prepared(&mut self, number: GenerationId, settings: Settings) {
        let (wanted, frees_number) = self.number_of(&settings);
        let Some(reload) = self.reload.as_mut().filter(|reload| reload.number == number && reload.stage == Stage::Preparing)
        else {
            // The reload was aborted during the preparation.
            return self.act(Action::Release(number));
        };
        let probes = settings.probe && reload.purpose != Purpose::LastGood || reload.purpose == Purpose::Probe;
        reload.stage = if probes { Stage::Probing } else { Stage::Starting };
        (reload.target, reload.frees_number) = (wanted, frees_number);
        let (target, purpose) = (reload.target, reload.purpose);
        // An undo goes back to a release that has served, and is in a hurry.
        reload.canary = Pool::first_step(&settings.steps, target).filter(|_| purpose == Purpose::Reload);
        let release = match purpose {
            Purpose::Undo { release, .. } => release,
            Purpose::Reload | Purpose::Probe | Purpose::LastGood => number,
        };
        if reload.canary.is_some() {
            // A canary is compared with the old generation.
            self.start_workers();
        }
        self.generations.insert(number, Generation::new(settings, release, Role::Candidate));
        if probes {
            return self.start_probe(number);
        }
        self.resize(number, target);
        self.advance();
    }

    pub(super) fn refused(&mut self, number: GenerationId, reason: Reason) {
        if self.reload.as_ref().is_some_and(|reload| reload.number == number && reload.stage == Stage::Preparing) {
            self.rollback(Outcome::Refused, reason);
        }
    }

    /// Starts as many workers of the candidate as the step of its canary has, or as the surge allows.
    pub(super) fn advance(&mut self) {
        loop {
            let canary = self.canary_size();
            let Some(reload) = self.reload.as_mut() else { return };
            let number = reload.number;
            let Some(candidate) = self.generations.get(&number) else { return };
            if reload.stage == Stage::Probing
                || reload.started >= canary.unwrap_or(reload.target)
                || canary.is_none() && reload.unsettled >= candidate.settings.surge.of(reload.target)
            {
                return;
            }
            let slot = reload.started;
            reload.started += 1;
            reload.unsettled += 1;
            self.choose_queue(number, slot, canary.is_some());
            let worker = self.spawn(number, slot);
            if let Some(place) = self.generations.get_mut(&number).and_then(|home| home.slots.get_mut(slot as usize)) {
                place.worker = Some(worker);
            }
        }
    }

    /// A worker of the candidate is ready.
    pub(super) fn candidate_ready(&mut self, slot: Slot) {
        let Some(reload) = self.reload.as_ref() else { return };
        if reload.started < reload.target && reload.canary.is_none() {
            self.make_room(slot);
        }
        self.check_candidate();
    }

    /// Drains the old worker of a slot, so that one more new worker can start.
    pub(super) fn make_room(&mut self, slot: Slot) {
        self.timers.clear(Key::Restart(self.current, slot));
        let (old, others) = match self.slot_state(slot) {
            Some(place) => {
                place.settled = true;
                (place.worker.take(), [place.successor.take(), place.stand_in.take()])
            }
            None => (None, [None, None]),
        };
        for other in others.into_iter().flatten() {
            self.drain(other, StopReason::Asked);
        }
        match (old, self.reload.as_mut()) {
            (Some(old), Some(reload)) => {
                reload.draining_for_surge.insert(old, slot);
                self.drain(old, StopReason::Asked);
            }
            (None, Some(_)) => self.settle(slot),
            (_, None) => {}
        }
    }

    /// A worker is gone: if it drained to make room, its slot is settled.
    pub(super) fn yielded(&mut self, id: WorkerId) {
        if let Some(slot) = self.reload.as_mut().and_then(|reload| reload.draining_for_surge.remove(&id)) {
            self.settle(slot);
        }
    }

    /// The slot has no old worker any more: marks it as settled and starts the next new worker.
    fn settle(&mut self, slot: Slot) {
        let Some(reload) = self.reload.as_mut() else { return };
        let place = self.generations.get_mut(&reload.number).and_then(|home| home.slots.get_mut(slot as usize));
        if let Some(place) = place.filter(|place| !place.settled) {
            place.settled = true;
            reload.unsettled -= 1;
            self.advance();
        }
    }

    /// Commits when all workers of the candidate are ready, after the candidate's probation. With a canary, the workers of its step.
    pub(super) fn check_candidate(&mut self) {
        let Some(reload) = self.reload.as_ref() else { return };
        let Some(candidate) = self.generations.get(&reload.number) else { return };
        let canary = self.canary_size();
        if reload.stage != Stage::Starting || candidate.ready < canary.unwrap_or(reload.target) {
            return;
        }
        if canary.is_some() {
            return self.begin_wait();
        }
        let probation = self.probation_of(reload.number);
        if probation.is_zero() {
            return self.commit();
        }
        let Some(reload) = self.reload.as_mut() else { return };
        reload.stage = Stage::Probation;
        let number = reload.number;
        self.timers.set(Key::Probation, self.after(probation));
        let message = format!("generation {number} is ready; on probation for {}", super::exit_cause::Span(probation));
        self.log(Kind::Info, message, Some(number), None);
    }

    pub(super) fn probation_over(&mut self) {
        let Some(reload) = self.reload.as_mut() else { return };
        let ready = self.generations.get(&reload.number).map_or(0, |candidate| candidate.ready);
        if ready < reload.target {
            // The pool was scaled up during the probation: the additional workers need to be ready and on probation, too.
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
        self.idling.end();
        self.is_fixed &= !reload.frees_number;
        self.controller = Controller::default();
        if let Some(home) = self.generations.get_mut(&number) {
            home.role = Role::Current;
            self.configured = home.settings.count;
            for place in &mut home.slots {
                place.settled = false;
            }
        }
        self.forget_failures();
        self.note_commit(matches!(reload.purpose, Purpose::Undo { .. }));
        self.begin_watch(old, reload.purpose);
        let message = format!("{} is serving: {1}/{1} ready", self.named(number), self.target);
        self.log(Kind::Committed, message, Some(number), None);
        self.retire(old);
        self.finish(number, reload.requesters, Outcome::Committed, Reason::default());
    }

    /// Ends the running reload without a commit: the new generation drains, the old one stays.
    pub(super) fn rollback(&mut self, outcome: Outcome, reason: Reason) {
        self.abandon_probe();
        if self.reload.as_ref().is_some_and(|reload| reload.purpose == Purpose::Probe) {
            return self.end_probe(Some(reason));
        }
        let Some(reload) = self.reload.take() else { return };
        let number = reload.number;
        self.timers.clear(Key::Probation);
        self.timers.clear(Key::Step);
        let kind = if outcome == Outcome::Refused { Kind::Refused } else { Kind::RolledBack };
        let words = match outcome {
            Outcome::Refused => "refused",
            Outcome::Aborted => "aborted",
            Outcome::RolledBack | Outcome::Committed | Outcome::Undone => "rolled back",
        };
        let replaced = self.replaced_slots();
        let mut reason = reason;
        if !replaced.is_empty() {
            reason.cause += &format!("; slots {replaced:?} had been replaced and go back to generation {}", self.current);
        }
        self.log(kind, format!("reload to generation {number} {words}: {}", reason.in_full()), Some(number), None);
        self.failure_text = Some(format!("reload to generation {number} {words}: {}", reason.cause));
        self.hold(number, &replaced);
        self.retire_candidate(number);
        for slot in replaced {
            self.restart_in(self.current, slot, std::time::Duration::ZERO);
        }
        self.finish(number, reload.requesters, outcome, reason);
    }

    /// Makes ready workers of the candidate stand-ins in slots that the old generation gave up, until it has a ready worker there.
    fn hold(&mut self, number: GenerationId, replaced: &[Slot]) {
        if self.stopping.is_some() {
            return;
        }
        for slot in replaced {
            let stand_in =
                self.generations.get(&number).and_then(|home| home.slots.get(*slot as usize)).and_then(|place| place.worker);
            let ready = stand_in
                .and_then(|id| self.workers.get(&id))
                .is_some_and(|worker| worker.phase == Phase::Ready && worker.how.is_none());
            if let Some(place) = self.slot_state(*slot).filter(|_| ready) {
                place.stand_in = stand_in;
            }
        }
    }

    /// Drains the workers of the candidate, except the stand-ins.
    pub(super) fn retire_candidate(&mut self, number: GenerationId) {
        let stand_ins: Vec<WorkerId> = self
            .generations
            .get(&self.current)
            .map_or(Vec::new(), |home| home.slots.iter().filter_map(|place| place.stand_in).collect());
        let Some(candidate) = self.generations.get_mut(&number) else { return };
        candidate.role = Role::Retired;
        for worker in self.members(number).into_iter().filter(|id| !stand_ins.contains(id)) {
            self.drain(worker, StopReason::Asked);
        }
        self.release_if_empty(number);
    }

    fn finish(&mut self, number: GenerationId, requesters: Requesters, outcome: Outcome, reason: Reason) {
        self.act(Action::ReloadFinished(number, outcome, reason.clone()));
        for requester in requesters.waiting {
            self.act(Action::Answer(requester, Answer::Reload(number, outcome, reason.clone())));
        }
        self.reload_ended(number, outcome);
        self.next_reload();
    }

    /// Begins the reload that waited for the end of the former one, or of a probe.
    pub(super) fn next_reload(&mut self) {
        if self.stopping.is_some() {
            return self.refuse_waiting();
        }
        match self.waiting.take() {
            Some(next) => self.begin(next),
            None => self.recycle_next(),
        }
    }

    /// Answers the requesters of the waiting reload: the instance stops.
    pub(super) fn refuse_waiting(&mut self) {
        let Some(next) = self.waiting.take() else { return };
        let answer = self.aborted_by_stop();
        for requester in next.waiting {
            self.act(Action::Answer(requester, answer.clone()));
        }
    }

    pub(super) fn abort(&mut self, requester: Option<RequesterId>) {
        let running = self.reload.is_some();
        if running {
            self.rollback(Outcome::Aborted, "aborted on request".into());
        }
        if let Some(requester) = requester {
            let answer = if running { Answer::Done } else { Answer::Failed("no reload is under way".to_owned()) };
            self.act(Action::Answer(requester, answer));
        }
    }

    pub(super) fn reload_requester_gone(&mut self, requester: RequesterId) {
        if self.waiting.as_mut().is_some_and(|waiting| waiting.leave(requester)) {
            self.waiting = None;
        }
        if self.reload.as_mut().is_some_and(|reload| reload.requesters.leave(requester)) {
            self.rollback(Outcome::Aborted, "whoever asked went away before the commit".into());
        }
    }
}
