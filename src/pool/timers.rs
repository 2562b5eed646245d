//! The pool's deadlines: one instant a key, the next one found at once.
//!
//! Law: they lie in two tables, not in thousands of nodes between what lives on: a start sets one for each worker, and when all
//! are ready the memory is free again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::Time;
use super::vocabulary::{GenerationId, Slot, WorkerId};

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// A worker's orphaned processes are looked at.
    Orphaned(WorkerId),
    /// A worker's orphaned processes are killed.
    KillOrphaned(WorkerId),
    /// A slot's next worker may be started.
    Restart(GenerationId, Slot),
    /// The candidate has proved itself.
    Probation,
    /// No worker was ready for too long.
    GiveUp,
    /// Long enough without a failure to look whether all is well.
    Recover,
}

/// So much room is kept when there are few.
const ROOM: usize = 64;

/// All deadlines.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "Vec<(Key, Time)>")]
pub struct Timers {
    at: HashMap<Key, Time>,
    /// Those of `at`, and others that were taken back or moved; the first is never one of the latter.
    order: BinaryHeap<Reverse<(Time, Key)>>,
}

/// What it means, not how it lies.
impl std::fmt::Debug for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// As a list of pairs: the rest follows.
impl Serialize for Timers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl From<Vec<(Key, Time)>> for Timers {
    fn from(deadlines: Vec<(Key, Time)>) -> Timers {
        let mut timers = Timers::default();
        deadlines.into_iter().for_each(|(key, at)| timers.set(key, at));
        timers
    }
}

impl Timers {
    /// Sets a deadline, replacing the key's former one.
    pub fn set(&mut self, key: Key, at: Time) {
        if self.at.insert(key, at) == Some(at) {
            return;
        }
        self.order.push(Reverse((at, key)));
        self.tidy();
    }

    /// Moves a deadline that exists to a later instant; never to an earlier one.
    pub fn extend(&mut self, key: Key, at: Time) {
        if self.at.get(&key).is_some_and(|current| *current < at) {
            self.set(key, at);
        }
    }

    /// Moves every deadline by so much.
    pub fn shift(&mut self, by: Duration) {
        for at in self.at.values_mut() {
            *at += by;
        }
        self.order = self.at.iter().map(|(key, at)| Reverse((*at, *key))).collect();
    }

    /// Takes a deadline back.
    pub fn clear(&mut self, key: Key) {
        if self.at.remove(&key).is_some() {
            self.tidy();
        }
    }

    /// The key's deadline.
    pub fn get(&self, key: Key) -> Option<Time> {
        self.at.get(&key).copied()
    }

    /// Whether the key has a deadline.
    pub fn is_set(&self, key: Key) -> bool {
        self.at.contains_key(&key)
    }

    /// The next deadline.
    pub fn next(&self) -> Option<Time> {
        self.order.peek().map(|Reverse((at, _))| *at)
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Time)> {
        let mut all: Vec<_> = self.at.iter().map(|(key, at)| (*key, *at)).collect();
        all.sort_unstable();
        all.into_iter()
    }

    /// Takes the earliest deadline that `now` has reached.
    pub fn pop(&mut self, now: Time) -> Option<Key> {
        let Reverse((at, key)) = *self.order.peek()?;
        if at > now {
            return None;
        }
        self.clear(key);
        Some(key)
    }

    /// Takes back all deadlines of a worker.
    pub fn clear_worker(&mut self, worker: WorkerId) {
        let keys = [Key::Start, Key::Settle, Key::Watchdog, Key::Age, Key::Stop, Key::Orphaned, Key::KillOrphaned];
        for key in keys {
            self.clear(key(worker));
        }
    }

    /// Forgets what is none any more: at once where it would be the next, and all of it when it is most of what there is.
    fn tidy(&mut self) {
        if self.order.len() > 2 * self.at.len() + ROOM {
            self.order = self.at.iter().map(|(key, at)| Reverse((*at, *key))).collect();
        }
        while self.order.peek().is_some_and(|Reverse((instant, key))| self.at.get(key) != Some(instant)) {
            self.order.pop();
        }
        if self.order.capacity() > 4 * (self.order.len() + ROOM) {
            self.order.shrink_to(2 * (self.order.len() + ROOM));
        }
        if self.at.capacity() > 4 * (self.at.len() + ROOM) {
            self.at.shrink_to(2 * (self.at.len() + ROOM));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_what_was_taken_back_never() {
        let start = Time::since_boot(Duration::from_secs(1_000));
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(Key::Start(1), after(3));
        timers.set(Key::Start(2), after(1));
        timers.set(Key::Stop(3), after(2));
        // Moved away and back: it is there once.
        timers.set(Key::Start(2), after(9));
        assert_eq!(timers.next(), Some(after(2)));
        timers.set(Key::Start(2), after(1));
        timers.set(Key::Start(2), after(1));
        timers.clear(Key::Stop(3));
        assert!(!timers.is_set(Key::Stop(3)));
        timers.extend(Key::Start(1), after(2));
        timers.extend(Key::Stop(3), after(2));
        assert_eq!(timers.iter().collect::<Vec<_>>(), [(Key::Start(1), after(3)), (Key::Start(2), after(1))]);
        assert_eq!(timers.pop(start), None);
        assert_eq!(
            [timers.pop(after(9)), timers.pop(after(9)), timers.pop(after(9))],
            [Some(Key::Start(2)), Some(Key::Start(1)), None]
        );
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn shift_moves_every_deadline_and_keeps_the_order() {
        let start = Time::since_boot(Duration::from_secs(1_000));
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(Key::Start(1), after(3));
        timers.set(Key::Start(2), after(1));
        timers.set(Key::Start(2), after(2));
        timers.shift(Duration::from_secs(10));
        assert_eq!(timers.pop(after(11)), None);
        assert_eq!([timers.pop(after(12)), timers.pop(after(13))], [Some(Key::Start(2)), Some(Key::Start(1))]);
    }

    #[test]
    fn a_thousand_workers_that_ping_or_are_ready_leave_nothing_behind() {
        let start = Time::since_boot(Duration::from_secs(1_000));
        let mut timers = Timers::default();
        for round in 1..100 {
            for worker in 0..1000 {
                timers.set(Key::Watchdog(worker), start + Duration::from_millis(round * 1000 + worker));
            }
            assert!(timers.order.len() <= 2 * timers.at.len() + ROOM, "{}", timers.order.len());
            assert_eq!(timers.next(), Some(start + Duration::from_secs(round)));
        }
        for worker in 0..1000 {
            timers.clear_worker(worker);
        }
        assert_eq!((timers.next(), timers.order.len()), (None, 0));
        assert!(timers.order.capacity() <= 4 * ROOM && timers.at.capacity() <= 4 * ROOM, "{timers:?}");
    }
}
