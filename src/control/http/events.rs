//! `GET /events`: each change as a server-sent event with a stable name and an `id`.
//!
//! Law: a slow listener costs a fixed amount of memory. Changes wait in the channel that all listeners share, a few more in the
//! channel of the connection. A listener that falls behind loses the oldest changes, is told so (`lagged`), and gets a fresh
//! `summary` and all workers. A listener that reconnects with the last `id` that it saw (`Last-Event-ID`) gets the events that it
//! missed, as far as they are kept.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};

use super::answer::{Answer, Reply, answer};
use super::call::{Call, no_body};
use super::wire::Stream;
use crate::api::changes::Listening;
use crate::api::{Closed, Handle};
use crate::control::messages::{Event, SummaryMessage};

/// Number of pieces that may wait for one listener's connection.
const WAITING: usize = 4;
/// Time after which a browser reconnects when the connection broke, milliseconds.
const RETRY: &str = "retry: 2000\n\n";
/// Header with the id of the last event that the listener saw.
const LAST_EVENT_ID: &str = "last-event-id";
/// Bytes of the list of workers from which on a piece is sent.
const PIECE: usize = 32 * 1024;

/// Answers at once; the stream goes on until the listener leaves or the master ends.
pub(super) async fn events(call: Call<'_>) -> Answer {
    let body = if call.head_only {
        no_body()
    } else {
        call.connection.turn.set_endless();
        let (pieces, body) = mpsc::channel(WAITING);
        let handle = call.connection.server.handle.clone();
        let last = call.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
        // From here on no change is missed.
        let listening = handle.changes().subscribe_after(last);
        let accepting = call.connection.server.registry.accepting();
        let feed = Feed { handle, stream: Arc::clone(&call.connection.stream), pieces, seen: 0 };
        tokio::spawn(async move { _ = feed.run(listening, accepting).await });
        Reply::fed(body)
    };
    answer(StatusCode::OK, HeaderValue::from_static("text/event-stream"), body)
}

/// Returns when the server accepts no more connections.
async fn closes(accepting: &mut watch::Receiver<bool>) {
    let _ = accepting.wait_for(|accepting| !accepting).await.map(drop);
}

/// Writes events to one listener's connection.
struct Feed {
    handle: Handle,
    stream: Arc<Stream>,
    pieces: mpsc::Sender<Bytes>,
    /// The number of the last change that was sent to the listener.
    seen: u64,
}

/// The error that the listener has left, or that the master ends.
struct Over;

impl From<Closed> for Over {
    fn from(_: Closed) -> Self {
        Over
    }
}

impl Feed {
    /// Ends when the listener leaves, when the master ends, and when `accepting` tells that the master's program is to be replaced.
    async fn run(mut self, listening: Listening, mut accepting: watch::Receiver<bool>) -> Result<(), Over> {
        let Listening { receiver: mut notices, last, missed, lost } = listening;
        let mut summary = self.handle.summary();
        self.seen = last - missed.len() as u64;
        let first = Event::Summary(SummaryMessage::from(&*summary.borrow_and_update()));
        let first = RETRY.to_owned() + &self.text(&first);
        self.send(first).await?;
        if lost > 0 {
            self.event(&Event::Lagged(lost)).await?;
        }
        for numbered in missed {
            self.seen = numbered.number;
            self.event(&Event::from(&numbered.change)).await?;
        }
        self.workers().await?;
        loop {
            tokio::select! {
                () = self.pieces.closed() => return Err(Over),
                () = self.stream.gone() => return Err(Over),
                () = closes(&mut accepting) => return Err(Over),
                changed = summary.changed() => {
                    changed.map_err(|_| Over)?;
                    let event = Event::Summary(SummaryMessage::from(&*summary.borrow_and_update()));
                    self.event(&event).await?;
                }
                notice = notices.recv() => match notice {
                    Ok(numbered) => {
                        // The summary goes before the event, whichever of the two channels is read first.
                        if summary.has_changed().map_err(|_| Over)? {
                            let event = Event::Summary(SummaryMessage::from(&*summary.borrow_and_update()));
                            self.event(&event).await?;
                        }
                        self.seen = numbered.number;
                        self.event(&Event::from(&numbered.change)).await?;
                    }
                    Err(RecvError::Lagged(missed)) => {
                        self.seen += missed;
                        self.event(&Event::Lagged(missed)).await?;
                        let event = Event::Summary(SummaryMessage::from(&*summary.borrow_and_update()));
                        self.event(&event).await?;
                        self.workers().await?;
                    }
                    Err(RecvError::Closed) => return Err(Over),
                },
            }
        }
    }

    /// Sends all workers in their present state.
    async fn workers(&self) -> Result<(), Over> {
        let mut piece = String::new();
        for view in self.handle.workers().await? {
            piece += &self.text(&Event::Worker((&view).into()));
            if piece.len() >= PIECE {
                self.send(std::mem::take(&mut piece)).await?;
            }
        }
        if piece.is_empty() { Ok(()) } else { self.send(piece).await }
    }

    async fn event(&self, event: &Event) -> Result<(), Over> {
        self.send(self.text(event)).await
    }

    fn text(&self, event: &Event) -> String {
        event.to_stream(&self.handle.changes().id(self.seen))
    }

    async fn send(&self, piece: String) -> Result<(), Over> {
        tokio::select! {
            sent = self.pieces.send(Bytes::from(piece)) => sent.map_err(|_| Over),
            () = self.stream.gone() => Err(Over),
        }
    }
}
