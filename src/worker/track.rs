//! The tower layer: knows of each request from its head to the last byte of its answer, shows it on the scoreboard, and
//! says `Connection: close` while the worker drains. No code in handlers.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Buf;
use serde::Serialize;

use super::board::{board, object_text};
use super::draining;
use super::stream::State;
use crate::scoreboard::INFO;
use crate::scoreboard::writer::{Connection, Head, Stage};

thread_local! {
    /// The request whose handler this thread polls.
    static CURRENT: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Tracks the requests of a service. Made by [`layer`], or by a [`Connection`](super::Connection) for its own requests.
#[derive(Clone, Debug)]
pub struct Layer(Option<Arc<State>>);

/// The layer for a server whose connections aren't known to us: each request is shown without its peer. While draining
/// its answers say `Connection: close`; when to stop accepting, and what to do with idle connections, is the server's.
///
/// [`serve`](super::serve) and [`serve_tower`](super::serve_tower) track by themselves.
pub fn layer() -> Layer {
    Layer(None)
}

impl Layer {
    pub(super) fn of(state: Arc<State>) -> Self {
        Layer(Some(state))
    }
}

impl<S> tower_layer::Layer<S> for Layer {
    type Service = Tracked<S>;

    fn layer(&self, service: S) -> Tracked<S> {
        Tracked { service, connection: self.0.clone() }
    }
}

/// A service whose requests are tracked: a hyper service of a hyper service, a tower service of a tower service.
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
        Running { state, number, version: request.version(), bodyless: request.method() == Method::HEAD, stage: Stage::Aborted }
    }
}

/// A request in work; its end is told when it is dropped.
#[derive(Debug)]
struct Running {
    state: Arc<State>,
    number: u64,
    version: Version,
    /// HEAD: nobody asks for the body.
    bodyless: bool,
    /// How it ends if it is dropped now.
    stage: Stage,
}

impl Running {
    fn handle(&self) -> Handle {
        Handle { state: Arc::downgrade(&self.state), number: self.number }
    }

    /// HTTP/1 can only announce the end of a connection in an answer; an upgraded one is no longer HTTP.
    fn announce_end<B>(&self, answer: &mut Response<B>) {
        if self.state.drain.is_draining()
            && self.version <= Version::HTTP_11
            && answer.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.state.request_ends(self.stage);
    }
}

/// A request, to say something of it.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Not strong: who keeps a handle does not keep the connection.
    state: Weak<State>,
    number: u64,
}

/// The request whose handler calls; `None` outside of a tracked handler, and in tasks that it spawned (hand them the
/// handle).
pub fn request() -> Option<Handle> {
    CURRENT.with_borrow(|running| running.as_ref().map(Running::handle))
}

impl Handle {
    /// Shows what the request is about: a JSON object of up to 256 bytes. Nothing happens when the request is over.
    pub fn set_info(&self, object: &impl Serialize) -> io::Result<()> {
        let json = object_text(object, INFO)?;
        if let Some(state) = self.state.upgrade() {
            state.shown.set_info(self.number, &json);
        }
        Ok(())
    }

    /// Shows the client's address, where the peer is a proxy that told it.
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
        let future = within(&mut running, || self.service.call(request));
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
        let future = within(&mut running, || self.service.call(request));
        TrackedFuture { future, running }
    }
}

/// Runs something of a request's handler; meanwhile [`request`] gives its handle.
fn within<T>(running: &mut Option<Running>, run: impl FnOnce() -> T) -> T {
    /// Puts back what was there, when `run` panics, too.
    struct Swapped<'a>(&'a mut Option<Running>);
    impl Drop for Swapped<'_> {
        fn drop(&mut self) {
            CURRENT.with_borrow_mut(|current| std::mem::swap(current, self.0));
        }
    }
    CURRENT.with_borrow_mut(|current| std::mem::swap(current, running));
    let _back = Swapped(running);
    run()
}

pin_project_lite::pin_project! {
    /// The answer to come.
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
        let answer = ready!(within(this.running, || this.future.poll(cx)));
        let running = this.running.take();
        Poll::Ready(answer.map(|mut answer| {
            if let Some(running) = &running {
                running.announce_end(&mut answer);
                running.state.shown.stage(Stage::Sending);
            }
            let told = || answer.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
            let left = match running.as_ref().is_some_and(|running| running.bodyless) {
                true => Some(0),
                false => answer.body().size_hint().exact().or_else(told),
            };
            answer.map(|body| TrackedBody { body, running, left })
        }))
    }
}

pin_project_lite::pin_project! {
    /// The answer's body; the request is over when it ends or is dropped.
    pub struct TrackedBody<B: Body> {
        #[pin]
        body: B,
        running: Option<Running>,
        // Bytes to come, where that is known: a server that has written them all need not ask for the end.
        left: Option<u64>,
    }

    impl<B: Body> PinnedDrop for TrackedBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(running) = this.running && (*this.left == Some(0) || this.body.is_end_stream()) {
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
