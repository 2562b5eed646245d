//! What workers say, on a socket of each worker's own.
//!
//! Law: the socket says who speaks; only the worker's own user and root are heard, and no other worker. A few words a
//! turn, and no more a second than [`super::processes::Budget`] gives: who floods waits, its neighbours do not.

use std::time::Duration;

use super::journal::{Level, Record};
use super::processes::Token;
use super::turn::Master;
use super::words::{Word, parse};
use crate::pool::{Event, Said, WorkerId};
use crate::sys::descendants;
use crate::sys::notify::MESSAGE_MAX;
use crate::sys::process::PidFd;

/// So many datagrams of one worker a turn.
const WORDS: usize = 8;
/// So many at its end, when there will be no other turn.
const LAST_WORDS: usize = 1024;

/// What came of listening once.
enum Heard {
    Word(Vec<Word>),
    Ignored(String),
    Silence,
}

impl Master {
    /// A worker has something to say.
    pub(super) fn hear(&mut self, worker: WorkerId) {
        for _ in 0..WORDS {
            let Some(process) = self.processes.get_mut(&worker) else { return };
            if !process.budget.take(self.now) {
                let (token, until) = (Token::Notify(worker).to_u64(), process.budget.paused_until.unwrap_or(self.now));
                let _ = self.poll.get_ref().pause(&process.notify, token);
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
                let _ = self.poll.get_ref().resume(&process.notify, Token::Notify(worker).to_u64());
            }
        }
    }

    /// One datagram; `false` when there is none.
    fn hear_one(&mut self, worker: WorkerId) -> bool {
        match self.listen(worker) {
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

    fn listen(&self, worker: WorkerId) -> Heard {
        let Some(process) = self.processes.get(&worker) else { return Heard::Silence };
        let mut buffer = [0; MESSAGE_MAX];
        let sockets = [Some(&process.notify), process.notify_again.as_ref()];
        let mut message = None;
        for socket in sockets.into_iter().flatten() {
            if let Ok(Some(received)) = socket.receive(&mut buffer) {
                message = Some((received.uid, received.pid, received.truncated, received.bytes.to_vec()));
                break;
            }
        }
        let Some((uid, pid, truncated, bytes)) = message else { return Heard::Silence };
        let identity = self.releases.get(&process.generation).and_then(|release| release.plan.identity.as_ref());
        let own = identity.map_or_else(crate::sys::credentials::own_uid, |identity| identity.uid);
        match uid {
            Some(uid) if uid == own || uid == 0 => {}
            Some(uid) => return Heard::Ignored(format!("a message of user {uid}")),
            None => return Heard::Ignored("a message without credentials".to_owned()),
        }
        if let Some(other) = pid.and_then(|pid| self.pids.get(&pid)).filter(|other| **other != worker) {
            return Heard::Ignored(format!("a message that worker {other} sent in its name"));
        }
        if truncated {
            return Heard::Ignored(format!("a message of more than {MESSAGE_MAX} bytes"));
        }
        match parse(&bytes) {
            Ok(words) => Heard::Word(words),
            Err(bad) => Heard::Ignored(bad.to_string()),
        }
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
                    process.info = info;
                }
                return;
            }
            Word::Counters(counters) => {
                if let Some(process) = self.processes.get_mut(&worker) {
                    // Running totals: a name that is not said this time keeps its value.
                    process.counters.extend(counters);
                    while process.counters.len() > super::words::COUNTERS_MAX {
                        process.counters.pop_last();
                    }
                }
                return;
            }
            Word::Errno(errno) => {
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
            Err(why) => self.warn_once(&format!("worker {worker}: MAINPID={pid} is not followed: {why}")),
        }
    }

    fn follow(&mut self, worker: WorkerId, pid: u32) -> Result<(), String> {
        let Some(process) = self.processes.get_mut(&worker).filter(|process| process.pid != pid && !process.left_behind) else {
            return Ok(());
        };
        if self.pids.contains_key(&pid) {
            return Err("it is a process of another worker".to_owned());
        }
        // The descriptor first: what is found out then is true of this very process.
        let pidfd = PidFd::open(pid).map_err(|error| error.to_string())?;
        let own = match &process.group {
            Some(group) => group.holds(pid),
            None => descendants::is_one(&Self::family(worker, process), pid),
        };
        if !own || pidfd.signal(0).is_err() {
            return Err("it is not a process of this worker".to_owned());
        }
        let poll = self.poll.get_ref();
        poll.add(&pidfd, Token::Exit(worker).to_u64()).map_err(|error| error.to_string())?;
        let former = (std::mem::replace(&mut process.pid, pid), std::mem::replace(&mut process.pidfd, pidfd));
        let _ = poll.remove(&former.1);
        let _ = poll.add(&former.1, Token::Former(worker).to_u64());
        process.former.push(former);
        self.pids.insert(pid, worker);
        self.events.push_back(Event::MainPid(worker, pid));
        Ok(())
    }
}
