//! The law of accept queues: no queue in which connections may wait is left without a worker.

use std::collections::BTreeMap;

use super::World;
use crate::pool::{Phase, Queue, READS, Sighting, Worker, WorkerId};

impl World {
    /// Looks at the workers that may hang. `signs`: two bits of each, from the lowest on: 0 and 1 well, 2 connections wait, 3 stopped.
    pub fn look_for_hangs(&mut self, signs: u64) {
        let sighting = |(index, (worker, _)): (usize, (WorkerId, &Worker))| {
            let sign = signs >> (index % 32 * 2) & 3;
            let queue = if sign == 2 { vec![1; READS] } else { vec![0] };
            Sighting { worker, is_stopped: sign == 3, queue, ..Sighting::default() }
        };
        let seen: Vec<Sighting> = self.pool.may_hang().enumerate().map(sighting).collect();
        for event in self.pool.judge(self.now, &seen) {
            self.step(event);
        }
    }

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

    /// Whether a ready worker that does not hang serves this queue.
    pub(super) fn is_served_well(&self, queue: Queue) -> bool {
        let is_well = |id: &WorkerId| self.pool.avoided(*id).is_none() && self.alive(*id);
        let serves = |id: &WorkerId, worker: &Worker| worker.phase == Phase::Ready || self.fail_next.contains(id);
        self.pool.workers().any(|(id, it)| it.has_sockets() && serves(&id, it) && is_well(&id) && self.pool.queue(it) == queue)
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
