//! Recycling: replaces workers of the current generation one at a time. The new worker is ready before the old one drains.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::ids::{RequesterId, WorkerId};
use super::reason::RecycleReason;
use super::timers::Key;
use super::vocabulary::{Action, Answer, Kind};
use super::worker::Phase;

/// A worker that is to be replaced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub worker: WorkerId,
    pub why: RecycleReason,
    /// The requester. It is answered when a job fails, or when the last job of its request is done.
    pub requester: Option<RequesterId>,
    /// The job is the last one of its request.
    pub last: bool,
}

/// The waiting jobs and the running job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Recycling {
    pub queue: VecDeque<Job>,
    /// The running job and the successor that will take over the slot.
    pub running: Option<(Job, WorkerId)>,
}

impl Pool {
    pub(super) fn recycle(&mut self, which: Option<WorkerId>, requester: Option<RequesterId>) {
        let refusal = if self.stopping.is_some() {
            Some("the instance is stopping".to_owned())
        } else if self.pause.is_some() {
            Some(super::pause::REFUSAL.to_owned())
        } else if self.reload.is_some() {
            Some("a reload is under way and replaces all workers, or the next release is probed".to_owned())
        } else if self.idling.is_idle() && which.is_none() {
            // The next workers are new ones.
            return self.answer(requester, Answer::Done);
        } else {
            which.filter(|id| !self.stands(*id)).map(|id| format!("no ready worker {id} in generation {}", self.current))
        };
        if let Some(why) = refusal {
            return self.answer(requester, Answer::Failed(why));
        }
        let workers: Vec<WorkerId> = match which {
            Some(id) => vec![id],
            None => self
                .generations
                .get(&self.current)
                .map_or(Vec::new(), |home| home.slots.iter().filter_map(|place| place.worker).collect()),
        };
        let Some(last) = workers.last().copied() else { return self.answer(requester, Answer::Done) };
        let jobs = workers.into_iter().map(|worker| Job { worker, why: RecycleReason::Request, requester, last: worker == last });
        self.recycling.queue.extend(jobs);
        self.recycle_next();
    }

    /// A worker has reached a limit of `recycle.*`, or its listening socket was bound anew.
    pub(super) fn recycle_due(&mut self, id: WorkerId, why: RecycleReason) {
        let queued = self.recycling.queue.iter().any(|job| job.worker == id);
        if self.stands(id) && !queued && self.stopping.is_none() {
            self.recycling.queue.push_back(Job { worker: id, why, requester: None, last: true });
            self.recycle_next();
        }
    }

    pub(super) fn recycle_next(&mut self) {
        while self.recycling.running.is_none() && self.reload.is_none() && self.stopping.is_none() {
            let Some(job) = self.recycling.queue.pop_front() else { return };
            if !self.stands(job.worker) {
                // The worker is gone or was replaced since the request.
                self.job_done(&job);
                continue;
            }
            let Some(slot) = self.workers.get(&job.worker).map(|worker| worker.slot) else { continue };
            let message = format!("worker {} (slot {slot}) is recycled: {}", job.worker, job.why.in_words());
            self.log(Kind::Info, message, Some(self.current), Some((job.worker, slot)));
            let successor = self.spawn(self.current, slot);
            if let Some(place) = self.slot_state(slot) {
                place.successor = Some(successor);
            }
            self.recycling.running = Some((job, successor));
        }
    }

    /// The successor of the running job is ready and has taken over the slot.
    pub(super) fn recycled(&mut self, successor: WorkerId) {
        if self.recycling.running.as_ref().is_some_and(|(_, running)| *running == successor)
            && let Some((job, _)) = self.recycling.running.take()
        {
            self.act(Action::Recycled(job.why));
            self.job_done(&job);
            self.recycle_next();
        }
    }

    /// The successor failed: the old worker stays.
    pub(super) fn recycle_failed(&mut self, successor: WorkerId, why: &str) {
        if self.recycling.running.as_ref().is_none_or(|(_, running)| *running != successor) {
            return;
        }
        let Some((job, _)) = self.recycling.running.take() else { return };
        self.log(Kind::Warning, format!("worker {} stays: {why}", job.worker), Some(self.current), None);
        if let Some(requester) = job.requester {
            self.recycling.queue.retain(|other| other.requester != Some(requester));
            self.answer(Some(requester), Answer::Failed(format!("worker {} stays: {why}", job.worker)));
        } else if self.workers.get(&job.worker).is_some_and(|worker| worker.phase == Phase::Ready) {
            // A job that a limit caused is tried again after `restart.max`.
            let again = self.generations.get(&self.current).map_or(self.now, |home| self.after(home.settings.restart.max));
            self.timers.set(Key::Age(job.worker), again);
        }
    }

    fn job_done(&mut self, job: &Job) {
        if job.last {
            self.answer(job.requester, Answer::Done);
        }
    }

    /// Ends all recycling: a new generation has replaced every worker, or the instance stops.
    pub(super) fn recycle_over(&mut self, answer: &Answer) {
        let Recycling { queue, running } = std::mem::take(&mut self.recycling);
        let jobs = running.map(|(job, _)| job).into_iter().chain(queue);
        let requesters: Vec<_> = jobs.filter(|job| job.last).map(|job| job.requester).collect();
        for requester in requesters {
            self.answer(requester, answer.clone());
        }
    }
}
