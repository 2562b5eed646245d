//! This process's scoreboard, and the application's own data: counters, information on the worker and on a request.
//!
//! Law: a request never fails because it could not be shown. Without an inherited page the same calls write to private memory.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use serde::Serialize;
use serde_json::Value;

use super::notify::notify;
use super::{NotifyState, identity};
use crate::scoreboard::writer::Board;
use crate::sys::fd;

static BOARD: LazyLock<Arc<Board>> = LazyLock::new(|| Arc::new(inherited().unwrap_or_else(Board::private)));

/// Largest information on a worker, bytes of JSON (docs/contract.md §4).
const INFO_MOST: usize = 3 << 10;

/// This process's board.
pub(super) fn board() -> &'static Arc<Board> {
    &BOARD
}

fn inherited() -> Option<Board> {
    let number = identity().scoreboard?;
    // The mapping stays when the descriptor is closed.
    match fd::inherited(number).and_then(|page| Board::shared(&page)) {
        Ok(board) => Some(board),
        Err(error) => {
            eprintln!("ratoon worker: RATOON_SCOREBOARD={number} cannot be written: {error}; requests are not shown");
            None
        }
    }
}

/// A counter of the application. The status shows the sum over the pool, ended workers included. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Counter {
    board: Arc<Board>,
    name: Arc<str>,
}

/// The counter of this name (up to 48 bytes; a worker has up to 32 of them): a running total since the worker's start.
///
/// ```
/// # #[cfg(feature = "worker")]
/// # {
/// let jobs = ratoon_worker::counter("jobs");
/// jobs.increment();
/// jobs.add(2);
/// assert_eq!(jobs.get(), 3);
/// # }
/// ```
pub fn counter(name: &str) -> Counter {
    let counter = Counter { board: board().clone(), name: name.into() };
    if counter.total().is_none() {
        eprintln!(
            "ratoon worker: no counter for \"{name}\": there can be {}, with names that are not empty",
            crate::scoreboard::COUNTERS
        );
    }
    counter
}

impl Counter {
    fn total(&self) -> Option<&AtomicU64> {
        self.board.counter(&self.name)
    }

    /// Adds 1.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `more`.
    pub fn add(&self, more: u64) {
        if let Some(total) = self.total() {
            total.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// The total; 0 when there was no room for the counter.
    pub fn get(&self) -> u64 {
        self.total().map_or(0, |total| total.load(Ordering::Relaxed))
    }
}

/// Shows information on this worker: a JSON object of up to 3 KiB, which becomes `info` in the status document. Call it again
/// when the information changes.
pub fn info(object: &impl Serialize) -> io::Result<()> {
    let json = object_text(object, INFO_MOST)?;
    notify(&[NotifyState::Custom(&format!("X_RATOON_INFO={json}"))])
}

/// Formats a JSON object on one line. Another JSON value, or a text longer than `most` bytes, is an error.
pub(super) fn object_text(object: &impl Serialize, most: usize) -> io::Result<String> {
    let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let value = serde_json::to_value(object).map_err(|error| wrong(format!("the information is no JSON: {error}")))?;
    if !matches!(value, Value::Object(_)) {
        return Err(wrong(format!("the information must be a JSON object, not {value}")));
    }
    let text = value.to_string();
    match text.len() {
        len if len <= most => Ok(text),
        len => Err(wrong(format!("the information has {len} bytes of JSON, {most} are shown"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn information_is_an_object_of_bounded_size() {
        assert_eq!(object_text(&json!({"a": "x\ny"}), 100).unwrap(), r#"{"a":"x\ny"}"#);
        assert!(object_text(&json!([1]), 100).unwrap_err().to_string().contains("must be a JSON object, not [1]"));
        assert!(object_text(&json!({"a": "x".repeat(100)}), 100).unwrap_err().to_string().contains("108 bytes"));
    }
}
