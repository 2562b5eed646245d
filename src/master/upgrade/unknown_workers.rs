//! Live workers of an earlier program, of which the state says nothing or could not be read.
//!
//! Law: they serve until a generation of this program is ready, then they drain as old workers do. Those that are left after
//! the stop timeout are killed. They are children of this process, so no pid can be reused.

use std::time::{Duration, Instant};

use crate::master::state::fds::Incoming;
use crate::master::workers::cgroup::Stray;
use crate::sys::descendants;
use crate::sys::process::{PidFd, Stat, of_the_first_thread, own_session_and_group};

/// Workers that have no slot in the pool.
#[derive(Default)]
pub struct UnknownWorkers {
    alive: Vec<(u32, PidFd)>,
    /// The highest worker id among the unknown workers.
    pub last_worker: u64,
    /// When the remaining ones are killed; `None` while they do not drain.
    until: Option<Instant>,
    /// The exit status with which the pool has ended, while the master waits for the unknown workers.
    pub exit: Option<u8>,
}

impl UnknownWorkers {
    /// Finds the children of this process that were workers of an earlier program, and the workers whose descriptors a dead master
    /// left in the store.
    pub fn find(fds: &mut Incoming) -> UnknownWorkers {
        let session = own_session_and_group().0;
        let mut workers = UnknownWorkers::default();
        // The kernel has made the children of every thread of the earlier program children of the first thread.
        for pid in of_the_first_thread().unwrap_or_default() {
            let is_worker = Stat::read(pid).is_some_and(|stat| stat.session != session && stat.state != b'Z');
            let (true, Ok(pidfd)) = (is_worker, PidFd::open(pid)) else { continue };
            workers.last_worker = workers.last_worker.max(descendants::mark(pid).unwrap_or(0));
            workers.alive.push((pid, pidfd));
        }
        for (id, fd) in fds.take_all("process-") {
            let pidfd = PidFd::from(fd);
            // The name has the worker id, then the main process's pid: each main process (`MAINPID=`) has a descriptor of its own.
            let id = id.split_once('-').map_or(id.as_str(), |(id, _)| id);
            workers.last_worker = workers.last_worker.max(id.parse().unwrap_or(0));
            if let Some(pid) = pidfd.pid() {
                workers.alive.push((pid, pidfd));
            }
        }
        workers
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

    /// The processes of the unknown workers.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.alive.iter().map(|(pid, _)| *pid)
    }

    /// Whether no orphan is left.
    pub fn is_empty(&self) -> bool {
        self.alive.is_empty()
    }

    /// When the unknown workers are to be looked at next.
    pub fn deadline(&self) -> Option<Instant> {
        self.until.filter(|_| !self.alive.is_empty())
    }

    /// Moves the end of the drain later by this time.
    pub fn delay(&mut self, by: Duration) {
        self.until = self.until.map(|until| until + by);
    }

    /// Kills the unknown workers at the next look, and sets the exit status to 1, because this is no clean end.
    pub fn end_at_once(&mut self, now: Instant) {
        self.until = Some(now);
        self.exit = self.exit.map(|_| 1);
    }

    /// Drains the unknown workers, unless they drain already: sends the stop signal, and kills those that are left after `timeout`.
    pub fn drain(&mut self, signal: i32, timeout: Duration, now: Instant) {
        if self.is_empty() || self.until.is_some() {
            return;
        }
        self.signal(signal);
        self.signal(libc::SIGCONT);
        self.until = Some(now + timeout);
    }

    /// Drops the unknown workers that have exited, and kills the others when their time is up. Returns whether the last one has exited.
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
    fn workers(shell: &str) -> (UnknownWorkers, std::process::Child) {
        let mut child = std::process::Command::new("sh");
        let mut child = child.args(["-c", shell]).stdout(std::process::Stdio::piped()).spawn().expect("a process");
        let mut byte = [0];
        std::io::Read::read_exact(&mut child.stdout.take().expect("a pipe"), &mut byte).expect("it runs");
        let pidfd = PidFd::open(child.id()).expect("a pidfd");
        (UnknownWorkers { alive: vec![(child.id(), pidfd)], last_worker: 3, ..UnknownWorkers::default() }, child)
    }

    fn until_gone(workers: &mut UnknownWorkers, child: &mut std::process::Child, now: Instant) {
        child.wait().expect("reaped");
        let late = Instant::now() + DEADLINE;
        while !workers.is_empty() {
            workers.on_deadline(now);
            assert!(Instant::now() < late, "still there");
            std::thread::yield_now();
        }
    }

    #[test]
    fn orphans_are_drained_once_and_noticed_when_gone() {
        let (now, (mut workers, mut child)) = (Instant::now(), workers("echo; exec sleep 1000"));
        assert_eq!((workers.on_deadline(now), workers.deadline()), (false, None), "they serve");
        workers.drain(libc::SIGTERM, Duration::from_secs(5), now);
        workers.drain(libc::SIGTERM, Duration::from_secs(50), now);
        assert_eq!(workers.deadline(), Some(now + Duration::from_secs(5)));
        workers.delay(Duration::from_secs(2));
        assert_eq!(workers.deadline(), Some(now + Duration::from_secs(7)));
        until_gone(&mut workers, &mut child, now);
        assert!(!workers.on_deadline(now) && workers.deadline().is_none());
    }

    #[test]
    fn orphans_that_do_not_drain_are_killed() {
        let (now, (mut workers, mut child)) = (Instant::now(), workers("trap '' TERM; echo; exec sleep 1000"));
        workers.exit = Some(0);
        workers.drain(libc::SIGTERM, DEADLINE, now);
        workers.end_at_once(now);
        // This look sends SIGKILL.
        workers.on_deadline(now);
        until_gone(&mut workers, &mut child, now);
        assert_eq!(workers.exit, Some(1), "no clean end");
    }
}
