//! A task that keeps the view up to date. It subscribes to events, and fetches the document every second and soon after an event. It
//! connects again to a master that went away.
//!
//! Law: a document that takes long is requested less often, so that the view costs the master little.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant as At, sleep_until};

use crate::control::client::{Client, Events};
use crate::control::messages::Event;
use crate::status::tree::Document;

/// Interval between two documents when nothing changes, and between two tries to reach a master that is gone.
const EVERY: Duration = Duration::from_secs(1);
/// Shortest interval between two documents, however much changes.
const AT_LEAST: Duration = Duration::from_millis(150);
/// Timeout of a request, after which the master is shown as gone.
const TIMEOUT: Duration = Duration::from_secs(4);
/// The interval between two documents is at least so many times the duration of a fetch.
const SHARE: u32 = 4;
/// Number of news that may wait to be drawn. Beyond that the master drops the oldest events and reports their number.
const WAITING: usize = 64;

/// A message to the view.
pub(super) enum News {
    /// The whole document, and the time of its arrival.
    Document(Box<Document>, Instant),
    /// One change.
    Event(Event),
    /// The master does not answer, with the reason.
    Lost(String),
}

/// Starts the task; it ends when the receiver is dropped.
pub(super) fn start(client: Client) -> Receiver<News> {
    let (news, listener) = channel(WAITING);
    tokio::spawn(Feed { client: client.with_patience(TIMEOUT), news, events: None }.run());
    listener
}

struct Feed {
    client: Client,
    news: Sender<News>,
    events: Option<Events>,
}

impl Feed {
    async fn run(mut self) {
        let mut due = At::now();
        let mut gap = AT_LEAST;
        let mut asked = At::now();
        loop {
            let told = tokio::select! {
                () = self.news.closed() => return,
                () = sleep_until(due) => {
                    asked = At::now();
                    let told = self.ask().await;
                    let cost = asked.elapsed();
                    gap = AT_LEAST.max(cost * SHARE);
                    due = At::now() + EVERY.max(gap);
                    told
                }
                event = next(&mut self.events) => match event {
                    Some(event) => {
                        due = due.min((asked + gap).max(At::now()));
                        News::Event(event)
                    }
                    None => {
                        self.events = None;
                        due = due.min(asked + EVERY);
                        continue;
                    }
                },
            };
            if self.news.send(told).await.is_err() {
                return;
            }
        }
    }

    async fn ask(&mut self) -> News {
        let news = match self.client.status().await {
            Ok(document) => News::Document(Box::new(document), Instant::now()),
            Err(error) => {
                self.events = None;
                return News::Lost(error.to_string());
            }
        };
        if self.events.is_none() {
            // For a master without events, the document is fetched every second all the same.
            self.events = self.client.events().await.ok();
        }
        news
    }
}

/// The next event; `None` at the end of the stream. Waits forever while there is no stream.
async fn next(events: &mut Option<Events>) -> Option<Event> {
    match events {
        Some(events) => events.next().await.ok().flatten(),
        None => std::future::pending().await,
    }
}
