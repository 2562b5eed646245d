//! Pauses: all workers drain, nobody serves, and the same generation serves again.

use super::*;
use crate::pool::tests::figures;
use crate::pool::{Action, Settings, WatchFor};

fn pause(world: &mut World, length: Option<u64>) -> u64 {
    world.ask(What::Other, |requester| Event::Pause(length.map(ms), Some(requester)))
}

fn resume(world: &mut World) -> u64 {
    world.ask(What::Other, |requester| Event::Resume(Some(requester)))
}

fn failed(why: &str) -> Option<Answer> {
    Some(Answer::Failed(why.to_owned()))
}

#[test]
fn pause_drains_all_and_resume_starts_the_same_generation() {
    let mut world = serving(3);
    let requester = pause(&mut world, None);
    assert_eq!((world.answer(requester), world.pool.ready()), (None, 0));
    assert_eq!(world.pool.status_text(), "generation 1: paused, 3 workers left");
    world.exit(1, ExitCause::Exit(0));
    world.leave(2, ExitCause::Exit(0), true);
    world.exit(3, ExitCause::Signal { signal: 15, core: false });
    assert_eq!(world.answer(requester), None, "a process is left");
    world.clear(2);
    assert_eq!(world.answer(requester), Some(&Answer::Done));
    assert_eq!((world.pool.status_text().as_str(), world.pool.crashes()), ("generation 1: paused", 0));
    assert_eq!(world.pool.deadline(), None, "a paused instance sleeps");
    let requester = resume(&mut world);
    assert_eq!(world.answer(requester), Some(&Answer::Done));
    assert_eq!(world.of(1), [4, 5, 6]);
    world.all_ready();
    assert_eq!(world.pool.status_text(), "generation 1: 3/3 ready");
    world.check_rest_and_stop();
}

#[test]
fn pause_with_a_length_ends_by_itself() {
    let mut world = serving(2);
    let requester = pause(&mut world, Some(30_000));
    obey(&mut world);
    assert_eq!(world.answer(requester), Some(&Answer::Done));
    assert_eq!(world.pool.status_text(), "generation 1: paused for 30s");
    world.pass(ms(29_999));
    assert!(world.pool.is_paused() && world.spawns.len() == 2);
    world.pass(ms(1));
    assert_eq!(world.of(1), [3, 4]);
    world.all_ready();
    world.check_rest_and_stop();
}

#[test]
fn second_pause_sets_the_length_anew() {
    let mut world = serving(1);
    pause(&mut world, Some(30_000));
    let second = pause(&mut world, None);
    obey(&mut world);
    assert_eq!(world.answer(second), Some(&Answer::Done));
    world.pass(ms(100_000));
    let third = pause(&mut world, Some(5_000));
    assert_eq!((world.answer(third), world.pool.pause_left()), (Some(&Answer::Done), Some(ms(5_000))));
    world.pass(ms(5_000));
    assert!(!world.pool.is_paused());
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn resume_does_not_wait_for_workers_that_drain() {
    let mut world = serving(2);
    let paused = pause(&mut world, None);
    world.exit(1, ExitCause::Exit(0));
    resume(&mut world);
    assert_eq!(world.answer(paused).cloned(), failed("the instance resumed before all workers had ended"));
    assert_eq!(world.of(1), [3, 2, 4]);
    world.all_ready();
    assert_eq!(world.pool.ready(), 2);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn paused_instance_refuses_what_needs_workers() {
    let mut world = serving(2);
    pause(&mut world, None);
    obey(&mut world);
    let why = "the instance is paused; `ratoon resume` first".to_owned();
    let reload = world.reload();
    assert_eq!(reload_answer(&world, reload), (0, Outcome::Refused, why.clone()));
    let undo = world.ask(What::Reload, |requester| Event::Undo(None, Some(requester)));
    assert_eq!(reload_answer(&world, undo), (0, Outcome::Refused, why.clone()));
    let recycle = world.ask(What::Other, |requester| Event::Recycle(None, Some(requester)));
    let probe = world.ask(What::Probe, |requester| Event::Probe(Some(requester)));
    for requester in [recycle, probe] {
        assert_eq!(world.answer(requester).cloned(), failed(&why));
    }
    // The number counts when the instance resumes.
    let scale = world.ask(What::Other, |requester| Event::Scale(4, Some(requester)));
    assert_eq!(world.answer(scale), Some(&Answer::Done));
    assert_eq!((world.spawns.len(), world.pool.generation()), (2, 1));
    resume(&mut world);
    assert_eq!(world.of(1).len(), 4);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn slots_with_queues_are_not_given_up_in_a_pause() {
    let mut world = World::new(Settings { per_slot: true, ..settings(3) });
    world.all_ready();
    let mut actions = Vec::new();
    world.pool.clone().step(world.now, Event::Pause(None, None), &mut actions);
    assert!(!actions.iter().any(|action| matches!(action, Action::DrainQueue(_))), "{actions:?}");
    pause(&mut world, None);
    assert!(world.processes.values().all(|process| process.stopped), "a worker waits for its queue");
    assert_eq!(world.pool.serving().len(), 3);
    let fewer = world.ask(What::Other, |requester| Event::Scale(2, Some(requester)));
    let why = "connections may wait in the queues of the slots that would go; `ratoon resume` first";
    assert_eq!(world.answer(fewer).cloned(), failed(why));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn pause_is_refused_where_a_release_is_under_way() {
    let mut world = World::new(settings(1));
    let early = pause(&mut world, None);
    assert_eq!(world.answer(early).cloned(), failed("the instance still starts; ask again when it serves"));
    world.all_ready();
    world.reload();
    let during = pause(&mut world, None);
    let why = "a reload to generation 2 is under way; ask again at its end, or end it with `ratoon abort`";
    assert_eq!(world.answer(during).cloned(), failed(why));
    let none = resume(&mut world);
    assert_eq!(world.answer(none).cloned(), failed("the instance is not paused"));
    world.be_kind();
    world.step(Event::Probe(None));
    let probed = pause(&mut world, None);
    assert_eq!(world.answer(probed).cloned(), failed("a release is probed; ask again at the end of that"));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn stop_ends_a_pause_at_once() {
    let mut world = serving(2);
    pause(&mut world, Some(60_000));
    obey(&mut world);
    world.step(Event::Stop { now: false });
    assert_eq!(world.exit, Some(0));
    let mut world = serving(2);
    let requester = pause(&mut world, None);
    world.step(Event::Stop { now: false });
    assert_eq!(world.answer(requester).cloned(), failed("the instance is stopping"));
    obey(&mut world);
    assert_eq!(world.exit, Some(0));
}

#[test]
fn worker_that_waits_for_its_backoff_starts_at_the_resume() {
    let mut world = serving(2);
    world.exit(1, ExitCause::Exit(1));
    world.exit(3, ExitCause::Exit(1));
    assert!(world.pool.deadline().is_some(), "the slot waits for its next worker");
    pause(&mut world, None);
    obey(&mut world);
    world.pass(ms(100_000));
    assert_eq!((world.spawns.len(), world.pool.deadline()), (3, None));
    resume(&mut world);
    assert_eq!(world.of(1).len(), 2);
    world.all_ready();
    world.check_rest_and_stop();
}

#[test]
fn pause_is_carried_over_to_the_next_master() {
    let mut world = serving(2);
    pause(&mut world, Some(30_000));
    world.hand_over();
    obey(&mut world);
    world.hand_over();
    assert_eq!(world.pool.status_text(), "generation 1: paused for 30s");
    world.pass(ms(30_000));
    assert_eq!(world.of(1), [3, 4]);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn watch_goes_on_after_a_pause() {
    let mut world = serving(2);
    world.next.watch = WatchFor::Time(ms(60_000));
    world.reload();
    world.prepare();
    world.all_ready();
    obey(&mut world);
    world.pass(ms(20_000));
    pause(&mut world, None);
    obey(&mut world);
    world.pass(ms(1_000_000));
    world.step(Event::Compared(2, Some(figures(100, 100))));
    assert_eq!((world.pool.compares(), world.pool.deadline()), (None, None));
    resume(&mut world);
    world.all_ready();
    assert_eq!(world.pool.watch().and_then(|watch| watch.left), Some(ms(40_000)));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn worker_that_empties_a_queue_leaves_it_in_a_pause() {
    let mut world = World::new(Settings { per_slot: true, ..settings(3) });
    world.all_ready();
    world.step(Event::Scale(2, None));
    world.step(Event::Scale(3, None));
    assert!(world.processes[&3].draining_queue, "until worker 4 serves the queue");
    pause(&mut world, None);
    assert!(world.processes.values().all(|process| process.stopped), "{:?}", world.processes);
    world.be_kind();
    world.check_rest_and_stop();
}
