//! Outages: failures are counted per slot, and without a ready worker one slot gets a new worker within a second.

use std::time::Duration;

use super::*;

/// Lets time pass until `count` workers have been started.
fn until_started(world: &mut World, count: usize) {
    while world.spawns.len() < count {
        let at = world.pool.deadline().expect("a restart");
        world.pass(at - world.now);
    }
}

/// The worker of this slot becomes ready and crashes, `times` times.
fn crash(world: &mut World, slot: u32, times: u32) {
    for _ in 0..times {
        let in_slot = |world: &World| {
            let mut all = world.pool.workers();
            all.find(|(_, worker)| worker.slot == slot && worker.phase != Phase::Draining).map(|(id, _)| id)
        };
        while in_slot(world).is_none() {
            let at = world.pool.deadline().expect("a restart");
            world.pass(at - world.now);
        }
        let worker = in_slot(world).expect("a worker");
        world.ready(worker);
        world.exit(worker, ExitCause::Exit(1));
    }
}

/// Lets time pass in which each worker that is started becomes ready.
fn serve_for(world: &mut World, span: Duration) {
    let until = world.now + span;
    world.all_ready();
    while let Some(at) = world.pool.deadline().filter(|at| *at <= until) {
        world.pass(at - world.now);
        world.all_ready();
    }
    world.pass(until - world.now);
}

#[test]
fn limit_counts_the_failures_of_each_slot() {
    let mut world = serving(4);
    for slot in 0..4 {
        crash(&mut world, slot, 5);
    }
    assert!(!world.pool.degraded(), "20 failures, but of no slot more than 5");
    crash(&mut world, 2, 1);
    assert!(world.pool.degraded(), "the sixth of slot 2");
    // A degraded slot does not lengthen the delay of another slot.
    let (before, started) = (world.now, world.spawns.len());
    crash(&mut world, 0, 1);
    until_started(&mut world, started + 1);
    assert!(world.now - before <= ms(4_000), "{:?}", world.now - before);
}

#[test]
fn requests_that_crash_workers_cause_no_long_outage() {
    let mut world = serving(4);
    // For a minute a client repeats a request that crashes each worker that gets it.
    let (begin, mut dark) = (world.now, ms(0));
    while world.now - begin < ms(60_000) {
        let ready = world.pool.workers().find(|(_, worker)| worker.phase == Phase::Ready).map(|(id, _)| id);
        if let Some(worker) = ready {
            world.exit(worker, ExitCause::Signal { signal: 11, core: false });
            continue;
        }
        let since = world.now;
        let started = world.spawns.len();
        if world.of(1).is_empty() {
            until_started(&mut world, started + 1);
        }
        dark = dark.max(world.now - since);
        world.all_ready();
    }
    assert!(world.pool.degraded());
    assert!(dark <= ms(1_000), "{dark:?} without a worker");
}

#[test]
fn fourteen_crashing_requests_cause_at_most_a_second_without_a_worker() {
    // The requests come as fast as workers are ready, or one each second.
    for pause in [ms(0), ms(1_000)] {
        let mut world = serving(4);
        let mut longest = ms(0);
        for _ in 0..14 {
            let since = world.now;
            while world.pool.ready() == 0 {
                let at = world.pool.deadline().expect("a restart");
                world.pass(at - world.now);
                world.all_ready();
            }
            longest = longest.max(world.now - since);
            let ready = world.pool.workers().find(|(_, worker)| worker.phase == Phase::Ready).map(|(id, _)| id);
            world.exit(ready.expect("a ready one"), ExitCause::Signal { signal: 11, core: false });
            serve_for(&mut world, pause);
        }
        assert!(longest <= ms(1_000), "{longest:?} without a worker, {pause:?} between the requests");
        // All are back, and none later than its own delay.
        serve_for(&mut world, ms(30_000));
        assert_eq!(world.pool.ready(), 4);
    }
}

#[test]
fn recovery_keeps_the_backoff_until_a_worker_was_ready_for_long() {
    let mut rules = settings(2);
    rules.restart.interval = ms(10_000);
    let mut world = World::new(rules);
    world.all_ready();
    crash(&mut world, 1, 6);
    assert!(world.pool.degraded());
    // The delay is longer than the interval: with the next worker the slot is within its limit.
    let started = world.spawns.len();
    until_started(&mut world, started + 1);
    world.all_ready();
    serve_for(&mut world, ms(1));
    assert!(!world.pool.degraded());
    let delay = |world: &mut World| {
        let (since, started) = (world.now, world.spawns.len());
        crash(world, 1, 1);
        until_started(world, started + 1);
        world.all_ready();
        world.now - since
    };
    assert!(delay(&mut world) > ms(2_000), "it crashes again: the delay goes on to double");
    serve_for(&mut world, ms(30_000));
    assert_eq!(delay(&mut world), ms(0), "it was ready for restart.max");
}

#[test]
fn crash_loop_forks_at_most_once_a_second_and_worker() {
    for count in [1, 4] {
        let mut world = serving(count);
        let begin = world.now;
        while world.now - begin < ms(70_000) {
            while let Some(worker) = world.of(1).first().copied() {
                world.exit(worker, ExitCause::Exit(1));
            }
            let at = world.pool.deadline().expect("a restart");
            world.pass(at - world.now);
        }
        let late: Vec<_> = world.spawns.iter().filter(|(.., at)| *at - begin > ms(10_000)).collect();
        assert!(late.len() >= 59, "one slot is tried each second: {}", late.len());
        for slot in 0..count {
            let starts: Vec<_> = late.iter().filter(|(_, other, ..)| *other == slot).map(|(.., at)| *at).collect();
            assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= ms(1_000)), "slot {slot} of {count}: {starts:?}");
        }
    }
}

#[test]
fn status_names_a_slot_that_has_no_ready_worker() {
    let mut world = serving(3);
    crash(&mut world, 1, 6);
    assert!(world.pool.degraded());
    assert_eq!(world.pool.status_text(), "generation 1: 2/3 ready, degraded: slot 1 fails (exit 1)");
    // Another slot fails later, and has a ready worker again at once.
    crash(&mut world, 0, 1);
    world.all_ready();
    assert_eq!(world.pool.status_text(), "generation 1: 2/3 ready, degraded: slot 1 fails (exit 1)");
    // All workers are ready and the pool is still degraded: the text names the former failures, not a failing worker.
    while world.of(1).len() < 3 {
        let at = world.pool.deadline().expect("a restart");
        world.pass(at - world.now);
    }
    world.all_ready();
    if world.pool.degraded() {
        let expected = "generation 1: 3/3 ready, degraded: slot 1 failed more than 5 times within 1min (last: exit 1)";
        assert_eq!(world.pool.status_text(), expected);
    }
    world.pass(ms(61_000));
    assert_eq!(world.pool.status_text(), "generation 1: 3/3 ready");
}
