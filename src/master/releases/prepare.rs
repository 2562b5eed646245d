//! Prepares a release: reads the configuration, merges the environment, pins the program, and runs the check.
//!
//! Law: each of these steps may block (a file on a dead mount, a slow check), so they never run on the loop.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{self, Balance, Config, Overrides, Stdin};
use crate::master::listeners::sockets::Listener;
use crate::master::releases::account::Account;
use crate::master::releases::adapter;
use crate::master::releases::hooks::{self, Setting};
use crate::master::releases::last_good::{self, Recorded};
use crate::master::releases::memory::Footprint;
use crate::master::releases::release;
use crate::master::releases::script::{self, ScriptCopy};
use crate::master::status::status_listener::StatusChange;
use crate::master::tasks::Job;
use crate::pool::{Elastic, Limits, Purpose, Readiness, Reason, Restart, Settings, Steps, Surge, WatchFor};
use crate::sys::spawn::Plan;

/// The sources of a configuration; the same for every generation of an instance.
#[derive(Clone, Debug)]
pub struct Source {
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// The flags of `ratoon run`; they win over the file.
    pub flags: Overrides,
    /// The default of `worker.directory`.
    pub directory: PathBuf,
    /// The recorded release that is to run, in place of the one that the configuration names.
    pub recorded: Option<Recorded>,
}

/// Values that are the same for the workers of every generation.
#[derive(Clone)]
pub struct InstanceContext {
    /// The instance's name.
    pub instance: Arc<str>,
    /// The path of the control socket.
    pub control: PathBuf,
    /// The listening sockets, in the order of the master.
    pub listeners: Arc<[Listener]>,
    /// The limit of open files (soft, hard) with which the master was started.
    pub nofile: (u64, u64),
    /// The signal that workers get when the master dies, where systemd does not end them.
    pub die_with_parent: Option<i32>,
}

/// A release, from which a generation is started.
pub struct Release {
    /// The configuration.
    pub config: Arc<Config>,
    /// The configured variables, of `worker.environment` and the files: those that the hooks and the check get.
    pub variables: Vec<(String, String)>,
    /// The values that all its workers have in common.
    pub plan: Plan,
    /// The same for the preload process (`worker.preload`).
    pub preload: Option<Plan>,
    /// The copy of a script, used once the script itself has changed.
    pub script: Option<ScriptCopy>,
    /// When the release was pinned; `None` when that is not known any more.
    pub pinned_at: Option<SystemTime>,
}

/// A release that a reload can start, and what the reload has to tell and to apply beside it.
pub struct Prepared {
    /// The release.
    pub release: Arc<Release>,
    /// Warnings for the log and for the requester of the reload.
    pub warnings: Vec<String>,
    /// Another address for `status.listen`.
    pub status: Option<StatusChange>,
}

/// The generation that serves while a release is prepared.
#[derive(Debug)]
pub struct Living {
    /// The workers of that generation.
    pub footprint: Footprint,
    /// The address at which the status is served.
    pub status: Option<String>,
}

impl Source {
    /// Reads the configuration.
    ///
    /// # Errors
    /// The fault in the configuration, with line and column.
    pub fn read(&self) -> Result<Config, config::Error> {
        let mut config = match &self.file {
            Some(file) => config::load_with(file, &self.flags),
            None => config::from_flags(&self.flags),
        }?;
        if let Some(recorded) = &self.recorded {
            recorded.apply(&mut config);
        }
        Ok(config)
    }

    /// The directory from which the release is read.
    fn directory_of(&self, config: &Config) -> PathBuf {
        let recorded = self.recorded.as_ref().map(|recorded| &recorded.directory);
        recorded.or(config.worker.directory.as_ref()).unwrap_or(&self.directory).clone()
    }
}

/// Prepares a release. Beside a `living` generation the new one must fit into memory, and the configured hook and check run first
/// and can refuse it.
///
/// # Errors
/// Why there is no release.
pub fn prepare(
    source: &Source,
    context: &InstanceContext,
    living: Option<&Living>,
    purpose: Purpose,
    job: &Job,
) -> Result<Prepared, Reason> {
    // The last good release was checked when it was committed, and is in a hurry.
    let checks = living.is_some() && purpose != Purpose::LastGood;
    let reload = living.is_some();
    // The reason of a failed reload is one line, and leaves out the text of the file, which may hold a secret.
    let words = |error: config::Error| if reload { error.summary() } else { error.to_string() };
    job.reading(source.file.as_deref().unwrap_or(Path::new("the command line")).display());
    let config = source.read().map_err(words)?;
    let look_ahead = || living.map_or(Ok(None), |living| living.footprint.look_ahead(&config));
    let mut short = None;
    let runs = config.hooks.before_reload.is_some() || config.reload.check.is_some();
    // Check the memory before the hook and the check run; without these, at the end.
    if runs {
        short = look_ahead()?;
    }
    let directory = source.directory_of(&config);
    let configured = config.environment_with(&directory, |file| job.reading(file.display())).map_err(words)?;
    // Read the directory alone first, so that a directory that hangs is not reported as a program that hangs.
    job.reading(directory.display());
    let _ = std::fs::metadata(&directory);
    let path = std::env::var_os("PATH");
    let setting = Setting { config: &config, directory: &directory, variables: &configured, path: path.as_deref() };
    if let Some(argv) = config.hooks.before_reload.as_deref().filter(|_| reload && purpose == Purpose::Reload) {
        setting.hook("hooks.before_reload", argv, job)?;
    }
    job.reading(format_args!("the program of worker.command {:?}", hooks::program(&config.worker.command)));
    let pinned_at = SystemTime::now();
    let mut pinned = release::pin("worker.command", &config.worker.command, &directory, path.as_deref())?;
    if let Some(recorded) = &source.recorded {
        recorded.check(&pinned.program)?;
    }
    let listeners = listeners(&config, &context.listeners);
    let runtime_directory = context.control.parent();
    let adapted =
        adapter::adapt(&config.worker, &pinned.program, &pinned.directory_path, runtime_directory, !listeners.is_empty())?;
    if let Some(command) = &adapted.command {
        pinned = release::pin("worker.command", command, &directory, path.as_deref())?;
    }
    let preload = config.worker.preload.as_deref();
    let preload = preload.map(|argv| release::pin("worker.preload", argv, &directory, path.as_deref())).transpose()?;
    job.reading("the accounts of worker.user and worker.group");
    let account = Account::of_workers(&config)?;
    if let Some(argv) = config.reload.check.as_deref().filter(|_| checks) {
        setting.check(argv, &account, job)?;
    }
    if !runs {
        short = look_ahead()?;
    }
    let own = std::env::vars_os().filter(|(name, _)| !name.to_str().is_some_and(|name| account.hides(name)));
    let own = own.filter_map(|(name, value)| last_good::without_own_directory(name, value, &context.instance));
    let own = own.chain(account.variables().into_iter().map(|(name, value)| (name.into(), value.into())));
    let mut env = release::environment(own, configured.iter().map(|(name, value)| (name, value)))?;
    // PWD is set below to the worker's directory, as a shell sets it after `cd`; the master's own PWD is wrong for a worker.
    env.retain(|entry| !entry.as_bytes().starts_with(b"PWD="));
    for entry in &mut env {
        if let Some(path) = entry.as_bytes().strip_prefix(b"PATH=")
            && let Ok(resolved) = CString::new([b"PATH=".as_slice(), &script::resolved_path(path)].concat())
        {
            *entry = resolved;
        }
    }
    adapted.extend(&mut env);
    if config.worker.stdin == Stdin::Socket && listeners.is_empty() {
        return Err(NO_SOCKET.into());
    }
    env.extend(crate::master::listeners::sockets::environment(listeners.iter().copied()));
    env.extend(assignment("PWD", &pinned.directory_path.display().to_string()));
    env.extend(assignment("RATOON_INSTANCE", &context.instance));
    env.extend(assignment("RATOON_CONTROL", &context.control.display().to_string()));
    let script = runtime_directory.and_then(|run| script::pin_starts(&mut pinned.program, &pinned.directory_path, run));
    let nofile = config.worker.limits.nofile.map_or(context.nofile, |limit| (limit, limit));
    let plan = Plan {
        program: pinned.program,
        argv: pinned.argv,
        env,
        directory: pinned.directory,
        listeners: listeners.into_iter().map(|listener| listener.fd.clone()).collect(),
        identity: account.identity(),
        nofile: Some(nofile),
        die_with_parent: context.die_with_parent,
    };
    let preload = preload.map(|pinned| plan.for_preload(pinned.program, pinned.argv));
    let mut warnings: Vec<String> = short.into_iter().chain(adapted.warning).collect();
    let status = living.and_then(|living| living.status_change(&config, &mut warnings, job));
    let release = Release { config: Arc::new(config), variables: configured, plan, preload, script, pinned_at: Some(pinned_at) };
    Ok(Prepared { release: Arc::new(release), warnings, status })
}

/// Prepares a pinned release once more, for an undo: the checks of a reload, with the release's own configuration and environment.
///
/// # Errors
/// Why the release cannot serve again.
pub fn prepare_again(release: Arc<Release>, living: &Living, job: &Job) -> Result<Prepared, Reason> {
    let directory = release.plan.directory_path();
    job.reading(directory.display());
    release.check_pin(&directory)?;
    let config = &release.config;
    let mut warnings: Vec<String> = living.footprint.look_ahead(config)?.into_iter().collect();
    let path = std::env::var_os("PATH");
    let setting = Setting { config, directory: &directory, variables: &release.variables, path: path.as_deref() };
    if let Some(argv) = config.hooks.before_reload.as_deref() {
        setting.hook("hooks.before_reload", argv, job)?;
    }
    if let Some(argv) = config.reload.check.as_deref() {
        job.reading("the accounts of worker.user and worker.group");
        setting.check(argv, &Account::of_workers(config)?, job)?;
    }
    let status = living.status_change(config, &mut warnings, job);
    Ok(Prepared { release, warnings, status })
}

impl Living {
    /// The change of `status.listen` to what this configuration wants; adds a warning if the new address cannot be bound.
    fn status_change(&self, config: &Config, warnings: &mut Vec<String>, job: &Job) -> Option<StatusChange> {
        job.reading("the address of status.listen");
        let change = StatusChange::prepare(self.status.as_deref(), config.status.listen.as_deref());
        change.map_err(|why| warnings.push(why)).ok().flatten()
    }
}

impl Release {
    /// Checks that the pinned directory and program are still there. A program that was replaced under its path is: the pin holds it.
    fn check_pin(&self, directory: &Path) -> Result<(), String> {
        let shown = directory.display();
        let mut entries =
            std::fs::read_dir(directory).map_err(|error| format!("its directory {shown} cannot be read: {error}"))?;
        if entries.next().is_none() {
            return Err(format!("its directory {shown} was emptied"));
        }
        let program = &self.plan.program;
        let links = rustix::fs::fstat(program.descriptors().0).map(|stat| stat.st_nlink).unwrap_or(0);
        if links == 0 && !program.path().exists() {
            return Err(format!("its program {} is gone", program.path().display()));
        }
        Ok(())
    }
}

const NO_SOCKET: &str = "worker.stdin = \"socket\" needs a listening socket, and this instance has none: set worker.stdin = \"null\", or \
                         give it one by a socket unit or --listen";

/// The sockets that the workers get. With `worker.balance = "per-slot"` each worker gets a socket of its own in place of a shared
/// one.
pub fn listeners<'a>(config: &Config, all: &'a [Listener]) -> Vec<&'a Listener> {
    match config.worker.balance {
        Balance::Shared => all.iter().collect(),
        Balance::PerSlot => crate::master::listeners::sockets::one_each(all).map(|(_, listener)| listener).collect(),
    }
}

/// Returns `NAME=value`; `None` when there is a NUL in it.
pub fn assignment(name: &str, value: &str) -> Option<CString> {
    CString::new(format!("{name}={value}")).ok()
}

/// The settings of a release for the pool.
pub fn settings(release: &Release) -> Settings {
    let config = &release.config;
    let restart = &config.restart;
    let settle = config.worker.settle;
    let listens = !release.plan.listeners.is_empty();
    Settings {
        count: config.worker.workers(),
        elastic: elastic(config),
        ready: match config.worker.ready {
            config::Ready::Notify => Readiness::Notify,
            config::Ready::Running => Readiness::Running(settle),
            config::Ready::Auto if !listens => Readiness::Notify,
            config::Ready::Auto => Readiness::Auto(settle),
            config::Ready::Accepting if !listens => Readiness::Running(settle),
            config::Ready::Accepting => Readiness::Accepting(settle),
        },
        start_timeout: config.worker.start_timeout,
        stop_timeout: config.worker.stop_timeout,
        stop_signal: config.worker.stop_signal,
        watchdog: config.worker.watchdog,
        restart: Restart {
            initial: restart.initial,
            max: restart.max,
            limit: restart.limit,
            interval: restart.interval,
            give_up: restart.give_up,
        },
        surge: surge(config.reload.surge),
        steps: Steps {
            sizes: config.reload.steps.iter().map(|step| surge(*step)).collect(),
            time: config.reload.step_time,
            promote_timeout: config.reload.promote_timeout,
            judge: Limits {
                error_ratio: config.reload.judge.error_ratio,
                min_requests: config.reload.judge.min_requests,
                latency_ratio: config.reload.judge.latency_ratio,
            },
            judge_command: config.reload.judge_command.is_some(),
        },
        fallback: false,
        watch: match config.reload.watch {
            config::Watch::Unset => WatchFor::EverySlot,
            config::Watch::Off => WatchFor::Off,
            config::Watch::For(time) => WatchFor::Time(time),
        },
        probation: config.reload.probation,
        max_age: config.recycle.max_age,
        per_slot: config.worker.balance == Balance::PerSlot,
        balance_hung: config.worker.balance_hung,
        listens,
        idle: (config.worker.min == Some(0)).then_some(config.scale.idle),
        probe: config.reload.probe.is_some(),
        preload: config.worker.preload.is_some(),
        preload_fallback: config.worker.preload_fallback,
        keep: config.reload.keep,
    }
}

/// The bounds between which the load decides on the number of workers, if it does.
fn elastic(config: &Config) -> Option<Elastic> {
    let ((min, max), scale) = (config.worker.bounds(), &config.scale);
    (min < max).then(|| Elastic {
        min,
        max,
        target: scale.target,
        up_after: scale.up_after,
        down_after: scale.down_after,
        step: surge(scale.step),
    })
}

/// A number of workers, or a share, as the pool has it.
pub(in crate::master) fn surge(surge: config::Surge) -> Surge {
    match surge {
        config::Surge::Percent(percent) => Surge::Percent(percent),
        config::Surge::Count(count) => Surge::Count(count),
    }
}
