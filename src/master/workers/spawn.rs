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
use crate::master::event_queue::EventQueue;
use crate::master::releases::expand::{Expanded, Values};
use crate::master::releases::prepare::{Release, assignment};
use crate::master::workers::cgroup::{Limits, WorkerGroup};
use crate::master::workers::processes::{Budget, ERRNOS, More, Process, Token, owner};
use crate::master::workers::{SPAWNS_PER_TURN, WorkerSet, cpus, fork};
use crate::pool::{GenerationId, Slot, StartMode, WorkerId};
use crate::status::scoreboard::Scoreboard;
use crate::sys::notify::NotifySocket;
use crate::sys::spawn::{Child, SpawnRequest, describe, spawn};

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
    /// How its process is started.
    pub mode: StartMode,
}

/// The parts of a worker that are made before its process.
pub(in crate::master) struct Kit {
    pub notify: NotifySocket,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Copies of the reading ends of its output, see [`More::output`].
    pub output: Vec<OwnedFd>,
    pub group: Option<WorkerGroup>,
    pub scoreboard: Option<Arc<Scoreboard>>,
    /// `NAME=value`: the variables that the master sets for each worker.
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

    /// Starts a worker. Returns the process id; `None` if its preload process was asked for it, and the outcome comes as an event.
    ///
    /// # Errors
    /// Why there is no process. Nothing is left of the worker.
    pub fn begin(
        &mut self,
        worker: WorkerId,
        start: Start,
        now: Instant,
        events: &mut EventQueue,
    ) -> Result<Option<u32>, String> {
        match start.mode {
            StartMode::Direct | StartMode::Preload => self.spawn(worker, &start, now).map(Some),
            StartMode::Fork(parent) => self.ask_fork(parent, worker, start, events).map(|()| None),
        }
    }

    /// Starts the process of a worker, or a preload process. Returns the process id.
    ///
    /// # Errors
    /// Why there is no process. Nothing is left of the worker.
    pub fn spawn(&mut self, worker: WorkerId, start: &Start, now: Instant) -> Result<u32, String> {
        let kit = self.kit(worker, start)?;
        let fork = match start.mode {
            StartMode::Preload => Some(fork::sockets()),
            StartMode::Direct | StartMode::Fork(_) => None,
        };
        let (ours, theirs) = match fork.transpose() {
            Ok(pair) => pair.unzip(),
            Err(error) => {
                self.discard_kit(worker, kit);
                return Err(format!("socket pair: {}", text_of(&error)));
            }
        };
        let (child, grouped) = match self.make_process(worker, start, &kit, theirs.as_ref()) {
            Ok(made) => made,
            Err(why) => {
                self.discard_kit(worker, kit);
                return Err(why);
            }
        };
        let pid = child.pid;
        let process = Process {
            generation: start.generation,
            release: start.release.clone(),
            pid,
            pidfd: child.pidfd,
            scoreboard: kit.scoreboard,
            notify: kit.notify,
            notify_again: None,
            group: kit.group.filter(|_| grouped).map(Box::new),
            started_at: SystemTime::now(),
            more: (!kit.output.is_empty()).then(|| Box::new(More { output: kit.output, ..More::default() })),
            errnos_left: ERRNOS,
            budget: Budget::new(now),
            left_behind: false,
            readiness: None,
        };
        let started = self.register(worker, process);
        let started = started.and_then(|()| match ours {
            Some(socket) => self.add_fork_socket(worker, socket).map_err(|error| format!("epoll: {error}")),
            None => Ok(()),
        });
        started.map(|()| pid).inspect_err(|_| self.outputs.close(worker))
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

    /// Makes what a worker needs before it has a process.
    ///
    /// # Errors
    /// The part that cannot be made. No part is left then.
    pub(in crate::master) fn kit(&mut self, worker: WorkerId, start: &Start) -> Result<Kit, String> {
        let Start { slot, generation, release, .. } = start;
        let (slot, generation, is_preload) = (*slot, *generation, start.mode == StartMode::Preload);
        let notify_path = self.runtime_dir.notify_path(worker);
        let made = self.notify_socket(&notify_path, owner(release)).and_then(|notify| {
            let streams = self.outputs.open(worker, slot).map_err(|error| {
                let _ = std::fs::remove_file(&notify_path);
                format!("output: {}", text_of(&error))
            })?;
            Ok((notify, streams))
        });
        let (notify, streams) = made.inspect_err(|_| self.outputs.close(worker))?;
        let group = self.group(worker, slot, generation, release);
        let mut page = || self.pages.take(release.config.worker.stop_timeout);
        let scoreboard = match is_preload {
            true => None,
            false => page().map_err(|error| self.log.warn_once(&format!("workers get no status page: {error}"))).ok(),
        };
        let watchdog = release.config.worker.watchdog.filter(|_| !is_preload);
        // The processes of a worker are found by RATOON_WORKER where there is no control group, and what a preload process forks is
        // none of its own.
        let of_worker = |name, value: u64| (!is_preload).then(|| assignment(name, &value.to_string())).flatten();
        let own = [
            assignment("NOTIFY_SOCKET", &notify_path.display().to_string()),
            assignment("RATOON_GENERATION", &generation.to_string()),
            of_worker("RATOON_WORKER", worker),
            of_worker("RATOON_SLOT", slot.into()),
            watchdog.and_then(|every| assignment("WATCHDOG_USEC", &every.as_micros().to_string())),
            streams.journal_stream.as_ref().and_then(|stream| assignment("JOURNAL_STREAM", stream)),
        ];
        let (stdout, stderr, output) = (streams.stdout, streams.stderr, streams.reading);
        let environment = own.into_iter().flatten().collect();
        Ok(Kit { notify, stdout, stderr, output, group, scoreboard: scoreboard.map(Arc::new), environment })
    }

    /// Makes the process, and says whether it is in its control group. `fork`: the socket of a preload process.
    fn make_process(
        &mut self,
        worker: WorkerId,
        start: &Start,
        kit: &Kit,
        fork: Option<&OwnedFd>,
    ) -> Result<(Child, bool), String> {
        let Start { slot, generation, release, sockets: listeners, environment, mode } = start;
        let (slot, generation) = (*slot, *generation);
        let (plan, listeners, expanded) = match (mode, &release.preload) {
            (StartMode::Preload, Some(preload)) => (preload, None, Expanded::default()),
            (StartMode::Preload, None) => return Err("not started: worker.preload is not known any more".to_owned()),
            (StartMode::Direct | StartMode::Fork(_), _) => {
                let expanded = Values { slot, worker, generation }.expand(&release.config.worker, &release.plan);
                (&release.plan, listeners.as_deref(), expanded)
            }
        };
        let is_preload = *mode == StartMode::Preload;
        let sockets = listeners.unwrap_or(&plan.listeners);
        let first_socket = sockets.first().filter(|_| release.config.worker.stdin == Stdin::Socket);
        let request = SpawnRequest {
            listeners,
            tag: worker,
            argv: expanded.argv,
            plan_env: expanded.env,
            env: kit.environment.iter().chain(environment).cloned().collect(),
            stdin: first_socket.map(|socket| std::os::fd::AsFd::as_fd(&**socket)),
            stdout: Some(std::os::fd::AsFd::as_fd(&kit.stdout)),
            stderr: Some(std::os::fd::AsFd::as_fd(&kit.stderr)),
            scoreboard: kit.scoreboard.as_ref().map(|page| std::os::fd::AsFd::as_fd(&**page)),
            fork: fork.map(std::os::fd::AsFd::as_fd),
            cgroup: kit.group.as_ref().map(WorkerGroup::dir),
            small: kit.group.is_some() && release.config.worker.limits.memory_max.is_some_and(|max| max < SMALL),
            watchdog_pid: release.config.worker.watchdog.is_some() && !is_preload,
            cpus: if is_preload { None } else { cpus::of_slot(slot, &release.config) },
        };
        let mut grouped = kit.group.is_some();
        let mut made = spawn(plan, &request, &self.errors);
        if let (Err(error), true) = (&made, request.cgroup.is_some())
            && matches!(error.raw_os_error(), Some(libc::EACCES | libc::EBUSY | libc::ENOENT | libc::EOPNOTSUPP))
        {
            self.log.warn_once(&format!("a worker's control group takes no process: {error}; it runs without one"));
            made = spawn(plan, &SpawnRequest { cgroup: None, ..request }, &self.errors);
            if let (Some(group), Some(cgroups)) = (&kit.group, self.cgroups.as_mut()) {
                let _ = cgroups.remove(group);
            }
            grouped = false;
        }
        Ok((made.map_err(|error| format!("fork: {}", text_of(&error)))?, grouped))
    }

    /// Adds the process of a worker to the table, and watches it.
    ///
    /// # Errors
    /// The process cannot be watched. The process is killed, and nothing is left of the worker.
    pub(in crate::master) fn register(&mut self, worker: WorkerId, process: Process) -> Result<(), String> {
        let watch = |poll: &crate::sys::poll::Poll| {
            poll.add(&process.pidfd, Token::Exit(worker).to_u64())?;
            poll.add(&process.notify, Token::Notify(worker).to_u64())
        };
        if let Err(error) = watch(&self.poll) {
            // A process that cannot be watched must not go on. It is reaped at SIGCHLD.
            let _ = process.pidfd.signal(libc::SIGKILL);
            let _ = std::fs::remove_file(self.runtime_dir.notify_path(worker));
            self.dismiss(process.pidfd);
            if let Some(cgroups) = &mut self.cgroups {
                cgroups.discard(worker);
            }
            return Err(format!("epoll: {error}"));
        }
        self.pids.insert(process.pid, worker);
        self.processes.insert(worker, Box::new(process));
        Ok(())
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
