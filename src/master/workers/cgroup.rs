//! A control group for each worker, below the one that systemd delegated to us (`Delegate=yes`, cgroup v2 only).
//!
//! Law: only a group that was handed to us is touched, and in it only `master/` and `w-<worker id>`; the limits of the
//! unit's own group are systemd's. Without delegation everything works, less what only a group can do.

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
/// By this variable a unit of a user's systemd, which marks no group, says that it has `Delegate=yes`.
const DELEGATED: &str = "RATOON_DELEGATED";
/// What the controllers that we use are called.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// The delegated group, and the watch over the workers' groups in it.
#[derive(Debug)]
pub struct Cgroups {
    base: PathBuf,
    controllers: Vec<&'static str>,
    missing: Vec<String>,
    inotify: Option<OwnedFd>,
    watches: HashMap<i32, (u64, PathBuf)>,
}

/// A worker's group that was there before this master: left by one that died.
#[derive(Debug)]
pub struct Stray {
    /// The worker's id.
    pub worker: u64,
    /// Its generation and slot, when the dead master could note them.
    pub place: Option<(u64, u32)>,
    /// The group itself.
    pub group: WorkerGroup,
}

impl Cgroups {
    /// Looks for a delegated group, moves this process into `master/` below it and enables the controllers.
    ///
    /// `Ok(None)`: nothing was delegated to us (no systemd, no `Delegate=`, no cgroup v2).
    ///
    /// # Errors
    /// Something was delegated and cannot be used; the text says why, to be said once.
    pub fn detect() -> Result<Option<Cgroups>, String> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}; workers get no cgroups"));
        let Some(own) = find::own_group(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?) else { return Ok(None) };
        let told = std::env::var_os(DELEGATED).is_some_and(|value| !value.is_empty());
        Self::at(&own, told)
    }

    /// The same for a process that is in the group with this path, and whose unit has told that it is delegated, or not.
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
        // Without inotify (too many instances of this user) the loop has to ask; nothing else is lost.
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok();
        Ok(Some(Cgroups { base: base.to_owned(), controllers, missing, inotify, watches: HashMap::new() }))
    }

    /// The delegated group's directory.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Which of memory, pids and cpu work here.
    pub fn controllers(&self) -> &[&'static str] {
        &self.controllers
    }

    /// What could not be enabled, as sentences to be said once.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Makes the group `w-<worker>` with these limits. What could not be applied stands in [`WorkerGroup::unapplied`].
    /// The generation and slot are noted at the group, so that a later master knows them ([`Self::strays`]).
    ///
    /// # Errors
    /// The group cannot be made (ENOSPC, EAGAIN: `cgroup.max.descendants`), or one of this name holds processes (EBUSY).
    pub fn create(&mut self, worker: u64, generation: u64, slot: u32, limits: &Limits) -> io::Result<WorkerGroup> {
        let path = self.base.join(format!("w-{worker}"));
        if let Err(error) = fs::create_dir(&path) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            // Left by a master that died: an empty one is made anew, a living one is not ours to share.
            group::remove_tree(&path)?;
            fs::create_dir(&path)?;
        }
        let mut group = WorkerGroup::open(worker, path)?;
        group.note_place(generation, slot);
        group.apply(limits);
        self.watch(&group);
        Ok(group)
    }

    /// Lets [`Self::drain`] report this group; [`Self::create`] and [`Self::strays`] have done it for theirs.
    fn watch(&mut self, group: &WorkerGroup) {
        let Some(inotify) = &self.inotify else { return };
        let events = group.path().join("cgroup.events");
        if let Ok(watch) = inotify::add_watch(inotify, &events, inotify::WatchFlags::MODIFY) {
            self.watches.insert(watch, (group.worker(), group.path().to_owned()));
        }
    }

    /// Removes the group and sub-groups that its worker has made. Do it for strays, too, when they are empty.
    ///
    /// # Errors
    /// Processes are left in it (EBUSY): ask again when [`Self::drain`] says that it is empty.
    pub fn remove(&mut self, group: &WorkerGroup) -> io::Result<()> {
        group::remove_tree(group.path())?;
        // The kernel keeps the watch of a removed group for ever, and its inode by it.
        if let (Some(inotify), Some(watch)) =
            (&self.inotify, self.watches.iter().find(|(_, (worker, _))| *worker == group.worker()).map(|(watch, _)| *watch))
        {
            let _ = inotify::remove_watch(inotify, watch);
            self.watches.remove(&watch);
        }
        Ok(())
    }

    /// Readable (EPOLLIN) when [`Self::drain`] has something to say; `None` where the kernel gave no inotify, and the
    /// loop has to ask [`WorkerGroup::populated`] when a main process has ended.
    pub fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// The workers whose group changed and is empty now. A hint: one may be named twice, and, after the kernel's own
    /// queue ran over, also one into whose group nothing was started yet.
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
                // Also IGNORED, of a watch that we have removed and do not know any more.
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

    /// The workers' groups that are there already, by id, empty ones too; for the start of a master, before it makes its
    /// own. It must not give out their ids again while they live.
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

/// systemd < 254 knows no `DelegateSubgroup=`: go down ourselves, or no controller can be enabled (no processes in inner
/// groups). A group that others live in is not ours alone, and stays as it is.
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

/// Enables what exists; returns what works and, as sentences, what does not.
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
