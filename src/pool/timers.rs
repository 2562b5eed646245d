//! The pool's deadlines: one instant a key, the next one found at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::vocabulary::{Number, Slot, WorkerId};

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A worker must be ready.
    Start(WorkerId),
    /// A worker has lived long enough to count as ready.
    Settle(WorkerId),
    /// A ready worker must have said something.
    Watchdog(WorkerId),
    /// A worker is old enough to be recycled.
    Age(WorkerId),
    /// A draining worker must be gone.
    Stop(WorkerId),
    /// A slot's next worker may be started.
    Restart(Number, Slot),
    /// The candidate has proved itself.
    Probation,
    /// No worker was ready for too long.
    GiveUp,
    /// Long enough without a failure to look whether all is well.
    Recover,
}

/// All deadlines.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    at: BTreeMap<Key, Instant>,
    order: BTreeSet<(Instant, Key)>,
}

impl Timers {
    /// Sets a deadline, replacing the key's former one.
    pub fn set(&mut self, key: Key, at: Instant) {
        if let Some(former) = self.at.insert(key, at) {
            self.order.remove(&(former, key));
        }
        self.order.insert((at, key));
    }

    /// Moves a deadline that exists to a later instant; never to an earlier one.
    pub fn extend(&mut self, key: Key, at: Instant) {
        if self.at.get(&key).is_some_and(|current| *current < at) {
            self.set(key, at);
        }
    }

    /// Takes a deadline back.
    pub fn clear(&mut self, key: Key) {
        if let Some(at) = self.at.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    /// Whether the key has a deadline.
    pub fn is_set(&self, key: Key) -> bool {
        self.at.contains_key(&key)
    }

    /// The next deadline.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Instant)> {
        self.at.iter().map(|(key, at)| (*key, *at))
    }

    /// Takes the earliest deadline that `now` has reached.
    pub fn pop(&mut self, now: Instant) -> Option<Key> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.clear(key);
        Some(key)
    }

    /// Takes back all deadlines of a worker.
    pub fn clear_worker(&mut self, worker: WorkerId) {
        for key in [Key::Start(worker), Key::Settle(worker), Key::Watchdog(worker), Key::Age(worker), Key::Stop(worker)] {
            self.clear(key);
        }
    }
}
