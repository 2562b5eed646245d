//! Canaries: the first workers of a new generation beside the whole old one, and every way in which they end.

use super::*;
use crate::pool::tests::figures;
use crate::pool::{AnswerTimes, CommandVerdict, Comparison, Figures, Judgement, Settings, Surge};

/// Settings of a canary with one worker, then a quarter, then all.
fn stepwise(count: u32) -> Settings {
    let mut settings = settings(count);
    settings.steps.sizes = vec![Surge::Count(1), Surge::Percent(25), Surge::Percent(100)];
    settings
}

/// A pool of eight (workers 1 to 8) whose reload has its first canary, worker 9, ready.
fn canary(change: impl FnOnce(&mut Settings)) -> (World, u64) {
    let mut world = serving(8);
    world.next = stepwise(8);
    change(&mut world.next);
    let requester = world.reload();
    world.prepare();
    assert_eq!(world.of(2), [9]);
    assert_eq!(world.pool.status_text(), "reloading to generation 2: 0/1 ready for the canary");
    world.ready(9);
    (world, requester)
}

/// Checks that the reload was rolled back, that only the canaries were stopped, and that the pool comes to rest.
#[track_caller]
fn rolled_back(mut world: World, requester: u64, outcome: Outcome, why: &str) {
    assert_eq!(reload_answer(&world, requester), (2, outcome, why.to_owned()));
    assert!(world.processes.iter().all(|(id, process)| !process.stopped || *id > 8), "an old worker was touched");
    assert_eq!((world.pool.generation(), world.pool.ready(), world.pool.canary()), (1, 8, None));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn steps_wait_and_the_last_one_commits() {
    let (mut world, requester) = canary(|_| {});
    assert_eq!(world.pool.status_text(), "canary of generation 2: 1/8 workers, 30s left");
    world.pass(ms(10_000));
    world.step(Event::Compared(2, Some(figures(12, 0))));
    assert_eq!(world.pool.status_text(), "canary of generation 2: 1/8 workers, 13% of requests, 20s left");
    let canary = world.pool.canary().expect("a canary");
    let told = "12 of 50 requests, so there is no verdict by their ratio".to_owned();
    assert_eq!((canary.step, canary.steps, canary.verdict), (1, 3, Some(Judgement::Unknown(told))));
    world.pass(ms(20_000));
    assert_eq!(world.of(2), [9, 10], "a quarter of eight");
    world.ready(10);
    assert_eq!(world.pool.status_text(), "canary of generation 2: 2/8 workers, 30s left");
    assert_eq!(world.pool.ready(), 8, "the whole old generation serves");
    world.pass(ms(30_000));
    assert_eq!(world.of(2).len(), 8);
    assert!(world.processes.values().all(|process| !process.stopped));
    world.all_ready();
    assert_eq!(reload_answer(&world, requester), (2, Outcome::Committed, String::new()));
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn steps_without_the_whole_are_followed_by_it() {
    let (mut world, requester) = canary(|settings| settings.steps.sizes = vec![Surge::Count(1)]);
    world.pass(ms(30_000));
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn step_with_no_more_workers_is_left_out() {
    let mut world = serving(2);
    world.next = stepwise(2);
    let requester = world.reload();
    world.prepare();
    world.ready(3);
    // A quarter of two is one, as in the first step.
    world.pass(ms(30_000));
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    // One of one is no canary.
    world.next = stepwise(1);
    let requester = world.reload();
    world.prepare();
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn canary_that_fails_leaves_the_old_generation_untouched() {
    let (mut world, requester) = canary(|_| {});
    world.exit(9, ExitCause::Exit(1));
    rolled_back(world, requester, Outcome::RolledBack, "worker 9 (slot 0): exit 1");
    let (mut world, requester) = canary(|_| {});
    world.step(Event::Abort(None));
    rolled_back(world, requester, Outcome::Aborted, "aborted on request");
    let (mut world, requester) = canary(|_| {});
    world.pass(ms(30_000));
    world.pass(ms(10_000));
    rolled_back(world, requester, Outcome::RolledBack, "worker 10 (slot 1): start timeout after 10s");
    let (mut world, requester) = canary(|_| {});
    world.gone(requester);
    assert_eq!((world.pool.canary(), world.pool.ready()), (None, 8));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn failing_requests_roll_back_at_once_or_at_the_end_of_the_step() {
    let (mut world, requester) = canary(|_| {});
    world.pass(ms(3_000));
    world.step(Event::Compared(2, Some(figures(400, 40))));
    let why = "the canary failed: 40 of 400 requests failed, 0 of 2800 requests of the generation before";
    rolled_back(world, requester, Outcome::RolledBack, why);
    // Fewer failures count at the end only.
    let (mut world, requester) = canary(|_| {});
    world.step(Event::Compared(2, Some(figures(100, 6))));
    assert!(world.pool.canary().is_some());
    world.pass(ms(30_000));
    let why = "the canary failed: 6 of 100 requests failed, 0 of 700 requests of the generation before";
    rolled_back(world, requester, Outcome::RolledBack, why);
}

#[test]
fn slower_answers_roll_back_at_the_end_of_the_step() {
    let (mut world, requester) = canary(|settings| settings.steps.judge.latency_ratio = Some(2_000));
    let times = |log: u64| AnswerTimes { count: 100, logs: 100 * log, squares: 100 * log * log };
    let of = |log| Figures { times: times(log), ..Figures::counted(100, 0) };
    world.step(Event::Compared(2, Some(Comparison { old: of(160), new: of(192) })));
    world.pass(ms(29_000));
    assert!(world.pool.canary().is_some(), "caches may be cold at first");
    world.pass(ms(1_000));
    let why = "the canary failed: its answers take 4.0 times as long: 4.10 ms, 1.02 ms of the generation before";
    rolled_back(world, requester, Outcome::RolledBack, why);
}

#[test]
fn release_as_good_as_the_old_one_passes_a_hundred_times() {
    // One request in a hundred fails in both generations, and their answers take from 1 to 8 ms.
    let mut random = 7_u64;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    for round in 0..100 {
        let (mut world, requester) = canary(|settings| {
            settings.steps.judge.latency_ratio = Some(2_000);
            settings.steps.sizes = vec![Surge::Count(1)];
        });
        let mut sides = Comparison::default();
        for _ in 0..29 {
            for (side, requests) in [(&mut sides.old, 160), (&mut sides.new, 20)] {
                for _ in 0..requests {
                    let log = 160 + below(49);
                    side.requests += 1;
                    side.failed += u64::from(below(100) == 0);
                    side.times = side.times.plus(AnswerTimes { count: 1, logs: log, squares: log * log });
                }
            }
            world.step(Event::Compared(2, Some(sides)));
            world.pass(ms(1_000));
        }
        world.pass(ms(1_000));
        world.all_ready();
        let answer = reload_answer(&world, requester);
        assert_eq!(answer, (2, Outcome::Committed, String::new()), "round {round}: {sides:?}");
    }
}

#[test]
fn too_few_requests_are_said_and_the_step_passes() {
    let (mut world, _) = canary(|_| {});
    world.step(Event::Compared(2, Some(figures(20, 20))));
    world.pass(ms(30_000));
    let said = "canary of generation 2: 20 of 50 requests, so there is no verdict by their ratio";
    assert!(world.logs.iter().any(|(kind, line)| (*kind, line.as_str()) == (Kind::Info, said)), "{:?}", world.logs);
    assert_eq!(world.of(2), [9, 10]);
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn figures_of_a_step_do_not_count_for_the_next_one() {
    let (mut world, _) = canary(|_| {});
    world.step(Event::Compared(2, Some(figures(100, 4))));
    world.step(Event::Promote(None));
    world.ready(10);
    assert_eq!(world.pool.canary().and_then(|canary| canary.figures), None);
    assert_eq!(world.pool.compares().map(|sides| (sides.old, sides.new, sides.step)), Some((1, 2, Some(1))));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn manual_steps_wait_for_a_promotion() {
    let (mut world, requester) = canary(|settings| settings.steps.time = None);
    assert_eq!(world.pool.status_text(), "canary of generation 2: 1/8 workers, waits for `ratoon promote`");
    let promote = |world: &mut World| world.ask(What::Other, |requester| Event::Promote(Some(requester)));
    world.pass(ms(1_000_000));
    let first = promote(&mut world);
    assert_eq!(world.answer(first), Some(&Answer::Done));
    let too_early = promote(&mut world);
    let why = "the workers of this step are not ready yet; ask again when it waits";
    assert_eq!(world.answer(too_early), Some(&Answer::Failed(why.to_owned())));
    world.ready(10);
    promote(&mut world);
    let late = promote(&mut world);
    let why = "no canary waits: the reload that is under way has no further step";
    assert_eq!(world.answer(late), Some(&Answer::Failed(why.to_owned())));
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    let nothing = promote(&mut world);
    assert_eq!(world.answer(nothing), Some(&Answer::Failed("no canary waits: no reload is under way".to_owned())));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn canary_that_nobody_promotes_is_rolled_back() {
    let (mut world, requester) = canary(|settings| settings.steps.time = None);
    world.pass(ms(3_600_000));
    rolled_back(world, requester, Outcome::RolledBack, "nobody promoted the canary within 1h");
}

#[test]
fn canary_of_a_rolling_reload_runs_beside_the_old_generation() {
    let (mut world, requester) = canary(|settings| settings.surge = Surge::Count(1));
    assert_eq!((world.pool.ready(), world.serving(None)), (8, 9));
    world.pass(ms(30_000));
    world.ready(10);
    assert_eq!(world.serving(None), 10);
    world.pass(ms(30_000));
    // Now the old workers of the canaries' slots make room.
    let stopped: Vec<u64> = world.processes.iter().filter(|(_, process)| process.stopped).map(|(id, _)| *id).collect();
    assert_eq!(stopped, [1, 2]);
    world.be_kind();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    world.check_rest_and_stop();
}

#[test]
fn pool_that_is_scaled_during_a_step_makes_it_larger() {
    let (mut world, requester) = canary(|_| {});
    world.pass(ms(30_000));
    world.ready(10);
    world.pass(ms(29_000));
    world.step(Event::Scale(12, None));
    assert_eq!(world.of(2), [9, 10, 15], "a quarter of twelve");
    world.pass(ms(1_000));
    assert_eq!(world.pool.status_text(), "reloading to generation 2: 2/3 ready for the canary");
    world.all_ready();
    assert_eq!(world.pool.status_text(), "canary of generation 2: 3/12 workers, 30s left");
    world.step(Event::Scale(1, None));
    world.be_kind();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    world.check_rest_and_stop();
}

#[test]
fn instance_stops_during_a_canary() {
    let (mut world, requester) = canary(|_| {});
    world.step(Event::Stop { now: false });
    assert_eq!(reload_answer(&world, requester), (2, Outcome::Aborted, "the instance is stopping".to_owned()));
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn undo_has_no_canary() {
    let (mut world, _) = canary(|_| {});
    world.be_kind();
    let requester = world.ask(What::Reload, |requester| Event::Undo(None, Some(requester)));
    world.prepare();
    assert_eq!((world.pool.canary(), world.of(3).len()), (None, 8));
    world.be_kind();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    world.check_rest_and_stop();
}

/// A canary whose step is over, so that its command was asked.
fn asked() -> (World, u64) {
    let (mut world, requester) = canary(|settings| settings.steps.judge_command = true);
    world.pass(ms(30_000));
    assert_eq!(world.asked_judge, [(2, 0)]);
    assert_eq!(world.pool.status_text(), "canary of generation 2: 1/8 workers, reload.judge_command decides");
    (world, requester)
}

#[test]
fn command_lets_each_step_go_on() {
    let (mut world, requester) = asked();
    world.answer_judge(CommandVerdict::GoOn);
    world.ready(10);
    world.pass(ms(30_000));
    assert_eq!(world.asked_judge, [(2, 1)]);
    world.answer_judge(CommandVerdict::GoOn);
    world.all_ready();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    obey(&mut world);
    world.check_rest_and_stop();
}

#[test]
fn command_rolls_the_canary_back() {
    let (mut world, requester) = asked();
    world.answer_judge(CommandVerdict::RollBack("reload.judge_command \"judge\": exit 1".into()));
    rolled_back(world, requester, Outcome::RolledBack, "the canary failed: reload.judge_command \"judge\": exit 1");
}

#[test]
fn command_without_a_clear_answer_is_asked_three_times() {
    let (mut world, requester) = asked();
    world.answer_judge(CommandVerdict::Unclear("exit 3".into()));
    world.pass(ms(10_000));
    assert_eq!(world.asked_judge.len(), 1);
    // It does not answer at all.
    world.asked_judge.clear();
    world.pass(ms(90_000 + 10_000));
    assert_eq!(world.asked_judge.len(), 1);
    world.answer_judge(CommandVerdict::Unclear("exit 3".into()));
    rolled_back(world, requester, Outcome::RolledBack, "the canary failed: no verdict in 3 attempts: exit 3");
}

#[test]
fn command_that_answers_too_late_decides_nothing() {
    let (mut world, requester) = asked();
    world.ask(What::Other, |requester| Event::Promote(Some(requester)));
    world.answer_judge(CommandVerdict::RollBack("exit 1".into()));
    world.step(Event::Judged(2, 1, CommandVerdict::RollBack("exit 1".into())));
    world.be_kind();
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
    world.check_rest_and_stop();
}

#[test]
fn command_is_not_asked_for_a_canary_that_the_figures_condemn() {
    let (mut world, requester) = canary(|settings| settings.steps.judge_command = true);
    world.step(Event::Compared(2, Some(figures(100, 6))));
    world.pass(ms(30_000));
    assert!(world.asked_judge.is_empty());
    assert_eq!(reload_answer(&world, requester).1, Outcome::RolledBack);
}
