//! The laws that hold after every step: capacity, generations, and the reasons for which a worker may be stopped.

use std::collections::{BTreeMap, BTreeSet};

use super::World;
use crate::pool::restart::OUTAGE_DELAY;
use crate::pool::timers::Key;
use crate::pool::{Event, GenerationId, Notification, Phase, Queue, Slot, Worker, WorkerId};

impl World {
    /// Law 6: a serving worker is stopped only for one of the known reasons.
    pub(super) fn may_be_stopped(&self, worker: WorkerId, abort: bool) {
        let Some(process) = self.processes.get(&worker) else { return };
        let current = self.pool.generation();
        let replaced = self.pool.workers().any(|(id, other)| {
            id != worker && other.slot == process.slot && other.generation == process.generation && other.phase == Phase::Ready
        });
        let rolling = self.begun.last().and_then(|number| self.prepared.get(number)).is_some_and(|settings| {
            settings.surge.of(settings.count.max(self.pool.target())) < settings.count.max(self.pool.target())
        });
        // A canary runs beside the whole old generation.
        let rolling = rolling && self.pool.canary().is_none();
        let never_ready = self.pool.worker(worker).is_none_or(|worker| worker.phase != Phase::Ready) && !self.was_ready(worker);
        let reason = abort
            || self.pool.worker(worker).is_some_and(|worker| !worker.has_slot())
            || self.stopping
            || self.pool.is_paused()
            || self.pool.wants_no_workers()
            || process.generation != current
            || process.slot >= self.pool.target()
            || replaced
            || rolling
            || never_ready;
        assert!(reason, "worker {worker} of the current generation {current} is stopped for no reason");
    }

    pub(super) fn was_ready(&self, worker: WorkerId) -> bool {
        self.pool.worker(worker).is_some_and(|worker| worker.ready_at.is_some())
    }

    /// Checks the laws that hold after every step.
    pub(super) fn laws(&self, event: &Event, before: u32) {
        // Decisions of the pool itself never reduce the capacity below its target.
        let own = matches!(
            event,
            Event::Reload(_)
                | Event::Prepared(..)
                | Event::Probe(_)
                | Event::Probed(..)
                | Event::Promote(_)
                | Event::Compared(..)
                | Event::Judged(..)
                | Event::Refused(..)
                | Event::Abort(_)
                | Event::MasterDied
                | Event::RequesterGone(_)
                | Event::Recycle(..)
                | Event::RecycleDue(..)
                | Event::Connected
                | Event::Looked { active: true }
                | Event::Load(..)
                | Event::Hangs(..)
                | Event::Well(_)
                | Event::HungQueueWaits(_)
                | Event::Notification(
                    _,
                    Notification::Ready | Notification::Status(_) | Notification::Extend(_) | Notification::Watchdog
                )
        );
        if own && !self.stopping {
            let after = self.serving(None);
            assert!(after >= before.min(self.pool.target()), "{event:?} cost capacity: {before} -> {after}");
        }
        // The load never brings an elastic pool out of its bounds; only an operator does.
        let (min, max) = self.pool.elastic().map_or_else(|| self.pool.bounds(), |elastic| (elastic.min, elastic.max));
        let is_within = (min..=max).contains(&self.pool.target());
        assert!(self.pool.is_fixed() || self.stopping || is_within, "{} workers, {min} to {max}", self.pool.target());
        // Nobody serves in a pause, and nothing else begins.
        if self.pool.is_paused() {
            let left = self.pool.workers().all(|(id, worker)| worker.phase == Phase::Draining || !self.alive(id));
            assert!(left, "a worker that does not drain in a pause");
            assert_eq!(self.begun.len(), self.finished.len(), "a reload in a pause");
        }
        if self.pool.wants_no_workers() {
            let own = |worker: &Worker| worker.generation == self.pool.generation() && worker.has_slot();
            let left = self.pool.workers().all(|(id, worker)| !own(worker) || worker.phase == Phase::Draining || !self.alive(id));
            assert!(left, "a worker that does not drain in an idle pool");
        }
        // A generation that is probed has no other worker.
        let probed = |id: &WorkerId, worker: &Worker| worker.is_probe && worker.phase != Phase::Draining && self.alive(*id);
        for (_, probed) in self.pool.workers().filter(|(id, worker)| probed(id, worker)) {
            let others = self.pool.workers().filter(|(_, other)| other.generation == probed.generation && other.has_slot());
            assert_eq!(others.count(), 0, "generation {} started before its probe passed", probed.generation);
        }
        let mut standing: BTreeMap<(GenerationId, Slot), u32> = BTreeMap::new();
        for (_, worker) in
            self.pool.workers().filter(|(id, worker)| worker.has_slot() && worker.phase != Phase::Draining && self.alive(*id))
        {
            *standing.entry((worker.generation, worker.slot)).or_default() += 1;
        }
        assert!(standing.values().all(|count| *count <= 2), "more than a worker and its successor in one slot");
        let generation = self.pool.generation();
        assert_eq!(self.pool.committed(), if self.ready_told { generation } else { 0 }, "a generation before its commit");
        assert!(self.committed.contains_key(&generation), "generation {generation} was never committed");
        assert_eq!(self.committed.keys().next_back(), Some(&generation), "not the last committed generation");
        let counted = self.pool.workers().filter(|(id, worker)| {
            worker.generation == generation && worker.serves() && self.alive(*id) && worker.slot < self.pool.target()
        });
        assert!(self.pool.ready() <= counted.count() as u32, "more ready workers are told than there are");
        if self.committed.values().chain(self.prepared.values()).any(|settings| settings.per_slot) {
            self.connections_go_to_who_is_ready();
        }
        if self.serving(None) == 0 && !self.stopping {
            self.outages_are_short();
        }
        if self.begun.len() == self.finished.len() {
            // Without a running reload, workers start only in the current generation.
            for (id, worker) in self.pool.workers() {
                assert!(
                    worker.phase != Phase::Starting
                        || worker.generation == generation
                        || worker.is_probe
                        || self.probe_only.contains(&worker.generation)
                        || !self.alive(id),
                    "worker {id} of a rolled-back generation still starts"
                );
            }
        }
    }

    /// A pool becomes idle at a look without activity only, and not before `scale.idle` has passed since the last activity.
    pub(super) fn becomes_idle_when_quiet(&self, event: &Event, was_without_workers: bool) {
        if self.pool.wants_no_workers() && !was_without_workers {
            assert_eq!(*event, Event::Looked { active: false });
            let idle = self.committed[&self.pool.generation()].idle.expect("worker.min = 0");
            assert!(self.now - self.active_at >= idle, "idle {:?} after a connection", self.now - self.active_at);
            assert_eq!(self.begun.len(), self.finished.len(), "idle during a reload");
        }
    }

    /// While the pool waits for its first connection, only what an operator has asked for starts: a candidate, a probe, or after a canary
    /// the worker that empties its queue.
    pub(super) fn may_start_in_idleness(&self, worker: WorkerId) {
        let Some(worker) = self.pool.worker(worker).filter(|_| self.pool.wants_no_workers()) else { return };
        let own = worker.generation == self.pool.generation() && worker.has_slot();
        assert!(!own, "a worker starts without a connection");
    }

    /// While no worker serves, at least one of the slots that wait for a worker waits no longer than [`OUTAGE_DELAY`].
    fn outages_are_short(&self) {
        let generation = self.pool.generation();
        let restart = |slot| self.pool.timers.get(Key::Restart(generation, slot));
        if let Some(next) = (0..self.pool.target()).filter_map(restart).min() {
            assert!(next <= self.now + OUTAGE_DELAY, "nobody serves, and no slot is tried for {:?}", next - self.now);
        }
    }

    fn connections_go_to_who_is_ready(&self) {
        let (serving, queues) = (self.pool.serving(), self.ready_queues());
        assert!(!serving.is_empty(), "new connections go nowhere");
        if !self.stopping && self.processes.values().all(|process| !process.gone) && !queues.is_empty() {
            let ready: BTreeSet<Queue> = queues.into_keys().collect();
            let hung = self.hung_queues();
            if hung.is_empty() {
                assert_eq!(serving, ready, "new connections do not go to who is ready");
            }
            assert!(serving.is_subset(&ready), "new connections go to a queue that nobody serves");
            let left_out: BTreeSet<Queue> = ready.difference(&serving).copied().collect();
            assert!(left_out.is_subset(&hung), "new connections do not go to a worker that is well");
            let candidate = self.pool.canary().map(|canary| canary.generation);
            let of_canary = |queue: &&Queue| {
                self.pool
                    .workers()
                    .any(|(_, it)| it.serves() && Some(it.generation) == candidate && self.pool.queue(it) == **queue)
            };
            let (served, others): (Vec<&Queue>, Vec<&Queue>) =
                ready.iter().filter(|it| !of_canary(it)).partition(|it| serving.contains(it));
            assert!(
                others.is_empty() || served.iter().all(|queue| !hung.contains(*queue)),
                "one worker that hangs is preferred to another"
            );
        }
    }

    /// The queues of ready workers all of which hang.
    pub(super) fn hung_queues(&self) -> BTreeSet<Queue> {
        let of = |wanted: bool| -> BTreeSet<Queue> {
            let ready = self.pool.workers().filter(|(_, worker)| worker.serves());
            ready
                .filter(|(id, _)| self.pool.avoided(*id).is_some() == wanted)
                .map(|(_, worker)| self.pool.queue(worker))
                .collect()
        };
        of(true).difference(&of(false)).copied().collect()
    }
}
