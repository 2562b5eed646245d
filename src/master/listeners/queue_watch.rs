//! Watches the accept queues while no worker serves them, as in a paused instance: how many connections wait, and for how many there is
//! room.
//!
//! Law: while the queues are empty the loop sleeps without a tick, because epoll(7) reports the first connection, and that only once.
//! While connections wait, the queues are looked at once a second, on another thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::master::listeners::sockets::Listener;
use crate::master::status::waiting::Waiting;
use crate::master::task_result::{TaskResult, TaskResults};
use crate::master::workers::processes::Token;
use crate::status::kernel::{self, Queue};
use crate::sys::poll::Poll;
use crate::sys::thread;

/// The time between two looks while connections wait.
const PERIOD: Duration = Duration::from_secs(1);
/// The name of the thread that looks.
const THREAD: &str = "ratoon-queues";

/// A listening socket, with its address.
type Watched = (String, Arc<OwnedFd>);

/// The watch of the accept queues.
pub(in crate::master) struct QueueWatch {
    poll: Arc<Poll>,
    results: TaskResults,
    /// The sockets; empty while nothing is watched.
    sockets: Vec<Watched>,
    is_watching: bool,
    is_looking: bool,
    /// Connections waited at the last look.
    is_filled: bool,
    /// When the queues are looked at next, or epoll is asked again.
    next: Option<Instant>,
}

impl QueueWatch {
    /// A watch that watches nothing.
    pub fn new(poll: Arc<Poll>, results: TaskResults) -> QueueWatch {
        let (is_watching, is_looking, is_filled) = (false, false, false);
        QueueWatch { poll, results, sockets: Vec::new(), is_watching, is_looking, is_filled, next: None }
    }

    /// Begins to watch the queues, or ends it; takes in sockets that were made meanwhile. `listeners`: each with the sockets of all its
    /// queues. Returns whether the watch has ended.
    pub fn follow(&mut self, wanted: bool, listeners: impl FnOnce() -> Vec<(Listener, Vec<Arc<OwnedFd>>)>, now: Instant) -> bool {
        let was_watching = std::mem::replace(&mut self.is_watching, wanted);
        let sockets = if wanted { with_queues(listeners()) } else { Vec::new() };
        if was_watching && wanted && sockets.len() == self.sockets.len() {
            return false;
        }
        for (_, socket) in std::mem::replace(&mut self.sockets, sockets) {
            let _ = self.poll.remove(&socket);
        }
        self.next = None;
        for (_, socket) in &self.sockets {
            let _ = self.poll.add_once(socket, Token::Queues.to_u64());
        }
        self.look(now);
        was_watching && !wanted
    }

    /// Takes the sockets out of epoll until [`Self::follow`] is called. A process has the master's epoll set from its clone until it has
    /// executed its program, and would be seen to wait for connections by it.
    pub fn let_go(&mut self) {
        for (_, socket) in self.sockets.drain(..) {
            let _ = self.poll.remove(&socket);
        }
    }

    /// When [`Self::on_deadline`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| !self.is_looking)
    }

    /// Looks at the queues when it is time, or lets epoll tell when the first connection waits.
    pub fn on_deadline(&mut self, now: Instant) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        if self.is_filled {
            return self.look(now);
        }
        self.next = None;
        for (_, socket) in &self.sockets {
            if self.poll.rearm(socket, Token::Queues.to_u64()).is_err() {
                self.next = Some(now + PERIOD);
            }
        }
    }

    /// A connection waits in a queue that was empty.
    pub fn connected(&mut self, now: Instant) {
        if self.is_watching && !self.is_looking {
            self.look(now);
        }
    }

    fn look(&mut self, now: Instant) {
        if self.sockets.is_empty() {
            return;
        }
        let sockets: Vec<Arc<OwnedFd>> = self.sockets.iter().map(|(_, socket)| socket.clone()).collect();
        let results = self.results.clone();
        let run = move || drop(results.send(TaskResult::Queues(kernel::queues(&sockets))));
        self.is_looking = thread::spawn(THREAD, run).is_ok();
        // The next look is never earlier: the kernel may refuse its dump, and then a look sees no connection where epoll told of one.
        self.next = Some(now + PERIOD);
    }

    /// A look has ended. Returns the connections that wait; `None` if the queues are not watched any more.
    pub fn seen(&mut self, queues: &[Option<Queue>], now: Instant) -> Option<Waiting> {
        self.is_looking = false;
        if !self.is_watching || queues.len() != self.sockets.len() {
            return None;
        }
        self.is_filled = queues.iter().flatten().any(|queue| queue.waiting > 0);
        self.next = Some(self.next.unwrap_or(now + PERIOD));
        Some(Waiting::of(self.sockets.iter().map(|(address, _)| address.as_str()).zip(queues.iter().copied())))
    }
}

/// The sockets of these listeners that have an accept queue; UDP sockets have none.
fn with_queues(listeners: Vec<(Listener, Vec<Arc<OwnedFd>>)>) -> Vec<Watched> {
    let each = |(listener, sockets): (Listener, Vec<Arc<OwnedFd>>)| {
        sockets.into_iter().map(move |socket| (listener.address.clone(), socket))
    };
    let has_queue = |(_, socket): &Watched| rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false);
    listeners.into_iter().flat_map(each).filter(has_queue).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    fn queues(results: &mut UnboundedReceiver<TaskResult>) -> Vec<Option<Queue>> {
        let until = Instant::now() + WAIT;
        loop {
            match results.try_recv() {
                Ok(TaskResult::Queues(queues)) => return queues,
                _ if Instant::now() < until => std::thread::yield_now(),
                _ => panic!("no look within {WAIT:?}"),
            }
        }
    }

    fn is_told(poll: &Poll) -> bool {
        let mut tokens = Vec::new();
        poll.ready(&mut tokens, 8).expect("asked") > 0
    }

    #[test]
    fn watch_sleeps_until_a_connection_waits_and_then_counts() {
        let (poll, (sender, mut results)) = (Arc::new(Poll::new().expect("a set")), unbounded_channel());
        let mut watch = QueueWatch::new(poll.clone(), sender);
        let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = socket.local_addr().expect("an address");
        let listener = Listener::of("web".to_owned(), socket.into(), false);
        let shown = || vec![(listener.clone(), vec![listener.fd.clone()])];
        let start = Instant::now();
        assert!(!watch.follow(false, shown, start) && watch.deadline().is_none());
        assert!(!watch.follow(true, shown, start) && !watch.follow(true, shown, start));
        let waiting = watch.seen(&queues(&mut results), start).expect("watched");
        assert!(waiting.text().starts_with("0 connections wait (room for "), "{waiting:?}");
        watch.on_deadline(start + PERIOD);
        assert_eq!(watch.deadline(), None, "a tick although nothing waits");
        let _client = TcpStream::connect(address).expect("a connection");
        assert!(is_told(&poll) && !is_told(&poll));
        watch.connected(start + PERIOD);
        let waiting = watch.seen(&queues(&mut results), start + PERIOD).expect("watched");
        assert!(waiting.text().starts_with("1 connection waits (room for "), "{waiting:?}");
        assert_eq!(watch.deadline(), Some(start + 2 * PERIOD));
        drop(listener.fd.try_clone().map(TcpListener::from).expect("a socket").accept().expect("the connection"));
        watch.on_deadline(start + 2 * PERIOD);
        watch.seen(&queues(&mut results), start + 2 * PERIOD).expect("watched");
        watch.on_deadline(start + 3 * PERIOD);
        assert_eq!((watch.deadline(), is_told(&poll)), (None, false));
        let more = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let more = Listener::of("more".to_owned(), more.into(), false);
        let shown = || vec![(listener.clone(), vec![listener.fd.clone()]), (more.clone(), vec![more.fd.clone()])];
        assert!(!watch.follow(true, shown, start));
        assert_eq!(queues(&mut results).len(), 2, "a socket that was made meanwhile");
        // While workers are started nothing is in the set; afterwards everything is again.
        watch.let_go();
        let client = TcpStream::connect(address).expect("a connection");
        assert!(!is_told(&poll) && !watch.follow(true, shown, start) && is_told(&poll));
        drop(client);
        assert!(watch.follow(false, shown, start) && watch.seen(&[None, None], start).is_none());
        let _client = TcpStream::connect(address).expect("a connection");
        assert!(!is_told(&poll));
    }
}
