//! The stream of changes: the events of `GET /events`, as replies to one call.

use std::io;

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::Connection;
use crate::control::messages::{Event, SummaryMessage};

impl Connection {
    /// Sends the summary, all workers, and then each change, until the peer leaves or the front end stops. A peer that reads too
    /// slowly loses the oldest changes, is told so (`lagged`), and gets the summary and all workers again.
    ///
    /// # Errors
    /// Always: the end of the stream is the end of the connection.
    pub(super) async fn monitor(&self) -> io::Result<()> {
        let ended = || io::Error::from(io::ErrorKind::BrokenPipe);
        // From here on no change is missed.
        let mut changes = self.shared.handle.changes().subscribe_after(None).receiver;
        let mut summary = self.shared.handle.summary();
        let first = SummaryMessage::from(&*summary.borrow_and_update());
        self.all(first).await?;
        loop {
            tokio::select! {
                () = self.wire.gone() => return Err(ended()),
                () = self.shared.stops() => return Err(ended()),
                changed = summary.changed() => {
                    changed.map_err(|_| ended())?;
                    let message = SummaryMessage::from(&*summary.borrow_and_update());
                    self.event(&Event::Summary(message)).await?;
                }
                change = changes.recv() => match change {
                    Ok(numbered) => {
                        // The summary goes before the event, whichever of the two channels is read first.
                        if summary.has_changed().map_err(|_| ended())? {
                            let message = SummaryMessage::from(&*summary.borrow_and_update());
                            self.event(&Event::Summary(message)).await?;
                        }
                        self.event(&Event::from(&numbered.change)).await?;
                    }
                    Err(RecvError::Lagged(missed)) => {
                        self.event(&Event::Lagged(missed)).await?;
                        let message = SummaryMessage::from(&*summary.borrow_and_update());
                        self.all(message).await?;
                    }
                    Err(RecvError::Closed) => return Err(ended()),
                },
            }
        }
    }

    /// Sends the summary and all workers.
    async fn all(&self, summary: SummaryMessage) -> io::Result<()> {
        self.event(&Event::Summary(summary)).await?;
        for view in self.shared.handle.workers().await.map_err(|closed| io::Error::other(closed.to_string()))? {
            self.event(&Event::Worker((&view).into())).await?;
        }
        Ok(())
    }

    async fn event(&self, event: &Event) -> io::Result<()> {
        let data: Value = serde_json::from_str(&event.data()).map_err(io::Error::other)?;
        self.write(None, &json!({ "event": event.name(), "data": data }), true).await
    }
}
