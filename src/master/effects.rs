//! Carries out the actions that the pool decides on.
//!
//! Law: actions are carried out in the order in which the pool returns them, none is postponed. An action that must be early comes early
//! from the pool. Threads that an action concerns (the log, the relay of the workers' output) are woken at the end of the turn.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::api::{Change, ReloadAnswer, Reply};
use crate::master::log::catalog;
use crate::master::log::journal::{Level, Record};
use crate::master::releases::prepare::Living;
use crate::master::status::publish::LastReload;
use crate::master::turn::Master;
use crate::master::workers::spawn::Start;
use crate::pool::{
    self, Action, Answer, Ended, Event, ExitCause, GenerationId, Kind, Outcome, Phase, Reason, RequesterId, Slot, WorkerId,
};

/// Time that systemd is asked for in addition to the workers' own timeouts.
const MARGIN: Duration = Duration::from_secs(10);

impl Master {
    /// Carries out one action.
    pub(super) fn apply(&mut self, action: Action) {
        match action {
            Action::Prepare(number) => self.prepare(number),
            Action::Spawn { worker, slot, generation } => {
                self.workers.add_to_spawn(worker, slot, generation);
                self.start_some();
            }
            Action::Stop(worker) => self.workers.stop(worker),
            Action::Vacate(worker) => self.listeners.drain(worker, self.now),
            Action::Abort(worker) => {
                self.workers.signal(worker, libc::SIGABRT);
                self.workers.signal(worker, libc::SIGCONT);
            }
            Action::Kill(worker) => self.workers.kill(worker, self.pool.worker(worker).map(|it| it.slot)),
            Action::DrainOrphaned(worker) => {
                self.workers.look_for_orphaned(worker, self.listeners.sockets());
            }
            Action::Changed(worker) => self.changed(worker),
            Action::Ended(ended) => self.record_end(ended),
            Action::Recycled(reason) => self.published.count_recycled(reason),
            Action::Forget(worker) => self.workers.forget(worker).into_iter().for_each(|totals| self.past.add(&totals)),
            Action::Release(number) => self.release(number),
            Action::ReloadStarted(number) => self.reload_started(number),
            Action::ReloadFinished(number, outcome, reason) => self.reload_finished(number, outcome, reason),
            Action::Answer(requester, answer) => self.answer(requester, answer),
            Action::Ready => self.all_ready(),
            Action::Stopping => self.stopping(),
            Action::Exit(code) if self.orphans.is_empty() => self.exit = Some(code),
            Action::Exit(code) => self.orphans.exit = Some(code),
            Action::Log(log) => self.write_log(log),
        }
    }

    /// Starts the preparation of a release. The result comes as an event, also when the task cannot start.
    fn prepare(&mut self, number: GenerationId) {
        if let Some(why) = self.troubles.refusal() {
            self.releases.cancel_preparation();
            return self.events.push(Event::Refused(number, why.into()));
        }
        let serving = self.pool.generation();
        let living = Living { footprint: self.workers.footprint(serving), status: self.status.address().map(str::to_owned) };
        self.releases.prepare(number, serving, living, &mut self.events);
    }

    fn release(&mut self, number: GenerationId) {
        self.releases.remove(number);
        if !self.releases.all().values().any(|release| release.config.worker.nonblocking) {
            self.listeners.no_longer_nonblocking();
        }
        self.keep_reader_rules();
    }

    /// Starts the next workers, as many as this turn may start.
    pub(super) fn start_some(&mut self) {
        while let Some((worker, slot, generation)) = self.workers.next_to_spawn() {
            self.status_cache.touch();
            let spawned = self.start(slot, generation, worker).and_then(|start| self.workers.spawn(worker, &start, self.now));
            self.events.push(match spawned {
                Ok(pid) => Event::Spawned(worker, pid),
                Err(why) => Event::SpawnFailed(worker, why),
            });
        }
    }

    /// What a worker is started from: its release and its sockets.
    fn start(&mut self, slot: Slot, generation: GenerationId, worker: WorkerId) -> Result<Start, String> {
        if self.pool.worker(worker).is_none_or(|worker| worker.phase == Phase::Draining) {
            return Err("not started: it is not wanted any more".to_owned());
        }
        let release = self.releases.get(generation).cloned().ok_or("not started: its release is gone")?;
        let sockets = self.listeners.for_start(slot, &release, self.pool.candidate() != Some(generation))?;
        Ok(Start { slot, generation, release, sockets })
    }

    /// Starts or stops watching whether a worker accepts, as the pool asks.
    pub(super) fn follow_readiness(&mut self, worker: WorkerId) {
        if !self.pool.wants_a_look(worker) {
            return self.workers.forget_readiness(worker);
        }
        let Some(slot) = self.pool.worker(worker).map(|worker| worker.slot) else { return };
        let Some(release) = self.workers.get(worker).map(|process| process.release.clone()) else { return };
        let sockets = self.listeners.of_slot(slot, &release).unwrap_or_default();
        self.workers.watch_readiness(worker, sockets, &mut self.events);
    }

    /// Watches all starting workers again, after an upgrade or the end of an earlier master.
    pub(super) fn follow_readiness_of_all(&mut self) {
        let workers: Vec<WorkerId> = self.pool.workers().map(|(id, _)| id).collect();
        for worker in workers {
            self.follow_readiness(worker);
        }
    }

    /// Follows the readiness of a worker whose state has changed, and queues the change for listeners.
    fn changed(&mut self, worker: WorkerId) {
        self.follow_readiness(worker);
        if let Some(view) = self.workers.view(&self.pool, worker) {
            self.changes.push(Change::Worker(view));
        }
    }

    /// Queues the exit of a worker for D-Bus and the listeners of `/events`.
    fn tell_end(&mut self, ended: &Ended) {
        self.changes.push(Change::WorkerExited {
            id: ended.worker,
            slot: ended.slot,
            generation: ended.generation,
            how: ended.how.to_string().into(),
            failed: ended.failed,
        });
    }

    /// Records the exit of a worker: a failure in the list, any other exit in the debug log.
    fn record_end(&mut self, ended: Ended) {
        self.tell_end(&ended);
        let how = ended.how.to_string();
        if ended.failed {
            self.record_failure(&ended, &how);
        } else {
            self.outputs.close(ended.worker);
            let message = format!("worker {} (slot {}) is gone: {how}", ended.worker, ended.slot);
            self.log.record(Record {
                generation: Some(ended.generation),
                worker: Some(ended.worker),
                slot: Some(ended.slot),
                pid: ended.pid,
                how: Some(how),
                ..Record::new(Level::Debug, message)
            });
        }
        if ended.how == ExitCause::OutOfMemory {
            self.log.record(Record {
                generation: Some(ended.generation),
                worker: Some(ended.worker),
                slot: Some(ended.slot),
                id: catalog::OOM_KILL,
                ..Record::new(Level::Error, format!("the kernel killed worker {} for its memory", ended.worker))
            });
        }
    }

    fn reload_started(&mut self, number: GenerationId) {
        self.published.reload_began = Some((SystemTime::now(), self.now));
        self.changes.push(Change::ReloadStarted { generation: number });
    }

    fn reload_finished(&mut self, number: GenerationId, outcome: Outcome, reason: Reason) {
        self.releases.cancel_preparation();
        self.reload_decided(number, outcome);
        if outcome == Outcome::Committed {
            self.releases.warn_of(number);
            if let Some(release) = self.releases.get(number) {
                self.listeners.committed(release);
            }
        }
        let Reason { cause, detail, output, worker } = reason;
        let reason: Arc<str> = cause.into();
        let ended = SystemTime::now();
        // A reload that is refused at once has no start time.
        let (began, since) = self.published.reload_began.take().unwrap_or((ended, self.now));
        let took = self.now.saturating_duration_since(since);
        let reloads = self.published.reloads.entry(outcome.as_str().to_owned()).or_default();
        reloads.add(took.as_millis() as u64);
        if outcome == Outcome::Committed {
            self.published.committed_at = Some(ended);
        }
        let last = LastReload { generation: number, outcome, reason: reason.clone(), detail, output, worker, began, ended, took };
        self.published.last_reload = Some(last);
        self.changes.push(Change::ReloadFinished { generation: number, outcome, reason });
        self.systemd.reloaded(self.now);
        self.published.at_once = true;
    }

    fn answer(&mut self, requester: RequesterId, answer: Answer) {
        let answer = match answer {
            Answer::Reload(generation, outcome, reason) => {
                let warnings = self.conditions.warnings(generation).to_vec();
                let stopping = self.pool.is_stopping();
                let Reason { cause: reason, detail, output, worker } = reason;
                Reply::Reload(ReloadAnswer { generation, outcome, reason, detail, output, worker, warnings, stopping })
            }
            Answer::Done => Reply::Done,
            Answer::Failed(why) => Reply::Failed(why),
        };
        self.requests.answer(requester, answer);
    }

    fn all_ready(&mut self) {
        self.published.committed_at.get_or_insert_with(SystemTime::now);
        self.published.at_once = true;
        // The status line is sent before READY=1, so that an active unit shows it.
        let line = self.status_line();
        self.systemd.status(&line, true, self.now);
        self.systemd.ready(self.now);
        self.drain_orphans();
        self.say_hello();
    }

    fn stopping(&mut self) {
        self.drain_orphans();
        self.systemd.stopping(self.releases.longest_stop() + MARGIN, self.now);
        self.published.at_once = true;
    }

    /// Work makes progress: extends systemd's timeout by the longest time that a worker may take.
    pub(super) fn extend(&mut self) {
        if let Some(slowest) = self.releases.longest_replacement() {
            self.systemd.extend(slowest + MARGIN, self.now);
        }
    }

    fn write_log(&mut self, log: pool::Log) {
        let (level, id) = catalog::entry(log.kind);
        let pid = log.worker.and_then(|worker| self.workers.get(worker)).map(|process| process.pid);
        // "worker 3 (slot 0): exit 1": the catalog's texts need the part after the colon.
        let why = log.message.split_once(": ").map(|(_, why)| why.to_owned());
        let (how, reason) = match log.kind {
            Kind::WorkerFailed | Kind::StartTimeout | Kind::Watchdog | Kind::Degraded => (why, None),
            Kind::RolledBack | Kind::Refused | Kind::CannotStart => (None, why),
            _ => (None, None),
        };
        self.log.record(Record {
            generation: log.generation,
            worker: log.worker,
            slot: log.slot,
            pid,
            id,
            how,
            reason,
            ..Record::new(level, log.message)
        });
    }
}
