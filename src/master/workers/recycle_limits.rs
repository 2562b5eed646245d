//! Finds workers that have reached a limit: `recycle.max_memory`, `recycle.max_requests`.
//!
//! Law: workers are checked only if the configuration sets a limit, and memory is read on another thread. An unknown figure recycles
//! no worker.

use std::time::{Duration, Instant};

use crate::master::tasks::TaskResult;
use crate::master::turn::Master;
use crate::pool::{Phase, RecycleReason, WorkerId};
use crate::status::kernel;

/// The interval of the checks, if a limit is set.
const PERIOD: Duration = Duration::from_secs(5);

impl Master {
    /// The time of the next check; `None` without a limit.
    pub(in crate::master) fn recycle_deadline(&self) -> Option<Instant> {
        let recycle = &self.releases.get(self.pool.generation())?.config.recycle;
        (recycle.max_memory.is_some() || recycle.max_requests.is_some()).then_some(self.recycle_check_at)
    }

    /// Checks the workers, when it is time.
    pub(in crate::master) fn check_recycle_limits(&mut self) {
        if self.recycle_deadline().is_none_or(|at| at > self.now) {
            return;
        }
        self.recycle_check_at = self.now + PERIOD;
        let Some(recycle) = self.releases.get(self.pool.generation()).map(|release| release.config.recycle.clone()) else {
            return;
        };
        let generation = self.pool.generation();
        let ready: Vec<WorkerId> = self
            .pool
            .workers()
            .filter(|(_, worker)| worker.phase == Phase::Ready && worker.generation == generation)
            .map(|(id, _)| id)
            .collect();
        let mut subjects = Vec::new();
        for worker in ready {
            let Some(process) = self.workers.get(worker) else { continue };
            // The limit is up to a tenth lower, different for each worker, so that similar workers are not recycled together.
            let share = 1.0 - (worker.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as f64 / 10_240.0;
            if let Some(limit) = recycle.max_requests
                && process.totals().known_requests().is_some_and(|requests| requests as f64 >= limit as f64 * share)
            {
                self.events.push(crate::pool::Event::RecycleDue(worker, RecycleReason::Requests));
                continue;
            }
            if let Some(limit) = recycle.max_memory {
                let group = process.group.as_ref().map(|group| group.path().to_owned());
                subjects.push(((worker, process.pid, group), (limit as f64 * share) as u64));
            }
        }
        if subjects.is_empty() {
            return;
        }
        let results = self.results.clone();
        tokio::task::spawn_blocking(move || {
            let (subjects, limits): (Vec<kernel::Subject>, Vec<u64>) = subjects.into_iter().unzip();
            let survey = kernel::survey(&subjects, &[] as &[std::os::fd::OwnedFd]);
            for ((worker, ..), limit) in subjects.iter().zip(limits) {
                let used = survey.worker(*worker).and_then(|figures| figures.memory_current.or(figures.rss));
                if used.is_some_and(|used| used >= limit) {
                    let _ = results.send(TaskResult::RecycleDue(*worker, RecycleReason::Memory));
                }
            }
        });
    }
}
