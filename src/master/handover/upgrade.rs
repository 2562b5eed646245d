//! An upgrade from the wish to the moment when all is settled.
//!
//! Law: whoever asked is answered once: by the old program when nothing comes of it, else by the new one. Nobody else is
//! kept waiting or lost: a reload under way is finished first, one that is asked for meanwhile waits for the next program.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::fds::Outgoing;
use super::{check, replace};
use crate::control::{AskerId, Reply, dbus};
use crate::master::catalog;
use crate::master::journal::{Level, Record};
use crate::master::tasks::{Task, TaskId};
use crate::master::turn::{Brought, Master};
use crate::pool::Event;

/// So long connections of the control socket may take to end what they are at, once the next program may come.
const PATIENCE: Duration = Duration::from_secs(1);
/// So long the control socket may be deaf while a pool that is never at rest (its workers crash and crash) is waited for.
const LONGEST: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// An upgrade that was asked for.
pub struct Upgrade {
    /// Who waits for it.
    pub askers: Vec<AskerId>,
    /// Reloads that were asked for since: who, and whether systemd shall be told.
    pub reloads: Vec<(Option<AskerId>, bool)>,
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
    pub(in crate::master) fn upgrade(&mut self, asker: Option<AskerId>) {
        if self.is_ending() {
            return self.refuse(asker, "the instance is stopping".to_owned());
        }
        let upgrade =
            self.upgrade.get_or_insert_with(|| Upgrade { askers: Vec::new(), reloads: Vec::new(), stage: Stage::Settling });
        upgrade.askers.extend(asker);
    }

    fn is_ending(&self) -> bool {
        self.pool.state() == "stopping" || self.ending.is_some()
    }

    /// A reload, now or by the next program.
    pub(in crate::master) fn begin_reload(&mut self, asker: Option<AskerId>, announce: bool) {
        if let Some(upgrade) = &mut self.upgrade {
            return upgrade.reloads.push((asker, announce));
        }
        if announce {
            self.announce_reload();
        }
        self.events.push_back(Event::Reload(asker));
    }

    /// Somebody does not wait any more.
    pub(in crate::master) fn upgrade_asker_gone(&mut self, asker: AskerId) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.askers.retain(|it| *it != asker);
            upgrade.reloads.retain(|(it, _)| *it != Some(asker));
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
                return (self.book.busy() == 0 && self.all_are_heard()) || self.now.duration_since(since) >= PATIENCE;
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
        self.pool.state() != "reloading"
            && self.preparing.is_none()
            && self.births.is_empty()
            && self.events.is_empty()
            && self.outbox.is_empty()
            && self.published.no_tails()
            && self.only_carried_wait()
    }

    /// Whoever waits does so on a connection that can be carried (not so on the bus), or for this upgrade.
    fn only_carried_wait(&self) -> bool {
        let carried: HashSet<AskerId> = self.book.askers().into_iter().collect();
        let waits_for_it = |asker: &AskerId| {
            self.upgrade.as_ref().is_some_and(|upgrade| {
                upgrade.askers.contains(asker) || upgrade.reloads.iter().any(|(reload, _)| reload.as_ref() == Some(asker))
            })
        };
        self.replies.keys().all(|asker| carried.contains(asker) || waits_for_it(asker))
    }

    /// Whoever asks has been heard, and whoever was answered has the answer.
    fn all_are_heard(&self) -> bool {
        self.book.askers().iter().all(|asker| self.replies.contains_key(asker))
    }

    fn ask_next_program(&mut self) {
        let mut fds = Outgoing::default();
        let document = self
            .save(None, Vec::new(), &mut fds)
            .map_err(|error| error.to_string())
            .and_then(|state| replace::document(state, &fds));
        drop(fds);
        let (bring, program) = (self.bring.clone(), self.program.clone());
        let asked = document.and_then(|document| {
            self.start_task(move |id, job| {
                job.running(program.display(), check::LIMIT);
                let result = replace::arguments_of_run().and_then(|args| check::ask(&program, &args, &document, &job.cancel));
                let _ = bring.send(Brought::Checked(id, result));
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
                self.book.accept(false);
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
        self.book.accept(true);
        let why = format!("the master keeps its program: {why}");
        self.record(Record {
            id: catalog::UPGRADE_REFUSED,
            reason: Some(why.clone()),
            ..Record::new(Level::Error, format!("not upgraded: {why}"))
        });
        for asker in upgrade.askers {
            if let Some(reply) = self.replies.remove(&asker) {
                self.outbox.push((reply, Reply::Failed(why.clone())));
            }
        }
        for (asker, announce) in upgrade.reloads {
            self.begin_reload(asker, announce);
        }
    }

    /// Whether the next program can go on with the connection to the bus; it rests then.
    pub(in crate::master) async fn bring_to_rest(&mut self, bus: &dbus::Service) -> bool {
        let listen = async {
            // Who has asked something of the loop gets his answer meanwhile.
            loop {
                tokio::select! {
                    Some(wish) = self.ends.commands.recv() => self.wish(wish),
                    () = tokio::time::sleep(PATIENCE / 4) => self.systemd.ping(),
                }
            }
        };
        tokio::select! {
            biased;
            rests = bus.rest() => rests,
            () = listen => false,
        }
    }

    /// Those of the askers that cannot be taken along (the bus does not come to rest) have their answer now: the next
    /// program was asked and said yes.
    pub(in crate::master) fn answer_the_uncarried(&mut self) {
        let carried: HashSet<AskerId> = self.book.askers().into_iter().collect();
        let Some(upgrade) = &mut self.upgrade else { return };
        for asker in upgrade.askers.extract_if(.., |asker| !carried.contains(asker)) {
            if let Some(reply) = self.replies.remove(&asker) {
                let _ = reply.send(Reply::Done);
            }
        }
        for (asker, _) in upgrade.reloads.extract_if(.., |(asker, _)| asker.is_some_and(|asker| !carried.contains(&asker))) {
            if let Some(reply) = asker.and_then(|asker| self.replies.remove(&asker)) {
                let _ = reply.send(Reply::Failed("the master is replacing its program; ask again".to_owned()));
            }
        }
    }
}
