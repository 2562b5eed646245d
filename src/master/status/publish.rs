//! The published state, updated when it changes: the summary, systemd's status line, views of workers, failures.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::api::{Reply, Summary};
use crate::master::log::catalog;
use crate::master::log::journal::{Level, Record};
use crate::master::output::Printed;
use crate::master::service_manager::start_advice;
use crate::master::tasks::TaskResult;
use crate::master::turn::Master;
use crate::pool::{self, ExitCause, GenerationId, Outcome, PoolState, RecycleReason, WorkerId};
use crate::status::error_line::error_line;
use crate::status::hint::hint;
use crate::status::scoreboard::Totals;
use crate::status::tree::{Failure, Reloads, Request};

/// Failures kept; the oldest are dropped first.
const FAILURES: usize = 20;

/// How the last reload ended.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// The generation that the reload was to start.
    pub generation: u64,
    /// How the reload ended, in the contract's words.
    pub outcome: Outcome,
    /// Why, for every reader; empty after a commit.
    pub reason: Arc<str>,
    /// The part of a program's output that explains the reason.
    pub detail: Option<String>,
    /// The first and the last lines that the program printed.
    pub output: Vec<String>,
    /// The worker that failed.
    pub worker: Option<WorkerId>,
    /// When the reload began.
    pub began: SystemTime,
    /// When the reload ended.
    pub ended: SystemTime,
    /// How long the reload took by the monotonic clock, which a change of the wall clock does not affect.
    pub took: Duration,
}

/// What was published, and what publishing needs.
pub struct Published {
    pub(in crate::master) last_reload: Option<LastReload>,
    /// Reloads by result.
    pub(in crate::master) reloads: BTreeMap<String, Reloads>,
    /// Failures by cause.
    pub(in crate::master) failures: BTreeMap<String, u64>,
    /// Recycled workers by reason.
    pub(in crate::master) recycled: BTreeMap<String, u64>,
    /// When the current generation was committed.
    pub(in crate::master) committed_at: Option<SystemTime>,
    /// When the reload began, by the wall clock, which may be set, and by the monotonic clock.
    pub(in crate::master) reload_began: Option<(SystemTime, Instant)>,
    /// More than a count has changed, so systemd gets the status line at once.
    pub(in crate::master) at_once: bool,
    /// The state and the number of ready workers published last. Another state or more ready workers are progress.
    state: PoolState,
    ready: u32,
    /// Failed workers whose last lines are still being fetched, and their generations.
    tails: HashMap<WorkerId, GenerationId>,
}

impl Published {
    /// The state before the first turn.
    pub fn new() -> Published {
        Published {
            last_reload: None,
            reloads: Outcome::ALL.map(|outcome| (outcome.as_str().to_owned(), Reloads::default())).into(),
            failures: ExitCause::CAUSES.map(|cause| (cause.to_owned(), 0)).into(),
            recycled: RecycleReason::ALL.map(|reason| (reason.as_str().to_owned(), 0)).into(),
            committed_at: None,
            reload_began: None,
            at_once: true,
            state: PoolState::Starting,
            ready: 0,
            tails: HashMap::new(),
        }
    }
}

/// Figures of workers that have exited.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// The sums over these workers.
    pub totals: Totals,
}

impl Ended {
    /// Adds the figures of a worker that has exited.
    pub fn add(&mut self, totals: &Totals) {
        self.totals.add(totals);
    }
}

/// `worker 7 (slot 1): signal SIGSEGV while serving GET /report/17 for 3.2 s`; `None` when the worker served nothing.
fn died_in(failure: &Failure) -> Option<String> {
    let Failure { worker, slot, how, .. } = failure;
    let Some((longest, others)) = failure.serving.split_first() else {
        let unlisted = Some(failure.serving_unlisted).filter(|unlisted| *unlisted > 0)?;
        return Some(format!(
            "worker {worker} (slot {slot}): {how} while serving {unlisted} requests that had no room on its page"
        ));
    };
    let times = (longest.start_time.parse::<jiff::Timestamp>(), failure.time.parse::<jiff::Timestamp>());
    let took = match times {
        (Ok(begun), Ok(ended)) => format!(" for {:.1} s", ended.duration_since(begun).as_secs_f64().max(0.0)),
        _ => String::new(),
    };
    let more = match others.len() as u64 + failure.serving_unlisted {
        0 => String::new(),
        others => format!(", and {others} more"),
    };
    Some(format!(
        "worker {worker} (slot {slot}): {how} while serving {} {}{took}{more}",
        longest.method,
        longest.url.as_deref().unwrap_or_default()
    ))
}

impl Published {
    /// Counts a recycled worker.
    pub(in crate::master) fn count_recycled(&mut self, reason: RecycleReason) {
        *self.recycled.entry(reason.as_str().to_owned()).or_default() += 1;
    }

    /// Whether no failure waits for its worker's last lines.
    pub fn no_tails(&self) -> bool {
        self.tails.is_empty()
    }
}

impl Master {
    /// Publishes what has changed in this turn, then sends the answers that wait for it.
    pub(in crate::master) fn publish(&mut self) {
        let summary = self.summary();
        let progress = summary.workers_ready > self.published.ready || summary.state != self.published.state;
        self.published.ready = summary.workers_ready;
        let at_once = std::mem::take(&mut self.published.at_once) || summary.state != self.published.state;
        self.published.state = summary.state;
        if progress && matches!(summary.state, PoolState::Starting | PoolState::Reloading) {
            self.extend();
        }
        self.systemd.status(&summary.status_text, at_once, self.now);
        let changed = self.ends.summary.send_if_modified(|told| {
            let changed = *told != summary;
            *told = summary;
            changed
        });
        if changed {
            self.keep_reader_rules();
            self.status_cache.touch();
        }
        self.changes.tell(&self.ends.changes);
        let tails = &self.published.tails;
        // The requester of a failed reload asks next what the failed worker printed: the answer waits until that is known.
        let waits = |answer: &Reply| match answer {
            Reply::Reload(answer) if answer.outcome == Outcome::RolledBack => {
                tails.values().any(|generation| *generation == answer.generation)
            }
            Reply::Reload(_) | Reply::Done | Reply::Failed(_) => false,
        };
        let ends = self.exit.is_some();
        let failures = &self.failures;
        let with_output = |answer: &mut Reply| {
            if let Reply::Reload(answer) = answer
                && let Some(failure) = failures.iter().rev().find(|failure| Some(failure.worker) == answer.worker)
            {
                answer.detail = failure.detail.clone().or(answer.detail.take());
                answer.output = failure.log_head.iter().chain(&failure.log_tail).cloned().collect();
            }
        };
        self.requests.send(|answer| !ends && waits(answer), with_output);
    }

    /// The line that systemd shows as `Status:`.
    pub(in crate::master) fn status_line(&self) -> String {
        let is_said = self.pool.degraded() || self.pool.state() != PoolState::Running;
        let line = self.conditions.line(self.troubles.add_to(self.pool.status_text(), is_said));
        if self.pool.start_fails() { line + &start_advice::advice(self.releases.file()) } else { line }
    }

    fn summary(&self) -> Summary {
        Summary {
            instance: self.releases.context().instance.clone(),
            state: self.pool.state(),
            degraded: self.pool.degraded() || !self.orphans.is_empty() || !self.troubles.is_empty(),
            // The output of a check may have many lines, and a worker's status any text.
            status_text: crate::master::log::text::one_line(
                self.status_line().as_bytes(),
                crate::master::service_manager::systemd::STATUS_MAX,
            )
            .into(),
            generation: self.pool.committed(),
            workers_configured: self.pool.target(),
            workers_ready: self.pool.ready(),
            crashes: self.pool.crashes(),
            started_at: self.started_at,
            last_reload: self
                .published
                .last_reload
                .as_ref()
                .map(|last| (last.generation, last.outcome, last.reason.clone(), last.ended)),
        }
    }

    /// Records a failure; the worker's last lines are added later, by [`Self::tail_known`].
    pub(in crate::master) fn record_failure(&mut self, ended: &pool::Ended, how: &str) {
        *self.published.failures.entry(ended.how.cause().to_owned()).or_default() += 1;
        let known = self.failures.iter().rev().find(|failure| failure.generation == ended.generation);
        let release_changed = known.and_then(|failure| failure.release_changed.clone());
        if self.failures.len() == FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(Failure {
            worker: ended.worker,
            slot: ended.slot,
            generation: ended.generation,
            pid: ended.pid,
            time: crate::master::status::document::time(SystemTime::now()),
            how: how.to_owned(),
            cause: ended.cause().to_string(),
            detail: None,
            release_changed,
            last_status: (!ended.status.is_empty()).then(|| ended.status.clone()),
            log_head: Vec::new(),
            log_tail: Vec::new(),
            serving: Vec::new(),
            serving_unlisted: 0,
        });
        self.published.tails.insert(ended.worker, ended.generation);
        self.releases.look_for_changes(ended.generation, self.now);
        let process = self.workers.get(ended.worker);
        let since = process.map_or_else(SystemTime::now, |process| process.started_at);
        let scoreboard = process.and_then(|process| process.scoreboard.clone());
        let group = process.and_then(|process| process.group.as_ref()).map(|group| group.path().to_owned());
        let (outputs, results, worker, pid) = (self.outputs.clone(), self.results.clone(), ended.worker, ended.pid.unwrap_or(0));
        tokio::spawn(async move {
            let lines = outputs.tail(worker, pid, group, since).await;
            outputs.close(worker);
            outputs.begin();
            let serving = tokio::task::spawn_blocking(move || scoreboard.map_or_else(Default::default, |board| board.serving()));
            let _ = results.send(TaskResult::Tail(worker, lines, serving.await.unwrap_or_default()));
        });
    }

    /// Adds the first and last lines of a failed worker, and the requests that it was serving, to its failure; logs what they explain.
    pub(in crate::master) fn tail_known(&mut self, worker: WorkerId, printed: Printed, serving: (Vec<Request>, u64)) {
        self.published.tails.remove(&worker);
        let Some(failure) = self.failures.iter_mut().rev().find(|failure| failure.worker == worker) else { return };
        let lines = printed.lines();
        failure.detail = error_line(&lines);
        (failure.log_head, failure.log_tail) = (printed.head, printed.tail);
        (failure.serving, failure.serving_unlisted) = serving;
        let hint = hint(&failure.how, &lines);
        let hint = hint.map(|hint| format!("hint for workers of generation {}: {hint}", failure.generation));
        if let Some(last) = self.published.last_reload.as_mut().filter(|last| last.worker == Some(worker)) {
            last.detail = failure.detail.clone().or(last.detail.take());
            last.output = lines;
        }
        let error = failure.detail.as_ref().map(|detail| {
            let message = format!("worker {worker} (slot {}): {}: {detail}", failure.slot, failure.cause);
            (message, catalog::ERROR_LINE)
        });
        let cut_off = died_in(failure).map(|message| (message, catalog::CUT_OFF));
        let (generation, slot, pid) = (Some(failure.generation), Some(failure.slot), failure.pid);
        for (message, id) in error.into_iter().chain(cut_off) {
            self.log.record(Record { worker: Some(worker), generation, slot, pid, id, ..Record::new(Level::Warning, message) });
        }
        if let Some(hint) = hint
            && self.log.is_first(&hint)
        {
            self.log.record(Record { id: catalog::HINT, ..Record::new(Level::Warning, hint) });
        }
    }

    /// Logs that the generation serves and, without systemd, what a user at a terminal can do next.
    pub(in crate::master) fn say_hello(&self) {
        let target = self.pool.target();
        let addresses = self.listeners.addresses();
        let on = if addresses.is_empty() { String::new() } else { format!(" on {}", addresses.join(", ")) };
        let message = format!("generation {} is serving: {target}/{target} ready{on}", self.pool.generation());
        self.log.record(crate::master::log::journal::Record {
            generation: Some(self.pool.generation()),
            ..crate::master::log::journal::Record::new(crate::master::log::journal::Level::Info, message)
        });
        if !self.systemd.is_there() {
            for hint in self.hints() {
                self.log.record(crate::master::log::journal::Record::new(crate::master::log::journal::Level::Info, hint));
            }
        }
    }

    fn hints(&self) -> Vec<String> {
        let program = std::env::args().next().unwrap_or_else(|| "ratoon".to_owned());
        let name = &self.releases.context().instance;
        let mut hints = vec![
            "in a second terminal:".to_owned(),
            format!("  {program} status {name}     what the workers do"),
            format!("  {program} reload {name}     a new generation, then the old one drains"),
        ];
        if let Some(address) = self.listeners.tcp_address() {
            let address = address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
            hints.push(format!(
                "  while curl -fsS http://{address}/; do :; done     some load; it stops at the first lost request"
            ));
        }
        hints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_died_in_is_one_sentence() {
        let request = |url: &str, start: &str| Request {
            method: "GET".into(),
            url: Some(url.into()),
            start_time: start.into(),
            ..Request::default()
        };
        let mut failure = Failure {
            worker: 7,
            slot: 1,
            how: "signal SIGSEGV".into(),
            time: "2026-07-14T11:30:03.210Z".into(),
            ..Failure::default()
        };
        assert_eq!(died_in(&failure), None);
        failure.serving.push(request("/report/17", "2026-07-14T11:30:00.010Z"));
        let sentence = "worker 7 (slot 1): signal SIGSEGV while serving GET /report/17 for 3.2 s";
        assert_eq!(died_in(&failure).as_deref(), Some(sentence));
        failure.serving.push(request("/", "2026-07-14T11:30:02Z"));
        assert_eq!(died_in(&failure), Some(format!("{sentence}, and 1 more")));
        // A time that cannot be parsed is left out; a clock that was set back gives no negative duration.
        failure.serving = vec![request("/", "")];
        assert_eq!(died_in(&failure).as_deref(), Some("worker 7 (slot 1): signal SIGSEGV while serving GET /"));
        failure.serving = vec![request("/", "2026-07-14T12:00:00Z")];
        assert!(died_in(&failure).is_some_and(|it| it.ends_with("GET / for 0.0 s")));
    }
}
