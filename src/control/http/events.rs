//! `GET /events`: each change as a server-sent event with a stable name.
//!
//! Law: a slow listener costs a fixed amount. Changes wait in the channel that all listeners share, a few more in the
//! connection's own; who falls behind loses the oldest and is told so (`lagged`), then gets a fresh `summary`.

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::answer::{Answer, Reply, answer};
use super::routes::{Call, no_body};
use super::wire::Stream;
use crate::control::Handle;
use crate::control::messages::{Event, SummaryMessage};

/// Events that wait for one listener's connection.
const WAITING: usize = 4;

/// Answers at once and goes on until the listener leaves or the master ends.
pub(super) async fn events(call: Call<'_>) -> Answer {
    let body = if call.head_only {
        no_body()
    } else {
        call.connection.entry.turn.endless.store(true, std::sync::atomic::Ordering::Relaxed);
        let (pieces, body) = mpsc::channel(WAITING);
        let feed = feed(call.connection.house.handle.clone(), Arc::clone(&call.connection.entry.stream), pieces);
        tokio::spawn(feed);
        Reply::fed(body)
    };
    answer(StatusCode::OK, HeaderValue::from_static("text/event-stream"), body)
}

/// Puts events into one listener's connection; ends with it.
async fn feed(handle: Handle, stream: Arc<Stream>, pieces: mpsc::Sender<Bytes>) {
    let mut notices = handle.notices();
    let mut summary = handle.summary();
    let mut event = Event::Summary(SummaryMessage::from(&*summary.borrow_and_update()));
    loop {
        tokio::select! {
            sent = pieces.send(Bytes::from(event.to_stream())) => if sent.is_err() { return },
            () = stream.gone() => return,
        }
        event = tokio::select! {
            () = pieces.closed() => return,
            () = stream.gone() => return,
            changed = summary.changed() => match changed {
                Ok(()) => Event::Summary(SummaryMessage::from(&*summary.borrow_and_update())),
                Err(_) => return,
            },
            notice = notices.recv() => match notice {
                Ok(notice) => Event::from(&notice),
                Err(RecvError::Lagged(missed)) => {
                    summary.mark_changed();
                    Event::Lagged(missed)
                }
                Err(RecvError::Closed) => return,
            },
        };
    }
}
