//! The table of the workers' processes. The master refers to a process by pidfd, never by process id.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::{Map, Value};

use crate::master::releases::prepare::Release;
use crate::master::workers::cgroup::WorkerGroup;
use crate::master::workers::readiness::Known;
use crate::pool::{GenerationId, WorkerId};
use crate::status::scoreboard::{Counted, Scoreboard, Totals, plausible};
use crate::sys::notify::NotifySocket;
use crate::sys::process::PidFd;
use crate::table::Table;

/// The resources of one worker, kept until it has no process left.
pub struct Process {
    /// The worker's generation.
    pub generation: GenerationId,
    /// The release from which the worker was started.
    pub release: Arc<Release>,
    /// The process id of the main process: only to show, never to send signals to.
    pub pid: u32,
    /// The main process.
    pub pidfd: PidFd,
    /// The worker's notify socket.
    pub notify: NotifySocket,
    /// A second notify socket, bound after the path of the first was removed. A process that had connected before still uses the first.
    pub notify_again: Option<NotifySocket>,
    /// The worker's control group, if a group was delegated.
    pub group: Option<Box<WorkerGroup>>,
    /// The worker's status page.
    pub scoreboard: Option<Arc<Scoreboard>>,
    /// The start time of the worker.
    pub started_at: SystemTime,
    /// Data that most workers don't have; boxed to save memory.
    pub more: Option<Box<More>>,
    /// The number of further `ERRNO=` assignments that are logged.
    pub errnos_left: u8,
    /// Rate limit of the worker's notifications.
    pub budget: Budget,
    /// Whether the main process is gone and other processes of the worker are left.
    pub left_behind: bool,
    /// The evidence of the worker's readiness; `None` before an observation shows any.
    pub readiness: Option<Known>,
}

/// Data that only some workers have.
#[derive(Default)]
pub struct More {
    /// Former main processes (`MAINPID=`), process id and pidfd, until they exit.
    pub former: Vec<(u32, PidFd)>,
    /// Copies of the reading ends of the worker's output pipes, for systemd's descriptor store.
    pub output: Vec<OwnedFd>,
    /// The last `X_RATOON_INFO=` of the worker.
    pub info: Map<String, Value>,
    /// The running totals of `X_RATOON_COUNTERS=`.
    pub counters: BTreeMap<String, f64>,
}

/// The counters of a worker that has sent none.
static NO_COUNTERS: BTreeMap<String, f64> = BTreeMap::new();

/// The number of `ERRNO=` assignments of one worker that are logged.
pub const ERRNOS: u8 = 8;

impl Process {
    /// The worker's notify sockets: one, or two after the path of the first was removed.
    pub fn sockets(&self) -> impl Iterator<Item = &NotifySocket> {
        std::iter::once(&self.notify).chain(&self.notify_again)
    }

    /// The signal that asks the worker to stop.
    pub fn stop_signal(&self) -> i32 {
        self.release.config.worker.stop_signal
    }

    /// The user and the group of the worker, if the configuration names them.
    pub fn owner(&self) -> Option<(u32, u32)> {
        owner(&self.release)
    }

    /// The figures that the worker has reported so far.
    pub fn totals(&self) -> Totals {
        figures(self.scoreboard.as_deref().and_then(Scoreboard::totals), self.counters())
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

    /// The rare data, for writing. Allocated at the first call.
    pub fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

/// The figures that a worker reported: those of its status page, else of its notifications; named counters of both.
pub fn figures(page: Option<Totals>, counters: &BTreeMap<String, f64>) -> Totals {
    let counter = |name: &str| counters.get(name).map(|value| plausible(*value as u64));
    let mut totals = page.unwrap_or_else(|| Totals {
        connections: counter("connections").unwrap_or(0),
        requests: counter("requests").unwrap_or(0),
        bytes_read: counter("bytes_read").unwrap_or(0),
        bytes_written: counter("bytes_written").unwrap_or(0),
        counted: Counted {
            connections: counter("connections").is_some(),
            requests: counter("requests").is_some(),
            bytes_read: counter("bytes_read").is_some(),
            bytes_written: counter("bytes_written").is_some(),
        },
        ..Totals::default()
    });
    totals.counters.extend(counters.iter().map(|(name, value)| (name.clone(), *value)));
    totals
}

/// The user and the group of a release's workers, if the configuration names them.
pub fn owner(release: &Release) -> Option<(u32, u32)> {
    release.plan.identity.as_ref().map(|identity| (identity.uid, identity.gid))
}

/// The number of datagrams that a worker has sent lately, as a leaky bucket. When the bucket is full, the worker waits until half of
/// it has leaked.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    used: u32,
    since: Instant,
}

/// The most datagrams that a worker may send in each [`BUDGET_SPAN`].
const BUDGET: u32 = 200;
/// The time span of [`BUDGET`], [`BUDGET_OF_ALL`] and [`BUDGET_LEAST`].
const BUDGET_SPAN: std::time::Duration = std::time::Duration::from_millis(100);
/// The most datagrams of a worker at once. While workers flood their sockets and the loop reads them, all CPUs may be busy and other
/// processes wait.
const BUDGET_AT_ONCE: u32 = 40;
/// The most datagrams of all workers together in each span. At about 4 µs a datagram this is a twelfth of a CPU.
const BUDGET_OF_ALL: u32 = 2000;
/// The number of datagrams that each worker may always send in a span, whatever [`BUDGET_OF_ALL`] allows.
const BUDGET_LEAST: u32 = 10;

impl Budget {
    /// A budget of which nothing is used.
    pub fn new(now: Instant) -> Budget {
        Budget { used: 0, since: now }
    }

    /// The number of datagrams that each worker may send in a span, for this number of workers.
    pub fn share(workers: usize) -> u32 {
        (BUDGET_OF_ALL / u32::try_from(workers.max(1)).unwrap_or(u32::MAX)).clamp(BUDGET_LEAST, BUDGET)
    }

    /// The time at which the sockets of a worker that has used up its budget are read again.
    pub fn paused_until(&self, share: u32) -> Instant {
        self.since + BUDGET_SPAN * (share.min(BUDGET_AT_ONCE) / 2) / share
    }

    /// Counts one datagram. `false`: the budget is used up, and the worker must wait until [`Budget::paused_until`].
    pub fn take(&mut self, now: Instant, share: u32) -> bool {
        let each = BUDGET_SPAN / share;
        let leaked = u32::try_from(now.saturating_duration_since(self.since).as_nanos() / each.as_nanos()).unwrap_or(u32::MAX);
        match self.used.checked_sub(leaked) {
            // The remainder of the division stays in `since`: a datagram that has leaked in part counts at the next call.
            Some(left) => (self.used, self.since) = (left, self.since + each * leaked),
            None => *self = Budget::new(now),
        }
        let left = self.used < share.min(BUDGET_AT_ONCE);
        self.used += u32::from(left);
        left
    }
}

/// The processes of all workers, by worker id.
pub type Processes = Table<WorkerId, Box<Process>>;

/// A worker may cost the master 1 KiB of memory, and this structure is the largest part of it.
const _: () = assert!(size_of::<Process>() <= 104);

/// The meaning of a descriptor in the epoll set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// A signal for the master.
    Signal,
    /// The main process of a worker ended.
    Exit(WorkerId),
    /// A control group became empty.
    Cgroups,
    /// A worker's notify socket has a datagram.
    Notify(WorkerId),
    /// A former main process of a worker ended (`MAINPID=`).
    Former(WorkerId),
    /// A file of the runtime directory was removed.
    Directory,
    /// A connection waits on a socket that no worker serves.
    Queues,
    /// A connection came in where `worker.min` is 0.
    Idle,
    /// A connection came in where each slot has its own queue.
    Hangs,
    /// The socket of a preload process has a reply.
    Fork(WorkerId),
}

impl Token {
    /// The token as the number that epoll_ctl(2) stores.
    pub fn to_u64(self) -> u64 {
        match self {
            Token::Signal => 0,
            Token::Cgroups => 1,
            Token::Directory => 2,
            Token::Queues => 6,
            Token::Idle => 1 << 3 | 6,
            Token::Hangs => 2 << 3 | 6,
            Token::Exit(worker) => worker << 3 | 3,
            Token::Notify(worker) => worker << 3 | 4,
            Token::Former(worker) => worker << 3 | 5,
            Token::Fork(worker) => worker << 3 | 7,
        }
    }

    /// The token of a number from [`Token::to_u64`].
    pub fn from_u64(number: u64) -> Token {
        match (number & 7, number >> 3) {
            (0, _) => Token::Signal,
            (1, _) => Token::Cgroups,
            (2, _) => Token::Directory,
            (3, worker) => Token::Exit(worker),
            (4, worker) => Token::Notify(worker),
            (5, worker) => Token::Former(worker),
            (6, 0) => Token::Queues,
            (6, 1) => Token::Idle,
            (6, _) => Token::Hangs,
            (_, worker) => Token::Fork(worker),
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
            Token::Queues,
            Token::Idle,
            Token::Hangs,
            Token::Exit(7),
            Token::Notify(7),
            Token::Former(7),
            Token::Fork(7),
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
            // A worker that goes on sending is read at its rate, in portions of half its budget at once.
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
        // A worker that sends many datagrams after a pause does not wait either.
        let later = start + each * 10_000 + BUDGET_SPAN;
        assert!((0..BUDGET_AT_ONCE).all(|_| budget.take(later, BUDGET)));
        // A clock that does not advance, or an earlier time, gives no further budget.
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
