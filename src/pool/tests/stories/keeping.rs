//! Scenarios of failures, scaling, recycling and the end of the instance.

use super::*;
use crate::pool::PoolState;

#[test]
fn a_worker_that_served_is_replaced_at_once_and_then_ever_more_slowly() {
    let mut config = settings(2);
    config.restart.limit = 10;
    let mut world = World::new(config);
    world.all_ready();
    // The worker of the other slot stays ready, because without a ready worker no delay is longer than a second.
    let in_first = |world: &World| world.pool.workers().find(|(_, worker)| worker.slot == 0).map(|(id, _)| id);
    let mut delays = Vec::new();
    for _ in 0..9 {
        let worker = in_first(&world).unwrap();
        world.ready(worker);
        let before = (world.spawns.len(), world.now);
        world.exit(worker, ExitCause::Exit(1));
        while world.spawns.len() == before.0 {
            let at = world.pool.deadline().unwrap();
            world.pass(at - world.now);
        }
        delays.push((world.now - before.1).as_millis());
    }
    assert_eq!(delays[0], 0);
    for (index, delay) in delays.iter().enumerate().skip(1) {
        let whole = 100 << (index - 1);
        assert!((whole * 8 / 10..=whole).contains(delay), "delay {index}: {delay} ms of {whole}");
    }
    // A worker that was ready for `restart.max` resets the backoff.
    let worker = in_first(&world).unwrap();
    world.ready(worker);
    world.pass(ms(30_000));
    let before = world.spawns.len();
    world.exit(worker, ExitCause::Exit(1));
    assert_eq!(world.spawns.len(), before + 1);
}

#[test]
fn more_failures_than_the_limit_degrade_the_pool_until_all_is_well_for_an_interval() {
    let mut world = serving(4);
    let in_slot = |world: &World, slot| world.pool.workers().find(|(_, worker)| worker.slot == slot).map(|(id, _)| id);
    for failure in 1..=6 {
        while in_slot(&world, 2).is_none() {
            let at = world.pool.deadline().unwrap();
            world.pass(at - world.now);
        }
        let worker = in_slot(&world, 2).unwrap();
        world.exit(worker, ExitCause::Exit(1));
        assert_eq!(world.pool.degraded(), failure == 6, "after {failure} failures");
    }
    assert_eq!(world.pool.status_text(), "generation 1: 3/4 ready, degraded: slot 2 exits at once (exit 1)");
    let before = world.now;
    while in_slot(&world, 2).is_none() {
        let at = world.pool.deadline().unwrap();
        world.pass(at - world.now);
    }
    assert!(world.now - before >= ms(24_000), "restarts go on at restart.max");
    world.all_ready();
    assert!(world.pool.degraded(), "not well before the interval is over");
    world.pass(ms(60_001));
    assert!(!world.pool.degraded());
    assert_eq!(world.pool.status_text(), "generation 1: 4/4 ready");
}

#[test]
fn a_thousand_healthy_workers_that_die_at_once_are_all_replaced_at_once() {
    let mut world = serving(1000);
    for worker in world.of(1) {
        world.exit(worker, ExitCause::Signal { signal: 9, core: false });
    }
    assert_eq!(world.of(1).len(), 1000, "each was replaced without a wait");
    world.all_ready();
    assert_eq!(world.pool.ready(), 1000);
}

#[test]
fn without_a_ready_worker_for_give_up_the_instance_ends_with_1() {
    let mut config = settings(1);
    config.restart.give_up = Some(ms(5_000));
    let mut world = World::new(config);
    world.exit(1, ExitCause::Exit(1));
    world.pass(ms(4_999));
    assert_eq!(world.pool.state(), PoolState::Starting);
    world.pass(ms(1));
    assert_eq!(world.pool.state(), PoolState::Stopping);
    world.be_kind();
    assert_eq!(world.exit, Some(1));
}

#[test]
fn who_leaves_by_its_own_will_is_replaced_at_once_and_not_signalled() {
    let mut world = serving(1);
    world.pass(ms(1_000));
    world.step(Event::Notification(1, Notification::Stopping));
    assert_eq!(world.of(1).len(), 2, "its replacement starts at once");
    assert!(!world.processes[&1].stopped);
    world.exit(1, ExitCause::Exit(0));
    assert_eq!(world.pool.crashes(), 0);
    // After STOPPING=1 as soon as a worker is ready, the backoff applies as after a crash.
    let worker = world.of(1)[0];
    world.ready(worker);
    world.step(Event::Notification(worker, Notification::Stopping));
    world.exit(worker, ExitCause::Exit(0));
    let worker = world.of(1)[0];
    world.ready(worker);
    world.step(Event::Notification(worker, Notification::Stopping));
    assert_eq!(world.of(1).len(), 1, "no storm of forks");
}

#[test]
fn a_silent_worker_is_aborted_killed_and_replaced() {
    let mut config = settings(1);
    config.watchdog = Some(ms(2_000));
    let mut world = World::new(config);
    world.ready(1);
    for _ in 0..5 {
        world.pass(ms(1_500));
        world.step(Event::Notification(1, Notification::Watchdog));
    }
    world.pass(ms(2_000));
    assert!(world.processes[&1].stopped && !world.processes[&1].killed);
    world.pass(ms(10_000));
    assert!(world.processes[&1].killed);
    world.exit(1, ExitCause::Signal { signal: 9, core: false });
    assert_eq!(world.ended.last().unwrap().how, ExitCause::Watchdog);
    assert_eq!(world.of(1).len(), 1);
}

#[test]
fn running_is_readiness_after_the_settle_time() {
    let mut config = settings(1);
    config.ready = Readiness::Running(ms(1_000));
    let mut world = World::new(config.clone());
    world.pass(ms(999));
    assert_eq!(world.pool.ready(), 0);
    world.pass(ms(1));
    assert_eq!(world.pool.ready(), 1);
    world.next = config;
    let requester = world.reload();
    world.prepare();
    world.exit(2, ExitCause::NotStarted("exec: Permission denied".to_owned()));
    assert!(reload_answer(&world, requester).2.contains("exec: Permission denied"));
}

#[test]
fn a_place_is_free_only_when_nothing_of_its_worker_is_left() {
    let mut world = serving(1);
    world.leave(1, ExitCause::Exit(1), true);
    assert!(world.processes[&1].killed, "what a crash leaves behind is killed");
    assert_eq!(world.spawns.len(), 1);
    world.pass(ms(5_000));
    assert_eq!(world.spawns.len(), 1);
    world.clear(1);
    assert_eq!(world.spawns.len(), 2);
}

#[test]
fn what_is_left_of_a_draining_worker_has_time_until_the_stop_timeout() {
    let mut world = serving(1);
    world.reload();
    world.prepare();
    world.ready(2);
    world.orphans_serve = true;
    world.leave(1, ExitCause::Exit(0), true);
    world.pass(ms(29_999));
    assert!(!world.processes[&1].killed);
    world.pass(ms(1));
    assert!(world.processes[&1].killed);
}

#[test]
fn scaling_lasts_over_reloads_until_the_file_says_another_number() {
    let mut world = serving(2);
    world.ask(What::Other, |requester| Event::Scale(4, Some(requester)));
    world.all_ready();
    assert_eq!(world.pool.ready(), 4);
    world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!((world.pool.generation(), world.pool.ready()), (2, 4));
    world.next = settings(3);
    world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!((world.pool.generation(), world.pool.ready()), (3, 3));
    let down = world.ask(What::Other, |requester| Event::Scale(1, Some(requester)));
    assert_eq!(world.answer(down), Some(&Answer::Done));
    assert_eq!(world.of(3).iter().filter(|id| world.phase(**id) == Some(Phase::Ready)).count(), 1);
    let none = world.ask(What::Other, |requester| Event::Scale(0, Some(requester)));
    assert!(matches!(world.answer(none), Some(Answer::Failed(_))));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn recycling_replaces_one_at_a_time_new_before_old() {
    let mut world = serving(2);
    let requester = world.ask(What::Other, |requester| Event::Recycle(None, Some(requester)));
    assert_eq!(world.of(1).len(), 3, "one new worker");
    assert!(world.processes.values().all(|process| !process.stopped));
    world.ready(3);
    assert!(world.processes[&1].stopped && !world.processes[&2].stopped);
    assert_eq!(world.answer(requester), None);
    world.ready(4);
    assert_eq!(world.answer(requester), Some(&Answer::Done));
    assert!(world.processes[&2].stopped);
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn a_replacement_that_fails_leaves_the_old_worker() {
    let mut world = serving(2);
    let requester = world.ask(What::Other, |requester| Event::Recycle(Some(2), Some(requester)));
    world.exit(3, ExitCause::Exit(1));
    assert!(matches!(world.answer(requester), Some(Answer::Failed(why)) if why.contains("worker 2 stays")));
    assert_eq!((world.phase(2), world.pool.ready()), (Some(Phase::Ready), 2));
    let nobody = world.ask(What::Other, |requester| Event::Recycle(Some(99), Some(requester)));
    assert!(matches!(world.answer(nobody), Some(Answer::Failed(_))));
}

#[test]
fn stop_drains_all_and_answers_everybody() {
    let mut world = serving(2);
    let (first, second) = (world.reload(), world.reload());
    world.prepare();
    world.step(Event::Stop { now: false });
    assert_eq!(reload_answer(&world, first).1, Outcome::Aborted);
    assert_eq!(reload_answer(&world, second).1, Outcome::Aborted);
    let late = world.reload();
    assert_eq!(reload_answer(&world, late).1, Outcome::Aborted);
    assert!(world.processes.values().all(|process| process.stopped));
    obey(&mut world);
    assert_eq!(world.exit, Some(0));
}

#[test]
fn the_second_stop_kills() {
    let mut world = serving(2);
    world.step(Event::Stop { now: false });
    assert!(world.processes.values().all(|process| !process.killed));
    world.step(Event::Stop { now: true });
    assert!(world.processes.values().all(|process| process.killed));
}

#[test]
fn a_reload_repairs_a_pool_that_never_came_up() {
    let mut world = World::new(settings(1));
    world.exit(1, ExitCause::Exit(1));
    let requester = world.reload();
    world.prepare();
    let new = world.of(2)[0];
    world.ready(new);
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    assert!(world.ready_told);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn forks_that_fail_are_tried_again_later() {
    let mut world = serving(1);
    world.forks_fail = 3;
    world.exit(1, ExitCause::Exit(1));
    while world.pool.ready() == 0 {
        let at = world.pool.deadline().unwrap();
        world.pass(at - world.now);
        world.all_ready();
    }
    assert_eq!(world.spawns.len(), 5);
}
