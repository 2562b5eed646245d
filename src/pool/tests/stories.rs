//! Stories: what an administrator would tell, one behaviour each. A history that the simulation found becomes one.

use super::world::{What, World};
use super::{ms, settings};
use crate::pool::{Answer, Event, How, Outcome, Phase, Readiness, Said, Surge};

fn reload_answer(world: &World, asker: u64) -> (u64, Outcome, String) {
    match world.answer(asker) {
        Some(Answer::Reload(number, outcome, reason)) => (*number, *outcome, reason.clone()),
        other => panic!("asker {asker} was told {other:?}"),
    }
}

/// A pool that serves.
fn serving(count: u32) -> World {
    let mut world = World::new(settings(count));
    world.all_ready();
    world
}

/// What is told to stop, stops.
fn obey(world: &mut World) {
    let told: Vec<u64> = world.processes.iter().filter(|(_, process)| process.stopped).map(|(id, _)| *id).collect();
    for worker in told {
        world.exit(worker, How::Exit(0));
    }
}

#[test]
fn ready_is_told_when_all_are_ready_and_not_before() {
    let mut world = World::new(settings(3));
    assert_eq!(world.pool.state(), "starting");
    let workers = world.of(1);
    world.ready(workers[0]);
    world.ready(workers[1]);
    assert!(!world.ready_told);
    assert_eq!(world.pool.status_text(), "generation 1: 2/3 ready");
    world.ready(workers[2]);
    assert!(world.ready_told);
    assert_eq!((world.pool.state(), world.pool.status_text().as_str()), ("running", "generation 1: 3/3 ready"));
}

#[test]
fn a_reload_touches_the_old_generation_only_when_all_of_the_new_are_ready() {
    let mut world = serving(3);
    let asker = world.reload();
    world.prepare();
    let new = world.of(2);
    assert_eq!(new.len(), 3);
    world.ready(new[0]);
    world.ready(new[1]);
    assert_eq!(world.pool.status_text(), "reloading to generation 2: 2/3 ready");
    assert!(world.processes.values().all(|process| !process.stopped));
    assert_eq!((world.pool.generation(), world.answer(asker)), (1, None));
    world.ready(new[2]);
    assert_eq!(reload_answer(&world, asker), (2, Outcome::Committed, String::new()));
    assert_eq!(world.pool.generation(), 2);
    assert!(world.processes.values().all(|process| process.stopped == (process.generation == 1)));
    obey(&mut world);
    assert_eq!(world.processes.len(), 3);
    world.check_rest_and_stop();
}

#[test]
fn the_first_failure_of_the_new_generation_rolls_back_and_says_why() {
    for (how, ready, reason) in [
        (How::Exit(1), false, "worker 3 (slot 0): exit 1, before it was ready"),
        (How::Exit(0), false, "worker 3 (slot 0): exit 0, before it was ready"),
        (How::Exit(1), true, "worker 3 (slot 0): exit 1"),
        (
            How::NotStarted("exec: No such file or directory".to_owned()),
            false,
            "worker 3 (slot 0): exec: No such file or directory, before it was ready",
        ),
    ] {
        let mut world = serving(2);
        let asker = world.reload();
        world.prepare();
        if ready {
            world.ready(3);
        }
        world.exit(3, how);
        assert_eq!(reload_answer(&world, asker), (2, Outcome::RolledBack, reason.to_owned()));
        assert_eq!((world.pool.generation(), world.pool.ready()), (1, 2));
        assert_eq!(world.phase(4), Some(Phase::Draining));
        assert_eq!(world.pool.status_text(), format!("generation 1: 2/2 ready; reload to generation 2 rolled back: {reason}"));
        obey(&mut world);
        world.check_rest_and_stop();
    }
}

#[test]
fn a_worker_that_hangs_before_ready_rolls_back_after_the_start_timeout() {
    let mut world = serving(1);
    let asker = world.reload();
    world.prepare();
    world.step(Event::Said(2, Said::Status("loading 3 of 9".to_owned())));
    world.pass(ms(9_999));
    assert_eq!(world.answer(asker), None);
    world.pass(ms(1));
    let reason = "worker 2 (slot 0): start timeout after 10s (its last status: loading 3 of 9)";
    assert_eq!(reload_answer(&world, asker), (2, Outcome::RolledBack, reason.to_owned()));
    // Ignores the stop signal too: SIGKILL when the stop timeout is over, and its end is still told as what it was.
    world.pass(ms(30_000));
    assert!(world.processes[&2].killed);
    world.exit(2, How::Signal { signal: 9, core: false });
    let ended = world.ended.last().unwrap();
    assert_eq!((ended.how.to_string().as_str(), ended.failed), ("start timeout after 10s", true));
}

#[test]
fn a_slow_boot_that_asks_for_time_is_no_hang() {
    let mut world = serving(1);
    let asker = world.reload();
    world.prepare();
    for _ in 0..10 {
        world.pass(ms(8_000));
        world.step(Event::Said(2, Said::Extend(ms(9_000))));
    }
    assert_eq!(world.answer(asker), None);
    world.ready(2);
    assert_eq!(reload_answer(&world, asker).1, Outcome::Committed);
}

#[test]
fn a_crash_of_an_old_worker_during_a_reload_is_replaced_by_its_own_generation() {
    let mut world = serving(2);
    world.reload();
    world.prepare();
    world.exit(1, How::Signal { signal: 9, core: false });
    let (worker, slot, generation, _) = *world.spawns.last().unwrap();
    assert_eq!((slot, generation), (0, 1));
    // The replacement of the old does not keep the new from committing.
    for new in world.of(2) {
        world.ready(new);
    }
    assert_eq!(world.pool.generation(), 2);
    assert_eq!(world.phase(worker), Some(Phase::Draining));
}

#[test]
fn a_crash_after_a_failed_reload_starts_the_old_generation() {
    let mut world = serving(2);
    let asker = world.reload();
    world.prepare();
    world.exit(3, How::Exit(1));
    assert_eq!(reload_answer(&world, asker).1, Outcome::RolledBack);
    world.exit(2, How::Exit(7));
    let (_, slot, generation, _) = *world.spawns.last().unwrap();
    assert_eq!((slot, generation), (1, 1));
}

#[test]
fn rollback_goes_to_the_last_committed_generation_and_numbers_are_not_used_again() {
    let mut world = serving(1);
    for number in 2..5 {
        let asker = world.reload();
        world.prepare();
        let new = world.of(number)[0];
        world.exit(new, How::Exit(1));
        assert_eq!((reload_answer(&world, asker).0, world.pool.generation()), (number, 1));
    }
    let asker = world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!((reload_answer(&world, asker).0, world.pool.generation()), (5, 5));
}

#[test]
fn a_refused_reload_leaves_no_trace_but_its_record() {
    let mut world = serving(1);
    let asker = world.reload();
    world.refuse();
    assert_eq!(reload_answer(&world, asker), (2, Outcome::Refused, "reload.check said no".to_owned()));
    let asker = world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!(reload_answer(&world, asker).0, 2);
}

#[test]
fn one_reload_runs_one_waits_and_later_askers_join_the_waiting_one() {
    let mut world = serving(1);
    let first = world.reload();
    let (second, third) = (world.reload(), world.reload());
    world.prepare();
    world.ready(2);
    assert_eq!(reload_answer(&world, first).0, 2);
    assert_eq!((world.answer(second), world.answer(third)), (None, None));
    world.prepare();
    world.ready(3);
    assert_eq!((reload_answer(&world, second).0, reload_answer(&world, third).0), (3, 3));
    assert_eq!(world.finished.len(), 2);
}

#[test]
fn the_last_asker_that_goes_away_takes_the_reload_along() {
    let mut world = serving(1);
    let (first, second) = (world.reload(), world.reload());
    world.prepare();
    world.gone(first);
    assert_eq!(world.finished.last().unwrap().1, Outcome::Aborted);
    // The one who waited gets a reload of its own.
    world.prepare();
    let new = world.of(3)[0];
    world.ready(new);
    assert_eq!(reload_answer(&world, second), (3, Outcome::Committed, String::new()));
}

#[test]
fn a_reload_that_somebody_else_wants_too_goes_on() {
    let mut world = serving(1);
    world.reload();
    let (second, third) = (world.reload(), world.reload());
    world.gone(second);
    world.prepare();
    world.ready(2);
    world.prepare();
    world.ready(3);
    assert_eq!(reload_answer(&world, third).1, Outcome::Committed);
}

#[test]
fn a_reload_that_nobody_waits_for_runs_to_its_end() {
    let mut world = serving(1);
    world.step(Event::Reload(None));
    world.prepare();
    world.ready(2);
    assert_eq!(world.pool.generation(), 2);
}

#[test]
fn abort_rolls_back_and_tells_both() {
    let mut world = serving(1);
    let asker = world.reload();
    world.prepare();
    let abort = world.ask(What::Other, |asker| Event::Abort(Some(asker)));
    assert_eq!(world.answer(abort), Some(&Answer::Done));
    assert_eq!(reload_answer(&world, asker), (2, Outcome::Aborted, "aborted on request".to_owned()));
    let again = world.ask(What::Other, |asker| Event::Abort(Some(asker)));
    assert_eq!(world.answer(again), Some(&Answer::Failed("no reload is under way".to_owned())));
}

#[test]
fn on_probation_a_crash_still_rolls_back() {
    let mut world = serving(1);
    world.next.probation = ms(5_000);
    let asker = world.reload();
    world.prepare();
    world.ready(2);
    assert_eq!(world.pool.status_text(), "reloading to generation 2: 1/1 ready, on probation");
    world.pass(ms(4_999));
    world.exit(2, How::Exit(3));
    assert_eq!(reload_answer(&world, asker), (2, Outcome::RolledBack, "worker 2 (slot 0): exit 3".to_owned()));
    let asker = world.reload();
    world.prepare();
    world.ready(3);
    world.pass(ms(5_000));
    assert_eq!(reload_answer(&world, asker).1, Outcome::Committed);
}

#[test]
fn with_a_surge_of_one_slots_are_replaced_one_by_one() {
    let mut world = serving(3);
    world.next.surge = Surge::Count(1);
    let asker = world.reload();
    world.prepare();
    for slot in 0..3 {
        let new = world.of(2);
        assert_eq!(new.len(), slot + 1, "one more worker at a time");
        world.ready(new[slot]);
        assert!(world.serving(None) >= 3);
        obey(&mut world);
    }
    assert_eq!(reload_answer(&world, asker).1, Outcome::Committed);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn a_failure_half_way_through_a_rolling_reload_gives_the_slots_back() {
    let mut world = serving(3);
    world.next.surge = Surge::Count(1);
    let asker = world.reload();
    world.prepare();
    let new = world.of(2)[0];
    world.ready(new);
    obey(&mut world);
    let second = world.of(2)[1];
    world.exit(second, How::Exit(1));
    let (_, outcome, reason) = reload_answer(&world, asker);
    assert_eq!(outcome, Outcome::RolledBack);
    assert!(reason.ends_with("slots [0] had been replaced and go back to generation 1"), "{reason}");
    // The new worker serves on until the old program serves in its slot again.
    assert_eq!(world.phase(new), Some(Phase::Ready));
    let (back, slot, generation, _) = *world.spawns.last().unwrap();
    assert_eq!((slot, generation), (0, 1));
    world.ready(back);
    assert_eq!(world.phase(new), Some(Phase::Draining));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn a_worker_that_served_is_replaced_at_once_and_then_ever_more_slowly() {
    let mut world = serving(1);
    let mut delays = Vec::new();
    for _ in 0..9 {
        let worker = world.of(1)[0];
        world.ready(worker);
        let before = (world.spawns.len(), world.now);
        world.exit(worker, How::Exit(1));
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
    // A good life, and it is as if nothing had been.
    let worker = world.of(1)[0];
    world.ready(worker);
    world.pass(ms(30_000));
    let before = world.spawns.len();
    world.exit(worker, How::Exit(1));
    assert_eq!(world.spawns.len(), before + 1);
}

#[test]
fn more_failures_than_the_limit_degrade_the_pool_until_all_is_well_for_an_interval() {
    let mut world = World::new(settings(4));
    for failure in 1..=11 {
        // Whoever starts fails at once; when all wait, time passes.
        while !world.pool.workers().any(|(_, worker)| worker.phase == Phase::Starting) {
            let at = world.pool.deadline().unwrap();
            world.pass(at - world.now);
        }
        let worker = world.of(1)[0];
        world.exit(worker, How::Exit(1));
        assert_eq!(world.pool.degraded(), failure == 11, "after {failure} failures");
    }
    let text = world.pool.status_text();
    assert!(
        text.starts_with("generation 1: 0/4 ready, degraded: worker ") && text.ends_with(" exits at once (exit 1)"),
        "{text}"
    );
    let worker = world.of(1).first().copied();
    let before = world.now;
    if let Some(worker) = worker {
        let slot = world.pool.worker(worker).unwrap().slot;
        world.exit(worker, How::Exit(1));
        let restarted = |world: &World| world.spawns.iter().any(|(_, other, _, at)| *other == slot && *at > before);
        while !restarted(&world) {
            let at = world.pool.deadline().unwrap();
            world.pass(at - world.now);
        }
        assert!(world.now - before >= ms(24_000), "restarts go on at restart.max");
    }
    while world.pool.ready() < 4 {
        world.all_ready();
        if let Some(at) = world.pool.deadline().filter(|_| world.pool.ready() < 4) {
            world.pass(at - world.now);
        }
    }
    assert!(world.pool.degraded(), "not well before the interval is over");
    world.pass(ms(60_001));
    assert!(!world.pool.degraded());
    assert_eq!(world.pool.status_text(), "generation 1: 4/4 ready");
}

#[test]
fn a_thousand_healthy_workers_that_die_at_once_are_all_replaced_at_once() {
    let mut world = serving(1000);
    for worker in world.of(1) {
        world.exit(worker, How::Signal { signal: 9, core: false });
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
    world.exit(1, How::Exit(1));
    world.pass(ms(4_999));
    assert_eq!(world.pool.state(), "starting");
    world.pass(ms(1));
    assert_eq!(world.pool.state(), "stopping");
    world.be_kind();
    assert_eq!(world.exit, Some(1));
}

#[test]
fn who_leaves_by_its_own_will_is_replaced_at_once_and_not_signalled() {
    let mut world = serving(1);
    world.pass(ms(1_000));
    world.step(Event::Said(1, Said::Stopping));
    assert_eq!(world.of(1).len(), 2, "its replacement starts at once");
    assert!(!world.processes[&1].stopped);
    world.exit(1, How::Exit(0));
    assert_eq!(world.pool.crashes(), 0);
    // Who says so as soon as it is ready has not lived: it waits like one that crashes.
    let worker = world.of(1)[0];
    world.ready(worker);
    world.step(Event::Said(worker, Said::Stopping));
    world.exit(worker, How::Exit(0));
    let worker = world.of(1)[0];
    world.ready(worker);
    world.step(Event::Said(worker, Said::Stopping));
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
        world.step(Event::Said(1, Said::Watchdog));
    }
    world.pass(ms(2_000));
    assert!(world.processes[&1].stopped && !world.processes[&1].killed);
    world.pass(ms(10_000));
    assert!(world.processes[&1].killed);
    world.exit(1, How::Signal { signal: 9, core: false });
    assert_eq!(world.ended.last().unwrap().how, How::Watchdog);
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
    let asker = world.reload();
    world.prepare();
    world.exit(2, How::NotStarted("exec: Permission denied".to_owned()));
    assert!(reload_answer(&world, asker).2.contains("exec: Permission denied"));
}

#[test]
fn a_place_is_free_only_when_nothing_of_its_worker_is_left() {
    let mut world = serving(1);
    world.leave(1, How::Exit(1), true);
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
    world.leave(1, How::Exit(0), true);
    world.pass(ms(29_999));
    assert!(!world.processes[&1].killed);
    world.pass(ms(1));
    assert!(world.processes[&1].killed);
}

#[test]
fn scaling_lasts_over_reloads_until_the_file_says_another_number() {
    let mut world = serving(2);
    world.ask(What::Other, |asker| Event::Scale(4, Some(asker)));
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
    let down = world.ask(What::Other, |asker| Event::Scale(1, Some(asker)));
    assert_eq!(world.answer(down), Some(&Answer::Done));
    assert_eq!(world.of(3).iter().filter(|id| world.phase(**id) == Some(Phase::Ready)).count(), 1);
    let none = world.ask(What::Other, |asker| Event::Scale(0, Some(asker)));
    assert!(matches!(world.answer(none), Some(Answer::Failed(_))));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn recycling_replaces_one_at_a_time_new_before_old() {
    let mut world = serving(2);
    let asker = world.ask(What::Other, |asker| Event::Recycle(None, Some(asker)));
    assert_eq!(world.of(1).len(), 3, "one new worker");
    assert!(world.processes.values().all(|process| !process.stopped));
    world.ready(3);
    assert!(world.processes[&1].stopped && !world.processes[&2].stopped);
    assert_eq!(world.answer(asker), None);
    world.ready(4);
    assert_eq!(world.answer(asker), Some(&Answer::Done));
    assert!(world.processes[&2].stopped);
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn a_replacement_that_fails_leaves_the_old_worker() {
    let mut world = serving(2);
    let asker = world.ask(What::Other, |asker| Event::Recycle(Some(2), Some(asker)));
    world.exit(3, How::Exit(1));
    assert!(matches!(world.answer(asker), Some(Answer::Failed(why)) if why.contains("worker 2 stays")));
    assert_eq!((world.phase(2), world.pool.ready()), (Some(Phase::Ready), 2));
    let nobody = world.ask(What::Other, |asker| Event::Recycle(Some(99), Some(asker)));
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
    world.exit(1, How::Exit(1));
    let asker = world.reload();
    world.prepare();
    let new = world.of(2)[0];
    world.ready(new);
    assert_eq!(reload_answer(&world, asker).1, Outcome::Committed);
    assert!(world.ready_told);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn forks_that_fail_are_tried_again_later() {
    let mut world = serving(1);
    world.forks_fail = 3;
    world.exit(1, How::Exit(1));
    while world.pool.ready() == 0 {
        let at = world.pool.deadline().unwrap();
        world.pass(at - world.now);
        world.all_ready();
    }
    assert_eq!(world.spawns.len(), 5);
}
