//! A server for HTTP/1.1 that keeps the law of the drain.
//!
//! Law: when the drain begins we stop accepting, and every connection that was accepted is still served. A busy one gets
//! `Connection: close` with its answer. One that has sent nothing yet, and an idle keep-alive one, get it with their next
//! answer, and are closed only after a grace without a request. (hyper's own `graceful_shutdown` closes both at once, which
//! resets requests that are on their way.)

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tower_layer::Layer as _;

use super::board::board;
use super::drain::Drain;
use super::listen::{Kind, Listener};
use super::stream::{self, State};
use super::track::Layer;
use super::{draining, identity};
use crate::scoreboard::entry::Guarded;
use crate::scoreboard::writer::{self, Board, Connection};

/// Serves `service` (a hyper service) on `listener` until the drain has begun and every connection is done.
///
/// Several listeners: one `serve` each, joined.
pub async fn serve<S, B>(listener: impl Into<Listener>, service: S) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    Server::new().serve(listener, service).await
}

/// [`serve`] for a tower service, as axum's `Router` is one.
pub async fn serve_tower<S, B>(listener: impl Into<Listener>, service: S) -> io::Result<()>
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    Server::new().serve_tower(listener, service).await
}

/// How to serve; [`serve`] uses the defaults.
#[derive(Clone, Debug)]
pub struct Server {
    drain: Option<Drain>,
    grace: Duration,
    head_timeout: Duration,
    deadline: Duration,
    leave: bool,
}

impl Default for Server {
    fn default() -> Self {
        let stop_timeout = board().stop_timeout();
        let time = stop_timeout.unwrap_or(Duration::from_secs(30));
        Server {
            drain: None,
            grace: Duration::from_secs(10).min(time / 2),
            head_timeout: Duration::from_secs(75),
            deadline: time / 6 * 5,
            // Who knows when it will be killed may leave in good order before; who will never be killed must.
            leave: stop_timeout.is_some() || identity().alone(),
        }
    }
}

impl Server {
    /// The defaults: this process's own drain; 10 s of grace, but at most half of `worker.stop_timeout`; 75 s for a
    /// request's head; a deadline after five sixths of `worker.stop_timeout` (of 30 s, where it isn't told).
    pub fn new() -> Self {
        Self::default()
    }

    /// While draining: how long a connection may be without a request until it is closed. Closing it costs its client a
    /// request if one is on its way at that moment, so this is better long; keep it under `worker.stop_timeout`.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long the head of a request may take, counted from the connection's last answer (so this is the time for which
    /// an idle connection is kept), outside of a drain too. Better longer than that of the proxy in front.
    pub fn head_timeout(mut self, limit: Duration) -> Self {
        self.head_timeout = limit;
        self
    }

    /// How long the drain may take. Then the requests that are still in work are written to standard error, with their
    /// peers, and `serve` returns.
    ///
    /// The master tells `worker.stop_timeout` by the status page, as it was when the worker was started; a worker that
    /// extends its time sets the deadline itself. By default it only returns where the time of the kill is known, or where nobody will kill the process (it runs
    /// alone); else it goes on serving until it is killed.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self.leave = true;
        self
    }

    /// A drain of the caller's instead of this process's.
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = Some(drain);
        self
    }

    /// Serves until the drain has begun and every connection is done. No error of a client or of `accept` ends it.
    pub async fn serve<S, B>(self, listener: impl Into<Listener>, service: S) -> io::Result<()>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let drain = self.drain.clone().unwrap_or_else(|| draining().clone());
        board(); // from now on nothing served is a figure, too
        // Each connection holds a clone; when all are gone, `recv` ends.
        let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
        let start = |accepted: Accepted| {
            let (server, drain, service, alive) = (self.clone(), drain.clone(), service.clone(), alive.clone());
            tokio::spawn(async move {
                let state = |peer| State::new(drain, Connection::new(board().clone(), peer), true, Some(alive));
                match accepted {
                    Accepted::Tcp(io, peer) => {
                        let _ = io.set_nodelay(true); // a chunk of a streamed answer waits for nothing
                        server.connection(io, state(Some(peer)), service).await
                    }
                    Accepted::Unix(io) => server.connection(io, state(None), service).await,
                }
            });
        };
        accept_until(&drain, listener.into(), start).await;
        drop(alive);
        if timeout(self.deadline, all_gone.recv()).await.is_err() {
            for line in overdue(board(), writer::now()) {
                eprintln!("ratoon worker: {line}");
            }
            if !self.leave {
                let None = all_gone.recv().await;
            }
        }
        Ok(())
    }

    /// [`Server::serve`] for a tower service.
    pub async fn serve_tower<S, B>(self, listener: impl Into<Listener>, service: S) -> io::Result<()>
    where
        S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.serve(listener, TowerToHyperService::new(service)).await
    }

    async fn connection<IO, S, B>(&self, io: IO, state: Arc<State>, service: S)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let stream = TokioIo::new(stream::Connection::of(io, state.clone()));
        let service = Layer::of(state.clone()).layer(service);
        let mut begun = pin!(state.drain.begun());
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.head_timeout);
        let mut connection = pin!(http.serve_connection(stream, service).with_upgrades());
        let mut patience = pin!(sleep(Duration::ZERO));
        let (mut draining, mut waiting) = (false, false);
        poll_fn(|cx| {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(()); // an error is the client's: it went away, or spoke no HTTP
            }
            draining = draining || begun.as_mut().poll(cx).is_ready();
            if !draining || state.busy() {
                waiting = false; // the answer's end is polled here, too
                return Poll::Pending;
            }
            if !waiting {
                waiting = true;
                patience.as_mut().reset(Instant::now() + self.grace);
            }
            if patience.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            connection.as_mut().graceful_shutdown();
            connection.as_mut().poll(cx).map(drop)
        })
        .await;
    }
}

/// What a drain leaves undone, a line for each request in work; those that the page has no room for are only counted.
fn overdue(board: &Board, now: u64) -> Vec<String> {
    let entries = board.entries();
    let active = entries.iter().filter(|entry| entry.active).filter_map(|entry| entry.guarded.as_ref());
    let line = |connection: &Guarded| {
        let request = connection.request.as_ref()?;
        let peer = match (connection.address, connection.port) {
            (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
            _ => "a local client".to_owned(),
        };
        let seconds = request.start.map_or(0, |start| now.saturating_sub(start)) as f64 / 1e9;
        Some(format!("the drain is over, and {peer} still waits for {} {} after {seconds:.1} s", request.method, request.url))
    };
    let more = match board.unlisted() {
        0 => None,
        count => Some(format!("the drain is over, and beyond the status page's {} connections {count} are open", entries.len())),
    };
    active.filter_map(line).chain(more).collect()
}

enum Accepted {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

/// Accepts until the drain begins, and closes the listener then. If it is our own, what waits in its queue is accepted
/// first: no other process will.
async fn accept_until(drain: &Drain, listener: Listener, mut start: impl FnMut(Accepted)) {
    let mut begun = pin!(drain.begun());
    loop {
        let next = poll_fn(|cx| {
            if begun.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            match &listener.kind {
                Kind::Tcp(tcp) => tcp.poll_accept(cx).map_ok(|(stream, peer)| Accepted::Tcp(stream, peer)),
                Kind::Unix(unix) => unix.poll_accept(cx).map_ok(|(stream, _)| Accepted::Unix(stream)),
            }
            .map(Some)
        });
        match next.await {
            None => break,
            Some(Ok(accepted)) => start(accepted),
            Some(Err(error)) => accept_failed(&error).await,
        }
    }
    if listener.is_own() {
        let _ = accept_rest(listener.kind, start);
    }
}

/// A client that gave up is nobody's trouble. Else descriptors or memory ran out: tell it, and let some be freed.
async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        eprintln!("ratoon worker: cannot accept a connection: {error}; trying again in 100 ms");
        sleep(Duration::from_millis(100)).await;
    }
}

fn accept_rest(kind: Kind, mut start: impl FnMut(Accepted)) -> io::Result<()> {
    match kind {
        Kind::Tcp(tcp) => {
            let queue = tcp.into_std()?;
            while let Ok((stream, peer)) = queue.accept() {
                stream.set_nonblocking(true)?;
                start(Accepted::Tcp(tokio::net::TcpStream::from_std(stream)?, peer));
            }
        }
        Kind::Unix(unix) => {
            let queue = unix.into_std()?;
            while let Ok((stream, _)) = queue.accept() {
                stream.set_nonblocking(true)?;
                start(Accepted::Unix(tokio::net::UnixStream::from_std(stream)?));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
