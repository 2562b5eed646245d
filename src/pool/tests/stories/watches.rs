//! The watch after a commit: what undoes a reload, what does not, and that it happens once.

use super::*;
use crate::pool::tests::figures;
use crate::pool::{Comparison, Figures, Purpose, Settings, Sides, Succession, WatchFor, WatchState};

const TIME: WatchFor = WatchFor::Time(std::time::Duration::from_secs(300));

/// A pool of two whose generation 2 (workers 3 and 4) was just committed, with this watch.
fn committed(watch: WatchFor, change: impl FnOnce(&mut Settings)) -> World {
    let mut world = serving(2);
    world.next.watch = watch;
    change(&mut world.next);
    world.reload();
    world.prepare();
    world.all_ready();
    obey(&mut world);
    assert_eq!(world.pool.generation(), 2);
    world
}

/// Lets the undo that the watch has begun come to its end.
fn undo(world: &mut World) {
    assert_eq!(world.preparing, [3], "no undo was begun: {}", world.pool.status_text());
    world.prepare();
    world.all_ready();
    obey(world);
}

/// Checks that generation 2 was undone once, and for this reason, and that the pool comes to rest.
#[track_caller]
fn undone(mut world: World, why: &str) {
    assert_eq!(world.undone, [(2, why.to_owned())]);
    assert_eq!(world.finished.last().map(|(number, outcome, _)| (*number, *outcome)), Some((3, Outcome::Committed)));
    let history: Vec<_> = world.pool.history().iter().map(|it| (it.generation, it.release, it.ended)).collect();
    assert_eq!(history, [(2, 2, Some(Succession::Undone)), (3, 1, None)]);
    let text = format!(
        "generation 3 (release of generation 1): 2/2 ready; the configuration on disk does not run until the next reload; \
         generation 2 was undone: {why}"
    );
    assert_eq!((world.pool.status_text(), world.pool.watch()), (text, None));
    let undo_logs = world.logs.iter().filter(|(kind, _)| *kind == Kind::Undone).count();
    assert_eq!(undo_logs, 1, "{:?}", world.logs);
    // Nothing undoes the undo.
    for worker in world.of(3) {
        world.exit(worker, ExitCause::Exit(1));
    }
    world.be_kind();
    assert_eq!(world.pool.generation(), 3);
    world.check_rest_and_stop();
}

/// Checks that nothing is undone, now or later.
#[track_caller]
fn stays(mut world: World) {
    world.be_kind();
    world.pass(ms(400_000));
    world.be_kind();
    assert_eq!((world.pool.generation(), world.pool.watch(), world.pool.compares()), (2, None, None));
    assert_eq!(world.undone, []);
    world.check_rest_and_stop();
}

/// Checks that the undo failed for good, and that this is shown until the next commit.
#[track_caller]
fn undo_failed(mut world: World) {
    world.be_kind();
    world.pass(ms(400_000));
    world.be_kind();
    let state = |world: &World| world.pool.watch().map(|watch| watch.state);
    assert_eq!((world.pool.generation(), state(&world), world.pool.compares()), (2, Some(WatchState::UndoFailed), None));
    assert_eq!(world.undone, []);
    world.next.watch = WatchFor::Off;
    world.reload();
    world.be_kind();
    assert_eq!((world.pool.generation(), state(&world)), (4, None));
    world.check_rest_and_stop();
}

#[test]
fn release_as_good_as_the_one_before_passes() {
    let mut world = committed(TIME, |_| {});
    assert_eq!(world.pool.status_text(), "generation 2: 2/2 ready, watched");
    assert_eq!(world.pool.compares(), Some(Sides { old: 1, new: 2, step: None }));
    world.step(Event::Compared(2, Some(figures(1_000, 0))));
    let watch = world.pool.watch().expect("a watch");
    assert_eq!((watch.generation, watch.before, watch.compares, watch.left), (2, 1, true, Some(ms(300_000))));
    world.pass(ms(300_000));
    assert_eq!(world.logs.last().map(|(_, text)| text.as_str()), Some("generation 2 has passed its watch of 5min"));
    assert_eq!(world.pool.status_text(), "generation 2: 2/2 ready");
    stays(world);
}

#[test]
fn release_whose_requests_fail_more_often_is_undone() {
    let mut world = committed(TIME, |_| {});
    world.step(Event::Compared(2, Some(figures(20, 20))));
    assert!(world.preparing.is_empty(), "20 of 50 requests prove nothing");
    world.step(Event::Compared(2, Some(figures(500, 61))));
    assert_eq!(world.pool.status_text(), "reloading to generation 3: preparing");
    assert!(world.pool.own_reload(3) == Some("reload.watch") && world.pool.compares().is_none());
    undo(&mut world);
    undone(world, "61 of 500 requests failed, 0 of 3500 requests of the generation before");
}

#[test]
fn end_of_the_watch_needs_less_proof() {
    let mut world = committed(TIME, |_| {});
    world.step(Event::Compared(2, Some(figures(100, 6))));
    assert!(world.preparing.is_empty());
    world.pass(ms(300_000));
    undo(&mut world);
    undone(world, "6 of 100 requests failed, 0 of 700 requests of the generation before");
}

#[test]
fn end_without_figures_or_with_few_is_said() {
    for (figures, said) in [
        (
            Some(figures(3, 3)),
            "generation 2 has passed its watch of 5min: 3 of 50 requests, so there is no verdict by their ratio",
        ),
        (None, "generation 2 has passed its watch of 5min: its workers count no requests, so only their failures were watched"),
    ] {
        let mut world = committed(TIME, |_| {});
        world.step(Event::Compared(2, figures));
        world.pass(ms(300_000));
        assert_eq!(world.logs.last().map(|(_, text)| text.as_str()), Some(said));
        stays(world);
    }
}

#[test]
fn figures_of_the_former_generation_outlive_its_workers() {
    let mut world = committed(TIME, |_| {});
    let old = Figures::counted(10_000, 1_200);
    let new = Figures::counted;
    world.step(Event::Compared(2, Some(Comparison { old, new: new(100, 12) })));
    world.hand_over();
    world.step(Event::Compared(2, None));
    world.step(Event::Compared(2, Some(Comparison { old: Figures::default(), new: new(1_000, 120) })));
    assert!(world.preparing.is_empty(), "twelve in a hundred failed before, too");
    assert_eq!(world.pool.watch().and_then(|watch| watch.figures), Some(Comparison { old, new: new(1_000, 120) }));
    stays(world);
}

#[test]
fn degraded_pool_is_undone() {
    let mut world = committed(TIME, |settings| settings.restart.limit = 1);
    for _ in 0..2 {
        let worker = world.pool.workers().find(|(_, worker)| worker.slot == 0).map(|(id, _)| id).expect("a worker");
        world.exit(worker, ExitCause::Exit(9));
        world.pass(ms(1_000));
    }
    undo(&mut world);
    undone(world, "the pool is degraded: slot 0 exits at once (exit 9)");
}

#[test]
fn generation_of_which_every_slot_fails_soon_is_undone() {
    for watch in [WatchFor::EverySlot, TIME] {
        let mut world = committed(watch, |_| {});
        world.pass(ms(20_000));
        world.exit(3, ExitCause::Exit(1));
        world.pass(ms(5_000));
        world.all_ready();
        assert!(world.preparing.is_empty());
        world.exit(4, ExitCause::Exit(2));
        undo(&mut world);
        undone(world, "every slot has failed within 30s of the commit (exit 2)");
    }
}

#[test]
fn later_failures_and_those_of_one_slot_undo_nothing() {
    for (watch, first, second) in [(WatchFor::EverySlot, 20_000, 10_001), (WatchFor::Off, 1, 1), (TIME, 20_000, 10_001)] {
        let mut world = committed(watch, |_| {});
        world.pass(ms(first));
        world.exit(3, ExitCause::Exit(1));
        world.pass(ms(second));
        world.exit(4, ExitCause::Exit(1));
        stays(world);
    }
    let mut world = committed(WatchFor::EverySlot, |_| {});
    world.exit(3, ExitCause::Exit(1));
    stays(world);
}

#[test]
fn single_worker_that_fails_once_is_undone() {
    let (exit, killed) = (ExitCause::Exit(1), ExitCause::Signal { signal: 9, core: false });
    // Somebody killed it: the release is blamed for the second time only.
    for causes in [&[exit][..], &[ExitCause::Watchdog], &[killed.clone(), killed]] {
        let mut world = serving(1);
        world.next.watch = WatchFor::EverySlot;
        world.reload();
        world.prepare();
        world.all_ready();
        obey(&mut world);
        for (failure, cause) in causes.iter().enumerate() {
            let worker = world.of(2)[0];
            world.exit(worker, cause.clone());
            assert_eq!(world.preparing.len(), usize::from(failure + 1 == causes.len()), "after failure {failure} of {causes:?}");
            world.all_ready();
        }
        world.be_kind();
        assert_eq!((world.pool.generation(), world.undone.len()), (3, 1));
        world.check_rest_and_stop();
    }
}

#[test]
fn watch_without_a_time_compares_no_requests() {
    let world = committed(WatchFor::EverySlot, |_| {});
    assert_eq!((world.pool.compares(), world.pool.status_text().as_str()), (None, "generation 2: 2/2 ready"));
    assert_eq!(world.pool.watch().map(|watch| watch.compares), Some(false));
    stays(world);
}

#[test]
fn undo_that_fails_is_not_tried_again() {
    let mut world = committed(TIME, |_| {});
    world.step(Event::Compared(2, Some(figures(500, 500))));
    world.prepare();
    world.exit(5, ExitCause::Exit(1));
    obey(&mut world);
    let text = "generation 2: 2/2 ready; generation 2 was to be undone (500 of 500 requests failed, 0 of 3500 requests of the generation \
                before), but: reload to generation 3 rolled back: worker 5 (slot 0): exit 1 before it was ready";
    assert_eq!(world.pool.status_text(), text);
    world.step(Event::Compared(2, Some(figures(900, 900))));
    undo_failed(world);
}

#[test]
fn reload_goes_first() {
    // Its commit ends the watch.
    let mut world = committed(TIME, |_| {});
    world.reload();
    world.step(Event::Compared(2, Some(figures(500, 500))));
    world.next.watch = WatchFor::Off;
    world.prepare();
    world.all_ready();
    obey(&mut world);
    assert_eq!((world.pool.generation(), world.pool.watch(), &world.undone[..]), (3, None, &[][..]));
    world.check_rest_and_stop();
    // After its rollback the watch goes on, also if its time is over.
    let mut world = committed(TIME, |_| {});
    world.reload();
    world.step(Event::Compared(2, Some(figures(100, 6))));
    world.pass(ms(301_500));
    world.refuse();
    world.pass(ms(1_000));
    assert_eq!(world.preparing, [4]);
    assert_eq!(world.pool.own_reload(4), Some("reload.watch"));
    world.prepare();
    world.all_ready();
    obey(&mut world);
    assert_eq!(world.undone.len(), 1);
    world.check_rest_and_stop();
}

#[test]
fn undo_by_hand_and_a_release_that_is_not_kept_are_not_watched() {
    let mut world = committed(TIME, |_| {});
    world.ask(What::Reload, |requester| Event::Undo(None, Some(requester)));
    world.prepare();
    world.all_ready();
    obey(&mut world);
    assert_eq!((world.pool.generation(), world.pool.watch()), (3, None));
    world.check_rest_and_stop();
    stays(committed(TIME, |settings| settings.keep = 1));
}

#[test]
fn abort_and_stop_end_the_undo() {
    let mut world = committed(TIME, |_| {});
    world.step(Event::Compared(2, Some(figures(500, 500))));
    world.ask(What::Other, |requester| Event::Abort(Some(requester)));
    undo_failed(world);
    let mut world = committed(TIME, |_| {});
    world.step(Event::Compared(2, Some(figures(500, 500))));
    world.step(Event::Stop { now: false });
    assert_eq!(world.pool.watch(), None);
    world.check_rest_and_stop();
}

#[test]
fn death_of_the_master_cuts_the_undo_off_and_it_begins_again() {
    // Before and after its workers start.
    for starts in [false, true] {
        let mut world = committed(TIME, |_| {});
        world.step(Event::Compared(2, Some(figures(200, 60))));
        if starts {
            world.prepare();
        }
        world.hand_over();
        world.step(Event::MasterDied);
        assert_eq!(world.finished.last().map(|(number, outcome, _)| (*number, *outcome)), Some((3, Outcome::Aborted)));
        assert_eq!(world.pool.watch().map(|watch| watch.state), Some(WatchState::Undoing));
        world.be_kind();
        assert_eq!((world.pool.generation(), world.pool.release_of(4), world.pool.watch()), (4, 1, None));
        assert_eq!(world.undone.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2]);
        world.check_rest_and_stop();
    }
}

#[test]
fn reload_that_waits_goes_before_an_undo_that_was_cut_off() {
    let mut world = committed(TIME, |_| {});
    world.step(Event::Compared(2, Some(figures(200, 60))));
    world.next.watch = WatchFor::Off;
    world.step(Event::Reload(None));
    world.step(Event::MasterDied);
    assert_eq!((world.preparing.last(), world.pool.watch().map(|watch| watch.state)), (Some(&4), Some(WatchState::Watching)));
    // The reload is refused, and the bad generation is undone after all.
    world.refuse();
    world.pass(ms(2_000));
    world.be_kind();
    assert_eq!(world.undone.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2]);
    world.check_rest_and_stop();
}

#[test]
fn reload_that_waits_for_the_undo_is_done_after_it() {
    let mut world = committed(TIME, |_| {});
    world.step(Event::Compared(2, Some(figures(500, 500))));
    let requester = world.reload();
    undo(&mut world);
    assert_eq!(world.undone.len(), 1);
    assert_eq!(world.preparing, [4]);
    world.next.watch = WatchFor::Off;
    world.prepare();
    world.all_ready();
    obey(&mut world);
    assert_eq!(reload_answer(&world, requester), (4, Outcome::Committed, String::new()));
    world.check_rest_and_stop();
}

#[test]
fn undo_is_an_undo_of_the_release_before() {
    let mut world = committed(TIME, |_| {});
    let mut actions = Vec::new();
    world.pool.step(world.now, Event::Compared(2, Some(figures(500, 500))), &mut actions);
    let prepare =
        |action: &crate::pool::Action| matches!(action, crate::pool::Action::Prepare(3, Purpose::Undo { target: 1, release: 1 }));
    assert!(actions.iter().any(prepare), "{actions:?}");
}
