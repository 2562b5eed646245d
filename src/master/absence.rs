//! Absence: times in which the loop did not run although it was to (SIGSTOP, a frozen control group, a machine without a CPU to spare).
//!
//! A deadline that passes in such a time says nothing about a worker. The loop is late by as much as it wakes behind the instant that
//! it had planned; it plans no more than a quarter of the time to the next deadline at once, so that no absence is missed that matters.

use std::time::{Duration, Instant};

use crate::master::turn::Master;
use crate::pool::{Event, Span};

/// A loop that is late by no more than this is not absent: other programs want the CPU, too.
const SLACK: Duration = Duration::from_millis(500);
/// A sleep of no more than this is not divided.
const STEP: Duration = Duration::from_millis(500);

/// Where a sleep to this deadline is interrupted.
pub(super) fn step(now: Instant, deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(now);
    if left <= STEP { deadline } else { now + (left / 4).max(STEP) }
}

/// When the loop is to be awake again, and what it reads before it judges.
pub(super) struct Absence {
    turn: Instant,
    planned: Option<Instant>,
    /// So many turns have put off what is due, since there is more to read.
    put_off: usize,
}

impl Absence {
    /// Before the first turn.
    pub fn new(now: Instant) -> Absence {
        Absence { turn: now, planned: None, put_off: 0 }
    }

    /// The turn is over; the loop sleeps until `planned` at the latest, for ever without. Returns how long the turn was cut off.
    pub fn sleeps(&mut self, now: Instant, planned: Option<Instant>) -> Option<Duration> {
        self.planned = planned.map(|planned| planned.max(now));
        beyond(now, self.turn)
    }

    /// The loop is awake. Returns by how much it is late.
    pub fn woke(&mut self, now: Instant) -> Option<Duration> {
        self.turn = now;
        self.planned.take().and_then(|planned| beyond(now, planned))
    }

    /// As many descriptors were served as fit into a turn, or all of them. What is queued counts before a deadline, but for no more
    /// turns than it takes to serve each descriptor: `rounds`.
    pub fn has_served(&mut self, full: bool, rounds: usize) {
        self.put_off = if full && self.put_off <= 2 * rounds { self.put_off + 1 } else { 0 };
    }

    /// Whether there is more to read before anything that is due.
    pub fn reads_first(&self) -> bool {
        self.put_off > 0
    }
}

fn beyond(now: Instant, planned: Instant) -> Option<Duration> {
    Some(now.saturating_duration_since(planned)).filter(|late| *late > SLACK)
}

impl Master {
    /// The turn is over: the loop will be awake by `planned`. Whether it was cut off, so that its plan is of no use any more.
    pub(super) fn plan_to_wake(&mut self, planned: Option<Instant>) -> bool {
        let cut_off = self.absence.sleeps(Instant::now(), planned);
        self.was_absent(cut_off);
        cut_off.is_some()
    }

    /// The loop is awake.
    pub(super) fn is_awake(&mut self) {
        self.now = Instant::now();
        let late = self.absence.woke(self.now);
        self.was_absent(late);
    }

    /// The loop did not run for a while: nothing is judged by that time.
    fn was_absent(&mut self, span: Option<Duration>) {
        let Some(span) = span else { return };
        self.warn(format!("the master did not run for {}: every deadline is that much later", Span(span)));
        self.orphans.delay(span);
        self.events.push_back(Event::Absent(span));
        self.take_in();
    }
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
        // A turn that was cut off.
        assert_eq!(absence.sleeps(after(4_500), Some(after(2_000))), Some(Duration::from_secs(3)));
        assert_eq!(absence.woke(after(9_500)), Some(Duration::from_secs(5)));
        // With no deadline nothing is judged.
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
