//! The pool's deadlines: at most one time per key, and constant-time access to the earliest.
//!
//! Law: the deadlines are in two tables, not in thousands of heap nodes between longer-lived allocations. A start sets a deadline for
//! each worker, and the memory is free again when all workers are ready.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::{GenerationId, Slot, WorkerId};
use super::time::Time;

/// The purpose of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// The start timeout of a worker.
    Start(WorkerId),
    /// The end of `worker.settle`, after which a worker may count as ready.
    Settle(WorkerId),
    /// The watchdog timeout of a ready worker.
    Watchdog(WorkerId),
    /// The age at which a worker is recycled.
    Age(WorkerId),
    /// The time after which the hang of a worker is told.
    Hang(WorkerId),
    /// The stop timeout of a draining worker, the limit for its accept queue, or the next SIGKILL.
    Stop(WorkerId),
    /// The next inspection of a worker's orphaned processes.
    Orphaned(WorkerId),
    /// The time at which a worker's orphaned processes are killed.
    KillOrphaned(WorkerId),
    /// The end of a slot's backoff: its next worker may start.
    Restart(GenerationId, Slot),
    /// The end of the candidate's probation.
    Probation,
    /// The end of a canary's step, or of the wait for a promotion.
    Step,
    /// The end of the watch after a commit.
    Watch,
    /// The time at which the failed probe of a first generation is repeated.
    ProbeAgain,
    /// The end of `restart.give_up`.
    GiveUp,
    /// The end of a pause: the instance resumes.
    Resume,
    /// The end of `scale.idle` without activity; the next look decides.
    Quiet,
    /// The time after the last failure at which the pool may have recovered.
    Recover,
}

/// Spare capacity, in entries, that both tables may keep.
const ROOM: usize = 64;

/// All deadlines of the pool.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "Vec<(Key, Time)>")]
pub struct Timers {
    at: HashMap<Key, Time>,
    /// The deadlines of `at` by time, and stale entries for deadlines that were cleared or moved. The first entry is never stale.
    order: BinaryHeap<Reverse<(Time, Key)>>,
}

/// Shows the deadlines by key, not the internal tables.
impl std::fmt::Debug for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Serializes a list of pairs; `order` is rebuilt from it.
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

    /// Moves an existing deadline to a later time, never to an earlier one.
    pub fn extend(&mut self, key: Key, at: Time) {
        if self.at.get(&key).is_some_and(|current| *current < at) {
            self.set(key, at);
        }
    }

    /// Moves every deadline later by this duration.
    pub fn shift(&mut self, by: Duration) {
        for at in self.at.values_mut() {
            *at += by;
        }
        self.order = self.at.iter().map(|(key, at)| Reverse((*at, *key))).collect();
    }

    /// Clears a key's deadline.
    pub fn clear(&mut self, key: Key) {
        if self.at.remove(&key).is_some() {
            self.tidy();
        }
    }

    /// The key's deadline, if it is set.
    pub fn get(&self, key: Key) -> Option<Time> {
        self.at.get(&key).copied()
    }

    /// Whether the key has a deadline.
    pub fn is_set(&self, key: Key) -> bool {
        self.at.contains_key(&key)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Time> {
        self.order.peek().map(|Reverse((at, _))| *at)
    }

    /// All deadlines, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Time)> {
        let mut all: Vec<_> = self.at.iter().map(|(key, at)| (*key, *at)).collect();
        all.sort_unstable();
        all.into_iter()
    }

    /// Removes the earliest deadline, if it is not after `now`, and returns its key.
    pub fn pop(&mut self, now: Time) -> Option<Key> {
        let Reverse((at, key)) = *self.order.peek()?;
        if at > now {
            return None;
        }
        self.clear(key);
        Some(key)
    }

    /// Clears all deadlines of a worker.
    pub fn clear_worker(&mut self, worker: WorkerId) {
        let keys = [Key::Start, Key::Settle, Key::Watchdog, Key::Age, Key::Hang, Key::Stop, Key::Orphaned, Key::KillOrphaned];
        for key in keys {
            self.clear(key(worker));
        }
    }

    /// Removes stale entries: those at the front always, and all of them once they are the majority. Then frees spare capacity.
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
        // A deadline that is moved away and back is popped only once.
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
