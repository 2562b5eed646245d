//! Workers that hang, where each slot has its own accept queue: their queues get no new connections until they are well again
//! (`worker.balance_hung`).
//!
//! Law: new connections are never steered away from all workers. The hang of a worker ends nothing: the worker keeps its requests and
//! its slot. Connections that have waited in its queue for `worker.balance_hung` are served by a worker that is started for them alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::exit_cause::Span;
use super::hang_signs::Sighting;
use super::ids::{GenerationId, WorkerId};
use super::serving::Queue;
use super::time::Time;
use super::timers::Key;
use super::vocabulary::{Action, Event, Kind};
use super::worker::{Hang, Phase, Worker};

/// A stop of the process is told after this time.
const STOPPED_TOLD_AFTER: Duration = Duration::from_secs(1);
/// The shortest time between two starts of a worker for the same queue.
const MOVE_AGAIN: Duration = Duration::from_secs(5);
/// A worker whose queue was emptied by another one, and that shows no sign of life, gets new connections again after this time.
const TRIAL: Duration = Duration::from_secs(60);

/// A worker that is avoided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Avoided {
    pub why: Hang,
    pub since: Time,
    /// The log and the status text tell of it.
    is_told: bool,
    /// When a worker was started last for what waits in its queue.
    moved_at: Option<Time>,
}

impl Pool {
    /// Whether the master is to look for workers that hang, while connections are open: [`Self::judge`] takes what it sees.
    pub fn looks_for_hangs(&self) -> bool {
        self.stopping.is_none()
            && self.pause.is_none()
            && self.generations.values().any(|home| home.settings.per_slot && home.settings.balance_hung.is_some())
            && !self.wants_no_workers()
    }

    /// Why new connections go to other workers than this one, if they do.
    pub fn avoided(&self, id: WorkerId) -> Option<Hang> {
        self.avoided.get(&id).map(|avoided| avoided.why)
    }

    /// The workers that are looked at, each with its queue.
    pub fn may_hang(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers().filter(|(_, worker)| worker.serves() && worker.has_slot() && self.hung_after(worker.generation).is_some())
    }

    /// `worker.balance_hung` of this generation, if its slots have their own queues.
    fn hung_after(&self, generation: GenerationId) -> Option<Duration> {
        let settings = &self.generations.get(&generation)?.settings;
        settings.balance_hung.filter(|_| settings.per_slot)
    }

    /// Judges what one look has shown of all workers of [`Self::may_hang`]: the events are for [`Self::step`].
    pub fn judge(&self, now: Time, seen: &[Sighting]) -> Vec<Event> {
        let queue = |seen: &Sighting| self.worker(seen.worker).map(|worker| self.queue(worker));
        let others_are_free = Sighting::most_queues_are_empty(seen.iter().filter_map(|it| Some((queue(it)?, it))));
        let event = |seen: &Sighting| {
            let id = seen.worker;
            let worker = self.worker(id).filter(|worker| worker.serves() && worker.has_slot())?;
            let limit = self.hung_after(worker.generation)?;
            let hang = seen.hang(limit, others_are_free);
            match (self.avoided.get(&id), hang) {
                (None, None) => None,
                (None, Some(why)) => Some(Event::Hangs(id, why)),
                (Some(avoided), Some(why)) if why != avoided.why && why != Hang::Queue => Some(Event::Hangs(id, why)),
                (Some(avoided), None) if seen.waiting() == 0 && self.is_well(id, avoided, seen, now) => Some(Event::Well(id)),
                (Some(avoided), _) => {
                    let is_overdue = avoided.why == Hang::Request || now - avoided.since >= limit;
                    let may_move = avoided.moved_at.is_none_or(|at| now - at >= MOVE_AGAIN.max(limit));
                    let waits = seen.waiting() > 0 && is_overdue && may_move && !self.is_relieved(id);
                    waits.then_some(Event::HungQueueWaits(id))
                }
            }
        };
        seen.iter().filter_map(event).collect()
    }

    /// Whether an avoided worker without a sign of a hang is well. An empty queue proves nothing where another worker has emptied it.
    fn is_well(&self, id: WorkerId, avoided: &Avoided, seen: &Sighting, now: Time) -> bool {
        let Some(moved_at) = avoided.moved_at.filter(|_| avoided.why == Hang::Queue) else { return true };
        seen.has_accepted || !self.is_relieved(id) && now - moved_at >= TRIAL
    }

    /// Whether another worker that is not avoided serves the queue of this one, or will.
    fn is_relieved(&self, id: WorkerId) -> bool {
        let Some(queue) = self.worker(id).map(|worker| self.queue(worker)) else { return false };
        self.workers.iter().any(|(other, worker)| {
            *other != id
                && worker.how.is_none()
                && worker.has_sockets()
                && (worker.phase != Phase::Draining || worker.draining_queue)
                && !self.avoided.contains_key(other)
                && self.queue(worker) == queue
        })
    }

    pub(super) fn hangs(&mut self, id: WorkerId, why: Hang) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.serves() && worker.has_slot()) else {
            return self.ignore_event("the hang of a worker that does not serve", Some(id));
        };
        let Some(limit) = self.hung_after(worker.generation) else {
            return self.ignore_event("the hang of a worker without a queue of its own", Some(id));
        };
        let now = self.now;
        let avoided = self.avoided.entry(id).or_insert(Avoided { why, since: now, is_told: false, moved_at: None });
        avoided.why = why;
        if !avoided.is_told {
            let after = match why {
                Hang::Stopped => STOPPED_TOLD_AFTER,
                Hang::Request => Duration::ZERO,
                // A single slow request is nothing to tell of.
                Hang::Queue => limit,
            };
            self.timers.set(Key::Hang(id), avoided.since + after);
        }
        self.act(Action::Changed(id));
    }

    /// The hang of a worker has lasted: the log and the status text tell of it.
    pub(super) fn tell_hang(&mut self, id: WorkerId) {
        let Some(avoided) = self.avoided.get_mut(&id) else { return };
        avoided.is_told = true;
        let why = avoided.why.in_words();
        let Some(worker) = self.workers.get(&id) else { return };
        let (generation, slot, named) = (worker.generation, worker.slot, worker.named(id));
        let is_steered_away = !self.serving().contains(&self.queue(worker));
        let effect = if is_steered_away { "gets no new connections" } else { "hangs, and so does every worker beside it" };
        self.log(Kind::Hangs, format!("{named} {effect}: {why}"), Some(generation), Some((id, slot)));
    }

    pub(super) fn well(&mut self, id: WorkerId) {
        let Some(avoided) = self.forget_hang(id) else {
            return self.ignore_event("a worker that does not hang is well", Some(id));
        };
        let Some(worker) = self.workers.get(&id) else { return };
        if avoided.is_told {
            let (generation, slot, named) = (worker.generation, worker.slot, worker.named(id));
            let message = format!("{named} is well after {}: it gets new connections", Span(self.now - avoided.since));
            self.log(Kind::Info, message, Some(generation), Some((id, slot)));
        }
        self.act(Action::Changed(id));
    }

    /// The worker is avoided no more: it is well, or it serves no more.
    pub(super) fn forget_hang(&mut self, id: WorkerId) -> Option<Avoided> {
        let avoided = self.avoided.remove(&id)?;
        self.timers.clear(Key::Hang(id));
        Some(avoided)
    }

    /// Connections have waited in the queue of a worker that hangs for `worker.balance_hung`: a worker is started for them.
    pub(super) fn hung_queue_waits(&mut self, id: WorkerId) {
        if !self.avoided.contains_key(&id) {
            return self.ignore_event("the queue of a worker that does not hang", Some(id));
        }
        let now = self.now;
        if self.relieve_hung(id)
            && let Some(avoided) = self.avoided.get_mut(&id)
        {
            avoided.moved_at = Some(now);
        }
    }

    /// Starts a worker that empties the queue of one that hangs, unless another one serves the queue or will. Returns whether it does.
    pub(super) fn relieve_hung(&mut self, id: WorkerId) -> bool {
        let Some(queue) = self.workers.get(&id).map(|worker| self.queue(worker)) else { return false };
        let may = self.stopping.is_none() && self.pause.is_none() && self.has_queues(self.current) && !self.is_relieved(id);
        if may {
            self.start_relief(queue, id);
        }
        may
    }

    /// The part of the status text about workers that hang.
    pub(super) fn hangs_in_words(&self) -> String {
        let mut told = self.avoided.iter().filter(|(_, avoided)| avoided.is_told);
        match (told.next(), told.count()) {
            (None, _) => String::new(),
            (Some((id, avoided)), 0) => {
                let named = self.worker(*id).map_or_else(String::new, |worker| worker.named(*id));
                format!(", {named} is avoided: {}", avoided.why.in_words())
            }
            (Some(_), others) => format!(", {} workers are avoided because they hang", others + 1),
        }
    }

    /// The queues of those of these workers that do not hang.
    pub(super) fn well_queues<'a>(&'a self, workers: impl Iterator<Item = (WorkerId, &'a Worker)>) -> Vec<Queue> {
        workers.filter(|(id, _)| !self.avoided.contains_key(id)).map(|(_, worker)| self.queue(worker)).collect()
    }
}
