//! Warnings about a release that runs: what of it another user may change, and that a reload changed nothing.
//!
//! All of this asks the file system and the tables of users: so it is done on a thread, after the release is committed. Whoever
//! waits for a reload does not wait for it.

use std::path::Path;

use rustix::fs::fstat;

use super::account::Account;
use super::hooks::Setting;
use super::prepare::Release;
use super::release;

/// Sentences for the log about the release of this generation, which replaced `before`. `directory` is where workers run when the
/// configuration names none.
pub fn of(release: &Release, generation: u64, before: Option<&Release>, directory: &Path) -> Vec<String> {
    let config = &release.config;
    let directory = config.worker.directory.as_deref().unwrap_or(directory);
    let path = std::env::var_os("PATH");
    let setting = Setting { config, directory, variables: &[], path: path.as_deref() };
    let account = Account::of_workers(config).ok();
    let command = release::pin("worker.command", &config.worker.command, directory, path.as_deref()).ok();
    let mut all = account.zip(command).map_or_else(Vec::new, |(account, command)| setting.warnings_of_root(&account, &command));
    all.extend(setting.warning_of_shutdown());
    all.extend(before.filter(|before| is_same(before, release)).map(|_| unchanged(release, generation)));
    all
}

/// Whether two releases have the same directory, program, arguments, variables, user and configuration.
fn is_same(before: &Release, release: &Release) -> bool {
    let directory = |release: &Release| fstat(&release.plan.directory).map(|it| (it.st_dev, it.st_ino)).ok();
    let (old, new) = (&before.plan, &release.plan);
    directory(before).is_some_and(|it| directory(release) == Some(it))
        && (old.program.path(), old.program.identity()) == (new.program.path(), new.program.identity())
        && (&old.argv, &old.env, &old.identity) == (&new.argv, &new.env, &new.identity)
        && before.config == release.config
}

fn unchanged(release: &Release, generation: u64) -> String {
    format!(
        "generation {generation} runs what the one before it ran: the same directory, the program {}, and the same configuration. If a \
         deployment was to change that, let worker.directory name the symlink that it moves (/srv/shop/current), not what the symlink \
         leads to",
        release.plan.program.path().display()
    )
}
