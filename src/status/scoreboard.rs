//! The master's side of the scoreboard: makes a worker's page, and reads it.
//!
//! Law: the page is hostile. It is read with `pread`, not mapped, so nothing that happens to it can harm the reader; every
//! offset and length is checked; what makes no sense is left out. A reading never waits for the writer: what was being
//! written whenever we looked is shown without its request.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::scoreboard::entry::{self, Entry};
use crate::scoreboard::{Geometry, SLOTS, counter, header, slot};
use crate::status::tree::{Connection, Counters, Request};
use crate::sys::map;

/// How often a slot that changes under us is read again.
const TRIES: usize = 8;

/// A worker's page.
#[derive(Debug)]
pub struct Scoreboard(File);

/// What a worker has done since its start.
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
    /// The application's own.
    pub counters: Counters,
}

impl Totals {
    /// One of the figures beside the requests: where there were requests without it, nobody counts it.
    pub fn known(&self, figure: u64) -> Option<u64> {
        (figure > 0 || self.requests == 0).then_some(figure)
    }

    /// With numbers only that JSON can hold.
    pub fn finite(mut self) -> Totals {
        self.counters.values_mut().filter(|value| !value.is_finite()).for_each(|value| *value = f64::MAX);
        self
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Totals) {
        self.connections = self.connections.saturating_add(other.connections);
        self.requests = self.requests.saturating_add(other.requests);
        self.bytes_read = self.bytes_read.saturating_add(other.bytes_read);
        self.bytes_written = self.bytes_written.saturating_add(other.bytes_written);
        for (name, value) in &other.counters {
            *self.counters.entry(name.clone()).or_default() += value;
        }
    }
}

/// All that a page says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// What was done.
    pub totals: Totals,
    /// The open connections.
    pub connections: Vec<Connection>,
}

impl Scoreboard {
    /// Makes an empty page for a worker whose drain may take so long. Its descriptor is close-on-exec; the worker's copy
    /// must not be.
    pub fn create(stop_timeout: Duration) -> io::Result<Self> {
        Self::with_slots(SLOTS, stop_timeout)
    }

    /// The same, with room for so many connections.
    pub fn with_slots(slots: usize, stop_timeout: Duration) -> io::Result<Self> {
        let geometry = Geometry::new(slots);
        let file = File::from(map::sealed("ratoon-scoreboard", geometry.size)?);
        let mut head = [0; header::STOP_TIMEOUT + 1];
        head[..8].copy_from_slice(&geometry.header());
        head[header::STOP_TIMEOUT] = u64::try_from(stop_timeout.as_nanos()).unwrap_or(u64::MAX);
        let head: Vec<u8> = head.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
        file.write_all_at(&head, 0)?;
        Ok(Scoreboard(file))
    }

    /// A page that was made before, by this process's predecessor. Refused when it is no sealed file of memory.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        map::sealed_size(&fd)?;
        Ok(Scoreboard(fd.into()))
    }

    /// What the worker did; `None` when it has never written the page, or says what makes no sense.
    pub fn totals(&self) -> Option<Totals> {
        self.open().map(|page| page.totals())
    }

    /// Everything; `None` as above.
    pub fn read(&self) -> Option<Shown> {
        let page = self.open()?;
        Some(Shown { totals: page.totals(), connections: page.connections() })
    }

    /// The requests that are in work, longest first: what a worker that hangs hangs in, what a dead one died in.
    pub fn serving(&self) -> Vec<Request> {
        let connections = self.open().map_or_else(Vec::new, |page| page.connections());
        let in_work = connections.into_iter().filter(|connection| connection.state == "active");
        let mut requests: Vec<_> = in_work.filter_map(|connection| connection.request).collect();
        requests.sort_by(|a, b| a.start_time.cmp(&b.start_time));
        requests
    }

    fn open(&self) -> Option<Page<'_>> {
        let size = usize::try_from(self.0.metadata().ok()?.len()).ok().filter(|size| *size <= map::MOST)?;
        let mut head = [0; header::WORDS];
        self.words(0, &mut head)?;
        let geometry = Geometry::read(head.first_chunk()?, size).ok()?;
        (head[header::PID] != 0).then_some(Page { board: self, head, geometry })
    }

    /// Reads words from an offset in words.
    fn words(&self, at: usize, words: &mut [u64]) -> Option<()> {
        let mut bytes = vec![0; words.len() * 8];
        self.0.read_exact_at(&mut bytes, at as u64 * 8).ok()?;
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Some(())
    }
}

impl AsFd for Scoreboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Scoreboard> for OwnedFd {
    fn from(board: Scoreboard) -> Self {
        board.0.into()
    }
}

/// A page whose header makes sense.
struct Page<'a> {
    board: &'a Scoreboard,
    head: [u64; header::WORDS],
    geometry: Geometry,
}

impl Page<'_> {
    fn totals(&self) -> Totals {
        let mut totals = Totals {
            connections: self.head[header::CONNECTIONS],
            requests: self.head[header::REQUESTS],
            bytes_read: self.head[header::BYTES_READ],
            bytes_written: self.head[header::BYTES_WRITTEN],
            counters: Counters::new(),
        };
        let mut words = vec![0; self.geometry.counters * counter::WORDS];
        if self.board.words(self.geometry.counters_at, &mut words).is_some() {
            for (name, value) in words.as_chunks().0.iter().filter_map(entry::counter) {
                *totals.counters.entry(name).or_default() += value as f64;
            }
        }
        totals
    }

    fn connections(&self) -> Vec<Connection> {
        let used = usize::try_from(self.head[header::SLOTS_USED]).unwrap_or(usize::MAX).min(self.geometry.slots);
        let each = self.geometry.slot_words;
        // Everything twice: two equal readings, one after the other, are of one moment between them.
        let (mut first, mut second) = (vec![0; used * each], vec![0; used * each]);
        let at = self.geometry.slots_at;
        if self.board.words(at, &mut first).and_then(|()| self.board.words(at, &mut second)).is_none() {
            return Vec::new();
        }
        let clock = Clock::now();
        let slots = first.chunks_exact(each).zip(second.chunks_exact(each)).enumerate();
        slots.filter_map(|(number, (first, second))| clock.connection(self.slot(number, first, second)?)).collect()
    }

    /// One slot, read until two readings agree.
    fn slot(&self, number: usize, first: &[u64], second: &[u64]) -> Option<Entry> {
        let mut before: [u64; slot::WORDS] = *first.first_chunk()?;
        let mut after: [u64; slot::WORDS] = *second.first_chunk()?;
        for _ in 0..TRIES {
            if after[slot::STATE] == slot::FREE || same(&before, &after) {
                return Entry::read(&after, true);
            }
            before = after;
            self.board.words(self.geometry.slots_at + number * self.geometry.slot_words, &mut after)?;
        }
        Entry::read(&after, same(&before, &after))
    }
}

/// Whether what the sequence guards was whole in both readings, and the same.
fn same(before: &[u64; slot::WORDS], after: &[u64; slot::WORDS]) -> bool {
    let sequence = before[slot::SEQUENCE];
    sequence.is_multiple_of(2) && sequence == after[slot::SEQUENCE] && before[slot::GUARDED..] == after[slot::GUARDED..]
}

/// Makes times of the day of times of the monotonic clock.
struct Clock {
    today: SystemTime,
    monotonic: u64,
}

impl Clock {
    fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Clock { today: SystemTime::now(), monotonic: now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64 }
    }

    /// RFC 3339; a time that has not come is now. To the millisecond: the two clocks are read one after the other, so the
    /// microseconds of one moment would differ from reading to reading.
    fn at(&self, time: u64) -> String {
        let ago = Duration::from_nanos(self.monotonic.saturating_sub(time));
        let at = self.today.checked_sub(ago).and_then(|at| Timestamp::try_from(at).ok());
        at.map_or_else(String::new, |at| format!("{at:.3}"))
    }

    fn connection(&self, entry: Entry) -> Option<Connection> {
        let guarded = entry.guarded.as_ref();
        Some(Connection {
            state: if entry.active { "active" } else { "idle" }.to_owned(),
            start_time: guarded.and_then(|guarded| guarded.start).map_or_else(String::new, |time| self.at(time)),
            remote_address: guarded.and_then(|guarded| guarded.address).map(|address| address.to_string()),
            remote_port: guarded.and_then(|guarded| guarded.port),
            idle_since: entry.idle_since.map(|time| self.at(time)),
            requests: entry.requests,
            bytes_read: entry.bytes_read,
            bytes_written: entry.bytes_written,
            request: entry.guarded.and_then(|guarded| guarded.request).map(|request| self.request(request)),
        })
    }

    fn request(&self, request: entry::Request) -> Request {
        Request {
            state: request.state.to_owned(),
            start_time: request.start.map_or_else(String::new, |time| self.at(time)),
            ip: request.client.map(|address| address.to_string()),
            method: request.method,
            url: request.url,
            http_version: request.version.to_owned(),
            info: match request.info.as_str() {
                "" => Map::new(),
                text => serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default(),
            },
        }
    }
}

#[cfg(all(test, feature = "worker"))]
#[path = "scoreboard_tests.rs"]
mod tests;
