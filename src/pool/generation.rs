//! Generations: the slots of a generation, the workers in each slot, and changes of the number of slots.
//!
//! Law: there is one current generation. A worker is replaced only by a worker of its own generation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::exit_cause::ExitCause;
use super::ids::{GenerationId, RequesterId, Slot, WorkerId};
use super::restart::History;
use super::settings::Settings;
use super::timers::Key;
use super::vocabulary::{Action, Answer};
use super::worker::{Phase, StopReason};

/// The role of a generation in the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// The generation starts, and may be rolled back.
    Candidate,
    /// The generation serves: it is the committed one, or the first one while it starts.
    Current,
    /// The generation's workers drain.
    Retired,
}

/// The preload process of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Preload {
    /// There is no process; the next start of a worker starts one.
    Absent,
    /// The process loads the application.
    Loading(WorkerId),
    /// The process can fork.
    Ready {
        id: WorkerId,
        /// At least one worker was forked from it.
        proven: bool,
    },
    /// The process did not get ready, and why: workers start directly.
    GivenUp(String),
}

impl Preload {
    /// The process, if there is one.
    pub fn process(&self) -> Option<WorkerId> {
        match self {
            Preload::Loading(id) | Preload::Ready { id, .. } => Some(*id),
            Preload::Absent | Preload::GivenUp(_) => None,
        }
    }
}

/// A slot of a generation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SlotState {
    /// The worker of the slot.
    pub worker: Option<WorkerId>,
    /// The worker that takes over the slot when it is ready (recycling).
    pub successor: Option<WorkerId>,
    /// The ready worker of a rolled-back generation that serves in this slot until `worker` is ready again. Only after a reload with a
    /// surge smaller than the pool.
    pub stand_in: Option<WorkerId>,
    /// Failures in a row. The failure of a worker that was ready for `restart.max` counts as the first again.
    pub consecutive_failures: u32,
    /// The slot's failures within the last `restart.interval`, and the last one; `None` without failures.
    pub failures: Option<Box<History>>,
    /// The delay before the next worker, counted from the end of the last process of the former worker.
    pub delay: Duration,
    /// In the current generation: the slot was given up to the candidate. In the candidate: the old worker of the slot is gone, or
    /// there was none.
    pub settled: bool,
    /// The workers of the slot serve its second queue.
    #[serde(default)]
    pub second_queue: bool,
}

/// All workers from one reading of configuration and release.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Generation {
    pub settings: Settings,
    /// The generation for which the release was read: another one after an undo.
    pub release: GenerationId,
    pub role: Role,
    pub slots: Vec<SlotState>,
    /// The number of ready workers of the generation.
    pub ready: u32,
    /// The number of workers of the generation in the table.
    pub members: u32,
    /// The listening sockets on which ready workers of the generation were observed to accept, as in [`Accepting`](super::Accepting).
    pub accepted_on: u32,
    /// At least one worker of the generation has sent READY=1.
    pub says_ready: bool,
    /// Each worker of the generation that became ready had sent READY=1 and was observed to accept, where an observation counts (not
    /// without listening sockets, and not with `worker.ready = "notify"`).
    pub proven: bool,
    /// The preload process; `None` without one by the configuration.
    #[serde(default)]
    pub preload: Option<Preload>,
}

impl Generation {
    pub fn new(settings: Settings, release: GenerationId, role: Role) -> Generation {
        Generation {
            preload: settings.preload.then_some(Preload::Absent),
            settings,
            release,
            role,
            slots: Vec::new(),
            ready: 0,
            members: 0,
            accepted_on: 0,
            says_ready: false,
            proven: true,
        }
    }
}

impl Pool {
    /// The state of a slot of the current generation.
    pub(super) fn slot_state(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.generations.get_mut(&self.current)?.slots.get_mut(slot as usize)
    }

    /// Starts a worker in a slot of the current generation if the slot is empty and not given up to a candidate.
    pub(super) fn fill(&mut self, slot: Slot) {
        if !self.idling.is_idle() {
            self.start_in(slot);
        }
    }

    /// As [`Self::fill`], also for the first worker of an idle pool. Returns whether a worker starts.
    pub(super) fn start_in(&mut self, slot: Slot) -> bool {
        if self.stopping.is_some() || self.pause.is_some() || self.is_held_for_probe(self.current) {
            return false;
        }
        let empty =
            self.slot_state(slot).is_some_and(|place| place.worker.is_none() && place.successor.is_none() && !place.settled);
        if empty {
            let worker = self.spawn(self.current, slot);
            if let Some(place) = self.slot_state(slot) {
                place.worker = Some(worker);
            }
        }
        empty
    }

    /// Fills the slot after the delay; at once when the delay is zero.
    pub(super) fn restart_in(&mut self, generation: GenerationId, slot: Slot, delay: Duration) {
        if generation != self.current {
            return;
        }
        if delay.is_zero() {
            self.fill(slot);
        } else if self.stopping.is_none() && self.pause.is_none() && !self.idling.wants_no_workers() {
            self.timers.set(Key::Restart(generation, slot), self.after(delay));
        }
    }

    /// The delay of [`Pool::restart_in`] is over.
    pub(super) fn restart_due(&mut self, generation: GenerationId, slot: Slot) {
        if generation == self.current {
            self.fill(slot);
        }
    }

    /// Removes a worker of the current generation from its slot. Returns whether the slot is empty because of that.
    pub(super) fn unlink(&mut self, id: WorkerId) -> bool {
        let Some(slot) = self.workers.get(&id).map(|worker| worker.slot) else { return false };
        let Some(place) = self.slot_state(slot) else { return false };
        if place.successor == Some(id) {
            place.successor = None;
        }
        if place.worker != Some(id) {
            return false;
        }
        place.worker = place.successor.take();
        place.worker.is_none()
    }

    /// A worker of the current generation is ready.
    pub(super) fn place_ready(&mut self, id: WorkerId, slot: Slot) {
        let Some(place) = self.slot_state(slot) else { return };
        let stand_in = place.stand_in.take();
        if place.successor == Some(id) {
            place.successor = None;
            if let Some(former) = place.worker.replace(id) {
                self.drain(former, StopReason::Asked);
            }
        }
        self.recycled(id);
        if let Some(stand_in) = stand_in {
            self.drain(stand_in, StopReason::Asked);
        }
    }

    /// A worker of the current generation failed. Its slot is filled again when the last process of the worker is gone.
    pub(super) fn place_crashed(&mut self, id: WorkerId, slot: Slot, ready_for: Option<Duration>, how: &ExitCause) {
        if self.stopping.is_some() {
            return;
        }
        let Some(place) = self.slot_state(slot) else { return };
        if place.worker == Some(id) {
            let delay = self.strike(self.current, slot, ready_for);
            self.remember_failure(slot, how.clone(), ready_for.is_none());
            if let Some(place) = self.slot_state(slot) {
                place.delay = delay;
            }
        }
    }

    /// The last process of a worker of the current generation is gone.
    pub(super) fn place_cleared(&mut self, id: WorkerId, slot: Slot) {
        let generation = self.current;
        let Some(place) = self.slot_state(slot) else { return };
        if place.successor == Some(id) {
            place.successor = None;
        } else if place.worker == Some(id) {
            place.worker = place.successor.take();
            let delay = std::mem::take(&mut place.delay);
            if place.worker.is_none() {
                self.restart_in(generation, slot, delay);
            }
        }
    }

    /// A worker is gone: if it was the stand-in of the slot, the slot has none any more.
    pub(super) fn holder_gone(&mut self, id: WorkerId, slot: Slot) {
        if let Some(place) = self.slot_state(slot)
            && place.stand_in == Some(id)
        {
            place.stand_in = None;
        }
    }

    /// Changes the number of slots of a generation.
    pub(super) fn resize(&mut self, number: GenerationId, count: u32) {
        let count = count as usize;
        let Some(home) = self.generations.get_mut(&number) else { return };
        let former = home.slots.len();
        let surplus: Vec<SlotState> = if count < former { home.slots.split_off(count) } else { Vec::new() };
        home.slots.resize_with(count, SlotState::default);
        for (offset, place) in surplus.into_iter().enumerate() {
            self.timers.clear(Key::Restart(number, (count + offset) as Slot));
            for worker in [place.worker, place.successor, place.stand_in].into_iter().flatten() {
                self.drain(worker, StopReason::Asked);
            }
        }
        if number == self.current {
            for slot in former..count {
                self.fill(slot as Slot);
            }
        }
    }

    /// The slots that the old generation gave up to the candidate; from now on they are its own again. An idle one had nothing to give up.
    pub(super) fn replaced_slots(&mut self) -> Vec<Slot> {
        let wants_no_workers = self.idling.wants_no_workers();
        let Some(home) = self.generations.get_mut(&self.current) else { return Vec::new() };
        let slots = home.slots.iter_mut().enumerate();
        let replaced = slots.filter_map(|(slot, place)| std::mem::take(&mut place.settled).then_some(slot as Slot));
        replaced.filter(|_| !wants_no_workers).collect()
    }

    /// Drains every worker of a generation that is no longer the current one.
    pub(super) fn retire(&mut self, number: GenerationId) {
        let Some(home) = self.generations.get_mut(&number) else { return };
        home.role = Role::Retired;
        let stand_ins: Vec<_> = home.slots.iter().filter_map(|place| place.stand_in).collect();
        let slots = home.slots.len();
        let members = self.members(number);
        for slot in 0..slots {
            self.timers.clear(Key::Restart(number, slot as Slot));
        }
        for worker in stand_ins.into_iter().chain(members) {
            self.drain(worker, StopReason::Asked);
        }
        self.release_if_empty(number);
    }

    /// The ids of all workers of a generation in the table.
    pub(super) fn members(&self, number: GenerationId) -> Vec<WorkerId> {
        self.workers.iter().filter(|(_, worker)| worker.generation == number).map(|(id, _)| *id).collect()
    }

    /// Releases a retired generation that has no workers left.
    pub(super) fn release_if_empty(&mut self, number: GenerationId) {
        if self.generations.get(&number).is_some_and(|home| home.role == Role::Retired && home.members == 0) {
            self.generations.remove(&number);
            if !self.keeps(number) {
                self.act(Action::Release(number));
            }
        }
    }

    /// Whether a worker may be recycled: it is ready, it is the worker of its slot in the current generation, and it has no successor.
    pub(super) fn stands(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| {
            worker.phase == Phase::Ready
                && worker.how.is_none()
                && worker.generation == self.current
                && self
                    .generations
                    .get(&self.current)
                    .and_then(|home| home.slots.get(worker.slot as usize))
                    .is_some_and(|place| place.worker == Some(id) && place.successor.is_none())
        })
    }

    /// Why the number of workers cannot be changed to this one; `None` if it can.
    pub(super) fn scale_refusal(&self, count: u32) -> Option<&'static str> {
        match (count, &self.stopping) {
            (_, Some(_)) => Some("the instance is stopping"),
            (0, None) => Some("a pool has at least one worker; to end it, stop the service"),
            (_, None) if self.pause.is_some() && count < self.target && self.has_queues(self.current) => {
                Some("connections may wait in the queues of the slots that would go; `ratoon resume` first")
            }
            (_, None) => None,
        }
    }

    /// Changes the wanted number of workers, on request.
    pub(super) fn scale(&mut self, count: u32, requester: Option<RequesterId>) {
        if let Some(why) = self.scale_refusal(count) {
            return self.answer(requester, Answer::Failed(why.to_owned()));
        }
        self.fix(true);
        self.set_target(count, "on request");
        self.scale_candidate(count);
        self.answer(requester, Answer::Done);
    }
}
