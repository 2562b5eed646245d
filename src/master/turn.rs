//! The parts of one turn, which is one iteration of the loop: what it serves, in which order, and how much.
//!
//! Law: signals first, then notifications, then exits (what a worker said is read before its end is told), then requests; a bounded
//! number of each per turn, so that no source of events keeps another waiting. With nothing to do the loop sleeps without a tick.

use std::time::{Duration, Instant};

use crate::master::Master;
use crate::master::absence;
use crate::master::event_queue::EventQueue;
use crate::master::pool_clock;
use crate::master::upgrade::store::Store;
use crate::master::workers::processes::Token;
use crate::master::workers::{Keep, WorkerSet};
use crate::pool::{Action, Event, Span};

/// Requests handled per turn, and as many task results.
const REQUESTS: usize = 32;

impl Master {
    /// When the loop is to wake at the latest: now, if workers wait for their start.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.workers.has_to_spawn().then_some(self.now),
            self.pool.deadline().map(|deadline| absence::step(self.now, pool_clock::instant(deadline))),
            self.systemd.deadline(),
            self.workers.deadline(),
            self.recycler
                .deadline(self.releases.recycle_limits(self.pool.generation()))
                .filter(|_| !self.pool.is_paused() && !self.pool.wants_no_workers()),
            self.accept_deadline(),
            self.comparer.deadline(self.pool.compares(), self.now),
            self.upgrader.deadline(self.now),
            self.releases.deadline(),
            self.unknown_workers.deadline(),
            self.store.as_ref().and_then(Store::deadline),
            self.listeners.deadline(),
            self.queue_watch.deadline(),
            self.idle_watch.deadline(),
            self.hang_watch.deadline(),
            self.load_watch.deadline(self.pool.load_period(), self.now),
            self.status.deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// After an absence of the loop: warns, and moves every deadline by its length.
    pub(super) fn was_absent(&mut self, span: Option<Duration>) {
        let Some(span) = span else { return };
        self.log.warn(format!("the master did not run for {}: every deadline is that much later", Span(span)));
        self.unknown_workers.delay(span);
        self.events.push(Event::Absent(span));
        self.step_pool();
    }

    pub(super) fn serve(&mut self, tokens: Vec<Token>) {
        self.status.touch();
        let mut ended = Vec::new();
        for token in tokens {
            match token {
                Token::Signal => self.signals(),
                Token::Exit(worker) => ended.push(worker),
                Token::Cgroups => self.workers.groups_emptied(&mut self.events),
                Token::Notify(worker) => {
                    self.with_workers(|workers, now, keep, events| workers.read_notifications(worker, now, keep, events));
                }
                Token::Fork(worker) => self.workers.read_forks(worker, self.now, &mut self.events),
                Token::Former(worker) => self.workers.former_ended(worker),
                Token::Directory => self.workers.directory_changed(),
                Token::Queues => self.queue_watch.connected(self.now),
                Token::Idle => self.idle_watch.connected(&mut self.events),
                Token::Hangs => self.hang_watch.connected(self.now),
            }
        }
        self.with_workers(|workers, now, keep, events| workers.ended(&ended, now, keep, events));
    }

    /// Handles what else is due, beside the event that woke the loop.
    pub(super) fn run_due(&mut self) {
        for _ in 0..REQUESTS {
            let Some(request) = self.sources.command() else { break };
            self.request(request);
        }
        for _ in 0..REQUESTS {
            let Some(results) = self.sources.task_result() else { break };
            self.take_result(results);
        }
        self.systemd.on_deadline(self.now);
        self.with_workers(|workers, now, keep, events| workers.on_deadline(now, keep, events));
        let limits = self.releases.recycle_limits(self.pool.generation());
        let candidates = || self.workers.recycle_candidates(&self.pool);
        self.recycler.on_deadline(self.now, limits, candidates, &mut self.events);
        self.look_at_accepting();
        let readings = || self.workers.readings();
        self.comparer.on_deadline(self.now, self.pool.compares(), readings, &mut self.events);
        self.look_at_orphans();
        self.listeners.on_deadline(self.now, &self.pool, &mut self.events);
        self.queue_watch.on_deadline(self.now);
        self.idle_watch.on_deadline(self.now, || self.workers.counted(&self.pool), &mut self.events);
        self.sample_load();
        self.look_for_hangs();
        self.workers.warn_of_unanswered();
        self.releases.on_deadline(self.now, &mut self.events);
        if let Some(why) = self.upgrader.overdue(self.now) {
            self.not_replaced(&why);
        }
        self.status.on_deadline(self.now);
        if !self.sources.reads_first() && self.pool.deadline().is_some_and(|at| at <= pool_clock::time(self.now)) {
            self.events.push(Event::Due);
        }
        self.step_pool();
        self.start_some();
        self.workers.reap(self.now, &mut self.events);
    }

    /// Calls a function of the workers that reads notifications. They are kept for the next master before they are taken.
    pub(super) fn with_workers(&mut self, serve: impl FnOnce(&mut WorkerSet, Instant, Keep<'_>, &mut EventQueue)) {
        let Master { workers, store, events, now, .. } = self;
        let mut keep = |worker, bytes: &[u8]| {
            if let Some(store) = store {
                store.note(worker, bytes, *now);
            }
        };
        serve(workers, *now, &mut keep, events);
    }

    /// Publishes what has changed in this turn, then sends the answers that wait for it.
    pub(super) fn publish(&mut self) {
        self.watch_queues();
        if self.pool.canary().is_none() {
            self.releases.keep_judging(None);
        }
        let published = self.status.publish(&self.pool, !self.unknown_workers.is_empty());
        if published.is_progress {
            self.extend();
        }
        self.systemd.status(&published.line, published.at_once, self.now);
        if published.has_changed {
            self.status.keep_reader_rules(self.releases.all(), self.pool.generation());
        }
        let (status, ends) = (&self.status, self.end.is_some());
        self.requests.send(|answer| !ends && status.holds_back(answer), |answer| status.add_output(answer));
    }

    /// Wakes the threads for which this turn has work: the log, the relay of the workers' output. Makes status pages for the next workers.
    pub(super) fn wake_threads(&mut self) {
        self.outputs.wake();
        self.log.wake();
        let calm = self.pool.candidate().is_none() && self.pool.ready() >= self.pool.target();
        if calm && let Some(release) = self.releases.get(self.pool.generation()) {
            self.workers.fill_pages(release.config.worker.stop_timeout);
        }
    }

    /// Gives the pool every event and carries out every action, until none is left.
    pub(super) fn step_pool(&mut self) {
        let mut actions: Vec<Action> = Vec::new();
        while let Some(event) = self.events.pop() {
            self.status.touch();
            if let Some(store) = &mut self.store {
                store.touch(&event, self.now);
            }
            self.pool.step(pool_clock::time(self.now), event, &mut actions);
            // New connections are steered before any worker is stopped.
            if actions
                .iter()
                .any(|action| matches!(action, Action::Changed(_) | Action::Ended(_) | Action::Spawn { .. } | Action::Stopping))
            {
                self.listeners.steer(&self.pool);
            }
            // A socket in systemd's store is systemd's: the next master serves what waits there.
            if self.pool.is_stopping() && self.store.is_none() {
                // A closed descriptor cannot be taken out of the epoll set any more.
                self.queue_watch.let_go();
                self.idle_watch.let_go();
                self.hang_watch.let_go();
                self.listeners.close_bound(&self.pool);
            }
            // A decision that affects workers is stored first: the next master must not decide otherwise.
            if actions.iter().any(|action| matches!(action, Action::Stop(_) | Action::Abort(_) | Action::Kill(_))) {
                self.checkpoint();
            }
            actions.drain(..).for_each(|action| self.apply(action));
        }
    }
}
