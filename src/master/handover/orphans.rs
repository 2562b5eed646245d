//! Orphans: live workers whose state could not be read.
//!
//! Law: orphans serve until a generation of this program is ready, then they drain as old workers do. Orphans that are left after
//! the stop timeout are killed. They are children of this process, so no pid can be reused.

use std::time::{Duration, Instant};

use super::fds::Incoming;
use crate::master::log::journal::{Level, Record};
use crate::master::turn::Master;
use crate::master::workers::cgroup::Stray;
use crate::sys::descendants;
use crate::sys::process::{PidFd, Stat, of_the_first_thread, own_session_and_group};

/// Workers that have no slot in the pool.
#[derive(Default)]
pub struct Orphans {
    alive: Vec<(u32, PidFd)>,
    /// The highest worker id among the orphans.
    pub last_worker: u64,
    /// When the remaining orphans are killed; `None` while they do not drain.
    until: Option<Instant>,
    /// The exit status with which the pool has ended, while the master waits for the orphans.
    pub exit: Option<u8>,
}

impl Orphans {
    /// Finds the children of this process that were workers of an earlier program, and the workers whose descriptors a dead master
    /// left in the store.
    pub fn find(fds: &mut Incoming) -> Orphans {
        let session = own_session_and_group().0;
        let mut orphans = Orphans::default();
        // The kernel has made the children of every thread of the earlier program children of the first thread.
        for pid in of_the_first_thread().unwrap_or_default() {
            let is_worker = Stat::read(pid).is_some_and(|stat| stat.session != session && stat.state != b'Z');
            let (true, Ok(pidfd)) = (is_worker, PidFd::open(pid)) else { continue };
            orphans.last_worker = orphans.last_worker.max(descendants::mark(pid).unwrap_or(0));
            orphans.alive.push((pid, pidfd));
        }
        for (id, fd) in fds.take_all("process-") {
            let pidfd = PidFd::from(fd);
            // The name has the worker id, then the main process's pid: each main process (`MAINPID=`) has a descriptor of its own.
            let id = id.split_once('-').map_or(id.as_str(), |(id, _)| id);
            orphans.last_worker = orphans.last_worker.max(id.parse().unwrap_or(0));
            if let Some(pid) = pidfd.pid() {
                orphans.alive.push((pid, pidfd));
            }
        }
        orphans
    }

    /// Adds the processes of these control groups.
    pub fn add(&mut self, groups: &[Stray]) {
        for group in groups.iter().map(|stray| &stray.group) {
            let procs = std::fs::read_to_string(group.path().join("cgroup.procs")).unwrap_or_default();
            for pid in procs.lines().filter_map(|pid| pid.parse().ok()) {
                // Open the descriptor before the check, so that the check is about this very process.
                if let Ok(pidfd) = PidFd::open(pid)
                    && group.holds(pid)
                {
                    self.alive.push((pid, pidfd));
                }
            }
        }
    }

    /// The processes of the orphans.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.alive.iter().map(|(pid, _)| *pid)
    }

    /// Whether no orphan is left.
    pub fn is_empty(&self) -> bool {
        self.alive.is_empty()
    }

    /// When the orphans are to be looked at next.
    pub fn deadline(&self) -> Option<Instant> {
        self.until.filter(|_| !self.alive.is_empty())
    }

    /// Moves the end of the drain later by this time.
    pub fn delay(&mut self, by: Duration) {
        self.until = self.until.map(|until| until + by);
    }

    /// Kills the orphans at the next look, and sets the exit status to 1, because this is no clean end.
    pub fn end_at_once(&mut self, now: Instant) {
        self.until = Some(now);
        self.exit = self.exit.map(|_| 1);
    }

    fn signal(&self, signal: i32) {
        for (_, pidfd) in &self.alive {
            let _ = pidfd.signal(signal);
        }
    }
}

impl Master {
    /// Drains the orphans. Called when a generation of this program is ready, or when the instance ends.
    pub(in crate::master) fn drain_orphans(&mut self) {
        if self.orphans.is_empty() || self.orphans.until.is_some() {
            return;
        }
        let release = self.releases.get(self.pool.generation());
        let (signal, timeout) = release.map_or((libc::SIGTERM, Duration::from_secs(30)), |release| {
            (release.config.worker.stop_signal, release.config.worker.stop_timeout)
        });
        self.orphans.signal(signal);
        self.orphans.signal(libc::SIGCONT);
        self.orphans.until = Some(self.now + timeout);
    }

    /// Drops the orphans that have exited, and kills the others when their time is up.
    pub(in crate::master) fn look_at_orphans(&mut self) {
        if self.orphans.is_empty() {
            return;
        }
        if self.orphans.until.is_some_and(|until| until <= self.now) {
            self.orphans.signal(libc::SIGKILL);
            self.orphans.until = Some(self.now + Duration::from_secs(1));
        }
        self.orphans.alive.retain(|(_, pidfd)| pidfd.signal(0).is_ok());
        if self.orphans.is_empty() {
            self.log.record(Record::new(Level::Info, "the workers of the earlier program are gone"));
            self.workers.remove_strays();
            if let Some(code) = self.orphans.exit {
                self.exit = Some(code);
            }
        }
    }
}
