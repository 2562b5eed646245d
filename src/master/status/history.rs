//! The instance's past: failures, reloads, recycled workers, totals of workers that have exited.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::master::log::Log;
use crate::master::log::catalog;
use crate::master::log::journal::{Level, Record};
use crate::master::output::Printed;
use crate::master::state;
use crate::pool::{self, ExitCause, GenerationId, Outcome, Reason, RecycleReason, WorkerId};
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

/// Failures, reloads, recycled workers, and totals of workers that have exited.
pub(in crate::master) struct History {
    /// Oldest first.
    failures: VecDeque<Failure>,
    failures_by_cause: BTreeMap<String, u64>,
    /// Failed workers whose last lines are still being fetched, and their generations.
    tails: HashMap<WorkerId, GenerationId>,
    last_reload: Option<LastReload>,
    /// When the reload began, by the wall clock, which may be set, and by the monotonic clock.
    reload_began: Option<(SystemTime, Instant)>,
    reloads_by_result: BTreeMap<String, Reloads>,
    recycled_by_reason: BTreeMap<String, u64>,
    /// When the current generation was committed.
    committed_at: Option<SystemTime>,
    /// The sums over the workers that have exited.
    totals: Totals,
}

impl Default for History {
    fn default() -> History {
        History {
            failures: VecDeque::new(),
            failures_by_cause: ExitCause::CAUSES.map(|cause| (cause.to_owned(), 0)).into(),
            tails: HashMap::new(),
            last_reload: None,
            reload_began: None,
            reloads_by_result: Outcome::ALL.map(|outcome| (outcome.as_str().to_owned(), Reloads::default())).into(),
            recycled_by_reason: RecycleReason::ALL.map(|reason| (reason.as_str().to_owned(), 0)).into(),
            committed_at: None,
            totals: Totals::default(),
        }
    }
}

impl History {
    /// The last reload.
    pub fn last_reload(&self) -> Option<&LastReload> {
        self.last_reload.as_ref()
    }

    /// The failures that are kept, oldest first.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failures.iter()
    }

    /// The number of failures by cause.
    pub fn failures_by_cause(&self) -> &BTreeMap<String, u64> {
        &self.failures_by_cause
    }

    /// Reloads by result.
    pub fn reloads_by_result(&self) -> &BTreeMap<String, Reloads> {
        &self.reloads_by_result
    }

    /// Recycled workers by reason.
    pub fn recycled_by_reason(&self) -> &BTreeMap<String, u64> {
        &self.recycled_by_reason
    }

    /// When the current generation was committed.
    pub fn committed_at(&self) -> Option<SystemTime> {
        self.committed_at
    }

    /// The sums over the workers that have exited.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Adds the figures of a worker that has exited.
    pub fn add_totals(&mut self, totals: &Totals) {
        self.totals.add(totals);
    }

    /// Counts a recycled worker.
    pub fn count_recycled(&mut self, reason: RecycleReason) {
        *self.recycled_by_reason.entry(reason.as_str().to_owned()).or_default() += 1;
    }

    /// The first generation is ready: it counts as committed.
    pub fn first_committed(&mut self) {
        self.committed_at.get_or_insert_with(SystemTime::now);
    }

    /// A reload has begun.
    pub fn reload_started(&mut self, now: Instant) {
        self.reload_began = Some((SystemTime::now(), now));
    }

    /// A reload has ended. Returns the reason as it is told to everybody.
    pub fn reload_finished(&mut self, generation: GenerationId, outcome: Outcome, reason: Reason, now: Instant) -> Arc<str> {
        let Reason { cause, detail, output, worker } = reason;
        let reason: Arc<str> = cause.into();
        let ended = SystemTime::now();
        // A reload that is refused at once has no start time.
        let (began, since) = self.reload_began.take().unwrap_or((ended, now));
        let took = now.saturating_duration_since(since);
        self.reloads_by_result.entry(outcome.as_str().to_owned()).or_default().add(took.as_millis() as u64);
        if outcome == Outcome::Committed {
            self.committed_at = Some(ended);
        }
        let last = LastReload { generation, outcome, reason: reason.clone(), detail, output, worker, began, ended, took };
        self.last_reload = Some(last);
        reason
    }

    /// A committed generation was undone, by the reload that has just ended: that generation is the last reload now. Returns the reason
    /// as it is told to everybody.
    pub fn undone(&mut self, generation: GenerationId, reason: Reason) -> Arc<str> {
        let reason: Arc<str> = reason.cause.into();
        if let Some(last) = &mut self.last_reload {
            (last.generation, last.outcome, last.reason) = (generation, Outcome::Undone, reason.clone());
            let took = last.took.as_millis() as u64;
            self.reloads_by_result.entry(Outcome::Undone.as_str().to_owned()).or_default().add(took);
        }
        reason
    }

    /// Records a failure; the worker's last lines are added later, by [`Self::tail_known`].
    pub fn failed(&mut self, ended: &pool::Ended, how: &str) {
        *self.failures_by_cause.entry(ended.how.cause().to_owned()).or_default() += 1;
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
            time: time(SystemTime::now()),
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
        self.tails.insert(ended.worker, ended.generation);
    }

    /// Adds the first and last lines of a failed worker, and the requests that it was serving, to its failure; logs what they explain.
    pub fn tail_known(&mut self, worker: WorkerId, printed: Printed, serving: (Vec<Request>, u64), log: &Log) {
        self.tails.remove(&worker);
        let Some(failure) = self.failures.iter_mut().rev().find(|failure| failure.worker == worker) else { return };
        let lines = printed.lines();
        failure.detail = error_line(&lines);
        (failure.log_head, failure.log_tail) = (printed.head, printed.tail);
        (failure.serving, failure.serving_unlisted) = serving;
        let hint = hint(&failure.how, &lines);
        let hint = hint.map(|hint| format!("hint for workers of generation {}: {hint}", failure.generation));
        if let Some(last) = self.last_reload.as_mut().filter(|last| last.worker == Some(worker)) {
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
            log.record(Record { worker: Some(worker), generation, slot, pid, id, ..Record::new(Level::Warning, message) });
        }
        if let Some(hint) = hint
            && log.is_first(&hint)
        {
            log.record(Record { id: catalog::HINT, ..Record::new(Level::Warning, hint) });
        }
    }

    /// Whether no failure waits for its worker's last lines.
    pub fn has_all_tails(&self) -> bool {
        self.tails.is_empty()
    }

    /// Whether a failed worker of this generation is still to get its last lines.
    pub fn lacks_a_tail(&self, generation: GenerationId) -> bool {
        self.tails.values().any(|of| *of == generation)
    }

    /// Whether this worker failed and is still to get its last lines.
    pub fn lacks_tail_of(&self, worker: WorkerId) -> bool {
        self.tails.contains_key(&worker)
    }

    /// Notes that the files of this generation's release have changed since it was pinned.
    pub fn release_changed(&mut self, generation: GenerationId, what: &str) {
        for failure in self.failures.iter_mut().filter(|failure| failure.generation == generation) {
            failure.release_changed = Some(what.to_owned());
        }
    }

    /// Adds the history to the state.
    pub fn save(&self, state: &mut state::State) {
        state.failures = self.failures.iter().cloned().collect();
        state.causes = self.failures_by_cause.clone();
        state.reloads = self.reloads_by_result.clone();
        state.recycled = self.recycled_by_reason.clone();
        state.committed_at = self.committed_at;
        state.past = self.totals.clone().finite();
        state.last_reload = self.last_reload.as_ref().map(|last| state::LastReload {
            generation: last.generation,
            result: last.outcome.as_str().to_owned(),
            reason: last.reason.to_string(),
            detail: last.detail.clone(),
            output: last.output.clone(),
            began: Some(last.began),
            ended: Some(last.ended),
            took: last.took,
        });
    }

    /// Takes the history out of the state of an earlier program.
    pub fn resume(&mut self, state: &mut state::State) {
        self.failures = std::mem::take(&mut state.failures).into();
        self.failures_by_cause.extend(std::mem::take(&mut state.causes));
        self.reloads_by_result.extend(std::mem::take(&mut state.reloads));
        self.recycled_by_reason.extend(std::mem::take(&mut state.recycled));
        self.committed_at = state.committed_at;
        self.totals = std::mem::take(&mut state.past);
        self.last_reload = state.last_reload.take().map(|last| LastReload {
            generation: last.generation,
            outcome: outcome(&last.result),
            reason: last.reason.into(),
            detail: last.detail,
            output: last.output,
            worker: None,
            began: last.began.unwrap_or(SystemTime::UNIX_EPOCH),
            ended: last.ended.unwrap_or(SystemTime::UNIX_EPOCH),
            took: last.took,
        });
    }
}

/// The time by RFC 3339, in UTC, to the millisecond.
pub(in crate::master) fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |at| format!("{at:.3}"))
}

/// The outcome of a reload from its word in `docs/contract.md`.
fn outcome(word: &str) -> Outcome {
    Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == word).unwrap_or(Outcome::Aborted)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::log::journal;
    use crate::pool::Phase;

    fn ended(worker: WorkerId) -> pool::Ended {
        let (how, phase, status) = (ExitCause::Exit(1), Phase::Ready, String::new());
        pool::Ended { worker, slot: 0, generation: 3, pid: Some(7), how, phase, failed: true, status }
    }

    #[test]
    fn history_keeps_the_last_failures_with_their_output() {
        let (mut history, log) = (History::default(), Log::new(journal::start("web")));
        (1..=25).for_each(|worker| history.failed(&ended(worker), "exit 1"));
        assert_eq!(history.failures().map(|failure| failure.worker).collect::<Vec<_>>(), (6..=25).collect::<Vec<_>>());
        assert!(history.lacks_a_tail(3) && !history.lacks_a_tail(4) && !history.has_all_tails());
        let printed = Printed { head: vec!["starting".to_owned()], tail: vec!["KeyError: 'TOKEN'".to_owned()] };
        (1..=25).for_each(|worker| history.tail_known(worker, printed.clone(), (Vec::new(), 0), &log));
        assert!(history.has_all_tails());
        history.release_changed(3, "app.py");
        history.failed(&ended(26), "exit 1");
        let last = history.failures().last().expect("a failure");
        assert_eq!((last.worker, last.release_changed.as_deref()), (26, Some("app.py")));
    }

    #[test]
    fn history_outlives_an_upgrade() {
        let (mut history, now) = (History::default(), Instant::now());
        history.reload_started(now);
        assert_eq!(&*history.reload_finished(4, Outcome::RolledBack, "worker 9".to_owned().into(), now), "worker 9");
        history.failed(&ended(9), "exit 1");
        history.count_recycled(RecycleReason::Age);
        let (mut state, mut next, mut again) = (state::State::default(), History::default(), state::State::default());
        history.save(&mut state);
        let saved = serde_json::to_value(&state).expect("JSON");
        next.resume(&mut state);
        next.save(&mut again);
        assert_eq!(serde_json::to_value(&again).expect("JSON"), saved);
        assert!(next.last_reload().is_some_and(|last| last.outcome == Outcome::RolledBack && last.generation == 4));
    }

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
