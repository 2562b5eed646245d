//! Handles the requests of the front ends, and the signals to the master.

use crate::api::{Command, Reply, Request, RequesterId};
use crate::master::log::journal::{Level, Record};
use crate::master::signals::StopRequest;
use crate::master::terminal::HangUp;
use crate::master::{End, Master};
use crate::pool::{self, Event, PoolState};
use crate::sys::signals;

/// Signals handled per turn.
const SIGNALS_PER_TURN: usize = 16;

impl Master {
    /// Handles signals to the master (docs/contract.md §2).
    pub(super) fn signals(&mut self) {
        // A bounded number per turn: a process that sends signals without end must not keep the loop here.
        for _ in 0..SIGNALS_PER_TURN {
            let Some(signal) = self.sources.signal() else { return };
            match signal {
                libc::SIGHUP => self.hang_up(),
                libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => self.stop(signal),
                libc::SIGTTIN => self.scale_by(1),
                libc::SIGTTOU => self.scale_by(-1),
                libc::SIGUSR2 => self.upgrade(None),
                libc::SIGUSR1 if self.store.is_some() => self.end = Some(End::Leave),
                libc::SIGUSR1 => self.stop(signal),
                libc::SIGCHLD => self.workers.child_has_ended(),
                _ => {}
            }
        }
    }

    /// Handles a command of a front end.
    pub(super) fn request(&mut self, command: Command) {
        if !matches!(command, Command::Document(_) | Command::Workers(_) | Command::History(_)) {
            self.status.touch();
        }
        match command {
            Command::Request { requester, request, reply, announce, by } => {
                let waits = reply.is_some().then_some(requester);
                if let Some(reply) = reply {
                    self.requests.insert(requester, reply, by);
                }
                self.ask(request, waits, announce);
            }
            Command::Gone(requester) => {
                if self.requests.remove(requester) {
                    self.upgrader.requester_gone(requester);
                    self.events.push(Event::RequesterGone(requester));
                }
            }
            Command::Document(reply) => self.document(reply),
            Command::History(reply) => {
                let _ = reply.send(self.releases.history(self.pool.history()));
            }
            Command::Workers(reply) => {
                let _ = reply.send(self.workers.views(&self.pool));
            }
        }
    }

    fn ask(&mut self, request: Request, requester: Option<RequesterId>, announce: bool) {
        match request {
            Request::Reload => self.begin_reload(requester, announce),
            Request::Undo(wanted) => self.events.push(Event::Undo(wanted, requester)),
            Request::Probe => self.events.push(Event::Probe(requester)),
            Request::Promote => self.events.push(Event::Promote(requester)),
            Request::Abort => self.events.push(Event::Abort(requester)),
            Request::Scale(count) if count > crate::config::COUNT_MAX => {
                self.refuse(
                    requester,
                    format!("{count} workers are more than the {} that one instance may have", crate::config::COUNT_MAX),
                );
            }
            Request::Scale(count) => self.scale(count, requester),
            Request::ScaleAuto => self.events.push(Event::ScaleAuto(requester)),
            Request::Recycle(which) => self.events.push(Event::Recycle(which, requester)),
            Request::Pause(length) => self.events.push(Event::Pause(length, requester)),
            Request::Resume => self.events.push(Event::Resume(requester)),
            Request::Upgrade => self.upgrade(requester),
        }
    }

    /// Requests that the master runs the installed program.
    fn upgrade(&mut self, requester: Option<RequesterId>) {
        if self.is_ending() {
            return self.refuse(requester, "the instance is stopping".to_owned());
        }
        if let Some(why) = self.canary_refuses_upgrade() {
            return self.refuse(requester, why);
        }
        self.upgrader.request(requester);
    }

    /// Begins a reload. `announce`: whether to tell systemd.
    pub(super) fn begin_reload(&mut self, requester: Option<RequesterId>, announce: bool) {
        if announce {
            // A pause that was asked for before refuses the reload, which then has no end that systemd could be told.
            self.step_pool();
            self.announce_reload();
        }
        self.events.push(Event::Reload(requester));
    }

    /// Refuses a request without asking the pool. Without a requester that waits, the reason is logged.
    pub(super) fn refuse(&mut self, requester: Option<RequesterId>, why: String) {
        let answered = requester.is_some_and(|requester| self.requests.answer(requester, Reply::Failed(why.clone())));
        if !answered {
            self.log.warn(why);
        }
    }

    /// Tells systemd that a reload runs, but only between READY=1 and STOPPING=1: the READY=1 that ends a reload must mean that alone. Not
    /// in a pause, which refuses reloads.
    pub(super) fn announce_reload(&mut self) {
        let is_refused = self.pool.is_paused() || self.pool.state() == PoolState::Stopping;
        if self.pool.announced() && !is_refused {
            self.systemd.reloading(self.now);
        }
    }

    fn scale_by(&mut self, by: i32) {
        // The second of two signals counts from the target that the first one set.
        self.step_pool();
        let count = self.pool.target().saturating_add_signed(by).clamp(1, crate::config::COUNT_MAX);
        self.scale(count, None);
    }

    fn scale(&mut self, count: u32, requester: Option<RequesterId>) {
        let live = [Some(self.pool.generation()), self.pool.candidate()].into_iter().flatten();
        let releases: Vec<_> = live.filter_map(|number| self.releases.get(number).cloned()).collect();
        match releases.iter().try_for_each(|release| self.listeners.make_slots(&release.config, count)) {
            Ok(()) => self.events.push(Event::Scale(count, requester)),
            Err(error) => self.refuse(requester, error.to_string()),
        }
    }

    /// SIGHUP: a reload, unless the terminal that the master was started on has closed.
    fn hang_up(&mut self) {
        match self.terminal.hang_up() {
            HangUp::Reload => self.begin_reload(None, true),
            HangUp::Ignore => {
                self.log.record(Record::new(Level::Info, "the terminal has closed; started with SIGHUP ignored: going on"))
            }
            HangUp::Stop => {
                self.log.record(Record::new(
                    Level::Info,
                    "the terminal has closed: stopping (nohup or setsid would keep the instance)",
                ));
                self.begin_to_stop();
            }
        }
    }

    /// SIGTERM, SIGINT or SIGQUIT: drain and end. Another one more than a second later: end at once.
    fn stop(&mut self, signal: i32) {
        match self.stop_signals.take(self.now) {
            StopRequest::Drain => self.begin_to_stop(),
            StopRequest::Repeated => {}
            StopRequest::Kill => self.stop_at_once(signal),
        }
    }

    /// Kills all workers, logs that, and waits for no hook.
    fn stop_at_once(&mut self, signal: i32) {
        let count = self.pool.workers().filter(|(_, worker)| worker.pid.is_some()).count();
        self.log
            .record(Record::new(Level::Warning, format!("second {}: {} killed", signals::name(signal), pool::workers(count))));
        self.releases.cancel_shutdown_hook();
        self.unknown_workers.end_at_once(self.now);
        self.events.push(Event::Stop { now: true });
    }

    /// Runs `hooks.before_shutdown`, then drains.
    fn begin_to_stop(&mut self) {
        // A stop may have begun already: the pool may have given up, and a terminal may have closed before the signal.
        if self.is_ending() {
            return;
        }
        match self.releases.start_shutdown_hook(self.pool.generation()) {
            Some(at_most) => self.systemd.extend(at_most, self.now),
            None => self.events.push(Event::Stop { now: false }),
        }
    }
}
