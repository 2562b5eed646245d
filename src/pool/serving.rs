//! Accept queues with `worker.balance = "per-slot"`: which slots get new connections, and which workers drain a queue before they stop.
//!
//! Law: a new connection goes to a slot that has a ready worker, if there is any. When the pool itself gives up a queue, the last
//! worker of the queue serves until no connection waits in it. The queue of a failed worker waits for the worker's replacement.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Pool;
use super::timers::Key;
use super::vocabulary::{Action, Kind, Slot, WorkerId};
use super::worker::{Phase, Worker};

/// Longest time that a worker that is to stop serves on to empty its accept queue.
pub(super) const QUEUE_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

impl Pool {
    /// The slots whose queues get new connections: those with a ready worker; if no worker is ready, all slots, because each slot gets a
    /// replacement. Only slot 0, whose socket is systemd's and outlives the instance: when the instance stops; and if no worker is ready
    /// before all were ready once, or with one queue for all workers.
    pub fn serving(&self) -> BTreeSet<Slot> {
        let first = BTreeSet::from([0]);
        if self.stopping.is_some() {
            return first;
        }
        let ready: BTreeSet<Slot> = self.workers.values().filter(|it| it.serves()).map(|it| self.queue(it)).collect();
        match ready.is_empty() {
            false => ready,
            true if self.announced && self.has_queues(self.current) => (0..self.target).collect(),
            true => first,
        }
    }

    /// The workers that stop when their accept queue is empty.
    pub fn draining_queues(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.iter().filter(|(_, worker)| worker.draining_queue).map(|(id, _)| *id)
    }

    /// The slot whose queue the worker serves: the worker's own, or slot 0, whose queue all workers share.
    pub fn queue(&self, worker: &Worker) -> Slot {
        if self.has_queues(worker.generation) { worker.slot } else { 0 }
    }

    pub(super) fn has_queues(&self, generation: u64) -> bool {
        self.generations.get(&generation).is_some_and(|home| home.settings.per_slot)
    }

    /// Whether a worker that is to stop is the last to serve its queue, and new connections can go to other queues.
    pub(super) fn has_a_queue_to_empty(&self, id: WorkerId) -> bool {
        let serves = |worker: &&Worker| worker.serves() && worker.pid.is_some() && self.has_queues(worker.generation);
        let Some(worker) = self.worker(id).filter(serves) else { return false };
        if self.stopping.is_some() {
            return worker.slot != 0;
        }
        if self.pause.is_some() {
            return false;
        }
        let others = self.workers.iter().filter(|(other, it)| **other != id && it.serves()).map(|(_, it)| self.queue(it));
        let (same, elsewhere): (Vec<Slot>, Vec<Slot>) = others.partition(|queue| *queue == worker.slot);
        same.is_empty() && !elsewhere.is_empty()
    }

    pub(super) fn queue_drained(&mut self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(|worker| worker.draining_queue) {
            self.stop_after_all(id);
        } else {
            self.ignore_event("an empty queue of a worker that does not wait for it", Some(id));
        }
    }

    /// A worker became ready and serves its queue: workers that waited for this queue to be empty stop now.
    pub(super) fn queue_is_served(&mut self, by: WorkerId) {
        // Called for each worker that becomes ready. With one queue for all workers the search through all of them is skipped.
        if !self.generations.values().any(|home| home.settings.per_slot) {
            return;
        }
        let Some(queue) = self.workers.get(&by).map(|worker| self.queue(worker)) else { return };
        for id in self
            .draining_queues()
            .filter(|id| self.workers.get(id).is_some_and(|worker| worker.slot == queue))
            .collect::<Vec<_>>()
        {
            self.stop_after_all(id);
        }
    }

    /// The queue was not empty after [`QUEUE_DRAIN_TIMEOUT`]: the worker is stopped.
    pub(super) fn queue_is_left(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (generation, slot) = (worker.generation, worker.slot);
        let message =
            format!("worker {id} (slot {slot}) did not empty its queue within {}", super::exit_cause::Span(QUEUE_DRAIN_TIMEOUT));
        self.log(Kind::Warning, message, Some(generation), Some((id, slot)));
        self.stop_after_all(id);
    }

    pub(super) fn stop_after_all(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.draining_queue = false;
        let generation = worker.generation;
        let grace = self.generations.get(&generation).map_or(Duration::ZERO, |home| home.settings.stop_timeout);
        self.timers.set(Key::Stop(id), self.after(grace));
        self.act(Action::Stop(id));
    }
}

impl Worker {
    /// Whether the worker accepts connections.
    pub(super) fn serves(&self) -> bool {
        !self.is_probe && self.phase == Phase::Ready && self.how.is_none()
    }
}
