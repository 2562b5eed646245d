//! Elastic pools: the load decides between two bounds, an operator fixes the number, and a reload brings as many as serve.

use super::*;
use crate::pool::tests::elastic;
use crate::pool::{Action, Busy, Ceiling, Load, Measure, Scaled, Settings};

fn elastic_pool(min: u32, count: u32, max: u32) -> World {
    let mut world = World::new(Settings { elastic: elastic(min, max), ..settings(count) });
    world.all_ready();
    world
}

/// A sample a second later: the share of busy workers, and the connections that wait.
fn sample(world: &mut World, share: f64, waiting: u64) {
    world.pass(ms(1_000));
    let busy = Some(Busy { share, by: Measure::CpuTime });
    let load = Load { ready: world.pool.ready(), busy, waiting: Some(waiting), memory: None };
    let generation = world.pool.generation();
    world.step(Event::Load(generation, load));
}

/// Samples under full load, until one leads to a step.
fn load(world: &mut World) {
    let before = world.pool.target();
    (0..4).for_each(|_| {
        if world.pool.target() == before {
            sample(world, 1.0, 0);
        }
    });
    assert!(world.pool.target() > before, "no step up");
    world.all_ready();
}

#[test]
fn load_adds_workers_up_to_the_maximum_and_says_why() {
    let mut world = elastic_pool(2, 2, 4);
    (0..3).for_each(|_| sample(&mut world, 1.0, 0));
    assert_eq!(world.pool.target(), 3);
    let line = "scaled from 2 to 3 workers: 100% busy by CPU time, too busy for 2s";
    assert_eq!(world.logs.last().map(|(kind, line)| (*kind, line.as_str())), Some((Kind::Scaled, line)));
    world.all_ready();
    load(&mut world);
    (0..10).for_each(|_| sample(&mut world, 1.0, 0));
    assert_eq!((world.pool.target(), world.scaled.as_slice()), (4, [(2, 3), (3, 4)].as_slice()));
    world.check_rest_and_stop();
}

#[test]
fn calm_gives_up_the_last_slots_down_to_the_minimum() {
    let mut world = elastic_pool(2, 4, 4);
    (0..9).for_each(|_| sample(&mut world, 0.1, 0));
    assert_eq!((world.pool.target(), world.of(1)), (2, vec![1, 2, 3, 4]));
    let stopped: Vec<u64> = world.processes.iter().filter(|(_, process)| process.stopped).map(|(id, _)| *id).collect();
    assert_eq!(stopped, [3, 4]);
    world.be_kind();
    (0..20).for_each(|_| sample(&mut world, 0.0, 0));
    assert_eq!(world.pool.target(), 2);
    world.check_rest_and_stop();
}

#[test]
fn queue_at_the_maximum_is_said_until_it_is_gone() {
    let mut world = elastic_pool(1, 2, 2);
    (0..3).for_each(|_| sample(&mut world, 1.0, 120));
    assert_eq!(world.pool.status_text(), "generation 1: 2/2 ready, at max, 120 connections wait");
    assert_eq!(world.pool.ceiling(), Some(Ceiling::Max(120)));
    let told = |world: &World| world.logs.iter().filter(|(kind, _)| *kind == Kind::AtMax).count();
    (0..3).for_each(|_| sample(&mut world, 1.0, 1));
    assert_eq!(world.pool.status_text(), "generation 1: 2/2 ready, at max, 1 connection waits");
    assert_eq!(told(&world), 1);
    (0..11).for_each(|_| sample(&mut world, 0.8, 0));
    assert_eq!((world.pool.status_text().as_str(), world.pool.ceiling()), ("generation 1: 2/2 ready", None));
    world.check_rest_and_stop();
}

#[test]
fn operator_fixes_the_number_until_auto() {
    let mut world = elastic_pool(1, 2, 3);
    let scale = world.ask(What::Other, |requester| Event::Scale(6, Some(requester)));
    assert_eq!(world.answer(scale), Some(&Answer::Done));
    world.all_ready();
    assert_eq!((world.pool.target(), world.pool.is_fixed(), world.pool.load_period()), (6, true, None));
    (0..5).for_each(|_| sample(&mut world, 0.0, 0));
    world.reload();
    world.prepare();
    world.hand_over();
    world.all_ready();
    assert_eq!((world.pool.target(), world.pool.is_fixed()), (6, true), "over a reload and an upgrade");
    world.be_kind();
    let auto = world.ask(What::Other, |requester| Event::ScaleAuto(Some(requester)));
    assert_eq!(world.answer(auto), Some(&Answer::Done));
    assert_eq!((world.pool.target(), world.pool.is_fixed()), (3, false));
    assert!(world.pool.load_period().is_some());
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn auto_without_bounds_is_the_number_of_the_configuration() {
    let mut world = serving(2);
    world.step(Event::Scale(4, None));
    world.all_ready();
    assert_eq!((world.pool.target(), world.pool.bounds()), (4, (2, 2)));
    world.step(Event::ScaleAuto(None));
    assert_eq!((world.pool.target(), world.pool.is_fixed(), world.pool.deadline().is_some()), (2, false, true));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn reload_brings_as_many_as_serve_within_its_own_bounds() {
    let mut world = elastic_pool(1, 1, 8);
    (0..3).for_each(|_| load(&mut world));
    let serves = world.pool.target();
    world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!((world.pool.generation(), world.pool.target()), (2, serves));
    world.be_kind();
    for (bounds, expected) in [(elastic(1, 2), 2), (elastic(5, 9), 5), (None, 3)] {
        world.next = Settings { elastic: bounds, ..settings(3) };
        world.reload();
        world.prepare();
        world.be_kind();
        assert_eq!(world.pool.target(), expected, "{bounds:?}");
    }
    world.check_rest_and_stop();
}

#[test]
fn number_that_is_fixed_ends_with_other_bounds_in_the_configuration() {
    let mut world = elastic_pool(1, 2, 4);
    world.step(Event::Scale(6, None));
    world.all_ready();
    world.next.elastic = elastic(1, 5);
    world.reload();
    world.prepare();
    assert!(world.pool.is_fixed(), "before the commit");
    world.be_kind();
    assert_eq!((world.pool.target(), world.pool.is_fixed()), (5, false));
    // A number that an operator sets during such a reload stays.
    world.next.elastic = elastic(1, 4);
    world.reload();
    world.prepare();
    world.step(Event::Scale(7, None));
    world.be_kind();
    assert_eq!((world.pool.target(), world.pool.is_fixed()), (7, true));
    world.check_rest_and_stop();
}

#[test]
fn load_during_a_reload_adds_workers_to_both_generations_and_removes_none() {
    let mut world = elastic_pool(1, 2, 4);
    world.next.elastic = elastic(1, 3);
    world.reload();
    world.prepare();
    load(&mut world);
    assert_eq!((world.pool.target(), world.pool.generation()), (3, 2), "all of both were ready");
    world.be_kind();
    world.reload();
    world.prepare();
    // Less than the start timeout of the new workers.
    (0..8).for_each(|_| sample(&mut world, 0.0, 0));
    assert_eq!(world.pool.target(), 3);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn load_does_not_count_in_a_pause_nor_while_a_slot_fails() {
    let mut world = elastic_pool(1, 3, 4);
    world.step(Event::Pause(None, None));
    assert_eq!((world.pool.load_period(), world.pool.load()), (None, None));
    (0..5).for_each(|_| sample(&mut world, 0.0, 9));
    obey(&mut world);
    world.step(Event::Resume(None));
    world.all_ready();
    world.exit(4, ExitCause::Exit(1));
    world.exit(7, ExitCause::Exit(1));
    (0..20).for_each(|_| sample(&mut world, 0.0, 0));
    assert_eq!(world.pool.target(), 3, "ready workers of the last slots stay while the first has none");
    world.be_kind();
    (0..9).for_each(|_| sample(&mut world, 0.0, 0));
    assert!(world.pool.target() < 3);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn change_of_the_number_is_an_action_with_its_figures() {
    let world = elastic_pool(1, 2, 4);
    let (mut pool, mut actions) = (world.pool.clone(), Vec::new());
    pool.step(world.now, Event::Scale(3, None), &mut actions);
    let scaled = Scaled { generation: 1, from: 2, to: 3, reason: "on request".to_owned() };
    assert!(actions.contains(&Action::Scaled(scaled)), "{actions:?}");
    actions.clear();
    pool.step(world.now, Event::Scale(3, None), &mut actions);
    assert!(!actions.iter().any(|action| matches!(action, Action::Scaled(_))), "{actions:?}");
}

#[test]
fn elastic_pool_that_is_idle_takes_no_samples_and_grows_again() {
    let mut world = World::new(Settings { elastic: elastic(1, 3), idle: Some(ms(600_000)), ..settings(2) });
    world.all_ready();
    assert_eq!(world.pool.bounds(), (0, 3));
    (0..9).for_each(|_| sample(&mut world, 0.0, 0));
    assert_eq!(world.pool.target(), 1, "the load alone leaves one worker");
    obey(&mut world);
    world.be_quiet();
    obey(&mut world);
    assert_eq!((world.pool.workers().count(), world.pool.load_period(), world.pool.deadline()), (0, None, None));
    sample(&mut world, 1.0, 9);
    assert_eq!(world.pool.target(), 1, "no sample counts while it is idle");
    world.connect();
    world.all_ready();
    assert!(world.pool.load_period().is_some());
    load(&mut world);
    world.check_rest_and_stop();
}
