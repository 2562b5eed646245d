//! `ratoon leftovers UNIT`: ends workers that outlived their master and are not to run on (`survive.conf`).
//!
//! Law: a stop of the unit ends the workers, in whatever way the master has ended. The workers survive a restart of the unit and a
//! crash of the master. systemd's job for the unit tells which case it is; if that is unknown, the workers stay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::screen;
use crate::control::paths::instance_of;

/// Mount point of the control groups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Directory of the runtime directories of the system's instances.
const RUNTIME: &str = "/run/ratoon";

#[derive(clap::Args)]
pub(super) struct Options {
    /// The unit, as ratoon@web.service
    unit: String,
    /// From outside of the unit, a moment after its end: only if it is down and is not about to be started
    #[arg(long)]
    later: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    if options.later { later(&options.unit) } else { at_the_end(&options.unit) }
}

/// Runs as `ExecStopPost=` at each end of the master, in the unit's own control group.
fn at_the_end(unit: &str) -> ExitCode {
    let Some(group) = own_unit_s_group() else { return ExitCode::SUCCESS };
    let succeeded = std::env::var("SERVICE_RESULT").is_ok_and(|result| result == "success");
    let job = job(unit);
    let is_to_end = match job.as_deref() {
        Some("stop") => true,
        Some(_) => false,
        // Without a job the master ended by itself. After a success the workers are ended, too.
        None => succeeded,
    };
    for child in groups_below(&group).filter(|_| is_to_end) {
        if is_populated(&child) && fs::write(child.join("cgroup.kill"), "1").is_ok() {
            screen::say(&format!("ended what was left in {}", child.display()));
        }
    }
    // systemd cannot put the next master into a group that has controllers enabled for its children. The master enables them again.
    let control = group.join("cgroup.subtree_control");
    for controller in fs::read_to_string(&control).unwrap_or_default().split_whitespace() {
        let _ = fs::write(&control, format!("-{controller}"));
    }
    ExitCode::SUCCESS
}

/// Runs in a separate unit, which is started when the service ends: a stop amid a restart runs no `ExecStopPost=`. An administrator
/// may start the service at any moment, so `systemctl kill` and `systemctl clean` are not used: the first would end a master that has
/// just started, and while the second runs, systemd starts neither the service nor its socket.
fn later(unit: &str) -> ExitCode {
    let Some(group) = group_if_down(unit) else { return ExitCode::SUCCESS };
    let left: Vec<PathBuf> = group.iter().flat_map(|group| groups_below(group)).filter(|group| is_populated(group)).collect();
    if !left.is_empty() && group_if_down(unit).is_some() {
        left.iter().for_each(|group| drop(fs::write(group.join("cgroup.kill"), "1")));
    }
    // systemd 252 leaves the runtime directory behind at a stop in auto-restart.
    if let Ok(instance) = instance_of(unit) {
        remove_unless(&Path::new(RUNTIME).join(instance), || group_if_down(unit).is_none());
    }
    ExitCode::SUCCESS
}

/// The control group of a unit that is down without a job, if it still has one; `None` when the unit is up, starting or about to be
/// started (a restart has one job for both of its halves), or its state is unknown.
fn group_if_down(unit: &str) -> Option<Option<PathBuf>> {
    let shown = systemctl(&["show", "--property=ActiveState,ControlGroup,Job", unit])?;
    let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    let group = value("ControlGroup").trim_start_matches('/');
    let has_job = !matches!(value("Job"), "" | "0");
    let is_down = matches!(value("ActiveState"), "inactive" | "failed") && !has_job;
    is_down.then(|| (!group.is_empty()).then(|| Path::new(CGROUPS).join(group)))
}

/// Removes a directory unless `is_wanted`. The directory is renamed before that call, and renamed back if it is wanted: a master that
/// starts at this moment finds it, or makes a new one.
fn remove_unless(directory: &Path, is_wanted: impl FnOnce() -> bool) {
    let Some(name) = directory.file_name().and_then(|name| name.to_str()) else { return };
    if !fs::symlink_metadata(directory).is_ok_and(|it| it.is_dir()) {
        return;
    }
    // No instance has a name that begins with a dot.
    let aside = directory.with_file_name(format!(".{name}.{}", std::process::id()));
    if fs::rename(directory, &aside).is_err() {
        return;
    }
    let is_back = is_wanted() && renameat_with(CWD, &aside, CWD, directory, RenameFlags::NOREPLACE).is_ok();
    if !is_back {
        let _ = fs::remove_dir_all(&aside);
    }
}

/// The type of systemd's job for the unit; `None` without a job.
fn job(unit: &str) -> Option<String> {
    let jobs = systemctl(&["list-jobs", "--no-legend", "--no-pager", "--full"])?;
    let of_it = jobs.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words.get(1) == Some(&unit));
    of_it.and_then(|words| words.get(2).map(|kind| (*kind).to_owned()))
}

fn systemctl(args: &[&str]) -> Option<String> {
    let said = Command::new("systemctl").args(args).output().ok()?;
    said.status.success().then(|| String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The control group of the unit in which this process runs; `ExecStopPost=` runs in `.control` below that group.
fn own_unit_s_group() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new(CGROUPS).join(own);
    let group = if group.file_name().is_some_and(|name| name == ".control") { group.parent()?.to_owned() } else { group };
    group.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".service")).then_some(group)
}

/// Whether a process is in this group, or in a group below it.
fn is_populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).is_ok_and(|it| it.contains("populated 1"))
}

/// The groups of the master and of the workers below the unit's group.
fn groups_below(group: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name == "master" || name.starts_with("w-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remove_unless_takes_the_directory_with_all_in_it() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("web");
        fs::create_dir_all(directory.join("notify")).unwrap();
        fs::write(directory.join("control"), "").unwrap();
        remove_unless(&directory, || false);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        remove_unless(&directory, || panic!("nothing is there"));
    }

    #[test]
    fn remove_unless_leaves_what_a_new_master_has() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("web");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("control"), "").unwrap();
        remove_unless(&directory, || true);
        assert!(directory.join("control").exists());
        // systemd has made the directory again meanwhile, so the old one is not used.
        remove_unless(&directory, || fs::create_dir(&directory).is_ok());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        assert!(!directory.join("control").exists());
    }

    #[test]
    fn remove_unless_follows_no_link() {
        let place = tempfile::tempdir().unwrap();
        let (other, directory) = (place.path().join("other"), place.path().join("web"));
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, &directory).unwrap();
        remove_unless(&directory, || false);
        assert!(other.exists() && directory.is_symlink());
    }
}
