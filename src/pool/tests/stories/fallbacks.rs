//! The fallback of a first start: the last good release in place of one that does not come up.

use super::*;
use crate::pool::{Pool, Purpose, Settings};

const WHY: &str = "generation 1 cannot start: slot 0 exits at once (exit 1)";

fn with_fallback() -> Settings {
    Settings { fallback: true, ..settings(1) }
}

/// Workers of the first generation fail until the pool does something else about it.
fn fail(world: &mut World) {
    for _ in 0..10 {
        if !world.preparing.is_empty() || world.exit.is_some() {
            return;
        }
        for worker in world.of(1) {
            world.exit(worker, ExitCause::Exit(1));
        }
        if world.preparing.is_empty()
            && let Some(at) = world.pool.deadline()
        {
            world.pass(at - world.now);
        }
    }
    panic!("the first generation fails for ever");
}

#[test]
fn last_good_release_runs_until_another_is_committed() {
    let mut world = World::new(with_fallback());
    fail(&mut world);
    assert_eq!(world.preparing, [2]);
    assert!(world.logs.iter().any(|(kind, text)| *kind == Kind::Degraded && text.starts_with(WHY)), "{:?}", world.logs);
    world.prepare();
    world.all_ready();
    obey(&mut world);
    assert!(world.ready_told && world.pool.degraded());
    let text = format!("generation 2: 1/1 ready, degraded: {WHY}; the last good release runs instead");
    assert_eq!(world.pool.status_text(), text);
    world.hand_over();
    assert_eq!(world.pool.status_text(), text);
    // A reload of the same bad release does not change that.
    world.reload();
    world.prepare();
    world.exit(*world.of(3).last().expect("a worker"), ExitCause::Exit(1));
    assert!(world.pool.degraded() && world.exit.is_none());
    world.be_kind();
    world.reload();
    world.be_kind();
    assert_eq!((world.pool.degraded(), world.pool.status_text()), (false, "generation 4: 1/1 ready".to_owned()));
    world.check_rest_and_stop();
}

#[test]
fn instance_ends_when_the_last_good_release_fails_too() {
    let mut world = World::new(with_fallback());
    fail(&mut world);
    world.prepare();
    world.exit(world.of(2)[0], ExitCause::Exit(7));
    world.be_kind();
    assert_eq!(world.exit, Some(1));
    let ends = |text: &str| {
        text.starts_with(WHY) && text.contains("nor does the last good release: reload to generation 2 rolled back: ")
    };
    assert!(world.logs.iter().any(|(kind, text)| *kind == Kind::CannotStart && ends(text)), "{:?}", world.logs);
    let mut world = World::new(with_fallback());
    fail(&mut world);
    world.refuse();
    world.be_kind();
    assert_eq!(world.exit, Some(1));
}

#[test]
fn release_on_disk_that_comes_up_after_all_serves() {
    for refuses in [false, true] {
        let mut world = World::new(with_fallback());
        fail(&mut world);
        if !refuses {
            world.prepare();
        }
        while world.of(1).is_empty() {
            world.pass(ms(1_000));
        }
        world.ready(world.of(1)[0]);
        if refuses {
            world.refuse();
        }
        world.be_kind();
        assert_eq!((world.pool.generation(), world.pool.degraded(), world.exit), (1, false, None));
        world.check_rest_and_stop();
    }
}

#[test]
fn without_one_the_instance_ends() {
    let mut world = World::new(settings(1));
    fail(&mut world);
    assert_eq!((world.preparing.len(), world.pool.fallback()), (0, None));
    world.be_kind();
    assert_eq!(world.exit, Some(1));
}

#[test]
fn probe_that_fails_falls_back_too() {
    let mut world = World::new(Settings { probe: true, ..with_fallback() });
    for _ in 0..3 {
        let worker = world.of(1)[0];
        world.ready(worker);
        world.answer_probe(worker, Some("GET /up was answered with 500"));
        world.exit(worker, ExitCause::Exit(0));
        if let Some(at) = world.pool.deadline().filter(|_| world.preparing.is_empty()) {
            world.pass(at - world.now);
        }
    }
    assert_eq!(world.preparing, [2]);
    world.be_kind();
    assert_eq!(world.pool.generation(), 2);
    assert!(world.pool.status_text().contains("the probe failed: GET /up was answered with 500; the last good release runs"));
    world.check_rest_and_stop();
}

#[test]
fn release_that_could_not_be_prepared_is_told_from_the_start() {
    let mut world = World::new(settings(1));
    let pool = Pool::new(world.now, 7).instead_of_the_release_on_disk("/srv/current: no such file".to_owned());
    let mut actions = Vec::new();
    world.pool = pool;
    world.pool.step(world.now, Event::Start(settings(1)), &mut actions);
    assert!(world.pool.degraded());
    let told = "degraded: /srv/current: no such file; the last good release runs instead";
    assert!(world.pool.status_text().ends_with(told), "{}", world.pool.status_text());
    assert!(!actions.iter().any(|action| matches!(action, crate::pool::Action::Prepare(_, Purpose::LastGood))));
}
