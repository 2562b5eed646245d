//! The open connections: which of them another master can go on with, and those that one master has left to this one.
//!
//! Law: a connection changes masters between two requests, or in the middle of one that waits for the loop's answer and
//! of whose answer nothing is written. What is being written, or half read, cannot change masters and ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hyper::{Request, Version};
use tokio::sync::{oneshot, watch};

use super::wire::{ConnState, Stream};
use crate::api::{Reply, RequesterId};

/// The connections of one or more servers.
pub struct ConnectionRegistry {
    open: Mutex<Vec<Weak<Entry>>>,
    resumed: Mutex<Vec<Resumed>>,
    accepting: watch::Sender<bool>,
}

/// One connection.
pub(super) struct Entry {
    pub stream: Arc<Stream>,
    pub turn: Arc<ConnState>,
    remote: bool,
    /// What its request asks of the loop.
    asking: Mutex<Option<(RequesterId, String)>>,
}

/// A connection that another master can go on with.
#[derive(Debug)]
pub struct Carried {
    /// A copy of its socket, close-on-exec.
    pub stream: OwnedFd,
    /// It came by `status.listen`.
    pub remote: bool,
    /// Who waits on it for an answer, and the head of the request that it sent.
    pub request: Option<(RequesterId, String)>,
}

/// A connection that another master has left to this one.
#[derive(Debug)]
pub struct Resumed {
    /// Its socket.
    pub stream: OwnedFd,
    /// It came by `status.listen`.
    pub remote: bool,
    /// Who waits on it, the head of the request, and where the answer comes from.
    pub request: Option<(RequesterId, String, oneshot::Receiver<Reply>)>,
}

impl Default for ConnectionRegistry {
    fn default() -> Self {
        ConnectionRegistry { open: Mutex::default(), resumed: Mutex::default(), accepting: watch::Sender::new(true) }
    }
}

impl ConnectionRegistry {
    /// No new connections for a while, or again; they wait in the kernel's queue meanwhile.
    pub fn accept(&self, accept: bool) {
        self.accepting.send_replace(accept);
    }

    pub(super) fn accepting(&self) -> watch::Receiver<bool> {
        self.accepting.subscribe()
    }

    /// Connections whose answer is being made or written, but for those that wait for the loop: worth waiting for.
    /// Listeners to events do not count, for they never end.
    pub fn busy(&self) -> usize {
        self.entries()
            .filter(|entry| !entry.turn.endless() && entry.requester().is_none() && !entry.turn.between_requests())
            .count()
    }

    /// Who waits for an answer of the loop on a connection that another master can go on with.
    pub fn requesters(&self) -> Vec<RequesterId> {
        self.entries().filter_map(|entry| entry.requester()).collect()
    }

    /// Copies of all that another master can go on with.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn carried(&self) -> io::Result<Vec<Carried>> {
        let mut carried = Vec::new();
        for entry in self.entries() {
            let request = entry.asking().clone();
            if request.is_some() || entry.turn.between_requests() {
                let stream = entry.stream.as_fd().try_clone_to_owned()?;
                carried.push(Carried { stream, remote: entry.remote, request });
            }
        }
        Ok(carried)
    }

    /// Leaves connections to whoever serves with this registry next.
    pub fn resume(&self, resumed: Vec<Resumed>) {
        lock(&self.resumed).extend(resumed);
    }

    /// Takes those for a server of this kind.
    pub(super) fn take_resumed(&self, remote: bool) -> Vec<Resumed> {
        lock(&self.resumed).extract_if(.., |resumed| resumed.remote == remote).collect()
    }

    pub(super) fn enter(&self, stream: Arc<Stream>, remote: bool) -> Arc<Entry> {
        let entry = Arc::new(Entry { stream, turn: Arc::default(), remote, asking: Mutex::default() });
        let mut open = lock(&self.open);
        open.retain(|entry| entry.strong_count() > 0);
        open.push(Arc::downgrade(&entry));
        entry
    }

    fn entries(&self) -> impl Iterator<Item = Arc<Entry>> {
        let open: Vec<_> = lock(&self.open).iter().filter_map(Weak::upgrade).collect();
        open.into_iter()
    }
}

impl Entry {
    fn asking(&self) -> MutexGuard<'_, Option<(RequesterId, String)>> {
        lock(&self.asking)
    }

    fn requester(&self) -> Option<RequesterId> {
        self.asking().as_ref().map(|(requester, _)| *requester)
    }

    /// The request waits for the loop until the guard is dropped.
    pub fn ask(&self, requester: RequesterId, head: String) -> Asking<'_> {
        *self.asking() = Some((requester, head));
        Asking(self)
    }
}

/// See [`Entry::ask`].
pub(super) struct Asking<'a>(&'a Entry);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        *self.0.asking() = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request's head as it must be sent to ask the same again: what the answer depends on, and nothing else.
pub(super) fn head_of<B>(request: &Request<B>) -> String {
    let closes = |name: &str| {
        let values = request.headers().get_all(hyper::header::CONNECTION);
        values.iter().any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains(name)))
    };
    let keeps = if request.version() == Version::HTTP_10 { closes("keep-alive") } else { !closes("close") };
    let connection = if keeps { "keep-alive" } else { "close" };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    format!("{} {target} HTTP/1.1\r\nhost: ratoon\r\nconnection: {connection}\r\n\r\n", request.method())
}

impl ConnState {
    /// Nothing of a request has been read that was not answered, and nothing of an answer is left to be written.
    fn between_requests(&self) -> bool {
        !self.serving.load(Ordering::Relaxed) && !self.half_read.load(Ordering::Relaxed) && !self.blocked.load(Ordering::Relaxed)
    }

    fn endless(&self) -> bool {
        self.endless.load(Ordering::Relaxed)
    }
}
