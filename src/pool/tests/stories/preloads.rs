//! Preload processes: of a first start, of a reload, and after their end.

use super::*;
use crate::pool::{Settings, StartMode};

fn preloading(count: u32) -> Settings {
    Settings { preload: true, ..settings(count) }
}

/// A pool of two that serves, forked from preload process 1.
fn forked() -> World {
    let mut world = World::new(preloading(2));
    world.all_ready();
    assert_eq!((world.pool.ready(), world.pool.degraded()), (2, false));
    world
}

fn state(world: &World) -> &'static str {
    world.pool.preload().expect("a preload process").state
}

fn spawned(world: &World) -> Vec<u64> {
    world.spawns.iter().map(|(id, ..)| *id).collect()
}

#[test]
fn workers_start_when_the_preload_process_is_ready() {
    let mut world = World::new(preloading(2));
    assert_eq!((spawned(&world), state(&world)), (vec![1], "starting"));
    assert_eq!(world.pool.status_text(), "generation 1: 0/2 ready, loading the application");
    // The application loads for longer than a worker may take to start, and says so.
    world.step(Event::Notification(1, Notification::Extend(ms(60_000))));
    world.pass(ms(50_000));
    assert_eq!(spawned(&world), [1], "a worker that waits has no start timeout");
    world.ready(1);
    assert_eq!((spawned(&world), state(&world)), (vec![1, 2, 3], "ready"));
    assert_eq!(world.pool.ready(), 0, "the preload process is no worker of a slot");
    world.all_ready();
    assert!(world.ready_told);
    assert_eq!(world.pool.crashes(), 0);
    world.check_rest_and_stop();
}

#[test]
fn crashed_worker_is_forked_again_without_loading() {
    let mut world = forked();
    world.exit(2, ExitCause::Exit(1));
    assert_eq!(spawned(&world), [1, 2, 3, 4]);
    world.ready(4);
    assert_eq!((world.pool.ready(), state(&world)), (2, "ready"));
    world.check_rest_and_stop();
}

#[test]
fn reload_is_rolled_back_by_every_failure_of_its_preload_process() {
    let fail = |world: &mut World, how: u32| match how {
        0 => world.exit(3, ExitCause::Exit(1)),
        1 => world.exit(3, ExitCause::Exit(0)),
        2 => world.pass(ms(10_000)),
        3 => world.step(Event::Notification(3, Notification::Stopping)),
        4 => world.exit(3, ExitCause::OutOfMemory),
        _ => world.step(Event::PreloadLost(3, "it has closed its socket".to_owned())),
    };
    for (how, reason) in [
        "preload process 3: exit 1 before it was ready",
        "preload process 3: exit 0 before it was ready",
        "preload process 3: start timeout after 10s",
        "preload process 3: it left by its own will (STOPPING=1)",
        "preload process 3: killed: out of memory before it was ready",
        "preload process 3: it has closed its socket",
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = serving(2);
        world.next = preloading(2);
        let requester = world.reload();
        world.prepare();
        assert_eq!(world.pool.status_text(), "reloading to generation 2: loading the application");
        fail(&mut world, how as u32);
        assert_eq!(reload_answer(&world, requester), (2, Outcome::RolledBack, reason.to_owned()));
        assert_eq!(spawned(&world), [1, 2, 3], "no worker of the new generation was started");
        assert!(world.processes.iter().all(|(id, process)| !process.stopped || *id == 3), "an old worker was touched");
        world.be_kind();
        world.check_rest_and_stop();
    }
}

#[test]
fn reload_ends_the_preload_process_of_the_old_generation() {
    let mut world = forked();
    let requester = world.reload();
    world.prepare();
    world.ready(4);
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    assert!([1, 2, 3].iter().all(|id| world.processes[id].stopped));
    assert!(!world.processes[&4].stopped);
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn death_of_the_preload_process_costs_no_worker() {
    let mut world = forked();
    world.exit(1, ExitCause::Signal { signal: 9, core: false });
    assert_eq!((world.pool.ready(), state(&world), spawned(&world)), (2, "absent", vec![1, 2, 3]));
    assert!(!world.pool.degraded());
    // The next start of a worker starts another preload process, from the same release.
    world.exit(2, ExitCause::Exit(1));
    assert_eq!((spawned(&world), state(&world)), (vec![1, 2, 3, 4], "starting"));
    world.all_ready();
    assert_eq!((world.pool.ready(), spawned(&world)), (2, vec![1, 2, 3, 4, 5]));
    world.check_rest_and_stop();
}

#[test]
fn pool_is_degraded_when_the_preload_process_does_not_come_back() {
    let mut world = forked();
    world.exit(1, ExitCause::Signal { signal: 9, core: false });
    world.exit(2, ExitCause::Exit(1));
    world.exit(4, ExitCause::Exit(3));
    assert_eq!((state(&world), world.pool.degraded()), ("failed", true));
    assert_eq!(spawned(&world), [1, 2, 3, 4, 5], "the worker is started directly");
    world.all_ready();
    let text = "generation 1: 2/2 ready, degraded: preload process 4: exit 3 before it was ready; workers are started without it";
    assert_eq!(world.pool.status_text(), text);
    // The next generation has a preload process again.
    let requester = world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    assert_eq!((state(&world), world.pool.degraded()), ("ready", false));
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn without_fallback_workers_fail_with_the_backoff_of_their_slot() {
    let mut world = World::new(Settings { preload_fallback: false, ..preloading(1) });
    world.all_ready();
    world.exit(1, ExitCause::Signal { signal: 9, core: false });
    world.exit(2, ExitCause::Exit(1));
    world.exit(3, ExitCause::Exit(3));
    assert_eq!(world.ended.last().expect("an end").how.to_string(), "not forked: preload process 3: exit 3 before it was ready");
    assert_eq!((state(&world), spawned(&world)), ("absent", vec![1, 2, 3]));
    // The backoff of a slot that has failed twice.
    world.pass(ms(200));
    assert_eq!(spawned(&world), [1, 2, 3, 5], "the preload process is tried again");
    world.all_ready();
    assert_eq!(world.pool.ready(), 1);
    world.check_rest_and_stop();
}

#[test]
fn first_start_ends_after_three_failures_without_fallback() {
    let mut world = World::new(Settings { preload_fallback: false, ..preloading(1) });
    for _ in 0..3 {
        let loading = world.pool.preload().and_then(|preload| preload.process).expect("a preload process");
        world.exit(loading, ExitCause::Exit(1));
        world.pass(ms(1_000));
    }
    assert_eq!(world.exit, Some(1));
}

#[test]
fn preload_process_that_does_not_fork_is_killed() {
    let mut world = forked();
    world.forks_hang = true;
    world.exit(2, ExitCause::Exit(1));
    assert_eq!((spawned(&world), world.pool.start_mode(4)), (vec![1, 2, 3, 4], StartMode::Fork(Some(1))));
    world.forks_hang = false;
    world.pass(ms(10_000));
    assert!(world.processes[&1].killed);
    assert_eq!((state(&world), world.pool.start_mode(4)), ("absent", StartMode::Fork(None)));
    world.exit(1, ExitCause::Signal { signal: 9, core: false });
    world.step(Event::SpawnFailed(4, "not forked: its preload process has ended".to_owned()));
    world.be_kind();
    assert_eq!((world.pool.ready(), state(&world), world.pool.degraded()), (2, "ready", false));
    world.check_rest_and_stop();
}

#[test]
fn probe_is_forked_too() {
    let mut world = serving(2);
    world.next = Settings { probe: true, ..preloading(2) };
    let requester = world.reload();
    world.prepare();
    assert_eq!(spawned(&world), [1, 2, 3], "the preload process comes first");
    world.ready(3);
    assert_eq!(spawned(&world), [1, 2, 3, 4]);
    world.ready(4);
    world.answer_probe(4, None);
    world.exit(4, ExitCause::Exit(0));
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn stop_while_the_application_is_loaded_ends_at_once() {
    let mut world = World::new(preloading(3));
    world.step(Event::Stop { now: false });
    assert!(world.processes[&1].stopped);
    obey(&mut world);
    assert_eq!((world.exit, spawned(&world)), (Some(0), vec![1]));
}

#[test]
fn pause_ends_the_preload_process_and_resume_starts_another() {
    let mut world = forked();
    world.step(Event::Pause(None, None));
    assert!([1, 2, 3].iter().all(|id| world.processes[id].stopped));
    // The instance resumes before they are gone.
    world.step(Event::Resume(None));
    assert_eq!((state(&world), spawned(&world)), ("starting", vec![1, 2, 3, 4]));
    obey(&mut world);
    world.all_ready();
    assert_eq!((world.pool.ready(), state(&world), world.pool.degraded()), (2, "ready", false));
    world.check_rest_and_stop();
}

#[test]
fn preload_process_of_an_earlier_master_is_replaced() {
    let mut world = forked();
    world.step(Event::PreloadOutlived(1));
    assert!(world.processes[&1].stopped);
    assert_eq!((state(&world), spawned(&world)), ("absent", vec![1, 2, 3]));
    obey(&mut world);
    world.exit(2, ExitCause::Exit(1));
    world.all_ready();
    assert_eq!((world.pool.ready(), state(&world), world.pool.degraded()), (2, "ready", false));
    world.check_rest_and_stop();
}
