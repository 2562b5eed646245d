//! `ratoon leftovers UNIT`: the end of workers that outlived their master and shall not go on (`survive.conf`).
//!
//! Law: who stops a unit gets it stopped, whatever became of its master; who restarts it keeps its workers, and so does
//! a master that died. Said by systemd's own job for the unit; when that cannot be known, the workers stay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::screen;
use crate::control::paths::instance_of;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where the runtime directories of the system's instances are.
const RUNTIME: &str = "/run/ratoon";

/// How long a unit may be between an end and its next start.
const LATER: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(super) struct Options {
    /// The unit, as ratoon@web.service
    unit: String,
    /// From outside of the unit: look a moment later whether it is down for good
    #[arg(long)]
    later: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    if options.later { later(&options.unit) } else { at_the_end(&options.unit) }
}

/// As `ExecStopPost=`, which runs in the unit's own control group, at each end of the master.
fn at_the_end(unit: &str) -> ExitCode {
    let Some(group) = own_unit_s_group() else { return ExitCode::SUCCESS };
    let succeeded = std::env::var("SERVICE_RESULT").is_ok_and(|result| result == "success");
    let job = job(unit);
    let is_to_end = match job.as_deref() {
        Some("stop") => true,
        Some(_) => false,
        // It ended by itself, in good order: then nothing is left to be kept either.
        None => succeeded,
    };
    for child in groups_below(&group).filter(|_| is_to_end) {
        if is_populated(&child) && fs::write(child.join("cgroup.kill"), "1").is_ok() {
            screen::say(&format!("ended what was left in {}", child.display()));
        }
    }
    // systemd cannot put the next master into a group from which controllers are handed on; the master hands them on anew.
    let control = group.join("cgroup.subtree_control");
    for controller in fs::read_to_string(&control).unwrap_or_default().split_whitespace() {
        let _ = fs::write(&control, format!("-{controller}"));
    }
    ExitCode::SUCCESS
}

/// As a unit of its own, which is started when the first one ends: a stop amid a restart runs no `ExecStopPost=`. An administrator may
/// start the unit at any moment, so nothing here goes by `systemctl kill` and `systemctl clean`: the first would end a master that has just
/// started, and while the second is at work systemd starts neither the service nor its socket.
fn later(unit: &str) -> ExitCode {
    std::thread::sleep(LATER);
    let Some(group) = group_if_down(unit) else { return ExitCode::SUCCESS };
    let left: Vec<PathBuf> = group.iter().flat_map(|group| groups_below(group)).filter(|group| is_populated(group)).collect();
    if !left.is_empty() && group_if_down(unit).is_some() {
        left.iter().for_each(|group| drop(fs::write(group.join("cgroup.kill"), "1")));
    }
    // systemd 252 leaves it behind at a stop in auto-restart.
    if let Ok(instance) = instance_of(unit) {
        remove_unless(&Path::new(RUNTIME).join(instance), || group_if_down(unit).is_none());
    }
    ExitCode::SUCCESS
}

/// The control group of a unit that is down, if it still has one; `None`: it is up, or on its way.
fn group_if_down(unit: &str) -> Option<Option<PathBuf>> {
    let shown = systemctl(&["show", "--property=ActiveState,ControlGroup", unit])?;
    let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    let group = value("ControlGroup").trim_start_matches('/');
    let is_down = matches!(value("ActiveState"), "inactive" | "failed");
    is_down.then(|| (!group.is_empty()).then(|| Path::new(CGROUPS).join(group)))
}

/// Removes a directory unless `is_wanted`, asked when the directory is out of the way already: a master that starts in this moment
/// finds it, or makes a new one.
fn remove_unless(directory: &Path, is_wanted: impl FnOnce() -> bool) {
    let Some(name) = directory.file_name().and_then(|name| name.to_str()) else { return };
    if !fs::symlink_metadata(directory).is_ok_and(|it| it.is_dir()) {
        return;
    }
    // No instance has such a name.
    let aside = directory.with_file_name(format!(".{name}.{}", std::process::id()));
    if fs::rename(directory, &aside).is_err() {
        return;
    }
    let is_back = is_wanted() && renameat_with(CWD, &aside, CWD, directory, RenameFlags::NOREPLACE).is_ok();
    if !is_back {
        let _ = fs::remove_dir_all(&aside);
    }
}

/// What systemd is about to do with the unit.
fn job(unit: &str) -> Option<String> {
    let jobs = systemctl(&["list-jobs", "--no-legend", "--no-pager", "--full"])?;
    let of_it = jobs.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words.get(1) == Some(&unit));
    of_it.and_then(|words| words.get(2).map(|kind| (*kind).to_owned()))
}

fn systemctl(args: &[&str]) -> Option<String> {
    let said = Command::new("systemctl").args(args).output().ok()?;
    said.status.success().then(|| String::from_utf8_lossy(&said.stdout).into_owned())
}

/// `ExecStopPost=` runs in `.control` below it.
fn own_unit_s_group() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new(CGROUPS).join(own);
    let group = if group.file_name().is_some_and(|name| name == ".control") { group.parent()?.to_owned() } else { group };
    group.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".service")).then_some(group)
}

/// Some process is in this group, or in one below.
fn is_populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).is_ok_and(|it| it.contains("populated 1"))
}

/// The master's and the workers'.
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
        // systemd has made the directory anew meanwhile: the old one is nobody's.
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
