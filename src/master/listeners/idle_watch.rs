//! Watches for connections where `worker.min` is 0: looks now and then whether the workers are used, and without workers waits for the
//! first connection.
//!
//! Law: an idle instance has no tick; epoll(7) reports the first connection or datagram. Figures that the kernel does not tell are never
//! taken for zero.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::master::event_queue::EventQueue;
use crate::master::listeners::sockets::Listener;
use crate::master::task_result::{TaskResult, TaskResults};
use crate::master::workers::processes::Token;
use crate::pool::{Event, Pool, WorkerId};
use crate::status::kernel;
use crate::sys::poll::Poll;
use crate::sys::thread;

/// The name of the thread that looks.
const THREAD: &str = "ratoon-idle";
/// The time after which sockets that epoll(7) did not take are added again.
const RETRY: Duration = Duration::from_secs(1);
/// Where the kernel does not list connections, workers are in use if they take more than this share of one CPU, as 1 of N.
const BUSY_SHARE: u128 = 200;

/// The event that an instance whose `worker.min` is 0 waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::master) enum IdleStage {
    /// None: `worker.min` is not 0, or something is under way.
    Off,
    /// The end of the use of the workers, with this time between two looks.
    Activity(Duration),
    /// The first connection.
    FirstConnection,
}

impl IdleStage {
    /// The stage of this pool.
    pub fn of(pool: &Pool) -> IdleStage {
        match pool.look_period() {
            Some(period) => IdleStage::Activity(period),
            None if pool.wants_no_workers() => IdleStage::FirstConnection,
            None => IdleStage::Off,
        }
    }
}

/// A worker, and the connections and requests that it has counted.
pub(in crate::master) struct Counted {
    pub subject: kernel::Subject,
    pub counts: (u64, u64),
}

/// The watch for connections.
pub(in crate::master) struct IdleWatch {
    poll: Arc<Poll>,
    results: TaskResults,
    stage: IdleStage,
    /// The sockets in the epoll set, each reported once until it is armed again.
    sockets: Vec<Arc<OwnedFd>>,
    /// A connection was seen to come in since the last look.
    has_come: bool,
    /// The counts of each worker at the last look.
    counts: BTreeMap<WorkerId, (u64, u64)>,
    /// The CPU time of the workers at an earlier look.
    cpu: Option<(Instant, u64)>,
    is_looking: bool,
    next: Option<Instant>,
}

impl IdleWatch {
    /// A watch that watches nothing.
    pub fn new(poll: Arc<Poll>, results: TaskResults) -> IdleWatch {
        IdleWatch {
            poll,
            results,
            stage: IdleStage::Off,
            sockets: Vec::new(),
            has_come: false,
            counts: BTreeMap::new(),
            cpu: None,
            is_looking: false,
            next: None,
        }
    }

    /// Watches what the stage needs from now on. `listeners`: each with the sockets of all its queues.
    pub fn follow(&mut self, stage: IdleStage, listeners: impl FnOnce() -> Vec<(Listener, Vec<Arc<OwnedFd>>)>, now: Instant) {
        if stage == self.stage && (stage == IdleStage::Off || !self.sockets.is_empty()) {
            return;
        }
        self.let_go();
        if stage != self.stage {
            self.stage = stage;
            self.has_come = false;
            self.next = match stage {
                IdleStage::Activity(period) => Some(now + period),
                IdleStage::Off | IdleStage::FirstConnection => None,
            };
        }
        if stage == IdleStage::Off {
            (self.counts, self.cpu) = (BTreeMap::new(), None);
            return;
        }
        let sockets: Vec<_> = listeners().into_iter().flat_map(|(_, sockets)| sockets).collect();
        if sockets.iter().all(|socket| self.poll.add_once(socket, Token::Idle.to_u64()).is_ok()) {
            self.sockets = sockets;
            return;
        }
        sockets.iter().for_each(|socket| drop(self.poll.remove(socket)));
        self.next = Some(self.next.unwrap_or(now + RETRY).min(now + RETRY));
    }

    /// Takes the sockets out of epoll until [`Self::follow`] is called; see
    /// [`QueueWatch::let_go`](super::queue_watch::QueueWatch::let_go).
    pub fn let_go(&mut self) {
        for socket in self.sockets.drain(..) {
            let _ = self.poll.remove(&socket);
        }
    }

    /// A connection, or a datagram, waits.
    pub fn connected(&mut self, events: &mut EventQueue) {
        match self.stage {
            IdleStage::Off => {}
            IdleStage::Activity(_) => self.has_come = true,
            IdleStage::FirstConnection => events.push(Event::Connected),
        }
    }

    /// When [`Self::on_deadline`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| !self.is_looking)
    }

    /// Looks when it is time. `workers`: the ready workers of the present generation.
    pub fn on_deadline(&mut self, now: Instant, workers: impl FnOnce() -> Vec<Counted>, events: &mut EventQueue) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let IdleStage::Activity(period) = self.stage else {
            self.next = None;
            return;
        };
        self.next = Some(now + period);
        // Without its sockets in the epoll set the watch misses connections that come and go between two looks.
        let mut active = std::mem::take(&mut self.has_come) || self.sockets.is_empty();
        for socket in &self.sockets {
            active |= self.poll.rearm(socket, Token::Idle.to_u64()).is_err();
        }
        let workers = workers();
        active |= self.have_counted(&workers);
        if !active {
            let (sockets, results) = (self.sockets.clone(), self.results.clone());
            let subjects = workers.into_iter().map(|worker| worker.subject).collect();
            let run = move || drop(results.send(look(&sockets, subjects)));
            self.is_looking = thread::spawn(THREAD, run).is_ok();
        }
        if !self.is_looking {
            events.push(Event::Looked { active: true });
        }
    }

    /// Whether a worker has counted something since the last look.
    fn have_counted(&mut self, workers: &[Counted]) -> bool {
        let counts: BTreeMap<WorkerId, (u64, u64)> = workers.iter().map(|worker| (worker.subject.0, worker.counts)).collect();
        let before = std::mem::replace(&mut self.counts, counts);
        self.counts.iter().any(|(worker, counts)| before.get(worker).copied().unwrap_or_default() != *counts)
    }

    /// A look has ended; see [`TaskResult::Activity`].
    pub fn seen(&mut self, open: Option<u64>, cpu: Option<u64>, now: Instant, events: &mut EventQueue) {
        self.is_looking = false;
        if let IdleStage::Activity(_) = self.stage {
            let active = self.has_come || open.map_or_else(|| self.are_busy(cpu, now), |open| open > 0);
            events.push(Event::Looked { active });
        }
    }

    /// Whether the workers have used more CPU time since an earlier look than they do without a connection.
    fn are_busy(&mut self, cpu: Option<u64>, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.cpu, cpu.map(|cpu| (now, cpu)));
        let (Some(cpu), Some((since, earlier))) = (cpu, before) else { return true };
        u128::from(cpu.saturating_sub(earlier)) * BUSY_SHARE > (now - since).as_micros()
    }
}

/// Looks. Blocks for a dump of the kernel's.
fn look(sockets: &[Arc<OwnedFd>], workers: Vec<kernel::Subject>) -> TaskResult {
    let open = kernel::open_connections(sockets);
    if open.is_some() {
        return TaskResult::Activity { open, cpu: None };
    }
    let survey = kernel::survey(&workers, &[] as &[OwnedFd]);
    let cpu = workers.iter().map(|(worker, ..)| survey.worker(*worker).and_then(|figures| figures.cpu_usec)).sum();
    TaskResult::Activity { open, cpu }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    const PERIOD: Duration = Duration::from_secs(150);
    const WAIT: Duration = Duration::from_secs(30);

    fn shown(socket: impl Into<OwnedFd>) -> Vec<(Listener, Vec<Arc<OwnedFd>>)> {
        let listener = Listener::of("web".to_owned(), socket.into(), false);
        let own = vec![listener.fd.clone()];
        vec![(listener, own)]
    }

    struct Bench {
        poll: Arc<Poll>,
        watch: IdleWatch,
        results: UnboundedReceiver<TaskResult>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            let (poll, (sender, results)) = (Arc::new(Poll::new().expect("a set")), unbounded_channel());
            Bench { watch: IdleWatch::new(poll.clone(), sender), poll, results, now: Instant::now() }
        }

        /// Whether epoll reports a socket.
        fn is_told(&self) -> bool {
            let mut tokens = Vec::new();
            self.poll.ready(&mut tokens, 8).expect("asked") > 0
        }

        /// The result of the next look, with these counts of worker 1.
        fn look(&mut self, counts: (u64, u64)) -> bool {
            let mut events = EventQueue::default();
            self.now += PERIOD;
            assert_eq!(self.watch.deadline(), Some(self.now));
            let worker = || vec![Counted { subject: (1, std::process::id(), None), counts }];
            self.watch.on_deadline(self.now, worker, &mut events);
            let until = Instant::now() + WAIT;
            loop {
                match events.pop() {
                    Some(Event::Looked { active }) => return active,
                    Some(other) => panic!("{other:?}"),
                    None => {}
                }
                if let Ok(TaskResult::Activity { open, cpu }) = self.results.try_recv() {
                    self.watch.seen(open, cpu, self.now, &mut events);
                }
                assert!(Instant::now() < until, "no look within {WAIT:?}");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn look_sees_counts_open_connections_and_those_that_came() {
        let mut bench = Bench::new();
        let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = socket.local_addr().expect("an address");
        let shared = shown(socket.try_clone().expect("a descriptor"));
        assert_eq!(bench.watch.deadline(), None);
        bench.watch.follow(IdleStage::Activity(PERIOD), || shared.clone(), bench.now);
        assert!(bench.look((3, 0)), "a worker that had counted before the watch began");
        assert!(!bench.look((3, 0)) && bench.look((3, 1)) && !bench.look((3, 1)));
        let mut client = TcpStream::connect(address).expect("a connection");
        let mut served = socket.accept().expect("a connection").0;
        assert!(bench.look((3, 1)), "an open connection");
        served.write_all(b"x").expect("written");
        drop(served);
        assert_eq!(client.read(&mut [0; 2]).expect("read"), 1);
        drop(client);
        assert!(!bench.look((3, 1)), "nothing is open");
        // A connection that is gone before the next look was reported when it came.
        let client = TcpStream::connect(address).expect("a connection");
        assert!(bench.is_told() && !bench.is_told());
        bench.watch.connected(&mut EventQueue::default());
        drop((socket.accept().expect("a connection"), client));
        assert!(bench.look((3, 1)) && !bench.look((3, 1)));
        // While workers are started nothing is in the set; afterwards everything is again.
        bench.watch.let_go();
        let _client = TcpStream::connect(address).expect("a connection");
        assert!(!bench.is_told());
        bench.watch.follow(IdleStage::Activity(PERIOD), || shared.clone(), bench.now);
        assert!(bench.is_told());
        bench.watch.follow(IdleStage::Off, Vec::new, bench.now);
        assert!(!bench.is_told() && bench.watch.deadline().is_none());
    }

    #[test]
    fn first_connection_or_datagram_is_told_without_a_tick() {
        let mut bench = Bench::new();
        let (stream, datagram) = (TcpListener::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
        let (stream, datagram) = (stream.expect("a socket"), datagram.expect("a socket"));
        let to = datagram.local_addr().expect("an address");
        let sockets = [shown(stream), shown(datagram)].concat();
        bench.watch.follow(IdleStage::FirstConnection, || sockets.clone(), bench.now);
        assert!(bench.watch.deadline().is_none() && !bench.is_told());
        UdpSocket::bind("127.0.0.1:0").expect("a socket").send_to(b"x", to).expect("sent");
        let mut events = EventQueue::default();
        assert!(bench.is_told() && !bench.is_told());
        bench.watch.connected(&mut events);
        assert_eq!(events.pop(), Some(Event::Connected));
        // A datagram that waits since before the watch began is told, too.
        bench.watch.follow(IdleStage::Off, Vec::new, bench.now);
        bench.watch.follow(IdleStage::FirstConnection, || sockets.clone(), bench.now);
        assert!(bench.is_told());
    }

    #[test]
    fn without_a_list_of_connections_cpu_time_decides() {
        let mut watch = Bench::new().watch;
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(watch.are_busy(Some(5_000_000), start), "nothing to compare with");
        assert!(!watch.are_busy(Some(5_400_000), after(100)) && watch.are_busy(Some(6_000_000), after(200)));
        assert!(watch.are_busy(None, after(300)) && watch.are_busy(Some(6_000_000), after(400)));
        assert!(!watch.are_busy(Some(0), after(500)), "another worker");
    }
}
