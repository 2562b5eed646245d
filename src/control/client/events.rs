//! The stream of events that `GET /events` answers with.

use std::path::PathBuf;

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::super::messages::Event;
use super::{Error, Talk};

/// The largest single event, bytes.
const LARGEST_EVENT: usize = 1 << 20;

/// The stream of `GET /events`.
pub struct Events {
    pub(super) body: Incoming,
    pub(super) text: Vec<u8>,
    pub(super) path: PathBuf,
    pub(super) _talk: Talk,
}

impl Events {
    /// The next event; `None` when the master ends the stream. Dropping the future loses no event.
    ///
    /// # Errors
    /// [`Error::Broken`]
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            while let Some(end) = find(&self.text, b"\n\n") {
                let block = self.text.drain(..end + 2).collect::<Vec<_>>();
                if let Some(event) = read_block(&String::from_utf8_lossy(&block)) {
                    return Ok(Some(event));
                }
            }
            if self.text.len() > LARGEST_EVENT {
                return Err(Error::Broken(self.path.clone(), "an event without end".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.text.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Err(Error::Broken(self.path.clone(), error.to_string())),
                None => return Ok(None),
            }
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Reads one event of the stream; `None` for a comment or an unknown name.
fn read_block(block: &str) -> Option<Event> {
    let (mut name, mut data) = ("", String::new());
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value,
            "data" => data.push_str(value),
            _ => {}
        }
    }
    Event::parse(name, &data)
}
