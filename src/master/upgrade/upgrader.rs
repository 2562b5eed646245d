//! An upgrade from the request to execve(2).
//!
//! Law: each requester is answered once, before execve(2). A reload that is under way, or that is requested before that moment, is
//! finished first. The requester of the upgrade is told that the installed program takes over, or why not. A new connection shows
//! that the upgrade is done: `program_start_time` of `GET /readyz` has changed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{check, replace};
use crate::api::RequesterId;
use crate::control::http::ConnectionRegistry;
use crate::master::log::Log;
use crate::master::log::catalog;
use crate::master::log::journal::{Level, Record};
use crate::master::task_result::{TaskResult, TaskResults};
use crate::master::tasks::{Task, TaskId, Tasks};

/// How long connections of the control socket may take for their answers, once no new ones are accepted.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long the control socket may accept no connections while the pool is never idle (workers that crash again and again).
const LONGEST: Duration = Duration::from_secs(10);
/// Interval of the checks meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// A requested upgrade.
struct Upgrade {
    /// Requesters of the upgrade.
    requesters: Vec<RequesterId>,
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

/// Work of the master that is under way beside the upgrade.
#[derive(Clone, Copy, Debug)]
pub(in crate::master) struct Situation {
    /// The instance is stopping.
    pub is_ending: bool,
    /// A requester waits for something else, or a reload is under way.
    pub is_asked: bool,
    /// Nothing is under way that could not go on in another program.
    pub is_settled: bool,
}

/// The next step of an upgrade.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::master) enum Step {
    /// There is nothing to do now.
    Wait,
    /// Ask the next program about the present state: [`Upgrader::ask`].
    Ask,
    /// execve(2) is due.
    Replace,
    /// The upgrade cannot be; give it up, for this reason.
    GiveUp(String),
}

/// An upgrade that was given up.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::master) struct GivenUp {
    /// Its requesters.
    pub requesters: Vec<RequesterId>,
    /// The answer for the requesters.
    pub why: String,
    /// A reload that was to be begun by the next program. The value: whether to tell systemd.
    pub reload_asked: Option<bool>,
}

/// The upgrade of this master, if one is requested.
pub(in crate::master) struct Upgrader {
    /// The path of this process's program.
    program: PathBuf,
    upgrade: Option<Upgrade>,
    /// The connections of the control socket and of `status.listen`.
    registry: Arc<ConnectionRegistry>,
    tasks: Tasks,
    results: TaskResults,
    log: Log,
}

impl Upgrader {
    /// No upgrade is requested.
    pub fn new(program: PathBuf, registry: Arc<ConnectionRegistry>, tasks: Tasks, results: TaskResults, log: Log) -> Upgrader {
        Upgrader { program, upgrade: None, registry, tasks, results, log }
    }

    /// The path of this process's program, which the upgrade executes.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Requests that the master runs the installed program.
    pub fn request(&mut self, requester: Option<RequesterId>) {
        let upgrade =
            self.upgrade.get_or_insert_with(|| Upgrade { requesters: Vec::new(), reload_asked: None, stage: Stage::Settling });
        upgrade.requesters.extend(requester);
    }

    /// Whether an upgrade is requested.
    pub fn is_requested(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Whether this requester waits for the upgrade.
    pub fn is_requested_by(&self, requester: RequesterId) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.requesters.contains(&requester))
    }

    /// Forgets a requester that does not wait any more.
    pub fn requester_gone(&mut self, requester: RequesterId) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.requesters.retain(|it| *it != requester);
        }
    }

    /// The requesters of the upgrade, which are to be answered now.
    pub fn take_requesters(&mut self) -> Vec<RequesterId> {
        self.upgrade.as_mut().map_or_else(Vec::new, |upgrade| std::mem::take(&mut upgrade.requesters))
    }

    /// Leaves a reload to the next program. `false` without an upgrade. `announce`: whether to tell systemd.
    pub fn leave_reload(&mut self, announce: bool) -> bool {
        self.upgrade.as_mut().map(|upgrade| upgrade.reload_asked = Some(announce)).is_some()
    }

    /// The reload with which the next program is to begin; the value: whether to tell systemd.
    pub fn reload_asked(&self) -> Option<bool> {
        self.upgrade.as_ref()?.reload_asked
    }

    /// Takes the upgrade one step further.
    pub fn step(&mut self, now: Instant, situation: Situation) -> Step {
        let Some(upgrade) = &mut self.upgrade else { return Step::Wait };
        let Situation { is_ending, is_asked, is_settled } = situation;
        if is_ending {
            return Step::GiveUp("the instance is stopping".to_owned());
        }
        match upgrade.stage {
            Stage::Settling if is_settled => return Step::Ask,
            Stage::Leaving(_) if is_asked => {
                // A reload came in between, so the next program was asked about a state that is out of date.
                self.registry.accept(true);
                upgrade.stage = Stage::Settling;
            }
            Stage::Leaving(since) if is_settled => {
                if self.registry.busy() == 0 || now.duration_since(since) >= TIMEOUT {
                    return Step::Replace;
                }
            }
            Stage::Leaving(since) if now.duration_since(since) >= LONGEST => {
                return Step::GiveUp("the pool did not come to rest for a moment; ask again".to_owned());
            }
            Stage::Settling | Stage::Checking(_) | Stage::Leaving(_) => {}
        }
        Step::Wait
    }

    /// Asks the next program whether it could go on from this state, on another thread.
    ///
    /// # Errors
    /// The thread cannot start.
    pub fn ask(&mut self, document: OwnedFd, limit: Duration) -> Result<(), String> {
        let Some(upgrade) = &mut self.upgrade else { return Ok(()) };
        let (results, program) = (self.results.clone(), self.program.clone());
        let task = self.tasks.start(limit, move |id, job| {
            job.running(program.display(), check::LIMIT);
            let result = replace::arguments_of_run().and_then(|args| check::ask(&program, &args, &document, &job.cancel));
            let _ = results.send(TaskResult::Checked(id, result));
        })?;
        upgrade.stage = Stage::Checking(task);
        Ok(())
    }

    /// Handles the answer of the next program.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub fn answered(&mut self, task: TaskId, result: Result<(), String>, now: Instant) -> Result<(), String> {
        let Some(upgrade) = &mut self.upgrade else { return Ok(()) };
        if !matches!(&upgrade.stage, Stage::Checking(it) if it.id() == task) {
            return Ok(());
        }
        result?;
        upgrade.stage = Stage::Leaving(now);
        // A connection that comes now waits in the kernel's accept queue for the next program.
        self.registry.accept(false);
        Ok(())
    }

    /// When [`Self::step`] and [`Self::overdue`] have something to do without an event.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match &self.upgrade.as_ref()?.stage {
            Stage::Settling => None,
            Stage::Checking(task) => task.deadline(),
            Stage::Leaving(_) => Some(now + LOOK),
        }
    }

    /// Why the upgrade is to be given up, if the next program does not answer in time.
    pub fn overdue(&self, now: Instant) -> Option<String> {
        match &self.upgrade.as_ref()?.stage {
            Stage::Checking(task) => task.overdue(now),
            Stage::Settling | Stage::Leaving(_) => None,
        }
    }

    /// Gives the upgrade up: the master goes on as before. Logs why.
    pub fn give_up(&mut self, why: &str) -> Option<GivenUp> {
        let upgrade = self.upgrade.take()?;
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
        Some(GivenUp { requesters: upgrade.requesters, why, reload_asked: upgrade.reload_asked })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::master::log::journal;

    const IDLE: Situation = Situation { is_ending: false, is_asked: false, is_settled: true };
    const RELOADING: Situation = Situation { is_ending: false, is_asked: true, is_settled: false };

    fn upgrader() -> (Upgrader, UnboundedReceiver<TaskResult>) {
        let (results, received) = unbounded_channel();
        let log = Log::new(journal::start("web"));
        (Upgrader::new("/bin/false".into(), Arc::default(), Tasks::default(), results, log), received)
    }

    fn asked(upgrader: &mut Upgrader, results: &mut UnboundedReceiver<TaskResult>) -> TaskId {
        let document = std::fs::File::open("/dev/null").expect("a file");
        upgrader.ask(document.into(), Duration::from_secs(10)).expect("a thread");
        let Some(TaskResult::Checked(task, result)) = results.blocking_recv() else { panic!("no answer") };
        assert!(result.is_err(), "the test was not started as `ratoon run`");
        task
    }

    #[test]
    fn upgrade_waits_until_nothing_else_is_under_way() {
        let (now, (mut upgrader, mut results)) = (Instant::now(), upgrader());
        assert_eq!(upgrader.step(now, IDLE), Step::Wait);
        upgrader.request(Some(4));
        assert_eq!([upgrader.step(now, RELOADING), upgrader.step(now, IDLE)], [Step::Wait, Step::Ask]);
        let task = asked(&mut upgrader, &mut results);
        assert_eq!((upgrader.step(now, IDLE), upgrader.answered(task + 1, Err("another".to_owned()), now)), (Step::Wait, Ok(())));
        assert_eq!((upgrader.answered(task, Ok(()), now), upgrader.step(now, IDLE)), (Ok(()), Step::Replace));
        // A reload that comes now is finished first, and the next program is asked again.
        assert_eq!([upgrader.step(now, RELOADING), upgrader.step(now, IDLE)], [Step::Wait, Step::Ask]);
        assert!(upgrader.is_requested_by(4));
        upgrader.requester_gone(4);
        assert!(upgrader.is_requested() && upgrader.take_requesters().is_empty());
    }

    #[test]
    fn upgrade_is_given_up_with_its_requesters_and_reload() {
        let (now, (mut upgrader, mut results)) = (Instant::now(), upgrader());
        assert!(upgrader.give_up("no upgrade").is_none() && !upgrader.leave_reload(true));
        upgrader.request(Some(4));
        assert!(upgrader.leave_reload(true));
        let task = asked(&mut upgrader, &mut results);
        assert!(upgrader.deadline(now).is_some() && upgrader.overdue(now).is_none());
        assert_eq!(upgrader.answered(task, Err("exit 1".to_owned()), now), Err("exit 1".to_owned()));
        assert!(matches!(upgrader.step(now, Situation { is_ending: true, ..IDLE }), Step::GiveUp(_)));
        let why = "the master keeps its program: exit 1".to_owned();
        assert_eq!(upgrader.give_up("exit 1"), Some(GivenUp { requesters: vec![4], why, reload_asked: Some(true) }));
        assert_eq!((upgrader.is_requested(), upgrader.deadline(now)), (false, None));
    }
}
