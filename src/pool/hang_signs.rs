//! The signs by which a worker is seen to hang, from one look at all workers. Pure: figures in, a verdict out.
//!
//! Law: what is not known is no sign. A queue is a sign only while at least half of the queues are empty, so that an overload, in which all
//! queues grow, never takes a worker out.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ids::WorkerId;
use super::serving::Queue;
use super::worker::Hang;

/// The number of times that one look reads a queue in which connections wait.
pub const READS: usize = 4;

/// The signs of a worker in one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The worker.
    pub worker: WorkerId,
    /// Its process is stopped.
    pub is_stopped: bool,
    /// The age of its oldest request in work, by its status page; `None` without one, and where workers of its generation have several
    /// requests at once: there an old one, such as a stream of events, keeps no other waiting.
    pub oldest_request: Option<Duration>,
    /// It has accepted a connection since it is avoided, by its status page.
    pub has_accepted: bool,
    /// The length of its accept queue at some moments of the look, [`READS`] if connections waited.
    pub queue: Vec<u32>,
}

impl Sighting {
    /// The connections that wait in its queue at the end of the look.
    pub fn waiting(&self) -> u32 {
        self.queue.last().copied().unwrap_or(0)
    }

    /// How the worker hangs, if it does. `others_are_free`: see [`Self::most_queues_are_empty`].
    pub(super) fn hang(&self, limit: Duration, others_are_free: bool) -> Option<Hang> {
        if self.is_stopped {
            return Some(Hang::Stopped);
        }
        if self.oldest_request.is_some_and(|age| age >= limit) {
            return Some(Hang::Request);
        }
        (others_are_free && self.is_stuck()).then_some(Hang::Queue)
    }

    /// Whether connections waited all the time, and none was taken.
    fn is_stuck(&self) -> bool {
        self.queue.len() >= READS && self.queue.iter().all(|waiting| *waiting > 0) && self.queue.is_sorted()
    }

    /// Whether at least half of the queues are empty at the end of the look.
    pub(super) fn most_queues_are_empty<'a>(seen: impl Iterator<Item = (Queue, &'a Sighting)>) -> bool {
        let queues: BTreeMap<Queue, u32> = seen.map(|(queue, seen)| (queue, seen.waiting())).collect();
        let empty = queues.values().filter(|waiting| **waiting == 0).count();
        empty * 2 >= queues.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Slot;

    const LIMIT: Duration = Duration::from_secs(10);

    fn queue(lengths: &[u32]) -> Sighting {
        Sighting { queue: lengths.to_vec(), ..Sighting::default() }
    }

    #[test]
    fn queue_is_stuck_when_nothing_is_taken_from_it() {
        for (lengths, wanted) in [
            (&[1, 1, 1, 1][..], Some(Hang::Queue)),
            (&[3, 9, 9, 12], Some(Hang::Queue)),
            (&[3, 2, 9, 12], None),
            (&[0, 1, 1, 1], None),
            (&[1, 1, 1, 0], None),
            (&[5], None),
            (&[], None),
        ] {
            assert_eq!(queue(lengths).hang(LIMIT, true), wanted, "{lengths:?}");
            assert_eq!(queue(lengths).hang(LIMIT, false), None, "{lengths:?}");
        }
    }

    #[test]
    fn stop_and_an_old_request_are_signs_whatever_the_queues_are() {
        let stopped = Sighting { is_stopped: true, ..queue(&[0]) };
        let old = |seconds| Sighting { oldest_request: Some(Duration::from_secs(seconds)), ..queue(&[0]) };
        for others in [true, false] {
            assert_eq!(stopped.hang(LIMIT, others), Some(Hang::Stopped));
            assert_eq!((old(9).hang(LIMIT, others), old(10).hang(LIMIT, others)), (None, Some(Hang::Request)));
        }
    }

    #[test]
    fn queues_count_once_and_half_of_them_must_be_empty() {
        let all = |lengths: &[(Slot, u32)]| {
            let seen: Vec<_> = lengths.iter().map(|(slot, length)| (Queue::of_slot(*slot), queue(&[*length]))).collect();
            Sighting::most_queues_are_empty(seen.iter().map(|(queue, seen)| (*queue, seen)))
        };
        assert!(all(&[(0, 9), (1, 0)]) && all(&[(0, 9), (1, 9), (2, 0), (3, 0)]) && all(&[]));
        assert!(!all(&[(0, 9)]) && !all(&[(0, 9), (1, 9), (2, 0)]));
        // The old and the new worker of a slot have one queue.
        assert!(!all(&[(0, 9), (1, 9), (2, 0), (2, 0)]));
    }
}
