//! Publishes the state when it has changed, at the end of a turn: the summary, systemd's status line, changes.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::api::{Change, ProbeAnswer, ReloadAnswer, Reply, Summary};
use crate::master::log::catalog;
use crate::master::log::journal::{Level, Record};
use crate::master::log::text::one_line;
use crate::master::output::Printed;
use crate::master::service_manager::start_advice;
use crate::master::service_manager::systemd::STATUS_MAX;
use crate::master::status::accepting::Accepting;
use crate::master::status::document::shown_canary;
use crate::master::status::waiting::Waiting;
use crate::master::status::{StatusPublisher, troubles};
use crate::master::task_result::TaskResult;
use crate::master::workers::processes::Process;
use crate::pool::{self, Ceiling, GenerationId, Outcome, Pool, PoolState, Reason, RecycleReason, Scaled, WorkerId};
use crate::status::scoreboard::Totals;
use crate::status::tree::{Canary, Request};

/// The result of publishing in a turn, for systemd and for the rules of readers.
pub(in crate::master) struct Published {
    /// The line that systemd shows as `Status:`.
    pub line: Arc<str>,
    /// More than a count has changed, so systemd gets the line at once.
    pub at_once: bool,
    /// Workers have become ready, or the state has changed, while the instance starts or reloads.
    pub is_progress: bool,
    /// The summary is another one.
    pub has_changed: bool,
}

impl StatusPublisher {
    /// Publishes the summary, then the changes of this turn. `beside`: whether workers of an earlier program live beside the pool.
    pub fn publish(&mut self, pool: &Pool, beside: bool) -> Published {
        let summary = self.summary(pool, beside);
        let line = summary.status_text.clone();
        let is_new_state = summary.state != self.state || summary.paused != self.is_paused || summary.at_max != self.is_at_max;
        let is_progress = (summary.workers_ready > self.ready || is_new_state)
            && matches!(summary.state, PoolState::Starting | PoolState::Reloading);
        let at_once = std::mem::take(&mut self.at_once) || is_new_state;
        (self.ready, self.state, self.is_paused) = (summary.workers_ready, summary.state, summary.paused);
        self.is_at_max = summary.at_max;
        let has_changed = self.summary.send_if_modified(|told| {
            let changed = *told != summary;
            *told = summary;
            changed
        });
        if has_changed {
            self.touch();
        }
        self.changes.tell(&self.feed);
        Published { line, at_once, is_progress, has_changed }
    }

    /// Whether an answer waits: the requester of a failed reload asks next what the failed worker printed.
    pub fn holds_back(&self, answer: &Reply) -> bool {
        match answer {
            Reply::Reload(answer) if answer.outcome == Outcome::RolledBack => self.history.lacks_a_tail(answer.generation),
            Reply::Reload(ReloadAnswer { worker: Some(worker), .. }) | Reply::Probe(ProbeAnswer { worker: Some(worker), .. }) => {
                self.history.lacks_tail_of(*worker)
            }
            Reply::Reload(_) | Reply::Probe(_) | Reply::Done | Reply::Failed(_) => false,
        }
    }

    /// Adds to the answer of a reload what the failed worker printed.
    pub fn add_output(&self, answer: &mut Reply) {
        let (worker, detail, output) = match answer {
            Reply::Reload(answer) => (answer.worker, &mut answer.detail, &mut answer.output),
            Reply::Probe(answer) => (answer.worker, &mut answer.detail, &mut answer.output),
            Reply::Done | Reply::Failed(_) => return,
        };
        if let Some(failure) = self.history.failures().filter(|failure| Some(failure.worker) == worker).last() {
            *detail = failure.detail.clone().or(detail.take());
            *output = failure.log_head.iter().chain(&failure.log_tail).cloned().collect();
        }
    }

    /// The line that systemd shows as `Status:`.
    pub fn line(&self, pool: &Pool) -> String {
        let is_said = pool.degraded() || !matches!(pool.state(), PoolState::Running | PoolState::Idle);
        let mut line = pool.status_text();
        if let Some(waiting) = self.waiting.as_ref().filter(|_| pool.is_paused()) {
            line += &format!(", {}", waiting.text());
        }
        let line = self.conditions.line(self.troubles.add_to(line, is_said));
        if pool.start_fails() { line + &start_advice::advice(self.config_file.as_deref()) } else { line }
    }

    fn summary(&self, pool: &Pool, beside: bool) -> Summary {
        let last = self.history.last_reload();
        let (workers_min, workers_max) = pool.bounds();
        Summary {
            instance: self.instance.clone(),
            state: pool.state(),
            paused: pool.is_paused(),
            idle: pool.is_idle(),
            last_wake: pool.last_wake(),
            degraded: pool.degraded() || beside || !self.troubles.is_empty(),
            // The output of a check may have many lines, and a worker's status any text.
            status_text: one_line(self.line(pool).as_bytes(), STATUS_MAX).into(),
            generation: pool.committed(),
            workers_configured: pool.target(),
            workers_ready: pool.ready(),
            workers_min,
            workers_max,
            at_max: matches!(pool.ceiling(), Some(Ceiling::Max(_))),
            crashes: pool.crashes(),
            started_at: self.started_at,
            last_reload: last.map(|last| (last.generation, last.outcome, last.reason.clone(), last.ended)),
            canary: pool.canary().map(|canary| Arc::new(to_the_second(shown_canary(canary)))),
        }
    }

    /// systemd is to get the status line at the end of this turn.
    pub fn hurry(&mut self) {
        self.at_once = true;
    }

    /// Queues a change for D-Bus and the listeners of `/events`.
    pub fn tell(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// All workers of the first generation are ready.
    pub fn all_ready(&mut self) {
        self.history.first_committed();
        self.hurry();
    }

    /// A reload has begun.
    pub fn reload_started(&mut self, generation: GenerationId, now: Instant) {
        self.history.reload_started(now);
        self.tell(Change::ReloadStarted { generation });
    }

    /// A reload has ended.
    pub fn reload_finished(&mut self, generation: GenerationId, outcome: Outcome, reason: Reason, now: Instant) {
        let reason = self.history.reload_finished(generation, outcome, reason, now);
        self.tell(Change::ReloadFinished { generation, outcome, reason });
        self.hurry();
    }

    /// A committed generation was undone by the watch; the reload that brought the former release back has ended.
    pub fn undone(&mut self, generation: GenerationId, release: GenerationId, reason: Reason) {
        let reason = self.history.undone(generation, reason);
        self.tell(Change::ReloadFinished { generation, outcome: Outcome::Undone, reason: reason.clone() });
        self.tell(Change::Undone { generation, release, reason });
        self.hurry();
    }

    /// The number of workers is another one.
    pub fn scaled(&mut self, scaled: Scaled) {
        self.last_scaled = Some((scaled.clone(), SystemTime::now()));
        self.tell(Change::Scaled(scaled));
        self.hurry();
    }

    /// Counts a recycled worker.
    pub fn count_recycled(&mut self, reason: RecycleReason) {
        self.history.count_recycled(reason);
    }

    /// Adds the figures of a worker that has exited.
    pub fn add_totals(&mut self, totals: &Totals) {
        self.history.add_totals(totals);
    }

    /// Queues the exit of a worker for D-Bus and the listeners of `/events`, and records it: a failure in the list, any other exit in
    /// the debug log. `process`: the worker's process, if it had one.
    pub fn worker_ended(&mut self, ended: &pool::Ended, process: Option<&Process>) {
        let how = ended.how.to_string();
        self.tell(Change::WorkerExited {
            id: ended.worker,
            slot: ended.slot,
            generation: ended.generation,
            how: how.as_str().into(),
            failed: ended.failed,
        });
        let (generation, worker, slot) = (Some(ended.generation), Some(ended.worker), Some(ended.slot));
        if ended.failed {
            self.history.failed(ended, &how);
            self.fetch_tail(ended, process);
        } else {
            self.outputs.close(ended.worker);
            let message = format!("worker {} (slot {}) is gone: {how}", ended.worker, ended.slot);
            let record = Record::new(Level::Debug, message);
            self.log.record(Record { generation, worker, slot, pid: ended.pid, how: Some(how), ..record });
        }
        if ended.how == pool::ExitCause::OutOfMemory {
            let record = Record::new(Level::Error, format!("the kernel killed worker {} for its memory", ended.worker));
            self.log.record(Record { generation, worker, slot, id: catalog::OOM_KILL, ..record });
        }
    }

    /// Fetches the first and last lines of a failed worker, and the requests that it was serving, off the loop.
    fn fetch_tail(&self, ended: &pool::Ended, process: Option<&Process>) {
        let since = process.map_or_else(SystemTime::now, |process| process.started_at);
        let scoreboard = process.and_then(|process| process.scoreboard.clone());
        let group = process.and_then(|process| process.group.as_ref()).map(|group| group.path().to_owned());
        let (outputs, results, worker, pid) = (self.outputs.clone(), self.results.clone(), ended.worker, ended.pid.unwrap_or(0));
        tokio::spawn(async move {
            let lines = outputs.tail(worker, pid, group, since).await;
            outputs.close(worker);
            outputs.wake();
            let serving = tokio::task::spawn_blocking(move || scoreboard.map_or_else(Default::default, |board| board.serving()));
            let _ = results.send(TaskResult::Tail(worker, lines, serving.await.unwrap_or_default()));
        });
    }

    /// Adds the first and last lines of a failed worker to its failure.
    pub fn tail_known(&mut self, worker: WorkerId, printed: Printed, serving: (Vec<Request>, u64)) {
        self.history.tail_known(worker, printed, serving, &self.log);
    }

    /// Whether no failure waits for its worker's last lines.
    pub fn has_all_tails(&self) -> bool {
        self.history.has_all_tails()
    }

    /// Warns that failed workers of this generation, and their replacements, may have run files of another release.
    pub fn release_changed(&mut self, number: GenerationId, what: &str) {
        self.history.release_changed(number, what);
        self.log.warn_once(&format!(
            "the release of generation {number} is not what it was: {what}; its workers start again from these files as they are \
             now. Deploy each release into a directory of its own, with a symlink that moves (worker.directory)"
        ));
    }

    /// Takes in which ready workers accept, and tells of it when that is another trouble than before.
    pub fn accepting_seen(&mut self, seen: Accepting) {
        if self.accepting != seen.workers {
            self.touch();
        }
        self.accepting = seen.workers;
        match seen.verdict.sentence(&self.instance) {
            Some(sentence) if self.troubles.begin(troubles::NOT_ACCEPTING, sentence.clone()) => {
                self.log.warn(sentence);
                self.hurry();
            }
            None if self.troubles.end(troubles::NOT_ACCEPTING) => {
                self.log.record(Record::new(Level::Info, "the ready workers accept connections again".to_owned()));
                self.hurry();
            }
            Some(_) | None => {}
        }
    }

    /// No worker is to accept: what was seen of that before is not told any more.
    pub fn forget_accepting(&mut self) {
        self.accepting.clear();
        self.troubles.end(troubles::NOT_ACCEPTING);
    }

    /// Takes in the connections that wait while the instance is paused; `None` at the end of that. Warns once in a pause of a queue that is
    /// nearly full.
    pub fn queues_seen(&mut self, waiting: Option<Waiting>) {
        let Some(seen) = &waiting else {
            (self.waiting, self.is_warned) = (None, false);
            return;
        };
        if let Some(warning) = seen.warning(&self.instance).filter(|_| !self.is_warned) {
            self.is_warned = true;
            self.log.record(Record { id: catalog::QUEUE_FILLS, ..Record::new(Level::Warning, warning) });
            self.hurry();
        }
        self.waiting = waiting;
    }

    /// Whether it is told that ready workers do not accept.
    pub fn lacks_accepting(&self) -> bool {
        self.troubles.has(troubles::NOT_ACCEPTING)
    }

    /// Reports addresses for which systemd passed no socket.
    pub fn sockets_missing(&mut self, why: String) {
        // Another trouble is already reported, such as lost sockets of an earlier master with what becomes of them.
        if !self.troubles.is_empty() {
            return;
        }
        let record = Record::new(Level::Error, format!("degraded: {why}"));
        self.log.record(Record { id: catalog::DEGRADED, how: Some(why.clone()), ..record });
        self.troubles.begin(troubles::NOT_PASSED, why);
        self.hurry();
    }
}

/// The time that is left in whole seconds, rounded up: another summary each turn would wake every listener.
fn to_the_second(canary: Canary) -> Canary {
    Canary { left_ms: canary.left_ms.map(|left| left.div_ceil(1000).saturating_mul(1000)), ..canary }
}
