//! An accept queue for each slot (`worker.balance = "per-slot"`). New connections are steered to the slots that the pool names.
//! The accept queue of a worker that is to stop is watched until it is empty.
//!
//! Law: new connections are steered away from a worker before it is stopped. With one queue for all slots, this module does nothing.

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

/// The interval at which a draining accept queue is checked.
const LOOK: Duration = Duration::from_millis(20);
/// The time that an accept queue must stay empty. A handshake that began before the steering ends within a round trip, and its
/// connection then waits in this queue.
const QUIET: Duration = Duration::from_millis(500);

/// The draining accept queues: the worker of each, and the time since which the queue is empty.
#[derive(Debug, Default)]
pub struct AcceptQueueDrain {
    since: BTreeMap<WorkerId, Instant>,
    look: Option<Instant>,
}

impl AcceptQueueDrain {
    /// The time of the next check of the queues.
    pub fn deadline(&self) -> Option<Instant> {
        self.look.filter(|_| !self.since.is_empty())
    }
}

impl Master {
    /// Makes the missing slot sockets for a generation of this configuration: for its number of workers, and at least for `least`.
    ///
    /// # Errors
    /// A socket cannot be made; the text says why, and what to do.
    pub(in crate::master) fn make_slots(&mut self, config: &Config, least: u32) -> Result<(), sockets::Error> {
        match config.worker.balance {
            Balance::Shared => Ok(()),
            Balance::PerSlot => self.slots.ensure(&self.context.listeners, least.max(config.worker.workers())),
        }
    }

    /// The listening sockets of this slot's worker; `None` when all slots share the release's sockets.
    pub(in crate::master) fn listeners_of(&mut self, slot: Slot, release: &Release) -> Result<Option<Vec<Arc<OwnedFd>>>, String> {
        match release.config.worker.balance {
            Balance::Shared => Ok(None),
            Balance::PerSlot => {
                self.slots.ensure(&self.context.listeners, slot + 1).map_err(|error| format!("not started: {error}"))?;
                Ok(Some(self.slots.of(&self.context.listeners, slot)))
            }
        }
    }

    /// Steers new connections to the slots that the pool names.
    pub(in crate::master) fn steer(&mut self) {
        if self.slots.are_there()
            && let Err(error) = self.slots.steer(&self.pool.serving())
        {
            self.log.warn_once(&error.to_string());
        }
    }

    /// Starts to drain the worker's accept queue.
    pub(in crate::master) fn vacate(&mut self, worker: WorkerId) {
        self.vacating.since.insert(worker, self.now);
        self.vacating.look.get_or_insert(self.now + LOOK);
    }

    /// Checks the draining queues, and reports those that were empty for [`QUIET`].
    pub(in crate::master) fn look_at_queues(&mut self) {
        if self.vacating.deadline().is_none_or(|at| at > self.now) {
            return;
        }
        self.vacating.look = Some(self.now + LOOK);
        // Again, where the kernel has refused it.
        self.steer();
        let waiting: Vec<WorkerId> = self.pool.vacating().collect();
        self.vacating.since.retain(|worker, _| waiting.contains(worker));
        for (worker, since) in &mut self.vacating.since {
            let Some(slot) = self.pool.worker(*worker).map(|worker| worker.slot) else { continue };
            if self.slots.waiting(slot) > 0 {
                *since = self.now;
            } else if self.now.saturating_duration_since(*since) >= QUIET {
                self.events.push(Event::Vacated(*worker));
            }
        }
        if self.vacating.since.is_empty() {
            self.vacating.look = None;
        }
    }

    /// Takes over the slot sockets of an earlier master.
    pub(in crate::master) fn resume_slots(&mut self, fds: &mut Incoming) {
        let came = fds.take_all(SLOT_PREFIX);
        if came.is_empty() {
            return;
        }
        match Slots::resume(&self.context.listeners, came) {
            Ok(slots) => self.slots = slots,
            Err(why) => self.log.warn(format!("sockets of slots are lost, and what waits in them: {why}")),
        }
        self.steer();
        for worker in self.pool.vacating().collect::<Vec<_>>() {
            self.vacate(worker);
        }
    }
}
