//! Elastic pools (`worker.min`, `worker.max`): which samples of the load count, and the change of the number of workers.
//!
//! Law: the load changes nothing while an operator has fixed the number, before the start is complete, in a pause, while the instance is
//! idle, and while it stops. During a reload it adds workers and removes none, so that the new generation has as many as serve.

use std::time::Duration;

use super::Pool;
use super::generation::Role;
use super::ids::{GenerationId, RequesterId};
use super::reload_state::Stage;
use super::report::workers;
use super::scaling::{Ceiling, Controller, Load, Scaled};
use super::settings::{Elastic, Settings};
use super::vocabulary::{Action, Answer, Kind};
use super::worker::Phase;

impl Pool {
    /// The least and the largest number of workers: 0 where none is left without a connection.
    pub fn bounds(&self) -> (u32, u32) {
        let (min, max) = self.elastic().map_or((self.configured, self.configured), |elastic| (elastic.min, elastic.max));
        if self.can_be_idle() { (0, max) } else { (min, max) }
    }

    /// Whether an operator has set the number of workers, which stays until the configuration has another one or `ratoon scale auto`.
    pub fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// The last sample of the load; `None` while the load decides nothing.
    pub fn load(&self) -> Option<&Load> {
        self.load_period().and_then(|_| self.controller.load())
    }

    /// The limit that keeps an elastic pool from growing although it should.
    pub fn ceiling(&self) -> Option<Ceiling> {
        self.load_period().and_then(|_| self.controller.ceiling())
    }

    /// The time from a sample of the load to the next one; `None` while the load decides nothing.
    pub fn load_period(&self) -> Option<Duration> {
        let decides = self.announced && self.stopping.is_none() && self.pause.is_none() && !self.is_idle() && !self.is_fixed;
        self.elastic().filter(|_| decides).map(|_| self.controller.period())
    }

    /// The largest number of workers to which the next sample of the load may lead.
    pub fn next_most(&self) -> u32 {
        self.elastic().map_or(self.target, |elastic| {
            let step = self.target.saturating_add(elastic.step.of(self.target)).min(elastic.max);
            step.max(elastic.min).max(self.target)
        })
    }

    /// The bounds of an elastic pool, with the settings of its controller.
    pub fn elastic(&self) -> Option<&Elastic> {
        self.generations.get(&self.current)?.settings.elastic.as_ref()
    }

    /// The number of workers of a new generation with these settings, and whether the configuration has another number than before, so that
    /// a fixed one does not hold any more. An elastic pool brings as many as serve now.
    pub(super) fn number_of(&self, settings: &Settings) -> (u32, bool) {
        let is_same = settings.count == self.configured && settings.elastic.as_ref() == self.elastic();
        let number = match settings.elastic {
            Some(elastic) if !(is_same && self.is_fixed) => elastic.clamp(self.target),
            None if !is_same => settings.count,
            Some(_) | None => self.target,
        };
        (number, !is_same)
    }

    /// An operator has set the number, or gives it back.
    pub(super) fn fix(&mut self, is_fixed: bool) {
        self.is_fixed = is_fixed;
        self.controller = Controller::default();
        if let Some(reload) = &mut self.reload {
            reload.frees_number = false;
        }
    }

    /// `ratoon scale auto`: the number of workers is the configuration's again, also that of a new generation.
    pub(super) fn scale_auto(&mut self, requester: Option<RequesterId>) {
        let count = self.elastic().map_or(self.configured, |elastic| elastic.clamp(self.target));
        if let Some(why) = self.scale_refusal(count) {
            return self.answer(requester, Answer::Failed(why.to_owned()));
        }
        self.fix(false);
        self.set_target(count, "the number of the configuration, on request");
        let candidate = self.reload.as_ref().and_then(|reload| self.generations.get(&reload.number));
        let own = candidate.map(|candidate| &candidate.settings);
        self.scale_candidate(own.map_or(count, |own| own.elastic.map_or(own.count, |elastic| elastic.clamp(count))));
        self.answer(requester, Answer::Done);
    }

    /// Takes a sample of the load, and changes the number of workers if the load asks for that.
    pub(super) fn take_load(&mut self, generation: GenerationId, load: Load) {
        let Some(elastic) = self.elastic().copied().filter(|_| self.load_period().is_some() && generation == self.current) else {
            return self.ignore_event("a sample of the load", None);
        };
        let starting = self.workers.values().any(|worker| {
            worker.generation == generation && worker.has_slot() && worker.phase == Phase::Starting && worker.how.is_none()
        });
        let (now, count, before) = (self.now, self.target, self.controller.ceiling());
        // A step down takes the last slots: not while another slot has no ready worker.
        let may_shrink = self.reload.is_none() && self.ready() == count;
        let step = self.controller.decide(now, &elastic, count, load, starting, may_shrink);
        self.tell_ceiling(before);
        let Some(step) = step else { return };
        self.set_target(step.to, &step.to_string());
        // The candidate follows within its own bounds.
        let candidate = self.reload.as_ref().and_then(|reload| self.generations.get(&reload.number));
        let own =
            candidate.filter(|candidate| candidate.role == Role::Candidate).and_then(|candidate| candidate.settings.elastic);
        if let Some(own) = own {
            self.scale_candidate(own.clamp(step.to));
        }
    }

    /// Applies a change of the number of workers to the candidate.
    pub(super) fn scale_candidate(&mut self, count: u32) {
        let Some(reload) = self.reload.as_mut() else { return };
        reload.target = count;
        reload.started = reload.started.min(count);
        let (number, started) = (reload.number, reload.started as usize);
        if !self.generations.contains_key(&number) || reload.stage == Stage::Probing {
            return;
        }
        self.resize(number, count);
        if let Some(home) = self.generations.get(&number) {
            let unsettled = home.slots[..started].iter().filter(|place| !place.settled).count() as u32;
            if let Some(reload) = self.reload.as_mut() {
                reload.unsettled = unsettled;
            }
        }
        self.advance();
        self.make_room_for_more();
        self.check_candidate();
    }

    /// Changes the number of workers of the current generation, and tells of it.
    pub(super) fn set_target(&mut self, to: u32, reason: &str) {
        let from = std::mem::replace(&mut self.target, to);
        if from != to {
            let message = format!("scaled from {from} to {}: {reason}", workers(to as usize));
            self.log(Kind::Scaled, message, Some(self.current), None);
            self.act(Action::Scaled(Scaled { generation: self.current, from, to, reason: reason.to_owned() }));
        }
        self.resize(self.current, to);
    }

    /// Logs that the pool has reached its ceiling, or is below it again.
    fn tell_ceiling(&mut self, before: Option<Ceiling>) {
        let (kind, message) = match (before, self.controller.ceiling()) {
            (None | Some(Ceiling::Memory), Some(Ceiling::Max(waiting))) => {
                let wait = connections_wait(waiting);
                (Kind::AtMax, format!("{} of {} serve, and {wait}: worker.max is reached", self.ready(), self.target))
            }
            (None | Some(Ceiling::Max(_)), Some(Ceiling::Memory)) => {
                let room = self.controller.load().and_then(|load| load.memory);
                let (left, own) = room.map_or((0, 0), |room| (room.left >> 20, room.worker >> 20));
                let message = format!(
                    "no worker is added to the {}: a worker has {own} MiB for itself, and {left} MiB of memory are left",
                    self.target
                );
                (Kind::Warning, message)
            }
            (Some(Ceiling::Max(_)), None) => (Kind::Info, "no connection waits any more at worker.max".to_owned()),
            (Some(Ceiling::Memory), None) | (None, None) => return,
            (Some(Ceiling::Max(_)), Some(Ceiling::Max(_))) | (Some(Ceiling::Memory), Some(Ceiling::Memory)) => return,
        };
        self.log(kind, message, Some(self.current), None);
    }

    /// The part of the status text about the ceiling: `, at max, 120 connections wait`.
    pub(super) fn ceiling_in_words(&self) -> String {
        match self.ceiling() {
            Some(Ceiling::Max(waiting)) => format!(", at max, {}", connections_wait(waiting)),
            Some(Ceiling::Memory) => ", no memory for more".to_owned(),
            None => String::new(),
        }
    }
}

fn connections_wait(count: u64) -> String {
    if count == 1 { "1 connection waits".to_owned() } else { format!("{count} connections wait") }
}
