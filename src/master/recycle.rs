//! Finds workers that have reached a limit: `recycle.max_memory`, `recycle.max_requests`.
//!
//! Law: workers are checked only if the configuration sets a limit, and memory is read on another thread. An unknown figure recycles
//! no worker.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::Recycle;
use crate::master::event_queue::EventQueue;
use crate::master::task_result::{TaskResult, TaskResults};
use crate::pool::{Event, RecycleReason, WorkerId};
use crate::status::kernel;

/// The interval of the checks, if a limit is set.
const PERIOD: Duration = Duration::from_secs(5);

/// A worker that may have reached a limit.
#[derive(Debug)]
pub(in crate::master) struct Candidate {
    pub worker: WorkerId,
    pub pid: u32,
    /// The path of the worker's control group.
    pub group: Option<PathBuf>,
    /// The requests that the worker has counted.
    pub requests: Option<u64>,
}

/// When the workers are checked next.
pub(in crate::master) struct Recycler {
    check_at: Instant,
    results: TaskResults,
}

impl Recycler {
    /// A recycler whose first check is due now.
    pub fn new(now: Instant, results: TaskResults) -> Recycler {
        Recycler { check_at: now, results }
    }

    /// The time of the next check; `None` without a limit.
    pub fn deadline(&self, limits: Option<&Recycle>) -> Option<Instant> {
        limits.filter(|limits| limits.max_memory.is_some() || limits.max_requests.is_some()).map(|_| self.check_at)
    }

    /// Checks the workers, when it is time. `candidates`: the ready workers of the generation that has these limits.
    pub fn on_deadline(
        &mut self,
        now: Instant,
        limits: Option<&Recycle>,
        candidates: impl FnOnce() -> Vec<Candidate>,
        events: &mut EventQueue,
    ) {
        let Some(limits) = limits.filter(|limits| self.deadline(Some(limits)).is_some_and(|at| at <= now)) else { return };
        self.check_at = now + PERIOD;
        let mut subjects = Vec::new();
        for Candidate { worker, pid, group, requests } in candidates() {
            // The limit is up to a tenth lower, different for each worker, so that similar workers are not recycled together.
            let share = 1.0 - (worker.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as f64 / 10_240.0;
            let has_served = |limit: &u64| requests.is_some_and(|requests| requests as f64 >= *limit as f64 * share);
            if limits.max_requests.as_ref().is_some_and(has_served) {
                events.push(Event::RecycleDue(worker, RecycleReason::Requests));
            } else if let Some(limit) = limits.max_memory {
                subjects.push(((worker, pid, group), (limit as f64 * share) as u64));
            }
        }
        if !subjects.is_empty() {
            self.measure(subjects);
        }
    }

    /// Reads the memory of these workers on another thread; the limit in bytes stands beside each.
    fn measure(&self, subjects: Vec<(kernel::Subject, u64)>) {
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    fn candidate(worker: WorkerId, requests: Option<u64>) -> Candidate {
        Candidate { worker, pid: std::process::id(), group: None, requests }
    }

    #[test]
    fn recycler_finds_workers_with_too_many_requests() {
        let (now, (results, _)) = (Instant::now(), unbounded_channel());
        let (mut recycler, mut events) = (Recycler::new(now, results), EventQueue::default());
        let limits = Recycle { max_requests: Some(100), ..Recycle::default() };
        let all = || vec![candidate(1, Some(100)), candidate(2, Some(89)), candidate(3, None)];
        recycler.on_deadline(now, Some(&limits), all, &mut events);
        assert_eq!(events.pop(), Some(Event::RecycleDue(1, RecycleReason::Requests)));
        assert_eq!((events.pop(), recycler.deadline(Some(&limits))), (None, Some(now + PERIOD)));
        recycler.on_deadline(now + PERIOD / 2, Some(&limits), || panic!("too early"), &mut events);
    }

    #[test]
    fn recycler_has_no_deadline_without_a_limit() {
        let (now, (results, _)) = (Instant::now(), unbounded_channel());
        let mut recycler = Recycler::new(now, results);
        let none = Recycle::default();
        assert_eq!((recycler.deadline(None), recycler.deadline(Some(&none))), (None, None));
        recycler.on_deadline(now, Some(&none), || panic!("no limit"), &mut EventQueue::default());
    }

    #[tokio::test]
    async fn recycler_measures_memory_on_another_thread() {
        let (now, (results, mut received)) = (Instant::now(), unbounded_channel());
        let (mut recycler, mut events) = (Recycler::new(now, results), EventQueue::default());
        let limits = Recycle { max_memory: Some(1), ..Recycle::default() };
        recycler.on_deadline(now, Some(&limits), || vec![candidate(4, None)], &mut events);
        assert!(matches!(received.recv().await, Some(TaskResult::RecycleDue(4, RecycleReason::Memory))));
        assert!(events.is_empty());
    }
}
