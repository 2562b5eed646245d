//! The law of accept queues: no queue in which connections may wait is left without a worker.

use std::collections::BTreeMap;

use super::World;
use crate::pool::{Phase, Queue, Worker, WorkerId};

impl World {
    /// The number of ready workers of each queue.
    pub(super) fn ready_queues(&self) -> BTreeMap<Queue, u32> {
        let mut queues = BTreeMap::new();
        let serves =
            |id: &WorkerId, worker: &Worker| worker.phase == Phase::Ready || self.fail_next.contains(id) && self.was_ready(*id);
        let serves = |id: &WorkerId, worker: &Worker| worker.has_sockets() && serves(id, worker);
        for (_, worker) in self.pool.workers().filter(|(id, worker)| serves(id, worker) && self.alive(*id)) {
            *queues.entry(self.pool.queue(worker)).or_default() += 1;
        }
        queues
    }

    /// A worker that served a queue of its own stops only if another worker serves the queue or the queue is empty, unless no other queue
    /// has a ready worker.
    pub(super) fn leaves_no_queue(&self, worker: WorkerId) {
        let Some(process) = self.processes.get(&worker) else { return };
        let per_slot = match process.generation {
            1 => self.committed.get(&1),
            number => self.prepared.get(&number),
        };
        let had_one = per_slot.is_some_and(|settings| settings.per_slot) && self.was_ready(worker);
        let is_probe = self.pool.worker(worker).is_some_and(|worker| !worker.has_sockets());
        if !had_one || is_probe || process.draining_queue || (self.stopping && process.slot == 0) {
            return;
        }
        let ready = self.ready_queues();
        let queue_of = |id: WorkerId| self.pool.worker(id).map(|worker| self.pool.queue(worker));
        let Some(own) = queue_of(worker) else { return };
        let others = self.pool.draining_queues().any(|id| id != worker && queue_of(id) == Some(own));
        let elsewhere = ready.keys().any(|queue| *queue != own);
        assert!(ready.contains_key(&own) || others || !elsewhere, "worker {worker} leaves a queue that nobody serves");
    }
}
