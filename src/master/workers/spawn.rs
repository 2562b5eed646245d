//! Starts a worker: its notify socket, output streams, control group, status page and process.
//!
//! Law: a worker starts without a control group or a status page that cannot be made. Any other failure makes the start fail with an
//! event. A failed start leaves no resources.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::Stdin;
use crate::master::releases::expand::Values;
use crate::master::releases::prepare::{Release, assignment};
use crate::master::turn::Master;
use crate::master::workers::cgroup::{Limits, WorkerGroup};
use crate::master::workers::processes::{Budget, More, Process, Token};
use crate::pool::{Event, GenerationId, Phase, Slot, WorkerId};
use crate::status::scoreboard::Scoreboard;
use crate::sys::notify::NotifySocket;
use crate::sys::spawn::{Birth, describe, spawn};

/// A `memory_max` below this limit, bytes, counts as small. The limit is more than the longest arguments and environment of
/// execve(2), 6 MiB, and the memory that the kernel needs for them.
const SMALL: u64 = 16 << 20;

/// The number of status pages that are made in advance.
const PAGES: usize = 4;

/// Status pages that are made in advance, while the loop is idle, because each system call delays a spawn.
#[derive(Default)]
pub(in crate::master) struct Pages {
    stop_timeout: Duration,
    made: Vec<Scoreboard>,
}

impl Pages {
    fn take(&mut self, stop_timeout: Duration) -> std::io::Result<Scoreboard> {
        let made = if self.stop_timeout == stop_timeout { self.made.pop() } else { None };
        made.map_or_else(|| Scoreboard::create(stop_timeout), Ok)
    }

    fn fill(&mut self, stop_timeout: Duration) {
        if self.stop_timeout != stop_timeout {
            *self = Pages { stop_timeout, made: Vec::with_capacity(PAGES) };
        }
        while self.made.len() < PAGES
            && let Ok(page) = Scoreboard::create(stop_timeout)
        {
            self.made.push(page);
        }
    }
}

impl Master {
    /// Makes status pages for the next workers, when no worker is about to start.
    pub(in crate::master) fn fill_pages(&mut self) {
        let calm = self.pool.candidate().is_none() && self.pool.ready() >= self.pool.target();
        if calm && let Some(release) = self.releases.get(&self.pool.generation()) {
            self.pages.fill(release.config.worker.stop_timeout);
        }
    }

    /// Starts a worker, and reports the process id or the failure to the pool.
    pub(in crate::master) fn spawn_worker(&mut self, worker: WorkerId, slot: Slot, generation: GenerationId) {
        self.status_cache.touch();
        let event = match self.try_birth(worker, slot, generation) {
            Ok(pid) => Event::Spawned(worker, pid),
            Err(why) => {
                self.outputs.close(worker);
                Event::SpawnFailed(worker, why)
            }
        };
        self.events.push(event);
    }

    fn try_birth(&mut self, worker: WorkerId, slot: Slot, generation: GenerationId) -> Result<u32, String> {
        if self.pool.worker(worker).is_none_or(|worker| worker.phase == Phase::Draining) {
            return Err("not started: it is not wanted any more".to_owned());
        }
        let release = self.releases.get(&generation).cloned().ok_or("not started: its release is gone")?;
        let notify_path = self.runtime_dir.notify_path(worker);
        let notify = self.notify_socket(&notify_path, &release)?;
        match self.try_spawn(worker, slot, generation, &release, notify, &notify_path) {
            Ok(pid) => Ok(pid),
            Err(why) => {
                let _ = std::fs::remove_file(&notify_path);
                if let Some(cgroups) = &mut self.cgroups {
                    cgroups.discard(worker);
                }
                Err(why)
            }
        }
    }

    fn notify_socket(&mut self, path: &Path, release: &Release) -> Result<NotifySocket, String> {
        let owner = release.plan.identity.as_ref().map(|identity| (identity.uid, identity.gid));
        let mut bound = NotifySocket::bind(path, owner);
        // A master never uses a name twice, so a dead master left the socket at this path.
        if bound.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse) && std::fs::remove_file(path).is_ok()
        {
            bound = NotifySocket::bind(path, owner);
        }
        if bound.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) && self.restore_directory().is_ok() {
            bound = NotifySocket::bind(path, owner);
        }
        bound.map_err(|error| format!("notify socket {}: {}", path.display(), told(&error)))
    }

    fn try_spawn(
        &mut self,
        worker: WorkerId,
        slot: Slot,
        generation: GenerationId,
        release: &Arc<Release>,
        notify: NotifySocket,
        notify_path: &Path,
    ) -> Result<u32, String> {
        let mut streams = self.outputs.open(worker, slot).map_err(|error| format!("output: {}", told(&error)))?;
        let group = self.group(worker, slot, generation, release);
        let scoreboard = self
            .pages
            .take(release.config.worker.stop_timeout)
            .map_err(|error| self.log.warn_once(&format!("workers get no status page: {error}")))
            .ok();
        let output = std::mem::take(&mut streams.reading);
        let watchdog = release.config.worker.watchdog;
        let own = [
            assignment("NOTIFY_SOCKET", &notify_path.display().to_string()),
            assignment("RATOON_GENERATION", &generation.to_string()),
            assignment("RATOON_WORKER", &worker.to_string()),
            assignment("RATOON_SLOT", &slot.to_string()),
            watchdog.and_then(|every| assignment("WATCHDOG_USEC", &every.as_micros().to_string())),
            streams.journal_stream.as_ref().and_then(|stream| assignment("JOURNAL_STREAM", stream)),
        ];
        let listeners = self.listeners_of(slot, release)?;
        let sockets = listeners.as_deref().unwrap_or(&release.plan.listeners);
        if release.config.worker.nonblocking {
            let is_committed = self.pool.candidate() != Some(generation);
            self.nonblocking.set(sockets, is_committed).map_err(|error| format!("worker.nonblocking: {error}"))?;
        }
        let first_socket = sockets.first().filter(|_| release.config.worker.stdin == Stdin::Socket);
        let expanded = Values { slot, worker, generation }.expand(&release.config.worker, &release.plan);
        let birth = Birth {
            listeners: listeners.as_deref(),
            tag: worker,
            argv: expanded.argv,
            plan_env: expanded.env,
            env: own.into_iter().flatten().collect(),
            stdin: first_socket.map(|socket| std::os::fd::AsFd::as_fd(&**socket)),
            stdout: Some(std::os::fd::AsFd::as_fd(&streams.stdout)),
            stderr: Some(std::os::fd::AsFd::as_fd(&streams.stderr)),
            scoreboard: scoreboard.as_ref().map(std::os::fd::AsFd::as_fd),
            cgroup: group.as_ref().map(WorkerGroup::dir),
            small: group.is_some() && release.config.worker.limits.memory_max.is_some_and(|max| max < SMALL),
            watchdog_pid: watchdog.is_some(),
        };
        let mut ungrouped = false;
        let mut made = spawn(&release.plan, &birth, &self.errors);
        if let (Err(error), true) = (&made, birth.cgroup.is_some())
            && matches!(error.raw_os_error(), Some(libc::EACCES | libc::EBUSY | libc::ENOENT | libc::EOPNOTSUPP))
        {
            self.log.warn_once(&format!("a worker's control group takes no process: {error}; it runs without one"));
            made = spawn(&release.plan, &Birth { cgroup: None, ..birth }, &self.errors);
            if let (Some(group), Some(cgroups)) = (&group, self.cgroups.as_mut()) {
                let _ = cgroups.remove(group);
            }
            ungrouped = true;
        }
        let child = made.map_err(|error| format!("fork: {}", told(&error)))?;
        let watch = |poll: &crate::sys::poll::Poll| {
            poll.add(&child.pidfd, Token::Exit(worker).to_u64())?;
            poll.add(&notify, Token::Notify(worker).to_u64())
        };
        if let Err(error) = watch(self.poll.get_ref()) {
            // A process that cannot be watched must not go on. It is reaped at SIGCHLD.
            let _ = child.pidfd.signal(libc::SIGKILL);
            self.dismiss(child.pidfd);
            return Err(format!("epoll: {error}"));
        }
        self.pids.insert(child.pid, worker);
        let process = Process {
            generation,
            pid: child.pid,
            pidfd: child.pidfd,
            scoreboard: scoreboard.map(Arc::new),
            notify,
            notify_again: None,
            group: group.filter(|_| !ungrouped).map(Box::new),
            started_at: SystemTime::now(),
            more: (!output.is_empty()).then(|| Box::new(More { output, ..More::default() })),
            errnos_left: crate::master::workers::processes::ERRNOS,
            budget: Budget::new(self.now),
            left_behind: false,
            readiness: None,
        };
        self.processes.insert(worker, Box::new(process));
        Ok(child.pid)
    }

    fn group(&mut self, worker: WorkerId, slot: Slot, generation: GenerationId, release: &Release) -> Option<WorkerGroup> {
        let made = self.cgroups.as_mut()?.create(worker, generation, slot, &limits(release));
        match made {
            Ok(group) => {
                for what in group.unapplied() {
                    self.log.warn_once(what);
                }
                Some(group)
            }
            Err(error) => {
                self.log.warn(format!("worker {worker} gets no control group: {error}"));
                None
            }
        }
    }
}

/// The limits of a worker's control group.
pub(in crate::master) fn limits(release: &Release) -> Limits {
    let limits = &release.config.worker.limits;
    Limits {
        memory_max: limits.memory_max,
        memory_high: limits.memory_high,
        tasks_max: limits.tasks_max,
        cpu_weight: limits.cpu_weight,
    }
}

/// The text of an error as in `failures[].how`, without the error number.
fn told(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), describe)
}
