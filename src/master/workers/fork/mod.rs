//! Workers that are forked from a preload process (`worker.preload`): requests to it, and its replies.
//!
//! Law: the kernel alone says which process a confirmed worker is: the sender of the confirmation, if it is a child of the master that
//! is no known process. A worker that is confirmed is a worker like any other. Whatever a preload process sends, each request ends with
//! one event: at the confirmation, at a failure, or at the end of the preload process. (The pool ends a process that does not answer.)

mod early_exit;
pub mod protocol;
mod send;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Instant, SystemTime};

use self::protocol::{Reply, Request, Role};
use self::send::send;
use crate::master::event_queue::EventQueue;
use crate::master::releases::expand::Values;
use crate::master::releases::prepare::assignment;
use crate::master::workers::cgroup::WorkerGroup;
use crate::master::workers::processes::{Budget, ERRNOS, More, Process, Token};
use crate::master::workers::spawn::{Kit, Start};
use crate::master::workers::{WorkerSet, cpus};
use crate::pool::{Event, WorkerId};
use crate::sys::awaited::is_awaited;
use crate::sys::credentials::own_uid;
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::notify::{MESSAGE_MAX, NotifySocket};
use crate::sys::process::{PidFd, effective_uid};
use crate::sys::spawn::describe;

/// Requests to one preload process that may be unanswered at once. A Unix socket of the kernel's defaults queues 11 datagrams.
const AT_ONCE: usize = 4;
/// Replies that are read in one turn of the loop.
const REPLIES: usize = 64;
/// Replies that nobody waits for, of which one may come for each request that was given up, before a preload process is ended.
const UNASKED: u32 = 1000;
/// Variables of the preload process that its workers do not inherit.
const UNSET: [&str; 2] = ["RATOON_FORK", "JOURNAL_STREAM"];

/// The preload processes, and the workers that they are to fork.
#[derive(Default)]
pub(in crate::master) struct Forks {
    parents: HashMap<WorkerId, Parent>,
    pending: HashMap<WorkerId, Pending>,
}

/// The master's end of the socket of a preload process.
struct Parent {
    /// `None`: the socket is closed, or the process has broken the protocol.
    socket: Option<NotifySocket>,
    /// Workers whose request is not sent yet.
    waiting: VecDeque<WorkerId>,
    /// Workers whose request is not answered yet.
    asked: HashSet<WorkerId>,
    /// Replies that nobody waited for.
    unasked: u32,
}

/// A worker that is to be forked.
struct Pending {
    parent: WorkerId,
    start: Start,
    kit: Kit,
    text: Vec<u8>,
    roles: Vec<Role>,
    /// The process that is to confirm, by the word of the preload process: see [`early_exit`].
    announced: Option<u32>,
}

/// A pair of connected sockets: the master's end, and the end of the preload process.
pub(in crate::master) fn sockets() -> io::Result<(NotifySocket, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((NotifySocket::from_fd(ours)?, dup_high(theirs, RESERVED_FD_BASE)))
}

impl WorkerSet {
    /// Adds the socket of a preload process, which is watched from now on.
    pub(in crate::master) fn add_fork_socket(&mut self, parent: WorkerId, socket: NotifySocket) -> io::Result<()> {
        self.poll.add(&socket, Token::Fork(parent).to_u64())?;
        let parent_of = Parent { socket: Some(socket), waiting: VecDeque::new(), asked: HashSet::new(), unasked: 0 };
        self.forks.parents.insert(parent, parent_of);
        Ok(())
    }

    /// The socket of a preload process, for the next program of this master.
    pub(in crate::master) fn fork_socket(&self, parent: WorkerId) -> Option<&NotifySocket> {
        self.forks.parents.get(&parent)?.socket.as_ref()
    }

    /// Whether this is a preload process.
    pub(in crate::master) fn is_preload(&self, worker: WorkerId) -> bool {
        self.forks.parents.contains_key(&worker)
    }

    /// Whether a worker is being forked.
    pub(in crate::master) fn is_forking(&self) -> bool {
        !self.forks.pending.is_empty()
    }

    /// Asks a preload process for a worker. The outcome comes as an event.
    ///
    /// # Errors
    /// The worker cannot be asked for. Nothing is left of it.
    pub(in crate::master) fn ask_fork(
        &mut self,
        parent: Option<WorkerId>,
        worker: WorkerId,
        start: Start,
        events: &mut EventQueue,
    ) -> Result<(), String> {
        let parent = parent.ok_or("not forked: its preload process has ended")?;
        if self.fork_socket(parent).is_none() {
            events.push(Event::PreloadLost(parent, "it has closed its socket".to_owned()));
            return Err("not forked: its preload process has closed its socket".to_owned());
        }
        let kit = self.kit(worker, &start)?;
        let (text, roles) = match self.request(worker, &start, &kit) {
            Ok(request) => request,
            Err(why) => {
                self.discard_kit(worker, kit);
                return Err(format!("not forked: {why}"));
            }
        };
        self.forks.pending.insert(worker, Pending { parent, start, kit, text, roles, announced: None });
        if let Some(of) = self.forks.parents.get_mut(&parent) {
            of.waiting.push_back(worker);
        }
        self.send_requests(parent, events);
        Ok(())
    }

    /// The request for a worker, and what its descriptors are for.
    fn request(&self, worker: WorkerId, start: &Start, kit: &Kit) -> Result<(Vec<u8>, Vec<Role>), String> {
        let plan = &start.release.plan;
        let sockets = start.sockets.as_deref().unwrap_or(&plan.listeners);
        let expanded =
            Values { slot: start.slot, worker, generation: start.generation }.expand(&start.release.config.worker, plan);
        let mut roles = vec![Role::Stdin, Role::Stdout, Role::Stderr];
        roles.extend(sockets.iter().map(|_| Role::Listener));
        let page = kit.scoreboard.as_ref().and_then(|_| assignment("RATOON_SCOREBOARD", &(3 + sockets.len()).to_string()));
        roles.extend(page.as_ref().map(|_| Role::Scoreboard));
        // The generation's variables are those of the preload process, except these; those that name the worker may be in any.
        let listens = |entry: &&CString| entry.to_bytes().starts_with(b"LISTEN_FD");
        let inherited: Vec<CString> = match &expanded.env {
            Some(env) => env.clone(),
            None => plan.env.iter().filter(listens).cloned().collect(),
        };
        let wanted = |entry: &CString| !sockets.is_empty() || !listens(&entry);
        let own = kit.environment.iter().chain(&start.environment).cloned().chain(page);
        let environment: Vec<CString> = inherited.into_iter().filter(wanted).chain(own).collect();
        let request = Request {
            worker,
            master: std::process::id(),
            program: plan.program.path(),
            argv: expanded.argv.as_deref().unwrap_or(&plan.argv),
            unset: &UNSET,
            environment: &environment,
            descriptors: &roles,
        };
        Ok((request.encode()?, roles))
    }

    /// Sends the next requests to a preload process.
    fn send_requests(&mut self, parent: WorkerId, events: &mut EventQueue) {
        loop {
            let Forks { parents, pending } = &mut self.forks;
            let Some(Parent { socket: Some(socket), waiting, asked, .. }) = parents.get_mut(&parent) else { return };
            if asked.len() >= AT_ONCE {
                return;
            }
            let Some(worker) = waiting.pop_front() else { return };
            let Some(request) = pending.get(&worker) else { continue };
            match send(socket, request) {
                Ok(()) => drop(asked.insert(worker)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !asked.is_empty() => {
                    return waiting.push_front(worker);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    // The end of the process follows, which is the better reason for the failure of the worker.
                    return self.close_fork_socket(parent);
                }
                Err(error) => self.fork_failed(worker, format!("not forked: {}", text_of(&error)), events),
            }
        }
    }

    /// Reads the replies of a preload process and its workers.
    pub(in crate::master) fn read_forks(&mut self, parent: WorkerId, now: Instant, events: &mut EventQueue) {
        for _ in 0..REPLIES {
            let Some(Parent { socket: Some(socket), .. }) = self.forks.parents.get(&parent) else { return };
            let mut buffer = [0; MESSAGE_MAX];
            let received = match socket.peek(&mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // The process has ended without reading all requests.
                Err(_) => return self.close_fork_socket(parent),
            };
            if received.bytes.is_empty() && received.pid.is_none() {
                // The end of the process follows; if it lives on, the next request or the start timeout ends it.
                return self.close_fork_socket(parent);
            }
            if received.attached {
                return self.break_off(parent, "it has sent descriptors", events);
            }
            let (reply, pid) = (Reply::parse(received.bytes), received.pid);
            let _ = socket.skip();
            match reply {
                Ok(Reply::Confirmed(worker)) => self.confirmed(parent, worker, pid, now, events),
                Ok(Reply::Forked(worker, child)) => self.announced(parent, worker, child),
                Ok(Reply::Failed(worker, errno)) if self.is_pending(parent, worker) => {
                    self.fork_failed(worker, format!("fork: {}", describe(errno)), events);
                }
                // The request was given up.
                Ok(Reply::Failed(..)) => self.not_asked(parent),
                Err(why) => return self.break_off(parent, &format!("it has sent {why}"), events),
            }
            if self.forks.parents.get(&parent).is_some_and(|of| of.unasked > UNASKED) {
                return self.break_off(parent, "it sends replies that nobody waits for", events);
            }
        }
        self.send_requests(parent, events);
    }

    /// Reads the replies of all preload processes. Call it before orphaned processes are reaped: a worker that is confirmed is none.
    pub(in crate::master) fn read_all_forks(&mut self, now: Instant, events: &mut EventQueue) {
        for parent in self.forks.parents.keys().copied().collect::<Vec<_>>() {
            self.read_forks(parent, now, events);
        }
    }

    fn is_pending(&self, parent: WorkerId, worker: WorkerId) -> bool {
        self.forks.pending.get(&worker).is_some_and(|pending| pending.parent == parent)
    }

    /// A process says that it is this worker.
    fn confirmed(&mut self, parent: WorkerId, worker: WorkerId, pid: Option<u32>, now: Instant, events: &mut EventQueue) {
        let known = pid.is_some_and(|pid| self.pids.contains_key(&pid) || is_awaited(pid));
        let process = pid.filter(|_| !known).and_then(|pid| Some((pid, PidFd::open(pid).ok()?)));
        let child = process.filter(|(_, pidfd)| pidfd.is_child());
        match (child, self.is_pending(parent, worker)) {
            (Some((pid, pidfd)), true) if !self.may_confirm(parent, pid) => {
                let _ = pidfd.signal(libc::SIGKILL);
                self.dismiss(pidfd);
                self.fork_failed(worker, "not forked: a process of another user confirmed it".to_owned(), events);
                self.break_off(parent, "a process of another user has confirmed a worker", events);
            }
            (Some((pid, pidfd)), true) => {
                self.answered(parent, worker);
                match self.take_over(worker, pid, pidfd, now) {
                    Ok(()) => events.push(Event::Spawned(worker, pid)),
                    Err(why) => self.fork_failed(worker, why, events),
                }
            }
            // A second process for one worker, or one for which nobody waits any more.
            (Some((pid, pidfd)), false) => {
                self.log
                    .warn(format!("preload process {parent} has forked a process (pid {pid}) that nobody asked for: SIGKILL"));
                let _ = pidfd.signal(libc::SIGKILL);
                self.dismiss(pidfd);
            }
            (None, true) if pid.is_some_and(|pid| !known && PidFd::open(pid).is_err()) => {
                self.fork_failed(worker, "not forked: it ended at once".to_owned(), events);
            }
            (None, true) => {
                self.fork_failed(
                    worker,
                    "not forked: another process than a child of the master confirmed it".to_owned(),
                    events,
                );
                self.break_off(parent, "a process that is no child of the master has confirmed a worker", events);
            }
            (None, false) => self.not_asked(parent),
        }
    }

    /// Whether a process has the user of the preload process. One that was started as root may have become any user.
    fn may_confirm(&self, parent: WorkerId, pid: u32) -> bool {
        let Some(process) = self.processes.get(&parent) else { return false };
        let started_as = process.release.plan.identity.as_ref().map_or_else(own_uid, |identity| identity.uid);
        started_as == 0 || effective_uid(pid) == Some(started_as)
    }

    fn not_asked(&mut self, parent: WorkerId) {
        if let Some(of) = self.forks.parents.get_mut(&parent) {
            of.unasked += 1;
        }
    }

    /// Makes a confirmed process the worker.
    fn take_over(&mut self, worker: WorkerId, pid: u32, pidfd: PidFd, now: Instant) -> Result<(), String> {
        let Some(Pending { start, kit, .. }) = self.forks.pending.remove(&worker) else {
            return Err("not forked: nobody waits for it".to_owned());
        };
        let Kit { notify, mut group, scoreboard, output, .. } = kit;
        // By the master alone: the kernel lets whoever has the group's file open for writing, as opened by root, move any process.
        if let Some(it) = group.as_ref().filter(|group| !group.holds(pid))
            && let Err(error) = it.take_in(pid)
        {
            self.log.warn_once(&format!("a forked worker cannot enter its control group: {error}; it runs in another"));
            self.discard_group(worker, it);
            group = None;
        }
        cpus::give(pid, start.slot, &start.release.config);
        let process = Process {
            generation: start.generation,
            release: start.release,
            pid,
            pidfd: PidFd::from(dup_high(pidfd.into(), RESERVED_FD_BASE)),
            notify,
            notify_again: None,
            group: group.map(Box::new),
            scoreboard,
            started_at: SystemTime::now(),
            more: (!output.is_empty()).then(|| Box::new(More { output, ..More::default() })),
            errnos_left: ERRNOS,
            budget: Budget::new(now),
            left_behind: false,
            readiness: None,
        };
        self.register(worker, process).inspect_err(|_| self.outputs.close(worker))
    }

    fn discard_group(&mut self, worker: WorkerId, group: &WorkerGroup) {
        let _ = group.kill();
        if let Some(cgroups) = &mut self.cgroups {
            cgroups.discard(worker);
        }
    }

    fn answered(&mut self, parent: WorkerId, worker: WorkerId) {
        if let Some(of) = self.forks.parents.get_mut(&parent) {
            of.asked.remove(&worker);
        }
    }

    /// Ends the request for a worker: it has no process, and nothing is left of it.
    fn fork_failed(&mut self, worker: WorkerId, why: String, events: &mut EventQueue) {
        if let Some(Pending { parent, kit, .. }) = self.forks.pending.remove(&worker) {
            self.answered(parent, worker);
            self.discard_kit(worker, kit);
        }
        events.push(Event::SpawnFailed(worker, why));
    }

    /// Frees what was made for a worker that does not start.
    pub(in crate::master) fn discard_kit(&mut self, worker: WorkerId, kit: Kit) {
        if let Some(group) = &kit.group {
            self.discard_group(worker, group);
        }
        let _ = std::fs::remove_file(self.runtime_dir.notify_path(worker));
        self.close_notify(worker, kit.notify);
        self.outputs.close(worker);
    }

    /// The preload process has broken the protocol: nothing more is read from it.
    fn break_off(&mut self, parent: WorkerId, why: &str, events: &mut EventQueue) {
        self.close_fork_socket(parent);
        events.push(Event::PreloadLost(parent, why.to_owned()));
    }

    /// Closes the master's end of the socket: no worker is forked any more, and the preload process reads the end of the file.
    pub(in crate::master) fn close_fork_socket(&mut self, parent: WorkerId) {
        let Some(of) = self.forks.parents.get_mut(&parent) else { return };
        if let Some(socket) = of.socket.take() {
            let _ = self.poll.remove(&socket);
            // The notify socket of the process may be with the helper that drops descriptors, and stays so.
            self.empty_and_close(parent, socket);
        }
    }

    /// The preload process has ended: the workers that it was to fork do not come.
    pub(in crate::master) fn parent_ended(&mut self, parent: WorkerId, events: &mut EventQueue) {
        let lost: Vec<WorkerId> =
            self.forks.pending.iter().filter(|(_, pending)| pending.parent == parent).map(|(worker, _)| *worker).collect();
        for worker in lost {
            self.fork_failed(worker, "not forked: its preload process has ended".to_owned(), events);
        }
    }

    /// Forgets a preload process of which nothing is left.
    pub(in crate::master) fn forget_parent(&mut self, parent: WorkerId) {
        self.close_fork_socket(parent);
        self.forks.parents.remove(&parent);
    }
}

fn text_of(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), describe)
}
