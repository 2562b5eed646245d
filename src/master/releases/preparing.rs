//! The store of releases, and the tasks that the loop waits for: the preparation of a release, and `hooks.before_shutdown`. Each task
//! is started here and watched for its deadline; its result becomes an event.
//!
//! Law: a requester gets an answer even when the task cannot start or never ends.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Config, Fallback, Recycle};
use crate::master::event_queue::EventQueue;
use crate::master::log::Log;
use crate::master::log::journal::{Level, Record};
use crate::master::releases::commits::Commits;
use crate::master::releases::hooks::{HOOK_TIMEOUT, Setting};
use crate::master::releases::last_good::{self, LastGood, Recorded};
use crate::master::releases::prepare::{self, InstanceContext, Living, Release, Source};
use crate::master::releases::script;
use crate::master::releases::warnings;
use crate::master::task_result::{TaskResult, TaskResults};
use crate::master::tasks::{Job, Task, TaskId, Tasks};
use crate::pool::{Committed, Event, GenerationId, Purpose, Reason, Succession};

/// Time between two checks of a release for changed files.
const LOOK: Duration = Duration::from_secs(5);
/// How long a step of a task may take while there is no configuration.
const UNTIL_CONFIGURED: Duration = Duration::from_secs(10);

/// The releases of all generations that live.
pub(in crate::master) struct ReleaseStore {
    releases: HashMap<GenerationId, Arc<Release>>,
    /// The release that is being prepared.
    preparing: Option<(GenerationId, Task)>,
    /// `hooks.before_shutdown`, while it runs.
    shutdown_hook: Option<Task>,
    /// `reload.judge_command`.
    judging: Option<Task>,
    /// When a release was last checked for changed files.
    looked_for_changes: Option<Instant>,
    commits: Commits,
    last_good: LastGood,
    source: Source,
    context: InstanceContext,
    tasks: Tasks,
    results: TaskResults,
    log: Log,
}

impl ReleaseStore {
    /// The store of an instance, with the releases of an earlier program.
    pub fn new(
        releases: HashMap<GenerationId, Release>,
        source: Source,
        context: InstanceContext,
        tasks: Tasks,
        results: TaskResults,
        log: Log,
    ) -> ReleaseStore {
        let releases = releases.into_iter().map(|(number, release)| (number, Arc::new(release))).collect();
        let (preparing, shutdown_hook, judging, looked_for_changes) = (None, None, None, None);
        let (commits, last_good) = (Commits::default(), LastGood::default());
        ReleaseStore {
            releases,
            preparing,
            shutdown_hook,
            judging,
            looked_for_changes,
            commits,
            last_good,
            source,
            context,
            tasks,
            results,
            log,
        }
    }

    /// The release of a generation.
    pub fn get(&self, number: GenerationId) -> Option<&Arc<Release>> {
        self.releases.get(&number)
    }

    /// Adds the release of a generation.
    pub fn insert(&mut self, number: GenerationId, release: Arc<Release>) {
        self.releases.insert(number, release);
    }

    /// Frees the release of a generation that has no worker left.
    pub fn remove(&mut self, number: GenerationId) {
        self.releases.remove(&number);
    }

    /// Drops the releases of all other generations.
    pub fn keep_only(&mut self, is_wanted: impl Fn(GenerationId) -> bool) {
        self.releases.retain(|number, _| is_wanted(*number));
    }

    /// The commits of the releases that are kept.
    pub fn commits(&self) -> &Commits {
        &self.commits
    }

    /// Takes over the commits that an earlier program knew.
    pub fn restore_commits(&mut self, commits: Commits) {
        self.commits = commits;
    }

    /// Notes that a generation is committed now.
    pub fn committed(&mut self, number: GenerationId, asked_by: Arc<str>, history: &VecDeque<Committed>) {
        self.commits.note(number, asked_by, SystemTime::now(), history);
        self.record(history);
    }

    /// Takes over what earlier masters have recorded.
    pub fn restore_records(&mut self, last_good: LastGood) {
        self.last_good = last_good;
    }

    /// Whether a start that fails with this release can fall back to another one. Blocks.
    pub fn may_fall_back(&self, release: &Release) -> bool {
        release.config.start.fallback == Fallback::LastGood
            && last_good::existing(&self.last_good.others(Some(release))).is_some()
    }

    /// Records the releases that are kept, without those that were undone, on another thread.
    fn record(&mut self, history: &VecDeque<Committed>) {
        let Some(current) = history.back() else { return };
        let keep = self.get(current.generation).map_or(1, |release| release.config.reload.keep as usize);
        let good = history.iter().rev().filter(|committed| committed.ended != Some(Succession::Undone));
        let own = good.filter_map(|committed| {
            let number = committed.generation;
            Some(Recorded::of(committed.release, self.get(number)?, self.commits.get(number)?))
        });
        let own = own.collect();
        let Some(record) = self.last_good.record(own, keep) else { return };
        let log = self.log.clone();
        let written = self.tasks.start(self.step_limit(current.generation), move |_, job| {
            job.reading(record.directory().display());
            if let Err(error) = record.write() {
                log.warn(format!("the releases are not recorded in {}: {error}", record.directory().display()));
            }
        });
        if let Err(why) = written {
            self.log.warn(format!("the releases are not recorded: {why}"));
        }
    }

    /// All releases.
    pub fn all(&self) -> &HashMap<GenerationId, Arc<Release>> {
        &self.releases
    }

    /// The recycle limits of a generation.
    pub fn recycle_limits(&self, number: GenerationId) -> Option<&Recycle> {
        self.get(number).map(|release| &release.config.recycle)
    }

    /// The values that all releases of this instance have in common.
    pub fn context(&self) -> &InstanceContext {
        &self.context
    }

    /// Where the configuration comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The longest time that systemd has to wait for a stop.
    pub fn longest_stop(&self) -> Duration {
        self.releases.values().map(|release| release.config.worker.stop_timeout).max().unwrap_or_default()
    }

    /// The longest time that one worker may take to be replaced, and that a probe and a canary may take before; `None` without a release.
    pub fn longest_replacement(&self) -> Option<Duration> {
        let each = self.releases.values().map(|release| {
            let config = &release.config;
            let start = config.worker.start_timeout.max(config.worker.settle);
            // The preload process gets ready first.
            let preload = if config.worker.preload.is_some() { config.worker.start_timeout } else { Duration::ZERO };
            start
                + preload
                + config.worker.stop_timeout
                + probe(config)
                + canary(config)
                + config.reload.probation.unwrap_or(crate::pool::UNPROVEN_PROBATION)
        });
        each.max()
    }

    /// Starts the preparation of a release beside the generation `serving`. The result comes as a task's result; if the task cannot
    /// start, as an event.
    pub fn prepare(
        &mut self,
        number: GenerationId,
        purpose: Purpose,
        serving: GenerationId,
        living: Living,
        events: &mut EventQueue,
    ) {
        self.cancel_preparation();
        let (mut source, context, results) = (self.source.clone(), self.context.clone(), self.results.clone());
        let pinned = match purpose {
            Purpose::Undo { target, .. } => match self.releases.get(&target).cloned() {
                Some(pinned) => Some(pinned),
                None => return events.push(Event::Refused(number, format!("the release of generation {target} is gone").into())),
            },
            Purpose::Reload | Purpose::Probe | Purpose::LastGood => None,
        };
        let others = (purpose == Purpose::LastGood).then(|| self.last_good.others(self.get(serving).map(AsRef::as_ref)));
        let running = self.releases.get(&serving).map(Arc::downgrade).unwrap_or_default();
        let task = self.tasks.start(self.step_limit(serving), move |id, job| {
            source.recorded = others.as_deref().and_then(last_good::existing).cloned();
            let made = match pinned {
                None if others.is_some() && source.recorded.is_none() => Err("no other release is recorded".into()),
                Some(pinned) => prepare::prepare_again(pinned, &living, job),
                None => prepare::prepare(&source, &context, Some(&living), purpose, job).map(|mut prepared| {
                    let before = running.upgrade();
                    let told = before.map(|before| warnings::of_reload(&before, &prepared.release, number));
                    prepared.warnings.extend(told.unwrap_or_default());
                    prepared
                }),
            };
            let _ = results.send(TaskResult::Prepared(id, number, made));
        });
        match task {
            Ok(task) => self.preparing = Some((number, task)),
            Err(why) => events.push(Event::Refused(number, why.into())),
        }
    }

    /// Cancels the preparation of a release that is not needed any more.
    pub fn cancel_preparation(&mut self) {
        if let Some((_, task)) = self.preparing.take() {
            task.cancel();
        }
    }

    /// Whether a release is being prepared.
    pub fn is_preparing(&self) -> bool {
        self.preparing.is_some()
    }

    /// Whether this task is the preparation that the master waits for. It is over then. The result of another one does not count: it
    /// was cancelled or overdue.
    pub fn is_prepared_by(&mut self, id: TaskId) -> bool {
        self.preparing.take_if(|(_, task)| task.id() == id).is_some()
    }

    /// Runs `hooks.before_shutdown` of this generation as a task. Returns how long hook and stop may take; `None` when there is no hook,
    /// or when it cannot start, which is logged.
    pub fn start_shutdown_hook(&mut self, serving: GenerationId) -> Option<Duration> {
        let release = self.releases.get(&serving)?.clone();
        let argv = release.config.hooks.before_shutdown.clone()?;
        let (results, directory) = (self.results.clone(), self.source.directory.clone());
        let stop_timeout = release.config.worker.stop_timeout;
        let task = self.tasks.start(self.step_limit(serving), move |id, job| {
            let directory = release.config.worker.directory.clone().unwrap_or(directory);
            let path = std::env::var_os("PATH");
            let setting = Setting { config: &release.config, directory: &directory, variables: &[], path: path.as_deref() };
            let _ = results.send(TaskResult::ReadyToStop(id, setting.hook("hooks.before_shutdown", &argv, job)));
        });
        match task {
            Ok(task) => {
                self.shutdown_hook = Some(task);
                Some(HOOK_TIMEOUT + stop_timeout)
            }
            Err(why) => {
                self.log.warn(format!("hooks.before_shutdown is not run: {why}"));
                None
            }
        }
    }

    /// The log of the instance.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Where tasks send their results.
    pub fn results(&self) -> &TaskResults {
        &self.results
    }

    /// Starts a task beside the generation `serving`; see [`Task`].
    ///
    /// # Errors
    /// As [`Tasks::start`].
    pub fn start_task(
        &mut self,
        serving: GenerationId,
        body: impl FnOnce(TaskId, &Job) + Send + 'static,
    ) -> Result<Task, String> {
        self.tasks.start(self.step_limit(serving), body)
    }

    /// Keeps the task of `reload.judge_command`; `None` cancels it, which kills the command and what it started.
    pub fn keep_judging(&mut self, task: Option<Task>) {
        if let Some(earlier) = std::mem::replace(&mut self.judging, task) {
            earlier.cancel();
        }
    }

    /// Whether `hooks.before_shutdown` runs.
    pub fn runs_shutdown_hook(&self) -> bool {
        self.shutdown_hook.is_some()
    }

    /// Ends `hooks.before_shutdown`, and does not wait for it.
    pub fn cancel_shutdown_hook(&mut self) {
        if let Some(hook) = self.shutdown_hook.take() {
            hook.cancel();
        }
    }

    /// Handles the end of `hooks.before_shutdown`.
    pub fn shutdown_hook_ended(&mut self, id: TaskId, result: Result<(), Reason>, events: &mut EventQueue) {
        if self.shutdown_hook.take_if(|task| task.id() == id).is_some() {
            self.stop_after_hook(result, events);
        }
    }

    fn stop_after_hook(&self, result: Result<(), Reason>, events: &mut EventQueue) {
        if let Err(why) = result {
            self.log.warn(why.in_full());
        }
        events.push(Event::Stop { now: false });
    }

    /// Checks on another thread, after a worker of this generation failed, whether the release was changed in place. Not again for
    /// `LOOK`, however many workers fail.
    pub fn look_for_changes(&mut self, number: GenerationId, now: Instant) {
        let Some(release) = self.releases.get(&number).cloned() else { return };
        let may = self.looked_for_changes.is_none_or(|at| now.saturating_duration_since(at) >= LOOK);
        let Some(since) = release.pinned_at.filter(|_| may) else { return };
        self.looked_for_changes = Some(now);
        let results = self.results.clone();
        // A failure to start is ignored: the task only adds a warning, and a more important error is logged then.
        let _ = self.tasks.start(self.step_limit(number), move |_, job| {
            let directory = format!("/proc/self/fd/{}", release.plan.directory.as_raw_fd());
            let Ok(directory) = std::fs::read_link(directory) else { return };
            job.reading(directory.display());
            if let Some(what) = script::changed_since(&directory, since) {
                let _ = results.send(TaskResult::ReleaseChanged(number, what));
            }
        });
    }

    /// Logs what is dangerous or odd about a release, from a task's thread.
    pub fn warn_of(&self, number: GenerationId) {
        let Some(release) = self.releases.get(&number).cloned() else { return };
        let (journal, directory) = (self.log.journal().clone(), self.source.directory.clone());
        // The task only warns. If no task can start, there is worse to report.
        let _ = self.tasks.start(self.step_limit(number), move |_, _| {
            for warning in warnings::of(&release, &directory) {
                journal.log(Record::new(Level::Warning, warning));
            }
        });
    }

    /// When [`Self::on_deadline`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let tasks = [self.preparing.as_ref().map(|(_, task)| task), self.shutdown_hook.as_ref()];
        tasks.into_iter().flatten().filter_map(Task::deadline).min()
    }

    /// Gives up overdue tasks; their threads are not waited for.
    pub fn on_deadline(&mut self, now: Instant, events: &mut EventQueue) {
        if let Some((number, why)) = self.preparing.as_ref().and_then(|(number, task)| Some((*number, task.overdue(now)?))) {
            self.cancel_preparation();
            events.push(Event::Refused(number, why.into()));
        }
        if let Some(why) = self.shutdown_hook.as_ref().and_then(|task| task.overdue(now)) {
            self.cancel_shutdown_hook();
            self.stop_after_hook(Err(format!("the instance stops without hooks.before_shutdown: {why}").into()), events);
        }
    }

    /// How long a step of a task may take, without the programs that it runs: `worker.start_timeout` of the generation that serves.
    pub fn step_limit(&self, serving: GenerationId) -> Duration {
        self.releases.get(&serving).map_or(UNTIL_CONFIGURED, |release| release.config.worker.start_timeout)
    }
}

/// The longest time of a probe.
fn probe(config: &Config) -> Duration {
    let worker = &config.worker;
    let probed = config.reload.probe.is_some();
    if probed { worker.start_timeout + config.reload.probe_timeout + worker.stop_timeout } else { Duration::ZERO }
}

/// The longest time of a canary's steps, each with the start of its workers.
fn canary(config: &Config) -> Duration {
    let reload = &config.reload;
    let judged = if reload.judge_command.is_some() { crate::pool::JUDGE_COMMAND_LIMIT } else { Duration::ZERO };
    let step =
        config.worker.start_timeout.max(config.worker.settle) + reload.step_time.unwrap_or(reload.promote_timeout) + judged;
    step.saturating_mul(u32::try_from(reload.steps.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::master::log::journal;
    use crate::master::releases::memory::Footprint;
    use crate::master::testing::{context, source};

    const CONFIG: &str = "[worker]\ncommand = [\"sleep\", \"1000\"]\nstart_timeout = \"7s\"\nstop_timeout = \"5s\"\n";

    fn store(directory: &Path, config: &str) -> (ReleaseStore, UnboundedReceiver<TaskResult>) {
        let (results, received) = unbounded_channel();
        let (source, log) = (source(directory, config), Log::new(journal::start("web")));
        (ReleaseStore::new(HashMap::new(), source, context(directory), Tasks::default(), results, log), received)
    }

    fn living() -> Living {
        Living { footprint: Footprint::of(&[], None), status: None }
    }

    #[test]
    fn store_prepares_a_release_and_keeps_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut releases, mut results) = store(directory.path(), CONFIG);
        let mut events = EventQueue::default();
        releases.prepare(1, Purpose::Reload, 0, living(), &mut events);
        assert!(releases.is_preparing() && releases.deadline().is_some());
        let Some(TaskResult::Prepared(id, 1, Ok(prepared))) = results.blocking_recv() else { panic!("no release") };
        assert_eq!(prepare::settings(&prepared.release).stop_timeout, Duration::from_secs(5));
        assert!(!releases.is_prepared_by(id + 1) && releases.is_prepared_by(id) && !releases.is_prepared_by(id));
        releases.insert(1, prepared.release);
        assert_eq!((releases.longest_stop(), releases.step_limit(1)), (Duration::from_secs(5), Duration::from_secs(7)));
        releases.remove(1);
        assert!(releases.get(1).is_none() && releases.deadline().is_none() && events.is_empty());
    }

    #[test]
    fn probe_counts_in_the_time_that_systemd_grants() {
        let directory = tempfile::tempdir().expect("a directory");
        let plain =
            "[worker]\ncommand = [\"true\"]\nstart_timeout = \"7s\"\nstop_timeout = \"5s\"\n[reload]\nprobation = \"0s\"\n";
        let probed = format!("{plain}probe = \"GET /\"\nprobe_timeout = \"2s\"\n");
        for (config, seconds) in [(plain, 7 + 5), (&*probed, 7 + 5 + 7 + 2 + 5)] {
            let mut releases = store(directory.path(), config).0;
            releases.insert(1, crate::master::testing::release(directory.path(), config));
            assert_eq!(releases.longest_replacement(), Some(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn changes_are_not_looked_for_at_every_failure() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut releases, now) = (store(directory.path(), CONFIG).0, Instant::now());
        let job = crate::master::tasks::Job::unwatched().expect("a job");
        let release =
            prepare::prepare(&source(directory.path(), CONFIG), &context(directory.path()), None, Purpose::Reload, &job);
        releases.insert(1, release.map_err(|why| why.in_full()).expect("a release").release);
        let mut looked = |at| {
            releases.look_for_changes(1, at);
            releases.looked_for_changes
        };
        assert_eq!([looked(now), looked(now + LOOK / 2), looked(now + LOOK)], [Some(now), Some(now), Some(now + LOOK)]);
    }

    #[test]
    fn overdue_preparation_is_refused_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut releases, mut events) = (store(directory.path(), CONFIG).0, EventQueue::default());
        releases.prepare(4, Purpose::Reload, 0, living(), &mut events);
        let late = Instant::now() + 10 * UNTIL_CONFIGURED;
        releases.on_deadline(late, &mut events);
        assert!(matches!(events.pop(), Some(Event::Refused(4, why)) if why.cause.contains("10s")));
        releases.on_deadline(late, &mut events);
        assert!(events.is_empty() && !releases.is_preparing());
    }

    #[test]
    fn shutdown_hook_ends_with_a_stop() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = "[worker]\ncommand = [\"true\"]\n[hooks]\nbefore_shutdown = [\"sh\", \"-c\", \"exit 3\"]\n";
        let (mut releases, mut results) = store(directory.path(), config);
        assert_eq!(releases.start_shutdown_hook(1), None, "no release");
        let job = crate::master::tasks::Job::unwatched().expect("a job");
        let release =
            prepare::prepare(&source(directory.path(), config), &context(directory.path()), None, Purpose::Reload, &job);
        releases.insert(1, release.map_err(|why| why.in_full()).expect("a release").release);
        assert!(releases.start_shutdown_hook(1).is_some() && releases.runs_shutdown_hook());
        let mut events = EventQueue::default();
        let Some(TaskResult::ReadyToStop(id, result)) = results.blocking_recv() else { panic!("no result") };
        assert!(result.is_err());
        releases.shutdown_hook_ended(id, result, &mut events);
        assert_eq!((events.pop(), releases.runs_shutdown_hook()), (Some(Event::Stop { now: false }), false));
    }
}
