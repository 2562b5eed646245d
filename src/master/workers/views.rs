//! Copies of the workers' data for other parts of the master: views for the front ends, facts for the status document, samples for the
//! memory check and the recycle limits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::api::WorkerView;
use crate::master::comparison::{self, Reading};
use crate::master::listeners::ListenerSet;
use crate::master::listeners::hang_watch;
use crate::master::listeners::idle_watch::Counted;
use crate::master::load_watch::Subject;
use crate::master::recycle::Candidate;
use crate::master::releases::memory::Footprint;
use crate::master::releases::prepare::Release;
use crate::master::workers::cgroup::Cgroups;
use crate::master::workers::processes::Process;
use crate::master::workers::readiness::Known;
use crate::master::workers::{WorkerSet, missing_limits};
use crate::pool::{GenerationId, Hang, Phase, Pool, PreloadView, Worker, WorkerId};
use crate::status::scoreboard::Scoreboard;

/// A preload process: its pid, if there is one, and its state.
#[derive(Clone, Copy)]
pub(in crate::master) struct PreloadFacts {
    pub pid: Option<u32>,
    pub state: &'static str,
}

/// A worker as the status document shows it.
pub(in crate::master) struct WorkerFacts {
    pub view: WorkerView,
    pub group: Option<PathBuf>,
    pub info: Map<String, Value>,
    pub counters: BTreeMap<String, f64>,
    pub scoreboard: Option<Arc<Scoreboard>>,
    pub readiness: Option<Known>,
    /// How the worker hangs, so that new connections go to others.
    pub avoided: Option<Hang>,
}

impl WorkerSet {
    /// The workers of this generation that the memory check measures.
    pub fn footprint(&self, generation: GenerationId) -> Footprint {
        let of_generation = self.iter().filter(|(_, process)| process.generation == generation);
        let workers: Vec<_> =
            of_generation.map(|(_, process)| (process.pid, process.group.as_ref().map(|group| group.path()))).collect();
        Footprint::of(&workers, self.cgroups.as_ref().map(Cgroups::base))
    }

    /// A sentence about limits of this release that its workers do not get; `None` when they get all.
    pub fn missing_limits(&self, release: &Release) -> Option<String> {
        missing_limits::sentence(&release.config.worker.limits, self.cgroups.as_ref().map(Cgroups::controllers))
    }

    /// A worker as the front ends show it.
    pub fn view(&self, pool: &Pool, id: WorkerId) -> Option<WorkerView> {
        // A preload process is no worker for those who watch the pool.
        let worker = pool.worker(id).filter(|worker| !worker.is_preload())?;
        Some(WorkerView {
            id,
            slot: worker.slot,
            generation: worker.generation,
            pid: worker.pid.unwrap_or(0),
            state: worker.phase,
            // An empty `Arc<str>` takes no memory.
            status_text: if worker.status.is_empty() { Arc::default() } else { worker.status.as_str().into() },
            started_at: self.get(id).map_or_else(SystemTime::now, |process| process.started_at),
        })
    }

    /// The preload process of the present generation.
    pub fn preload(&self, pool: &Pool) -> Option<PreloadFacts> {
        let PreloadView { process, state } = pool.preload()?;
        Some(PreloadFacts { pid: process.and_then(|id| self.get(id)).map(|process| process.pid), state })
    }

    /// Views of all workers.
    pub fn views(&self, pool: &Pool) -> Vec<WorkerView> {
        pool.workers().filter_map(|(id, _)| self.view(pool, id)).collect()
    }

    /// The ready workers of the present generation, of which some may have reached a limit.
    pub fn recycle_candidates(&self, pool: &Pool) -> Vec<Candidate> {
        let generation = pool.generation();
        let is_ready = |worker: &Worker| worker.phase == Phase::Ready && worker.generation == generation && !worker.is_preload();
        let candidate = |(worker, _)| {
            let process = self.get(worker)?;
            let group = process.group.as_ref().map(|group| group.path().to_owned());
            Some(Candidate { worker, pid: process.pid, group, requests: process.totals().known_requests() })
        };
        pool.workers().filter(|(_, worker)| is_ready(worker)).filter_map(candidate).collect()
    }

    /// The ready workers of the present generation, with what they have counted.
    pub fn counted(&self, pool: &Pool) -> Vec<Counted> {
        let counted = |it: Candidate| {
            let totals = self.get(it.worker).map(Process::totals).unwrap_or_default();
            let counts = (totals.known_connections().unwrap_or(0), totals.known_requests().unwrap_or(0));
            Counted { subject: (it.worker, it.pid, it.group), counts }
        };
        self.recycle_candidates(pool).into_iter().map(counted).collect()
    }

    /// The ready workers of the present generation, by what their load is read from.
    pub fn load_subjects(&self, pool: &Pool) -> Vec<Subject> {
        let generation = pool.generation();
        let is_ready = |worker: &Worker| worker.phase == Phase::Ready && worker.generation == generation && worker.has_slot();
        let subject = |(worker, _)| {
            let process = self.get(worker)?;
            let group = process.group.as_ref().map(|group| group.path().to_owned());
            Some(Subject { worker, pid: process.pid, group, scoreboard: process.scoreboard.clone() })
        };
        pool.workers().filter(|(_, worker)| is_ready(worker)).filter_map(subject).collect()
    }

    /// The workers that may hang, by what that is seen from.
    pub fn hang_subjects(&self, pool: &Pool, listeners: &ListenerSet) -> Vec<hang_watch::Subject> {
        let subject = |(worker, known): (WorkerId, &Worker)| {
            let process = self.get(worker)?;
            Some(hang_watch::Subject {
                worker,
                generation: known.generation,
                pid: process.pid,
                scoreboard: process.scoreboard.clone(),
                sockets: listeners.own(pool.queue(known)),
                is_avoided: pool.avoided(worker).is_some(),
            })
        };
        pool.may_hang().filter_map(subject).collect()
    }

    /// The running totals of all workers, for the comparison of two generations.
    pub fn readings(&self) -> Vec<Reading> {
        let reading = |(worker, process): (WorkerId, &Process)| Reading {
            worker,
            generation: process.generation,
            figures: comparison::figures(&process.totals()),
        };
        self.iter().filter(|(worker, _)| !self.is_preload(*worker)).map(reading).collect()
    }

    /// All workers as the status document shows them.
    pub fn facts(&self, pool: &Pool) -> Vec<WorkerFacts> {
        let facts = |(id, _)| {
            let process = self.get(id);
            Some(WorkerFacts {
                view: self.view(pool, id)?,
                group: process.and_then(|process| process.group.as_ref()).map(|group| group.path().to_owned()),
                info: process.map(Process::info).unwrap_or_default(),
                counters: process.map(|process| process.counters().clone()).unwrap_or_default(),
                scoreboard: process.and_then(|process| process.scoreboard.clone()),
                readiness: process.and_then(|process| process.readiness).or(pool.said_ready_alone(id).then_some(Known::Said)),
                avoided: pool.avoided(id),
            })
        };
        pool.workers().filter_map(facts).collect()
    }
}
