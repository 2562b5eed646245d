//! Zero workers: a pool without a connection drains its workers, and the first connection starts them again.

use super::*;
use crate::pool::tests::figures;
use crate::pool::{PoolState, Settings, WatchFor};

/// Settings for `count` workers with `worker.min = 0`.
fn from_zero(count: u32) -> Settings {
    Settings { idle: Some(ms(600_000)), ..settings(count) }
}

/// A pool whose workers have left for want of a connection.
fn asleep(settings: Settings) -> World {
    let mut world = World::new(settings);
    world.all_ready();
    world.be_quiet();
    obey(&mut world);
    assert!(world.pool.wants_no_workers() && world.pool.workers().count() == 0, "{}", world.pool.status_text());
    world
}

#[test]
fn pool_becomes_idle_and_the_first_connection_wakes_it() {
    let mut world = World::new(from_zero(3));
    assert_eq!((world.pool.look_period(), world.pool.wants_no_workers()), (None, false), "the first generation is proved");
    world.all_ready();
    assert_eq!(world.pool.look_period(), Some(ms(150_000)));
    world.pass(ms(599_999));
    world.step(Event::Looked { active: false });
    assert_eq!(world.pool.ready(), 3);
    world.pass(ms(1));
    assert_eq!((world.pool.ready(), world.pool.deadline()), (3, None), "a look decides, not the time alone");
    world.step(Event::Looked { active: false });
    assert_eq!(world.pool.status_text(), "generation 1: idle, 3 workers left, starts at the first connection");
    obey(&mut world);
    assert_eq!(world.pool.status_text(), "generation 1: idle, 0 workers, starts at the first connection");
    assert_eq!((world.pool.state(), world.pool.crashes(), world.pool.deadline()), (PoolState::Idle, 0, None));
    world.pass(ms(1_000_000));
    assert_eq!((world.of(1), world.pool.last_wake()), (vec![], None));

    world.connect();
    assert_eq!((world.of(1), world.pool.state()), (vec![4], PoolState::Idle));
    assert_eq!(world.pool.status_text(), "generation 1: waking, 0/3 ready");
    world.pass(ms(70));
    world.ready(4);
    assert_eq!((world.of(1), world.pool.last_wake()), (vec![4, 5, 6], Some(ms(70))));
    assert_eq!((world.pool.state(), world.pool.status_text().as_str()), (PoolState::Running, "generation 1: 1/3 ready"));
    assert!(world.logs.iter().any(|(kind, text)| *kind == Kind::Woken && text.contains("ready 70ms after the first connection")));
    world.all_ready();
    world.be_quiet();
    assert!(world.pool.wants_no_workers(), "idle again");
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn activity_puts_the_sleep_off() {
    let mut world = World::new(from_zero(1));
    world.all_ready();
    for _ in 0..10 {
        world.pass(ms(550_000));
        world.step(Event::Looked { active: true });
        world.pass(ms(100_000));
        world.step(Event::Looked { active: false });
        assert!(!world.pool.wants_no_workers());
    }
    world.be_quiet();
    assert!(world.pool.wants_no_workers());
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn connection_while_the_last_workers_drain_starts_one_at_once() {
    let mut world = World::new(from_zero(2));
    world.all_ready();
    world.be_quiet();
    world.connect();
    assert_eq!(world.of(1), [1, 3, 2], "it does not wait for those that drain");
    world.ready(3);
    assert_eq!(world.of(1), [1, 3, 2, 4]);
    world.step(Event::Connected);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn release_that_fails_at_waking_is_restarted_as_after_any_crash() {
    let mut world = asleep(from_zero(2));
    world.connect();
    world.exit(3, ExitCause::Exit(1));
    assert_eq!((world.pool.state(), world.pool.is_idle()), (PoolState::Running, false));
    assert_eq!(world.of(1), [4], "the other slot starts, and the first one waits");
    for _ in 0..12 {
        for worker in world.of(1) {
            world.exit(worker, ExitCause::Exit(1));
        }
        world.pass(ms(1_100));
    }
    assert!(world.pool.degraded(), "{}", world.pool.status_text());
    assert!(world.pool.status_text().starts_with("generation 1: 0/2 ready, degraded: slot 0 exits at once (exit 1)"));
    assert_eq!(world.pool.look_period(), None, "a degraded pool does not become idle");
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn reload_of_an_idle_pool_proves_the_new_release() {
    let mut world = asleep(from_zero(2));
    let requester = world.reload();
    world.prepare();
    assert_eq!((world.of(1), world.of(2)), (vec![], vec![3, 4]));
    assert!(world.pool.is_idle(), "it is ready for its first connection all the time");
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    assert_eq!((world.pool.ready(), world.pool.state()), (2, PoolState::Running));
    world.be_quiet();
    obey(&mut world);
    assert_eq!(world.pool.status_text(), "generation 2: idle, 0 workers, starts at the first connection");
    // A reload that fails leaves it as it was, also where slots were replaced one by one.
    world.next.surge = Surge::Count(1);
    let requester = world.reload();
    world.prepare();
    world.ready(5);
    world.exit(6, ExitCause::Exit(1));
    let (_, outcome, reason) = reload_answer(&world, requester);
    assert_eq!((outcome, reason.as_str()), (Outcome::RolledBack, "worker 6 (slot 1): exit 1 before it was ready"));
    obey(&mut world);
    assert!(world.pool.wants_no_workers() && world.pool.workers().count() == 0, "{}", world.pool.status_text());
    let undo = world.ask(What::Reload, |requester| Event::Undo(None, Some(requester)));
    world.be_kind();
    assert_eq!(reload_answer(&world, undo).1, Outcome::Committed);
    world.check_rest_and_stop();
}

#[test]
fn first_connection_during_a_reload_wakes_the_old_generation() {
    let mut world = asleep(from_zero(2));
    let requester = world.reload();
    world.connect();
    assert_eq!((world.of(1), world.pool.status_text().as_str()), (vec![3], "reloading to generation 2: preparing"));
    world.prepare();
    world.ready(3);
    world.exit(4, ExitCause::Exit(1));
    assert_eq!(reload_answer(&world, requester).1, Outcome::RolledBack);
    world.all_ready();
    assert_eq!((world.pool.generation(), world.pool.ready()), (1, 2));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn canary_wakes_the_generation_with_which_it_is_compared() {
    let mut world = asleep(from_zero(2));
    world.next.steps.sizes = vec![Surge::Count(1), Surge::Percent(100)];
    world.reload();
    world.prepare();
    assert_eq!((world.of(1).len(), world.of(2).len(), world.pool.is_idle()), (2, 1, false));
    world.all_ready();
    world.step(Event::Promote(None));
    world.be_kind();
    assert_eq!(world.pool.generation(), 2);
    world.check_rest_and_stop();
}

#[test]
fn requests_to_an_idle_pool_start_no_worker() {
    let mut world = asleep(from_zero(2));
    let scale = world.ask(What::Other, |requester| Event::Scale(4, Some(requester)));
    let recycle = world.ask(What::Other, |requester| Event::Recycle(None, Some(requester)));
    assert_eq!((world.answer(scale), world.answer(recycle)), (Some(&Answer::Done), Some(&Answer::Done)));
    let one = world.ask(What::Other, |requester| Event::Recycle(Some(1), Some(requester)));
    assert_eq!(world.answer(one), Some(&Answer::Failed("no ready worker 1 in generation 1".to_owned())));
    let resume = world.ask(What::Other, |requester| Event::Resume(Some(requester)));
    assert_eq!(world.answer(resume), Some(&Answer::Failed("the instance is not paused".to_owned())));
    assert_eq!(world.pool.workers().count(), 0);
    let pause = world.ask(What::Other, |requester| Event::Pause(None, Some(requester)));
    assert_eq!((world.answer(pause), world.pool.is_idle()), (Some(&Answer::Done), false));
    world.step(Event::Connected);
    assert_eq!(world.pool.status_text(), "generation 1: paused");
    world.step(Event::Resume(None));
    assert_eq!(world.of(1).len(), 4);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn recycling_ends_where_a_pool_becomes_idle() {
    let mut world = World::new(from_zero(2));
    world.all_ready();
    world.pass(ms(600_000));
    let requester = world.ask(What::Other, |requester| Event::Recycle(None, Some(requester)));
    world.step(Event::Looked { active: false });
    assert_eq!((world.answer(requester), world.pool.wants_no_workers()), (Some(&Answer::Done), true));
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn preload_process_ends_with_the_last_worker() {
    let mut world = asleep(Settings { preload: true, ..from_zero(2) });
    assert_eq!(world.pool.preload().map(|preload| preload.state), Some("absent"));
    world.connect();
    assert_eq!(world.of(1).len(), 2, "the preload process, and the first worker, which is forked from it");
    world.all_ready();
    assert_eq!((world.pool.ready(), world.pool.preload().map(|preload| preload.state)), (2, Some("ready")));
    world.check_rest_and_stop();
}

#[test]
fn queues_of_slots_are_empty_when_a_pool_becomes_idle() {
    let mut world = World::new(Settings { per_slot: true, ..from_zero(3) });
    world.all_ready();
    world.be_quiet();
    let drained: Vec<u64> = world.processes.iter().filter(|(_, it)| it.draining_queue).map(|(id, _)| *id).collect();
    assert_eq!((drained, world.processes[&1].stopped), (vec![2, 3], true), "new connections go to the first queue");
    world.drain_queue(2);
    world.connect();
    assert_eq!(world.pool.serving().len(), 1);
    world.all_ready();
    assert!(world.processes[&3].stopped, "its successor serves the queue");
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn watch_is_over_before_a_pool_becomes_idle() {
    let mut world = World::new(from_zero(2));
    world.all_ready();
    world.next.watch = WatchFor::Time(ms(1_000_000));
    world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!(world.pool.look_period(), None);
    world.step(Event::Compared(2, Some(figures(100, 0))));
    world.pass(ms(1_000_000));
    assert!(world.pool.look_period().is_some());
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn sleep_and_wake_are_carried_over_to_the_next_master() {
    let mut world = asleep(from_zero(2));
    world.hand_over();
    world.pass(ms(1_000_000));
    world.connect();
    world.hand_over();
    world.ready(3);
    world.hand_over();
    assert_eq!((world.of(1).len(), world.pool.last_wake()), (2, Some(ms(0))));
    world.all_ready();
    world.check_rest_and_stop();
}

#[test]
fn instance_without_sockets_never_becomes_idle() {
    let mut world = World::new(Settings { listens: false, ..from_zero(1) });
    world.all_ready();
    assert_eq!((world.pool.look_period(), world.pool.deadline()), (None, None));
    world.check_rest_and_stop();
}

#[test]
fn idle_instance_stops_at_once() {
    let mut world = asleep(from_zero(2));
    world.step(Event::Stop { now: false });
    assert_eq!(world.exit, Some(0));
    let mut world = asleep(from_zero(2));
    world.connect();
    world.step(Event::Stop { now: false });
    assert_eq!(world.pool.status_text(), "stopping: 1 worker left");
    obey(&mut world);
    assert_eq!(world.exit, Some(0));
}
