//! The tasks that the loop waits for: the preparation of a release, and `hooks.before_shutdown`. Each task is started here and
//! watched for its deadline; its result becomes an event.
//!
//! Law: a requester gets an answer even when the task cannot start or never ends.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::master::log::journal::{Level, Record};
use crate::master::releases::hooks::{HOOK_TIMEOUT, Setting};
use crate::master::releases::prepare::{self, Living, Release};
use crate::master::releases::script;
use crate::master::releases::warnings;
use crate::master::tasks::TaskResult;
use crate::master::tasks::{Task, TaskId};
use crate::master::turn::Master;
use crate::pool::{Event, GenerationId, Outcome, Reason, Settings};

impl Master {
    /// Starts the preparation of a release. The result comes as an event, also when the task cannot start.
    pub(in crate::master) fn prepare(&mut self, number: GenerationId) {
        self.release_cancelled();
        if let Some(why) = self.troubles.refusal() {
            return self.events.push(Event::Refused(number, why.into()));
        }
        let (source, context, results) = (self.source.clone(), self.context.clone(), self.results.clone());
        let running = self.releases.get(&self.pool.generation()).map(Arc::downgrade).unwrap_or_default();
        let living = Living {
            footprint: self.workers.footprint(self.pool.generation()),
            status: self.status.address().map(str::to_owned),
        };
        let task = self.tasks.start(self.step_limit(), move |id, job| {
            let made = prepare::prepare(&source, &context, Some(&living), job);
            let made = made.map(|mut release| {
                let before = running.upgrade();
                release.reload_warnings.extend(before.and_then(|before| warnings::of_reload(&before, &release, number)));
                (prepare::settings(&release), Box::new(release))
            });
            let _ = results.send(TaskResult::Prepared(id, number, made));
        });
        match task {
            Ok(task) => self.preparing = Some((number, task)),
            Err(why) => self.events.push(Event::Refused(number, why.into())),
        }
    }

    /// Cancels the preparation of a release that is not needed any more.
    pub(in crate::master) fn release_cancelled(&mut self) {
        if let Some((_, task)) = self.preparing.take() {
            task.cancel();
        }
    }

    /// Handles the end of a preparation. The result counts only if it is the preparation that the master waits for.
    pub(in crate::master) fn prepared(
        &mut self,
        id: TaskId,
        number: GenerationId,
        result: Result<(Settings, Box<Release>), Reason>,
    ) {
        if self.preparing.take_if(|(_, task)| task.id() == id).is_none() {
            // The preparation was aborted or overdue: drop the result, which closes the pinned files.
            return;
        }
        let slots = |(settings, release): (Settings, Box<Release>)| {
            let count = self.pool.target();
            self.listeners
                .make_slots(&release.config, count)
                .map(|()| (settings, release))
                .map_err(|error| error.to_string().into())
        };
        match result.and_then(slots) {
            Ok((settings, mut release)) => {
                release.reload_warnings.extend(self.workers.missing_limits(&release));
                for warning in &release.reload_warnings {
                    self.log.record(Record { generation: Some(number), ..Record::new(Level::Warning, warning.clone()) });
                }
                self.conditions.prepared(number, release.reload_warnings.clone());
                self.status.prepared(number, release.status.take());
                self.releases.insert(number, Arc::new(*release));
                self.keep_reader_rules();
                self.extend();
                self.events.push(Event::Prepared(number, settings));
            }
            Err(reason) => self.events.push(Event::Refused(number, reason)),
        }
    }

    /// Handles the outcome of a reload: applies the changes to the master itself if the reload was committed, else drops them.
    pub(in crate::master) fn reload_decided(&mut self, number: GenerationId, outcome: Outcome) {
        if outcome != Outcome::Committed {
            return self.status.withdrawn();
        }
        if let Err(error) = self.status.committed(number, self.workers.runtime_dir().handle(), &self.registry) {
            self.log.record(Record::new(Level::Error, format!("status.listen: {error}")));
        }
        self.keep_conditions(number);
    }

    /// Tells from now on the parts of this generation's configuration that are not applied.
    pub(in crate::master) fn keep_conditions(&mut self, number: GenerationId) {
        let Some(release) = self.releases.get(&number) else { return };
        let (wanted, served) = (release.config.status.listen.as_deref(), self.status.address());
        let address = (wanted != served).then(|| match (wanted, served) {
            (Some(wanted), Some(served)) => format!("status.listen = {wanted:?} is not served, {served:?} still is"),
            (Some(wanted), None) => format!("status.listen = {wanted:?} is not served"),
            (None, _) => "status.listen is still served".to_owned(),
        });
        let unapplied = address.into_iter().chain(self.workers.missing_limits(release)).collect();
        self.conditions.committed(unapplied);
    }

    /// Warns of the limits of this generation that cannot be applied here, if there are some.
    pub(in crate::master) fn warn_of_limits(&mut self, number: GenerationId) {
        if let Some(sentence) = self.releases.get(&number).and_then(|release| self.workers.missing_limits(release)) {
            self.log.record(Record { generation: Some(number), ..Record::new(Level::Warning, sentence) });
        }
    }

    /// Runs `hooks.before_shutdown` as a task. Returns `false` when there is no hook, or when it cannot start, which is logged.
    pub(in crate::master) fn start_last_hook(&mut self) -> bool {
        let Some(release) = self.releases.get(&self.pool.generation()).cloned() else { return false };
        let Some(argv) = release.config.hooks.before_shutdown.clone() else { return false };
        let (results, directory) = (self.results.clone(), self.source.directory.clone());
        let stop_timeout = release.config.worker.stop_timeout;
        let task = self.tasks.start(self.step_limit(), move |id, job| {
            let directory = release.config.worker.directory.clone().unwrap_or(directory);
            let path = std::env::var_os("PATH");
            let setting = Setting { config: &release.config, directory: &directory, variables: &[], path: path.as_deref() };
            let _ = results.send(TaskResult::ReadyToStop(id, setting.hook("hooks.before_shutdown", &argv, job)));
        });
        match task {
            Ok(task) => {
                self.ending = Some(task);
                self.systemd.extend(HOOK_TIMEOUT + stop_timeout, self.now);
                true
            }
            Err(why) => {
                self.log.record(Record::new(Level::Warning, format!("hooks.before_shutdown is not run: {why}")));
                false
            }
        }
    }

    /// Handles the end of `hooks.before_shutdown`.
    pub(in crate::master) fn last_hook_ended(&mut self, id: TaskId, result: Result<(), Reason>) {
        if self.ending.take_if(|task| task.id() == id).is_some() {
            self.stop_after_hook(result);
        }
    }

    fn stop_after_hook(&mut self, result: Result<(), Reason>) {
        if let Err(why) = result {
            self.log.record(Record::new(Level::Warning, why.in_full()));
        }
        self.events.push(Event::Stop { now: false });
    }

    /// Checks on another thread, after a worker of this generation failed, whether the release was changed in place.
    pub(in crate::master) fn look_for_changes(&mut self, number: GenerationId) {
        let Some(release) = self.releases.get(&number).cloned() else { return };
        let Some(since) = release.pinned_at.filter(|_| self.conditions.may_look_for_changes(self.now)) else { return };
        let results = self.results.clone();
        // A failure to start is ignored: the task only adds a warning, and a more important error is logged then.
        let _ = self.start_task(move |_, job| {
            let directory = format!("/proc/self/fd/{}", release.plan.directory.as_raw_fd());
            let Ok(directory) = std::fs::read_link(directory) else { return };
            job.reading(directory.display());
            if let Some(what) = script::changed_since(&directory, since) {
                let _ = results.send(TaskResult::ReleaseChanged(number, what));
            }
        });
    }

    /// Warns that failed workers of this generation, and their replacements, may have run files of another release.
    pub(in crate::master) fn release_changed(&mut self, number: GenerationId, what: &str) {
        for failure in self.failures.iter_mut().filter(|failure| failure.generation == number) {
            failure.release_changed = Some(what.to_owned());
        }
        self.log.warn_once(&format!(
            "the release of generation {number} is not what it was: {what}; its workers start again from these files as they are \
             now. Deploy each release into a directory of its own, with a symlink that moves (worker.directory)"
        ));
    }

    /// When [`Self::look_at_tasks`] is to be called next.
    pub(in crate::master) fn tasks_deadline(&self) -> Option<Instant> {
        let upgrade = self.upgrade.as_ref().and_then(crate::master::handover::upgrade::Upgrade::task);
        let tasks = [self.preparing.as_ref().map(|(_, task)| task), self.ending.as_ref(), upgrade];
        tasks.into_iter().flatten().filter_map(Task::deadline).min()
    }

    /// Gives up overdue tasks; their threads are not waited for.
    pub(in crate::master) fn look_at_tasks(&mut self) {
        let now = self.now;
        if let Some((number, why)) = self.preparing.as_ref().and_then(|(number, task)| Some((*number, task.overdue(now)?))) {
            self.release_cancelled();
            self.events.push(Event::Refused(number, why.into()));
        }
        if let Some(why) = self.ending.as_ref().and_then(|task| task.overdue(now)) {
            if let Some(task) = self.ending.take() {
                task.cancel();
            }
            self.stop_after_hook(Err(format!("the instance stops without hooks.before_shutdown: {why}").into()));
        }
        let upgrade = self.upgrade.as_ref().and_then(crate::master::handover::upgrade::Upgrade::task);
        if let Some(why) = upgrade.and_then(|task| task.overdue(now)) {
            self.not_replaced(&why);
        }
    }

    /// How long a step of a task may take, without the programs that it runs: `worker.start_timeout` of the generation that serves.
    fn step_limit(&self) -> Duration {
        const UNTIL_CONFIGURED: Duration = Duration::from_secs(10);
        self.releases.get(&self.pool.generation()).map_or(UNTIL_CONFIGURED, |release| release.config.worker.start_timeout)
    }

    /// Starts a task on another thread; see [`Task`].
    pub(in crate::master) fn start_task(
        &mut self,
        body: impl FnOnce(TaskId, &crate::master::tasks::Job) + Send + 'static,
    ) -> Result<Task, String> {
        self.tasks.start(self.step_limit(), body)
    }
}
