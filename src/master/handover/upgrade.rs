//! An upgrade from the request to execve(2).
//!
//! Law: each requester is answered once, before execve(2). A reload that is under way, or that is requested before that moment, is
//! finished first. The requester of the upgrade is told that the installed program takes over, or why not. A new connection shows
//! that the upgrade is done: `program_start_time` of `GET /readyz` has changed.

use std::time::{Duration, Instant};

use super::fds::Outgoing;
use super::{check, replace};
use crate::api::{Command, Reply, Request, RequesterId};
use crate::control::dbus;
use crate::master::log::catalog;
use crate::master::log::journal::{Level, Record};
use crate::master::output::Settled;
use crate::master::sources::Wake;
use crate::master::tasks::TaskResult;
use crate::master::tasks::{Task, TaskId};
use crate::master::turn::Master;
use crate::pool::{Event, PoolState};

/// How long connections of the control socket may take for their answers, once no new ones are accepted.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long the control socket may accept no connections while the pool is never idle (workers that crash again and again).
const LONGEST: Duration = Duration::from_secs(10);
/// Interval of the checks meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// Loop iterations before execve(2), so that answers reach the requesters.
const LAST_TURNS: usize = 16;

/// A requested upgrade.
pub struct Upgrade {
    /// Requesters of the upgrade.
    pub requesters: Vec<RequesterId>,
    /// A reload without a requester that came too late for this program. The value: whether to tell systemd.
    reload_asked: Option<bool>,
    stage: Stage,
}

enum Stage {
    /// Requests that came before are finished.
    Settling,
    /// The next program is asked.
    Checking(Task),
    /// The next program has agreed, at this time.
    Leaving(Instant),
}

impl Upgrade {
    /// The task that asks the next program, while it runs.
    fn task(&self) -> Option<&Task> {
        match &self.stage {
            Stage::Checking(task) => Some(task),
            Stage::Settling | Stage::Leaving(_) => None,
        }
    }

    /// The reload with which the next program is to begin; the value: whether to tell systemd.
    pub(super) fn reload_asked(&self) -> Option<bool> {
        self.reload_asked
    }
}

impl Master {
    /// Requests that the master runs the installed program.
    pub(in crate::master) fn upgrade(&mut self, requester: Option<RequesterId>) {
        if self.is_ending() {
            return self.refuse(requester, "the instance is stopping".to_owned());
        }
        let upgrade =
            self.upgrade.get_or_insert_with(|| Upgrade { requesters: Vec::new(), reload_asked: None, stage: Stage::Settling });
        upgrade.requesters.extend(requester);
    }

    fn is_ending(&self) -> bool {
        self.pool.state() == PoolState::Stopping || self.releases.runs_shutdown_hook()
    }

    /// Begins a reload.
    pub(in crate::master) fn begin_reload(&mut self, requester: Option<RequesterId>, announce: bool) {
        if announce {
            self.announce_reload();
        }
        self.events.push(Event::Reload(requester));
    }

    /// Forgets a requester that does not wait any more.
    pub(in crate::master) fn upgrade_requester_gone(&mut self, requester: RequesterId) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.requesters.retain(|it| *it != requester);
        }
    }

    /// Takes the upgrade one step further. Returns `true` when execve(2) is due.
    pub(in crate::master) fn is_to_be_replaced(&mut self) -> bool {
        let Some(upgrade) = &self.upgrade else { return false };
        if self.is_ending() {
            self.not_replaced("the instance is stopping");
            return false;
        }
        match upgrade.stage {
            Stage::Settling if self.is_settled() => self.ask_next_program(),
            // A reload came in between, so the next program was asked about a state that is out of date.
            Stage::Leaving(_) if self.is_asked() => self.settle_again(),
            Stage::Leaving(since) if self.is_settled() => {
                return self.registry.busy() == 0 || self.now.duration_since(since) >= TIMEOUT;
            }
            Stage::Leaving(since) if self.now.duration_since(since) >= LONGEST => {
                self.not_replaced("the pool did not come to rest for a moment; ask again");
            }
            Stage::Settling | Stage::Checking(_) | Stage::Leaving(_) => {}
        }
        false
    }

    /// When [`Self::is_to_be_replaced`] is to be called again without an event.
    pub(in crate::master) fn upgrade_deadline(&self) -> Option<Instant> {
        match &self.upgrade.as_ref()?.stage {
            Stage::Settling => None,
            Stage::Checking(task) => task.deadline(),
            Stage::Leaving(_) => Some(self.now + LOOK),
        }
    }

    /// Gives the upgrade up if the next program does not answer in time.
    pub(in crate::master) fn look_at_upgrade(&mut self) {
        let task = self.upgrade.as_ref().and_then(Upgrade::task);
        if let Some(why) = task.and_then(|task| task.overdue(self.now)) {
            self.not_replaced(&why);
        }
    }

    fn settle_again(&mut self) {
        self.registry.accept(true);
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.stage = Stage::Settling;
        }
    }

    /// Whether nothing is under way that could not go on in another program.
    fn is_settled(&self) -> bool {
        !self.is_asked()
            && !self.workers.has_to_spawn()
            && self.events.is_empty()
            && !self.requests.has_answers()
            && self.status.has_all_tails()
    }

    /// Whether a requester waits for anything but this upgrade, or a reload is under way.
    fn is_asked(&self) -> bool {
        let waits_for_it =
            |requester: RequesterId| self.upgrade.as_ref().is_some_and(|upgrade| upgrade.requesters.contains(&requester));
        self.pool.state() == PoolState::Reloading
            || self.pool.is_probing()
            || self.releases.is_preparing()
            || !self.requests.waiting().all(waits_for_it)
    }

    fn ask_next_program(&mut self) {
        let mut fds = Outgoing::default();
        let document =
            self.save(None, &mut fds).map_err(|error| error.to_string()).and_then(|state| replace::document(state, &fds));
        drop(fds);
        let (results, program) = (self.results.clone(), self.program.clone());
        let asked = document.and_then(|document| {
            self.tasks.start(self.releases.step_limit(self.pool.generation()), move |id, job| {
                job.running(program.display(), check::LIMIT);
                let result = replace::arguments_of_run().and_then(|args| check::ask(&program, &args, &document, &job.cancel));
                let _ = results.send(TaskResult::Checked(id, result));
            })
        });
        match (asked, &mut self.upgrade) {
            (Ok(task), Some(upgrade)) => upgrade.stage = Stage::Checking(task),
            (Ok(task), None) => task.cancel(),
            (Err(why), _) => self.not_replaced(&why),
        }
    }

    /// Handles the answer of the next program.
    pub(in crate::master) fn next_program_said(&mut self, task: TaskId, result: Result<(), String>) {
        let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.task().is_some_and(|it| it.id() == task)) else {
            return;
        };
        match result {
            Ok(()) => {
                upgrade.stage = Stage::Leaving(self.now);
                // A connection that comes now waits in the kernel's accept queue for the next program.
                self.registry.accept(false);
            }
            Err(why) => self.not_replaced(&why),
        }
    }

    /// Gives the upgrade up: the master goes on as before.
    pub(in crate::master) fn not_replaced(&mut self, why: &str) {
        let Some(upgrade) = self.upgrade.take() else { return };
        if let Stage::Checking(task) = &upgrade.stage {
            task.cancel();
        }
        self.registry.accept(true);
        let why = format!("the master keeps its program: {why}");
        self.log.record(Record {
            id: catalog::UPGRADE_REFUSED,
            reason: Some(why.clone()),
            ..Record::new(Level::Error, format!("not upgraded: {why}"))
        });
        for requester in upgrade.requesters {
            self.requests.answer(requester, Reply::Failed(why.clone()));
        }
        if let Some(announce) = upgrade.reload_asked {
            self.begin_reload(None, announce);
        }
    }

    /// Writes out the workers' output, checks whether execve(2) is still due, and answers the requesters of the upgrade. `Some`:
    /// execve(2) comes next.
    pub(in crate::master) async fn prepare_to_go(&mut self) -> Option<Settled> {
        self.systemd.ping();
        let Some(settled) = self.outputs.settle().await else {
            self.not_replaced("the reader of the workers' output hangs; ask again");
            return None;
        };
        for _ in 0..LAST_TURNS {
            while let Some(request) = self.sources.command() {
                self.request(request);
            }
            self.last_turn().await;
        }
        if !self.is_settled() {
            self.outputs.take_back(settled);
            return None;
        }
        for requester in self.upgrade.iter_mut().flat_map(|upgrade| std::mem::take(&mut upgrade.requesters)) {
            self.requests.answer_now(requester, Reply::Done);
        }
        Some(settled)
    }

    /// Closes the connection to the bus, once the calls that were read are answered.
    pub(in crate::master) async fn leave_bus(&mut self, bus: dbus::Service) {
        self.systemd.ping();
        let mut stop = std::pin::pin!(bus.stop());
        loop {
            tokio::select! {
                () = &mut stop => return,
                wake = self.sources.command_or_result() => match wake {
                    Wake::Command(command) => self.too_late(command),
                    Wake::TaskResult(result) => self.take_result(result),
                    Wake::Descriptors(_) | Wake::Time => {}
                },
            }
            self.take_in();
            self.publish();
        }
    }

    /// Runs the last loop iterations before execve(2), so that answers reach their requesters.
    pub(in crate::master) async fn last_turns(&mut self) {
        for _ in 0..LAST_TURNS {
            while let Some(request) = self.sources.command() {
                self.too_late(request);
            }
            self.last_turn().await;
        }
    }

    async fn last_turn(&mut self) {
        while let Some(result) = self.sources.task_result() {
            self.take_result(result);
        }
        self.take_in();
        self.publish();
        tokio::task::yield_now().await;
    }

    /// Handles a request that comes after the requesters of the upgrade were answered.
    fn too_late(&mut self, command: Command) {
        match (command, &mut self.upgrade) {
            (Command::Request { reply: Some(reply), .. }, _) => {
                let _ = reply.send(Reply::Failed("the master is replacing its program; ask again".to_owned()));
            }
            (Command::Request { request: Request::Reload, announce, reply: None, .. }, Some(upgrade)) => {
                upgrade.reload_asked = Some(announce)
            }
            (command, _) => self.request(command),
        }
    }
}
