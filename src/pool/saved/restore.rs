//! From the saved form to a pool: what does not hold together is refused in a sentence, never a panic later.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{Ending, Failure, Generation, LastCrash, Place, Reload, Saved, Timer, Worker, instant, words};
use crate::pool::generation::Role;
use crate::pool::readiness::Signs;
use crate::pool::recycle::Recycling;
use crate::pool::restart::{self, History};
use crate::pool::timers::Timers;
use crate::pool::vocabulary::{Accepting, GenerationId, WorkerId};
use crate::pool::{Pool, Stopping, generation, reload, worker};

/// More places than any pool can have.
const PLACES_MAX: usize = 1_000_000;

impl Pool {
    /// A pool that goes on where the saved one was.
    ///
    /// # Errors
    /// A sentence: what of the saved state contradicts itself.
    pub fn restore(now: Instant, saved: Saved) -> Result<Pool, String> {
        let Saved {
            workers,
            generations,
            current,
            last_worker,
            last_number,
            target,
            configured,
            reload,
            waiting,
            recycling,
            successor,
            // Of an earlier master, which counted the failures of all slots together.
            failures: _,
            degraded,
            last_crash,
            failure_text,
            timers,
            stopping,
            unproven,
            announced,
            crashes,
            random,
        } = saved;
        let candidate = reload.as_ref().filter(|reload| reload.stage != words::Stage::Preparing).map(|reload| reload.number);
        check(&workers, &generations, [Some(current).filter(|current| *current != 0), candidate])?;
        let role = |number: GenerationId| match number {
            number if number == current => Role::Current,
            number if Some(number) == candidate => Role::Candidate,
            _ => Role::Retired,
        };
        let mut generations: BTreeMap<_, _> =
            generations.into_iter().map(|(number, home)| (number, home.restore(number, role(number), &workers, now))).collect();
        let reload = reload.map(|reload| reload.restore(&generations, &workers));
        if let Some(LastCrash { slot, how, at_once }) = last_crash
            && let Some(place) = generations.get_mut(&current).and_then(|home| home.slots.get_mut(slot as usize))
        {
            let last = &mut place.failures.get_or_insert_default().last;
            last.get_or_insert_with(|| restart::Failure { how: how.restore(), at_once });
        }
        let jobs: VecDeque<_> = recycling.into_iter().map(super::Job::restore).collect();
        Ok(Pool {
            now,
            actions: Vec::new(),
            last_worker: workers.keys().last().copied().unwrap_or(0).max(last_worker),
            last_number: generations.keys().last().copied().unwrap_or(0).max(last_number),
            current,
            target,
            configured,
            reload,
            waiting: waiting.map(super::Askers::restore),
            recycling: Recycling::restore(jobs, successor.filter(|id| workers.contains_key(id))),
            degraded,
            failure_text,
            timers: restore_timers(timers, now, &workers, &generations),
            stopping: stopping.map(|Ending { code, now, exited }| Stopping { code, now, exited }),
            unproven,
            announced,
            crashes,
            // The generator never leaves 0.
            random: if random == 0 { 1 } else { random },
            workers: workers.into_iter().map(|(id, worker)| (id, Box::new(worker.restore(now)))).collect(),
            generations,
        })
    }
}

fn check(
    workers: &BTreeMap<WorkerId, Worker>,
    generations: &BTreeMap<GenerationId, Generation>,
    needed: [Option<GenerationId>; 2],
) -> Result<(), String> {
    for number in needed.into_iter().flatten() {
        if !generations.contains_key(&number) {
            return Err(format!("generation {number} is missing in the saved pool"));
        }
    }
    if let Some((number, _)) = generations.iter().find(|(_, home)| home.places.len() > PLACES_MAX) {
        return Err(format!("generation {number} of the saved pool has more than {PLACES_MAX} places"));
    }
    match workers.iter().find(|(_, worker)| !generations.contains_key(&worker.generation)) {
        Some((id, worker)) => {
            Err(format!("worker {id} of the saved pool is of generation {}, which is missing", worker.generation))
        }
        None => Ok(()),
    }
}

impl Worker {
    fn restore(self, now: Instant) -> worker::Worker {
        let Worker { slot, generation, pid, phase, status, doom, ready_at, watchdog, counted, vacating, killed, how, .. } = self;
        let signs = Signs { said: self.said_ready, seen: Accepting { sockets: self.accepts_on, hidden: self.hidden } };
        worker::Worker {
            slot,
            generation,
            pid,
            phase: phase.restore(),
            status,
            stop_reason: doom.map(words::StopReason::restore),
            ready_at: ready_at.map(|at| instant(at, now)),
            signs,
            watchdog,
            counted,
            vacating,
            killed,
            how: how.map(|how| Box::new(how.restore())),
        }
    }
}

impl Generation {
    fn restore(
        self,
        number: GenerationId,
        role: Role,
        workers: &BTreeMap<WorkerId, Worker>,
        now: Instant,
    ) -> generation::Generation {
        let Generation { settings, places, accepted_on, says_ready, unproven } = self;
        let members = || workers.iter().filter(|(_, worker)| worker.generation == number);
        // In a retired generation nobody is put into a place any more, so its places may name workers that are gone.
        let stands = |id: &WorkerId| role == Role::Retired || workers.contains_key(id);
        generation::Generation {
            settings: settings.restore(),
            role,
            slots: places.into_iter().map(|place| place.restore(stands, now)).collect(),
            ready: members().filter(|(_, worker)| worker.counted).count() as u32,
            members: members().count() as u32,
            accepted_on,
            says_ready,
            proven: !unproven,
        }
    }
}

impl Place {
    fn restore(self, stands: impl Fn(&WorkerId) -> bool, now: Instant) -> generation::SlotState {
        let Place { worker, successor, holder, strikes, failures, degraded, last_failure, delay, settled } = self;
        let known = |id: Option<WorkerId>| id.filter(&stands);
        let last = last_failure.map(|Failure { how, at_once }| restart::Failure { how: how.restore(), at_once });
        let any = !failures.is_empty() || degraded || last.is_some();
        let at = failures.into_iter().map(|at| instant(at, now)).collect();
        generation::SlotState {
            worker: known(worker),
            successor: known(successor),
            stand_in: known(holder),
            consecutive_failures: strikes,
            failures: any.then(|| Box::new(History { at, degraded, last })),
            delay,
            settled,
        }
    }
}

impl Reload {
    fn restore(
        self,
        generations: &BTreeMap<GenerationId, generation::Generation>,
        workers: &BTreeMap<WorkerId, Worker>,
    ) -> reload::Reload {
        let Reload { number, stage, askers, target, started, yields } = self;
        let places = generations.get(&number).map_or(&[][..], |candidate| &candidate.slots);
        let started = started.min(u32::try_from(places.len()).unwrap_or(u32::MAX));
        reload::Reload {
            number,
            stage: stage.restore(),
            requesters: askers.restore(),
            target,
            started,
            unsettled: places[..started as usize].iter().filter(|place| !place.settled).count() as u32,
            draining_for_surge: yields.into_iter().filter(|(id, _)| workers.contains_key(id)).collect(),
        }
    }
}

impl Recycling {
    fn restore(mut jobs: VecDeque<crate::pool::recycle::Job>, successor: Option<WorkerId>) -> Recycling {
        let running = successor.and_then(|successor| Some((jobs.pop_front()?, successor)));
        Recycling { queue: jobs, running }
    }
}

/// Only timers of what there is: a deadline without its worker would never be taken back.
fn restore_timers(
    saved: Vec<Timer>,
    now: Instant,
    workers: &BTreeMap<WorkerId, Worker>,
    generations: &BTreeMap<GenerationId, generation::Generation>,
) -> Timers {
    let mut timers = Timers::default();
    for Timer { at, key } in saved {
        let known = match key {
            words::Key::Start { worker }
            | words::Key::Settle { worker }
            | words::Key::Watchdog { worker }
            | words::Key::Age { worker }
            | words::Key::Stop { worker }
            | words::Key::Orphaned { worker }
            | words::Key::KillOrphaned { worker } => workers.contains_key(&worker),
            words::Key::Restart { generation, .. } => generations.contains_key(&generation),
            words::Key::Probation | words::Key::GiveUp | words::Key::Recover | words::Key::Unknown => true,
        };
        if let Some(key) = key.restore().filter(|_| known) {
            timers.set(key, instant(at, now));
        }
    }
    timers
}
