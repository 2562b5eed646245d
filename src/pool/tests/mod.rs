//! The pool's tests: stories (scenarios), a table of all states and events, and a randomized simulation.

mod orphaned;
mod queues;
mod simulation;
mod snapshot;
mod stories;
mod table;
mod world;

use std::time::Duration;

use super::{Readiness, Restart, Settings, Surge};

/// A duration in milliseconds.
fn ms(amount: u64) -> Duration {
    Duration::from_millis(amount)
}

/// Settings for `count` workers: the configuration's defaults, except that READY=1 alone makes a worker ready, without probation.
fn settings(count: u32) -> Settings {
    Settings {
        count,
        ready: Readiness::Notify,
        start_timeout: ms(10_000),
        stop_timeout: ms(30_000),
        stop_signal: 15,
        watchdog: None,
        restart: Restart { initial: ms(100), max: ms(30_000), limit: 5, interval: ms(60_000), give_up: None },
        surge: Surge::Percent(100),
        probation: Some(Duration::ZERO),
        max_age: None,
        per_slot: false,
        listens: true,
        probe: false,
        keep: 3,
    }
}
