//! One worker's control group: its limits, SIGKILL to its processes, its memory figures.

use std::fmt::Display;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, XattrFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::sys::fd::{RESERVED_FD_BASE, dup_high};

/// The extended attribute that holds the generation and slot of a group, for the master that follows a dead one.
const PLACE: &str = "user.ratoon";
/// The depth to which sub-groups below a worker's group are followed, levels.
const DEPTH_MAX: u32 = 16;

/// A worker's own limits; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `memory.max`, bytes: at this limit the kernel reclaims memory, then kills.
    pub memory_max: Option<u64>,
    /// `memory.high`, bytes: above this limit the kernel reclaims memory and slows the processes down.
    pub memory_high: Option<u64>,
    /// `pids.max`, processes and threads.
    pub tasks_max: Option<u64>,
    /// `cpu.weight`, 1 … 10000; 100 is the default.
    pub cpu_weight: Option<u64>,
}

/// The control group `w-<worker>`. Dropping it leaves the group as it is.
#[derive(Debug)]
pub struct WorkerGroup {
    worker: u64,
    path: PathBuf,
    dir: OwnedFd,
    unapplied: Vec<String>,
}

impl WorkerGroup {
    pub(super) fn open(worker: u64, path: PathBuf) -> io::Result<WorkerGroup> {
        let dir = rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // One descriptor per worker: it gets a high number, because the table of the low numbers is copied for each child.
        Ok(WorkerGroup { worker, path, dir: dup_high(dir, RESERVED_FD_BASE), unapplied: Vec::new() })
    }

    /// The worker's id.
    pub fn worker(&self) -> u64 {
        self.worker
    }

    /// Whether a process is in this group, or in a sub-group that the worker made.
    pub fn holds(&self, pid: u32) -> bool {
        let Ok(groups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return false };
        let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return false };
        // The kernel's path is relative to the root of the cgroup namespace; `self.path` begins at the mount point of that root.
        Path::new(path)
            .ancestors()
            .any(|group| group.file_name().is_some() && group.file_name() == self.path.file_name() && self.path.ends_with(group))
    }

    /// The group's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of the group's directory, for clone3(2) with CLONE_INTO_CGROUP.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// `cgroup.procs`, opened for writing (close-on-exec): a forked child that writes `0` to it joins the group.
    ///
    /// # Errors
    /// The group is gone, or the master is out of descriptors.
    pub fn procs(&self) -> io::Result<OwnedFd> {
        Ok(openat(&self.dir, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Moves a process into the group. The process is a child that is not reaped, so that its number is its own.
    ///
    /// # Errors
    /// The group is gone, or takes no process.
    pub fn take_in(&self, pid: u32) -> io::Result<()> {
        self.set("cgroup.procs", pid)
    }

    /// The limits that could not be applied, each as a sentence with the reason. All workers have the same, so log it once.
    pub fn unapplied(&self) -> &[String] {
        &self.unapplied
    }

    /// Writes the limits that are set. Call it again when the controllers were disabled meanwhile (`survive.conf`).
    pub fn apply(&mut self, limits: &Limits) {
        self.limit("memory.max", "memory_max", limits.memory_max);
        self.limit("memory.high", "memory_high", limits.memory_high);
        self.limit("pids.max", "tasks_max", limits.tasks_max);
        self.limit("cpu.weight", "cpu_weight", limits.cpu_weight);
        // The kernel kills all processes of a worker for lack of memory, or none: a worker without one of its processes is broken.
        // Without the memory controller the kernel cannot do this.
        let _ = self.set("memory.oom.group", 1);
    }

    fn limit(&mut self, file: &str, key: &str, value: Option<u64>) {
        let Some(value) = value else { return };
        if let Err(error) = self.set(file, value) {
            let why = if error.kind() == io::ErrorKind::NotFound {
                format!("the cgroup has no {file} (is the controller delegated? Delegate=yes)")
            } else {
                format!("writing {file}: {error}")
            };
            self.unapplied.push(format!("worker.limits.{key} = {value} is not applied: {why}"));
        }
    }

    fn set(&self, file: &str, value: impl Display) -> io::Result<()> {
        write_fd(openat(&self.dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?, &value.to_string())
    }

    /// Sends SIGKILL to every process in the group and its sub-groups, also to processes that are being forked.
    ///
    /// # Errors
    /// The kernel refuses; some processes may have been killed.
    pub fn kill(&self) -> io::Result<()> {
        match self.set("cgroup.kill", 1) {
            // Linux before 5.14 has no `cgroup.kill`; or the group is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => kill_each(&self.path, 0),
            other => other,
        }
    }

    /// Whether the group or a sub-group has a process; zombies don't count. `false` for a removed group.
    pub fn populated(&self) -> bool {
        !is_empty(&self.path)
    }

    /// The number of processes that the kernel killed for lack of memory; `None` without the memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        flat_value(&self.read("memory.events")?, "oom_kill")
    }

    /// `memory.current`, bytes; `None` without the memory controller.
    pub fn memory_current(&self) -> Option<u64> {
        self.read("memory.current")?.trim().parse().ok()
    }

    /// `memory.peak`, bytes: the largest `memory.current` so far (Linux 5.19 and later, with the memory controller).
    pub fn memory_peak(&self) -> Option<u64> {
        self.read("memory.peak")?.trim().parse().ok()
    }

    fn read(&self, file: &str) -> Option<String> {
        let file = openat(&self.dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        fs::File::from(file).take(64 * 1024).read_to_string(&mut text).ok()?;
        Some(text)
    }

    pub(super) fn note_place(&self, generation: u64, slot: u32) {
        // Optional for the next master. Kernels before 5.7 have no extended attributes of cgroups.
        let _ = rustix::fs::fsetxattr(&self.dir, PLACE, format!("{generation} {slot}").as_bytes(), XattrFlags::empty());
    }

    pub(super) fn place(&self) -> Option<(u64, u32)> {
        let mut value = [0u8; 48];
        let length = rustix::fs::fgetxattr(&self.dir, PLACE, &mut value[..]).ok()?;
        let (generation, slot) = std::str::from_utf8(value.get(..length)?).ok()?.split_once(' ')?;
        Some((generation.parse().ok()?, slot.parse().ok()?))
    }
}

/// The processes in the group with this path, and in its sub-groups.
pub fn processes(group: &Path) -> Vec<u32> {
    fn below(group: &Path, depth: u32, found: &mut Vec<u32>) {
        found.extend(members(group).unwrap_or_default().into_iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()));
        if depth < DEPTH_MAX {
            for entry in fs::read_dir(group).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    below(&entry.path(), depth + 1, found);
                }
            }
        }
    }
    let mut found = Vec::new();
    below(group, 0, &mut found);
    found
}

/// Writes to an existing file of the cgroup file system.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    write_fd(rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?, value)
}

fn write_fd(fd: OwnedFd, value: &str) -> io::Result<()> {
    fs::File::from(fd).write_all(value.as_bytes())
}

/// Whether the group with this path and its sub-groups have no process, or the group does not exist.
pub(super) fn is_empty(group: &Path) -> bool {
    match fs::read_to_string(group.join("cgroup.events")) {
        Ok(text) => flat_value(&text, "populated") == Some(0),
        // ENODEV: it was removed between open and read.
        Err(error) => error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error()),
    }
}

/// The number after `key` in a file of lines "KEY NUMBER".
fn flat_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Removes a group, its sub-groups first. Nothing else in a cgroup directory can be removed.
pub(super) fn remove_tree(group: &Path) -> io::Result<()> {
    fn below(group: &Path, depth: u32) -> io::Result<()> {
        if depth < DEPTH_MAX {
            for entry in fs::read_dir(group).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    below(&entry.path(), depth + 1)?;
                }
            }
        }
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
    below(group, 0)
}

/// Replaces `cgroup.kill` where the kernel has none: kills each process, until no process is left that could fork.
pub(super) fn kill_each(group: &Path, depth: u32) -> io::Result<()> {
    // A process with a pending SIGKILL cannot fork any more, so after a round without a new process none is left that could.
    let mut killed = std::collections::HashSet::new();
    loop {
        let before = killed.len();
        for pid in members(group)? {
            if killed.contains(&pid) {
                continue;
            }
            // Another process may have got the number since it was read: open a pidfd, then check that the number is still in the group.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if members(group)?.contains(&pid) {
                match pidfd_send_signal(&pidfd, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(error) => return Err(error.into()),
                }
                killed.insert(pid);
            }
        }
        // The bound, in processes, ends the loop for a fork bomb; the caller calls again while the group is populated.
        if killed.len() == before || killed.len() > 10_000 {
            break;
        }
    }
    if depth < DEPTH_MAX {
        for entry in fs::read_dir(group).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                kill_each(&entry.path(), depth + 1)?;
            }
        }
    }
    Ok(())
}

fn members(group: &Path) -> io::Result<Vec<Pid>> {
    match fs::read_to_string(group.join("cgroup.procs")) {
        // 0 stands for a process outside of the master's PID namespace.
        Ok(list) => Ok(list.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
