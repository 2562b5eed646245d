//! `hooks.before_reload`, `hooks.before_shutdown` and `reload.check`: the user as which each runs, and when it is refused.
//!
//! | key | runs as | when another user may change the program |
//! |---|---|---|
//! | hooks | `hooks.user`, else the master's user | refused if it would run as root |
//! | `reload.check` | the worker's user | a warning if that is root, as for `worker.command` |
//! | `worker.command` | the worker's user | a warning if that is root |
//!
//! Law 11: a root master executes no program that another user may write or rename.
//! Law 4: all of this blocks, so it never runs on the loop.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use crate::config::Config;
use crate::master::releases::account::Account;
use crate::master::releases::command;
use crate::master::releases::release::{self, Pinned};
use crate::master::tasks::Job;
use crate::pool::Reason;
use crate::sys::trust;

/// A hook or a check that takes longer is killed and has failed.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// The configuration, directory and variables for the hooks and the check.
pub struct Setting<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// `worker.directory`, as configured.
    pub directory: &'a Path,
    /// The configured variables.
    pub variables: &'a [(String, String)],
    /// The master's `PATH`.
    pub path: Option<&'a OsStr>,
}

impl Setting<'_> {
    /// Runs a hook to its end.
    ///
    /// # Errors
    /// A reason that begins with the key: the program is missing, is refused, or has failed.
    pub fn hook(&self, key: &str, argv: &[String], job: &Job) -> Result<(), Reason> {
        self.hook_with(key, argv, None, job)
    }

    /// Runs a hook that reads `input` from standard input.
    ///
    /// # Errors
    /// As [`Setting::hook`].
    pub fn hook_with(&self, key: &str, argv: &[String], input: Option<&str>, job: &Job) -> Result<(), Reason> {
        self.ended_with(key, argv, input, job).map_err(|(_, reason)| reason)
    }

    /// Runs a hook as [`Setting::hook_with`] does.
    ///
    /// # Errors
    /// The same reason, and the exit status if the program has ended with one.
    pub fn ended_with(&self, key: &str, argv: &[String], input: Option<&str>, job: &Job) -> Result<(), (Option<i32>, Reason)> {
        job.reading(format_args!("the program of {key} {:?}", program(argv)));
        let refused = |why: String| (None, Reason::from(why));
        let account = Account::of_hooks(self.config).map_err(refused)?;
        let pinned = self.pin(key, argv).map_err(refused)?;
        self.check_trust(key, &pinned, &account).map_err(refused)?;
        self.run(key, argv, &pinned, &account, input, job)
    }

    /// Runs `reload.check` to its end, as the worker's user.
    ///
    /// # Errors
    /// As [`Setting::hook`].
    pub fn check(&self, argv: &[String], account: &Account, job: &Job) -> Result<(), Reason> {
        job.reading(format_args!("the program of reload.check {:?}", program(argv)));
        let pinned = self.pin("reload.check", argv)?;
        self.run("reload.check", argv, &pinned, account, None, job).map_err(|(_, reason)| reason)
    }

    /// Why `hooks.before_shutdown` would be refused. Reported in time, while the administrator can still correct it.
    pub fn warning_of_shutdown(&self) -> Option<String> {
        let key = "hooks.before_shutdown";
        let argv = self.config.hooks.before_shutdown.as_deref()?;
        let account = Account::of_hooks(self.config).ok()?;
        // A program that is missing now may be there at the shutdown.
        let pinned = self.pin(key, argv).ok()?;
        self.check_trust(key, &pinned, &account).err()
    }

    /// Reasons for which hooks and the check would not run, as far as that is known without running them.
    pub fn errors(&self) -> Vec<String> {
        let account = match Account::of_hooks(self.config) {
            Ok(account) => account,
            Err(why) => return vec![why],
        };
        let hooks = &self.config.hooks;
        let hooks = [
            ("hooks.before_reload", &hooks.before_reload),
            ("hooks.before_shutdown", &hooks.before_shutdown),
            ("reload.on_rollback", &self.config.reload.on_rollback),
            ("reload.judge_command", &self.config.reload.judge_command),
        ];
        let hooks = hooks.into_iter().filter_map(|(key, argv)| Some((key, argv.as_deref()?)));
        let hook = |(key, argv): (&str, &[String])| {
            let pinned = self.pin(key, argv)?;
            self.check_trust(key, &pinned, &account)
        };
        let check = self.config.reload.check.as_deref().map(|argv| self.pin("reload.check", argv).map(drop));
        let preload = self.config.worker.preload.as_deref().map(|argv| self.pin("worker.preload", argv).map(drop));
        hooks.map(hook).chain(check).chain(preload).filter_map(Result::err).collect()
    }

    /// Warnings about programs that another user may change and that run as root although no user is configured.
    pub fn warnings_of_root(&self, account: &Account, command: &Pinned) -> Vec<String> {
        if account.uid() != 0 || self.config.worker.user.is_some() {
            return Vec::new();
        }
        let check = self.config.reload.check.as_deref().and_then(|argv| self.pin("reload.check", argv).ok());
        let preload = self.config.worker.preload.as_deref().and_then(|argv| self.pin("worker.preload", argv).ok());
        let programs =
            [("worker.command", Some(command)), ("worker.preload", preload.as_ref()), ("reload.check", check.as_ref())];
        let programs = programs.into_iter().filter_map(|(key, pinned)| Some((key, pinned?)));
        let warn = |(key, pinned): (&str, &Pinned)| {
            let untrusted = trust::check_program(&pinned.asked).err()?;
            Some(format!(
                "{key} {}: it runs as root, but {untrusted}: whoever may change it can do what root can; set worker.user",
                pinned.asked.display()
            ))
        };
        programs.filter_map(warn).collect()
    }

    fn pin(&self, key: &str, argv: &[String]) -> Result<Pinned, String> {
        release::pin(key, argv, self.directory, self.path)
    }

    /// Refuses a hook that would run as root if another user may change its program, or the environment files, whose variables
    /// (`LD_PRELOAD`) affect the program.
    fn check_trust(&self, key: &str, pinned: &Pinned, account: &Account) -> Result<(), String> {
        if account.uid() != 0 {
            return Ok(());
        }
        let hint = "give it to root alone, or set hooks.user to the user as whom hooks are to run";
        trust::check_program(&pinned.asked)
            .map_err(|untrusted| format!("{key} {}: not run as root: {untrusted}; {hint}", pinned.asked.display()))?;
        for listed in &self.config.worker.environment_file {
            let path = listed.to_str().and_then(|path| path.strip_prefix('-')).map_or(listed.as_path(), Path::new);
            let path = std::path::absolute(self.directory.join(path)).unwrap_or_else(|_| path.to_owned());
            if let Some(untrusted) = trust::check(&path).err().filter(|_| path.exists()) {
                return Err(format!(
                    "{key}: not run as root with the variables of worker.environment_file {}: {untrusted}; {hint}",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    fn run(
        &self,
        key: &str,
        argv: &[String],
        pinned: &Pinned,
        account: &Account,
        input: Option<&str>,
        job: &Job,
    ) -> Result<(), (Option<i32>, Reason)> {
        let what = format!("{key} {:?}", program(argv));
        job.running(&what, HOOK_TIMEOUT);
        let by = if account.identity().is_some() { format!(" as {}", account.shown()) } else { String::new() };
        command::run(argv, pinned, account, self.variables, input, HOOK_TIMEOUT, &job.cancel)
            .map_err(|failure| (failure.status(), failure.reason(&(what + &by))))
    }
}

/// The program of a command line, for messages. The arguments are left out: they may hold a secret, and every reader sees why a
/// reload failed.
pub fn program(argv: &[String]) -> &str {
    argv.first().map_or("", String::as_str)
}
