//! A queue for each slot: new connections are steered where the pool wants them, and the queue of a worker that is to stop
//! is watched until it is empty.
//!
//! Law: a connection is steered away before its worker is stopped. With one queue for all nothing of this happens.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Balance, Config};
use crate::master::handover::SLOT_PREFIX;
use crate::master::handover::fds::Incoming;
use crate::master::listeners::sockets::{self, Slots};
use crate::master::releases::prepare::Release;
use crate::master::turn::Master;
use crate::pool::{Event, Slot, WorkerId};

/// So often a queue that shall get empty is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// So long it must have been empty: a handshake that had begun before ends within a round trip, and then waits there.
const QUIET: Duration = Duration::from_millis(500);

/// The queues that shall get empty: whose, and since when nothing has been seen in it.
#[derive(Debug, Default)]
pub struct AcceptQueueDrain {
    since: BTreeMap<WorkerId, Instant>,
    look: Option<Instant>,
}

impl AcceptQueueDrain {
    /// When the queues are looked at next.
    pub fn deadline(&self) -> Option<Instant> {
        self.look.filter(|_| !self.since.is_empty())
    }
}

impl Master {
    /// Sees to it that a generation of this configuration has its sockets: for as many workers as that wants, and for at least
    /// so many.
    ///
    /// # Errors
    /// Why it can't, and what to do.
    pub(in crate::master) fn make_slots(&mut self, config: &Config, least: u32) -> Result<(), sockets::Error> {
        match config.worker.balance {
            Balance::Shared => Ok(()),
            Balance::PerSlot => self.slots.ensure(&self.context.listeners, least.max(config.worker.workers())),
        }
    }

    /// The listening sockets of this slot's worker, where they are others than its neighbour's.
    pub(in crate::master) fn listeners_of(&mut self, slot: Slot, release: &Release) -> Result<Option<Vec<Arc<OwnedFd>>>, String> {
        match release.config.worker.balance {
            Balance::Shared => Ok(None),
            Balance::PerSlot => {
                self.slots.ensure(&self.context.listeners, slot + 1).map_err(|error| format!("not started: {error}"))?;
                Ok(Some(self.slots.of(&self.context.listeners, slot)))
            }
        }
    }

    /// New connections go where the pool wants them.
    pub(in crate::master) fn steer(&mut self) {
        if self.slots.are_there()
            && let Err(error) = self.slots.steer(&self.pool.serving())
        {
            self.warn_once(&error.to_string());
        }
    }

    /// The worker's queue shall get empty.
    pub(in crate::master) fn vacate(&mut self, worker: WorkerId) {
        self.vacating.since.insert(worker, self.now);
        self.vacating.look.get_or_insert(self.now + LOOK);
    }

    /// Looks whether they are.
    pub(in crate::master) fn look_at_queues(&mut self) {
        if self.vacating.deadline().is_none_or(|at| at > self.now) {
            return;
        }
        self.vacating.look = Some(self.now + LOOK);
        let waiting: Vec<WorkerId> = self.pool.vacating().collect();
        self.vacating.since.retain(|worker, _| waiting.contains(worker));
        for (worker, since) in &mut self.vacating.since {
            let Some(slot) = self.pool.worker(*worker).map(|worker| worker.slot) else { continue };
            if self.slots.waiting(slot) > 0 {
                *since = self.now;
            } else if self.now.saturating_duration_since(*since) >= QUIET {
                self.events.push_back(Event::Vacated(*worker));
            }
        }
        if self.vacating.since.is_empty() {
            self.vacating.look = None;
        }
    }

    /// Goes on with the sockets of an earlier master.
    pub(in crate::master) fn resume_slots(&mut self, fds: &mut Incoming) {
        let came = fds.take_all(SLOT_PREFIX);
        if came.is_empty() {
            return;
        }
        match Slots::resume(&self.context.listeners, came) {
            Ok(slots) => self.slots = slots,
            Err(why) => self.warn(format!("sockets of slots are lost, and what waits in them: {why}")),
        }
        self.steer();
        for worker in self.pool.vacating().collect::<Vec<_>>() {
            self.vacate(worker);
        }
    }
}
