//! Observes from outside whether starting workers accept connections, as the kernel shows it.
//!
//! Reading `/proc` may block, so a thread does it; the thread exists while a worker is watched. The thread observes a worker when it has
//! sent READY=1, and otherwise after growing pauses. A pause is at least ten times the CPU time of the last round, so the thread takes at
//! most a tenth of a CPU, and looks as often on a busy machine.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::master::event_queue::EventQueue;
use crate::master::workers::WorkerSet;
use crate::pool::{Accepting, Event, WorkerId};
use crate::status::kernel::Subject;
use crate::status::kernel::accepting::{Evidence, Observation, observe};

/// The pause after the first observation. The pause doubles with each observation.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause for a worker that has said nothing.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause for a worker that says that it is ready. It may accept for a moment at a time only, as a shell script does that has
/// a process for each connection.
const LONGEST_PAUSE_AFTER_READY: Duration = Duration::from_millis(20);
/// The pause after a round is at least the CPU time of the round times this factor.
const SHARE: u32 = 10;
/// After this number of consecutive observations that ran out of time, everything that they did not reach counts as hidden.
const CUT_SHORT_MAX: u32 = 20;
/// The stack size of the thread, bytes. The thread reads files of /proc into the heap.
const STACK: usize = 2 << 20;

/// The evidence that a worker is ready, as in the status document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The worker sent READY=1, and was not observed.
    Said,
    /// The worker was seen accepting.
    Seen(Evidence),
    /// The kernel did not show whether the worker accepts.
    Unseen,
}

impl Known {
    /// The word in the status document.
    pub fn as_str(self) -> &'static str {
        match self {
            Known::Said => "said",
            Known::Seen(evidence) => evidence.as_str(),
            Known::Unseen => "unseen",
        }
    }
}

/// The result of an observation for the pool, and for the status document.
pub fn judge(observation: &Observation) -> (Accepting, Option<Known>) {
    let bit = |at: usize| 1 << at.min(31);
    let accepted = observation.sockets.iter().enumerate().filter(|(_, evidence)| evidence.is_some());
    let sockets = accepted.fold(0, |sockets, (at, _)| sockets | bit(at));
    let known = observation.best().map(Known::Seen).or(observation.hidden.then_some(Known::Unseen));
    (Accepting { sockets, hidden: observation.hidden }, known)
}

enum Order {
    Watch(Subject, Vec<Arc<OwnedFd>>),
    LookNow(WorkerId),
    Forget(WorkerId),
}

/// Watches starting workers, and reports each changed observation.
pub struct ReadinessWatch {
    thread: Option<Sender<Order>>,
    tell: Arc<dyn Fn(WorkerId, Observation) + Send + Sync>,
    watched: HashMap<WorkerId, u32>,
}

impl ReadinessWatch {
    /// `tell` is called on the thread.
    pub fn new(tell: impl Fn(WorkerId, Observation) + Send + Sync + 'static) -> Self {
        ReadinessWatch { thread: None, tell: Arc::new(tell), watched: HashMap::new() }
    }

    /// Observes a worker until [`Self::forget`]. A worker with a new main process is watched anew.
    ///
    /// # Errors
    /// The thread cannot be started, so the worker cannot be observed.
    pub fn watch(&mut self, subject: Subject, listeners: Vec<Arc<OwnedFd>>) -> std::io::Result<()> {
        let (worker, pid) = (subject.0, subject.1);
        if self.watched.insert(worker, pid) == Some(pid) {
            return Ok(());
        }
        self.send(Order::Watch(subject, listeners))
    }

    /// Observes a watched worker at once: call it after a notification that makes a change likely.
    pub fn look_now(&mut self, worker: WorkerId) {
        if self.watched.contains_key(&worker) {
            let _ = self.send(Order::LookNow(worker));
        }
    }

    /// Stops watching a worker. The thread ends with the last watched worker.
    pub fn forget(&mut self, worker: WorkerId) {
        if self.watched.remove(&worker).is_none() {
            return;
        }
        let _ = self.send(Order::Forget(worker));
        if self.watched.is_empty() {
            self.thread = None;
            self.watched.shrink_to_fit();
        }
    }

    fn send(&mut self, order: Order) -> std::io::Result<()> {
        let order = match &self.thread {
            None => order,
            Some(thread) => match thread.send(order) {
                Ok(()) => return Ok(()),
                Err(std::sync::mpsc::SendError(order)) => order,
            },
        };
        let (send, orders) = channel();
        let tell = self.tell.clone();
        let run = move || Watcher { orders, tell, workers: HashMap::new() }.run();
        std::thread::Builder::new().name("readiness".to_owned()).stack_size(STACK).spawn(run)?;
        let _ = send.send(order);
        self.thread = Some(send);
        Ok(())
    }
}

/// The state of the thread.
struct Watcher {
    orders: Receiver<Order>,
    tell: Arc<dyn Fn(WorkerId, Observation) + Send + Sync>,
    workers: HashMap<WorkerId, Watched>,
}

struct Watched {
    subject: Subject,
    listeners: Vec<Arc<OwnedFd>>,
    next: Instant,
    pause: Duration,
    longest_pause: Duration,
    last: Option<Observation>,
    /// The number of consecutive observations that ran out of time.
    cut_short: u32,
}

impl Watched {
    fn new(subject: Subject, listeners: Vec<Arc<OwnedFd>>) -> Watched {
        let (pause, longest_pause) = (FIRST_PAUSE, LONGEST_PAUSE);
        Watched { subject, listeners, next: Instant::now(), pause, longest_pause, last: None, cut_short: 0 }
    }

    /// The observation to report: `None` if it equals the last one. An observation that ran out of time and saw no evidence is not
    /// reported before [`CUT_SHORT_MAX`] of them in a row.
    fn news(&mut self, mut seen: Observation) -> Option<Observation> {
        self.cut_short = if seen.cut_short { self.cut_short + 1 } else { 0 };
        if seen.cut_short && self.cut_short < CUT_SHORT_MAX && seen.best().is_none() {
            return None;
        }
        seen.hidden |= std::mem::take(&mut seen.cut_short) && self.cut_short >= CUT_SHORT_MAX;
        (self.last.as_ref() != Some(&seen)).then(|| self.last.insert(seen).clone())
    }
}

impl Watcher {
    /// Runs until the sender of orders is dropped.
    fn run(mut self) {
        loop {
            let next = self.workers.values().map(|watched| watched.next).min();
            let order = match next {
                None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.orders.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match order {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(order) = self.orders.try_recv() {
                self.take(order);
            }
            self.look();
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Watch(subject, listeners) => {
                self.workers.insert(subject.0, Watched::new(subject, listeners));
            }
            Order::LookNow(worker) => {
                if let Some(watched) = self.workers.get_mut(&worker) {
                    watched.next = Instant::now();
                    (watched.pause, watched.longest_pause) = (FIRST_PAUSE, LONGEST_PAUSE_AFTER_READY);
                }
            }
            Order::Forget(worker) => drop(self.workers.remove(&worker)),
        }
    }

    fn look(&mut self) {
        let (began, spent) = (Instant::now(), cpu_time());
        let mut looked_at = Vec::new();
        for (worker, watched) in &mut self.workers {
            if watched.next > began {
                continue;
            }
            if let Some(news) = watched.news(observe(&watched.subject, &watched.listeners)) {
                (self.tell)(*worker, news);
            }
            looked_at.push(*worker);
        }
        let (now, took) = (Instant::now(), cpu_time().saturating_sub(spent));
        for worker in looked_at {
            if let Some(watched) = self.workers.get_mut(&worker) {
                watched.next = now + watched.pause.max(took * SHARE);
                watched.pause = (watched.pause * 2).min(watched.longest_pause);
            }
        }
    }
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

impl WorkerSet {
    /// Watches whether a starting worker accepts on its sockets.
    pub(in crate::master) fn watch_readiness(
        &mut self,
        worker: WorkerId,
        sockets: Option<Vec<Arc<OwnedFd>>>,
        events: &mut EventQueue,
    ) {
        let Some(process) = self.processes.get(&worker) else { return };
        let group = process.group.as_ref().map(|group| group.path().to_owned());
        let sockets = sockets.unwrap_or_else(|| process.release.plan.listeners.clone());
        if let Err(error) = self.readiness.watch((worker, process.pid, group), sockets) {
            self.log.warn(format!("worker {worker}: whether it accepts cannot be looked at: {error}"));
            events.push(Event::Seen(worker, Accepting { sockets: 0, hidden: true }));
        }
    }

    /// Does not watch the worker any more.
    pub(in crate::master) fn forget_readiness(&mut self, worker: WorkerId) {
        self.readiness.forget(worker);
    }

    /// Handles a changed observation of a worker.
    pub(in crate::master) fn readiness_seen(&mut self, worker: WorkerId, observation: &Observation, events: &mut EventQueue) {
        let (accepting, known) = judge(observation);
        if let Some(process) = self.processes.get_mut(&worker) {
            process.readiness = known;
        }
        events.push(Event::Seen(worker, accepting));
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn listener() -> (TcpListener, Arc<OwnedFd>) {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let fd = Arc::new(socket.try_clone().expect("a copy").into());
        (socket, fd)
    }

    /// A process that begins to accept when its standard input ends.
    fn worker(socket: &TcpListener) -> std::process::Child {
        let code = "import socket, sys\nsys.stdin.read()\nsocket.socket(fileno=1).accept()";
        let mut command = Command::new("python3");
        let socket: OwnedFd = socket.try_clone().expect("a copy").into();
        command.args(["-c", code]).stdin(Stdio::piped()).stdout(Stdio::from(socket));
        command.spawn().expect("python3")
    }

    #[test]
    fn watch_tells_of_each_change_once() {
        let (socket, listener) = listener();
        let mut child = worker(&socket);
        let (send, told) = mpsc::channel();
        let mut watch = ReadinessWatch::new(move |worker, seen: Observation| {
            let _ = send.send((worker, seen.best()));
        });
        watch.watch((7, child.id(), None), vec![listener]).expect("a thread");
        assert_eq!(told.recv_timeout(DEADLINE), Ok((7, None)));
        drop(child.stdin.take());
        watch.look_now(7);
        assert_eq!(told.recv_timeout(DEADLINE), Ok((7, Some(Evidence::Accept))));
        watch.forget(7);
        // The channel is closed, so the thread has ended.
        drop(watch);
        assert_eq!(told.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    #[test]
    fn each_socket_has_a_bit_and_the_rest_share_the_last() {
        let mut sockets = vec![None; 70];
        sockets[0] = Some(Evidence::Accept);
        sockets[69] = Some(Evidence::Epoll);
        let (accepting, known) = judge(&Observation { sockets, ..Observation::default() });
        assert_eq!(accepting, Accepting { sockets: 1 | 1 << 31, hidden: false });
        assert_eq!(known, Some(Known::Seen(Evidence::Epoll)));
    }

    #[test]
    fn looks_that_run_out_of_time_are_repeated() {
        let subject = (1, std::process::id(), None);
        let mut watched = Watched::new(subject, Vec::new());
        let none = Observation { sockets: vec![None], ..Observation::default() };
        let cut_short = || Observation { cut_short: true, ..none.clone() };
        assert!((1..CUT_SHORT_MAX).all(|_| watched.news(cut_short()).is_none()));
        assert_eq!(watched.news(cut_short()), Some(Observation { hidden: true, ..none.clone() }), "never seen as a whole");
        assert_eq!(watched.news(none.clone()), Some(none.clone()), "a whole look is told, and ends the count");
        assert_eq!(watched.news(cut_short()), None);
        let accepts = Observation { sockets: vec![Some(Evidence::Epoll)], cut_short: true, hidden: false };
        assert_eq!(watched.news(accepts).and_then(|seen| seen.best()), Some(Evidence::Epoll), "what was seen is true");
    }

    #[test]
    fn worker_that_says_that_it_is_ready_is_looked_at_often() {
        let (_send, orders) = channel();
        let mut watcher = Watcher { orders, tell: Arc::new(|_, _| ()), workers: HashMap::new() };
        watcher.take(Order::Watch((7, std::process::id(), None), Vec::new()));
        let mut pause_after_many = |order: Option<Order>| {
            order.into_iter().for_each(|order| watcher.take(order));
            for _ in 0..10 {
                watcher.workers.values_mut().for_each(|watched| watched.next = Instant::now());
                watcher.look();
            }
            watcher.workers[&7].pause
        };
        assert_eq!(pause_after_many(None), LONGEST_PAUSE);
        assert_eq!(pause_after_many(Some(Order::LookNow(7))), LONGEST_PAUSE_AFTER_READY);
    }

    #[test]
    fn what_is_hidden_is_unseen() {
        assert_eq!(judge(&Observation { sockets: vec![None], hidden: true, cut_short: false }).1, Some(Known::Unseen));
        assert_eq!(judge(&Observation { sockets: vec![None], ..Observation::default() }).1, None);
    }
}
