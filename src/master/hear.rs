//! What workers say, on a socket of each worker's own.
//!
//! Law: the socket says who speaks; only the worker's own user and root are heard, and no other worker. A few words a
//! turn, and no more a second than [`super::processes::Budget`] gives: who floods waits, its neighbours do not.

use std::time::Duration;

use super::journal::{Level, Record};
use super::processes::{Budget, Process, Token};
use super::turn::Master;
use super::words::{Word, parse};
use crate::pool::{Event, Said, WorkerId};
use crate::sys::descendants;
use crate::sys::notify::{MESSAGE_MAX, NotifySocket, Received};
use crate::sys::process::PidFd;

/// So many datagrams of one worker a turn.
const WORDS: usize = 8;
/// So many at its end, when there will be no other turn.
const LAST_WORDS: usize = 1024;

/// So many former main processes of a worker are watched, each with a descriptor.
const FORMER_MAX: usize = 8;

/// What came of listening once.
enum Heard {
    Word(Vec<Word>),
    Ignored(String),
    Silence,
}

/// A datagram that was listened to, and on which of the worker's sockets.
struct Listened {
    heard: Heard,
    bytes: Vec<u8>,
    socket: usize,
}

/// [`NotifySocket::receive`] or [`NotifySocket::peek`].
type Receive = for<'a> fn(&NotifySocket, &'a mut [u8]) -> std::io::Result<Option<Received<'a>>>;

impl Word {
    /// The next master could not do without it: all but what is said again and again, or only shown.
    fn matters(&self) -> bool {
        !matches!(self, Word::Watchdog | Word::Status(_) | Word::Errno(_) | Word::Barrier | Word::Unknown | Word::Bad(_))
    }
}

impl Master {
    /// A worker has something to say.
    pub(super) fn hear(&mut self, worker: WorkerId) {
        let share = Budget::share(self.processes.len());
        for _ in 0..WORDS {
            let Some(process) = self.processes.get_mut(&worker) else { return };
            if !process.budget.take(self.now, share) {
                let (token, until) = (Token::Notify(worker).to_u64(), process.budget.paused_until(share));
                for socket in process.sockets() {
                    let _ = self.poll.get_ref().pause(socket, token);
                }
                self.paused.insert((until, worker));
                return self.warn_once(&format!("worker {worker} talks too much and is heard more slowly"));
            }
            if !self.hear_one(worker) {
                return;
            }
        }
    }

    /// Everything that a worker said before it ended.
    pub(super) fn hear_out(&mut self, worker: WorkerId) {
        for _ in 0..LAST_WORDS {
            if !self.hear_one(worker) {
                return;
            }
        }
    }

    /// Workers whose pause is over are heard again.
    pub(super) fn resume_paused(&mut self) {
        while let Some((until, worker)) = self.paused.first().copied().filter(|(until, _)| *until <= self.now) {
            self.paused.remove(&(until, worker));
            if let Some(process) = self.processes.get(&worker) {
                for socket in process.sockets() {
                    let _ = self.poll.get_ref().resume(socket, Token::Notify(worker).to_u64());
                }
            }
        }
    }

    /// What a dead master had heard, and had not made part of its state.
    pub(super) fn hear_again(&mut self, worker: WorkerId, bytes: &[u8]) {
        for word in parse(bytes).unwrap_or_default() {
            self.understand(worker, word);
        }
    }

    /// One datagram; `false` when there is none. Where a master may follow a dead one it is looked at, written down, and
    /// only then taken: whenever the master dies, the next one hears it too.
    fn hear_one(&mut self, worker: WorkerId) -> bool {
        let heard = match &self.store {
            None => self.listen(worker, NotifySocket::receive),
            Some(_) => self.listen(worker, NotifySocket::peek),
        };
        let heard = heard.map_or(Heard::Silence, |Listened { heard, bytes, socket }| {
            if let Some(store) = &mut self.store {
                if matches!(&heard, Heard::Word(words) if words.iter().any(Word::matters)) {
                    store.note(worker, &bytes, self.now);
                }
                let mut buffer = [0; MESSAGE_MAX];
                let taken = self.processes.get(&worker).and_then(|process| process.sockets().nth(socket));
                let _ = taken.map(|socket| socket.receive(&mut buffer).is_ok());
            }
            heard
        });
        match heard {
            Heard::Silence => return false,
            Heard::Word(words) => {
                for word in words {
                    self.understand(worker, word);
                }
            }
            Heard::Ignored(why) => self.warn_once(&format!("worker {worker}: ignored {why}")),
        }
        true
    }

    fn listen(&self, worker: WorkerId, how: Receive) -> Option<Listened> {
        let process = self.processes.get(&worker)?;
        let mut buffer = [0; MESSAGE_MAX];
        process.sockets().enumerate().find_map(|(socket, it)| {
            let received = how(it, &mut buffer).ok()??;
            let (uid, pid, truncated) = (received.uid, received.pid, received.truncated);
            let bytes = received.bytes.to_vec();
            Some(Listened { heard: self.judge(worker, process, (uid, pid, truncated), &bytes), bytes, socket })
        })
    }

    /// Whether a message is heard, and what it says. `from`: user, process, and whether a part of it is missing.
    fn judge(&self, worker: WorkerId, process: &Process, from: (Option<u32>, Option<u32>, bool), bytes: &[u8]) -> Heard {
        let (uid, pid, truncated) = from;
        let identity = self.releases.get(&process.generation).and_then(|release| release.plan.identity.as_ref());
        let own = || identity.map_or_else(crate::sys::credentials::own_uid, |identity| identity.uid);
        match uid {
            Some(uid) if uid == 0 || uid == own() => {}
            Some(uid) => return Heard::Ignored(format!("a message of user {uid}")),
            None => return Heard::Ignored("a message without credentials".to_owned()),
        }
        if let Some(other) = pid.and_then(|pid| self.neighbour(worker, process, pid)) {
            return Heard::Ignored(format!("a message that worker {other} sent in its name"));
        }
        if truncated {
            return Heard::Ignored(format!("a message of more than {MESSAGE_MAX} bytes"));
        }
        match parse(bytes) {
            Ok(words) => Heard::Word(words),
            Err(bad) => Heard::Ignored(bad.to_string()),
        }
    }

    /// The other worker that this process belongs to, if it does. A process that is nobody's (a helper of the
    /// administrator's, one that has ended already) is not: its user was right, and that is what counts.
    fn neighbour(&self, worker: WorkerId, process: &Process, pid: u32) -> Option<WorkerId> {
        let of = |pid: u32| self.pids.get(&pid).copied();
        let found = of(pid).or_else(|| match &process.group {
            Some(group) if group.holds(pid) => Some(worker),
            Some(_) | None => descendants::session(pid).and_then(of).or_else(|| self.marked(pid)),
        });
        found.filter(|found| *found != worker)
    }

    /// The worker whose marks a process has.
    fn marked(&self, pid: u32) -> Option<WorkerId> {
        let worker = descendants::mark(pid)?;
        let process = self.processes.get(&worker)?;
        descendants::has_marks(pid, &Self::family(&self.guard, worker, process)).then_some(worker)
    }

    fn understand(&mut self, worker: WorkerId, word: Word) {
        let micros = Duration::from_micros;
        let said = match word {
            Word::Ready => Said::Ready,
            Word::Stopping => Said::Stopping,
            Word::Status(text) => Said::Status(text),
            Word::Watchdog => Said::Watchdog,
            Word::WatchdogTrigger => Said::WatchdogTrigger,
            Word::WatchdogUsec(usec) => Said::WatchdogEvery(micros(usec)),
            Word::ExtendTimeoutUsec(usec) => Said::Extend(micros(usec)),
            Word::Info(info) => {
                if let Some(process) = self.processes.get_mut(&worker) {
                    process.more().info = info;
                }
                return;
            }
            Word::Counters(counters) => {
                if let Some(process) = self.processes.get_mut(&worker) {
                    // Running totals: a name that is not said this time keeps its value.
                    let known = &mut process.more().counters;
                    known.extend(counters);
                    while known.len() > super::words::COUNTERS_MAX {
                        known.pop_last();
                    }
                }
                return;
            }
            Word::Errno(errno) => {
                let Some(left) = self.processes.get_mut(&worker).and_then(|process| process.errnos_left.checked_sub(1)) else {
                    return;
                };
                if let Some(process) = self.processes.get_mut(&worker) {
                    process.errnos_left = left;
                }
                let text = crate::sys::spawn::describe(errno);
                let message = format!("worker {worker} reports errno {errno}: {text}");
                return self.record(Record { worker: Some(worker), ..Record::new(Level::Warning, message) });
            }
            Word::MainPid(pid) => return self.main_pid(worker, pid),
            Word::Bad(key) => return self.warn_once(&format!("worker {worker}: ignored a value of {key} that makes no sense")),
            Word::Reloading | Word::Barrier | Word::Unknown => return,
        };
        self.events.push_back(Event::Said(worker, said));
    }

    /// `MAINPID=`: another process of the same worker is its main process from now on.
    fn main_pid(&mut self, worker: WorkerId, pid: u32) {
        match self.follow(worker, pid) {
            Ok(()) => {}
            // Without the number: there are millions of those.
            Err(why) => self.warn_once(&format!("worker {worker}: MAINPID= is not followed: {why}")),
        }
    }

    fn follow(&mut self, worker: WorkerId, pid: u32) -> Result<(), String> {
        let Some(process) = self.processes.get_mut(&worker).filter(|process| process.pid != pid && !process.left_behind) else {
            return Ok(());
        };
        if self.pids.contains_key(&pid) {
            return Err("it is a process of another worker".to_owned());
        }
        if process.former().len() >= FORMER_MAX {
            return Err(format!("{FORMER_MAX} processes that were its main one before still live"));
        }
        // The descriptor first: what is found out then is true of this very process.
        let pidfd = PidFd::open(pid).map_err(|error| error.to_string())?;
        let own = match &process.group {
            Some(group) => group.holds(pid),
            None => descendants::is_one(&Self::family(&self.guard, worker, process), pid),
        };
        if !own || pidfd.signal(0).is_err() {
            return Err("it is not a process of this worker".to_owned());
        }
        let poll = self.poll.get_ref();
        poll.add(&pidfd, Token::Exit(worker).to_u64()).map_err(|error| error.to_string())?;
        let former = (std::mem::replace(&mut process.pid, pid), std::mem::replace(&mut process.pidfd, pidfd));
        let _ = poll.remove(&former.1);
        let _ = poll.add(&former.1, Token::Former(worker).to_u64());
        process.more().former.push(former);
        self.pids.insert(pid, worker);
        self.events.push_back(Event::MainPid(worker, pid));
        Ok(())
    }
}
