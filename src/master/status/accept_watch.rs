//! Watches whether ready workers accept connections: a worker can close its socket, or be stopped, long after it was ready.
//!
//! A look reads `/proc` and the memory of workers and may hang, so it has a thread of its own, which may be lost: with the status
//! document when that is read, and every 10 s where the configuration does not leave readiness to READY=1. Law: one look proves nothing,
//! since a worker may just be between two calls. A worker that is not seen to accept is looked at again for half a second.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::accepting::{Accepting, Verdict};
use crate::config::{Balance, Ready};
use crate::master::listeners::ListenerSet;
use crate::master::releases::prepare::Release;
use crate::master::task_result::{TaskResult, TaskResults};
use crate::master::workers::WorkerSet;
use crate::pool::{Phase, Pool, Worker, WorkerId};
use crate::status::kernel::accepting::{Observation, observe};
use crate::status::kernel::{Subject, waiting};
use crate::sys::thread;

/// The pause between two looks that nobody asked for.
const PERIOD: Duration = Duration::from_secs(10);
/// The shortest time between two looks when the status is read again and again.
const SPACING: Duration = Duration::from_secs(1);
/// The most workers that are looked at while a reader of the status waits.
const WORKERS_MAX: usize = 64;
/// How long a reader of the status waits for a look.
const WAIT: Duration = Duration::from_secs(2);
/// The name of the thread that looks.
const THREAD: &str = "ratoon-accepts";
/// The time for which a worker that is not seen to accept is looked at again, and the pause before each look.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(20));

/// A ready worker of the committed generation.
pub(in crate::master) struct Target {
    pub subject: Subject,
    /// The sockets on which it should accept.
    pub sockets: Vec<Arc<OwnedFd>>,
}

/// A look at all ready workers.
pub(in crate::master) struct Look {
    pub targets: Vec<Target>,
    /// Whether readiness was seen from outside. Otherwise a program may say READY=1 and not mean to accept at all, so that nobody accepts
    /// is told only while connections wait.
    pub is_strict: bool,
}

impl Look {
    /// The look at the ready workers of the present generation, whose release this is.
    pub fn at(pool: &Pool, workers: &WorkerSet, listeners: &ListenerSet, release: Option<&Release>) -> Look {
        let Some(release) = release else { return Look { targets: Vec::new(), is_strict: false } };
        let (per_slot, shown) = (release.config.worker.balance == Balance::PerSlot, listeners.shown());
        let target = |id, worker: &Worker| {
            let place = listeners.place(pool.queue(worker)).unwrap_or_default();
            let process = workers.get(id)?;
            let group = process.group.as_ref().map(|group| group.path().to_owned());
            let own =
                |sockets: &[_]| if per_slot { sockets.get(place).or(sockets.first()).cloned() } else { sockets.first().cloned() };
            let sockets: Vec<_> = shown.iter().filter_map(|(_, sockets)| own(sockets)).collect();
            (!sockets.is_empty()).then_some(Target { subject: (id, process.pid, group), sockets })
        };
        let ready = pool
            .workers()
            .filter(|(_, worker)| worker.phase == Phase::Ready && worker.generation == pool.generation() && !worker.is_preload());
        Look {
            targets: ready.filter_map(|(id, worker)| target(id, worker)).collect(),
            is_strict: matches!(release.config.worker.ready, Ready::Auto | Ready::Accepting),
        }
    }

    /// Looks on another thread, and waits a moment for whether each worker accepts; `None` if a process did not answer in time. The
    /// whole result goes to the loop.
    pub fn run_bounded(self, results: TaskResults) -> Option<BTreeMap<WorkerId, bool>> {
        let told = results.clone();
        let run = move || {
            let seen = self.run();
            let workers = seen.workers.clone();
            let _ = told.send(TaskResult::Accepting(seen));
            workers
        };
        thread::bounded(THREAD, WAIT, run).unwrap_or_else(|_| {
            let _ = results.send(TaskResult::AcceptLookFailed);
            None
        })
    }

    /// Looks. Blocks, for half a second if a worker is not seen to accept, and for ever if the memory of one cannot be read.
    fn run(&self) -> Accepting {
        let queued = || self.targets.iter().map(|target| waiting(&target.sockets)).collect::<Vec<_>>();
        let mut seen: Vec<Option<bool>> = self.targets.iter().map(accepts).collect();
        let mut queues = Vec::new();
        let end = Instant::now() + AGAIN.0;
        while seen.contains(&Some(false)) && Instant::now() < end {
            if queues.is_empty() {
                queues = queued();
            }
            std::thread::sleep(AGAIN.1);
            for (seen, target) in seen.iter_mut().zip(&self.targets).filter(|(seen, _)| **seen == Some(false)) {
                *seen = accepts(target);
            }
        }
        let last = if seen.contains(&Some(false)) { queued() } else { Vec::new() };
        let waits: Vec<bool> = queues.iter().zip(&last).map(|(first, last)| *first > 0 && last >= first).collect();
        let ids = self.targets.iter().map(|target| target.subject.0);
        Accepting {
            workers: ids.clone().zip(&seen).filter_map(|(id, seen)| Some((id, (*seen)?))).collect(),
            verdict: judge(&ids.collect::<Vec<_>>(), &seen, &waits, self.is_strict),
        }
    }
}

/// Whether a worker accepts on one of its sockets now; `None` if that cannot be seen.
fn accepts(target: &Target) -> Option<bool> {
    let seen: Observation = observe(&target.subject, &target.sockets);
    match seen.best() {
        Some(_) => Some(true),
        None if seen.hidden || seen.cut_short => None,
        None => Some(false),
    }
}

/// `waits`: whether connections wait for each worker, and no fewer than before; empty if all accept.
fn judge(ids: &[WorkerId], seen: &[Option<bool>], waits: &[bool], is_strict: bool) -> Verdict {
    let waits = |at: usize| waits.get(at).copied().unwrap_or(false);
    let stuck: Vec<WorkerId> = (0..ids.len()).filter(|&at| seen[at] == Some(false) && waits(at)).map(|at| ids[at]).collect();
    if !ids.is_empty() && seen.iter().all(|seen| *seen == Some(false)) && (is_strict || !stuck.is_empty()) {
        return Verdict::Nobody;
    }
    if stuck.is_empty() { Verdict::Fine } else { Verdict::Some(stuck) }
}

/// When to look.
pub(in crate::master) struct AcceptWatch {
    /// When the last look began.
    last: Instant,
    is_looking: bool,
    results: TaskResults,
}

impl AcceptWatch {
    /// A watch that looks first after a period.
    pub fn new(now: Instant, results: TaskResults) -> AcceptWatch {
        AcceptWatch { last: now, is_looking: false, results }
    }

    /// When the next look that nobody asked for is due.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.is_looking).then(|| self.last + PERIOD)
    }

    /// Looks on another thread.
    pub fn look(&mut self, now: Instant, look: Look) {
        if look.targets.is_empty() {
            self.last = now;
            return;
        }
        let (look, results) = (self.begin(now, look), self.results.clone());
        let run = move || drop(results.send(TaskResult::Accepting(look.run())));
        if thread::spawn(THREAD, run).is_err() {
            self.ended();
        }
    }

    /// The look for a reader of the status; `None` if the last look is fresh enough, or the pool too large for readers to wait.
    pub fn for_reader(&mut self, now: Instant, look: impl FnOnce() -> Look) -> Option<Look> {
        if self.is_looking || now < self.last + SPACING {
            return None;
        }
        let look = Some(look()).filter(|look| (1..=WORKERS_MAX).contains(&look.targets.len()))?;
        Some(self.begin(now, look))
    }

    /// The look has ended.
    pub fn ended(&mut self) {
        self.is_looking = false;
    }

    fn begin(&mut self, now: Instant, look: Look) -> Look {
        (self.last, self.is_looking) = (now, true);
        look
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);

    #[test]
    fn judge_tells_of_nobody_and_of_workers_for_which_connections_wait() {
        for (seen, waits, is_strict, wanted) in [
            (&[YES, YES][..], &[][..], true, Verdict::Fine),
            (&[NO, NO], &[false, false], true, Verdict::Nobody),
            (&[NO, NO], &[false, false], false, Verdict::Fine),
            (&[NO, NO], &[true, false], false, Verdict::Nobody),
            (&[NO, YES], &[false, false], true, Verdict::Fine),
            (&[NO, YES], &[true, true], true, Verdict::Some(vec![1])),
            (&[NO, None], &[false, false], true, Verdict::Fine),
            (&[NO, None], &[true, true], true, Verdict::Some(vec![1])),
            (&[], &[], true, Verdict::Fine),
        ] {
            let ids: Vec<WorkerId> = (1..=seen.len() as WorkerId).collect();
            assert_eq!(judge(&ids, seen, waits, is_strict), wanted, "{seen:?} {waits:?}");
        }
    }

    #[test]
    fn look_sees_a_process_that_holds_its_socket_and_does_not_accept() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let target = Target { subject: (7, std::process::id(), None), sockets: vec![Arc::new(socket.into())] };
        let look = Look { targets: vec![target], is_strict: false };
        assert_eq!(look.run(), Accepting { workers: BTreeMap::from([(7, false)]), verdict: Verdict::Fine });
        let _client = TcpStream::connect(address).unwrap();
        assert_eq!(look.run().verdict, Verdict::Nobody);
    }

    #[test]
    fn watch_has_a_period_and_spares_readers() {
        let (results, _) = tokio::sync::mpsc::unbounded_channel();
        let now = Instant::now();
        let mut watch = AcceptWatch::new(now, results);
        let target = || Target { subject: (1, 1, None), sockets: Vec::new() };
        let look = || Look { targets: vec![target()], is_strict: true };
        assert_eq!(watch.deadline(), Some(now + PERIOD));
        assert!(watch.for_reader(now, look).is_none());
        assert!(watch.for_reader(now + SPACING, || Look { targets: Vec::new(), is_strict: true }).is_none());
        assert!(watch.for_reader(now + SPACING, look).is_some());
        assert!(watch.for_reader(now + 2 * SPACING, look).is_none() && watch.deadline().is_none(), "one at a time");
        watch.ended();
        assert_eq!(watch.deadline(), Some(now + SPACING + PERIOD));
        let many = || Look { targets: (0..=WORKERS_MAX).map(|_| target()).collect(), is_strict: true };
        assert!(watch.for_reader(now + 2 * SPACING, many).is_none());
    }
}
