//! A control group for each worker, below the group that systemd delegated to the master (`Delegate=yes`, cgroup v2 only).
//!
//! Law: the master changes only a delegated group, and in it only `master/` and `w-<worker id>`. The limits of the unit's own group
//! are systemd's. Without delegation everything works except what needs a control group.

mod find;
mod group;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify;

pub use self::group::{Limits, WorkerGroup, processes};

/// The master's own group below the delegated one.
const MASTER: &str = "master";
/// A unit of a user's systemd sets this variable when it has `Delegate=yes`, because a user's systemd marks no group.
const DELEGATED: &str = "RATOON_DELEGATED";
/// The controllers that the master enables.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// The delegated group, and inotify watches for the workers' groups in it.
#[derive(Debug)]
pub struct Cgroups {
    base: PathBuf,
    controllers: Vec<&'static str>,
    missing: Vec<String>,
    inotify: Option<OwnedFd>,
    watches: HashMap<i32, (u64, PathBuf)>,
}

/// A worker's group that a dead master left.
#[derive(Debug)]
pub struct Stray {
    /// The worker's id.
    pub worker: u64,
    /// The worker's generation and slot; `None` if the dead master could not note them.
    pub place: Option<(u64, u32)>,
    /// The group itself.
    pub group: WorkerGroup,
}

impl Cgroups {
    /// Looks for a delegated group, moves this process into `master/` below it and enables the controllers.
    ///
    /// `Ok(None)`: no group was delegated (no systemd, no `Delegate=`, no cgroup v2).
    ///
    /// # Errors
    /// A group was delegated and cannot be used. The text says why; log it once.
    pub fn detect() -> Result<Option<Cgroups>, String> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}; workers get no cgroups"));
        let Some(own) = find::own_group(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?) else { return Ok(None) };
        let told = std::env::var_os(DELEGATED).is_some_and(|value| !value.is_empty());
        Self::at(&own, told)
    }

    /// [`Self::detect`] for a process in the group `own`. `told`: the unit said that the group is delegated.
    fn at(own: &Path, told: bool) -> Result<Option<Cgroups>, String> {
        let is_delegated = |group: &Path| find::is_delegated(group) || (told && find::is_ours(group));
        let parent = own.parent().filter(|_| own.file_name().is_some_and(|name| name == MASTER));
        let base = match parent {
            Some(parent) if is_delegated(parent) => parent,
            _ if is_delegated(own) => {
                move_to_master(own)?;
                own
            }
            _ => return Ok(None),
        };
        let (controllers, missing) = enable_controllers(base);
        // Without inotify (this user has too many instances) the loop has to poll the groups; nothing else changes.
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok();
        Ok(Some(Cgroups { base: base.to_owned(), controllers, missing, inotify, watches: HashMap::new() }))
    }

    /// The delegated group's directory.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The enabled controllers, of memory, pids and cpu.
    pub fn controllers(&self) -> &[&'static str] {
        &self.controllers
    }

    /// The controllers that could not be enabled, each as a sentence. Log it once.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Makes the group `w-<worker>` with these limits. [`WorkerGroup::unapplied`] has the limits that could not be applied.
    /// The generation and slot are noted at the group, so that a later master finds them ([`Self::strays`]).
    ///
    /// # Errors
    /// The group cannot be made (ENOSPC, EAGAIN: `cgroup.max.descendants`), or one of this name holds processes (EBUSY).
    pub fn create(&mut self, worker: u64, generation: u64, slot: u32, limits: &Limits) -> io::Result<WorkerGroup> {
        let path = self.base.join(format!("w-{worker}"));
        if let Err(error) = fs::create_dir(&path) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            // A dead master left this group. An empty group is made anew; a group with processes is an error, because it cannot be shared.
            group::remove_tree(&path)?;
            fs::create_dir(&path)?;
        }
        let mut group = WorkerGroup::open(worker, path)?;
        group.note_place(generation, slot);
        group.apply(limits);
        self.watch(&group);
        Ok(group)
    }

    /// Lets [`Self::drain`] report this group. [`Self::create`] and [`Self::strays`] call it for their groups.
    fn watch(&mut self, group: &WorkerGroup) {
        let Some(inotify) = &self.inotify else { return };
        let events = group.path().join("cgroup.events");
        if let Ok(watch) = inotify::add_watch(inotify, &events, inotify::WatchFlags::MODIFY) {
            self.watches.insert(watch, (group.worker(), group.path().to_owned()));
        }
    }

    /// Removes the group and its sub-groups. Call it for strays, too, when they are empty.
    ///
    /// # Errors
    /// Processes are left in the group (EBUSY): call again when [`Self::drain`] reports it as empty.
    pub fn remove(&mut self, group: &WorkerGroup) -> io::Result<()> {
        group::remove_tree(group.path())?;
        self.unwatch(group.worker());
        Ok(())
    }

    /// Removes the group of a worker that could not be started, if it has one. A group whose process is still ending stays; the next
    /// master removes it.
    pub fn discard(&mut self, worker: u64) {
        if group::remove_tree(&self.base.join(format!("w-{worker}"))).is_ok() {
            self.unwatch(worker);
        }
    }

    /// The kernel keeps the watch of a removed group for ever, and the watch keeps the inode.
    fn unwatch(&mut self, worker: u64) {
        if let (Some(inotify), Some(watch)) =
            (&self.inotify, self.watches.iter().find(|(_, (other, _))| *other == worker).map(|(watch, _)| *watch))
        {
            let _ = inotify::remove_watch(inotify, watch);
            self.watches.remove(&watch);
        }
    }

    /// Readable (EPOLLIN) when [`Self::drain`] has groups to report. `None` without inotify: then the loop has to call
    /// [`WorkerGroup::populated`] when a main process has ended.
    pub fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// The workers whose group changed and is empty now. This is a hint: a worker may be reported twice. After an overflow of the
    /// kernel's event queue, a worker may be reported before any process was started in its group.
    pub fn drain(&mut self) -> Vec<u64> {
        let Some(inotify) = &self.inotify else { return Vec::new() };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let mut changed = Vec::new();
        let mut all = false;
        while let Ok(event) = reader.next() {
            if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                all = true;
            } else {
                // IGNORED events of removed watches come here too; no watch is found for them below.
                changed.push(event.wd());
            }
        }
        if all {
            changed = self.watches.keys().copied().collect();
        }
        changed.sort_unstable();
        changed.dedup();
        let watched = changed.iter().filter_map(|watch| self.watches.get(watch));
        watched.filter(|(_, path)| group::is_empty(path)).map(|(worker, _)| *worker).collect()
    }

    /// The existing workers' groups, ordered by worker id, with the empty ones. Call it at the start of a master, before
    /// [`Self::create`]. The master must not use their ids again while the groups exist.
    pub fn strays(&mut self) -> Vec<Stray> {
        let mut strays = Vec::new();
        for entry in fs::read_dir(&self.base).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("w-")).and_then(|number| number.parse().ok());
            let Some(worker) = number else { continue };
            let Ok(group) = WorkerGroup::open(worker, entry.path()) else { continue };
            self.watch(&group);
            strays.push(Stray { worker, place: group.place(), group });
        }
        strays.sort_by_key(|stray| stray.worker);
        strays
    }
}

/// Moves this process into `master/`, because systemd < 254 has no `DelegateSubgroup=`. No controller can be enabled in a group that
/// has processes itself. A group with other processes is not the master's alone, and stays as it is.
fn move_to_master(own: &Path) -> Result<(), String> {
    let me = std::process::id();
    let procs = own.join("cgroup.procs");
    let list = fs::read_to_string(&procs)
        .map_err(|error| format!("cannot read {}: {error}; workers get no cgroups", procs.display()))?;
    if let Some(other) = list.lines().find(|line| line.parse() != Ok(me)) {
        let own = own.display();
        return Err(format!(
            "the delegated cgroup {own} holds process {other} too, so it is not the master's alone; workers get no cgroups"
        ));
    }
    let master = own.join(MASTER);
    let into = master.join("cgroup.procs");
    let made = match fs::create_dir(&master) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => group::write(&into, "0"),
    };
    made.map_err(|error| format!("cannot move into {}: {error}; workers get no cgroups", master.display()))
}

/// Enables the existing controllers. Returns the enabled ones, and a sentence for each that could not be enabled.
fn enable_controllers(base: &Path) -> (Vec<&'static str>, Vec<String>) {
    let words = |file: &str| fs::read_to_string(base.join(file)).unwrap_or_default();
    let exist = words("cgroup.controllers");
    let control = base.join("cgroup.subtree_control");
    let mut missing = Vec::new();
    for name in CONTROLLERS.into_iter().filter(|name| exist.split_whitespace().any(|word| word == *name)) {
        if let Err(error) = group::write(&control, &format!("+{name}")) {
            missing.push(format!("cannot enable the cgroup controller {name} in {}: {error}", base.display()));
        }
    }
    let enabled = words("cgroup.subtree_control");
    let works = CONTROLLERS.into_iter().filter(|name| enabled.split_whitespace().any(|word| word == *name)).collect();
    (works, missing)
}

#[cfg(test)]
mod tests;
