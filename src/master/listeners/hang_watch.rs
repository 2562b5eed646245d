//! Looks for workers that hang, where each slot has its own accept queue (`worker.balance_hung`): at their processes, their oldest requests
//! and their queues. The pool judges what is seen.
//!
//! Law: while no connection is open there is no tick; epoll(7) reports the next connection that waits. One that a worker has accepted before
//! the loop is awake is not reported: the first that meets a worker that hangs stays in its queue, and is. While one is open, a look is begun every
//! [`PERIOD`], on another thread, one at a time; looks at many workers are rarer, so that they take no more than a twentieth of a CPU.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::master::task_result::{TaskResult, TaskResults};
use crate::master::workers::processes::Token;
use crate::pool::{GenerationId, READS, Sighting, WorkerId};
use crate::status::keep::{Clock, Clocks};
use crate::status::kernel;
use crate::status::scoreboard::{Scoreboard, Work};
use crate::sys::poll::Poll;
use crate::sys::{reuseport, thread};

/// The time from the begin of one look to that of the next.
const PERIOD: Duration = Duration::from_millis(100);
/// The time between two readings of the queues in one look, while connections wait in some of them.
const READ_AGAIN: Duration = Duration::from_millis(25);
/// The shortest time between two looks, as a multiple of the CPU time that one costs.
const MULTIPLE: u32 = 20;
/// One look in this number of looks also asks the kernel whether connections are open.
const ASK_EVERY: u32 = 10;
/// Where the kernel does not tell of open connections, the watch goes on for this number of looks after one has come.
const UNKNOWN_LOOKS: u32 = 100;
/// The most events that are taken from the epoll set at once.
const EVENTS: usize = 1024;
/// The name of the thread that looks.
const THREAD: &str = "ratoon-hangs";

/// A ready worker that has its own queue.
pub(in crate::master) struct Subject {
    pub worker: WorkerId,
    pub generation: GenerationId,
    pub pid: u32,
    pub scoreboard: Option<Arc<Scoreboard>>,
    /// The sockets of its queue, one for each address.
    pub sockets: Vec<Arc<OwnedFd>>,
    /// New connections go to others.
    pub is_avoided: bool,
}

/// The signs of a worker in one look.
struct Seen {
    worker: WorkerId,
    generation: GenerationId,
    is_avoided: bool,
    is_stopped: bool,
    work: Option<Work>,
    queue: Vec<u32>,
}

/// The result of a look.
pub(in crate::master) struct Look {
    workers: Vec<Seen>,
    /// Connections that are open or wait; the outer `None` if it was not asked for, the inner one if the kernel does not tell.
    open: Option<Option<u64>>,
    /// CPU time that the look took.
    cost: Duration,
}

/// The watch for workers that hang.
pub(in crate::master) struct HangWatch {
    /// A set of its own within that of the loop: a socket can be in a set once only, and may be in that of the loop.
    set: Poll,
    results: TaskResults,
    is_watching: bool,
    /// The sockets in the set, each reported once: from before the kernel is asked for open connections until one comes.
    sockets: Vec<Arc<OwnedFd>>,
    is_looking: bool,
    /// When the last look began.
    last: Instant,
    /// The time of the next look; `None` while the watch sleeps until a connection comes.
    next: Option<Instant>,
    /// Looks since the watch woke up.
    looks: u32,
    /// The generation in which a worker was seen to have several requests in work at once.
    concurrent: Option<GenerationId>,
    /// Connections that each worker had accepted when it was seen last before it was avoided.
    accepted: BTreeMap<WorkerId, u64>,
}

impl HangWatch {
    /// A watch that watches nothing.
    ///
    /// # Errors
    /// No epoll set can be made, or watched.
    pub fn new(poll: &Poll, results: TaskResults, now: Instant) -> std::io::Result<HangWatch> {
        let set = Poll::new()?;
        poll.add(&set, Token::Hangs.to_u64())?;
        Ok(HangWatch {
            set,
            results,
            is_watching: false,
            sockets: Vec::new(),
            is_looking: false,
            last: now,
            next: None,
            looks: 0,
            concurrent: None,
            accepted: BTreeMap::new(),
        })
    }

    /// Begins to watch, or ends it. Looks again where the sockets were taken out of the set.
    pub fn follow(&mut self, wanted: bool, now: Instant) {
        let was_watching = std::mem::replace(&mut self.is_watching, wanted);
        if !wanted {
            self.let_go();
            self.next = None;
            self.accepted.clear();
        } else if !was_watching || self.next.is_none() && !self.is_looking && self.sockets.is_empty() {
            self.wake(now);
        }
    }

    /// Takes the sockets out of the set; see [`QueueWatch::let_go`](super::queue_watch::QueueWatch::let_go).
    pub fn let_go(&mut self) {
        for socket in self.sockets.drain(..) {
            let _ = self.set.remove(&socket);
        }
    }

    /// Puts the sockets into the set.
    fn arm(&mut self, sockets: &[Arc<OwnedFd>]) {
        self.let_go();
        if sockets.iter().all(|socket| self.set.add_once(socket, 0).is_ok()) {
            self.sockets = sockets.to_vec();
        } else {
            sockets.iter().for_each(|socket| drop(self.set.remove(socket)));
        }
    }

    /// A connection has come.
    pub fn connected(&mut self, now: Instant) {
        let _ = self.set.ready(&mut Vec::new(), EVENTS);
        self.let_go();
        if self.is_watching && self.next.is_none() {
            self.wake(now);
        }
    }

    fn wake(&mut self, now: Instant) {
        self.looks = 0;
        self.next = Some(now.max(self.last + PERIOD));
    }

    /// When [`Self::on_deadline`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| !self.is_looking)
    }

    /// Looks when it is time. `sockets`: those of all queues.
    pub fn on_deadline(
        &mut self,
        now: Instant,
        subjects: impl FnOnce() -> Vec<Subject>,
        sockets: impl FnOnce() -> Vec<Arc<OwnedFd>>,
    ) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        (self.last, self.next) = (now, Some(now + PERIOD));
        let subjects = subjects();
        let asked = self.looks.is_multiple_of(ASK_EVERY).then(sockets);
        if let Some(sockets) = &asked {
            self.arm(sockets);
        }
        self.looks = self.looks.saturating_add(1);
        let results = self.results.clone();
        let run = move || drop(results.send(TaskResult::Hangs(look(&subjects, asked.as_deref()))));
        self.is_looking = thread::spawn(THREAD, run).is_ok();
    }

    /// A look has ended. Returns what it has shown of each worker; nothing if no worker is watched any more.
    pub fn seen(&mut self, look: Look) -> Vec<Sighting> {
        self.is_looking = false;
        if !self.is_watching {
            return Vec::new();
        }
        self.next = Some(self.last + PERIOD.max(look.cost * MULTIPLE));
        let is_calm = look.workers.iter().all(|seen| !seen.is_avoided && !seen.is_stopped && seen.queue.last() == Some(&0));
        let is_open = match look.open {
            Some(Some(open)) => open > 0,
            Some(None) => self.looks < UNKNOWN_LOOKS,
            None => true,
        };
        // A connection that has come since the sockets were put into the set has taken them out again.
        if is_calm && !is_open && !self.sockets.is_empty() {
            self.next = None;
        } else {
            self.let_go();
        }
        if let Some(several) = look.workers.iter().find(|seen| seen.work.is_some_and(|work| work.requests > 1)) {
            self.concurrent = Some(several.generation);
        }
        let lives = |worker: &WorkerId| look.workers.iter().any(|seen| seen.worker == *worker);
        self.accepted.retain(|worker, _| lives(worker));
        look.workers.into_iter().map(|seen| self.sighting(seen)).collect()
    }

    fn sighting(&mut self, seen: Seen) -> Sighting {
        let accepted = seen.work.map_or(0, |work| work.connections);
        let before = self.accepted.entry(seen.worker).or_insert(accepted);
        if !seen.is_avoided {
            *before = accepted;
        }
        let one_at_once = self.concurrent != Some(seen.generation);
        Sighting {
            worker: seen.worker,
            is_stopped: seen.is_stopped,
            oldest_request: seen.work.and_then(|work| work.oldest).filter(|_| one_at_once),
            has_accepted: accepted > *before,
            queue: seen.queue,
        }
    }
}

/// Looks. `asked`: the sockets whose open connections are asked for. Blocks, for a moment if connections wait.
fn look(subjects: &[Subject], asked: Option<&[Arc<OwnedFd>]>) -> Look {
    let begun = Clocks.spent();
    let mut workers: Vec<Seen> = Vec::with_capacity(subjects.len());
    for Subject { worker, generation, pid, scoreboard, sockets, is_avoided } in subjects {
        workers.push(Seen {
            worker: *worker,
            generation: *generation,
            is_avoided: *is_avoided,
            is_stopped: kernel::is_stopped(*pid),
            work: scoreboard.as_ref().and_then(|page| page.work()),
            queue: vec![waiting(sockets)],
        });
    }
    let waits = |seen: &Seen| seen.queue.iter().all(|waiting| *waiting > 0);
    for _ in 1..READS {
        if !workers.iter().any(waits) {
            break;
        }
        std::thread::sleep(READ_AGAIN);
        for (seen, subject) in workers.iter_mut().zip(subjects) {
            seen.queue.push(waiting(&subject.sockets));
        }
    }
    let open = asked.map(kernel::open_connections);
    Look { workers, open, cost: Clocks.spent().saturating_sub(begun) }
}

/// The connections that wait on these sockets.
fn waiting(sockets: &[Arc<OwnedFd>]) -> u32 {
    sockets.iter().map(|socket| reuseport::accept_queue(socket).map_or(0, |(waiting, _)| waiting)).fold(0, u32::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    fn result(results: &mut UnboundedReceiver<TaskResult>) -> Look {
        let until = Instant::now() + WAIT;
        loop {
            match results.try_recv() {
                Ok(TaskResult::Hangs(look)) => return look,
                _ if Instant::now() < until => std::thread::yield_now(),
                _ => panic!("no look within {WAIT:?}"),
            }
        }
    }

    fn is_told(poll: &Poll) -> bool {
        let mut tokens = Vec::new();
        poll.ready(&mut tokens, 8).expect("asked") > 0
    }

    fn seen(worker: WorkerId, work: Option<Work>, is_avoided: bool) -> Seen {
        Seen { worker, generation: 1, is_avoided, is_stopped: false, work, queue: vec![0] }
    }

    fn work(requests: u64, connections: u64) -> Option<Work> {
        Some(Work { requests, oldest: Some(Duration::from_secs(99)), connections })
    }

    fn look_of(workers: Vec<Seen>) -> Look {
        Look { workers, open: None, cost: Duration::ZERO }
    }

    #[test]
    fn watch_sleeps_without_a_connection_and_wakes_for_one() {
        let (poll, (sender, mut results)) = (Poll::new().expect("a set"), unbounded_channel());
        let start = Instant::now();
        let mut watch = HangWatch::new(&poll, sender, start).expect("a watch");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        let socket: Arc<OwnedFd> = Arc::new(listener.try_clone().expect("a copy").into());
        let sockets = || vec![socket.clone()];
        let subjects = || {
            let (pid, sockets) = (std::process::id(), vec![socket.clone()]);
            vec![Subject { worker: 7, generation: 1, pid, scoreboard: None, sockets, is_avoided: false }]
        };
        watch.follow(false, start);
        assert_eq!(watch.deadline(), None);
        watch.follow(true, start);
        let first = watch.deadline().expect("a first look");
        watch.on_deadline(first, subjects, sockets);
        assert_eq!(watch.deadline(), None, "one look at a time");
        let shown = watch.seen(result(&mut results));
        assert_eq!(shown, [Sighting { worker: 7, queue: vec![0], ..Sighting::default() }]);
        assert_eq!(watch.deadline(), None, "a tick although no connection is open");
        watch.follow(true, first);
        assert!(watch.deadline().is_none() && !is_told(&poll));
        let client = TcpStream::connect(address).expect("a connection");
        assert!(is_told(&poll));
        watch.connected(first);
        assert!(!is_told(&poll), "the loop would spin");
        let second = watch.deadline().expect("a look");
        watch.on_deadline(second, subjects, sockets);
        let shown = watch.seen(result(&mut results));
        assert_eq!(shown[0].queue, [1; READS], "a queue in which a connection waits is read again");
        assert!(watch.deadline() >= Some(second + PERIOD));
        drop((listener.accept().expect("the connection"), client));
        // A connection that comes while the kernel is asked, and goes, is not missed.
        watch.looks = 0;
        let third = watch.deadline().expect("a look");
        watch.on_deadline(third, subjects, sockets);
        let client = TcpStream::connect(address).expect("a connection");
        assert!(is_told(&poll));
        watch.connected(third);
        drop((listener.accept().expect("the connection"), client));
        result(&mut results);
        watch.seen(Look { open: Some(Some(0)), ..look_of(vec![seen(7, None, false)]) });
        assert!(watch.deadline().is_some());
        // While workers start, nothing is in the set, and the watch looks again afterwards.
        watch.arm(&sockets());
        watch.next = None;
        watch.let_go();
        let _client = TcpStream::connect(address).expect("a connection");
        assert!(!is_told(&poll));
        watch.follow(true, third);
        assert!(watch.deadline().is_some());
        watch.follow(false, third);
        assert_eq!((watch.deadline(), watch.seen(look_of(vec![seen(7, None, false)])).len()), (None, 0));
    }

    #[test]
    fn watch_looks_on_while_connections_are_open_or_a_worker_is_avoided() {
        let poll = Poll::new().expect("a set");
        let mut watch = HangWatch::new(&poll, unbounded_channel().0, Instant::now()).expect("a watch");
        watch.is_watching = true;
        let listener: OwnedFd = TcpListener::bind("127.0.0.1:0").expect("a socket").into();
        let socket = [Arc::new(listener)];
        for (open, is_avoided, wanted) in [
            (Some(Some(0)), false, false),
            (Some(Some(1)), false, true),
            (None, false, true),
            (Some(None), false, true),
            (Some(Some(0)), true, true),
        ] {
            watch.arm(&socket);
            watch.seen(Look { open, ..look_of(vec![seen(1, None, is_avoided)]) });
            assert_eq!(watch.deadline().is_some(), wanted, "{open:?} {is_avoided}");
        }
        watch.looks = UNKNOWN_LOOKS;
        watch.arm(&socket);
        watch.seen(Look { open: Some(None), ..look_of(vec![seen(1, None, false)]) });
        assert_eq!(watch.deadline(), None);
        watch.seen(Look { cost: Duration::from_secs(1), ..look_of(vec![seen(1, None, false)]) });
        assert_eq!(watch.deadline(), Some(watch.last + Duration::from_secs(20)));
    }

    #[test]
    fn old_request_counts_where_workers_have_one_at_once() {
        let poll = Poll::new().expect("a set");
        let mut watch = HangWatch::new(&poll, unbounded_channel().0, Instant::now()).expect("a watch");
        watch.is_watching = true;
        let mut oldest = |work| watch.seen(look_of(vec![seen(1, work, false)]))[0].oldest_request;
        assert_eq!((oldest(work(1, 5)), oldest(None)), (Some(Duration::from_secs(99)), None));
        assert_eq!((oldest(work(2, 6)), oldest(work(1, 6))), (None, None));
    }

    #[test]
    fn worker_has_accepted_if_it_counts_more_than_before_it_was_avoided() {
        let poll = Poll::new().expect("a set");
        let mut watch = HangWatch::new(&poll, unbounded_channel().0, Instant::now()).expect("a watch");
        watch.is_watching = true;
        let mut has_accepted =
            |connections, is_avoided| watch.seen(look_of(vec![seen(1, work(1, connections), is_avoided)]))[0].has_accepted;
        assert!(!has_accepted(5, false) && !has_accepted(6, false) && !has_accepted(6, true));
        assert!(has_accepted(7, true) && has_accepted(7, true) && !has_accepted(7, false) && !has_accepted(7, true));
    }
}
