//! What keeps the view up to date: a task that fetches the document, at once when an event says that something changed,
//! and listens to events; it comes back to a master that went away.
//!
//! Law: a document that is dear to make is asked for more rarely, so that who looks costs the master little.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant as At, sleep_until};

use crate::control::client::{Client, Events};
use crate::control::messages::Event;
use crate::status::tree::Document;

/// Between two documents when nothing changes, and between two tries to find a master that is gone.
const EVERY: Duration = Duration::from_secs(1);
/// At least so long between two documents, however much changes.
const AT_LEAST: Duration = Duration::from_millis(150);
/// How long a master may take before it is shown as gone.
const TIMEOUT: Duration = Duration::from_secs(4);
/// A fetch may take one part in so many of the time.
const SHARE: u32 = 4;
/// News that wait to be drawn; then the master's side drops the oldest and says so.
const WAITING: usize = 64;

/// What the view learns.
pub(super) enum News {
    /// The whole, and when it came.
    Document(Box<Document>, Instant),
    /// One change.
    Event(Event),
    /// The master cannot be asked, and why.
    Lost(String),
}

/// Starts asking; ends when nobody listens.
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
            // A master that has no events is asked every second all the same.
            self.events = self.client.events().await.ok();
        }
        news
    }
}

/// The next event; `None` at the end of the stream; never, while there is none.
async fn next(events: &mut Option<Events>) -> Option<Event> {
    match events {
        Some(events) => events.next().await.ok().flatten(),
        None => std::future::pending().await,
    }
}
