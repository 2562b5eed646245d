//! The tower layer: knows of each request from its head to the last byte of its answer, and says `Connection: close`
//! while the worker drains. No code in handlers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};

use super::stream::State;

/// A service whose requests are tracked; see [`serve`](super::serve).
#[derive(Clone, Debug)]
pub struct Tracked<S> {
    service: S,
    state: Arc<State>,
}

impl<S> Tracked<S> {
    pub(super) fn new(service: S, state: Arc<State>) -> Self {
        Tracked { service, state }
    }

    fn begin<B>(&self, request: &Request<B>) -> Running {
        self.state.request_begins();
        Running { state: self.state.clone(), version: request.version() }
    }
}

/// A request in work; its end is told when it is dropped.
#[derive(Debug)]
struct Running {
    state: Arc<State>,
    version: Version,
}

impl Running {
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
        self.state.request_ends();
    }
}

impl<S, B, A> hyper::service::Service<Request<B>> for Tracked<S>
where
    S: hyper::service::Service<Request<B>, Response = Response<A>>,
{
    type Response = Response<TrackedBody<A>>;
    type Error = S::Error;
    type Future = TrackedFuture<S::Future>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let running = Some(self.begin(&request));
        TrackedFuture { future: self.service.call(request), running }
    }
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
{
    type Output = Result<Response<TrackedBody<A>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.future.poll(cx));
        let running = this.running.take();
        Poll::Ready(answer.map(|mut answer| {
            if let Some(running) = &running {
                running.announce_end(&mut answer);
            }
            answer.map(|body| TrackedBody { body, running })
        }))
    }
}

pin_project_lite::pin_project! {
    /// The answer's body; the request is over when it ends or is dropped.
    pub struct TrackedBody<B> {
        #[pin]
        body: B,
        running: Option<Running>,
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            *this.running = None;
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
