//! The log of the master.
//!
//! | module | owns |
//! |---|---|
//! | `journal` | entries for the journal or the terminal, which a thread writes |
//! | `level` | the levels of entries |
//! | `catalog` | `MESSAGE_ID=` and the catalog's texts |
//! | `text` | makes foreign text safe to print |

pub mod catalog;
pub mod journal;
mod level;
pub mod text;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use self::journal::{Journal, Level, Record};

/// Different warnings that are logged once each. Further ones are not worth a log line.
const WARNINGS: usize = 1000;

/// The log as the loop and its components use it: entries are queued, and [`Log::wake`] wakes the thread that writes them. Cheap to
/// clone.
#[derive(Clone)]
pub(in crate::master) struct Log {
    journal: Journal,
    /// Warnings that were logged and are not repeated.
    warned: Arc<Mutex<HashSet<String>>>,
}

impl Log {
    /// The log that writes by this journal.
    pub fn new(journal: Journal) -> Log {
        Log { journal, warned: Arc::default() }
    }

    /// Queues an entry.
    pub fn record(&self, record: Record) {
        self.journal.put(record);
    }

    /// Queues a warning.
    pub fn warn(&self, message: impl Into<String>) {
        self.record(Record::new(Level::Warning, message));
    }

    /// Queues a warning, unless the same was logged before.
    pub fn warn_once(&self, message: &str) {
        if self.is_first(message) {
            self.warn(message);
        }
    }

    /// Whether this warning has not been logged yet; remembers it.
    pub fn is_first(&self, message: &str) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        warned.len() < WARNINGS && warned.insert(message.to_owned())
    }

    /// Wakes the thread for the entries that were queued. Call it at the end of a turn.
    pub fn wake(&self) {
        self.journal.wake();
    }

    /// The log itself, for threads that write to it and for its settings.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_warning_is_logged_once_and_their_number_is_bounded() {
        let log = Log::new(journal::start("web"));
        assert!(log.is_first("a") && !log.clone().is_first("a"));
        assert!((1..WARNINGS).all(|number| log.is_first(&number.to_string())));
        assert!(!log.is_first("one too many"));
    }
}
