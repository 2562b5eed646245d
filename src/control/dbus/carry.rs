//! The connection that goes on in another program of the same process, with its names and with those who wait for answers.
//!
//! Law: a connection is carried when all is settled: between two messages, the names held, nothing asked of the bus that
//! it has not answered, and no caller owed an answer but by the loop. Else it is closed, and the next program makes
//! another.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use zbus::Connection;

use super::call::{self, Call};
use super::wire::BusSocket;
use super::{Service, Shared};
use crate::api::{Reply, RequesterId};
use crate::table::Table;

/// How long what is being answered is waited for.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long nothing is read meanwhile, and how often it is looked at then.
const QUIET: Duration = Duration::from_millis(200);
/// See [`QUIET`].
const LOOK: Duration = Duration::from_millis(1);

/// Somebody on the bus who waits for an answer of the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Under which number he waits.
    pub requester: RequesterId,
    /// His unique name on the bus.
    pub name: String,
    /// The serial of his call.
    pub serial: u32,
}

/// A connection for another program.
#[derive(Debug)]
pub struct Carried {
    /// A copy of its socket, close-on-exec.
    pub stream: OwnedFd,
    /// The bus's identity.
    pub guid: String,
    /// The workers that it was told of.
    pub workers: Vec<u64>,
    /// Who waits.
    pub callers: Vec<Caller>,
}

/// A connection that another program has left to this one.
#[derive(Debug)]
pub struct Resumed {
    /// Its socket.
    pub stream: OwnedFd,
    /// The bus's identity.
    pub guid: String,
    /// The workers that it was told of.
    pub workers: Vec<u64>,
    /// Who waits, and where the answer comes from.
    pub callers: Vec<(Caller, oneshot::Receiver<Reply>)>,
}

/// What has to be known of the connection to carry it.
#[derive(Default)]
pub(super) struct Ledger {
    open: Mutex<Option<(Connection, Arc<BusSocket>)>>,
    /// The names are held.
    named: AtomicBool,
    /// Calls that are being answered, but for those that wait for the loop.
    busy: watch::Sender<usize>,
    /// Calls of methods that were looked at.
    seen: AtomicU64,
    waiting: Mutex<BTreeMap<RequesterId, Caller>>,
    workers: Mutex<Table<u64, ()>>,
}

impl Ledger {
    /// Another connection is open; `None`: none is.
    pub fn open(&self, connection: Option<(Connection, Arc<BusSocket>)>) {
        self.named.store(false, Ordering::Relaxed);
        self.seen.store(0, Ordering::Relaxed);
        *lock(&self.open) = connection;
    }

    /// It has its names.
    pub fn named(&self) {
        self.named.store(true, Ordering::Relaxed);
    }

    /// A call was looked at.
    pub fn seen(&self) {
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    /// A call is being answered until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.busy.send_modify(|busy| *busy += 1);
        Busy(self.clone())
    }

    /// A call that is being answered waits for the loop until the guard is dropped.
    pub fn wait(&self, requester: RequesterId, call: &Call) -> Waits<'_> {
        let serial = call.message.primary_header().serial_num().get();
        lock(&self.waiting).insert(requester, Caller { requester, name: call.caller(), serial });
        self.busy.send_modify(|busy| *busy = busy.saturating_sub(1));
        Waits(self, requester)
    }

    /// These workers are known on the bus, and no others.
    pub fn told(&self, workers: impl Iterator<Item = u64>) {
        *lock(&self.workers) = workers.map(|id| (id, ())).collect();
    }

    /// This one is, too.
    pub fn added(&self, worker: u64) {
        lock(&self.workers).insert(worker, ());
    }

    /// This one is not any more.
    pub fn removed(&self, worker: u64) {
        lock(&self.workers).remove(&worker);
    }

    /// Everything is ready for messages on a resumed connection.
    pub fn resumed(&self) {
        if let Some((_, line)) = self.line() {
            line.hold(false);
        }
    }

    fn line(&self) -> Option<(Connection, Arc<BusSocket>)> {
        lock(&self.open).clone()
    }

    fn is_settled(&self, line: &BusSocket) -> bool {
        line.is_between()
            && *self.busy.borrow() == 0
            && line.calls() == self.seen.load(Ordering::Relaxed)
            && self.named.load(Ordering::Relaxed)
    }

    async fn settle(&self, connection: &Connection, line: &BusSocket) {
        loop {
            let _ = self.busy.subscribe().wait_for(|busy| *busy == 0).await;
            // The bus answers in order: with this answer all earlier ones are here.
            let _ = call::bus(connection, "GetId", &()).await;
            line.hold(true);
            line.at_rest().await;
            // What was read before is answered, unless it is the bus that has to answer first.
            let answered = async {
                while !self.is_settled(line) {
                    tokio::time::sleep(LOOK).await;
                }
            };
            if tokio::time::timeout(QUIET, answered).await.is_ok() {
                return;
            }
            line.hold(false);
            tokio::task::yield_now().await;
        }
    }
}

/// See [`Ledger::begin`].
pub(super) struct Busy(Arc<Ledger>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|busy| *busy = busy.saturating_sub(1));
    }
}

/// See [`Ledger::wait`].
pub(super) struct Waits<'a>(&'a Ledger, RequesterId);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        lock(&self.0.waiting).remove(&self.1);
        self.0.busy.send_modify(|busy| *busy += 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// Brings the connection to a moment at which another program can go on with it, and keeps it there; `false` when there
    /// is none, or that moment does not come. Whoever asks from then on waits in the socket.
    pub async fn rest(&self) -> bool {
        let ledger = &self.shared.ledger;
        let Some((connection, line)) = ledger.line() else { return false };
        if !ledger.named.load(Ordering::Relaxed) {
            return false;
        }
        let settled = tokio::time::timeout(TIMEOUT, ledger.settle(&connection, &line)).await.is_ok();
        if !settled {
            line.hold(false);
        }
        settled
    }

    /// No other program goes on with it.
    pub fn go_on(&self) {
        if let Some((_, line)) = self.shared.ledger.line() {
            line.hold(false);
        }
    }

    /// Who waits for an answer of the loop.
    pub fn requesters(&self) -> Vec<RequesterId> {
        lock(&self.shared.ledger.waiting).keys().copied().collect()
    }

    /// What another program needs to go on with the connection, after [`Self::rest`]; `None` when it cannot.
    pub fn carried(&self) -> Option<Carried> {
        let ledger = &self.shared.ledger;
        let (connection, line) = ledger.line().filter(|(_, line)| ledger.is_settled(line))?;
        Some(Carried {
            stream: line.copy().ok()?,
            guid: connection.server_guid().to_string(),
            workers: lock(&ledger.workers).keys().copied().collect(),
            callers: lock(&ledger.waiting).values().cloned().collect(),
        })
    }
}

impl Shared {
    /// A connection that another program has left.
    ///
    /// # Errors
    /// It is of no use.
    pub async fn resume(stream: OwnedFd, guid: &str) -> zbus::Result<(Connection, Arc<BusSocket>)> {
        let stream = std::os::unix::net::UnixStream::from(stream);
        stream.set_nonblocking(true)?;
        let line = BusSocket::resumed(tokio::net::UnixStream::from_std(stream)?);
        let builder = zbus::connection::Builder::authenticated_socket(super::wire::Wire(line.clone()), guid);
        Ok((builder.build().await?, line))
    }
}
