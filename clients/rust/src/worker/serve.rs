//! An HTTP/1.1 server that drains without losing requests.
//!
//! Law: when the drain begins, the server stops accepting and still serves every accepted connection. A busy connection gets
//! `Connection: close` with its answer. A connection that has sent nothing yet, and an idle keep-alive connection, get it with their
//! next answer, and are closed only after a grace time without a request. (hyper's own `graceful_shutdown` closes both at once,
//! which resets requests that are on their way.)

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
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tower_layer::Layer as _;

use super::board::board;
use super::drain::Drain;
use super::listen::{Kind, Listener};
use super::stream::{self, State};
use super::track::Layer;
use super::{draining, identity};
use crate::scoreboard::connection::Connection;
use crate::scoreboard::entry::Guarded;
use crate::scoreboard::writer::{self, Board};

/// Serves `service` (a hyper service) on `listener` until the drain has begun and every connection is done.
///
/// A worker with several listeners calls `serve` for each and joins the futures.
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

/// [`serve`] for a tower service, such as axum's `Router`.
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

/// Configuration of a server; [`serve`] uses the defaults.
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
            // Return at the deadline if the time of the kill is known, since that comes later, or if nothing will kill the process.
            leave: stop_timeout.is_some() || identity().alone(),
        }
    }
}

impl Server {
    /// The defaults: this process's own drain; 10 s of grace, but at most half of `worker.stop_timeout`; 75 s for a
    /// request's head; a deadline after five sixths of `worker.stop_timeout` (30 s, where the page does not give it).
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long a connection may be without a request during a drain until it is closed. A request that is on its way when the
    /// connection is closed is lost, so choose a long time, below `worker.stop_timeout`.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets how long the head of a request may take, counted from the connection's last answer: an idle connection is kept for this
    /// time. Applies outside of a drain, too. Choose a longer time than the idle timeout of the proxy in front.
    pub fn head_timeout(mut self, limit: Duration) -> Self {
        self.head_timeout = limit;
        self
    }

    /// Sets how long the drain may take. Then the requests that are still in work are written to standard error, with their
    /// peers, and `serve` returns.
    ///
    /// The scoreboard has the `worker.stop_timeout` of the time when the worker was started; a worker that extends its stop timeout must
    /// set the deadline itself. Without this call, `serve` returns at the deadline only where the time of the kill is known, or where the
    /// program runs alone and nothing will kill it; else it serves until it is killed.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self.leave = true;
        self
    }

    /// Uses this drain instead of the process's own.
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = Some(drain);
        self
    }

    /// Serves until the drain has begun and every connection is done. Errors of clients and of `accept` do not end it.
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
        board(); // makes this process the page's writer, so that 0 requests is a known figure
        // Each connection holds a clone of the sender; when all are dropped, `recv` returns.
        let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
        let start = |accepted: Accepted| {
            let (server, drain, service, alive) = (self.clone(), drain.clone(), service.clone(), alive.clone());
            tokio::spawn(async move {
                let state = |peer| State::new(drain, Connection::new(board().clone(), peer), true, Some(alive));
                match accepted {
                    Accepted::Tcp(io, peer) => {
                        let _ = io.set_nodelay(true); // send each chunk of a streamed answer at once
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
                return Poll::Ready(()); // errors come from the client: it disconnected, or sent no HTTP
            }
            draining = draining || begun.as_mut().poll(cx).is_ready();
            if !draining || state.busy() {
                waiting = false; // the end of the answer wakes this task, too
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

/// Log lines for a drain that is over: one for each request in work. Connections without a slot on the page are only counted.
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

/// The most connections that a drain takes from a queue that other workers share: on a busy machine it is never empty, and the workers that
/// go on are to have the most of it.
const SHARED_QUEUE_MAX: usize = 1024;

enum Accepted {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

/// Accepts until the drain begins, then empties the queue and closes the listener. Other processes may share the listener and accept, too;
/// but at the end of the instance the last copy is closed, and the kernel resets what waits then.
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
    let most = if listener.is_own() { usize::MAX } else { SHARED_QUEUE_MAX };
    let _ = accept_rest(listener.kind, most, start).await;
}

/// Handles an error of accept(2). A client that gave up is ignored. Any other error means a lack of descriptors or memory: print it,
/// and wait 100 ms so that some are freed.
async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        eprintln!("ratoon worker: cannot accept a connection: {error}; trying again in 100 ms");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Accepts what waits in the queue, at most so many connections. Other workers that share the queue may take some.
async fn accept_rest(kind: Kind, most: usize, mut start: impl FnMut(Accepted)) -> io::Result<()> {
    match kind {
        Kind::Tcp(tcp) => {
            let queue = tcp.into_std()?;
            for (stream, peer) in std::iter::from_fn(|| queue.accept().ok()).take(most) {
                stream.set_nonblocking(true)?;
                start(Accepted::Tcp(tokio::net::TcpStream::from_std(stream)?, peer));
                yield_now().await;
            }
        }
        Kind::Unix(unix) => {
            let queue = unix.into_std()?;
            for (stream, _) in std::iter::from_fn(|| queue.accept().ok()).take(most) {
                stream.set_nonblocking(true)?;
                start(Accepted::Unix(tokio::net::UnixStream::from_std(stream)?));
                yield_now().await;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
