//! Warnings about a release: programs that another user may change, and reloads that change nothing.
//!
//! Both read the file system, so they run on a thread. The first also reads the user database; it runs after the commit, so that it
//! does not delay the reload.

use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::fstat;

use crate::master::releases::account::Account;
use crate::master::releases::hooks::Setting;
use crate::master::releases::prepare::Release;
use crate::master::releases::release;
use crate::master::releases::script;

/// `worker.min = 0` of an instance that no connection could wake.
const NO_SOCKET: &str = "worker.min = 0 has no effect: the instance has no listening socket whose first connection could start a \
                         worker; leave it out, or pass a socket";

/// Warnings for the log about a committed release. `directory` is the default of `worker.directory`.
pub fn of(release: &Release, directory: &Path) -> Vec<String> {
    let config = &release.config;
    let directory = config.worker.directory.as_deref().unwrap_or(directory);
    let path = std::env::var_os("PATH");
    let setting = Setting { config, directory, variables: &[], path: path.as_deref() };
    let account = Account::of_workers(config).ok();
    let command = release::pin("worker.command", &config.worker.command, directory, path.as_deref()).ok();
    let mut all = account.zip(command).map_or_else(Vec::new, |(account, command)| setting.warnings_of_root(&account, &command));
    all.extend(setting.warning_of_shutdown());
    if config.worker.min == Some(0) && release.plan.listeners.is_empty() {
        all.push(NO_SOCKET.to_owned());
    }
    all
}

/// Warnings for the requester and the log: the release of this generation is the same as the one before it, and no source file in its
/// directory has changed meanwhile; or its configuration has what a reload does not apply. Blocks.
pub fn of_reload(before: &Release, release: &Release, generation: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    if is_same(before, release) && !is_changed_in_place(before, release) {
        warnings.push(unchanged(release, generation));
    }
    if before.config.start != release.config.start {
        warnings.push("start.fallback has changed: that counts at the next start of the instance".to_owned());
    }
    warnings
}

/// Whether a deployment has replaced source files in the directory since the release before was pinned.
fn is_changed_in_place(before: &Release, release: &Release) -> bool {
    let directory = format!("/proc/self/fd/{}", release.plan.directory.as_raw_fd());
    before.pinned_at.is_some_and(|since| script::changed_since(Path::new(&directory), since).is_some())
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
