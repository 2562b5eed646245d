//! Stories: scenarios of one behaviour each, from an administrator's view. A history that the simulation found becomes a story, too.

mod canaries;
mod elastic;
mod endings;
mod fallbacks;
mod first_start;
mod history;
mod idles;
mod keeping;
mod outages;
mod pauses;
mod preloads;
mod probes;
mod readiness;
mod reloads;
mod watches;

use super::world::{What, World};
use super::{ms, settings};
use crate::pool::{Answer, Event, ExitCause, Kind, Notification, Outcome, Phase, Readiness, Surge};

fn reload_answer(world: &World, requester: u64) -> (u64, Outcome, String) {
    match world.answer(requester) {
        Some(Answer::Reload(number, outcome, reason)) => (*number, *outcome, reason.cause.clone()),
        other => panic!("requester {requester} was told {other:?}"),
    }
}

/// A pool whose workers are all ready.
fn serving(count: u32) -> World {
    let mut world = World::new(settings(count));
    world.all_ready();
    world
}

/// All workers that got the stop signal end with status 0.
pub(super) fn obey(world: &mut World) {
    let told: Vec<u64> = world.processes.iter().filter(|(_, process)| process.stopped).map(|(id, _)| *id).collect();
    for worker in told {
        world.exit(worker, ExitCause::Exit(0));
    }
}
