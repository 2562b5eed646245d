//! Scenarios of reloads and their outcomes.

use super::*;
use crate::pool::PoolState;

#[test]
fn ready_is_told_when_all_are_ready_and_not_before() {
    let mut world = World::new(settings(3));
    assert_eq!(world.pool.state(), PoolState::Starting);
    let workers = world.of(1);
    world.ready(workers[0]);
    world.ready(workers[1]);
    assert!(!world.ready_told);
    assert_eq!(world.pool.status_text(), "generation 1: 2/3 ready");
    world.ready(workers[2]);
    assert!(world.ready_told);
    assert_eq!((world.pool.state(), world.pool.status_text().as_str()), (PoolState::Running, "generation 1: 3/3 ready"));
}

#[test]
fn a_reload_touches_the_old_generation_only_when_all_of_the_new_are_ready() {
    let mut world = serving(3);
    let requester = world.reload();
    world.prepare();
    let new = world.of(2);
    assert_eq!(new.len(), 3);
    world.ready(new[0]);
    world.ready(new[1]);
    assert_eq!(world.pool.status_text(), "reloading to generation 2: 2/3 ready");
    assert!(world.processes.values().all(|process| !process.stopped));
    assert_eq!((world.pool.generation(), world.answer(requester)), (1, None));
    world.ready(new[2]);
    assert_eq!(reload_answer(&world, requester), (2, Outcome::Committed, String::new()));
    assert_eq!(world.pool.generation(), 2);
    assert!(world.processes.values().all(|process| process.stopped == (process.generation == 1)));
    obey(&mut world);
    assert_eq!(world.processes.len(), 3);
    world.check_rest_and_stop();
}

#[test]
fn the_first_failure_of_the_new_generation_rolls_back_and_says_why() {
    for (how, ready, reason) in [
        (ExitCause::Exit(1), false, "worker 3 (slot 0): exit 1 before it was ready"),
        (ExitCause::Exit(0), false, "worker 3 (slot 0): exit 0 before it was ready"),
        (ExitCause::Exit(1), true, "worker 3 (slot 0): exit 1"),
        (
            ExitCause::NotStarted("exec: No such file or directory".to_owned()),
            false,
            "worker 3 (slot 0): exec: No such file or directory",
        ),
    ] {
        let mut world = serving(2);
        let requester = world.reload();
        world.prepare();
        if ready {
            world.ready(3);
        }
        world.exit(3, how);
        assert_eq!(reload_answer(&world, requester), (2, Outcome::RolledBack, reason.to_owned()));
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
    let requester = world.reload();
    world.prepare();
    world.step(Event::Notification(2, Notification::Status("loading 3 of 9".to_owned())));
    world.pass(ms(9_999));
    assert_eq!(world.answer(requester), None);
    world.pass(ms(1));
    let reason = "worker 2 (slot 0): start timeout after 10s";
    assert_eq!(reload_answer(&world, requester), (2, Outcome::RolledBack, reason.to_owned()));
    // The worker's status text is in the detail, not in the cause, which every reader may see.
    let Some(Answer::Reload(.., told)) = world.answer(requester) else { panic!("no answer") };
    assert_eq!((told.detail.as_deref(), told.worker), (Some("its last status: loading 3 of 9"), Some(2)));
    assert!(!world.pool.status_text().contains("loading"), "{}", world.pool.status_text());
    // The worker also ignores the stop signal: SIGKILL follows after the stop timeout, and its end is still recorded as a start timeout.
    world.pass(ms(30_000));
    assert!(world.processes[&2].killed);
    world.exit(2, ExitCause::Signal { signal: 9, core: false });
    let ended = world.ended.last().unwrap();
    assert_eq!((ended.how.to_string().as_str(), ended.failed), ("start timeout after 10s", true));
    let told =
        world.logs.iter().map(|(_, line)| line).filter(|line| line.starts_with("worker 2 ") && line.contains("start timeout"));
    assert_eq!(told.collect::<Vec<_>>(), ["worker 2 (slot 0) is not ready: start timeout after 10s"]);
}

#[test]
fn a_slow_boot_that_asks_for_time_is_no_hang() {
    let mut world = serving(1);
    let requester = world.reload();
    world.prepare();
    for _ in 0..10 {
        world.pass(ms(8_000));
        world.step(Event::Notification(2, Notification::Extend(ms(9_000))));
    }
    assert_eq!(world.answer(requester), None);
    world.ready(2);
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
}

#[test]
fn a_crash_of_an_old_worker_during_a_reload_is_replaced_by_its_own_generation() {
    let mut world = serving(2);
    world.reload();
    world.prepare();
    world.exit(1, ExitCause::Signal { signal: 9, core: false });
    let (worker, slot, generation, _) = *world.spawns.last().unwrap();
    assert_eq!((slot, generation), (0, 1));
    // The replacement of the old worker does not prevent the commit of the new generation.
    for new in world.of(2) {
        world.ready(new);
    }
    assert_eq!(world.pool.generation(), 2);
    assert_eq!(world.phase(worker), Some(Phase::Draining));
}

#[test]
fn a_crash_after_a_failed_reload_starts_the_old_generation() {
    let mut world = serving(2);
    let requester = world.reload();
    world.prepare();
    world.exit(3, ExitCause::Exit(1));
    assert_eq!(reload_answer(&world, requester).1, Outcome::RolledBack);
    world.exit(2, ExitCause::Exit(7));
    let (_, slot, generation, _) = *world.spawns.last().unwrap();
    assert_eq!((slot, generation), (1, 1));
}

#[test]
fn rollback_goes_to_the_last_committed_generation_and_numbers_are_not_used_again() {
    let mut world = serving(1);
    for number in 2..5 {
        let requester = world.reload();
        world.prepare();
        let new = world.of(number)[0];
        world.exit(new, ExitCause::Exit(1));
        assert_eq!((reload_answer(&world, requester).0, world.pool.generation()), (number, 1));
    }
    let requester = world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!((reload_answer(&world, requester).0, world.pool.generation()), (5, 5));
}

#[test]
fn a_refused_reload_leaves_no_trace_but_its_record() {
    let mut world = serving(1);
    let requester = world.reload();
    world.refuse();
    assert_eq!(reload_answer(&world, requester), (2, Outcome::Refused, "reload.check said no".to_owned()));
    let requester = world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).0, 3, "the number of the refused reload stands in records and is not used again");
}

#[test]
fn one_reload_runs_one_waits_and_later_requesters_join_the_waiting_one() {
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
fn the_last_requester_that_goes_away_takes_the_reload_along() {
    let mut world = serving(1);
    let (first, second) = (world.reload(), world.reload());
    world.prepare();
    world.gone(first);
    assert_eq!(world.finished.last().unwrap().1, Outcome::Aborted);
    // The second requester gets a reload of its own.
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
    let requester = world.reload();
    world.prepare();
    let abort = world.ask(What::Other, |requester| Event::Abort(Some(requester)));
    assert_eq!(world.answer(abort), Some(&Answer::Done));
    assert_eq!(reload_answer(&world, requester), (2, Outcome::Aborted, "aborted on request".to_owned()));
    let again = world.ask(What::Other, |requester| Event::Abort(Some(requester)));
    assert_eq!(world.answer(again), Some(&Answer::Failed("no reload is under way".to_owned())));
}

#[test]
fn on_probation_a_crash_still_rolls_back() {
    let mut world = serving(1);
    world.next.probation = Some(ms(5_000));
    let requester = world.reload();
    world.prepare();
    world.ready(2);
    assert_eq!(world.pool.status_text(), "reloading to generation 2: 1/1 ready, on probation");
    world.pass(ms(4_999));
    world.exit(2, ExitCause::Exit(3));
    assert_eq!(reload_answer(&world, requester), (2, Outcome::RolledBack, "worker 2 (slot 0): exit 3".to_owned()));
    let requester = world.reload();
    world.prepare();
    world.ready(3);
    world.pass(ms(5_000));
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
}

#[test]
fn with_a_surge_of_one_slots_are_replaced_one_by_one() {
    let mut world = serving(3);
    world.next.surge = Surge::Count(1);
    let requester = world.reload();
    world.prepare();
    for slot in 0..3 {
        let new = world.of(2);
        assert_eq!(new.len(), slot + 1, "one more worker at a time");
        world.ready(new[slot]);
        assert!(world.serving(None) >= 3);
        obey(&mut world);
    }
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn a_failure_half_way_through_a_rolling_reload_gives_the_slots_back() {
    let mut world = serving(3);
    world.next.surge = Surge::Count(1);
    let requester = world.reload();
    world.prepare();
    let new = world.of(2)[0];
    world.ready(new);
    obey(&mut world);
    let second = world.of(2)[1];
    world.exit(second, ExitCause::Exit(1));
    let (_, outcome, reason) = reload_answer(&world, requester);
    assert_eq!(outcome, Outcome::RolledBack);
    assert!(reason.ends_with("slots [0] had been replaced and go back to generation 1"), "{reason}");
    // The new worker serves on until a worker of the old generation is ready in its slot again.
    assert_eq!(world.phase(new), Some(Phase::Ready));
    let (back, slot, generation, _) = *world.spawns.last().unwrap();
    assert_eq!((slot, generation), (0, 1));
    world.ready(back);
    assert_eq!(world.phase(new), Some(Phase::Draining));
    world.be_kind();
    world.check_rest_and_stop();
}
