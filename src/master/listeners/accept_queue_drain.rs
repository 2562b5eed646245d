//! The accept queues of workers that are to stop (`worker.balance = "per-slot"`): each is watched until it is empty.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::pool::WorkerId;

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
    /// Starts to drain the accept queue of a worker.
    pub fn begin(&mut self, worker: WorkerId, now: Instant) {
        self.since.insert(worker, now);
        self.look.get_or_insert(now + LOOK);
    }

    /// The time of the next check of the queues.
    pub fn deadline(&self) -> Option<Instant> {
        self.look.filter(|_| !self.since.is_empty())
    }

    /// Checks the queues if it is time. `waiting`: the workers that still wait, each with the number of connections in its queue.
    /// Returns the workers whose queues were empty for [`QUIET`].
    pub fn check(&mut self, now: Instant, waiting: &BTreeMap<WorkerId, u32>) -> Vec<WorkerId> {
        self.look = Some(now + LOOK);
        self.since.retain(|worker, _| waiting.contains_key(worker));
        let mut drained = Vec::new();
        for (worker, since) in &mut self.since {
            if waiting.get(worker).is_some_and(|connections| *connections > 0) {
                *since = now;
            } else if now.saturating_duration_since(*since) >= QUIET {
                drained.push(*worker);
            }
        }
        if self.since.is_empty() {
            self.look = None;
        }
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_drained_when_it_stays_empty() {
        let (start, mut drain) = (Instant::now(), AcceptQueueDrain::default());
        assert_eq!(drain.deadline(), None);
        drain.begin(7, start);
        assert_eq!(drain.deadline(), Some(start + LOOK));
        let mut check = |at: Duration, connections| drain.check(start + at, &BTreeMap::from([(7, connections)]));
        assert_eq!(check(LOOK, 1), [] as [WorkerId; 0]);
        assert_eq!(check(QUIET, 0), [] as [WorkerId; 0], "a connection waited at the last look");
        assert_eq!(check(LOOK + QUIET, 0), [7]);
        // The worker does not wait any more.
        assert_eq!(drain.check(start + 2 * QUIET, &BTreeMap::new()), [] as [WorkerId; 0]);
        assert_eq!(drain.deadline(), None);
    }
}
