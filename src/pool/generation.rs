//! One release's workers: the places of a generation, who stands in each, and how their number changes.
//!
//! Law: there is one current generation; a place's worker is replaced only in its own generation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::exit_cause::ExitCause;
use super::restart::History;
use super::timers::Key;
use super::vocabulary::{Action, GenerationId, Settings, Slot, WorkerId};
use super::worker::{Phase, StopReason};

/// What a generation is to the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// It starts, and may be rolled back.
    Candidate,
    /// It is the one.
    Current,
    /// Its workers drain.
    Retired,
}

/// A slot of a generation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SlotState {
    /// Who stands here.
    pub worker: Option<WorkerId>,
    /// Who shall stand here when it is ready (recycling).
    pub successor: Option<WorkerId>,
    /// Who serves here for a rolled-back generation until `worker` is ready again (only after a reload with small surge).
    pub stand_in: Option<WorkerId>,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Its failures of late.
    pub failures: Option<Box<History>>,
    /// The wait before the next worker, counted from the end of the last.
    pub delay: Duration,
    /// Given up to the candidate (current generation), or taken over whole (candidate).
    pub settled: bool,
}

/// A generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Generation {
    pub settings: Settings,
    pub role: Role,
    pub slots: Vec<SlotState>,
    /// How many of its workers are ready.
    pub ready: u32,
    /// How many workers of it live.
    pub members: u32,
    /// The listening sockets on which its ready workers were seen to accept, as in [`Accepting`](super::Accepting).
    pub accepted_on: u32,
    /// One of its workers has said READY=1.
    pub says_ready: bool,
    /// Each of its workers that got ready had said READY=1 and was seen to accept.
    pub proven: bool,
}

impl Generation {
    pub fn new(settings: Settings, role: Role) -> Generation {
        Generation { settings, role, slots: Vec::new(), ready: 0, members: 0, accepted_on: 0, says_ready: false, proven: true }
    }
}

impl Pool {
    /// The place in the current generation.
    pub(super) fn slot_state(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.generations.get_mut(&self.current)?.slots.get_mut(slot as usize)
    }

    /// Starts a worker in an empty place of the current generation.
    fn fill(&mut self, slot: Slot) {
        if self.stopping.is_some() {
            return;
        }
        let empty =
            self.slot_state(slot).is_some_and(|place| place.worker.is_none() && place.successor.is_none() && !place.settled);
        if empty {
            let worker = self.spawn(self.current, slot);
            if let Some(place) = self.slot_state(slot) {
                place.worker = Some(worker);
            }
        }
    }

    /// Fills the place when the delay is over.
    pub(super) fn restart_in(&mut self, generation: GenerationId, slot: Slot, delay: Duration) {
        if generation != self.current {
            return;
        }
        if delay.is_zero() {
            self.fill(slot);
        } else if self.stopping.is_none() {
            self.timers.set(Key::Restart(generation, slot), self.after(delay));
        }
    }

    /// The delay is over.
    pub(super) fn restart_due(&mut self, generation: GenerationId, slot: Slot) {
        if generation == self.current {
            self.fill(slot);
        }
    }

    /// Takes a worker of the current generation out of its place; whether the place is empty now.
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

    /// A worker of the current generation failed; its place is filled again when it is cleared.
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

    /// Nothing is left of a worker of the current generation.
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

    /// The one who held a place for a rolled-back generation is gone.
    pub(super) fn holder_gone(&mut self, id: WorkerId, slot: Slot) {
        if let Some(place) = self.slot_state(slot)
            && place.stand_in == Some(id)
        {
            place.stand_in = None;
        }
    }

    /// Changes how many workers a generation has.
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

    /// Drains every worker of a generation that is not the one any more.
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

    /// All living workers of a generation.
    pub(super) fn members(&self, number: GenerationId) -> Vec<WorkerId> {
        self.workers.iter().filter(|(_, worker)| worker.generation == number).map(|(id, _)| *id).collect()
    }

    /// Lets a retired generation's release go with its last worker.
    pub(super) fn release_if_empty(&mut self, number: GenerationId) {
        if self.generations.get(&number).is_some_and(|home| home.role == Role::Retired && home.members == 0) {
            self.generations.remove(&number);
            self.act(Action::Release(number));
        }
    }

    /// Whether a worker may be replaced within the generation.
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
}
