//! Turns connections away with an answer when no seat or no descriptor is free. A reserved descriptor serves for the latter case.
//!
//! Law: a rejected peer gets an answer. Most clients lose an answer that comes before they have sent the request, and an answer after
//! which the socket is closed with unread bytes. So the request is read first, and the peer gets time to close first.

use std::fs::File;
use std::io::{self, IoSlice};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::wire::Stream;
use super::{HEAD, Listener};
use crate::control::client::OWN;
use crate::control::messages::{ErrorMessage, json};

/// The message when all seats are taken.
pub(super) const SEATS: &str = "too many connections are open; close some first";
/// The message when no descriptor is free, see [`Reserve`].
const DESCRIPTORS: &str = "the master is at its limit of descriptors and has none for this connection; raise its LimitNOFILE= (`ulimit -n`), \
                           or have fewer workers and connections";
/// Timeout for the request, and then for the peer to close.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// Number of failed accepts, with a pause after each, before a waiting peer is turned away. Usually descriptors are free again by then.
const TRIES: u32 = 20;

/// Answers 503 with this sentence, and closes the connection.
pub(super) async fn turn_away(stream: Stream, why: &str) {
    let _ = timeout(TIMEOUT, read_until(&stream, |head| head.windows(4).any(|end| end == b"\r\n\r\n"))).await;
    let body = json(&ErrorMessage { error: why.to_owned() }) + "\n";
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nserver: {OWN}\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // The answer fits into an empty socket buffer, so there is no wait for a peer that does not read.
    let _ = stream.try_write(&[IoSlice::new(head.as_bytes()), IoSlice::new(body.as_bytes())]);
    if stream.shutdown().is_ok() {
        let _ = timeout(TIMEOUT, read_until(&stream, |_| false)).await;
    }
}

/// Reads until `done` is true for the bytes so far, the peer closes, an error occurs, or the bytes exceed a head.
async fn read_until(stream: &Stream, done: impl Fn(&[u8]) -> bool) {
    let (mut all, mut piece) = (Vec::new(), [0; 1024]);
    while all.len() < HEAD && !done(&all) {
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => all.extend_from_slice(&piece[..count]),
            _ => break,
        }
    }
}

/// A reserved descriptor. It is closed to accept one connection when no other descriptor is free, and to turn that away.
#[derive(Default)]
pub(super) struct Reserve {
    kept: Option<File>,
    failures: u32,
}

impl Reserve {
    /// Call after a connection was accepted: resets the failures and opens the reserve again.
    pub fn fill(&mut self) {
        self.failures = 0;
        self.keep();
    }

    fn keep(&mut self) {
        if self.kept.is_none() {
            self.kept = File::open("/dev/null").ok();
        }
    }

    /// Call after a connection could not be accepted. From [`TRIES`] failures in a row on, one waiting connection is turned away.
    pub async fn failed(&mut self, listener: &Listener, error: &io::Error) {
        tracing::debug!(%error, "cannot accept a connection on the control socket");
        sleep(PAUSE).await;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= TRIES {
            self.kept = None;
            // Without a wait: another part of the process may have taken the descriptor already.
            if let Ok(Ok(stream)) = timeout_at(Instant::now(), listener.accept()).await {
                turn_away(stream, DESCRIPTORS).await;
            }
            self.keep();
        }
    }
}
