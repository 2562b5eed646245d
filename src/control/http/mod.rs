//! HTTP on the control socket and, for reads only, on `status.listen` (docs/contract.md §5).
//!
//! Law: all resources are bounded: connections, large answers, and the bytes of a request's head and body. Every wait for a peer has
//! a timeout, except for a peer that itself waits for the end of a reload. No input can end the server.
#![forbid(unsafe_code)]

mod accept;
mod answer;
mod call;
mod changes;
mod connection_registry;
mod events;
mod host;
mod metrics;
mod overload;
mod page;
mod reads;
mod routes;
mod wire;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use hyper::header::{HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::api::Handle;
use crate::api::readers::Reader;
use crate::sys::credentials;
use host::OwnNames;
use overload::{Reserve, SEATS, turn_away};
use wire::{ConnState, Stream, Wire};

pub use connection_registry::ConnectionRegistry;

/// Number of concurrent connections for all peers. [`RESERVED`] more are kept for root and the master's own user, so that another
/// user who takes all others does not lock the administrator out.
const CONNECTIONS: usize = 960;
/// See [`CONNECTIONS`].
const RESERVED: usize = 64;
/// Number of large answers that are sent at once, for each of the two kinds of peers.
const DOCUMENTS: usize = 16;
/// The largest head of a request, bytes.
const HEAD: usize = 16 * 1024;
/// The most header lines of a request.
const HEADERS: usize = 64;
/// Number of connections that are turned away at once; further ones wait in the kernel's queue.
const LEAVING: usize = 64;

/// The state that a server's connections share.
struct Server {
    handle: Handle,
    registry: Arc<ConnectionRegistry>,
    seats: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    documents: Arc<Semaphore>,
    reserved_documents: Arc<Semaphore>,
    /// The host names that a request may have; `None` on a Unix socket, which no web page can reach.
    own_names: Option<OwnNames>,
}

impl Server {
    fn new(handle: Handle, registry: Arc<ConnectionRegistry>, own_names: Option<OwnNames>) -> Arc<Self> {
        Arc::new(Server {
            own_names,
            handle,
            registry,
            seats: Arc::new(Semaphore::new(CONNECTIONS)),
            reserved: Arc::new(Semaphore::new(RESERVED)),
            documents: Arc::new(Semaphore::new(DOCUMENTS)),
            reserved_documents: Arc::new(Semaphore::new(DOCUMENTS)),
        })
    }

    fn seat(&self, peer: Peer) -> Option<OwnedSemaphorePermit> {
        let seat = Arc::clone(&self.seats).try_acquire_owned().ok();
        if seat.is_none() && peer.may_change() { Arc::clone(&self.reserved).try_acquire_owned().ok() } else { seat }
    }
}

/// The peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// Root or the master's own user; the user id.
    Owner(u32),
    /// Another user on the control socket; `None` when the kernel does not tell the user id.
    Stranger(Option<u32>),
    /// A peer on `status.listen`, where no peer may change anything.
    Remote,
}

impl Peer {
    fn of(stream: &Stream, own_uid: Option<u32>) -> Peer {
        let (Stream::Unix(stream), Some(own_uid)) = (stream, own_uid) else { return Peer::Remote };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == own_uid => Peer::Owner(peer.uid()),
            Ok(peer) => Peer::Stranger(Some(peer.uid())),
            Err(_) => Peer::Stranger(None),
        }
    }

    fn may_change(self) -> bool {
        matches!(self, Peer::Owner(_))
    }
}

/// The user and groups of the peer of a Unix socket; `None` over TCP.
fn reader(stream: &Stream) -> Option<Reader> {
    let Stream::Unix(stream) = stream else { return None };
    let peer = credentials::peer(stream).ok()?;
    let mut groups = credentials::peer_groups(stream).unwrap_or_default();
    groups.push(peer.gid);
    Some(Reader { uid: peer.uid, groups })
}

/// A connection with the state that handlers need.
struct Connection {
    server: Arc<Server>,
    stream: Arc<Stream>,
    turn: Arc<ConnState>,
    peer: Peer,
    reader: Option<Reader>,
}

/// Serves the control socket until dropped. Only uid 0 and `own_uid` may change the pool.
pub async fn serve_control(listener: UnixListener, handle: Handle, own_uid: u32) {
    serve_with(Listener::Unix(listener), handle, Some(own_uid), Arc::default()).await;
}

/// Serves `status.listen` until dropped: reads only, for every peer.
pub async fn serve_status(listener: Listener, handle: Handle) {
    serve_with(listener, handle, None, Arc::default()).await;
}

/// A socket on which connections are accepted.
pub enum Listener {
    /// `127.0.0.1:9000`
    Tcp(TcpListener),
    /// `/run/web-status.sock`
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
            Listener::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                let _ = stream.set_nodelay(true);
                // A peer that vanished without a FIN or RST would otherwise keep its connection to /events forever.
                let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// Serves a socket until dropped, with its connections in `registry`. Only uid 0 and `own_uid` may change the pool; no peer may
/// when that is `None`.
pub async fn serve_with(listener: Listener, handle: Handle, own_uid: Option<u32>, registry: Arc<ConnectionRegistry>) {
    let mut accepting = registry.accepting();
    let own_names = matches!(listener, Listener::Tcp(_)).then(OwnNames::of_machine);
    let server = Server::new(handle, Arc::clone(&registry), own_names);
    // Dropping this future drops the sets, which ends all connections.
    let (mut connections, mut leaving) = (JoinSet::new(), JoinSet::new());
    let mut reserve = Reserve::default();
    reserve.fill();
    loop {
        let open = *accepting.borrow_and_update() && leaving.len() < LEAVING;
        tokio::select! {
            accepted = listener.accept(), if open => match accepted {
                Ok(stream) => {
                    reserve.fill();
                    match seat(&server, stream, own_uid) {
                        Ok(served) => _ = connections.spawn(served),
                        Err(stream) => _ = leaving.spawn(turn_away(stream, SEATS)),
                    }
                }
                Err(error) => reserve.failed(&listener, &error).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some(_) = leaving.join_next(), if !leaving.is_empty() => {}
            // Never an error: the registry lives as long as this future.
            _ = accepting.changed() => {}
        }
    }
}

/// The future that serves a connection; gives the stream back when no seat is free.
fn seat(server: &Arc<Server>, stream: Stream, own_uid: Option<u32>) -> Result<impl Future<Output = ()> + use<>, Stream> {
    let peer = Peer::of(&stream, own_uid);
    let Some(seat) = server.seat(peer) else { return Err(stream) };
    let reader = reader(&stream);
    let (stream, turn) = (Arc::new(stream), server.registry.enter());
    let connection = Connection { server: Arc::clone(server), stream, turn, peer, reader };
    Ok(async move {
        let _seat = seat;
        connection.serve().await;
    })
}

impl Connection {
    /// Whether the peer may see the details of a document.
    async fn sees_details(&self) -> bool {
        self.peer.may_change() || self.server.handle.readers().sees_details(self.reader.as_ref()).await
    }

    async fn serve(self) {
        let wire = Wire::new(Arc::clone(&self.stream), Arc::clone(&self.turn));
        let service = service_fn(|request| {
            let serving = self.turn.begin();
            let connection = &self;
            async move {
                let mut answer = routes::serve(connection, request).await;
                answer.headers_mut().insert(SERVER, HeaderValue::from_static(crate::control::client::OWN));
                Ok::<_, Infallible>(answer.map(|body| body.with_serving(serving)))
            }
        });
        let mut server = http1::Builder::new();
        // A client that closes its sending side after a request to read still gets the answer (`printf … | socat`).
        // `Stream::gone` detects a peer that goes away during a change.
        server.half_close(true).max_headers(HEADERS).max_header_size(HEAD).max_buf_size(2 * HEAD);
        // `Wire` has its own timeouts, which tell a slow head from an idle connection.
        server.header_read_timeout(None).timer(TokioTimer::new());
        if let Err(error) = server.serve_connection(TokioIo::new(wire), service).await {
            tracing::trace!(%error, "a control connection ended early");
        }
    }
}
