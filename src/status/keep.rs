//! How long what was learned may be told again.
//!
//! Law: what cost much to learn is kept for a small multiple of that cost, so that whoever asks without end costs at most a
//! fifth of a CPU; never longer than [`MOST`], and only while nothing is known to have changed. What it cost is CPU time: a
//! machine that is busy with other things makes nothing older.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// So many times what it cost.
const MULTIPLE: u32 = 4;
/// The longest time that anything is kept.
pub const MOST: Duration = Duration::from_millis(250);

/// What the keeping needs to know of time.
pub trait Clock: Send + Sync {
    /// The time.
    fn now(&self) -> Instant;
    /// What this thread has spent of a CPU's time.
    fn spent(&self) -> Duration;
}

/// The kernel's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks;

impl Clock for Clocks {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn spent(&self) -> Duration {
        let spent = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
    }
}

/// Until when something may be told that was true at `taken` and cost so much to learn.
pub fn until(taken: Instant, cost: Duration) -> Instant {
    taken + (cost * MULTIPLE).min(MOST)
}

/// Clocks of a test's: they go when they are told to, and every look at what was spent costs.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug)]
    pub struct Told(Mutex<(Instant, Duration)>, Duration);

    impl Told {
        /// Between two looks at what was spent so much is spent.
        pub fn costing(each: Duration) -> Self {
            Told(Mutex::new((Instant::now(), Duration::ZERO)), each)
        }

        pub fn pass(&self, time: Duration) {
            self.0.lock().unwrap().0 += time;
        }
    }

    impl Clock for Told {
        fn now(&self) -> Instant {
            self.0.lock().unwrap().0
        }

        fn spent(&self) -> Duration {
            let mut told = self.0.lock().unwrap();
            told.1 += self.1;
            told.1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_a_cpu_and_never_for_long() {
        let now = Instant::now();
        let of = |cost| until(now, Duration::from_micros(cost)) - now;
        assert_eq!(of(0), Duration::ZERO);
        assert_eq!(of(500), Duration::from_millis(2));
        assert_eq!(of(25_000), Duration::from_millis(100));
        assert_eq!(of(10_000_000), MOST);
    }

    #[test]
    fn waiting_costs_nothing_and_work_does() {
        let before = Clocks.spent();
        std::thread::sleep(Duration::from_millis(20));
        let waited = Clocks.spent() - before;
        assert!(waited < Duration::from_millis(15), "{waited:?}");
        while Clocks.spent() - before < Duration::from_millis(20) {}
    }
}
