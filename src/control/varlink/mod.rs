//! Varlink: `org.ratoon1.Manager` and `io.systemd.service` on a socket of the runtime directory (docs/contract.md §5).
//!
//! Law: as on the control socket, all resources are bounded, and every wait for a peer has a timeout, except for a peer that itself
//! waits for the end of a reload or for events. No input can end the server.
//!
//! The crate zlink has the protocol, too. Its server reads, answers and writes in one task: a call that waits for the end of a reload,
//! or a peer that does not read, delays all other peers, and a message may have 100 MB (zlink-core 0.8). The protocol needs few lines
//! besides serde: messages are JSON objects with a zero byte at the end. The socket is the runtime directory's (`master/workers/runtime_dir`):
//! it goes on to the next program of the master, and is bound again when it was removed.
//!
//! | file | owns |
//! |---|---|
//! | `wire` | messages of one connection, with limits and timeouts |
//! | `interfaces` | the shipped interface texts, and the table of methods with their parameters |
//! | `call` | reading a call; errors |
//! | `answer` | carrying out a call |
//! | `monitor` | the stream of changes |
#![forbid(unsafe_code)]

mod answer;
mod call;
mod interfaces;
mod monitor;
mod wire;

use std::os::unix::net::UnixListener as BlockingListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use self::wire::Wire;
use crate::api::Handle;
use crate::api::readers::Reader;
use crate::control::dbus::{Bus, LogControl};
use crate::sys::credentials;

/// The file name of the socket in the runtime directory.
pub const SOCKET: &str = "varlink";

/// Number of concurrent connections for all peers. [`RESERVED`] more are kept for root and the master's own user.
const CONNECTIONS: usize = 128;
/// See [`CONNECTIONS`].
const RESERVED: usize = 32;
/// Number of status documents that are made for peers at once; other calls wait.
const DOCUMENTS: usize = 2;
/// Number of questions to polkit at once; further ones wait. Each takes a connection to the bus, which counts as the master's user there
/// (`max_connections_per_user` of dbus-daemon(1)).
const QUESTIONS: usize = 8;
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How long answers that are under way may take when the front end stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The options of the varlink front end.
pub struct Options {
    /// The master's own user id. This user and root may change the pool.
    pub own_uid: u32,
    /// The instance's unit (`ratoon@web.service`), for polkit's rules; `None` when systemd did not start it.
    pub unit: Option<String>,
    /// The bus on which polkit is asked.
    pub bus: Bus,
    /// The level of the log, which `SetLogLevel` sets.
    pub log_control: Arc<dyn LogControl>,
}

/// The state that connections share.
struct Shared {
    handle: Handle,
    options: Options,
    seats: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    documents: Semaphore,
    questions: Semaphore,
    /// Whether the front end stops.
    stopping: watch::Receiver<bool>,
}

impl Shared {
    /// Resolves when the front end stops.
    async fn stops(&self) {
        let mut stopping = self.stopping.clone();
        let _ = stopping.wait_for(|stops| *stops).await.map(drop);
    }
}

/// Gives a running front end another socket.
pub struct Sockets(watch::Sender<BlockingListener>);

impl Sockets {
    /// Serves this socket from now on. The connections of the one before stay.
    pub fn replace(&self, listener: BlockingListener) {
        self.0.send_replace(listener);
    }
}

/// The socket that a front end serves.
pub struct Served(watch::Receiver<BlockingListener>);

/// A socket for a front end, and the means to replace it.
pub fn served(listener: BlockingListener) -> (Sockets, Served) {
    let (sockets, served) = watch::channel(listener);
    (Sockets(sockets), Served(served))
}

/// The running front end. Dropping it closes the connections; the socket stays.
pub struct Service {
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Service {
    /// Ends the front end: answers that the loop has already given are sent (for up to a second), then the connections are closed.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Serves a socket within a tokio runtime.
pub fn spawn(served: Served, handle: Handle, options: Options) -> Service {
    let (stop, stopping) = watch::channel(false);
    let shared = Arc::new(Shared {
        handle,
        options,
        seats: Arc::new(Semaphore::new(CONNECTIONS)),
        reserved: Arc::new(Semaphore::new(RESERVED)),
        documents: Semaphore::new(DOCUMENTS),
        questions: Semaphore::new(QUESTIONS),
        stopping,
    });
    Service { stop, task: Some(tokio::spawn(serve(served.0, shared))) }
}

/// Serves until the front end stops.
async fn serve(mut sockets: watch::Receiver<BlockingListener>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut listener = listener_of(&mut sockets);
    let mut replaced = true;
    loop {
        tokio::select! {
            accepted = accept(listener.as_ref()) => match accepted {
                Ok(stream) => {
                    // Without a seat the connection is closed at once.
                    if let Some(connection) = Connection::new(&shared, stream) {
                        connections.spawn(connection.serve());
                    }
                }
                Err(_) => sleep(PAUSE).await,
            },
            changed = sockets.changed(), if replaced => match changed {
                Ok(()) => listener = listener_of(&mut sockets),
                // The runtime directory is gone: the master ends.
                Err(_) => replaced = false,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = shared.stops() => break,
        }
    }
    let _ = timeout(STOP_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
}

/// The present socket; `None` if the process has no free descriptor for a copy.
fn listener_of(sockets: &mut watch::Receiver<BlockingListener>) -> Option<UnixListener> {
    UnixListener::from_std(sockets.borrow_and_update().try_clone().ok()?).ok()
}

async fn accept(listener: Option<&UnixListener>) -> std::io::Result<UnixStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// A connection with the state that its calls need.
struct Connection {
    shared: Arc<Shared>,
    wire: Wire,
    peer: credentials::Peer,
    /// The user and groups of the peer, for the details of the status document.
    reader: Reader,
    _seat: OwnedSemaphorePermit,
}

impl Connection {
    /// `None` when no seat is free, or the kernel does not tell the peer.
    fn new(shared: &Arc<Shared>, stream: UnixStream) -> Option<Connection> {
        let peer = credentials::peer(&stream).ok()?;
        let mut groups = credentials::peer_groups(&stream).unwrap_or_default();
        groups.push(peer.gid);
        let is_owner = peer.uid == 0 || peer.uid == shared.options.own_uid;
        let seat = Arc::clone(&shared.seats).try_acquire_owned().ok();
        let reserved = || Arc::clone(&shared.reserved).try_acquire_owned().ok();
        let seat = seat.or_else(|| is_owner.then(reserved).flatten())?;
        let reader = Reader { uid: peer.uid, groups };
        Some(Connection { shared: Arc::clone(shared), wire: Wire::new(stream), peer, reader, _seat: seat })
    }

    /// Answers calls in their order, until the peer leaves or breaks the protocol, or the front end stops.
    async fn serve(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let message = tokio::select! {
                message = self.wire.next() => message,
                () = shared.stops() => return,
            };
            let Ok(Some(message)) = message else { return };
            let Ok(call) = serde_json::from_slice(&message) else { return };
            if self.answer(call).await.is_err() {
                return;
            }
        }
    }
}
