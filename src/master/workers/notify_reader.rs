//! Reads the workers' notifications. Each worker has its own notify socket.
//!
//! Law: the socket tells which worker a datagram is for, and `senders.rs` decides whether the sending process may send it. The loop
//! reads a few datagrams of a worker per iteration, and per second no more than [`crate::master::workers::processes::Budget`] allows:
//! a worker that floods its socket waits, other workers do not.

use std::time::{Duration, Instant};

use crate::master::event_queue::EventQueue;
use crate::master::log::journal::{Level, Record};
use crate::master::workers::processes::{Budget, Process, Token};
use crate::master::workers::sd_notify::{Assignment, parse};
use crate::master::workers::{Keep, WorkerSet};
use crate::pool::{Event, Notification, WorkerId};
use crate::sys::descendants;
use crate::sys::notify::{MESSAGE_MAX, NotifySocket, Received};
use crate::sys::process::PidFd;

/// The most datagrams of one worker that are read per loop iteration.
const DATAGRAMS: usize = 8;
/// The most datagrams that are read when a worker has exited, because no later iteration reads them.
const FINAL_NOTIFICATIONS: usize = 1024;

/// The most former main processes of a worker that are watched. Each needs a descriptor.
const FORMER_MAX: usize = 8;

/// The result of reading one datagram: its assignments, or the reason why it is ignored.
enum Content {
    Assignments(Vec<Assignment>),
    Ignored(String),
}

/// A datagram that was read, and the index of the socket among the worker's sockets.
struct Datagram {
    content: Content,
    bytes: Vec<u8>,
    socket: usize,
    /// Whether the datagram has descriptors, which the helper process drops.
    attached: bool,
}

/// The sender of a datagram: user id, process id, and whether the datagram was truncated.
type Sender = (Option<u32>, Option<u32>, bool);

impl Assignment {
    /// Whether the next master needs this assignment. It does not need assignments that workers repeat or that are only shown.
    fn matters(&self) -> bool {
        !matches!(
            self,
            Assignment::Watchdog
                | Assignment::Status(_)
                | Assignment::Errno(_)
                | Assignment::Barrier
                | Assignment::Unknown
                | Assignment::Bad(_)
        )
    }
}

/// Keeps a datagram for the next master, if that needs one of its assignments.
fn note(worker: WorkerId, content: &Content, bytes: &[u8], keep: Keep<'_>) {
    if matches!(content, Content::Assignments(assignments) if assignments.iter().any(Assignment::matters)) {
        keep(worker, bytes);
    }
}

impl WorkerSet {
    /// Reads a worker's notifications, a bounded number of datagrams.
    pub(in crate::master) fn read_notifications(
        &mut self,
        worker: WorkerId,
        now: Instant,
        keep: Keep<'_>,
        events: &mut EventQueue,
    ) {
        if self.discarder.holds(worker) {
            // The event comes from a socket that was made meanwhile, or from the end of another pause.
            let Some(process) = self.processes.get(&worker) else { return };
            for socket in process.sockets() {
                let _ = self.poll.pause(socket, Token::Notify(worker).to_u64());
            }
            return;
        }
        let share = Budget::share(self.processes.len());
        for _ in 0..DATAGRAMS {
            let Some(process) = self.processes.get_mut(&worker) else { return };
            if !process.budget.take(now, share) {
                let (token, until) = (Token::Notify(worker).to_u64(), process.budget.paused_until(share));
                for socket in process.sockets() {
                    let _ = self.poll.pause(socket, token);
                }
                self.paused.insert((until, worker));
                return self.log.warn_once(&format!("worker {worker} talks too much and is content more slowly"));
            }
            if !self.read_one(worker, now, keep, events) {
                return;
            }
        }
    }

    /// Reads all notifications that a worker sent before its exit.
    pub(in crate::master) fn read_all(&mut self, worker: WorkerId, now: Instant, keep: Keep<'_>, events: &mut EventQueue) {
        for _ in 0..FINAL_NOTIFICATIONS {
            if self.discarder.holds(worker) || !self.read_one(worker, now, keep, events) {
                break;
            }
        }
        let ended = self.processes.get(&worker).is_some_and(|process| !matches!(process.pidfd.peek(), Ok(None)));
        if ended && self.discarder.end(worker) {
            self.read_in_place(worker, keep, events);
        }
    }

    /// Reads all notifications of an exited worker without taking them out of the sockets, while the helper process takes a datagram
    /// with descriptors. That datagram may be read twice.
    fn read_in_place(&mut self, worker: WorkerId, keep: Keep<'_>, events: &mut EventQueue) {
        let Some(process) = self.processes.get(&worker) else { return };
        let mut left = Vec::new();
        for socket in process.sockets() {
            let take = |it: Received<'_>| left.push(((it.uid, it.pid, it.truncated), it.bytes.to_vec()));
            // This fails only if the kernel has no SO_PEEK_OFF (before 3.4).
            let _ = socket.peek_all(FINAL_NOTIFICATIONS, take);
        }
        for (from, bytes) in left {
            let Some(process) = self.processes.get(&worker) else { return };
            let content = self.judge(worker, process, from, &bytes);
            note(worker, &content, &bytes, keep);
            self.handle(worker, content, events);
        }
    }

    /// Reads the sockets of workers again whose pause is over.
    pub(super) fn resume_paused(&mut self, now: Instant) {
        while let Some((until, worker)) = self.paused.first().copied().filter(|(until, _)| *until <= now) {
            self.paused.remove(&(until, worker));
            if let Some(process) = self.processes.get(&worker) {
                for socket in process.sockets() {
                    let _ = self.poll.resume(socket, Token::Notify(worker).to_u64());
                }
            }
        }
    }

    /// Handles a notification that a dead master read but did not make part of its state.
    pub(in crate::master) fn replay(&mut self, worker: WorkerId, bytes: &[u8], events: &mut EventQueue) {
        for assignment in parse(bytes).unwrap_or_default() {
            self.handle_assignment(worker, assignment, events);
        }
    }

    /// Reads one datagram. Returns `false` when there is none, or when the datagrams behind it must not be read yet. The datagram is
    /// peeked, stored for the next master (with `survive.conf`), and only then taken: if the master dies, the next one has it too.
    fn read_one(&mut self, worker: WorkerId, now: Instant, keep: Keep<'_>, events: &mut EventQueue) -> bool {
        let Some(Datagram { content, bytes, socket, attached }) = self.peek(worker) else { return false };
        note(worker, &content, &bytes, keep);
        if attached {
            self.discard(worker, socket, now);
        } else {
            let taken = self.processes.get(&worker).and_then(|process| process.sockets().nth(socket));
            let _ = taken.map(NotifySocket::skip);
        }
        self.handle(worker, content, events);
        !attached
    }

    fn handle(&mut self, worker: WorkerId, content: Content, events: &mut EventQueue) {
        match content {
            Content::Assignments(assignments) => {
                for assignment in assignments {
                    self.handle_assignment(worker, assignment, events);
                }
            }
            Content::Ignored(why) => self.log.warn_once(&format!("worker {worker}: ignored {why}")),
        }
    }

    fn peek(&self, worker: WorkerId) -> Option<Datagram> {
        let process = self.processes.get(&worker)?;
        let mut buffer = [0; MESSAGE_MAX];
        process.sockets().enumerate().find_map(|(socket, it)| {
            let received = it.peek(&mut buffer).ok()??;
            let (from, attached) = ((received.uid, received.pid, received.truncated), received.attached);
            let bytes = received.bytes.to_vec();
            Some(Datagram { content: self.judge(worker, process, from, &bytes), bytes, socket, attached })
        })
    }

    /// Checks the sender of a datagram, and parses it.
    fn judge(&self, worker: WorkerId, process: &Process, from: Sender, bytes: &[u8]) -> Content {
        let (uid, pid, truncated) = from;
        if let Err(why) = self.check_sender(worker, process, uid, pid) {
            return Content::Ignored(why);
        }
        if truncated {
            return Content::Ignored(format!("a message of more than {MESSAGE_MAX} bytes"));
        }
        match parse(bytes) {
            Ok(assignments) => Content::Assignments(assignments),
            Err(bad) => Content::Ignored(bad.to_string()),
        }
    }

    fn handle_assignment(&mut self, worker: WorkerId, assignment: Assignment, events: &mut EventQueue) {
        let micros = Duration::from_micros;
        let said = match assignment {
            Assignment::Ready => Notification::Ready,
            Assignment::Stopping => Notification::Stopping,
            Assignment::Status(text) => Notification::Status(text),
            Assignment::Watchdog => Notification::Watchdog,
            Assignment::WatchdogTrigger => Notification::WatchdogTrigger,
            Assignment::WatchdogUsec(usec) => Notification::WatchdogEvery(micros(usec)),
            Assignment::ExtendTimeoutUsec(usec) => Notification::Extend(micros(usec)),
            Assignment::Info(info) => {
                if let Some(process) = self.processes.get_mut(&worker) {
                    process.more().info = info;
                }
                return;
            }
            Assignment::Counters(counters) => {
                if let Some(process) = self.processes.get_mut(&worker) {
                    // Running totals: a name that is missing in this notification keeps its value.
                    let known = &mut process.more().counters;
                    known.extend(counters);
                    while known.len() > crate::master::workers::sd_notify::COUNTERS_MAX {
                        known.pop_last();
                    }
                }
                return;
            }
            Assignment::Errno(errno) => {
                let Some(left) = self.processes.get_mut(&worker).and_then(|process| process.errnos_left.checked_sub(1)) else {
                    return;
                };
                if let Some(process) = self.processes.get_mut(&worker) {
                    process.errnos_left = left;
                }
                let text = crate::sys::spawn::describe(errno);
                let message = format!("worker {worker} reports errno {errno}: {text}");
                return self.log.record(Record { worker: Some(worker), ..Record::new(Level::Warning, message) });
            }
            Assignment::MainPid(pid) => return self.main_pid(worker, pid, events),
            Assignment::Bad(key) => {
                return self.log.warn_once(&format!("worker {worker}: ignored a value of {key} that makes no sense"));
            }
            Assignment::Reloading | Assignment::Barrier | Assignment::Unknown => return,
        };
        if said == Notification::Ready {
            self.readiness.look_now(worker);
        }
        events.push(Event::Notification(worker, said));
    }

    /// Handles `MAINPID=`: another process of the worker becomes its main process.
    fn main_pid(&mut self, worker: WorkerId, pid: u32, events: &mut EventQueue) {
        match self.follow(worker, pid, events) {
            Ok(()) => {}
            // The text has no process id: warnings are logged once per text, and there are millions of ids.
            Err(why) => self.log.warn_once(&format!("worker {worker}: MAINPID= is not followed: {why}")),
        }
    }

    fn follow(&mut self, worker: WorkerId, pid: u32, events: &mut EventQueue) -> Result<(), String> {
        let Some(process) = self.processes.get_mut(&worker).filter(|process| process.pid != pid && !process.left_behind) else {
            return Ok(());
        };
        if self.pids.contains_key(&pid) {
            return Err("it is a process of another worker".to_owned());
        }
        if process.former().len() >= FORMER_MAX {
            return Err(format!("{FORMER_MAX} processes that were its main one before still live"));
        }
        // The pidfd is opened first, so that the checks below are about this very process.
        let pidfd = PidFd::open(pid).map_err(|error| error.to_string())?;
        let own = match &process.group {
            Some(group) => group.holds(pid),
            None => descendants::is_one(&Self::family(&self.runtime_dir, worker, process), pid),
        };
        if !own || pidfd.signal(0).is_err() {
            return Err("it is not a process of this worker".to_owned());
        }
        let poll = &self.poll;
        poll.add(&pidfd, Token::Exit(worker).to_u64()).map_err(|error| error.to_string())?;
        let former = (std::mem::replace(&mut process.pid, pid), std::mem::replace(&mut process.pidfd, pidfd));
        let _ = poll.remove(&former.1);
        let _ = poll.add(&former.1, Token::Former(worker).to_u64());
        process.more().former.push(former);
        self.pids.insert(pid, worker);
        events.push(Event::MainPid(worker, pid));
        Ok(())
    }
}
