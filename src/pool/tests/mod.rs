//! The pool's tests: stories, the table of all states and all events, and a simulation of a hostile world.

mod orphaned;
mod queues;
mod simulation;
mod snapshot;
mod stories;
mod table;
mod world;

use std::time::Duration;

use super::{Readiness, Restart, Settings, Surge};

/// Milliseconds.
fn ms(amount: u64) -> Duration {
    Duration::from_millis(amount)
}

/// The contract's defaults, for so many workers.
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
    }
}
