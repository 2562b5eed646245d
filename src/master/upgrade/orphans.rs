//! Orphans: live workers whose state could not be read.
//!
//! Law: orphans serve until a generation of this program is ready, then they drain as old workers do. Orphans that are left after
//! the stop timeout are killed. They are children of this process, so no pid can be reused.

use std::time::{Duration, Instant};

use crate::master::state::fds::Incoming;
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

    /// Drains the orphans, unless they drain already: sends the stop signal, and kills those that are left after `timeout`.
    pub fn drain(&mut self, signal: i32, timeout: Duration, now: Instant) {
        if self.is_empty() || self.until.is_some() {
            return;
        }
        self.signal(signal);
        self.signal(libc::SIGCONT);
        self.until = Some(now + timeout);
    }

    /// Drops the orphans that have exited, and kills the others when their time is up. Returns whether the last one has exited.
    pub fn on_deadline(&mut self, now: Instant) -> bool {
        if self.is_empty() {
            return false;
        }
        if self.until.is_some_and(|until| until <= now) {
            self.signal(libc::SIGKILL);
            self.until = Some(now + Duration::from_secs(1));
        }
        self.alive.retain(|(_, pidfd)| pidfd.signal(0).is_ok());
        self.is_empty()
    }

    fn signal(&self, signal: i32) {
        for (_, pidfd) in &self.alive {
            let _ = pidfd.signal(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// One orphan, which runs this and prints a line first.
    fn orphans(shell: &str) -> (Orphans, std::process::Child) {
        let mut child = std::process::Command::new("sh");
        let mut child = child.args(["-c", shell]).stdout(std::process::Stdio::piped()).spawn().expect("a process");
        let mut byte = [0];
        std::io::Read::read_exact(&mut child.stdout.take().expect("a pipe"), &mut byte).expect("it runs");
        let pidfd = PidFd::open(child.id()).expect("a pidfd");
        (Orphans { alive: vec![(child.id(), pidfd)], last_worker: 3, ..Orphans::default() }, child)
    }

    fn until_gone(orphans: &mut Orphans, child: &mut std::process::Child, now: Instant) {
        child.wait().expect("reaped");
        let late = Instant::now() + DEADLINE;
        while !orphans.is_empty() {
            orphans.on_deadline(now);
            assert!(Instant::now() < late, "still there");
            std::thread::yield_now();
        }
    }

    #[test]
    fn orphans_are_drained_once_and_noticed_when_gone() {
        let (now, (mut orphans, mut child)) = (Instant::now(), orphans("echo; exec sleep 1000"));
        assert_eq!((orphans.on_deadline(now), orphans.deadline()), (false, None), "they serve");
        orphans.drain(libc::SIGTERM, Duration::from_secs(5), now);
        orphans.drain(libc::SIGTERM, Duration::from_secs(50), now);
        assert_eq!(orphans.deadline(), Some(now + Duration::from_secs(5)));
        orphans.delay(Duration::from_secs(2));
        assert_eq!(orphans.deadline(), Some(now + Duration::from_secs(7)));
        until_gone(&mut orphans, &mut child, now);
        assert!(!orphans.on_deadline(now) && orphans.deadline().is_none());
    }

    #[test]
    fn orphans_that_do_not_drain_are_killed() {
        let (now, (mut orphans, mut child)) = (Instant::now(), orphans("trap '' TERM; echo; exec sleep 1000"));
        orphans.exit = Some(0);
        orphans.drain(libc::SIGTERM, DEADLINE, now);
        orphans.end_at_once(now);
        // This look sends SIGKILL.
        orphans.on_deadline(now);
        until_gone(&mut orphans, &mut child, now);
        assert_eq!(orphans.exit, Some(1), "no clean end");
    }
}
