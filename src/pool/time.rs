//! The pool's time.
//!
//! A span since the machine's boot (`CLOCK_MONOTONIC`), not an [`Instant`](std::time::Instant): it can be written down, and the program
//! that goes on from it has the same clock. Sums and differences end at the ends of the clock, so that a time that was
//! read from a damaged state can do no harm.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment, as a span since the machine's boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(Duration);

impl Time {
    /// So long after the boot.
    pub const fn since_boot(span: Duration) -> Time {
        Time(span)
    }

    /// The span since the boot.
    pub const fn span(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(span))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

/// The span from an earlier moment; zero when that is the later one.
impl Sub for Time {
    type Output = Duration;

    fn sub(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_ends_at_the_ends_of_the_clock() {
        let at = |seconds| Time::since_boot(Duration::from_secs(seconds));
        assert_eq!((at(3) + Duration::from_secs(2), at(5) - at(3)), (at(5), Duration::from_secs(2)));
        assert_eq!((at(3) + Duration::MAX).span(), Duration::MAX);
        assert_eq!(at(3) - at(5), Duration::ZERO);
    }
}
