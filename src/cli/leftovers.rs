//! `ratoon leftovers UNIT`: the end of workers that outlived their master and shall not go on (`survive.conf`).
//!
//! Law: who stops a unit gets it stopped, whatever became of its master; who restarts it keeps its workers, and so does
//! a master that died. Said by systemd's own job for the unit; when that cannot be known, the workers stay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::screen;

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
        let is_populated = fs::read_to_string(child.join("cgroup.events")).is_ok_and(|it| it.contains("populated 1"));
        if is_populated && fs::write(child.join("cgroup.kill"), "1").is_ok() {
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

/// As a unit of its own, which is started when the first one ends: a stop amid a restart runs no `ExecStopPost=`.
fn later(unit: &str) -> ExitCode {
    std::thread::sleep(LATER);
    let state = systemctl(&["show", "--property=ActiveState", "--value", unit]).unwrap_or_default();
    if !matches!(state.trim(), "inactive" | "failed") {
        return ExitCode::SUCCESS;
    }
    // It is no error that nobody is left.
    let _ = systemctl(&["kill", "--signal=KILL", unit]);
    // systemd 252 leaves the runtime directory behind at a stop in auto-restart. It refuses this for a unit that is up.
    let _ = systemctl(&["clean", "--what=runtime", unit]);
    ExitCode::SUCCESS
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
    let group = Path::new("/sys/fs/cgroup").join(own);
    let group = if group.file_name().is_some_and(|name| name == ".control") { group.parent()?.to_owned() } else { group };
    group.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".service")).then_some(group)
}

/// The master's and the workers'.
fn groups_below(group: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name == "master" || name.starts_with("w-"))
    })
}
