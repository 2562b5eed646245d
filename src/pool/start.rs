//! The start of the pool, and of a worker: its entry in the table, the request for its process, and the news of that.
//!
//! Law: the start timeout of a worker begins when its process is asked for, not while it waits for the preload process.

use super::Pool;
use super::generation::{Generation, Role};
use super::ids::{GenerationId, Slot, WorkerId};
use super::report::workers;
use super::settings::{Readiness, Settings};
use super::timers::Key;
use super::vocabulary::{Action, Kind};
use super::worker::{Forking, Phase, Signs, StopReason, Worker};

impl Pool {
    /// Starts the first generation.
    pub(super) fn start(&mut self, settings: Settings) {
        if self.current != 0 || self.stopping.is_some() {
            return self.ignore_event("a second start", None);
        }
        let count = settings.count;
        (self.current, self.last_number) = (1, 1);
        (self.target, self.configured) = (count, count);
        self.generations.insert(1, Generation::new(settings, 1, Role::Current));
        self.tell_fallback();
        if self.generations.get(&1).is_some_and(|home| home.settings.probe) {
            return self.start_probe(1);
        }
        self.log(Kind::Info, format!("generation 1 starts with {}", workers(count as usize)), Some(1), None);
        self.resize(1, count);
    }

    /// Adds a starting worker to the table and asks for its process, or holds it until the preload process of its generation is ready;
    /// the caller puts the worker into its slot.
    pub(super) fn spawn(&mut self, generation: GenerationId, slot: Slot) -> WorkerId {
        let forking = self.forking_of_new(generation);
        let id = self.add_worker(generation, slot);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.forking = forking;
        }
        if forking != Forking::Held {
            self.begin_start(id);
        }
        id
    }

    /// Asks for the process of a worker; its start timeout begins.
    pub(super) fn begin_start(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (slot, generation) = (worker.slot, worker.generation);
        if worker.phase == Phase::Starting
            && let Some(limit) = self.generations.get(&generation).map(|home| home.settings.start_timeout)
        {
            self.timers.set(Key::Start(id), self.after(limit));
        }
        self.act(Action::Spawn { worker: id, slot, generation });
    }

    /// Adds a starting worker to the table.
    pub(super) fn add_worker(&mut self, generation: GenerationId, slot: Slot) -> WorkerId {
        self.last_worker += 1;
        let id = self.last_worker;
        let second_queue = self.second_queue(generation, slot);
        let Some(home) = self.generations.get_mut(&generation) else { return id };
        home.members += 1;
        let watchdog = home.settings.watchdog;
        let worker = Worker {
            slot,
            generation,
            pid: None,
            phase: Phase::Starting,
            status: String::new(),
            stop_reason: None,
            ready_at: None,
            signs: Signs::default(),
            watchdog,
            counted: false,
            draining_queue: false,
            second_queue,
            is_relief: false,
            is_probe: false,
            forking: Forking::No,
            killed: false,
            how: None,
        };
        self.workers.insert(id, Box::new(worker));
        id
    }

    pub(super) fn spawned(&mut self, id: WorkerId, pid: u32) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return self.ignore_event("a process for an unknown worker", Some(id));
        };
        worker.pid = Some(pid);
        let (phase, stop_reason, generation) = (worker.phase, worker.stop_reason, worker.generation);
        let (was_forked, is_preload) = (worker.forking == Forking::Asked, worker.is_preload());
        worker.has_process_now();
        if was_forked {
            self.preload_has_forked(generation);
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.now) {
            self.act(Action::Kill(id));
        } else if phase == Phase::Draining {
            // The worker was stopped between `Action::Spawn` and the fork.
            self.act(if stop_reason == Some(StopReason::Watchdog) { Action::Abort(id) } else { Action::Stop(id) });
        } else if let Some(Readiness::Running(settle)) =
            self.generations.get(&generation).map(|home| home.settings.ready).filter(|_| !is_preload)
        {
            self.timers.set(Key::Settle(id), self.after(settle));
        }
        self.act(Action::Changed(id));
    }
}
