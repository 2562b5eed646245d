//! What the front ends, the signals and other threads ask of the loop.

use crate::api::{Command, Reply, Request, RequesterId};
use crate::master::log::journal::{Level, Record};
use crate::master::stop_signals::StopRequest;
use crate::master::terminal::HangUp;
use crate::master::turn::{Master, TaskResult};
use crate::pool::{self, Event, PoolState};
use crate::sys::signals;

/// So many signals are served a turn.
const SIGNALS: usize = 16;

impl Master {
    /// Signals to the master (docs/contract.md §2).
    pub(super) fn signals(&mut self) {
        // No more a turn than there are kinds: who sends them without end must not keep the loop here.
        for _ in 0..SIGNALS {
            let Some(signal) = self.signals.read() else { return };
            match signal {
                libc::SIGHUP => self.hang_up(),
                libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => self.stop(signal),
                libc::SIGTTIN => self.scale_by(1),
                libc::SIGTTOU => self.scale_by(-1),
                libc::SIGUSR2 => self.upgrade(None),
                libc::SIGUSR1 if self.store.is_some() => self.leaves = true,
                libc::SIGUSR1 => self.stop(signal),
                libc::SIGCHLD => self.child_ended = true,
                _ => {}
            }
        }
    }

    /// A front end wants something.
    pub(super) fn request(&mut self, command: Command) {
        if !matches!(command, Command::Document(_) | Command::Workers(_)) {
            self.status_cache.touch();
        }
        match command {
            Command::Request { requester, request, reply, announce } => {
                let waits = reply.is_some().then_some(requester);
                if let Some(reply) = reply {
                    self.requests.insert(requester, reply);
                }
                self.ask(request, waits, announce);
            }
            Command::Gone(requester) => {
                if self.requests.remove(requester) {
                    self.upgrade_requester_gone(requester);
                    self.events.push_back(Event::RequesterGone(requester));
                }
            }
            Command::Document(reply) => self.document(reply),
            Command::Workers(reply) => {
                let _ = reply.send(self.views());
            }
        }
    }

    fn ask(&mut self, request: Request, requester: Option<RequesterId>, announce: bool) {
        match request {
            Request::Reload => self.begin_reload(requester, announce),
            Request::Abort => self.events.push_back(Event::Abort(requester)),
            Request::Scale(count) if count > crate::config::COUNT_MAX => {
                self.refuse(
                    requester,
                    format!("{count} workers are more than the {} that one instance may have", crate::config::COUNT_MAX),
                );
            }
            Request::Scale(count) => self.scale(count, requester),
            Request::Recycle(which) => self.events.push_back(Event::Recycle(which, requester)),
            Request::Upgrade => self.upgrade(requester),
        }
    }

    /// Answers without asking the pool.
    pub(super) fn refuse(&mut self, requester: Option<RequesterId>, why: String) {
        let answered = requester.is_some_and(|requester| self.requests.answer(requester, Reply::Failed(why.clone())));
        if !answered {
            self.warn(why);
        }
    }

    /// systemd is told that a reload runs: only between READY and STOPPING, for the READY=1 that ends it must not say more.
    pub(super) fn announce_reload(&mut self) {
        if self.pool.announced() && self.pool.state() != PoolState::Stopping {
            self.systemd.reloading(self.now);
        }
    }

    fn scale_by(&mut self, by: i32) {
        // Of two signals at once the second counts from the first.
        self.take_in();
        let count = self.pool.target().saturating_add_signed(by).clamp(1, crate::config::COUNT_MAX);
        self.scale(count, None);
    }

    fn scale(&mut self, count: u32, requester: Option<RequesterId>) {
        let live = [Some(self.pool.generation()), self.pool.candidate()].into_iter().flatten();
        let releases: Vec<_> = live.filter_map(|number| self.releases.get(&number).cloned()).collect();
        match releases.iter().try_for_each(|release| self.make_slots(&release.config, count)) {
            Ok(()) => self.events.push_back(Event::Scale(count, requester)),
            Err(error) => self.refuse(requester, error.to_string()),
        }
    }

    /// HUP: a reload, but where the terminal has closed that the master was started on.
    fn hang_up(&mut self) {
        match self.terminal.hang_up() {
            HangUp::Reload => self.begin_reload(None, true),
            HangUp::Ignore => {
                self.record(Record::new(Level::Info, "the terminal has closed; started with SIGHUP ignored: going on"))
            }
            HangUp::Stop => {
                self.record(Record::new(
                    Level::Info,
                    "the terminal has closed: stopping (nohup or setsid would keep the instance)",
                ));
                self.begin_to_stop();
            }
        }
    }

    /// TERM, INT or QUIT: drain and end; another one more than a second later: end at once.
    fn stop(&mut self, signal: i32) {
        match self.stop_signals.take(self.now) {
            StopRequest::Drain => self.begin_to_stop(),
            StopRequest::Repeated => {}
            StopRequest::Kill => self.stop_at_once(signal),
        }
    }

    /// Kills all workers, says so, and waits for no hook.
    fn stop_at_once(&mut self, signal: i32) {
        let count = self.pool.workers().filter(|(_, worker)| worker.pid.is_some()).count();
        self.record(Record::new(Level::Warning, format!("second {}: {} killed", signals::name(signal), pool::workers(count))));
        if let Some(hook) = self.ending.take() {
            hook.cancel();
        }
        self.orphans.end_at_once(self.now);
        self.events.push_back(Event::Stop { now: true });
    }

    /// Runs `hooks.before_shutdown`, then drains.
    fn begin_to_stop(&mut self) {
        // The pool may have given up by itself, and a terminal may close before a signal comes.
        if self.pool.state() == PoolState::Stopping || self.ending.is_some() {
            return;
        }
        if !self.start_last_hook() {
            self.events.push_back(Event::Stop { now: false });
        }
    }

    /// What another thread has finished.
    pub(super) fn take_result(&mut self, results: TaskResult) {
        if !matches!(results, TaskResult::Composed) {
            self.status_cache.touch();
        }
        match results {
            TaskResult::Prepared(task, number, result) => self.prepared(task, number, result),
            TaskResult::ReadyToStop(task, result) => self.last_hook_ended(task, result),
            TaskResult::ReleaseChanged(number, what) => self.release_changed(number, &what),
            TaskResult::SocketsMissing(why) => self.sockets_missing(why),
            TaskResult::Orphaned(worker, found) => self.orphaned_found(worker, found),
            TaskResult::Discarded(worker, progress) => self.discarded(worker, progress),
            TaskResult::Orphans => self.children(),
            TaskResult::Readiness(worker, seen) => self.readiness_seen(worker, &seen),
            TaskResult::Composed => self.composed(),
            TaskResult::RecycleDue(worker, why) => self.events.push_back(Event::RecycleDue(worker, why)),
            TaskResult::Checked(task, result) => self.next_program_said(task, result),
            TaskResult::Tail(worker, lines, serving) => self.tail_known(worker, lines, serving),
        }
    }
}
