//! Handles the results of other threads and tasks.

use std::time::Instant;

use crate::config::Ready;
use crate::master::Master;
use crate::master::listeners::idle_watch::IdleStage;
use crate::master::load_watch::{Seen, Subjects};
use crate::master::log::journal::{Level, Record};
use crate::master::pool_clock;
use crate::master::releases::prepare::{self, Prepared};
use crate::master::status::accept_watch::Look;
use crate::master::status::document::LoopFacts;
use crate::master::status::scale::ScaleFacts;
use crate::master::status::status_cache::{Job, Requester};
use crate::master::task_result::TaskResult;
use crate::master::tasks::TaskId;
use crate::pool::{Event, GenerationId, Outcome, Reason, Surge};
use crate::status::kernel::Queue;

impl Master {
    /// Handles a result of another thread.
    pub(super) fn take_result(&mut self, result: TaskResult) {
        // A look changes no status; the events that it leads to do.
        let is_look = matches!(result, TaskResult::Accepting(_) | TaskResult::AcceptLookFailed | TaskResult::Hangs(_));
        if !is_look && !matches!(result, TaskResult::Composed) {
            self.status.touch();
        }
        let events = &mut self.events;
        match result {
            TaskResult::Prepared(task, number, result) => self.prepared(task, number, result),
            TaskResult::ReadyToStop(task, result) => self.releases.shutdown_hook_ended(task, result, events),
            TaskResult::ReleaseChanged(number, what) => self.status.release_changed(number, &what),
            TaskResult::SocketsMissing(why) => self.status.sockets_missing(why),
            TaskResult::Orphaned(worker, found) => {
                let slot = self.pool.worker(worker).map(|it| it.slot);
                self.workers.orphaned_found(worker, slot, found, events);
            }
            TaskResult::Discarded(worker, progress) => self.workers.discarded(worker, progress),
            TaskResult::Orphans => self.workers.children(events),
            TaskResult::Readiness(worker, seen) => self.workers.readiness_seen(worker, &seen, events),
            TaskResult::Probed(worker, result) => events.push(Event::Probed(worker, result)),
            TaskResult::Judged(number, step, verdict) => events.push(Event::Judged(number, step, verdict)),
            TaskResult::AcceptLookFailed => self.accept_watch.ended(),
            TaskResult::Accepting(seen) => {
                self.accept_watch.ended();
                // The workers of a paused or idle instance are not to accept.
                if !self.pool.is_paused() && !self.pool.wants_no_workers() {
                    self.status.accepting_seen(seen);
                }
            }
            TaskResult::Queues(queues) => self.queues_seen(&queues),
            TaskResult::Activity { open, cpu } => self.idle_watch.seen(open, cpu, self.now, &mut self.events),
            TaskResult::Load(seen) => self.load_seen(&seen),
            TaskResult::Hangs(look) => {
                let seen = self.hang_watch.seen(look);
                self.pool.judge(pool_clock::time(self.now), &seen).into_iter().for_each(|event| events.push(event));
            }
            TaskResult::Composed => {
                let job = self.status.next_document();
                self.compose(job);
            }
            TaskResult::RecycleDue(worker, why) => events.push(Event::RecycleDue(worker, why)),
            TaskResult::Checked(task, result) => {
                if let Err(why) = self.upgrader.answered(task, result, self.now) {
                    self.not_replaced(&why);
                }
            }
            TaskResult::Tail(worker, lines, serving) => self.status.tail_known(worker, lines, serving),
        }
    }

    /// Answers a requester of the status document, which another thread composes.
    pub(super) fn document(&mut self, requester: Requester) {
        let job = self.status.ask(requester);
        self.compose(job);
    }

    fn compose(&mut self, job: Option<Job>) {
        let Some(job) = job else { return };
        let Master { accept_watch, pool, workers, listeners, releases, now, .. } = self;
        let release = releases.get(pool.generation()).map(AsRef::as_ref);
        let look = accept_watch.for_reader(*now, || Look::at(pool, workers, listeners, release));
        let (kept, paths) = (releases.history(pool.history()), release.map(|release| releases.paths(release)));
        let (preload, workers, listeners) = (workers.preload(pool), workers.facts(pool), listeners.shown());
        let (canary, watch, pause_left) = (pool.canary(), pool.watch(), pool.pause_left());
        let scale = ScaleFacts { is_fixed: pool.is_fixed(), load: pool.load().copied(), elastic: pool.elastic().copied() };
        let (watched, slots) = (self.listeners.watched(), self.listeners.slots_of_sockets());
        let facts = LoopFacts {
            workers,
            listeners,
            watched,
            slots,
            release,
            paths,
            look,
            releases: kept,
            canary,
            watch,
            preload,
            pause_left,
            scale,
        };
        self.status.compose(job, facts);
    }

    /// When the ready workers are looked at next without a reader of the status.
    pub(super) fn accept_deadline(&self) -> Option<Instant> {
        let worker = &self.releases.get(self.pool.generation())?.config.worker;
        let watched = worker.ready != Ready::Notify && !self.listeners.is_empty() && self.pool.ready() > 0;
        self.accept_watch.deadline().filter(|_| watched || self.status.lacks_accepting())
    }

    /// Looks whether the ready workers accept, when it is time.
    pub(super) fn look_at_accepting(&mut self) {
        if self.accept_deadline().is_none_or(|at| at > self.now) {
            return;
        }
        let release = self.releases.get(self.pool.generation()).map(AsRef::as_ref);
        let look = Look::at(&self.pool, &self.workers, &self.listeners, release);
        self.accept_watch.look(self.now, look);
    }

    /// Watches the accept queues while the instance is paused, and for connections where `worker.min` is 0. A socket is in the epoll set
    /// for one of the two only.
    pub(super) fn watch_queues(&mut self) {
        if self.pool.is_paused() || self.pool.wants_no_workers() {
            self.status.forget_accepting();
        }
        let (listeners, stage) = (&self.listeners, IdleStage::of(&self.pool));
        if stage == IdleStage::Off {
            self.idle_watch.follow(stage, Vec::new, self.now);
        }
        if self.queue_watch.follow(self.pool.is_paused(), || listeners.shown(), self.now) {
            self.status.queues_seen(None);
        }
        self.idle_watch.follow(stage, || listeners.shown(), self.now);
        let looks = self.pool.looks_for_hangs() && listeners.have_slots();
        self.hang_watch.follow(looks, self.now);
    }

    /// Looks for workers that hang, when it is time.
    pub(super) fn look_for_hangs(&mut self) {
        let Master { hang_watch, pool, workers, listeners, now, .. } = self;
        hang_watch.on_deadline(*now, || workers.hang_subjects(pool, listeners), || listeners.of_slots());
    }

    fn queues_seen(&mut self, queues: &[Option<Queue>]) {
        if let Some(waiting) = self.queue_watch.seen(queues, self.now) {
            self.status.queues_seen(Some(waiting));
        }
    }

    /// Takes a sample of the load of an elastic pool, when it is time.
    pub(super) fn sample_load(&mut self) {
        let Master { load_watch, pool, workers, listeners, now, .. } = self;
        let generation = pool.generation();
        let subjects = || {
            let (ready, footprint) = (workers.load_subjects(pool), workers.footprint(generation));
            Subjects { generation, workers: ready, sockets: listeners.watched(), footprint }
        };
        load_watch.on_deadline(*now, pool.load_period(), subjects);
    }

    /// The pool gets the sample, once there are sockets for all the slots that it may add.
    fn load_seen(&mut self, seen: &Seen) {
        let (generation, load) = self.load_watch.seen(seen);
        let Some(release) = self.releases.get(generation) else { return };
        match self.listeners.make_slots(&release.config, self.pool.next_most()) {
            Ok(()) => self.events.push(Event::Load(generation, load)),
            Err(error) => self.log.warn_once(&format!("the number of workers stays: {error}")),
        }
    }

    /// Handles the end of a preparation. The result counts only if it is the preparation that the master waits for.
    fn prepared(&mut self, id: TaskId, number: GenerationId, result: Result<Prepared, Reason>) {
        if !self.releases.is_prepared_by(id) {
            // The result is dropped, which closes the pinned files.
            return;
        }
        let slots = |prepared: Prepared| {
            let config = &prepared.release.config;
            let mut made = self.listeners.make_slots(config, self.pool.target());
            // An undo has no canary.
            if made.is_ok() && self.pool.may_have_canary(number) {
                let steps: Vec<Surge> = config.reload.steps.iter().map(|step| prepare::surge(*step)).collect();
                made = self.listeners.make_canary(config, &steps, self.pool.target().max(config.worker.workers()));
            }
            made.map(|()| prepared).map_err(|error| error.to_string().into())
        };
        match result.and_then(slots) {
            Ok(Prepared { release, mut warnings, status }) => {
                warnings.extend(self.workers.missing_limits(&release));
                for warning in &warnings {
                    self.log.record(Record { generation: Some(number), ..Record::new(Level::Warning, warning.clone()) });
                }
                self.status.prepared(number, status, warnings);
                let settings = prepare::settings(&release);
                self.releases.insert(number, release);
                self.status.keep_reader_rules(self.releases.all(), self.pool.generation());
                self.extend();
                self.events.push(Event::Prepared(number, settings));
            }
            Err(reason) => self.events.push(Event::Refused(number, reason)),
        }
    }

    /// Handles the outcome of a reload: applies the changes to the master itself if the reload was committed, else drops them.
    pub(super) fn reload_decided(&mut self, number: GenerationId, outcome: Outcome) {
        if outcome != Outcome::Committed {
            return self.status.withdrawn();
        }
        self.status.committed(number);
        self.keep_conditions(number);
    }

    /// Tells from now on the parts of this generation's configuration that are not applied.
    pub(super) fn keep_conditions(&mut self, number: GenerationId) {
        let Some(release) = self.releases.get(number) else { return };
        let limits = self.workers.missing_limits(release);
        self.status.keep_conditions(release.config.status.listen.as_deref(), limits);
    }

    /// Warns of the limits of this generation that cannot be applied here, if there are some.
    pub(super) fn warn_of_limits(&mut self, number: GenerationId) {
        if let Some(sentence) = self.releases.get(number).and_then(|release| self.workers.missing_limits(release)) {
            self.log.record(Record { generation: Some(number), ..Record::new(Level::Warning, sentence) });
        }
    }
}
