//! Accept queues with `worker.balance = "per-slot"`: which queues get new connections, and which workers drain a queue before they stop.
//!
//! Law: a new connection goes to a queue that has a ready worker, if there is any. When the pool itself gives up a queue, the last
//! worker of the queue serves until no connection waits in it. The queue of a failed worker waits for the worker's replacement, and where
//! none comes, as for a canary, a worker of the current generation is started for it alone. A canary has queues of its own, so that its
//! part of the new connections is exact.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::ids::{GenerationId, Slot, WorkerId};
use super::reload_state::{Reload, Stage};
use super::settings::Surge;
use super::timers::Key;
use super::vocabulary::{Action, Kind};
use super::worker::{Forking, Phase, Worker};

/// Longest time that a worker that is to stop serves on to empty its accept queue.
pub(super) const QUEUE_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// An accept queue. A slot has one, and a second one while a canary serves in it beside the old worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Queue {
    /// The slot.
    pub slot: Slot,
    /// The second queue of the slot. After the commit of a canary it is the one that serves, and the next canary has the first.
    pub second: bool,
}

impl Queue {
    /// The queue of systemd's socket, which all workers share without `worker.balance = "per-slot"`.
    pub const FIRST: Queue = Queue { slot: 0, second: false };

    /// The first queue of a slot.
    pub fn of_slot(slot: Slot) -> Queue {
        Queue { slot, second: false }
    }
}

/// The canary's part of the new connections, and its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryPart {
    /// The queues of the canary's ready workers.
    pub queues: BTreeSet<Queue>,
    /// The number of new connections, of each [`Self::of`], that go to the canary.
    pub part: u32,
    /// See [`Self::part`].
    pub of: u32,
}

impl Pool {
    /// The queues that get new connections: those with a ready worker; if no worker is ready, those of all slots, because each slot gets a
    /// replacement. Only the first queue, whose socket is systemd's and outlives the instance: when the instance stops; and if no worker
    /// is ready before all were ready once, or with one queue for all workers. An idle pool has the queue of its first worker.
    ///
    /// The queue of a worker that hangs gets none while another worker beside it, old or canary, is well; that of a canary gets none at all.
    pub fn serving(&self) -> BTreeSet<Queue> {
        let first = BTreeSet::from([Queue::FIRST]);
        if self.stopping.is_some() {
            return first;
        }
        let ready: BTreeSet<Queue> = self.workers.values().filter(|it| it.serves()).map(|it| self.queue(it)).collect();
        match ready.is_empty() {
            false if !self.avoided.is_empty() => self.without_hung(ready),
            false => ready,
            true if self.idling.is_idle() => BTreeSet::from([self.idle_queue()]),
            true if self.announced && self.has_queues(self.current) => {
                (0..self.target).map(|slot| Queue { slot, second: self.second_queue(self.current, slot) }).collect()
            }
            true => first,
        }
    }

    /// The ready queues without those whose workers all hang.
    fn without_hung(&self, ready: BTreeSet<Queue>) -> BTreeSet<Queue> {
        let canary = self.canary_part().map(|canary| canary.queues).unwrap_or_default();
        let candidate = self.canary_reload().map(|reload| reload.number);
        let others = || self.workers().filter(|(_, it)| it.serves() && Some(it.generation) != candidate);
        let mut queues: BTreeSet<Queue> = self.well_queues(others()).into_iter().collect();
        if queues.is_empty() {
            queues = others().map(|(_, it)| self.queue(it)).collect();
        }
        queues.extend(canary);
        if queues.is_empty() { ready } else { queues }
    }

    /// The canary's part of the new connections; `None` without a ready canary that has queues of its own and does not hang. A step of N workers gets N of
    /// all workers' parts, a step with a share that share; as long as a part of its workers is ready, that part of it.
    pub fn canary_part(&self) -> Option<CanaryPart> {
        let reload = self.canary_reload()?;
        let step = reload.canary?.step;
        let candidate = self.generations.get(&reload.number)?;
        let own = self.workers().filter(|(_, it)| it.generation == reload.number && it.serves());
        let queues: BTreeSet<Queue> = self.well_queues(own).into_iter().collect();
        let ready = queues.len() as u32;
        let (part, of) = match candidate.settings.steps.sizes.get(step)? {
            Surge::Count(_) => (ready, self.target + ready),
            share @ Surge::Percent(percent) => (percent * ready, 100 * share.of(reload.target)),
        };
        // In lowest terms, so that the turns of the canary are as evenly spaced as can be.
        let common = greatest_common_divisor(part, of);
        (ready > 0).then(|| CanaryPart { queues, part: part / common, of: of / common })
    }

    /// The reload whose canary has queues of its own.
    fn canary_reload(&self) -> Option<&Reload> {
        let reload = self.reload.as_ref().filter(|it| matches!(it.stage, Stage::Starting | Stage::Canary))?;
        let has_canary = reload.canary.is_some() && self.stopping.is_none() && self.has_queues(reload.number);
        has_canary.then_some(reload)
    }

    /// The workers that stop when their accept queue is empty.
    pub fn draining_queues(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.iter().filter(|(_, worker)| worker.draining_queue).map(|(id, _)| *id)
    }

    /// The queue that the worker serves: its own, or the first one, which all workers share.
    pub fn queue(&self, worker: &Worker) -> Queue {
        match self.has_queues(worker.generation) {
            true => Queue { slot: worker.slot, second: worker.second_queue },
            false => Queue::FIRST,
        }
    }

    pub(super) fn has_queues(&self, generation: GenerationId) -> bool {
        self.generations.get(&generation).is_some_and(|home| home.settings.per_slot)
    }

    /// Whether workers of this generation serve the second queue of the slot.
    pub(super) fn second_queue(&self, generation: GenerationId, slot: Slot) -> bool {
        let home = self.generations.get(&generation).and_then(|home| home.slots.get(slot as usize));
        home.is_some_and(|place| place.second_queue)
    }

    /// Chooses the queue of a slot of the candidate, before its worker starts: a canary gets the one that the old worker does not serve.
    pub(super) fn choose_queue(&mut self, number: GenerationId, slot: Slot, is_canary: bool) {
        let second = self.second_queue(self.current, slot) != is_canary;
        if let Some(place) = self.generations.get_mut(&number).and_then(|home| home.slots.get_mut(slot as usize)) {
            place.second_queue = second;
        }
    }

    /// Whether a worker that is to stop is the last to serve its queue, and new connections can go to other queues. A worker that is there
    /// only to empty its queue does so in any case.
    pub(super) fn has_a_queue_to_empty(&self, id: WorkerId) -> bool {
        let serves = |worker: &&Worker| worker.serves() && worker.pid.is_some() && self.has_queues(worker.generation);
        let Some(worker) = self.worker(id).filter(serves) else { return false };
        let (own, is_relief) = (self.queue(worker), worker.is_relief);
        if self.stopping.is_some() {
            return own != Queue::FIRST;
        }
        if self.pause.is_some() {
            return false;
        }
        let others = self.workers().filter(|(other, it)| *other != id && it.serves());
        let (same, elsewhere): (Vec<_>, Vec<_>) = others.partition(|(_, it)| self.queue(it) == own);
        let same = self.well_queues(same.into_iter());
        if self.idling.is_idle() {
            return same.is_empty() && own != self.idle_queue();
        }
        same.is_empty() && (is_relief || !elsewhere.is_empty())
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
            .filter(|id| self.workers.get(id).is_some_and(|worker| self.queue(worker) == queue))
            .collect::<Vec<_>>()
        {
            self.stop_after_all(id);
        }
    }

    /// A worker has failed while connections may have waited in its queue, or has left. If no other worker serves the queue or will, a worker of
    /// the current generation is started to empty it: it stops when the queue is empty.
    pub(super) fn relieve(&mut self, failed: WorkerId) {
        let Some(worker) = self.workers.get(&failed).filter(|worker| !worker.is_relief) else { return };
        let queue = self.queue(worker);
        let is_refilled = |generation: GenerationId| {
            let home = self.generations.get(&generation).filter(|home| (queue.slot as usize) < home.slots.len());
            home.is_some() && self.second_queue(generation, queue.slot) == queue.second
        };
        let candidate = self.reload.as_ref().map(|reload| reload.number);
        let is_served = self.workers.iter().any(|(id, other)| {
            *id != failed && other.how.is_none() && (other.serves() || other.draining_queue) && self.queue(other) == queue
        });
        if self.stopping.is_some()
            || self.pause.is_some()
            || !self.has_queues(worker.generation)
            || !self.has_queues(self.current)
            || is_served
            || [Some(self.current), candidate].into_iter().flatten().any(is_refilled)
        {
            return;
        }
        self.start_relief(queue, failed);
    }

    /// Starts a worker of the current generation that empties this queue, then stops.
    pub(super) fn start_relief(&mut self, queue: Queue, failed: WorkerId) {
        let slot = queue.slot;
        let id = self.spawn(self.current, slot);
        if let Some(relief) = self.workers.get_mut(&id) {
            (relief.second_queue, relief.is_relief) = (queue.second, true);
        }
        let message = format!("worker {id} serves what may wait in the queue of worker {failed} (slot {slot}), then it stops");
        self.log(Kind::Info, message, Some(self.current), Some((id, slot)));
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
        // A queue that was to be emptied, and is served again in the same step, is not watched.
        self.actions.retain(|action| *action != Action::DrainQueue(id));
        self.act(Action::Stop(id));
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a.max(1) } else { greatest_common_divisor(b, a % b) }
}

impl Worker {
    /// Whether the worker is one of a slot: it is neither probed, nor a preload process, nor there only to empty a queue.
    pub fn has_slot(&self) -> bool {
        self.has_sockets() && !self.is_relief
    }

    /// Whether the worker has the sockets of the instance: it is neither probed on private ones nor a preload process.
    pub fn has_sockets(&self) -> bool {
        !self.is_probe && !self.is_preload()
    }

    /// Whether the worker is the preload process of its generation.
    pub fn is_preload(&self) -> bool {
        self.forking == Forking::Parent
    }

    /// Whether the worker has no process because it is still to be forked.
    pub(super) fn awaits_fork(&self) -> bool {
        matches!(self.forking, Forking::Held | Forking::Asked)
    }

    /// The worker has a process, or will have none any more.
    pub(super) fn has_process_now(&mut self) {
        if self.awaits_fork() {
            self.forking = Forking::No;
        }
    }

    /// The worker in a sentence, as `worker 3 (slot 0)`.
    pub(super) fn named(&self, id: WorkerId) -> String {
        match (self.is_preload(), self.is_probe) {
            (true, _) => format!("preload process {id}"),
            (false, true) => format!("worker {id}"),
            (false, false) => format!("worker {id} (slot {})", self.slot),
        }
    }

    /// Whether the worker accepts connections.
    pub(super) fn serves(&self) -> bool {
        self.has_sockets() && self.phase == Phase::Ready && self.how.is_none()
    }
}
