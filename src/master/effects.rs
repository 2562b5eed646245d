//! Carries out the actions that the pool decides on.
//!
//! Law: actions are carried out in the order in which the pool returns them, none is postponed. An action that must be early comes early
//! from the pool. Threads that an action concerns (the log, the relay of the workers' output) are woken at the end of the turn.

use std::time::Duration;

use crate::api::{Change, ProbeAnswer, ReloadAnswer, Reply};
use crate::master::log::catalog;
use crate::master::log::journal::{Level, Record};
use crate::master::releases::prepare::Living;
use crate::master::status::hello;
use crate::master::workers::spawn::Start;
use crate::master::{End, Master};
use crate::pool::{
    self, Action, Answer, CommandVerdict, Ended, Event, GenerationId, Kind, Outcome, Phase, Purpose, Queue, Reason, RequesterId,
    Slot, StartMode, WorkerId,
};

/// By whom a first generation was asked for.
const START: &str = "start";
/// Time that systemd is asked for in addition to the workers' own timeouts.
const MARGIN: Duration = Duration::from_secs(10);
/// Time from the stop signal to SIGKILL for workers of an earlier program, if no release is known.
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(30);

impl Master {
    /// Carries out one action.
    pub(super) fn apply(&mut self, action: Action) {
        match action {
            Action::Prepare(number, purpose) => self.prepare(number, purpose),
            Action::Spawn { worker, slot, generation } => {
                self.workers.add_to_spawn(worker, slot, generation);
                self.start_some();
            }
            Action::Probe(worker) => {
                if let Some(process) = self.workers.get(worker) {
                    self.prober.ask(worker, process, &mut self.events);
                }
            }
            Action::Judge(number, step) => self.judge(number, step),
            Action::Stop(worker) => {
                // A preload process whose socket is closed has nothing left to do.
                self.workers.close_fork_socket(worker);
                self.workers.stop(worker);
            }
            Action::DrainQueue(worker) => self.listeners.drain(worker, self.now),
            Action::Abort(worker) => {
                self.workers.signal(worker, libc::SIGABRT);
                self.workers.signal(worker, libc::SIGCONT);
            }
            Action::Kill(worker) => self.workers.kill(worker, self.pool.worker(worker).map(|it| it.slot)),
            Action::DrainOrphaned(worker) => {
                self.workers.look_for_orphaned(worker, self.listeners.watched());
            }
            Action::Changed(worker) => self.changed(worker),
            Action::Ended(ended) => self.record_end(&ended),
            Action::Scaled(scaled) => self.status.scaled(scaled),
            Action::Recycled(reason) => self.status.count_recycled(reason),
            Action::Forget(worker) => {
                self.prober.forget(worker);
                self.workers.forget(worker).into_iter().for_each(|totals| self.status.add_totals(&totals));
            }
            Action::Release(number) => self.release(number),
            Action::ReloadStarted(number, requester) => {
                self.requests.reload_started(requester, self.pool.own_reload(number));
                self.status.reload_started(number, self.now);
            }
            Action::ReloadFinished(number, outcome, reason) => self.reload_finished(number, outcome, reason),
            Action::Undone { generation, release, reason } => self.undone(generation, release, reason),
            Action::Answer(requester, answer) => self.answer(requester, answer),
            Action::Ready => self.all_ready(),
            Action::Stopping => self.stopping(),
            Action::Exit(code) if self.unknown_workers.is_empty() => self.end = Some(End::Exit(code)),
            Action::Exit(code) => self.unknown_workers.exit = Some(code),
            Action::Log(log) => self.write_log(log),
        }
    }

    /// Starts the preparation of a release. The result comes as an event, also when the task cannot start.
    fn prepare(&mut self, number: GenerationId, purpose: Purpose) {
        if let Some(why) = self.status.refusal() {
            self.releases.cancel_preparation();
            return self.events.push(Event::Refused(number, why.into()));
        }
        let serving = self.pool.generation();
        let living = Living { footprint: self.workers.footprint(serving), status: self.status.address().map(str::to_owned) };
        self.releases.prepare(number, purpose, serving, living, &mut self.events);
    }

    /// Asks `reload.judge_command`. The answer comes as an event, also when the command cannot be asked.
    fn judge(&mut self, number: GenerationId, step: usize) {
        let canary = self.pool.canary().filter(|canary| canary.generation == number);
        let asked = match &canary {
            Some(canary) => self.releases.ask_judge_command(self.pool.generation(), canary, step),
            None => Err("the canary is gone".to_owned()),
        };
        if let Err(why) = asked {
            self.events.push(Event::Judged(number, step, CommandVerdict::Unclear(why.into())));
        }
        self.extend();
    }

    fn release(&mut self, number: GenerationId) {
        self.releases.remove(number);
        if !self.releases.all().values().any(|release| release.config.worker.nonblocking) {
            self.listeners.no_longer_nonblocking();
        }
        self.status.keep_reader_rules(self.releases.all(), self.pool.generation());
    }

    /// Drains the workers of an earlier program of which nothing else is known: a generation of this program is ready, or the instance
    /// ends.
    pub(super) fn drain_orphans(&mut self) {
        let release = self.releases.get(self.pool.generation());
        let (signal, timeout) = release.map_or((libc::SIGTERM, ORPHANS_TIMEOUT), |release| {
            (release.config.worker.stop_signal, release.config.worker.stop_timeout)
        });
        self.unknown_workers.drain(signal, timeout, self.now);
    }

    /// Looks whether the workers of an earlier program are gone.
    pub(super) fn look_at_orphans(&mut self) {
        if self.unknown_workers.on_deadline(self.now) {
            self.log.record(Record::new(Level::Info, "the workers of the earlier program are gone"));
            self.workers.remove_strays();
            if let Some(code) = self.unknown_workers.exit {
                self.end = Some(End::Exit(code));
            }
        }
    }

    /// Starts the next workers, as many as this turn may start.
    pub(super) fn start_some(&mut self) {
        while let Some((worker, slot, generation)) = self.workers.next_to_spawn() {
            self.queue_watch.let_go();
            self.idle_watch.let_go();
            self.hang_watch.let_go();
            self.status.touch();
            let spawned = self.start(slot, generation, worker);
            match spawned.and_then(|start| self.workers.begin(worker, start, self.now, &mut self.events)) {
                Ok(Some(pid)) => self.events.push(Event::Spawned(worker, pid)),
                // Its preload process is asked for it.
                Ok(None) => {}
                Err(why) => self.events.push(Event::SpawnFailed(worker, why)),
            }
        }
    }

    /// The release and the sockets from which a worker is started.
    fn start(&mut self, slot: Slot, generation: GenerationId, worker: WorkerId) -> Result<Start, String> {
        if self.pool.worker(worker).is_none_or(|worker| worker.phase == Phase::Draining) {
            return Err("not started: it is not wanted any more".to_owned());
        }
        let release = self.releases.get(generation).cloned().ok_or("not started: its release is gone")?;
        let mode = self.pool.start_mode(worker);
        if mode == StartMode::Preload {
            return Ok(Start { slot, generation, release, sockets: None, environment: Vec::new(), mode });
        }
        if self.pool.worker(worker).is_some_and(|worker| worker.is_probe) {
            let directory = self.workers.runtime_dir().notify();
            self.prober.open(worker, &release, &self.releases.context().listeners, &directory)?;
        }
        let sockets = match self.prober.sockets(worker) {
            Some(private) => Some(private),
            None => {
                let queue = self.pool.worker(worker).map_or(Queue::FIRST, |worker| self.pool.queue(worker));
                self.listeners.for_start(queue, &release, self.pool.candidate() != Some(generation))?
            }
        };
        Ok(Start { slot, generation, release, sockets, environment: self.prober.environment(worker), mode })
    }

    /// Starts or stops watching whether a worker accepts, as the pool asks.
    pub(super) fn follow_readiness(&mut self, worker: WorkerId) {
        if !self.pool.wants_a_look(worker) {
            return self.workers.forget_readiness(worker);
        }
        let Some(queue) = self.pool.worker(worker).map(|worker| self.pool.queue(worker)) else { return };
        let Some(release) = self.workers.get(worker).map(|process| process.release.clone()) else { return };
        let private = self.prober.sockets(worker);
        let sockets = private.or_else(|| self.listeners.of_queue(queue, &release).unwrap_or_default());
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
            self.status.tell(Change::Worker(view));
        }
    }

    /// Records the exit of a worker.
    fn record_end(&mut self, ended: &Ended) {
        self.status.worker_ended(ended, self.workers.get(ended.worker));
        if ended.failed {
            self.releases.look_for_changes(ended.generation, self.now);
        }
    }

    fn reload_finished(&mut self, number: GenerationId, outcome: Outcome, reason: Reason) {
        self.releases.cancel_preparation();
        self.reload_decided(number, outcome);
        if outcome == Outcome::Committed {
            self.releases.committed(number, self.requests.reload_asked_by(), self.pool.history());
            self.releases.warn_of(number);
            if let Some(release) = self.releases.get(number) {
                self.listeners.committed(release);
            }
        }
        if outcome != Outcome::Committed {
            self.run_on_rollback(number, outcome, &reason);
        }
        self.status.reload_finished(number, outcome, reason, self.now);
        self.systemd.reloaded(self.now);
    }

    /// The watch has undone a generation, and the former release serves again.
    fn undone(&mut self, number: GenerationId, release: GenerationId, reason: Reason) {
        self.run_on_rollback(number, Outcome::Undone, &reason);
        self.status.undone(number, release, reason);
    }

    fn run_on_rollback(&mut self, number: GenerationId, outcome: Outcome, reason: &Reason) {
        if let Some(command) = self.releases.run_on_rollback(self.pool.generation()) {
            self.requests.add_answer(command, self.reload_answer(number, outcome, reason.clone()));
        }
    }

    fn answer(&mut self, requester: RequesterId, answer: Answer) {
        let answer = match answer {
            Answer::Reload(generation, outcome, reason) => self.reload_answer(generation, outcome, reason),
            Answer::Probed(generation, failure) => {
                let passed = failure.is_none();
                let Reason { cause: reason, detail, output, worker } = failure.unwrap_or_default();
                Reply::Probe(ProbeAnswer { generation, passed, reason, detail, output, worker })
            }
            Answer::Done => Reply::Done,
            Answer::Failed(why) => Reply::Failed(why),
        };
        self.requests.answer(requester, answer);
    }

    fn reload_answer(&self, generation: GenerationId, outcome: Outcome, reason: Reason) -> Reply {
        let (warnings, stopping) = (self.status.warnings(generation), self.pool.is_stopping());
        let Reason { cause: reason, detail, output, worker } = reason;
        Reply::Reload(ReloadAnswer { generation, outcome, reason, detail, output, worker, warnings, stopping })
    }

    fn all_ready(&mut self) {
        self.status.all_ready();
        let first = self.pool.generation();
        if self.releases.commits().get(first).is_none() {
            let asked_by = self.pool.own_reload(first).unwrap_or(START);
            self.releases.committed(first, asked_by.into(), self.pool.history());
        }
        // The status line is sent before READY=1, so that an active unit shows it.
        self.systemd.status(&self.status.line(&self.pool), true, self.now);
        self.systemd.ready(self.now);
        self.drain_orphans();
        self.say_hello();
    }

    /// Logs that the generation serves and, without systemd, what a user at a terminal can do next.
    fn say_hello(&self) {
        let number = self.pool.generation();
        let serving = hello::serving(number, self.pool.target(), &self.listeners.addresses());
        self.log.record(Record { generation: Some(number), ..Record::new(Level::Info, serving) });
        if !self.systemd.is_there() {
            let hints = hello::hints(&self.releases.context().instance, self.listeners.tcp_address());
            hints.into_iter().for_each(|hint| self.log.record(Record::new(Level::Info, hint)));
        }
    }

    fn stopping(&mut self) {
        self.drain_orphans();
        self.systemd.stopping(self.releases.longest_stop() + MARGIN, self.now);
        self.status.hurry();
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
            Kind::WorkerFailed | Kind::StartTimeout | Kind::Watchdog | Kind::Hangs | Kind::Degraded => (why, None),
            Kind::RolledBack | Kind::Refused | Kind::Undone | Kind::CannotStart | Kind::ProbeFailed | Kind::Scaled => (None, why),
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
