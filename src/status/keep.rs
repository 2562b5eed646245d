//! The lifetime of cached figures: how long a figure may be reused.
//!
//! Law: a figure is kept for a small multiple of the CPU time that it cost, so that a client that asks without pause costs at most
//! a fifth of a CPU. It is never kept longer than [`MOST`], and only while no change is known. The cost is CPU time, so a machine
//! that is busy with other things keeps no figure longer.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Lifetime of a figure, as a multiple of its cost.
const MULTIPLE: u32 = 4;
/// The longest lifetime of a figure.
pub const MOST: Duration = Duration::from_millis(250);

/// The clocks on which the lifetime of figures depends.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Instant;
    /// CPU time that this thread has used.
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

/// The end of the lifetime of a figure that was read at `taken` and cost this much CPU time.
pub fn until(taken: Instant, cost: Duration) -> Instant {
    taken + (cost * MULTIPLE).min(MOST)
}

/// Clocks for tests: `pass` advances the time, and each call of `spent` costs CPU time.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug)]
    pub struct Told(Mutex<(Instant, Duration)>, Duration);

    impl Told {
        /// Each call of `spent` adds `each` to the CPU time.
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
