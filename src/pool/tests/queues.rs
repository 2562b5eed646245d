//! Scenarios of `worker.balance = "per-slot"`: which slots get new connections, and what happens to waiting connections.

use std::collections::BTreeSet;

use super::settings;
use super::world::World;
use crate::pool::{Event, ExitCause, Queue, Settings, Slot, Surge};

pub(super) fn per_slot(count: u32) -> Settings {
    Settings { per_slot: true, ..settings(count) }
}

/// A pool with a queue per slot whose workers are all ready.
fn serving(count: u32) -> World {
    let mut world = World::new(per_slot(count));
    world.all_ready();
    world
}

/// The slots that get new connections.
pub(super) fn slots(world: &World) -> Vec<Slot> {
    world.pool.serving().into_iter().map(|queue| queue.slot).collect()
}

/// The workers whose queue is watched, and the workers that got the stop signal.
fn on_the_way_out(world: &World) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let of = |wanted: fn(&super::world::Process) -> bool| {
        world.processes.iter().filter(|(_, process)| wanted(process)).map(|(id, _)| *id).collect()
    };
    (of(|process| process.draining_queue), of(|process| process.stopped))
}

#[test]
fn a_slot_gets_connections_from_its_first_ready_worker_on() {
    let mut world = World::new(per_slot(3));
    assert_eq!(slots(&world), [0], "before the first is ready, they wait in systemd's socket");
    let workers = world.of(1);
    world.ready(workers[1]);
    assert_eq!(slots(&world), [1]);
    world.all_ready();
    assert_eq!(slots(&world), [0, 1, 2]);
    world.exit(workers[1], ExitCause::Exit(1));
    assert_eq!(slots(&world), [0, 2], "what waits, waits for the replacement; nothing is added");
    world.all_ready();
    assert_eq!(slots(&world), [0, 1, 2]);
}

#[test]
fn when_all_have_failed_connections_wait_where_workers_will_come() {
    let mut world = serving(2);
    for worker in world.of(1) {
        world.exit(worker, ExitCause::Exit(1));
    }
    assert_eq!(slots(&world), [0, 1]);
}

#[test]
fn one_queue_for_all_is_the_first() {
    let mut world = World::new(settings(3));
    world.all_ready();
    assert_eq!(slots(&world), [0]);
    world.step(Event::Scale(1, None));
    assert_eq!(on_the_way_out(&world), (BTreeSet::new(), BTreeSet::from([2, 3])));
}

#[test]
fn fewer_workers_empty_their_queues_before_they_stop() {
    let mut world = serving(4);
    world.step(Event::Scale(2, None));
    assert_eq!(slots(&world), [0, 1]);
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([3, 4]), BTreeSet::new()));
    world.drain_queue(4);
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([3]), BTreeSet::from([4])));
    // A worker whose queue does not become empty is stopped, too.
    world.pass(super::super::serving::QUEUE_DRAIN_TIMEOUT);
    assert_eq!(on_the_way_out(&world), (BTreeSet::new(), BTreeSet::from([3, 4])));
    // The worker then has the whole stop timeout.
    world.pass(super::ms(29_000));
    assert!(!world.processes[&3].killed);
    world.pass(super::ms(2_000));
    assert!(world.processes[&3].killed);
}

#[test]
fn a_slot_that_comes_back_meanwhile_takes_its_queue_over() {
    let mut world = serving(2);
    world.step(Event::Scale(1, None));
    world.step(Event::Scale(2, None));
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([2]), BTreeSet::new()));
    world.all_ready();
    assert_eq!(on_the_way_out(&world), (BTreeSet::new(), BTreeSet::from([2])));
    assert_eq!(slots(&world), [0, 1]);
}

#[test]
fn a_reload_leaves_no_queue_and_waits_for_none() {
    let mut world = serving(2);
    world.reload();
    world.next = per_slot(2);
    world.prepare();
    world.all_ready();
    assert_eq!(slots(&world), [0, 1]);
    assert_eq!(on_the_way_out(&world), (BTreeSet::new(), BTreeSet::from([1, 2])));
}

#[test]
fn a_reload_to_fewer_slots_moves_the_queues_of_the_others() {
    let mut world = serving(3);
    world.reload();
    world.next = per_slot(1);
    world.prepare();
    world.all_ready();
    assert_eq!(slots(&world), [0]);
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([2, 3]), BTreeSet::from([1])));
}

#[test]
fn a_new_generation_that_goes_again_empties_what_it_alone_served() {
    let mut world = serving(1);
    world.reload();
    world.next = per_slot(3);
    world.prepare();
    let new = world.of(2);
    world.ready(new[0]);
    world.ready(new[1]);
    assert_eq!(slots(&world), [0, 1]);
    world.exit(new[2], ExitCause::Exit(1));
    assert_eq!(slots(&world), [0]);
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([new[1]]), BTreeSet::from([new[0]])));
}

#[test]
fn from_one_queue_to_many_and_back() {
    let mut world = World::new(settings(2));
    world.all_ready();
    world.reload();
    world.next = per_slot(2);
    world.prepare();
    let new = world.of(2);
    world.ready(new[1]);
    assert_eq!(slots(&world), [0, 1], "the old ones serve the first queue");
    world.ready(new[0]);
    assert_eq!(on_the_way_out(&world), (BTreeSet::new(), BTreeSet::from([1, 2])));
    world.be_kind();
    world.reload();
    world.next = settings(2);
    world.prepare();
    world.all_ready();
    assert_eq!(slots(&world), [0]);
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([new[1]]), BTreeSet::from([new[0]])));
}

#[test]
fn one_by_one_no_queue_is_left_either() {
    let mut world = World::new(Settings { surge: Surge::Count(1), ..per_slot(2) });
    world.all_ready();
    world.reload();
    world.next = Settings { surge: Surge::Count(1), ..settings(2) };
    world.prepare();
    let new = world.of(2);
    world.ready(new[0]);
    // The new worker shares the first queue with the old worker of slot 0, which may stop.
    assert_eq!(on_the_way_out(&world), (BTreeSet::new(), BTreeSet::from([1])));
    world.exit(1, ExitCause::Exit(0));
    let new = world.of(2);
    world.ready(new[1]);
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([2]), BTreeSet::new()));
}

#[test]
fn at_the_end_all_queues_but_the_first_are_emptied() {
    let mut world = serving(3);
    world.step(Event::Stop { now: false });
    assert_eq!(slots(&world), [0]);
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([2, 3]), BTreeSet::from([1])));
    world.be_kind();
    assert_eq!(world.exit, Some(0));
}

#[test]
fn the_last_worker_of_all_is_not_asked_to_wait() {
    let mut world = serving(2);
    world.exit(1, ExitCause::Exit(1));
    let first = world.of(1)[0];
    // Only slot 1 serves; the replacement of its recycled worker is in the same slot.
    world.step(Event::Recycle(Some(2), None));
    world.all_ready();
    assert_eq!(on_the_way_out(&world).0, BTreeSet::new());
    assert!(world.processes[&2].stopped && !world.processes[&first].stopped);
}

#[test]
fn what_waits_survives_the_hand_over() {
    let mut world = serving(3);
    world.step(Event::Scale(1, None));
    world.hand_over();
    assert_eq!(world.pool.draining_queues().collect::<Vec<_>>(), [2, 3]);
    world.drain_queue(2);
    world.exit(2, ExitCause::Exit(0));
    // A worker that ends by itself is no longer waited for.
    world.exit(3, ExitCause::Exit(0));
    assert_eq!(world.pool.draining_queues().count(), 0);
    world.be_kind();
    world.check_rest_and_stop();
}

/// A pool of four with a queue per slot whose reload has these steps, and its first canary ready.
fn canary(steps: &[Surge]) -> World {
    let mut world = serving(4);
    world.next = per_slot(4);
    world.next.steps.sizes = steps.to_vec();
    world.reload();
    world.prepare();
    assert_eq!(world.pool.canary_part(), None, "no worker of it is ready");
    let canary = world.of(2);
    canary.into_iter().for_each(|worker| world.ready(worker));
    world
}

fn part(world: &World) -> Option<(Vec<Queue>, u32, u32)> {
    world.pool.canary_part().map(|canary| (canary.queues.into_iter().collect(), canary.part, canary.of))
}

const fn second(slot: Slot) -> Queue {
    Queue { slot, second: true }
}

#[test]
fn canary_has_queues_of_its_own_and_its_part() {
    let mut world = canary(&[Surge::Count(1), Surge::Percent(50)]);
    assert_eq!(part(&world), Some((vec![second(0)], 1, 5)));
    assert_eq!(world.pool.serving().len(), 5);
    world.pass(std::time::Duration::from_secs(30));
    assert_eq!(part(&world), Some((vec![second(0)], 1, 4)), "one of the two workers of the half is ready");
    let more = world.of(2);
    more.into_iter().for_each(|worker| world.ready(worker));
    assert_eq!(part(&world), Some((vec![second(0), second(1)], 1, 2)));
    // The rest of the generation shares the queues of its slots with the old workers, and the canary keeps its own.
    world.pass(std::time::Duration::from_secs(30));
    world.all_ready();
    assert_eq!((world.pool.generation(), part(&world)), (2, None));
    let wanted = [second(0), second(1), Queue::of_slot(2), Queue::of_slot(3)];
    assert_eq!(world.pool.serving().into_iter().collect::<Vec<_>>().len(), 4);
    assert!(wanted.iter().all(|queue| world.pool.serving().contains(queue)));
    // The old workers of slots 0 and 1 empty their queues first; those of slots 2 and 3 leave theirs to their successors.
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([1, 2]), BTreeSet::from([3, 4])));
    world.be_kind();
    // A replacement serves the queue of the worker that it replaces, and the next canary the other one.
    let slot_0 = *world.of(2).first().expect("a worker");
    world.exit(slot_0, ExitCause::Exit(1));
    world.all_ready();
    assert!(world.pool.serving().contains(&second(0)));
    world.reload();
    world.prepare();
    let canary = world.of(3);
    canary.into_iter().for_each(|worker| world.ready(worker));
    assert_eq!(part(&world), Some((vec![Queue::FIRST], 1, 5)));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn canary_that_is_rolled_back_empties_its_queue_first() {
    let mut world = canary(&[Surge::Percent(25)]);
    assert_eq!(part(&world), Some((vec![second(0)], 1, 4)));
    let canary = world.of(2);
    world.step(Event::Abort(None));
    assert_eq!(part(&world), None);
    assert_eq!(slots(&world), [0, 1, 2, 3]);
    assert_eq!(on_the_way_out(&world), (canary.iter().copied().collect(), BTreeSet::new()));
    world.step(Event::QueueDrained(canary[0]));
    assert_eq!(on_the_way_out(&world).1, canary.into_iter().collect());
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn queue_of_a_canary_that_fails_is_emptied_by_a_worker_of_the_old_release() {
    let mut world = canary(&[Surge::Count(1)]);
    let canary = world.of(2)[0];
    world.exit(canary, ExitCause::Exit(1));
    assert_eq!((part(&world), slots(&world)), (None, vec![0, 1, 2, 3]));
    let relief = world.of(1).into_iter().max().expect("a worker");
    let queue = world.pool.worker(relief).map(|worker| world.pool.queue(worker));
    assert_eq!((relief > canary, queue, world.pool.ready()), (true, Some(second(0)), 4));
    world.ready(relief);
    assert_eq!(on_the_way_out(&world), (BTreeSet::from([relief]), BTreeSet::new()));
    assert_eq!((slots(&world), world.pool.ready()), (vec![0, 1, 2, 3], 4), "it gets no new connections");
    world.step(Event::QueueDrained(relief));
    assert_eq!(on_the_way_out(&world).1, BTreeSet::from([relief]));
    world.exit(relief, ExitCause::Exit(0));
    assert_eq!(world.of(1), [1, 2, 3, 4]);
    // One that fails, too, has no relief of its own.
    world.reload();
    world.prepare();
    let canary = world.of(3)[0];
    world.ready(canary);
    world.exit(canary, ExitCause::Exit(1));
    let relief = world.of(1).into_iter().max().expect("a worker");
    world.exit(relief, ExitCause::Exit(1));
    assert_eq!(world.of(1), [1, 2, 3, 4]);
    world.be_kind();
    world.check_rest_and_stop();
}
