//! Readiness that depends on observations from outside.

use super::*;
use crate::pool::{Accepting, Settings};

fn auto(count: u32) -> Settings {
    Settings { ready: Readiness::Auto(ms(1_000)), probation: None, ..settings(count) }
}

/// A pool whose workers have sent READY=1 and were observed to accept on the first socket.
fn serving_auto(count: u32) -> World {
    let mut world = World::new(auto(count));
    for worker in world.of(1) {
        world.see(worker, 1);
        world.step(Event::Notification(worker, Notification::Ready));
    }
    world
}

/// Begins a reload. Returns the requester and the first new worker.
fn candidate(world: &mut World) -> (u64, u64) {
    let requester = world.reload();
    world.prepare();
    (requester, world.of(world.pool.generation() + 1)[0])
}

#[test]
fn ready_without_accepting_does_not_count() {
    let mut world = serving_auto(1);
    let (requester, worker) = candidate(&mut world);
    world.step(Event::Notification(worker, Notification::Ready));
    world.see(worker, 0);
    assert_eq!(world.phase(worker), Some(Phase::Starting));
    world.pass(ms(11_000));
    let (_, outcome, reason) = reload_answer(&world, requester);
    assert_eq!(outcome, Outcome::RolledBack);
    assert!(reason.contains("start timeout after 10s: it said that it is ready but accepts on no listening socket"), "{reason}");
}

#[test]
fn ready_and_accepting_count_in_either_order() {
    for seen_first in [true, false] {
        let mut world = serving_auto(1);
        let (_, worker) = candidate(&mut world);
        if seen_first {
            world.see(worker, 1);
        }
        world.step(Event::Notification(worker, Notification::Ready));
        if !seen_first {
            assert_eq!(world.phase(worker), Some(Phase::Starting));
            world.see(worker, 1);
        }
        assert_eq!(world.phase(worker), Some(Phase::Ready));
    }
}

#[test]
fn silent_worker_is_ready_when_it_has_accepted_for_settle() {
    let mut world = World::new(auto(1));
    let worker = world.of(1)[0];
    world.pass(ms(3_000));
    assert_eq!(world.phase(worker), Some(Phase::Starting), "nothing was seen yet");
    world.see(worker, 1);
    world.pass(ms(999));
    assert_eq!(world.phase(worker), Some(Phase::Starting));
    world.pass(ms(1));
    assert_eq!(world.phase(worker), Some(Phase::Ready));
}

#[test]
fn worker_that_stops_accepting_meanwhile_starts_again() {
    let mut world = World::new(auto(1));
    let worker = world.of(1)[0];
    world.see(worker, 1);
    world.pass(ms(900));
    world.see(worker, 0);
    world.pass(ms(5_000));
    assert_eq!(world.phase(worker), Some(Phase::Starting));
}

#[test]
fn silent_worker_after_workers_that_speak_is_not_ready() {
    let mut world = serving_auto(1);
    let (requester, worker) = candidate(&mut world);
    world.see(worker, 1);
    world.pass(ms(11_000));
    assert_eq!(reload_answer(&world, requester).1, Outcome::RolledBack);
}

#[test]
fn late_ready_of_a_silent_generation_is_remembered() {
    let mut world = World::new(auto(1));
    let first = world.of(1)[0];
    world.see(first, 1);
    world.pass(ms(1_000));
    world.step(Event::Notification(first, Notification::Ready));
    let (requester, worker) = candidate(&mut world);
    world.see(worker, 1);
    world.pass(ms(11_000));
    assert_eq!(reload_answer(&world, requester).1, Outcome::RolledBack);
}

#[test]
fn candidate_accepts_on_every_socket_of_the_committed_generation() {
    let mut world = World::new(auto(1));
    let first = world.of(1)[0];
    world.see(first, 0b11);
    world.step(Event::Notification(first, Notification::Ready));
    let (_, worker) = candidate(&mut world);
    world.step(Event::Notification(worker, Notification::Ready));
    world.see(worker, 0b01);
    assert_eq!(world.phase(worker), Some(Phase::Starting));
    world.see(worker, 0b11);
    assert_eq!(world.phase(worker), Some(Phase::Ready));
}

#[test]
fn first_generation_accepts_on_at_least_one_socket() {
    let mut world = World::new(auto(1));
    let worker = world.of(1)[0];
    world.step(Event::Notification(worker, Notification::Ready));
    world.see(worker, 0b10);
    assert_eq!(world.phase(worker), Some(Phase::Ready));
}

#[test]
fn ready_alone_counts_where_nothing_can_be_seen() {
    let mut world = serving_auto(1);
    let (_, worker) = candidate(&mut world);
    world.step(Event::Notification(worker, Notification::Ready));
    world.step(Event::Seen(worker, Accepting { sockets: 0, hidden: true }));
    assert_eq!(world.phase(worker), Some(Phase::Ready));
}

#[test]
fn silent_worker_that_cannot_be_seen_is_ready_after_settle() {
    let mut world = World::new(auto(1));
    let worker = world.of(1)[0];
    world.step(Event::Seen(worker, Accepting { sockets: 0, hidden: true }));
    world.pass(ms(1_000));
    assert_eq!(world.phase(worker), Some(Phase::Ready));
}

#[test]
fn accepting_needs_no_word() {
    let mut world = World::new(Settings { ready: Readiness::Accepting(ms(1_000)), ..settings(1) });
    let worker = world.of(1)[0];
    world.step(Event::Notification(worker, Notification::Ready));
    assert_eq!(world.phase(worker), Some(Phase::Starting));
    world.see(worker, 1);
    assert_eq!(world.phase(worker), Some(Phase::Ready));
}

#[test]
fn proven_generation_is_committed_without_probation() {
    let mut world = serving_auto(1);
    let (requester, worker) = candidate(&mut world);
    world.next.probation = None;
    world.see(worker, 1);
    world.step(Event::Notification(worker, Notification::Ready));
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
}

#[test]
fn silent_generation_is_on_probation_for_three_seconds() {
    let mut world = World::new(auto(1));
    world.see(world.of(1)[0], 1);
    world.pass(ms(1_000));
    let (requester, worker) = candidate(&mut world);
    world.see(worker, 1);
    world.pass(ms(3_900));
    assert_eq!(world.answer(requester), None);
    world.pass(ms(100));
    assert_eq!(reload_answer(&world, requester).1, Outcome::Committed);
}
