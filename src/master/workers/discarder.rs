//! Drops descriptors that workers attach to their notifications (SCM_RIGHTS), outside of the loop.
//!
//! Law: the loop never holds a descriptor that a worker made. The loop reads such a datagram with MSG_PEEK and room for credentials
//! only. A helper process ([`crate::sys::discard`]) takes the datagram out of the socket; until then the loop reads no other
//! datagram of that worker. A helper that has not answered within [`LIMIT`] is abandoned, and another helper serves the other workers.
//!
//! System calls of the loop that could block because of a worker or another user:
//!
//! | call | what could block it | what prevents that |
//! |---|---|---|
//! | recvmsg(2) on a notify socket | close of the last reference to a received file | MSG_PEEK takes no descriptor, see above |
//! | close(2) of a notify socket | the same, for unread datagrams | shutdown(2), then the helper takes the unread datagrams |
//! | read(2) on the control socket | the same: it drops received descriptors | SO_PASSRIGHTS=0 from Linux 6.16 on; **nothing before** |
//! | sendmsg(2) to systemd, write(2) to connections | a peer that does not read | non-blocking; unsent bytes are kept for later |
//! | pidfd_send_signal(2), waitid(2) | nothing | WNOHANG |
//! | `/proc/PID/stat`, `/proc/PID/cgroup` | nothing: neither takes the mmap_lock of the process | |
//! | `/proc/PID/environ` (no control groups) | its mmap_lock, its execve(2) | a thread, at most 0.5 s a scan ([`crate::sys::environ`]) |

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::master::task_result::TaskResult;
use crate::master::workers::WorkerSet;
use crate::master::workers::processes::Token;
use crate::master::workers::reports::DiscardProgress;
use crate::pool::WorkerId;
use crate::sys::discard::{self, Answer, Helper, Request};
use crate::sys::notify::{MESSAGE_MAX, NotifySocket};
use crate::sys::thread;

/// The longest wait for a helper's answer. After it the helper is abandoned.
const LIMIT: Duration = Duration::from_secs(2);
/// An idle helper exits after this time.
const IDLE: Duration = Duration::from_secs(1);
/// The number of helpers that may hang at the same time. At this number, further jobs wait until one of them answers.
const LOST_MAX: usize = 16;
/// The pause before a worker's sockets are read again, when its datagram could not be given to the helper.
const RETRY: Duration = Duration::from_secs(1);
/// The most datagrams without descriptors that the loop takes from a socket before it closes the socket.
const CLOSING_MAX: usize = 64;

/// The reason why the loop does not read a worker's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// A datagram is with the helper; reading goes on when the helper has taken it.
    Discarding,
    /// The worker has ended, and all its notifications have been read.
    Ended,
}

struct Job {
    worker: WorkerId,
    request: Request,
    socket: OwnedFd,
}

/// The workers whose sockets are not read, and the channel to the helpers' thread.
#[derive(Default)]
pub struct Discarder {
    jobs: Option<Sender<Job>>,
    holds: HashMap<WorkerId, Hold>,
}

impl Discarder {
    /// Whether the sockets of this worker must not be read.
    pub fn holds(&self, worker: WorkerId) -> bool {
        self.holds.contains_key(&worker)
    }

    /// Notes that the worker has ended. Returns whether a datagram of it is with the helper: then the datagrams behind it have to be
    /// read in place, without taking them.
    pub fn end(&mut self, worker: WorkerId) -> bool {
        self.holds.get_mut(&worker).is_some_and(|hold| std::mem::replace(hold, Hold::Ended) == Hold::Discarding)
    }

    /// Notes that the helper has taken the datagram. Returns whether the worker's sockets are to be read again.
    fn release(&mut self, worker: WorkerId) -> bool {
        let discarded = self.holds.get(&worker) == Some(&Hold::Discarding);
        if discarded {
            self.holds.remove(&worker);
        }
        discarded
    }

    fn give(&mut self, job: Job, tell: impl Fn(WorkerId, DiscardProgress) + Send + 'static) -> std::io::Result<()> {
        let jobs = match &self.jobs {
            Some(jobs) => jobs,
            None => {
                let (jobs, taken) = channel();
                thread::spawn("ratoon-discard", move || work(&taken, Helper::start, tell))?;
                self.jobs.insert(jobs)
            }
        };
        jobs.send(job).map_err(|_| std::io::Error::other("the thread has ended"))
    }
}

impl WorkerSet {
    /// Gives the first datagram of this socket, which has descriptors, to the helper. Until the helper has taken it, no socket of the
    /// worker is read.
    pub(in crate::master) fn discard(&mut self, worker: WorkerId, socket: usize, now: Instant) {
        let Some(process) = self.processes.get(&worker) else { return };
        for socket in process.sockets() {
            let _ = self.poll.pause(socket, Token::Notify(worker).to_u64());
        }
        let results = self.results.clone();
        let tell = move |worker, progress| drop(results.send(TaskResult::Discarded(worker, progress)));
        let socket = process.sockets().nth(socket).map(|socket| socket.as_fd().try_clone_to_owned());
        let given = socket.map(|socket| self.discarder.give(Job { worker, request: Request::Next, socket: socket? }, tell));
        match given {
            Some(Ok(())) => drop(self.discarder.holds.insert(worker, Hold::Discarding)),
            Some(Err(error)) => {
                self.paused.insert((now + RETRY, worker));
                self.log
                    .warn_once(&format!("descriptors that worker {worker} sent cannot be dropped, so it is not heard: {error}"));
            }
            None => {}
        }
    }

    /// Handles a report of the helpers' thread.
    pub(in crate::master) fn discarded(&mut self, worker: WorkerId, progress: DiscardProgress) {
        match progress {
            DiscardProgress::Done | DiscardProgress::Returned => {
                if let Some(process) = self.processes.get(&worker).filter(|_| self.discarder.release(worker)) {
                    for socket in process.sockets() {
                        let _ = self.poll.resume(socket, Token::Notify(worker).to_u64());
                    }
                }
            }
            DiscardProgress::Hangs => self.log.warn(format!(
                "worker {worker} sent a descriptor that cannot be dropped: its last close has not returned for {}s (SO_LINGER, or a \
                 file system that does not answer?); the worker is not heard until it returns, the others are",
                LIMIT.as_secs()
            )),
            DiscardProgress::Unstarted(why) => {
                self.log.warn_once(&format!("no process to drop descriptors of workers could be started, a thread does it: {why}"));
            }
            DiscardProgress::Full => self.log.warn_once(&format!(
                "{LOST_MAX} processes hang that drop descriptors of workers: workers that send more are not heard until one returns"
            )),
        }
    }

    /// Warns of processes whose environment could not be read in time.
    pub(in crate::master) fn warn_of_unanswered(&self) {
        for pid in crate::sys::environ::take_unanswered() {
            self.log.warn(format!(
                "/proc/{pid}/environ does not answer, so it is not known whether process {pid} is one of a worker that has ended; a \
                 thread that waits for it is left alone (a control group for each worker, Delegate=yes, needs no such look)"
            ));
        }
    }

    /// Closes the notify socket of a worker that is gone.
    pub(in crate::master) fn close_notify(&mut self, worker: WorkerId, socket: NotifySocket) {
        self.discarder.holds.remove(&worker);
        self.empty_and_close(worker, socket);
    }

    /// Closes a socket of a worker. The helper closes it if its datagrams have descriptors, or if it has too many.
    pub(in crate::master) fn empty_and_close(&mut self, worker: WorkerId, socket: NotifySocket) {
        socket.refuse();
        let mut buffer = [0; MESSAGE_MAX];
        for _ in 0..CLOSING_MAX {
            match socket.peek(&mut buffer) {
                Ok(None) => return,
                Ok(Some(received)) if !received.attached => drop(socket.skip()),
                Ok(Some(_)) | Err(_) => break,
            }
        }
        let results = self.results.clone();
        let tell = move |worker, progress| drop(results.send(TaskResult::Discarded(worker, progress)));
        if let Err(error) = self.discarder.give(Job { worker, request: Request::Rest, socket: socket.into() }, tell) {
            self.log.warn_once(&format!("the notify socket of a worker was closed with descriptors in it: {error}"));
        }
    }
}

/// The helpers' thread: carries out one job after the other, each for at most [`LIMIT`].
fn work(jobs: &Receiver<Job>, start: impl Fn() -> std::io::Result<Helper>, tell: impl Fn(WorkerId, DiscardProgress)) {
    let mut helper: Option<Helper> = None;
    let mut lost: Vec<(WorkerId, Helper)> = Vec::new();
    loop {
        let next = match (&helper, lost.is_empty()) {
            (None, true) => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => jobs.recv_timeout(IDLE),
        };
        look_at_lost(&mut lost, &tell);
        let job = match next {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                // Dropping the helper closes the channel, so the helper process exits.
                helper = None;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if lost.len() >= LOST_MAX {
            tell(job.worker, DiscardProgress::Full);
            while lost.len() >= LOST_MAX {
                std::thread::sleep(IDLE / 10);
                look_at_lost(&mut lost, &tell);
            }
        }
        carry_out(job, &mut helper, &mut lost, &start, &tell);
    }
}

fn carry_out(
    job: Job,
    helper: &mut Option<Helper>,
    lost: &mut Vec<(WorkerId, Helper)>,
    start: impl Fn() -> std::io::Result<Helper>,
    tell: impl Fn(WorkerId, DiscardProgress),
) {
    // If the helper was killed, another one is started, once.
    for _ in 0..2 {
        let asked = match helper.take().map_or_else(&start, Ok) {
            Ok(asked) => asked,
            Err(error) => {
                tell(job.worker, DiscardProgress::Unstarted(error.to_string()));
                discard::carry_out(job.request, job.socket.as_fd());
                return tell(job.worker, DiscardProgress::Done);
            }
        };
        let answer = asked.ask(job.request, job.socket.as_fd()).map_or(Answer::Gone, |()| asked.wait(LIMIT));
        match answer {
            Answer::Done => {
                *helper = Some(asked);
                return tell(job.worker, DiscardProgress::Done);
            }
            Answer::Late => {
                lost.push((job.worker, asked));
                return tell(job.worker, DiscardProgress::Hangs);
            }
            Answer::Gone => {}
        }
    }
    // An executable without the helper's verb (a program that has the master as a library) exits at once.
    tell(job.worker, DiscardProgress::Unstarted("it exits".to_owned()));
    discard::carry_out(job.request, job.socket.as_fd());
    tell(job.worker, DiscardProgress::Done);
}

/// Drops the abandoned helpers that have answered since, so that they exit.
fn look_at_lost(lost: &mut Vec<(WorkerId, Helper)>, tell: impl Fn(WorkerId, DiscardProgress)) {
    lost.retain(|(worker, helper)| {
        let hangs = helper.wait(Duration::ZERO) == Answer::Late;
        if !hangs {
            tell(*worker, DiscardProgress::Returned);
        }
        hangs
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn holds_end_when_the_helper_answers_but_not_for_the_dead() {
        let mut discarder = Discarder::default();
        assert!(!discarder.end(1) && !discarder.release(1), "nothing of it is with the helper");
        discarder.holds.insert(1, Hold::Discarding);
        discarder.holds.insert(2, Hold::Discarding);
        assert!(discarder.holds(1) && discarder.release(1) && !discarder.holds(1));
        assert!(discarder.end(2) && !discarder.end(2), "it is read to its end once");
        assert!(!discarder.release(2) && discarder.holds(2));
    }

    #[test]
    fn thread_takes_the_datagram_when_no_helper_starts() {
        let (socket, peer) = UnixDatagram::pair().expect("a pair");
        for text in ["one", "two"] {
            peer.send(text.as_bytes()).expect("room");
        }
        let (jobs, taken) = channel();
        let copy = socket.as_fd().try_clone_to_owned().expect("a descriptor");
        jobs.send(Job { worker: 7, request: Request::Next, socket: copy }).expect("it is held here");
        drop(jobs);
        let (say, said) = channel();
        work(
            &taken,
            || Err(std::io::Error::other("no")),
            |worker, progress| say.send((worker, progress)).expect("the test reads"),
        );
        drop(say);
        let said: Vec<_> = said.iter().collect();
        assert_eq!(said, [(7, DiscardProgress::Unstarted("no".to_owned())), (7, DiscardProgress::Done)]);
        let mut buffer = [0; 8];
        assert_eq!(socket.recv(&mut buffer).expect("the second"), 3);
        assert_eq!(&buffer[..3], b"two");
    }
}
