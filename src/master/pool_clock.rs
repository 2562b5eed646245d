//! The pool's clock: `CLOCK_MONOTONIC`, which all programs share until the next boot.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::pool::Time;

/// The boot of the machine, from which the pool's time counts. An [`Instant`] is of the same clock, but does not tell its time since boot.
static BOOT: LazyLock<Instant> = LazyLock::new(|| {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    let instant = Instant::now();
    instant.checked_sub(Duration::new(seconds, nanoseconds)).unwrap_or(instant)
});

/// The pool's time at an instant.
pub fn time(at: Instant) -> Time {
    Time::since_boot(at.saturating_duration_since(*BOOT))
}

/// The instant of a pool time. A time beyond the clock's range becomes a year from now.
pub fn instant(at: Time) -> Instant {
    BOOT.checked_add(at.span()).unwrap_or_else(|| Instant::now() + Duration::from_secs(366 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_kernel_and_leads_back_to_its_instant() {
        let now = Instant::now();
        assert_eq!(instant(time(now)), now);
        let kernel = clock_gettime(ClockId::Monotonic).tv_sec.cast_unsigned();
        assert!((kernel - 1..=kernel).contains(&time(now).span().as_secs()), "{kernel} {now:?}");
        assert!(instant(Time::since_boot(Duration::MAX)) > now);
    }
}
