//! Rates a second, from the differences between documents. Pure.
//!
//! Law: a total that was unknown before, or that went down, gives no rate.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::status::tree::Document;

/// Shortest time between two documents from which rates are computed; differences over less time are noise.
const SHORTEST: Duration = Duration::from_millis(800);
/// Number of past figures that are kept for the plots.
const KEPT: usize = 240;

/// Rates of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct OfWorker {
    /// Requests a second.
    pub(super) requests: Option<f64>,
    /// CPUs that the worker keeps busy: 1.0 is one whole CPU.
    pub(super) cpu: Option<f64>,
}

/// The totals of one document.
struct Totals {
    at: Instant,
    instance: String,
    start_time: String,
    pool: [Option<u64>; 3],
    workers: HashMap<u64, (Option<u64>, Option<u64>)>,
}

/// All rates.
#[derive(Default)]
pub(super) struct Rates {
    before: Option<Totals>,
    /// Requests of the pool a second.
    pub(super) requests: Option<f64>,
    /// Bytes from clients a second.
    pub(super) read: Option<f64>,
    /// Bytes to clients a second.
    pub(super) written: Option<f64>,
    /// Rates of the workers, by worker id.
    pub(super) workers: HashMap<u64, OfWorker>,
    /// Past figures, oldest first.
    pub(super) history: VecDeque<Sample>,
}

/// The figures of the plots at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// The moment.
    pub(super) at: Instant,
    /// Requests a second.
    pub(super) requests: Option<f64>,
    /// Ready workers.
    pub(super) workers: u32,
    /// Connections that wait to be accepted.
    pub(super) queue: Option<u64>,
}

impl Rates {
    /// Takes a document that arrived at `at`.
    pub(super) fn learn(&mut self, document: &Document, at: Instant) {
        let totals = Totals {
            at,
            instance: document.instance.clone(),
            start_time: document.start_time.clone(),
            pool: [document.requests, document.bytes_read, document.bytes_written],
            workers: document.workers.iter().map(|worker| (worker.id, (worker.requests, worker.cpu_usec))).collect(),
        };
        let Some(before) = &self.before else {
            self.before = Some(totals);
            return;
        };
        // After a restart the instance counts from 0 again.
        if (&before.instance, &before.start_time) != (&totals.instance, &totals.start_time) {
            *self = Rates { before: Some(totals), ..Rates::default() };
            return;
        }
        let passed = at.saturating_duration_since(before.at);
        if passed < SHORTEST {
            return;
        }
        let each = |before, after| per_second(before, after, passed);
        [self.requests, self.read, self.written] = [0, 1, 2].map(|which| each(before.pool[which], totals.pool[which]));
        self.workers = totals
            .workers
            .iter()
            .filter_map(|(id, (requests, cpu))| {
                let (requests_before, cpu_before) = before.workers.get(id)?;
                let cpu = each(*cpu_before, *cpu).map(|usec| usec / 1e6);
                Some((*id, OfWorker { requests: each(*requests_before, *requests), cpu }))
            })
            .collect();
        let queues = document.sockets.iter().filter_map(|socket| socket.queue);
        let queue = queues.fold(None, |sum: Option<u64>, it| Some(sum.unwrap_or(0).saturating_add(it)));
        self.history.push_back(Sample { at, requests: self.requests, workers: document.workers_ready, queue });
        if self.history.len() > KEPT {
            self.history.pop_front();
        }
        self.before = Some(totals);
    }

    /// CPUs that all workers together keep busy; `None` when that is known of no worker.
    pub(super) fn cpu(&self) -> Option<f64> {
        let known = self.workers.values().filter_map(|worker| worker.cpu);
        known.fold(None, |sum, cpu| Some(sum.unwrap_or(0.0) + cpu))
    }
}

fn per_second(before: Option<u64>, after: Option<u64>, passed: Duration) -> Option<f64> {
    let more = after?.checked_sub(before?)?;
    Some(more as f64 / passed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tree::Worker;

    fn document(requests: Option<u64>, cpu: Option<u64>) -> Document {
        let worker = Worker { id: 5, requests, cpu_usec: cpu, ..Worker::default() };
        Document { start_time: "then".into(), requests, workers: vec![worker], ..Document::default() }
    }

    #[test]
    fn a_rate_is_a_difference_over_time() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.learn(&document(Some(1000), Some(500_000)), start);
        assert_eq!(rates.requests, None, "one document says nothing");
        rates.learn(&document(Some(1500), Some(1_500_000)), start + Duration::from_secs(2));
        assert_eq!(rates.requests, Some(250.0));
        assert_eq!(rates.workers[&5], OfWorker { requests: Some(250.0), cpu: Some(0.5) });
        assert_eq!(rates.cpu(), Some(0.5));
        // A document so soon after the last one is skipped; the next one is compared with the last one.
        rates.learn(&document(Some(1501), None), start + Duration::from_millis(2100));
        assert_eq!(rates.requests, Some(250.0));
        rates.learn(&document(Some(1600), None), start + Duration::from_secs(3));
        assert_eq!((rates.requests, rates.cpu()), (Some(100.0), None));
        assert_eq!(rates.history.iter().map(|sample| sample.requests).collect::<Vec<_>>(), [Some(250.0), Some(100.0)]);
    }

    #[test]
    fn what_is_not_known_or_went_down_has_no_rate() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for (second, requests) in [(0, None), (1, Some(5)), (2, Some(3))] {
            rates.learn(&document(requests, None), start + Duration::from_secs(second));
            assert_eq!(rates.requests, None, "at {second}");
        }
        // After a restart the rates begin anew.
        let reborn = Document { start_time: "now".into(), ..document(Some(90), None) };
        rates.learn(&reborn, start + Duration::from_secs(3));
        assert_eq!((rates.requests, rates.history.len()), (None, 0));
    }

    #[test]
    fn the_history_is_bounded() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for second in 0..1000 {
            rates.learn(&document(Some(second * 10), None), start + Duration::from_secs(second));
        }
        assert_eq!(rates.history.len(), KEPT);
    }
}
