//! The last turns of a master before execve(2), or until the upgrade is given up.
//!
//! Law: requests that come before execve(2) are finished or answered; output of the workers is written out.

use super::replace;
use super::upgrader::{Situation, Step};
use crate::api::{Command, Reply, Request};
use crate::master::Master;
use crate::master::fronts::Fronts;
use crate::master::output::Settled;
use crate::master::sources::Wake;
use crate::master::state::fds::Outgoing;
use crate::pool::PoolState;

/// Loop iterations before execve(2), so that answers reach the requesters.
const LAST_TURNS: usize = 16;

impl Master {
    /// Takes the upgrade one step further. Returns `true` when execve(2) is due.
    pub(in crate::master) fn is_to_be_replaced(&mut self) -> bool {
        if !self.upgrader.is_requested() {
            return false;
        }
        if let Some(why) = self.canary_refuses_upgrade() {
            self.not_replaced(&why);
            return false;
        }
        match self.upgrader.step(self.now, self.situation()) {
            Step::Wait => {}
            Step::Replace => return true,
            Step::GiveUp(why) => self.not_replaced(&why),
            Step::Ask => {
                if let Err(why) = self.ask_next_program() {
                    self.not_replaced(&why);
                }
            }
        }
        false
    }

    /// Work of the master that is under way beside the upgrade.
    fn situation(&self) -> Situation {
        let is_asked = self.pool.state() == PoolState::Reloading
            || self.pool.is_probing()
            || self.releases.is_preparing()
            || !self.requests.waiting().all(|requester| self.upgrader.is_requested_by(requester));
        let is_settled = !is_asked
            && !self.workers.has_to_spawn()
            && !self.workers.is_forking()
            && self.events.is_empty()
            && !self.requests.has_answers()
            && self.status.has_all_tails();
        Situation { is_ending: self.is_ending(), is_asked, is_settled }
    }

    /// Why there is no upgrade now, if a canary is under way: its end may be an hour away.
    pub(in crate::master) fn canary_refuses_upgrade(&self) -> Option<String> {
        let canary = self.pool.canary()?;
        Some(format!("a canary of generation {} is under way; ask again at its end", canary.generation))
    }

    /// Whether the instance is stopping.
    pub(in crate::master) fn is_ending(&self) -> bool {
        self.pool.state() == PoolState::Stopping || self.releases.runs_shutdown_hook()
    }

    fn ask_next_program(&mut self) -> Result<(), String> {
        let mut fds = Outgoing::default();
        let state = self.save(None, &mut fds).map_err(|error| error.to_string())?;
        let document = replace::document(state, &fds)?;
        drop(fds);
        self.upgrader.ask(document, self.releases.step_limit(self.pool.generation()))
    }

    /// Gives the upgrade up: the master goes on as before.
    pub(in crate::master) fn not_replaced(&mut self, why: &str) {
        let Some(given_up) = self.upgrader.give_up(why) else { return };
        for requester in given_up.requesters {
            self.requests.answer(requester, Reply::Failed(given_up.why.clone()));
        }
        if let Some(announce) = given_up.reload_asked {
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
        if !self.situation().is_settled {
            self.outputs.take_back(settled);
            return None;
        }
        for requester in self.upgrader.take_requesters() {
            self.requests.answer_now(requester, Reply::Done);
        }
        Some(settled)
    }

    /// Closes the connections of D-Bus and varlink, once the calls that were read are answered.
    pub(in crate::master) async fn leave_fronts(&mut self, fronts: Fronts) {
        self.systemd.ping();
        let mut stop = std::pin::pin!(fronts.stop());
        loop {
            tokio::select! {
                () = &mut stop => return,
                wake = self.sources.command_or_result() => match wake {
                    Wake::Command(command) => self.too_late(command),
                    Wake::TaskResult(result) => self.take_result(result),
                    Wake::Descriptors(_) | Wake::Time => {}
                },
            }
            self.step_pool();
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
        self.step_pool();
        self.publish();
        tokio::task::yield_now().await;
    }

    /// Handles a request that comes after the requesters of the upgrade were answered.
    fn too_late(&mut self, command: Command) {
        match command {
            Command::Request { reply: Some(reply), .. } => {
                let _ = reply.send(Reply::Failed("the master is replacing its program; ask again".to_owned()));
            }
            Command::Request { request: Request::Reload, announce, reply: None, .. } if self.upgrader.leave_reload(announce) => {}
            command => self.request(command),
        }
    }
}
