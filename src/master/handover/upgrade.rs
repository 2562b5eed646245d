//! An upgrade from the request to the moment when all is settled.
//!
//! Law: whoever asked is answered once: by the old program when nothing comes of it, else by the new one. Nobody else is
//! kept waiting or lost: a reload under way is finished first, one that is asked for meanwhile waits for the next program.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::fds::Outgoing;
use super::{check, replace};
use crate::api::{Reply, RequesterId};
use crate::control::dbus;
use crate::master::catalog;
use crate::master::journal::{Level, Record};
use crate::master::tasks::{Task, TaskId};
use crate::master::turn::{Master, TaskResult};
use crate::pool::{Event, PoolState};

/// So long connections of the control socket may take to end what they are at, once the next program may come.
const TIMEOUT: Duration = Duration::from_secs(1);
/// So long the control socket may be deaf while a pool that is never at rest (its workers crash and crash) is waited for.
const LONGEST: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// An upgrade that was asked for.
pub struct Upgrade {
    /// Who waits for it.
    pub requesters: Vec<RequesterId>,
    /// Reloads that were asked for since: who, and whether systemd shall be told.
    pub reloads: Vec<(Option<RequesterId>, bool)>,
    stage: Stage,
}

enum Stage {
    /// What was under way before comes to its end.
    Settling,
    /// The next program is asked.
    Checking(Task),
    /// It said yes; since when.
    Leaving(Instant),
}

impl Upgrade {
    /// The task that asks the next program, while it runs.
    pub(in crate::master) fn task(&self) -> Option<&Task> {
        match &self.stage {
            Stage::Checking(task) => Some(task),
            Stage::Settling | Stage::Leaving(_) => None,
        }
    }
}

impl Master {
    /// Somebody wants the master to run the program that is installed now.
    pub(in crate::master) fn upgrade(&mut self, requester: Option<RequesterId>) {
        if self.is_ending() {
            return self.refuse(requester, "the instance is stopping".to_owned());
        }
        let upgrade =
            self.upgrade.get_or_insert_with(|| Upgrade { requesters: Vec::new(), reloads: Vec::new(), stage: Stage::Settling });
        upgrade.requesters.extend(requester);
    }

    fn is_ending(&self) -> bool {
        self.pool.state() == PoolState::Stopping || self.ending.is_some()
    }

    /// A reload, now or by the next program.
    pub(in crate::master) fn begin_reload(&mut self, requester: Option<RequesterId>, announce: bool) {
        if let Some(upgrade) = &mut self.upgrade {
            return upgrade.reloads.push((requester, announce));
        }
        if announce {
            self.announce_reload();
        }
        self.events.push_back(Event::Reload(requester));
    }

    /// Somebody does not wait any more.
    pub(in crate::master) fn upgrade_requester_gone(&mut self, requester: RequesterId) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.requesters.retain(|it| *it != requester);
            upgrade.reloads.retain(|(it, _)| *it != Some(requester));
        }
    }

    /// Takes an upgrade one step further; `true`: it is time to go.
    pub(in crate::master) fn is_to_be_replaced(&mut self) -> bool {
        let Some(upgrade) = &self.upgrade else { return false };
        if self.is_ending() {
            self.not_replaced("the instance is stopping");
            return false;
        }
        match upgrade.stage {
            Stage::Settling if self.is_settled() => self.ask_next_program(),
            Stage::Leaving(since) if self.is_settled() => {
                return (self.registry.busy() == 0 && self.all_are_heard()) || self.now.duration_since(since) >= TIMEOUT;
            }
            Stage::Leaving(since) if self.now.duration_since(since) >= LONGEST => {
                self.not_replaced("the pool did not come to rest for a moment; ask again");
            }
            Stage::Settling | Stage::Checking(_) | Stage::Leaving(_) => {}
        }
        false
    }

    /// When [`Self::is_to_be_replaced`] wants to look again by itself.
    pub(in crate::master) fn upgrade_deadline(&self) -> Option<Instant> {
        let leaving = matches!(self.upgrade.as_ref()?.stage, Stage::Leaving(_));
        leaving.then(|| self.now + LOOK)
    }

    /// Nothing is under way that could not go on in another program.
    fn is_settled(&self) -> bool {
        self.pool.state() != PoolState::Reloading
            && self.preparing.is_none()
            && self.spawns.is_empty()
            && self.events.is_empty()
            && self.outbox.is_empty()
            && self.published.no_tails()
            && self.only_carried_wait()
    }

    /// Whoever waits does so on a connection that can be carried (not so on the bus), or for this upgrade.
    fn only_carried_wait(&self) -> bool {
        let carried: HashSet<RequesterId> = self.registry.requesters().into_iter().collect();
        let waits_for_it = |requester: &RequesterId| {
            self.upgrade.as_ref().is_some_and(|upgrade| {
                upgrade.requesters.contains(requester)
                    || upgrade.reloads.iter().any(|(reload, _)| reload.as_ref() == Some(requester))
            })
        };
        self.replies.keys().all(|requester| carried.contains(requester) || waits_for_it(requester))
    }

    /// Whoever asks has been heard, and whoever was answered has the answer.
    fn all_are_heard(&self) -> bool {
        self.registry.requesters().iter().all(|requester| self.replies.contains_key(requester))
    }

    fn ask_next_program(&mut self) {
        let mut fds = Outgoing::default();
        let document = self
            .save(None, Vec::new(), &mut fds)
            .map_err(|error| error.to_string())
            .and_then(|state| replace::document(state, &fds));
        drop(fds);
        let (results, program) = (self.result_sender.clone(), self.program.clone());
        let asked = document.and_then(|document| {
            self.start_task(move |id, job| {
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

    /// The next program was asked.
    pub(in crate::master) fn next_program_said(&mut self, task: TaskId, result: Result<(), String>) {
        let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.task().is_some_and(|it| it.id() == task)) else {
            return;
        };
        match result {
            Ok(()) => {
                upgrade.stage = Stage::Leaving(self.now);
                // Who comes now waits in the kernel's queue for the next program.
                self.registry.accept(false);
            }
            Err(why) => self.not_replaced(&why),
        }
    }

    /// Nothing comes of it: everything goes on as before.
    pub(in crate::master) fn not_replaced(&mut self, why: &str) {
        let Some(upgrade) = self.upgrade.take() else { return };
        if let Stage::Checking(task) = &upgrade.stage {
            task.cancel();
        }
        self.registry.accept(true);
        let why = format!("the master keeps its program: {why}");
        self.record(Record {
            id: catalog::UPGRADE_REFUSED,
            reason: Some(why.clone()),
            ..Record::new(Level::Error, format!("not upgraded: {why}"))
        });
        for requester in upgrade.requesters {
            if let Some(reply) = self.replies.remove(&requester) {
                self.outbox.push((reply, Reply::Failed(why.clone())));
            }
        }
        for (requester, announce) in upgrade.reloads {
            self.begin_reload(requester, announce);
        }
    }

    /// Whether the next program can go on with the connection to the bus; it rests then.
    pub(in crate::master) async fn bring_to_rest(&mut self, bus: &dbus::Service) -> bool {
        let listen = async {
            // Who has asked something of the loop gets his answer meanwhile.
            loop {
                tokio::select! {
                    Some(request) = self.ends.commands.recv() => self.request(request),
                    () = tokio::time::sleep(TIMEOUT / 4) => self.systemd.ping(),
                }
            }
        };
        tokio::select! {
            biased;
            rests = bus.rest() => rests,
            () = listen => false,
        }
    }

    /// Those of the requesters that cannot be taken along (the bus does not come to rest) have their answer now: the next
    /// program was asked and said yes.
    pub(in crate::master) fn answer_the_uncarried(&mut self) {
        let carried: HashSet<RequesterId> = self.registry.requesters().into_iter().collect();
        let Some(upgrade) = &mut self.upgrade else { return };
        for requester in upgrade.requesters.extract_if(.., |requester| !carried.contains(requester)) {
            if let Some(reply) = self.replies.remove(&requester) {
                let _ = reply.send(Reply::Done);
            }
        }
        for (requester, _) in
            upgrade.reloads.extract_if(.., |(requester, _)| requester.is_some_and(|requester| !carried.contains(&requester)))
        {
            if let Some(reply) = requester.and_then(|requester| self.replies.remove(&requester)) {
                let _ = reply.send(Reply::Failed("the master is replacing its program; ask again".to_owned()));
            }
        }
    }
}
