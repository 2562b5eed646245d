//! The pool's tests: stories (scenarios), a table of all states and events, and a randomized simulation.

mod hangs;
mod orphaned;
mod queues;
pub(in crate::pool) mod random;
mod simulation;
mod snapshot;
mod stories;
mod table;
mod world;

use std::time::Duration;

use super::{
    Action, Comparison, Elastic, Event, ExitCause, Figures, Limits, Notification, Pool, Readiness, Restart, Settings, Steps,
    Surge, Time, WatchFor,
};

/// A duration in milliseconds.
fn ms(amount: u64) -> Duration {
    Duration::from_millis(amount)
}

/// Figures of a new generation, beside an old one without failures.
fn figures(requests: u64, failed: u64) -> Comparison {
    Comparison { old: Figures::counted(7 * requests, 0), new: Figures::counted(requests, failed) }
}

/// Settings for `count` workers: the configuration's defaults, except that READY=1 alone makes a worker ready, without probation.
fn settings(count: u32) -> Settings {
    Settings {
        count,
        elastic: None,
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
        balance_hung: None,
        listens: true,
        idle: None,
        probe: false,
        preload: false,
        preload_fallback: true,
        steps: Steps {
            sizes: Vec::new(),
            time: Some(ms(30_000)),
            promote_timeout: ms(3_600_000),
            judge: Limits { error_ratio: 10_000, min_requests: 50, latency_ratio: None },
            judge_command: false,
        },
        watch: WatchFor::Off,
        fallback: false,
        keep: 3,
    }
}

/// Bounds with short times.
fn elastic(min: u32, max: u32) -> Option<Elastic> {
    Some(Elastic { min, max, target: 70, up_after: ms(2_000), down_after: ms(5_000), step: Surge::Percent(25) })
}

#[test]
fn start_comes_before_the_records_of_its_step() {
    let mut pool = Pool::new(Time::since_boot(ms(0)), 1);
    let mut step = |at, event| {
        let mut actions = Vec::new();
        pool.step(Time::since_boot(ms(at)), event, &mut actions);
        actions
    };
    step(0, Event::Start(settings(1)));
    step(1, Event::Spawned(1, 100));
    step(2, Event::Notification(1, Notification::Ready));
    let actions = step(3, Event::Exited { worker: 1, how: ExitCause::Exit(1), left: false });
    let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted);
    assert_eq!(place(|action| matches!(action, Action::Spawn { worker: 2, .. })), Some(0), "{actions:?}");
    assert!(place(|action| matches!(action, Action::Ended(_))) < place(|action| *action == Action::Forget(1)), "{actions:?}");
}
