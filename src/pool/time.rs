//! The pool's time: a duration since the machine's boot (`CLOCK_MONOTONIC`).
//!
//! [`Time`] can be serialized, unlike [`Instant`](std::time::Instant), and the next master has the same clock. Sums and differences
//! saturate, so that a time from a damaged snapshot cannot cause a panic.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time, as a duration since the machine's boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(Duration);

impl Time {
    /// The time at this duration after the boot.
    pub const fn since_boot(span: Duration) -> Time {
        Time(span)
    }

    /// The duration since the boot.
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

/// The duration since `earlier`; zero if `earlier` is later.
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
