//! A first start that cannot succeed ends the instance; every other pool goes on.

use super::*;
use crate::pool::PoolState;

/// Every worker that starts exits with status 3, until the instance ends or this time is over.
fn fail_for(world: &mut World, span: std::time::Duration) {
    let end = world.now + span;
    while world.exit.is_none() && world.now < end {
        for worker in world.processes.keys().copied().collect::<Vec<_>>() {
            world.exit(worker, ExitCause::Exit(3));
        }
        match world.pool.deadline() {
            Some(at) if world.exit.is_none() => world.pass(at - world.now),
            _ => return,
        }
    }
}

#[test]
fn start_ends_when_every_slot_has_failed_three_times() {
    let mut world = World::new(settings(2));
    let begin = world.now;
    fail_for(&mut world, ms(60_000));
    assert_eq!(world.exit, Some(1));
    assert!(world.now - begin <= ms(1_000), "{:?}", world.now - begin);
    assert_eq!(world.spawns.len(), 6);
    let text = world.pool.status_text();
    assert_eq!(text, "stopping; generation 1 cannot start: slot 0 exits at once (exit 3)");
    assert!(world.logs.iter().any(|(_, line)| line.starts_with("generation 1 cannot start: ")), "{:?}", world.logs);
}

#[test]
fn start_goes_on_while_a_slot_has_not_failed_three_times() {
    let mut world = World::new(settings(2));
    for _ in 0..5 {
        let worker = world.pool.workers().find(|(_, worker)| worker.slot == 0).map(|(id, _)| id);
        if let Some(worker) = worker {
            world.exit(worker, ExitCause::Exit(3));
        }
        world.pass(ms(1_500));
    }
    assert_eq!((world.exit, world.pool.state()), (None, PoolState::Starting));
    // Now the workers of both slots fail.
    fail_for(&mut world, ms(60_000));
    assert_eq!(world.exit, Some(1));
}

#[test]
fn pool_that_had_a_ready_worker_goes_on_for_ever() {
    let mut world = World::new(settings(2));
    world.ready(1);
    world.exit(1, ExitCause::Exit(3));
    fail_for(&mut world, ms(600_000));
    assert_eq!((world.exit, world.pool.state()), (None, PoolState::Starting));
}

#[test]
fn start_that_cannot_succeed_waits_for_a_reload_under_way() {
    let mut world = World::new(settings(1));
    let requester = world.reload();
    fail_for(&mut world, ms(20_000));
    assert_eq!(world.exit, None, "the reload may bring a release that starts");
    world.refuse();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Refused);
    world.be_kind();
    assert_eq!(world.exit, Some(1));
}

#[test]
fn start_that_cannot_succeed_is_the_same_after_a_hand_over() {
    let mut world = World::new(settings(1));
    world.exit(1, ExitCause::Exit(3));
    world.hand_over();
    fail_for(&mut world, ms(60_000));
    assert_eq!((world.exit, world.spawns.len()), (Some(1), 3));
}
