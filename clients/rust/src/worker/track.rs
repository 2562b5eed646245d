//! The tower layer: tracks each request from its head to the last byte of its answer, shows it on the scoreboard, counts the answer by its
//! class, and adds
//! `Connection: close` to answers while the worker drains. Handlers need no code for this.

use std::cell::RefCell;
use std::io;
use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Buf;
use serde::Serialize;

use super::board::{board, object_text};
use super::draining;
use super::stream::{self, State};
use crate::scoreboard::INFO;
use crate::scoreboard::connection::{Connection, Head, Stage};

thread_local! {
    /// The request whose handler this thread polls. It is not dropped with the thread: when a handler calls exit(3), its request must
    /// stay in work on the page, which then shows during which request the process exited.
    static CURRENT: ManuallyDrop<RefCell<Option<Running>>> = const { ManuallyDrop::new(RefCell::new(None)) };
}

/// Tracks the requests of a service. Made by [`layer`], or by [`Connection::layer`](super::Connection::layer) for its own requests.
#[derive(Clone, Debug)]
pub struct Layer(Option<Arc<State>>);

/// The layer for a server whose connections are not known here: each request is shown without its peer. While draining, answers have
/// `Connection: close`. The server itself must stop accepting and close idle connections.
///
/// [`serve`](super::serve) and [`serve_tower`](super::serve_tower) need no layer; they track their requests themselves.
pub fn layer() -> Layer {
    board().count_requests_only();
    Layer(None)
}

impl Layer {
    pub(super) fn of(state: Arc<State>) -> Self {
        Layer(Some(state))
    }
}

impl<IO> stream::Connection<IO> {
    /// The layer for the service of this connection only.
    pub fn layer(&self) -> Layer {
        Layer::of(self.state().clone())
    }
}

impl<S> tower_layer::Layer<S> for Layer {
    type Service = Tracked<S>;

    fn layer(&self, service: S) -> Tracked<S> {
        Tracked { service, connection: self.0.clone() }
    }
}

/// A service whose requests are tracked. It is a hyper service if the inner service is one, and likewise a tower service.
#[derive(Clone, Debug)]
pub struct Tracked<S> {
    service: S,
    connection: Option<Arc<State>>,
}

impl<S> Tracked<S> {
    fn begin<B>(&self, request: &Request<B>) -> Running {
        let state = match &self.connection {
            Some(state) => state.clone(),
            None => State::new(draining().clone(), Connection::unknown(board().clone()), false, None),
        };
        let url = request.uri().path_and_query().map_or("", |url| url.as_str());
        let version = match request.version() {
            Version::HTTP_10 => 10,
            Version::HTTP_11 => 11,
            Version::HTTP_2 => 20,
            Version::HTTP_3 => 30,
            _ => 0,
        };
        let number = state.request_begins(Head { method: request.method().as_str(), url, version });
        let (version, bodyless) = (request.version(), request.method() == Method::HEAD);
        Running { state, number, began: Instant::now(), version, bodyless, stage: Stage::Aborted, class: None }
    }
}

/// A request in work. Dropping it ends the request with [`Running::stage`].
#[derive(Debug)]
struct Running {
    state: Arc<State>,
    number: u64,
    /// Exact, unlike the times on the page.
    began: Instant,
    version: Version,
    /// The method is HEAD: the answer has no body.
    bodyless: bool,
    /// The final stage of the request if it is dropped now.
    stage: Stage,
    /// The class of the answer's status, 1 to 5; `None` before the answer.
    class: Option<u16>,
}

impl Running {
    fn handle(&self) -> Handle {
        Handle { state: Arc::downgrade(&self.state), number: self.number }
    }

    /// Adds `Connection: close` to an HTTP/1 answer. An answer that upgrades the connection is left alone, since HTTP ends there.
    #[cold]
    fn announce_end(&self, head: &mut response::Parts) {
        if self.version <= Version::HTTP_11 && head.status != StatusCode::SWITCHING_PROTOCOLS {
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        // Counted first: whoever sees the end of the request sees its class.
        self.state.shown.count_answer(self.class.filter(|_| self.stage == Stage::Finished));
        self.state.request_ends(self.stage);
    }
}

/// A handle of a request, to describe the request on the scoreboard.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Weak, so that a stored handle does not keep the connection alive.
    state: Weak<State>,
    number: u64,
}

/// The handle of the request whose handler calls this. `None` outside of a tracked handler, and in tasks that the handler spawned
/// (pass the handle to them).
pub fn request() -> Option<Handle> {
    CURRENT.with(|current| current.borrow().as_ref().map(Running::handle))
}

impl Handle {
    /// Shows a description of the request: a JSON object of up to 256 bytes. No effect when the connection is gone or has begun a later
    /// request.
    pub fn set_info(&self, object: &impl Serialize) -> io::Result<()> {
        let json = object_text(object, INFO)?;
        if let Some(state) = self.state.upgrade() {
            state.shown.set_info(self.number, &json);
        }
        Ok(())
    }

    /// Shows the client's address, where the peer is a proxy that forwards it.
    pub fn set_client(&self, client: IpAddr) {
        if let Some(state) = self.state.upgrade() {
            state.shown.set_client(self.number, client);
        }
    }
}

impl<S, B, A> hyper::service::Service<Request<B>> for Tracked<S>
where
    S: hyper::service::Service<Request<B>, Response = Response<A>>,
    A: Body,
{
    type Response = Response<TrackedBody<A>>;
    type Error = S::Error;
    type Future = TrackedFuture<S::Future>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let mut running = Some(self.begin(&request));
        let within = Within::enter(&mut running);
        let future = self.service.call(request);
        drop(within);
        TrackedFuture { future, running }
    }
}

impl<S, B, A> tower_service::Service<Request<B>> for Tracked<S>
where
    S: tower_service::Service<Request<B>, Response = Response<A>>,
    A: Body,
{
    type Response = Response<TrackedBody<A>>;
    type Error = S::Error;
    type Future = TrackedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut running = Some(self.begin(&request));
        let within = Within::enter(&mut running);
        let future = self.service.call(request);
        drop(within);
        TrackedFuture { future, running }
    }
}

/// While this guard lives, code of a request's handler runs, and [`request`] returns its handle. The drop restores the previous
/// request, also when the handler panics.
struct Within<'a>(&'a mut Option<Running>);

impl<'a> Within<'a> {
    #[inline]
    fn enter(running: &'a mut Option<Running>) -> Self {
        CURRENT.with(|current| std::mem::swap(&mut *current.borrow_mut(), running));
        Within(running)
    }
}

impl Drop for Within<'_> {
    #[inline]
    fn drop(&mut self) {
        CURRENT.with(|current| std::mem::swap(&mut *current.borrow_mut(), self.0));
    }
}

pin_project_lite::pin_project! {
    /// The future of a tracked answer.
    pub struct TrackedFuture<F> {
        #[pin]
        future: F,
        running: Option<Running>,
    }
}

impl<F, A, E> Future for TrackedFuture<F>
where
    F: Future<Output = Result<Response<A>, E>>,
    A: Body,
{
    type Output = Result<Response<TrackedBody<A>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let within = Within::enter(this.running);
        let polled = this.future.poll(cx);
        drop(within);
        // The answer is taken apart and put together only once, since each step copies the head.
        let answer = match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => {
                *this.running = None;
                return Poll::Ready(Err(error));
            }
            Poll::Ready(Ok(answer)) => answer,
        };
        let mut running = this.running.take();
        let (mut head, body) = answer.into_parts();
        if let Some(running) = &mut running {
            running.class = Some(head.status.as_u16() / 100);
            if running.state.drain.is_draining() {
                running.announce_end(&mut head);
            }
            running.state.shown.count_time(running.began.elapsed());
            running.state.shown.stage(Stage::Sending);
        }
        let left = match running.as_ref().is_some_and(|running| running.bodyless) {
            true => Some(0),
            false => body.size_hint().exact().or_else(|| head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()),
        };
        Poll::Ready(Ok(Response::from_parts(head, TrackedBody { body, running, left })))
    }
}

pin_project_lite::pin_project! {
    /// The body of a tracked answer. The request ends when the body ends or is dropped.
    pub struct TrackedBody<B: Body> {
        #[pin]
        body: B,
        running: Option<Running>,
        // Bytes still to come, if known: a server that has written them all need not poll for the end.
        left: Option<u64>,
    }

    impl<B: Body> PinnedDrop for TrackedBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let whole = *this.left == Some(0) || this.body.is_end_stream();
            if let Some(running) = this.running.as_mut().filter(|_| whole) {
                running.stage = Stage::Finished;
            }
        }
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (this.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.remaining() as u64);
                }
            }
            Some(Err(_)) => *this.running = None,
            None => {
                if let Some(mut running) = this.running.take() {
                    running.stage = Stage::Finished;
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[path = "track_tests.rs"]
mod tests;
