//! A status document with its JSON, which is written once for all readers.
//!
//! Law: every reader gets the JSON of [`Document`], byte for byte. Only the connections, which may be ten thousand, are text
//! from the start and never values.

use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use serde::ser::Error;

use super::redact::without_details;
use super::scoreboard::{Buffers, Scoreboard, Shown};
use super::tree::Document;

/// A document and its JSON.
#[derive(Debug)]
pub struct RenderedStatus {
    document: Document,
    connections: usize,
    line: serde_json::Result<String>,
    /// The line without details, made for the first reader that needs it.
    redacted: OnceLock<serde_json::Result<String>>,
}

/// The connections of all workers as JSON: one list for each worker, one after the other.
#[derive(Debug, Default)]
pub struct Lists {
    text: Vec<u8>,
    lists: Vec<Range<usize>>,
    connections: usize,
    buffers: Buffers,
}

impl Lists {
    /// Appends the connections of the next worker's page, and returns the other content of the page; a worker may have no page.
    pub fn read(&mut self, page: Option<&Scoreboard>) -> Option<Shown> {
        let from = self.text.len();
        let shown = page.and_then(|page| page.read(&mut self.buffers, &mut self.text));
        match &shown {
            Some(shown) => self.connections += shown.connections,
            None => self.text.extend_from_slice(NONE),
        }
        self.lists.push(from..self.text.len());
        shown
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.lists.iter().filter_map(|list| self.text.get(list.clone()))
    }
}

/// An empty list of connections.
const NONE: &[u8] = b"[]";
/// The end of a worker's JSON with an empty list of connections, and the end of a document's without workers and failures.
const WORKER_END: &str = r#"[]}"#;
const HEAD_END: &str = r#""workers":[],"failures":[]}"#;
/// Estimated length of a worker's JSON without connections, bytes.
const WORKER: usize = 512;

impl RenderedStatus {
    /// Writes a document out. The lists hold the connections of its workers, in the order of the workers. A large document takes
    /// milliseconds.
    pub fn new(mut document: Document, lists: &Lists) -> Self {
        let line = written(&mut document, lists);
        RenderedStatus { document, connections: lists.connections, line, redacted: OnceLock::new() }
    }

    /// The JSON of the document in one line that ends with a newline.
    ///
    /// # Errors
    /// serde_json could not write it.
    pub fn line(&self) -> Result<&str, &serde_json::Error> {
        self.line.as_deref()
    }

    /// The same line without details. The first call makes it, which takes milliseconds for a large document.
    ///
    /// # Errors
    /// serde_json could not write or read it.
    pub fn redacted_line(&self) -> Result<&str, &serde_json::Error> {
        let made = self.redacted.get_or_init(|| match &self.line {
            Ok(line) => without_details(line),
            Err(error) => Err(Error::custom(error)),
        });
        made.as_deref()
    }

    /// Number of connections that the document shows.
    pub fn connections(&self) -> usize {
        self.connections
    }
}

fn written(document: &mut Document, lists: &Lists) -> serde_json::Result<String> {
    let (workers, failures) = (std::mem::take(&mut document.workers), std::mem::take(&mut document.failures));
    let mut json = Vec::with_capacity(lists.text.len() + (1 + workers.len()) * WORKER);
    let head = serde_json::to_writer(&mut json, document);
    (document.workers, document.failures) = (workers, failures);
    head?;
    cut(&mut json, HEAD_END)?;
    json.extend_from_slice(b"\"workers\":[");
    for (number, (worker, list)) in document.workers.iter().zip(lists.iter()).enumerate() {
        if number > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut json, worker)?;
        cut(&mut json, WORKER_END)?;
        json.extend_from_slice(list);
        json.push(b'}');
    }
    json.extend_from_slice(b"],\"failures\":");
    serde_json::to_writer(&mut json, &document.failures)?;
    json.extend_from_slice(b"}\n");
    String::from_utf8(json).map_err(Error::custom)
}

/// Removes `end` from the end of the JSON, to replace it.
fn cut(json: &mut Vec<u8>, end: &str) -> serde_json::Result<()> {
    let rest = json.strip_suffix(end.as_bytes()).map(<[u8]>::len);
    json.truncate(rest.ok_or_else(|| Error::custom(format!("the document does not end with {end}")))?);
    Ok(())
}

impl From<Document> for RenderedStatus {
    /// Writes out a document whose workers hold their connections as values.
    fn from(document: Document) -> Self {
        let mut line = serde_json::to_string(&document);
        if let Ok(line) = &mut line {
            line.push('\n');
        }
        let connections = document.workers.iter().map(|worker| worker.active_connections.len()).sum();
        RenderedStatus { document, connections, line, redacted: OnceLock::new() }
    }
}

impl Deref for RenderedStatus {
    type Target = Document;

    fn deref(&self) -> &Document {
        &self.document
    }
}

/// The JSON of a document, shared by the answers that carry it.
#[derive(Clone, Debug)]
pub struct Line {
    /// The document.
    pub document: Arc<RenderedStatus>,
    /// Whether this is the line with details.
    pub details: bool,
}

impl AsRef<[u8]> for Line {
    fn as_ref(&self) -> &[u8] {
        let line = if self.details { self.document.line() } else { self.document.redacted_line() };
        line.unwrap_or_default().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::status::tree::{Connection, Failure, Request, Worker};

    /// Texts that look like the ends that `cut` removes.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(HEAD_END.to_owned()),
            Just(WORKER_END.to_owned()),
            Just("\"workers\":[]".to_owned()),
            "\\PC{0,8}".prop_map(String::from),
        ]
    }

    fn info() -> impl Strategy<Value = Map<String, Value>> {
        text().prop_map(|text| Map::from_iter([(text.clone(), json!({ "workers": [], "failures": [], "text": text }))]))
    }

    prop_compose! {
        fn worker()(id: u64, text in text(), info in info(), urls in prop::collection::vec(text(), 0..3)) -> Worker {
            let connection = |url| Connection { request: Some(Request { url: Some(url), ..Request::default() }), ..Connection::default() };
            let active_connections = urls.into_iter().map(connection).collect();
            Worker { id, status: Some(text), info: Some(info), active_connections, ..Worker::default() }
        }
    }

    proptest! {
        #[test]
        fn connections_that_were_never_values_are_written_as_if_they_were(
            workers in prop::collection::vec(worker(), 0..4),
            tails in prop::collection::vec(text(), 0..3),
            name in text(),
        ) {
            let failures = tails.into_iter().map(|tail| Failure { log_tail: vec![tail], ..Failure::default() }).collect();
            let counters = [(name.clone(), 1.0)].into();
            let whole = Document { status_text: name, counters, workers, failures, ..Document::default() };
            let (mut cut, mut lists) = (whole.clone(), Lists::default());
            for worker in &mut cut.workers {
                let from = lists.text.len();
                let connections = std::mem::take(&mut worker.active_connections);
                lists.text.extend(serde_json::to_vec(&connections).expect("JSON"));
                lists.lists.push(from..lists.text.len());
                lists.connections += connections.len();
            }
            let (told, expected) = (RenderedStatus::new(cut.clone(), &lists), RenderedStatus::from(whole));
            prop_assert_eq!(told.line().expect("a line"), expected.line().expect("a line"));
            prop_assert_eq!((&*told, told.connections()), (&cut, expected.connections()));
        }
    }

    #[test]
    fn a_worker_without_a_page_has_no_connections() {
        let mut lists = Lists::default();
        assert!(lists.read(None).is_none());
        let document = Document { workers: vec![Worker::default()], ..Document::default() };
        let line = RenderedStatus::new(document, &lists).line.expect("a line");
        assert!(line.ends_with("\"active_connections\":[]}],\"failures\":[]}\n"), "{line}");
    }
}
