//! Answers to the peer: a body that is whole or comes piece by piece, and the functions that build an answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::wire::Serving;
use crate::control::messages::{ErrorMessage, json};

/// An answer with its body.
pub type Answer = Response<Reply>;

/// `application/json`, the type of every answer except events, metrics and the page.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The body of an answer. It holds a place among the large answers and the connection's [`Serving`] guard, and releases both when
/// hyper drops it.
pub struct Reply {
    source: Source,
    permit: Option<OwnedSemaphorePermit>,
    serving: Option<Serving>,
}

enum Source {
    Whole(Option<Bytes>),
    Fed(mpsc::Receiver<Bytes>),
}

impl Reply {
    /// A body that is complete.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Reply { source: Source::Whole(Some(bytes.into())), permit: None, serving: None }
    }

    /// A body that comes piece by piece; it ends when the sender is dropped.
    pub fn fed(pieces: mpsc::Receiver<Bytes>) -> Self {
        Reply { source: Source::Fed(pieces), permit: None, serving: None }
    }

    /// Holds a place among the large answers until the body is dropped.
    pub fn with_permit(mut self, permit: OwnedSemaphorePermit) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Holds the connection's [`Serving`] guard until the body is dropped.
    pub fn with_serving(mut self, serving: Serving) -> Self {
        self.serving = Some(serving);
        self
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.source {
            Source::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Fed(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.source, Source::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Fed(_) => SizeHint::new(),
        }
    }
}

/// An answer of this content type. Its headers forbid caching and content sniffing by a browser; no other site can read it.
pub fn answer(status: StatusCode, content_type: HeaderValue, body: Reply) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

/// An answer with a message as JSON and a newline, which helps readers in a terminal.
pub fn message<T: Serialize>(status: StatusCode, message: &T) -> Answer {
    answer(status, JSON, Reply::whole(json(message) + "\n"))
}

/// The answer to a request that was not carried out, with the reason.
pub fn error(status: StatusCode, sentence: impl Into<String>) -> Answer {
    message(status, &ErrorMessage { error: sentence.into() })
}
