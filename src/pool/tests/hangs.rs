//! Scenarios of workers that hang, with `worker.balance = "per-slot"`: where new connections go, and who serves those that wait.

use super::ms;
use super::queues::{per_slot, slots};
use super::world::World;
use crate::pool::{Event, ExitCause, Hang, Kind, Phase, READS, Settings, Sighting, Surge, WorkerId};

const HUNG_AFTER: u64 = 10_000;

fn watched(count: u32) -> Settings {
    Settings { balance_hung: Some(ms(HUNG_AFTER)), ..per_slot(count) }
}

fn serving(count: u32) -> World {
    let mut world = World::new(watched(count));
    world.all_ready();
    world
}

/// A look that shows these workers like this, and all others well.
fn look(world: &mut World, signs: &[Sighting]) {
    let others = world.pool.may_hang().filter(|(id, _)| signs.iter().all(|sign| sign.worker != *id));
    let others = others.map(|(worker, _)| Sighting { worker, queue: vec![0], ..Sighting::default() });
    let seen: Vec<Sighting> = signs.iter().cloned().chain(others).collect();
    for event in world.pool.judge(world.now, &seen) {
        world.step(event);
    }
}

fn stopped(worker: WorkerId) -> Sighting {
    Sighting { worker, is_stopped: true, queue: vec![0], ..Sighting::default() }
}

fn stuck(worker: WorkerId) -> Sighting {
    Sighting { worker, queue: vec![2; READS], ..Sighting::default() }
}

fn told(world: &World) -> Vec<&str> {
    let is_told = |kind: Kind, text: &str| kind == Kind::Hangs || text.contains(" is well after ");
    world.logs.iter().filter(|(kind, text)| is_told(*kind, text)).map(|(_, text)| text.as_str()).collect()
}

#[test]
fn worker_that_hangs_gets_no_connections_until_it_is_well() {
    let mut world = serving(4);
    for sign in [stopped(2), stuck(2), Sighting { oldest_request: Some(ms(HUNG_AFTER)), queue: vec![0], ..stopped(2) }] {
        look(&mut world, std::slice::from_ref(&sign));
        assert_eq!((slots(&world), world.pool.ready()), (vec![0, 2, 3], 4), "{sign:?}");
        look(&mut world, &[]);
        assert_eq!((slots(&world), world.pool.avoided(2)), (vec![0, 1, 2, 3], None), "{sign:?}");
    }
    // Nothing takes the queue's connections, and the process goes on: it is well once they are served.
    look(&mut world, &[stopped(2)]);
    look(&mut world, &[Sighting { worker: 2, queue: vec![5, 4, 3, 2], ..Sighting::default() }]);
    assert_eq!((slots(&world), world.pool.avoided(2)), (vec![0, 2, 3], Some(Hang::Stopped)));
    look(&mut world, &[]);
    assert_eq!(slots(&world), [0, 1, 2, 3]);
}

#[test]
fn connections_are_never_steered_away_from_all() {
    let mut world = serving(2);
    look(&mut world, &[stopped(1), stopped(2)]);
    assert_eq!(slots(&world), [0, 1]);
    look(&mut world, &[stopped(1)]);
    assert_eq!(slots(&world), [1]);
    world.exit(2, ExitCause::Exit(1));
    assert_eq!(slots(&world), [0], "nobody else serves");
    // All queues grow: that is load.
    let mut world = serving(2);
    look(&mut world, &[stuck(1), stuck(2)]);
    assert_eq!((slots(&world), world.pool.avoided(1)), (vec![0, 1], None));
}

#[test]
fn without_balance_hung_or_with_one_queue_nobody_looks() {
    for settings in [Settings { balance_hung: None, ..watched(2) }, Settings { per_slot: false, ..watched(2) }] {
        let mut world = World::new(settings);
        world.all_ready();
        assert!(!world.pool.looks_for_hangs() && world.pool.may_hang().next().is_none());
        world.step(Event::Hangs(1, Hang::Stopped));
        assert_eq!(world.pool.avoided(1), None);
    }
    let mut world = serving(2);
    assert!(world.pool.looks_for_hangs());
    world.step(Event::Pause(None, None));
    assert!(!world.pool.looks_for_hangs());
}

#[test]
fn hang_that_lasts_is_told_and_its_end_too() {
    let mut world = serving(2);
    look(&mut world, &[stopped(2)]);
    assert_eq!((told(&world).len(), world.pool.status_text().as_str()), (0, "generation 1: 2/2 ready"));
    world.pass(ms(1_000));
    let said = "worker 2 (slot 1) gets no new connections: its process is stopped";
    assert_eq!(told(&world), [said]);
    let status = world.pool.status_text();
    assert_eq!(status, "generation 1: 2/2 ready, worker 2 (slot 1) is avoided: its process is stopped");
    world.hand_over();
    look(&mut world, &[]);
    assert_eq!(told(&world)[1], "worker 2 (slot 1) is well after 1s: it gets new connections");
    assert_eq!(world.pool.status_text(), "generation 1: 2/2 ready");
    // A slow request that keeps others waiting for a moment is not told.
    look(&mut world, &[stuck(1)]);
    world.pass(ms(HUNG_AFTER - 1_000));
    look(&mut world, &[]);
    world.pass(ms(HUNG_AFTER));
    assert_eq!(told(&world).len(), 2);
    look(&mut world, &[stopped(1), stopped(2)]);
    world.pass(ms(1_000));
    assert_eq!(world.pool.status_text(), "generation 1: 2/2 ready, 2 workers are avoided because they hang");
    assert!(told(&world)[2].starts_with("worker 1 (slot 0) hangs, and so does every worker beside it: "), "{:?}", told(&world));
}

#[test]
fn what_waits_too_long_is_served_by_another_worker() {
    let mut world = serving(3);
    look(&mut world, &[stuck(2)]);
    world.pass(ms(HUNG_AFTER - 1));
    look(&mut world, &[stuck(2)]);
    assert_eq!(world.of(1), [1, 2, 3]);
    world.pass(ms(1));
    look(&mut world, &[stuck(2)]);
    look(&mut world, &[stuck(2)]);
    assert_eq!(world.of(1), [1, 2, 4, 3], "one worker is started for the queue");
    world.ready(4);
    assert!(world.processes[&4].draining_queue && world.pool.worker(4).is_some_and(|it| it.phase == Phase::Draining));
    assert_eq!((slots(&world), world.pool.ready()), (vec![0, 2], 3));
    // An empty queue proves nothing now: the other worker has emptied it.
    world.drain_queue(4);
    world.exit(4, ExitCause::Exit(0));
    look(&mut world, &[]);
    assert_eq!(slots(&world), [0, 2]);
    look(&mut world, &[Sighting { worker: 2, has_accepted: true, queue: vec![0], ..Sighting::default() }]);
    assert_eq!(slots(&world), [0, 1, 2]);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn worker_without_a_status_page_is_tried_again_after_a_minute() {
    let mut world = serving(3);
    look(&mut world, &[stuck(2)]);
    world.pass(ms(HUNG_AFTER));
    look(&mut world, &[stuck(2)]);
    world.ready(4);
    world.drain_queue(4);
    world.exit(4, ExitCause::Exit(0));
    world.pass(ms(59_000));
    look(&mut world, &[]);
    assert_eq!(slots(&world), [0, 2]);
    world.pass(ms(1_000));
    look(&mut world, &[]);
    assert_eq!(slots(&world), [0, 1, 2]);
}

#[test]
fn another_worker_that_fails_is_not_started_again_and_again() {
    let mut world = serving(3);
    look(&mut world, &[stuck(2)]);
    world.pass(ms(HUNG_AFTER));
    look(&mut world, &[stuck(2)]);
    world.exit(4, ExitCause::Exit(1));
    for _ in 0..9 {
        world.pass(ms(1_000));
        look(&mut world, &[stuck(2)]);
    }
    assert_eq!(world.of(1), [1, 2, 3]);
    world.pass(ms(1_000));
    look(&mut world, &[stuck(2)]);
    assert_eq!(world.of(1), [1, 2, 5, 3]);
}

#[test]
fn replacement_takes_the_queue_over() {
    let mut world = serving(3);
    look(&mut world, &[stopped(2)]);
    world.exit(2, ExitCause::Signal { signal: 9, core: false });
    assert_eq!((slots(&world), world.pool.avoided(2)), (vec![0, 2], None));
    world.all_ready();
    assert_eq!(slots(&world), [0, 1, 2]);
    // Recycled: the successor serves the queue while the worker still hangs.
    let [first, ..] = world.of(1)[..] else { panic!("workers") };
    look(&mut world, &[stopped(first)]);
    world.step(Event::Recycle(Some(first), None));
    assert_eq!(slots(&world), [1, 2]);
    world.all_ready();
    assert_eq!(slots(&world), [0, 1, 2]);
}

#[test]
fn slot_that_is_one_too_many_is_emptied_by_another_worker() {
    let mut world = serving(3);
    look(&mut world, &[stuck(3)]);
    world.step(Event::Scale(2, None));
    assert_eq!(world.of(1), [1, 2, 3, 4]);
    world.ready(4);
    assert!(world.processes[&4].draining_queue && world.processes[&3].draining_queue);
    world.drain_queue(4);
    assert!(world.processes[&4].stopped);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn reload_and_hand_over_keep_who_is_avoided() {
    let mut world = serving(3);
    look(&mut world, &[stopped(2)]);
    world.hand_over();
    world.step(Event::MasterDied);
    assert_eq!((slots(&world), world.pool.avoided(2)), (vec![0, 2], Some(Hang::Stopped)));
    world.reload();
    world.next = watched(3);
    world.prepare();
    let new = world.of(2);
    world.ready(new[0]);
    look(&mut world, &[stopped(2)]);
    assert_eq!(slots(&world), [0, 2]);
    world.ready(new[1]);
    assert_eq!(slots(&world), [0, 1, 2], "the new worker serves the queue of the old one");
    world.all_ready();
    assert_eq!((world.pool.generation(), slots(&world), world.pool.avoided(2)), (2, vec![0, 1, 2], None));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn canary_that_hangs_loses_its_part_and_gets_no_more_than_that() {
    let mut world = serving(4);
    world.next = watched(4);
    world.next.steps.sizes = vec![Surge::Count(2)];
    world.reload();
    world.prepare();
    let canary = world.of(2);
    canary.iter().for_each(|worker| world.ready(*worker));
    let part = |world: &World| world.pool.canary_part().map(|canary| (canary.queues.len(), canary.part, canary.of));
    assert_eq!(part(&world), Some((2, 1, 3)));
    look(&mut world, &[stopped(canary[0])]);
    assert_eq!((part(&world), slots(&world)), (Some((1, 1, 5)), vec![0, 1, 1, 2, 3]));
    look(&mut world, &[stopped(canary[0]), stopped(canary[1])]);
    assert_eq!((part(&world), slots(&world)), (None, vec![0, 1, 2, 3]));
    // The old workers all hang: the canary still gets its part alone.
    look(&mut world, &[1, 2, 3, 4].map(stopped));
    assert_eq!((part(&world), slots(&world).len()), (Some((2, 1, 3)), 6));
    world.be_kind();
    world.check_rest_and_stop();
}
