//! History and undo: which releases are kept, and how the pool goes back to one.

use super::*;
use crate::pool::Succession;

/// Commits one more generation, and lets the old one end.
fn commit(world: &mut World) {
    world.reload();
    world.prepare();
    world.all_ready();
    obey(world);
}

fn undo(world: &mut World, wanted: Option<u64>) -> u64 {
    world.ask(What::Reload, |requester| Event::Undo(wanted, Some(requester)))
}

/// Generation, release and end of each kept release.
fn history(world: &World) -> Vec<(u64, u64, Option<Succession>)> {
    world.pool.history().iter().map(|it| (it.generation, it.release, it.ended)).collect()
}

/// An undo that must be refused.
#[track_caller]
fn refused(world: &mut World, wanted: Option<u64>, why: &str) {
    let requester = undo(world, wanted);
    assert_eq!(reload_answer(world, requester), (0, Outcome::Refused, why.to_owned()));
}

#[test]
fn last_committed_releases_are_kept() {
    let mut world = serving(1);
    assert_eq!(history(&world), [(1, 1, None)]);
    commit(&mut world);
    commit(&mut world);
    let replaced = Some(Succession::Replaced);
    assert_eq!(history(&world), [(1, 1, replaced), (2, 2, replaced), (3, 3, None)]);
    commit(&mut world);
    assert_eq!(history(&world), [(2, 2, replaced), (3, 3, replaced), (4, 4, None)]);
    // One that fails is not kept.
    world.reload();
    world.prepare();
    world.exit(world.of(5)[0], ExitCause::Exit(1));
    assert_eq!(history(&world).len(), 3);
    world.be_kind();
    // With another limit the oldest are given up at the next commit.
    world.next.keep = 1;
    commit(&mut world);
    assert_eq!(history(&world), [(6, 6, None)]);
    world.check_rest_and_stop();
}

#[test]
fn undo_brings_the_release_before_under_a_new_number() {
    let mut world = serving(2);
    commit(&mut world);
    let requester = undo(&mut world, None);
    world.prepare();
    assert_eq!(world.pool.status_text(), "reloading to generation 3 (release of generation 1): 0/2 ready");
    world.all_ready();
    assert_eq!(reload_answer(&world, requester), (3, Outcome::Committed, String::new()));
    assert_eq!(
        world.pool.status_text(),
        "generation 3 (release of generation 1): 2/2 ready; the configuration on disk does not run until the next reload"
    );
    obey(&mut world);
    assert_eq!(history(&world), [(2, 2, Some(Succession::Undone)), (3, 1, None)]);
    // The next reload reads the disk again.
    commit(&mut world);
    assert_eq!(world.pool.status_text(), "generation 4: 2/2 ready");
    world.check_rest_and_stop();
}

#[test]
fn second_undo_goes_further_back_and_not_to_what_was_undone() {
    let mut world = serving(1);
    commit(&mut world);
    commit(&mut world);
    undo(&mut world, None);
    world.be_kind();
    assert_eq!(world.pool.named(4), "generation 4 (release of generation 2)");
    undo(&mut world, None);
    world.be_kind();
    assert_eq!(world.pool.named(5), "generation 5 (release of generation 1)");
    refused(&mut world, None, "every earlier release was undone; name one of them: 3, 4");
    // By its number one that was undone comes back.
    undo(&mut world, Some(3));
    world.be_kind();
    assert_eq!(world.pool.named(6), "generation 6 (release of generation 3)");
    world.check_rest_and_stop();
}

#[test]
fn undo_that_cannot_be_is_refused_with_the_reason() {
    let mut world = serving(1);
    refused(&mut world, None, "there is no earlier release: nothing else was committed, or reload.keep has let it go");
    refused(&mut world, Some(7), "the release of generation 7 is not kept, and no other");
    commit(&mut world);
    refused(&mut world, Some(2), "generation 2 is the one that serves");
    refused(&mut world, Some(7), "the release of generation 7 is not kept; there are 1");
    world.reload();
    refused(&mut world, None, "a reload to generation 3 is under way; `ratoon abort` ends it");
    assert_eq!(world.pool.status_text(), "reloading to generation 3: preparing");
    world.be_kind();
    world.check_rest_and_stop();
}

#[test]
fn undo_that_fails_leaves_what_serves() {
    let mut world = serving(1);
    commit(&mut world);
    let requester = undo(&mut world, None);
    world.prepare();
    world.exit(world.of(3)[0], ExitCause::Exit(1));
    assert_eq!(reload_answer(&world, requester).1, Outcome::RolledBack);
    assert_eq!((world.pool.generation(), history(&world).last().copied()), (2, Some((2, 2, None))));
    // The pin is still there.
    undo(&mut world, None);
    world.be_kind();
    assert_eq!(world.pool.named(4), "generation 4 (release of generation 1)");
    world.check_rest_and_stop();
}
