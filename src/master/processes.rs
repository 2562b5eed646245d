//! The workers' processes as the master holds them: by descriptor, never by number.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::{Map, Value};

use super::cgroup::WorkerGroup;
use crate::pool::{Number, WorkerId};
use crate::status::scoreboard::Scoreboard;
use crate::sys::notify::NotifySocket;
use crate::sys::process::PidFd;

/// What is held for one worker until nothing of it is left.
pub struct Process {
    /// Its generation.
    pub generation: Number,
    /// Its main process; to show, never to kill.
    pub pid: u32,
    /// Its main process.
    pub pidfd: PidFd,
    /// Where it speaks.
    pub notify: NotifySocket,
    /// Where it speaks since the socket's path was removed under it: whoever had connected before still uses the first.
    pub notify_again: Option<NotifySocket>,
    /// Its control group, where one was delegated.
    pub group: Option<Box<WorkerGroup>>,
    /// Its status page.
    pub scoreboard: Option<Arc<Scoreboard>>,
    /// When it was started.
    pub started_at: SystemTime,
    /// What most workers have not.
    pub more: Option<Box<More>>,
    /// How many more `ERRNO=` of it are worth a line in the log.
    pub errnos_left: u8,
    /// How much it has said lately.
    pub budget: Budget,
    /// Its main process is gone, others are left.
    pub left_behind: bool,
}

/// What only some workers have.
#[derive(Default)]
pub struct More {
    /// Main processes that it had before (`MAINPID=`), until they end.
    pub former: Vec<(u32, PidFd)>,
    /// What it says of itself.
    pub info: Map<String, Value>,
    /// Its own running totals.
    pub counters: BTreeMap<String, f64>,
}

/// The counters of a worker that has told none.
static NO_COUNTERS: BTreeMap<String, f64> = BTreeMap::new();

/// So many `ERRNO=` of one worker are told.
pub const ERRNOS: u8 = 8;

impl Process {
    /// Where it may speak.
    pub fn sockets(&self) -> impl Iterator<Item = &NotifySocket> {
        std::iter::once(&self.notify).chain(&self.notify_again)
    }

    /// See [`More::former`].
    pub fn former(&self) -> &[(u32, PidFd)] {
        self.more.as_ref().map_or(&[], |more| &more.former)
    }

    /// See [`More::info`].
    pub fn info(&self) -> Map<String, Value> {
        self.more.as_ref().map(|more| more.info.clone()).unwrap_or_default()
    }

    /// See [`More::counters`].
    pub fn counters(&self) -> &BTreeMap<String, f64> {
        self.more.as_ref().map_or(&NO_COUNTERS, |more| &more.counters)
    }

    /// To put something there.
    pub fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

/// How many datagrams a worker may still send before it has to wait.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    used: u32,
    since: Instant,
}

/// Every worker may send so many datagrams …
const BUDGET: u32 = 200;
/// … in each such span; one that wants more waits for the next.
const BUDGET_SPAN: std::time::Duration = std::time::Duration::from_millis(100);
/// All workers together may send so many in a span; at some 10 µs a datagram that is a fifth of a CPU at the very most …
const BUDGET_OF_ALL: u32 = 2000;
/// … but that each of them may always send so many.
const BUDGET_LEAST: u32 = 10;

impl Budget {
    /// A whole one.
    pub fn new(now: Instant) -> Budget {
        Budget { used: 0, since: now }
    }

    /// How many datagrams each of so many workers may send in a span.
    pub fn share(workers: usize) -> u32 {
        (BUDGET_OF_ALL / u32::try_from(workers.max(1)).unwrap_or(u32::MAX)).clamp(BUDGET_LEAST, BUDGET)
    }

    /// When a worker that has used its budget up is heard again.
    pub fn paused_until(&self) -> Instant {
        self.since + BUDGET_SPAN
    }

    /// Takes one datagram off; `false`: the worker must wait until [`Budget::paused_until`].
    pub fn take(&mut self, now: Instant, share: u32) -> bool {
        if now.duration_since(self.since) >= BUDGET_SPAN {
            *self = Budget::new(now);
        }
        if self.used >= share {
            return false;
        }
        self.used += 1;
        true
    }
}

/// All workers' processes. Boxed: half of a table is empty.
pub type Processes = HashMap<WorkerId, Box<Process>>;

/// A worker may cost the master a kibibyte, and this is the largest part of it.
const _: () = assert!(size_of::<Process>() <= 104);

/// What an event descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// A signal for the master.
    Signal,
    /// The main process of a worker ended.
    Exit(WorkerId),
    /// A control group became empty.
    Cgroups,
    /// A worker says something.
    Notify(WorkerId),
    /// A former main process of a worker ended (`MAINPID=`).
    Former(WorkerId),
    /// Something in the runtime directory was removed.
    Directory,
}

impl Token {
    /// As the number that the kernel keeps.
    pub fn to_u64(self) -> u64 {
        match self {
            Token::Signal => 0,
            Token::Cgroups => 1,
            Token::Directory => 2,
            Token::Exit(worker) => worker << 3 | 3,
            Token::Notify(worker) => worker << 3 | 4,
            Token::Former(worker) => worker << 3 | 5,
        }
    }

    /// And back.
    pub fn from_u64(number: u64) -> Token {
        match (number & 7, number >> 3) {
            (0, _) => Token::Signal,
            (1, _) => Token::Cgroups,
            (2, _) => Token::Directory,
            (3, worker) => Token::Exit(worker),
            (4, worker) => Token::Notify(worker),
            (_, worker) => Token::Former(worker),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel_and_sort_exits_before_words() {
        for token in [
            Token::Signal,
            Token::Cgroups,
            Token::Directory,
            Token::Exit(7),
            Token::Notify(7),
            Token::Former(7),
            Token::Exit(1 << 60),
        ] {
            assert_eq!(Token::from_u64(token.to_u64()), token);
        }
        let mut tokens = vec![Token::Notify(1), Token::Cgroups, Token::Exit(9), Token::Signal];
        tokens.sort();
        assert_eq!(tokens, [Token::Signal, Token::Exit(9), Token::Cgroups, Token::Notify(1)]);
    }

    #[test]
    fn a_flooder_waits_and_is_heard_again() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert!((0..BUDGET).all(|_| budget.take(start, Budget::share(1))));
        assert!(!budget.take(start, Budget::share(1)));
        assert_eq!(budget.paused_until(), start + BUDGET_SPAN);
        assert!(budget.take(start + BUDGET_SPAN, Budget::share(1)));
        assert_eq!(budget.paused_until(), start + 2 * BUDGET_SPAN);
    }

    #[test]
    fn many_flooders_share_what_one_may_have() {
        assert_eq!(Budget::share(0), BUDGET);
        assert_eq!(Budget::share(4), BUDGET);
        assert_eq!(Budget::share(100), BUDGET_OF_ALL / 100);
        assert_eq!(Budget::share(100_000), BUDGET_LEAST);
    }
}
