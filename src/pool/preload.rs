//! The preload process of a generation (`worker.preload`): loads the application once; the workers of the generation are forked from it.
//!
//! Law: no worker of a generation with a preload process starts before that process is ready. The failure of a candidate's process rolls
//! the reload back. In the current generation workers serve on without the process: the next start of a worker starts it anew, and if
//! that fails, the workers start directly (`worker.preload_fallback`), or fail, each with the backoff of its slot.

use super::Pool;
use super::exit_cause::ExitCause;
use super::generation::{Preload, Role};
use super::ids::{GenerationId, WorkerId};
use super::reason::Reason;
use super::vocabulary::{Action, Kind, Outcome};
use super::worker::{Forking, Phase, StopReason, Worker};

/// How the process of a worker is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// The worker is the preload process of its generation.
    Preload,
    /// By its command.
    Direct,
    /// Forked from this preload process; `None`: that process is gone.
    Fork(Option<WorkerId>),
}

/// The preload process as the status shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreloadView {
    /// The process, as a worker of the pool; `None` without one.
    pub process: Option<WorkerId>,
    /// `starting`, `ready`, `absent` or `failed`.
    pub state: &'static str,
}

impl Pool {
    /// How the process of this worker is started.
    pub fn start_mode(&self, id: WorkerId) -> StartMode {
        let Some(worker) = self.workers.get(&id) else { return StartMode::Direct };
        match worker.forking {
            Forking::Parent => StartMode::Preload,
            Forking::No | Forking::Held => StartMode::Direct,
            Forking::Asked => StartMode::Fork(match self.preload_of(worker.generation) {
                Some(Preload::Ready { id, .. }) => Some(*id),
                Some(Preload::Absent | Preload::Loading(_) | Preload::GivenUp(_)) | None => None,
            }),
        }
    }

    /// Whether the worker waits until the preload process of its generation is ready.
    pub fn is_held(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| worker.forking == Forking::Held)
    }

    /// The preload process of the current generation; `None` if the generation has none by its configuration.
    pub fn preload(&self) -> Option<PreloadView> {
        let preload = self.preload_of(self.current)?;
        let state = match preload {
            Preload::Absent => "absent",
            Preload::Loading(_) => "starting",
            Preload::Ready { .. } => "ready",
            Preload::GivenUp(_) => "failed",
        };
        Some(PreloadView { process: preload.process(), state })
    }

    /// The preload processes that load or can fork.
    pub fn preload_processes(&self) -> Vec<WorkerId> {
        self.generations.values().filter_map(|home| home.preload.as_ref()?.process()).collect()
    }

    /// Why the workers of the current generation are started directly, although it has a preload process by its configuration.
    pub(super) fn preload_failure(&self) -> Option<&str> {
        match self.preload_of(self.current)? {
            Preload::GivenUp(why) => Some(why),
            Preload::Absent | Preload::Loading(_) | Preload::Ready { .. } => None,
        }
    }

    fn preload_of(&self, number: GenerationId) -> Option<&Preload> {
        self.generations.get(&number)?.preload.as_ref()
    }

    /// Whether the preload process of the generation is not ready yet.
    pub(super) fn is_loading(&self, number: GenerationId) -> bool {
        matches!(self.preload_of(number), Some(Preload::Loading(_)))
    }

    fn set_preload(&mut self, number: GenerationId, preload: Preload) {
        if let Some(home) = self.generations.get_mut(&number) {
            home.preload = Some(preload);
        }
    }

    /// The part in forks of a worker of this generation that is to start. Starts the preload process if there is none.
    pub(super) fn forking_of_new(&mut self, number: GenerationId) -> Forking {
        match self.preload_of(number) {
            None | Some(Preload::GivenUp(_)) => Forking::No,
            Some(Preload::Loading(_)) => Forking::Held,
            Some(Preload::Ready { .. }) => Forking::Asked,
            Some(Preload::Absent) => {
                let id = self.add_worker(number, 0);
                if let Some(worker) = self.workers.get_mut(&id) {
                    (worker.forking, worker.watchdog) = (Forking::Parent, None);
                }
                self.set_preload(number, Preload::Loading(id));
                self.log(Kind::Info, format!("generation {number}: the application is loaded once"), Some(number), None);
                self.begin_start(id);
                Forking::Held
            }
        }
    }

    /// The preload process is ready: the workers that wait for it are forked.
    pub(super) fn preload_ready(&mut self, id: WorkerId) {
        let Some(number) = self.workers.get(&id).map(|worker| worker.generation) else { return };
        if self.preload_of(number) != Some(&Preload::Loading(id)) {
            return;
        }
        self.set_preload(number, Preload::Ready { id, proven: false });
        self.log(Kind::Info, format!("generation {number}: the application is loaded, workers are forked"), Some(number), None);
        self.release_held(number, Forking::Asked);
    }

    /// The preload process has forked this worker.
    pub(super) fn preload_has_forked(&mut self, number: GenerationId) {
        if let Some(Preload::Ready { proven, .. }) = self.generations.get_mut(&number).and_then(|home| home.preload.as_mut()) {
            *proven = true;
        }
    }

    /// The workers of a generation that wait for its preload process.
    fn held(&self, number: GenerationId) -> Vec<WorkerId> {
        let held = self.workers.iter().filter(|(_, worker)| worker.generation == number && worker.forking == Forking::Held);
        held.map(|(id, _)| *id).collect()
    }

    fn release_held(&mut self, number: GenerationId, forking: Forking) {
        for id in self.held(number) {
            if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.phase == Phase::Starting) {
                worker.forking = forking;
                self.begin_start(id);
            }
        }
    }

    /// Ends the workers that are not wanted any more and whose process was never asked for.
    pub(super) fn end_unstarted(&mut self) {
        if self.generations.values().all(|home| home.preload.is_none()) {
            return;
        }
        let unstarted = |worker: &Worker| worker.phase == Phase::Draining && worker.forking == Forking::Held;
        let unstarted: Vec<WorkerId> = self.workers.iter().filter(|(_, worker)| unstarted(worker)).map(|(id, _)| *id).collect();
        for id in unstarted {
            self.exited(id, ExitCause::NotStarted("not started: it is not wanted any more".to_owned()), false);
        }
    }

    /// The preload process has ended, leaves, hangs, or cannot fork any more.
    pub(super) fn preload_failed(&mut self, id: WorkerId, reason: Reason) {
        let Some(number) = self.workers.get(&id).map(|worker| worker.generation) else { return };
        let proven = match self.preload_of(number) {
            Some(Preload::Loading(loading)) if *loading == id => false,
            Some(Preload::Ready { id: ready, proven }) if *ready == id => *proven,
            Some(_) | None => return,
        };
        self.set_preload(number, Preload::Absent);
        match self.generations.get(&number).map(|home| home.role) {
            Some(Role::Candidate) => self.rollback(Outcome::RolledBack, reason),
            Some(Role::Retired) | None => {}
            Some(Role::Current) if self.stopping.is_some() => {}
            Some(Role::Current) if proven => {
                let message = format!("{}; its workers go on, and the next start of a worker starts it again", reason.cause);
                self.log(Kind::Warning, message, Some(number), None);
            }
            Some(Role::Current) => self.preload_not_ready(number, &reason),
        }
    }

    /// The preload process of the current generation did not get ready, or ended before it had forked a worker.
    fn preload_not_ready(&mut self, number: GenerationId, reason: &Reason) {
        if self.generations.get(&number).is_some_and(|home| home.settings.preload_fallback) {
            let message = format!("degraded: {}: workers are started without it", reason.in_full());
            self.log(Kind::Degraded, message, Some(number), None);
            self.set_preload(number, Preload::GivenUp(reason.cause.clone()));
            return self.release_held(number, Forking::No);
        }
        for worker in self.held(number) {
            self.exited(worker, ExitCause::NotStarted(format!("not forked: {}", reason.cause)), false);
        }
    }

    /// The preload process did not fork this worker in time: it hangs, and is killed.
    pub(super) fn preload_hangs(&mut self, worker: WorkerId) {
        if let StartMode::Fork(Some(id)) = self.start_mode(worker) {
            let reason = self.reason(id, format!("it did not fork worker {worker} in time"));
            self.give_up_preload(id, reason);
        }
    }

    /// The preload process cannot fork any more; see [`Event::PreloadLost`](super::Event::PreloadLost).
    pub(super) fn preload_lost(&mut self, id: WorkerId, why: &str) {
        if self.workers.get(&id).is_none_or(|worker| !worker.is_preload()) {
            return self.ignore_event("the loss of what is no preload process", Some(id));
        }
        let reason = self.reason(id, why.to_owned());
        self.give_up_preload(id, reason);
    }

    fn give_up_preload(&mut self, id: WorkerId, reason: Reason) {
        // A preload process serves no client, so there is nothing to drain.
        self.act(Action::Kill(id));
        self.preload_failed(id, reason);
    }

    /// A worker is asked to end: if it is the preload process of its generation, no worker is forked from it any more.
    pub(super) fn preload_dismissed(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.is_preload()) else { return };
        let number = worker.generation;
        if self.preload_of(number).and_then(Preload::process) == Some(id) {
            self.set_preload(number, Preload::Absent);
        }
    }

    /// The preload process that a master before this one has started cannot fork for this one: the workers that wait get another.
    pub(super) fn preload_outlived(&mut self, id: WorkerId) {
        let Some(number) = self.workers.get(&id).filter(|worker| worker.is_preload()).map(|worker| worker.generation) else {
            return self.ignore_event("an outlived process that is no preload process", Some(id));
        };
        if self.preload_of(number).and_then(Preload::process) != Some(id) {
            return self.drain(id, StopReason::Asked);
        }
        self.drain(id, StopReason::Asked);
        if !self.held(number).is_empty() && self.stopping.is_none() {
            self.forking_of_new(number);
        }
    }

    /// Whether an [`Action::Spawn`] of this worker may be returned now: a test of the law above.
    #[cfg(test)]
    pub(super) fn may_spawn(&self, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get(&id) else { return true };
        worker.is_preload()
            || worker.phase == Phase::Draining
            || worker.how.is_some()
            || !matches!(self.preload_of(worker.generation), Some(Preload::Loading(_)))
    }
}
