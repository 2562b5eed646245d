//! The snapshot of the pool, which one master writes and the next one reads: the pool's own types, by serde.
//!
//! Law: a pool that was written and read decides as if it had not been. The data may be damaged: [`Pool::resume`] refuses a state that a
//! pool can never have, with a sentence that says what is wrong, so that no later step depends on such a state.

use super::Pool;
use super::generation::{Generation, Role};
use super::ids::{GenerationId, WorkerId};
use super::reload_state::{Reload, Stage};
use super::time::Time;
use super::timers::Key;

/// Upper limit of the slots of a generation in a snapshot; a real generation has fewer.
const SLOTS_MAX: usize = 1_000_000;
/// Upper limit of worker ids and generation numbers in a snapshot; an instance never reaches it.
const NUMBER_MAX: u64 = u64::MAX >> 1;

impl Pool {
    /// Validates a pool that was read and lets it go on at this time.
    ///
    /// # Errors
    /// A sentence that says what in the snapshot is contradictory.
    pub fn resume(mut self, now: Time) -> Result<Pool, String> {
        self.validate()?;
        self.now = now;
        Ok(self)
    }

    fn validate(&self) -> Result<(), String> {
        let candidate = self.reload.as_ref().filter(|reload| reload.stage != Stage::Preparing).map(|reload| reload.number);
        for number in [Some(self.current).filter(|current| *current != 0), candidate].into_iter().flatten() {
            ensure(self.generations.contains_key(&number), || format!("generation {number} is missing in the saved pool"))?;
        }
        for (id, worker) in self.workers.iter() {
            ensure(self.generations.contains_key(&worker.generation), || {
                format!("worker {id} of the saved pool is of generation {}, which is missing", worker.generation)
            })?;
        }
        for (number, generation) in &self.generations {
            let role = if *number == self.current {
                Role::Current
            } else if Some(*number) == candidate {
                Role::Candidate
            } else {
                Role::Retired
            };
            self.validate_generation(*number, generation, role)?;
        }
        if let Some(reload) = &self.reload {
            self.validate_reload(reload)?;
        }
        ensure(self.pause.is_none() || self.reload.is_none() && self.probe.is_none(), || {
            "the saved pool is paused during a reload, which cannot be".to_owned()
        })?;
        ensure(self.pause.is_none() || !self.idling.is_idle(), || {
            "the saved pool is paused and idle, which cannot be".to_owned()
        })?;
        if let Some(probe) = &self.probe {
            ensure(self.generations.contains_key(&probe.generation), || {
                format!("the probe of the saved pool is of generation {}, which is missing", probe.generation)
            })?;
            probe.step.worker().map_or(Ok(()), |worker| self.known(worker, "the probed worker"))?;
        }
        for id in self.preload_processes() {
            self.known(id, "the preload process")?;
        }
        for id in self.avoided.keys() {
            self.known(*id, "a worker that hangs")?;
        }
        if let Some((_, successor)) = &self.recycling.running {
            self.known(*successor, "the worker that replaces a recycled one")?;
        }
        for (key, _) in self.timers.iter() {
            match key {
                Key::Start(worker)
                | Key::Settle(worker)
                | Key::Watchdog(worker)
                | Key::Age(worker)
                | Key::Hang(worker)
                | Key::Stop(worker)
                | Key::Orphaned(worker)
                | Key::KillOrphaned(worker) => self.known(worker, "the worker of a deadline")?,
                Key::Restart(number, _) => ensure(self.generations.contains_key(&number), || {
                    format!("a deadline of the saved pool is of generation {number}, which is missing")
                })?,
                Key::Probation
                | Key::Step
                | Key::Watch
                | Key::ProbeAgain
                | Key::GiveUp
                | Key::Resume
                | Key::Quiet
                | Key::Recover => {}
            }
        }
        let last_worker = self.workers.keys().last().copied().unwrap_or(0);
        let last_number = self.generations.keys().last().copied().unwrap_or(0);
        ensure((last_worker..NUMBER_MAX).contains(&self.last_worker), || {
            format!("{} cannot be the last worker of the saved pool: it has worker {last_worker}", self.last_worker)
        })?;
        ensure((last_number..NUMBER_MAX).contains(&self.last_number), || {
            format!("{} cannot be the last generation of the saved pool: it has generation {last_number}", self.last_number)
        })?;
        // The random number generator would return only 0 from this state.
        ensure(self.random != 0, || "the random state of the saved pool is 0".to_owned())
    }

    fn validate_generation(&self, number: GenerationId, generation: &Generation, role: Role) -> Result<(), String> {
        let Generation { slots, ready, members, .. } = generation;
        ensure(generation.role == role, || {
            format!("generation {number} of the saved pool is {:?} where it must be {role:?}", generation.role)
        })?;
        ensure(slots.len() <= SLOTS_MAX, || format!("generation {number} of the saved pool has more than {SLOTS_MAX} slots"))?;
        let own = || self.workers.values().filter(|worker| worker.generation == number);
        let (counted, living) = (own().filter(|worker| worker.counted).count(), own().count());
        ensure((*ready as usize, *members as usize) == (counted, living), || {
            format!(
                "generation {number} of the saved pool says {ready} ready of {members} workers, but has {counted} of {living}"
            )
        })?;
        // The slots of a retired generation are no longer used and may name workers that are gone.
        let used = slots.iter().filter(|_| role != Role::Retired);
        let named = used.flat_map(|slot| [slot.worker, slot.successor, slot.stand_in]);
        named.flatten().try_for_each(|worker| self.known(worker, &format!("a worker in a slot of generation {number}")))
    }

    fn validate_reload(&self, reload: &Reload) -> Result<(), String> {
        ensure((1..=self.last_number).contains(&reload.number), || {
            format!("the reload of the saved pool is to generation {}, and the last one is {}", reload.number, self.last_number)
        })?;
        ensure(reload.stage != Stage::Canary || reload.canary.is_some(), || {
            format!("the reload to generation {} of the saved pool waits in a canary that it does not have", reload.number)
        })?;
        let slots = self.generations.get(&reload.number).map_or(&[][..], |candidate| &candidate.slots);
        let started = slots.get(..reload.started as usize);
        let unsettled = started.map(|slots| slots.iter().filter(|slot| !slot.settled).count());
        ensure(unsettled == Some(reload.unsettled as usize), || {
            format!(
                "the reload to generation {} of the saved pool has {} started slots of {}, {} of them unsettled, which cannot be",
                reload.number,
                reload.started,
                slots.len(),
                reload.unsettled
            )
        })?;
        reload.draining_for_surge.keys().try_for_each(|worker| self.known(*worker, "a worker that makes room for a reload"))
    }

    fn known(&self, worker: WorkerId, what: &str) -> Result<(), String> {
        ensure(self.workers.contains_key(&worker), || format!("{what} of the saved pool is {worker}, which is missing"))
    }
}

fn ensure(holds: bool, sentence: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(sentence()) }
}
