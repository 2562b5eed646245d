//! Absence: the loop did not run although it should have (SIGSTOP, a frozen control group, a machine without a CPU to spare).
//!
//! A deadline that passes during an absence says nothing about a worker. The loop measures how long after its planned wake-up it
//! wakes. It plans at most a quarter of the time to the next deadline ahead, so that it notices every absence that matters.

use std::time::{Duration, Instant};

/// A loop that is late by at most this time is not absent: other programs want the CPU, too.
const SLACK: Duration = Duration::from_millis(500);
/// A sleep of at most this time is not divided.
const STEP: Duration = Duration::from_millis(500);

/// The instant at which a sleep until `deadline` is interrupted, to notice an absence.
pub(super) fn step(now: Instant, deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(now);
    if left <= STEP { deadline } else { now + (left / 4).max(STEP) }
}

/// When the loop plans to wake, and whether it reads queued input before it acts on deadlines.
pub(super) struct Absence {
    turn: Instant,
    planned: Option<Instant>,
    /// Consecutive turns in which deadlines were put off because more input was queued.
    put_off: usize,
}

impl Absence {
    /// State before the first turn.
    pub fn new(now: Instant) -> Absence {
        Absence { turn: now, planned: None, put_off: 0 }
    }

    /// Call at the end of a turn, before a sleep until `planned` at the latest (`None`: without a limit). Returns the duration of the
    /// turn if it is longer than `SLACK`: the turn was interrupted.
    pub fn sleeps(&mut self, now: Instant, planned: Option<Instant>) -> Option<Duration> {
        self.planned = planned.map(|planned| planned.max(now));
        beyond(now, self.turn)
    }

    /// Call when the loop wakes. Returns by how much it is late, if that is more than `SLACK`.
    pub fn woke(&mut self, now: Instant) -> Option<Duration> {
        self.turn = now;
        self.planned.take().and_then(|planned| beyond(now, planned))
    }

    /// Call after a turn has served descriptors. `full`: as many were ready as a turn serves, so more may be queued. Queued input is read
    /// before deadlines are judged, for at most 2 * `rounds` + 1 turns; `rounds` is the turns that serve one descriptor of each process.
    pub fn has_served(&mut self, full: bool, rounds: usize) {
        self.put_off = if full && self.put_off <= 2 * rounds { self.put_off + 1 } else { 0 };
    }

    /// Whether the loop reads queued input before it judges deadlines.
    pub fn reads_first(&self) -> bool {
        self.put_off > 0
    }
}

fn beyond(now: Instant, planned: Instant) -> Option<Duration> {
    Some(now.saturating_duration_since(planned)).filter(|late| *late > SLACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_loop_is_absent_by_what_it_is_late() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut absence = Absence::new(start);
        assert_eq!(absence.sleeps(after(10), Some(after(1_000))), None);
        assert_eq!(absence.woke(after(1_500)), None);
        // An interrupted turn.
        assert_eq!(absence.sleeps(after(4_500), Some(after(2_000))), Some(Duration::from_secs(3)));
        assert_eq!(absence.woke(after(9_500)), Some(Duration::from_secs(5)));
        // Without a deadline there is nothing to be late for.
        assert_eq!(absence.sleeps(after(9_500), None), None);
        assert_eq!(absence.woke(after(99_500)), None);
    }

    #[test]
    fn reading_first_comes_to_an_end() {
        let mut absence = Absence::new(Instant::now());
        absence.has_served(true, 1);
        assert!(absence.reads_first());
        absence.has_served(false, 1);
        assert!(!absence.reads_first());
        (0..4).for_each(|_| absence.has_served(true, 1));
        assert!(!absence.reads_first(), "a flood of words puts deadlines off for ever");
    }

    #[test]
    fn sleep_is_divided_ever_shorter_and_ends_at_the_deadline() {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(86_400);
        let (mut now, mut steps) = (start, 0);
        while now < deadline {
            now = step(now, deadline);
            steps += 1;
        }
        assert_eq!(now, deadline);
        assert!(steps < 60, "{steps} wake-ups a day");
    }
}
