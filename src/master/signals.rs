//! The signals that the master serves. Of the stop signals (SIGTERM, SIGINT, SIGQUIT) the first one drains, and a later one ends at once.
//!
//! Ctrl-C on a terminal reaches the master and its parent, and GNU `timeout` and npm forward it. The master then gets the signal
//! twice within a moment, for one request.

use std::time::{Duration, Instant};

/// The signals that the master serves.
pub(in crate::master) const SIGNALS: [i32; 9] = [
    libc::SIGUSR1,
    libc::SIGHUP,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR2,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCHLD,
];

/// Stop signals within this time after the first one count as the same request.
const ONE: Duration = Duration::from_secs(1);

/// The request that a stop signal makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopRequest {
    /// Drain all workers and end.
    Drain,
    /// Nothing: a repetition of the first signal.
    Repeated,
    /// Kill all workers and end.
    Kill,
}

/// When the first stop signal arrived.
#[derive(Default)]
pub(super) struct StopSignals {
    first: Option<Instant>,
}

impl StopSignals {
    /// The request of a signal that arrived at `now`.
    pub fn take(&mut self, now: Instant) -> StopRequest {
        match self.first {
            None => {
                self.first = Some(now);
                StopRequest::Drain
            }
            Some(first) if now.saturating_duration_since(first) <= ONE => StopRequest::Repeated,
            Some(_) => StopRequest::Kill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_count_again_after_a_second() {
        let start = Instant::now();
        let mut signals = StopSignals::default();
        let mut take = |ms| signals.take(start + Duration::from_millis(ms));
        assert_eq!([take(0), take(0), take(1_000)], [StopRequest::Drain, StopRequest::Repeated, StopRequest::Repeated]);
        assert_eq!([take(1_001), take(1_002)], [StopRequest::Kill, StopRequest::Kill]);
    }
}
