//! Ends of draining workers: every end that is not clean is recorded as a failure.

use super::*;

/// A pool whose only old worker drains after a reload.
fn draining() -> World {
    let mut world = serving(1);
    world.reload();
    world.prepare();
    world.ready(2);
    assert_eq!(world.phase(1), Some(Phase::Draining));
    world
}

/// How the last recorded worker ended; `None` if its end is no failure.
fn recorded(world: &World) -> Option<ExitCause> {
    world.ended.last().filter(|ended| ended.failed).map(|ended| ended.how.clone())
}

#[test]
fn draining_worker_that_crashes_is_a_failure() {
    for how in [
        ExitCause::Exit(1),
        ExitCause::Signal { signal: 11, core: true },
        ExitCause::Signal { signal: 9, core: false },
        ExitCause::OutOfMemory,
    ] {
        let mut world = draining();
        world.exit(1, how.clone());
        assert_eq!(recorded(&world), Some(how.clone()));
        let told = format!("worker 1 (slot 0): {how} while it drained");
        assert!(world.logs.contains(&(Kind::WorkerFailed, told)), "{:?}", world.logs);
        assert_eq!((world.pool.crashes(), world.spawns.len()), (0, 2), "it was asked to end, and nobody replaces it");
    }
}

#[test]
fn draining_worker_that_ends_by_its_stop_signal_is_no_failure() {
    for how in [ExitCause::Exit(0), ExitCause::Exit(128 + 15), ExitCause::Signal { signal: 15, core: false }] {
        let mut world = draining();
        world.exit(1, how);
        assert_eq!(recorded(&world), None);
    }
    let mut config = settings(1);
    config.stop_signal = 3;
    let mut world = World::new(config);
    world.ready(1);
    world.step(Event::Stop { now: false });
    world.exit(1, ExitCause::Signal { signal: 15, core: false });
    assert_eq!(recorded(&world), Some(ExitCause::Signal { signal: 15, core: false }), "another signal than worker.stop_signal");
}

#[test]
fn workers_that_a_second_stop_kills_are_no_failures() {
    let mut world = serving(1);
    world.step(Event::Stop { now: false });
    world.step(Event::Stop { now: true });
    world.exit(1, ExitCause::Signal { signal: 9, core: false });
    assert_eq!(recorded(&world), None);
}

#[test]
fn starting_worker_that_crashes_at_its_stop_is_a_failure() {
    let mut world = serving(2);
    world.reload();
    world.prepare();
    world.exit(3, ExitCause::Exit(1));
    assert_eq!(world.phase(4), Some(Phase::Draining), "the reload is rolled back");
    world.exit(4, ExitCause::Signal { signal: 11, core: false });
    assert_eq!(recorded(&world), Some(ExitCause::Signal { signal: 11, core: false }));
    assert_eq!(world.ended.last().map(|ended| ended.cause().to_string()).as_deref(), Some("signal SIGSEGV while it drained"));
    // A worker that ends by the stop signal is no failure.
    world.reload();
    world.prepare();
    world.exit(5, ExitCause::Exit(1));
    world.exit(6, ExitCause::Signal { signal: 15, core: false });
    assert_eq!(recorded(&world), None);
}

#[test]
fn worker_that_crashes_after_stopping_is_a_failure() {
    let mut world = serving(1);
    world.pass(ms(1_000));
    world.step(Event::Notification(1, Notification::Stopping));
    world.exit(1, ExitCause::Signal { signal: 11, core: false });
    assert_eq!(recorded(&world), Some(ExitCause::Signal { signal: 11, core: false }));
    assert_eq!((world.pool.crashes(), world.spawns.len()), (1, 2), "it has one replacement");
}

#[test]
fn pool_degraded_by_workers_that_leave_names_them() {
    let mut world = serving(1);
    while !world.pool.degraded() {
        let worker = world.of(1)[0];
        world.ready(worker);
        world.step(Event::Notification(worker, Notification::Stopping));
        world.exit(worker, ExitCause::Exit(0));
        // The first STOPPING=1 of a slot at once is no failure. The next ones are, and have a backoff as after crashes.
        let expected = if world.ended.len() == 1 { None } else { Some(ExitCause::Left) };
        assert_eq!(recorded(&world), expected, "after {} ends", world.ended.len());
        while world.of(1).is_empty() {
            let at = world.pool.deadline().expect("a restart");
            world.pass(at - world.now);
        }
    }
    assert_eq!(world.pool.crashes(), 5);
    let text = world.pool.status_text();
    assert!(text.ends_with("degraded: slot 0 leaves at once (STOPPING=1)"), "{text}");
}
