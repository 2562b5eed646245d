//! Probes: of a reload, of a first start, and on request alone.

use super::*;
use crate::pool::{PoolState, Settings};

fn probing(count: u32) -> Settings {
    Settings { probe: true, ..settings(count) }
}

/// A pool of two that serves, with a reload whose worker 3 is probed.
fn reload_under_probe() -> (World, u64) {
    let mut world = serving(2);
    world.next = probing(2);
    let requester = world.reload();
    world.prepare();
    assert_eq!(world.of(2), [3], "one worker of the new generation");
    assert_eq!(world.pool.status_text(), "reloading to generation 2: probing");
    (world, requester)
}

#[test]
fn generation_starts_when_the_probe_has_answered_and_ended() {
    let (mut world, requester) = reload_under_probe();
    world.ready(3);
    assert_eq!(world.asked_probes, [3]);
    assert_eq!((world.pool.ready(), world.processes.len()), (2, 3), "the probed worker does not count");
    world.answer_probe(3, None);
    assert!(world.processes[&3].stopped);
    assert_eq!(world.of(2), [3], "no worker of the generation before the probe has ended");
    world.exit(3, ExitCause::Exit(0));
    assert_eq!(world.of(2), [4, 5]);
    world.all_ready();
    assert_eq!(reload_answer(&world, requester), (2, Outcome::Committed, String::new()));
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn every_failure_of_a_probe_refuses_the_reload() {
    let fail = |world: &mut World, how: u32| match how {
        0 => world.exit(3, ExitCause::Exit(1)),
        1 => world.pass(ms(10_000)),
        2 => {
            world.ready(3);
            world.answer_probe(3, Some("GET /up was answered with 500 Internal Server Error"));
        }
        3 => {
            world.ready(3);
            world.exit(3, ExitCause::Signal { signal: 11, core: false });
        }
        4 => world.step(Event::Notification(3, Notification::Stopping)),
        5 => {
            world.ready(3);
            world.answer_probe(3, None);
            world.exit(3, ExitCause::Exit(1));
        }
        _ => {
            world.ready(3);
            world.answer_probe(3, None);
            // It ignores its stop signal.
            world.pass(ms(30_000));
            world.exit(3, ExitCause::Signal { signal: 9, core: false });
        }
    };
    for (how, reason) in [
        "the probe failed: worker 3: exit 1 before it was ready",
        "the probe failed: worker 3: start timeout after 10s",
        "the probe failed: GET /up was answered with 500 Internal Server Error",
        "the probe failed: worker 3: signal SIGSEGV",
        "the probe failed: worker 3: it left by its own will (STOPPING=1)",
        "the probe failed: worker 3: exit 1 while it drained",
        "the probe failed: worker 3: stop timeout after 30s",
    ]
    .into_iter()
    .enumerate()
    {
        let (mut world, requester) = reload_under_probe();
        fail(&mut world, how as u32);
        assert_eq!(reload_answer(&world, requester), (2, Outcome::Refused, reason.to_owned()));
        assert!(world.spawns.iter().filter(|(.., generation, _)| *generation == 2).count() == 1, "{:?}", world.spawns);
        assert_eq!((world.pool.generation(), world.pool.ready()), (1, 2));
        assert!(world.processes.iter().all(|(id, process)| !process.stopped || *id == 3), "an old worker was touched");
        world.be_kind();
        world.check_rest_and_stop();
    }
}

#[test]
fn first_generation_starts_after_its_probe() {
    let mut world = World::new(probing(2));
    assert_eq!(world.of(1), [1]);
    assert_eq!(world.pool.status_text(), "generation 1: 0/2 ready, probing");
    world.ready(1);
    world.answer_probe(1, None);
    world.exit(1, ExitCause::Exit(0));
    assert_eq!(world.of(1), [2, 3]);
    world.all_ready();
    assert!(world.ready_told);
    assert_eq!(world.pool.status_text(), "generation 1: 2/2 ready");
    // A crash is replaced without a probe.
    world.exit(2, ExitCause::Exit(1));
    assert_eq!(world.of(1), [4, 3]);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn first_start_ends_after_three_failed_probes() {
    let mut world = World::new(probing(2));
    let begin = world.now;
    for worker in 1..=3 {
        assert_eq!(world.exit, None);
        world.exit(worker, ExitCause::Exit(3));
        if worker < 3 {
            let at = world.pool.deadline().expect("another try");
            world.pass(at - world.now);
        }
    }
    assert_eq!(world.exit, Some(1));
    assert!(world.now - begin <= ms(1_000), "{:?}", world.now - begin);
    let text = "stopping; generation 1 cannot start: the probe failed: worker 3: exit 3 before it was ready";
    assert_eq!(world.pool.status_text(), text);
}

#[test]
fn first_start_goes_on_when_a_later_probe_passes() {
    let mut world = World::new(probing(2));
    world.exit(1, ExitCause::Exit(3));
    assert!(world.pool.start_fails());
    assert_eq!(
        world.pool.status_text(),
        "generation 1: 0/2 ready, probing; the probe failed: worker 1: exit 3 before it was ready"
    );
    world.pass(ms(1_000));
    world.ready(2);
    world.answer_probe(2, None);
    world.exit(2, ExitCause::Exit(0));
    world.all_ready();
    assert_eq!(world.pool.status_text(), "generation 1: 2/2 ready");
    world.check_rest_and_stop();
}

#[test]
fn reload_waits_for_the_probe_of_the_first_generation() {
    let mut world = World::new(probing(1));
    let requester = world.reload();
    assert!(world.preparing.is_empty());
    world.ready(1);
    world.answer_probe(1, None);
    world.exit(1, ExitCause::Exit(0));
    assert_eq!(world.preparing, [2]);
    world.be_kind();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    world.check_rest_and_stop();
}

#[test]
fn waiting_reload_is_answered_when_the_first_start_ends() {
    let mut world = World::new(probing(1));
    let requester = world.reload();
    for _ in 0..3 {
        let worker = *world.processes.keys().next().expect("a probed worker");
        world.exit(worker, ExitCause::Exit(3));
        if let Some(at) = world.pool.deadline().filter(|_| world.exit.is_none()) {
            world.pass(at - world.now);
        }
    }
    assert_eq!(world.exit, Some(1));
    assert_eq!(reload_answer(&world, requester).1, Outcome::Aborted);
}

#[test]
fn probe_alone_starts_no_generation() {
    for (answer, passes) in [(None, true), (Some("GET /up had no answer within 10s"), false)] {
        let mut world = serving(2);
        let requester = world.ask(What::Probe, |requester| Event::Probe(Some(requester)));
        world.prepare();
        assert_eq!((world.of(2), world.pool.state()), (vec![3], PoolState::Running));
        assert_eq!(world.pool.status_text(), "generation 1: 2/2 ready");
        world.ready(3);
        world.answer_probe(3, answer);
        obey(&mut world);
        match world.answer(requester) {
            Some(Answer::Probed(2, None)) => assert!(passes),
            Some(Answer::Probed(2, Some(reason))) => {
                assert_eq!((reason.cause.as_str(), passes), ("the probe failed: GET /up had no answer within 10s", false));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((world.finished.len(), world.processes.len()), (0, 2));
        assert_eq!(world.pool.status_text(), "generation 1: 2/2 ready");
        // The number is not used again.
        world.reload();
        assert_eq!(world.preparing, [3]);
        world.be_kind();
        world.check_rest_and_stop();
    }
}

#[test]
fn probe_alone_is_refused_while_another_release_is_tried() {
    let mut world = serving(1);
    world.reload();
    let refused = world.ask(What::Other, |requester| Event::Probe(Some(requester)));
    assert!(matches!(world.answer(refused), Some(Answer::Failed(why)) if why.contains("a reload is under way")));
    world.be_kind();
    world.ask(What::Probe, |requester| Event::Probe(Some(requester)));
    let refused = world.ask(What::Other, |requester| Event::Probe(Some(requester)));
    assert!(matches!(world.answer(refused), Some(Answer::Failed(why)) if why.contains("a probe is under way")));
    // A reload waits for the end of the probe.
    let reload = world.reload();
    world.be_kind();
    assert_eq!(reload_answer(&world, reload).1, Outcome::Committed);
    world.check_rest_and_stop();
}

#[test]
fn instance_for_one_probe_ends_with_it() {
    for (answer, status) in [(None, 0), (Some("GET /up was answered with 500"), 1)] {
        let mut world = World::once(settings(4));
        assert_eq!(world.of(1), [1]);
        world.ready(1);
        world.answer_probe(1, answer);
        obey(&mut world);
        assert_eq!((world.exit, world.spawns.len()), (Some(status), 1));
    }
}

#[test]
fn scale_during_a_probe_counts_when_the_generation_starts() {
    let (mut world, _) = reload_under_probe();
    world.step(Event::Scale(3, None));
    world.ready(3);
    world.answer_probe(3, None);
    world.exit(3, ExitCause::Exit(0));
    assert_eq!(world.of(2).len(), 3);
    world.be_kind();
    world.check_rest_and_stop();
    let mut world = World::new(probing(1));
    world.step(Event::Scale(2, None));
    assert_eq!(world.processes.len(), 1, "no worker before the probe has passed");
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn abort_and_the_last_requester_end_a_probe() {
    for gone in [true, false] {
        let (mut world, requester) = reload_under_probe();
        world.ready(3);
        if gone {
            world.gone(requester)
        } else {
            world.step(Event::Abort(None))
        }
        assert!(world.processes[&3].stopped);
        // The answer comes too late.
        world.step(Event::Probed(3, Ok(())));
        world.be_kind();
        assert_eq!(world.pool.generation(), 1);
        world.check_rest_and_stop();
    }
}
