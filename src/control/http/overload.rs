//! Who finds no place is told so: a reserve of one descriptor for the day when there is no other, and the answer itself.
//!
//! Law: nobody waits without a word. An answer that comes before the question is lost on most clients, and so is one behind
//! which the socket is closed while bytes are unread; so the question is read first, and the peer may close first.

use std::fs::File;
use std::io::{self, IoSlice};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::wire::Stream;
use super::{HEAD, Listener};
use crate::control::client::OWN;
use crate::control::messages::{ErrorMessage, json};

/// All seats are taken.
pub(super) const SEATS: &str = "too many connections are open; close some first";
/// See [`Reserve`].
const DESCRIPTORS: &str = "the master is at its limit of descriptors and has none for this connection; raise its LimitNOFILE= (`ulimit -n`), \
                           or have fewer workers and connections";
/// How long the question may take, and how long the peer may then take to close.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait when a connection cannot be accepted …
const PAUSE: Duration = Duration::from_millis(100);
/// … and how often, until those who wait are told so: most often there are descriptors again by then.
const TRIES: u32 = 20;

/// Answers 503 with this sentence, and closes.
pub(super) async fn turn_away(stream: Stream, why: &str) {
    let _ = timeout(TIMEOUT, read_until(&stream, |head| head.windows(4).any(|end| end == b"\r\n\r\n"))).await;
    let body = json(&ErrorMessage { error: why.to_owned() }) + "\n";
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nserver: {OWN}\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // It fits into an empty buffer; nobody waits for one that does not read.
    let _ = stream.try_write(&[IoSlice::new(head.as_bytes()), IoSlice::new(body.as_bytes())]);
    if stream.shutdown().is_ok() {
        let _ = timeout(TIMEOUT, read_until(&stream, |_| false)).await;
    }
}

/// Reads until this holds for what was read, the peer's end, an error, or more than a head.
async fn read_until(stream: &Stream, done: impl Fn(&[u8]) -> bool) {
    let (mut all, mut piece) = (Vec::new(), [0; 1024]);
    while all.len() < HEAD && !done(&all) {
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => all.extend_from_slice(&piece[..count]),
            _ => break,
        }
    }
}

/// With it a connection can be accepted when there is no other descriptor, to say so.
#[derive(Default)]
pub(super) struct Reserve {
    kept: Option<File>,
    failures: u32,
}

impl Reserve {
    /// A connection was accepted: all is well.
    pub fn fill(&mut self) {
        self.failures = 0;
        self.keep();
    }

    fn keep(&mut self) {
        if self.kept.is_none() {
            self.kept = File::open("/dev/null").ok();
        }
    }

    /// A connection could not be accepted. After [`TRIES`] of that, one of those who wait is turned away.
    pub async fn failed(&mut self, listener: &Listener, error: &io::Error) {
        tracing::debug!(%error, "cannot accept a connection on the control socket");
        sleep(PAUSE).await;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= TRIES {
            self.kept = None;
            // At once, or another was quicker to take the descriptor.
            if let Ok(Ok(stream)) = timeout_at(Instant::now(), listener.accept()).await {
                turn_away(stream, DESCRIPTORS).await;
            }
            self.keep();
        }
    }
}
