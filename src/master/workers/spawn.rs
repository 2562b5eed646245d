//! Starts a worker: its notify socket, output streams, control group, status page and process.
//!
//! Law: a worker starts without a control group or a status page that cannot be made. Any other failure makes the start fail with an
//! event. A failed start leaves no resources.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::Stdin;
use crate::master::releases::expand::Values;
use crate::master::releases::prepare::{Release, assignment};
use crate::master::workers::cgroup::{Limits, WorkerGroup};
use crate::master::workers::processes::{Budget, More, Process, Token, owner};
use crate::master::workers::{SPAWNS_PER_TURN, WorkerSet};
use crate::pool::{GenerationId, Slot, WorkerId};
use crate::status::scoreboard::Scoreboard;
use crate::sys::notify::NotifySocket;
use crate::sys::spawn::{SpawnRequest, describe, spawn};

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

/// A worker to start.
pub(in crate::master) struct Start {
    pub slot: Slot,
    pub generation: GenerationId,
    pub release: Arc<Release>,
    /// The sockets of the worker's slot; `None` when all slots share the release's sockets.
    pub sockets: Option<Vec<Arc<OwnedFd>>>,
    /// `NAME=value`, for this worker alone.
    pub environment: Vec<CString>,
}

impl WorkerSet {
    /// Adds a worker that is to be started.
    pub fn add_to_spawn(&mut self, worker: WorkerId, slot: Slot, generation: GenerationId) {
        self.to_spawn.push_back((worker, slot, generation));
    }

    /// Whether a worker waits for its start.
    pub fn is_to_spawn(&self, worker: WorkerId) -> bool {
        self.to_spawn.iter().any(|(waiting, ..)| *waiting == worker)
    }

    /// Whether workers wait for their start.
    pub fn has_to_spawn(&self) -> bool {
        !self.to_spawn.is_empty()
    }

    /// Call at the start of a turn.
    pub fn begin_turn(&mut self) {
        self.spawns_left = SPAWNS_PER_TURN;
        crate::sys::spawn::sweep();
    }

    /// Takes the next worker to start; `None` when none waits, or when the others wait for the next turn.
    pub fn next_to_spawn(&mut self) -> Option<(WorkerId, Slot, GenerationId)> {
        let next = if self.spawns_left > 0 { self.to_spawn.pop_front() } else { None };
        match next {
            Some(_) => self.spawns_left -= 1,
            None if self.to_spawn.is_empty() => self.to_spawn.shrink_to(SPAWNS_PER_TURN),
            None => {}
        }
        next
    }

    /// Makes status pages for the next workers; call it when no worker is about to start.
    pub fn fill_pages(&mut self, stop_timeout: Duration) {
        self.pages.fill(stop_timeout);
    }

    /// Starts a worker. Returns the process id.
    ///
    /// # Errors
    /// Why there is no process. Nothing is left of the worker.
    pub fn spawn(&mut self, worker: WorkerId, start: &Start, now: Instant) -> Result<u32, String> {
        let notify_path = self.runtime_dir.notify_path(worker);
        let spawned = self.notify_socket(&notify_path, owner(&start.release)).and_then(|notify| {
            self.try_spawn(worker, start, notify, &notify_path, now).inspect_err(|_| {
                let _ = std::fs::remove_file(&notify_path);
                if let Some(cgroups) = &mut self.cgroups {
                    cgroups.discard(worker);
                }
            })
        });
        spawned.inspect_err(|_| self.outputs.close(worker))
    }

    fn notify_socket(&mut self, path: &Path, owner: Option<(u32, u32)>) -> Result<NotifySocket, String> {
        let mut bound = NotifySocket::bind(path, owner);
        // A master never uses a name twice, so a dead master left the socket at this path.
        if bound.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse) && std::fs::remove_file(path).is_ok()
        {
            bound = NotifySocket::bind(path, owner);
        }
        if bound.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) && self.restore_directory().is_ok() {
            bound = NotifySocket::bind(path, owner);
        }
        bound.map_err(|error| format!("notify socket {}: {}", path.display(), text_of(&error)))
    }

    fn try_spawn(
        &mut self,
        worker: WorkerId,
        start: &Start,
        notify: NotifySocket,
        notify_path: &Path,
        now: Instant,
    ) -> Result<u32, String> {
        let Start { slot, generation, release, sockets: listeners, environment } = start;
        let (slot, generation) = (*slot, *generation);
        let mut streams = self.outputs.open(worker, slot).map_err(|error| format!("output: {}", text_of(&error)))?;
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
        let sockets = listeners.as_deref().unwrap_or(&release.plan.listeners);
        let first_socket = sockets.first().filter(|_| release.config.worker.stdin == Stdin::Socket);
        let expanded = Values { slot, worker, generation }.expand(&release.config.worker, &release.plan);
        let request = SpawnRequest {
            listeners: listeners.as_deref(),
            tag: worker,
            argv: expanded.argv,
            plan_env: expanded.env,
            env: own.into_iter().flatten().chain(environment.iter().cloned()).collect(),
            stdin: first_socket.map(|socket| std::os::fd::AsFd::as_fd(&**socket)),
            stdout: Some(std::os::fd::AsFd::as_fd(&streams.stdout)),
            stderr: Some(std::os::fd::AsFd::as_fd(&streams.stderr)),
            scoreboard: scoreboard.as_ref().map(std::os::fd::AsFd::as_fd),
            cgroup: group.as_ref().map(WorkerGroup::dir),
            small: group.is_some() && release.config.worker.limits.memory_max.is_some_and(|max| max < SMALL),
            watchdog_pid: watchdog.is_some(),
        };
        let mut ungrouped = false;
        let mut made = spawn(&release.plan, &request, &self.errors);
        if let (Err(error), true) = (&made, request.cgroup.is_some())
            && matches!(error.raw_os_error(), Some(libc::EACCES | libc::EBUSY | libc::ENOENT | libc::EOPNOTSUPP))
        {
            self.log.warn_once(&format!("a worker's control group takes no process: {error}; it runs without one"));
            made = spawn(&release.plan, &SpawnRequest { cgroup: None, ..request }, &self.errors);
            if let (Some(group), Some(cgroups)) = (&group, self.cgroups.as_mut()) {
                let _ = cgroups.remove(group);
            }
            ungrouped = true;
        }
        let child = made.map_err(|error| format!("fork: {}", text_of(&error)))?;
        let watch = |poll: &crate::sys::poll::Poll| {
            poll.add(&child.pidfd, Token::Exit(worker).to_u64())?;
            poll.add(&notify, Token::Notify(worker).to_u64())
        };
        if let Err(error) = watch(&self.poll) {
            // A process that cannot be watched must not go on. It is reaped at SIGCHLD.
            let _ = child.pidfd.signal(libc::SIGKILL);
            self.dismiss(child.pidfd);
            return Err(format!("epoll: {error}"));
        }
        self.pids.insert(child.pid, worker);
        let process = Process {
            generation,
            release: release.clone(),
            pid: child.pid,
            pidfd: child.pidfd,
            scoreboard: scoreboard.map(Arc::new),
            notify,
            notify_again: None,
            group: group.filter(|_| !ungrouped).map(Box::new),
            started_at: SystemTime::now(),
            more: (!output.is_empty()).then(|| Box::new(More { output, ..More::default() })),
            errnos_left: crate::master::workers::processes::ERRNOS,
            budget: Budget::new(now),
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
fn text_of(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), describe)
}
