//! Figures of one worker or of several, with the knowledge which of them are counted.

use ratoon_worker::scoreboard::not_counted;
use serde::{Deserialize, Serialize};

use crate::status::tree::Counters;

/// The largest figure that is accepted from a page: the limit up to which readers of JSON count exactly, and more than a worker
/// can reach. A worker that writes a larger one thus does not saturate the pool's sums.
const PLAUSIBLE: u64 = 1 << 53;
/// The most names that the counters of a pool may have. Each worker may add some dozens, and nothing else would limit their number.
const NAMES: usize = 1024;

/// A figure from a worker's page; 0 when it is implausibly large (above 2^53).
pub fn plausible(figure: u64) -> u64 {
    if figure <= PLAUSIBLE { figure } else { 0 }
}

/// Totals of a worker since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Requests begun.
    pub requests: u64,
    /// Bytes read from clients.
    pub bytes_read: u64,
    /// Bytes written to clients.
    pub bytes_written: u64,
    /// The application's own counters.
    pub counters: Counters,
    /// Which of the figures are counted.
    pub counted: Counted,
    /// The times to answer.
    pub times: Times,
}

/// Sums over the answers whose time was taken. The logarithm of a time is that of the page's layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// Answers whose time was taken.
    pub count: u64,
    /// The sum of the logarithms of their times.
    pub logs: u64,
    /// The sum of the squares of these logarithms.
    pub squares: u64,
}

/// Which figures are counted. A figure that no worker counts is unknown, which is not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// [`Totals::connections`].
    pub connections: bool,
    /// [`Totals::requests`].
    pub requests: bool,
    /// [`Totals::bytes_read`].
    pub bytes_read: bool,
    /// [`Totals::bytes_written`].
    pub bytes_written: bool,
}

impl Counted {
    /// The figures that a page counts, by its word 22.
    pub(super) fn by_page(word: u64) -> Counted {
        Counted {
            connections: word & not_counted::CONNECTIONS == 0,
            requests: true,
            bytes_read: word & not_counted::BYTES_READ == 0,
            bytes_written: word & not_counted::BYTES_WRITTEN == 0,
        }
    }

    /// The figures that are counted by one of the two.
    fn or(self, other: Counted) -> Counted {
        Counted {
            connections: self.connections || other.connections,
            requests: self.requests || other.requests,
            bytes_read: self.bytes_read || other.bytes_read,
            bytes_written: self.bytes_written || other.bytes_written,
        }
    }
}

fn known(figure: u64, counted: bool) -> Option<u64> {
    (counted || figure > 0).then_some(figure)
}

impl Totals {
    /// Connections, if they are counted.
    pub fn known_connections(&self) -> Option<u64> {
        known(self.connections, self.counted.connections)
    }

    /// Requests, if they are counted.
    pub fn known_requests(&self) -> Option<u64> {
        known(self.requests, self.counted.requests)
    }

    /// Bytes read, if they are counted.
    pub fn known_bytes_read(&self) -> Option<u64> {
        known(self.bytes_read, self.counted.bytes_read)
    }

    /// Bytes written, if they are counted.
    pub fn known_bytes_written(&self) -> Option<u64> {
        known(self.bytes_written, self.counted.bytes_written)
    }

    /// The totals with each infinite or NaN counter replaced by `f64::MAX`, since JSON has only finite numbers.
    pub fn finite(mut self) -> Totals {
        self.counters.values_mut().filter(|value| !value.is_finite()).for_each(|value| *value = f64::MAX);
        self
    }

    /// Adds another worker's totals. Sums stay finite, since JSON has no infinity; a counter whose name has no room is left out.
    pub fn add(&mut self, other: &Totals) {
        self.connections = self.connections.saturating_add(other.connections);
        self.requests = self.requests.saturating_add(other.requests);
        self.bytes_read = self.bytes_read.saturating_add(other.bytes_read);
        self.bytes_written = self.bytes_written.saturating_add(other.bytes_written);
        self.counted = self.counted.or(other.counted);
        self.times.count = self.times.count.saturating_add(other.times.count);
        self.times.logs = self.times.logs.saturating_add(other.times.logs);
        self.times.squares = self.times.squares.saturating_add(other.times.squares);
        for (name, value) in &other.counters {
            let room = self.counters.len() < NAMES;
            match self.counters.get_mut(name) {
                Some(sum) => *sum = (*sum + value).min(f64::MAX),
                None if room => drop(self.counters.insert(name.clone(), *value)),
                None => {}
            }
        }
    }
}
