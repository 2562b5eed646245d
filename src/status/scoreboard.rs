//! The master's side of the scoreboard: makes a worker's page, and reads it.
//!
//! Law: the page is hostile. It is read with `pread`, not mapped, so nothing that happens to it can harm the reader; every
//! offset and length is checked; what makes no sense is left out. A reading never waits for the writer: what was being
//! written whenever we looked is shown without its request.

mod json;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::json::Clock;
use crate::scoreboard::entry::{self, Entry};
use crate::scoreboard::{COUNTERS, Geometry, SLOTS, counter, header, not_counted, slot};
use crate::status::tree::{Connection, Counters, Request};
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::map;

/// How often a slot that changes under us is read again.
const TRIES: usize = 8;

/// So much of a page is read at once: its header, and the counters where we put them.
const BEGIN: usize = (header::WORDS + COUNTERS * counter::WORDS) * 8;
/// Bytes of a slot that this version knows.
const SLOT: usize = slot::WORDS * 8;

/// With more slots than this in use a page has no [`Scoreboard::mark`].
pub const MARKED: usize = 8;

/// A worker's page, and its size in bytes, which cannot change.
#[derive(Debug)]
pub struct Scoreboard(File, u32);

/// The largest figure that is believed: what readers of JSON can count exactly, and more than any worker does in its life.
/// One that lies then does not bring the pool's sums to an end at which they stand still.
const PLAUSIBLE: u64 = 1 << 53;
/// So many names the counters of a pool may have. Each life of a worker may bring some dozens; nothing else would end that.
const NAMES: usize = 1024;

/// A figure that a worker told, 0 when it makes no sense.
pub fn plausible(figure: u64) -> u64 {
    if figure <= PLAUSIBLE { figure } else { 0 }
}

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
    /// Which of the figures were counted by somebody.
    pub counted: Counted,
}

/// Which figures are counted. A figure that nobody counts is not known, which is not 0.
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
    /// By a page with this word 22.
    fn by_page(word: u64) -> Counted {
        Counted {
            connections: word & not_counted::CONNECTIONS == 0,
            requests: true,
            bytes_read: word & not_counted::BYTES_READ == 0,
            bytes_written: word & not_counted::BYTES_WRITTEN == 0,
        }
    }

    /// By either.
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

    /// With numbers only that JSON can hold.
    pub fn finite(mut self) -> Totals {
        self.counters.values_mut().filter(|value| !value.is_finite()).for_each(|value| *value = f64::MAX);
        self
    }

    /// Adds another worker's. Sums stay finite, for JSON has no infinity; counters whose names have no room are left out.
    pub fn add(&mut self, other: &Totals) {
        self.connections = self.connections.saturating_add(other.connections);
        self.requests = self.requests.saturating_add(other.requests);
        self.bytes_read = self.bytes_read.saturating_add(other.bytes_read);
        self.bytes_written = self.bytes_written.saturating_add(other.bytes_written);
        self.counted = self.counted.or(other.counted);
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

/// All that a page says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// What was done.
    pub totals: Totals,
    /// How many open connections it shows.
    pub connections: usize,
    /// How many of them have a request in work.
    pub active: usize,
    /// Their peers, as far as they are told.
    pub peers: Vec<SocketAddr>,
    /// These are all open connections, as far as the page knows.
    pub all: bool,
    /// How many open connections it has no room for.
    pub unlisted: u64,
}

/// Memory for the reading of one page after the other.
#[derive(Debug, Default)]
pub struct Buffers {
    first: Vec<u8>,
    second: Vec<u8>,
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
        // One a worker: out of the way of the low numbers, which are copied for each child.
        let file = File::from(dup_high(map::sealed("ratoon-scoreboard", geometry.size)?, RESERVED_FD_BASE));
        let mut head = [0; header::STOP_TIMEOUT + 1];
        head[..8].copy_from_slice(&geometry.header());
        head[header::STOP_TIMEOUT] = u64::try_from(stop_timeout.as_nanos()).unwrap_or(u64::MAX);
        let head: Vec<u8> = head.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
        file.write_all_at(&head, 0)?;
        Ok(Scoreboard(file, geometry.size as u32))
    }

    /// A page that was made before, by this process's predecessor. Refused when it is no sealed file of memory.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let size = map::sealed_size(&fd)?;
        if size > map::MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a page of {size} bytes is too large")));
        }
        Ok(Scoreboard(fd.into(), size as u32))
    }

    /// What the worker did; `None` when it has never written the page, or says what makes no sense.
    pub fn totals(&self) -> Option<Totals> {
        self.open().map(|page| page.totals())
    }

    /// Everything; `None` as above. The open connections are written to the end of `json`, a list of
    /// [`Connection`] each time: ten thousand of them as values would be a hundred thousand small allocations.
    pub fn read(&self, buffers: &mut Buffers, json: &mut Vec<u8>) -> Option<Shown> {
        let page = self.open()?;
        let clock = Clock::now();
        let (mut connections, mut active, mut peers) = (0, 0, Vec::new());
        json.push(b'[');
        page.connections(&mut buffers.first, &mut buffers.second, |entry| {
            if connections > 0 {
                json.push(b',');
            }
            connections += 1;
            active += usize::from(entry.active);
            json::connection(json, &clock, &entry);
            let peer = entry.guarded.and_then(|guarded| Some(SocketAddr::new(guarded.address?.to_canonical(), guarded.port?)));
            peers.extend(peer);
        });
        json.push(b']');
        Some(Shown {
            totals: page.totals(),
            connections,
            active,
            peers,
            all: page.word(header::UNLISTED) == 0 && page.word(header::CONNECTIONS) > 0,
            unlisted: plausible(page.word(header::UNLISTED_OPEN)),
        })
    }

    /// A number that is another when the page says something else. `None` when more than [`MARKED`] slots are in use, or it is
    /// not laid out as it was made.
    pub fn mark(&self) -> Option<u64> {
        let Some(page) = self.open() else { return Some(0) };
        let (used, size) = (page.slots_used(), page.geometry.slot_words * 8);
        let counters = (page.geometry.counters_at + page.geometry.counters * counter::WORDS) * 8;
        if used > MARKED || counters > BEGIN || size > SLOT {
            return None;
        }
        let mut bytes = [0; MARKED * SLOT];
        let bytes = bytes.get_mut(..used * SLOT)?;
        self.bytes(page.geometry.slots_at, bytes)?;
        let words = page.begin.as_chunks().0.iter().chain(bytes.as_chunks().0);
        let mix =
            |sum: u64, word: &[u8; 8]| (sum ^ u64::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
        Some(words.fold(1, mix))
    }

    /// The requests that are in work, longest first: what a worker that hangs hangs in, what a dead one died in. With the
    /// number of connections that have a request in work, too, but no room on the page.
    pub fn serving(&self) -> (Vec<Request>, u64) {
        let unlisted = self.open().map_or(0, |page| plausible(page.word(header::UNLISTED_IN_WORK)));
        let mut json = Vec::new();
        self.read(&mut Buffers::default(), &mut json);
        let connections: Vec<Connection> = serde_json::from_slice(&json).unwrap_or_default();
        let in_work = connections.into_iter().filter(|connection| connection.state == "active");
        let mut requests: Vec<_> = in_work.filter_map(|connection| connection.request).collect();
        requests.sort_by(|a, b| a.start_time.cmp(&b.start_time));
        (requests, unlisted)
    }

    fn open(&self) -> Option<Page<'_>> {
        let mut begin = [0; BEGIN];
        let begin_size = BEGIN.min(self.1 as usize);
        self.0.read_exact_at(&mut begin[..begin_size], 0).ok()?;
        let geometry = Geometry::read(&std::array::from_fn(|word| word_of(&begin, word)), self.1 as usize).ok()?;
        let page = Page { board: self, begin, geometry };
        (page.word(header::PID) != 0).then_some(page)
    }

    /// Reads so many bytes from an offset in words on.
    fn bytes(&self, at: usize, bytes: &mut [u8]) -> Option<()> {
        self.0.read_exact_at(bytes, at as u64 * 8).ok()
    }
}

/// The number at this word.
fn word_of(bytes: &[u8], word: usize) -> u64 {
    bytes.as_chunks().0.get(word).map_or(0, |bytes| u64::from_ne_bytes(*bytes))
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
    /// Its first bytes: the header and, as we make pages, the counters.
    begin: [u8; BEGIN],
    geometry: Geometry,
}

impl Page<'_> {
    fn word(&self, word: usize) -> u64 {
        word_of(&self.begin, word)
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals {
            connections: plausible(self.word(header::CONNECTIONS)),
            requests: plausible(self.word(header::REQUESTS)),
            bytes_read: plausible(self.word(header::BYTES_READ)),
            bytes_written: plausible(self.word(header::BYTES_WRITTEN)),
            counters: Counters::new(),
            counted: Counted::by_page(self.word(header::NOT_COUNTED)),
        };
        let (at, length) = (self.geometry.counters_at * 8, self.geometry.counters * counter::WORDS * 8);
        let mut elsewhere = Vec::new();
        let bytes = match self.begin.get(at..at + length) {
            Some(bytes) => bytes,
            None => {
                elsewhere.resize(length, 0);
                match self.board.bytes(self.geometry.counters_at, &mut elsewhere) {
                    Some(()) => &elsewhere[..],
                    None => &[],
                }
            }
        };
        for bytes in bytes.chunks_exact(counter::WORDS * 8) {
            if word_of(bytes, counter::STATE) == counter::USED
                && let Some((name, value)) = entry::counter(&std::array::from_fn(|word| word_of(bytes, word)))
            {
                *totals.counters.entry(name).or_default() += plausible(value) as f64;
            }
        }
        totals
    }

    fn slots_used(&self) -> usize {
        usize::try_from(self.word(header::SLOTS_USED)).unwrap_or(usize::MAX).min(self.geometry.slots)
    }

    /// Hands over every connection.
    fn connections(&self, first: &mut Vec<u8>, second: &mut Vec<u8>, mut each: impl FnMut(Entry)) {
        let used = self.slots_used();
        let size = self.geometry.slot_words * 8;
        if used == 0 {
            return;
        }
        // Everything twice: two equal readings, one after the other, are of one moment between them.
        for bytes in [&mut *first, &mut *second] {
            bytes.resize(used * size, 0);
            if self.board.bytes(self.geometry.slots_at, bytes).is_none() {
                return;
            }
        }
        let slots = first.chunks_exact(size).zip(second.chunks_exact(size)).enumerate();
        slots.filter_map(|(number, (first, second))| self.slot(number, first, second)).for_each(&mut each);
    }

    /// One slot, read until two readings agree.
    fn slot(&self, number: usize, first: &[u8], second: &[u8]) -> Option<Entry> {
        let entry = |bytes: &[u8], whole| Entry::read(&std::array::from_fn(|word| word_of(bytes, word)), whole);
        let (first, second) = (first.first_chunk::<SLOT>()?, second.first_chunk::<SLOT>()?);
        if word_of(second, slot::STATE) == slot::FREE {
            return None;
        }
        if same(first, second) {
            return entry(second, true);
        }
        let (mut before, mut after) = (*second, [0; SLOT]);
        for _ in 0..TRIES {
            self.board.bytes(self.geometry.slots_at + number * self.geometry.slot_words, &mut after)?;
            if word_of(&after, slot::STATE) == slot::FREE || same(&before, &after) {
                return entry(&after, true);
            }
            before = after;
        }
        entry(&before, false)
    }
}

/// Whether what the sequence guards was whole in both readings, and the same.
fn same(before: &[u8; SLOT], after: &[u8; SLOT]) -> bool {
    let sequence = word_of(before, slot::SEQUENCE);
    sequence.is_multiple_of(2)
        && sequence == word_of(after, slot::SEQUENCE)
        && before[slot::GUARDED * 8..] == after[slot::GUARDED * 8..]
}

#[cfg(all(test, feature = "worker"))]
#[path = "scoreboard_tests.rs"]
mod tests;
