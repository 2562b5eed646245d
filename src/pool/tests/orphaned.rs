//! Scenarios of orphaned processes, which outlive the main process of a worker that was told to stop.

use super::world::World;
use super::{ms, settings};
use crate::pool::{Event, ExitCause};

/// A pool of one worker that was told to stop, and whose main process has ended before the worker's other processes.
fn orphaned(ready: bool, serving: bool) -> World {
    let mut world = World::new(settings(1));
    if ready {
        world.all_ready();
    }
    world.orphans_serve = serving;
    world.step(Event::Stop { now: false });
    world.leave(1, ExitCause::Exit(0), true);
    world
}

fn killed(world: &World) -> bool {
    world.processes[&1].killed
}

#[test]
fn idle_orphans_are_killed_a_second_after_the_look() {
    let mut world = orphaned(true, false);
    world.pass(ms(1_999));
    assert!(!killed(&world));
    world.pass(ms(1));
    assert!(killed(&world));
    world.clear(1);
    assert_eq!((world.exit, world.pool.deadline()), (Some(0), None));
}

#[test]
fn serving_orphans_live_until_they_serve_no_more() {
    let mut world = orphaned(true, true);
    world.pass(ms(10_000));
    assert!(!killed(&world));
    world.orphans_serve = false;
    world.pass(ms(1_000));
    assert!(!killed(&world));
    world.pass(ms(250));
    assert!(killed(&world));
}

#[test]
fn serving_orphans_are_killed_at_the_stop_timeout() {
    let mut world = orphaned(true, true);
    let left = settings(1).stop_timeout;
    world.pass(left - ms(1));
    assert!(!killed(&world));
    world.pass(ms(1));
    assert!(killed(&world));
}

#[test]
fn failed_start_leaves_nothing_for_longer_than_a_second() {
    let mut world = orphaned(false, true);
    world.pass(ms(1_000));
    assert!(killed(&world));
}
