//! The workers' processes as the master holds them: by descriptor, never by number.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::{Map, Value};

use crate::master::workers::cgroup::WorkerGroup;
use crate::master::workers::readiness::Known;
use crate::pool::{GenerationId, WorkerId};
use crate::status::scoreboard::Scoreboard;
use crate::sys::notify::NotifySocket;
use crate::sys::process::PidFd;
use crate::table::Table;

/// What is held for one worker until nothing of it is left.
pub struct Process {
    /// Its generation.
    pub generation: GenerationId,
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
    /// How it is known that it is ready, as far as it was looked at.
    pub readiness: Option<Known>,
}

/// What only some workers have.
#[derive(Default)]
pub struct More {
    /// Main processes that it had before (`MAINPID=`), until they end.
    pub former: Vec<(u32, PidFd)>,
    /// Copies of the reading ends of its output, for systemd's store.
    pub output: Vec<OwnedFd>,
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

    /// See [`More::output`].
    pub fn output(&self) -> &[OwnedFd] {
        self.more.as_ref().map_or(&[], |more| &more.output)
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

/// How many datagrams a worker has sent lately: a bucket with a leak. Who has filled it waits until half of it has run out.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    used: u32,
    since: Instant,
}

/// Every worker may send so many datagrams …
const BUDGET: u32 = 200;
/// … in each such span; one that wants more waits.
const BUDGET_SPAN: std::time::Duration = std::time::Duration::from_millis(100);
/// But so many at once only: flooders and those who read them keep all CPUs busy for so long, while others wait for one.
const BUDGET_AT_ONCE: u32 = 40;
/// All workers together may send so many in a span; at some 4 µs a datagram that is a twelfth of a CPU …
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
    pub fn paused_until(&self, share: u32) -> Instant {
        self.since + BUDGET_SPAN * (share.min(BUDGET_AT_ONCE) / 2) / share
    }

    /// Takes one datagram off; `false`: the worker must wait until [`Budget::paused_until`].
    pub fn take(&mut self, now: Instant, share: u32) -> bool {
        let each = BUDGET_SPAN / share;
        let leaked = u32::try_from(now.saturating_duration_since(self.since).as_nanos() / each.as_nanos()).unwrap_or(u32::MAX);
        match self.used.checked_sub(leaked) {
            // What has leaked in part goes on leaking.
            Some(left) => (self.used, self.since) = (left, self.since + each * leaked),
            None => *self = Budget::new(now),
        }
        let left = self.used < share.min(BUDGET_AT_ONCE);
        self.used += u32::from(left);
        left
    }
}

/// All workers' processes.
pub type Processes = Table<WorkerId, Box<Process>>;

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
        for share in [BUDGET, 50, BUDGET_LEAST] {
            let start = Instant::now();
            let at_once = share.min(BUDGET_AT_ONCE);
            let mut budget = Budget::new(start);
            assert!((0..at_once).all(|_| budget.take(start, share)));
            assert!(!budget.take(start, share));
            // Whoever floods on is heard at its rate, half of what it may say at once at a time.
            let (mut now, mut heard) = (start, 0);
            while now < start + 10 * BUDGET_SPAN {
                now = budget.paused_until(share);
                let before = heard;
                while budget.take(now, share) {
                    heard += 1;
                }
                assert_eq!(heard - before, at_once / 2);
            }
            assert!(heard.abs_diff(10 * share) <= at_once / 2, "{heard} of {share}");
        }
    }

    #[test]
    fn who_speaks_slower_than_its_rate_never_waits() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let each = BUDGET_SPAN / BUDGET;
        assert!((0..10_000).all(|turn| budget.take(start + each * turn, BUDGET)));
        // Nor does who says much after a silence.
        let later = start + each * 10_000 + BUDGET_SPAN;
        assert!((0..BUDGET_AT_ONCE).all(|_| budget.take(later, BUDGET)));
        // A clock that stands still, or an instant before the last one, is no reason to hear more.
        assert!(!budget.take(start, BUDGET));
    }

    #[test]
    fn many_flooders_share_what_one_may_have() {
        assert_eq!(Budget::share(0), BUDGET);
        assert_eq!(Budget::share(4), BUDGET);
        assert_eq!(Budget::share(100), BUDGET_OF_ALL / 100);
        assert_eq!(Budget::share(100_000), BUDGET_LEAST);
    }
}
