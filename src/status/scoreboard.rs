//! The master's side of the scoreboard: makes a worker's status page, and reads it.
//!
//! Law: the page is hostile. It is read with pread(2), not mapped, so nothing that happens to it can harm the reader. Every
//! offset and length is checked; invalid entries are left out. A read never waits for the writer: a connection that was
//! being written at every try is shown without its request.

mod json;
mod totals;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use self::json::Clock;
pub use self::totals::{Counted, Times, Totals, plausible};
use crate::status::tree::{Connection, Counters, Request};
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::map;
use ratoon_worker::scoreboard::entry::{self, Entry};
use ratoon_worker::scoreboard::{COUNTERS, Geometry, SLOTS, counter, header, not_counted, slot};

/// How many times a slot that changes while it is read is read again.
const TRIES: usize = 8;

/// Bytes at the beginning of a page that are read at once: the header, and the counters where the master puts them.
const BEGIN: usize = (header::WORDS + COUNTERS * counter::WORDS) * 8;
/// Bytes of a slot that this version knows.
const SLOT: usize = slot::WORDS * 8;

/// The most slots in use with which a page has a [`Scoreboard::mark`].
pub const MARKED: usize = 8;

/// A worker's page, and the size of the page in bytes, which cannot change.
#[derive(Debug)]
pub struct Scoreboard(File, u32);

/// Content of a page without the connections themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Totals since the worker's start.
    pub totals: Totals,
    /// Number of open connections that the page lists.
    pub connections: usize,
    /// Number of listed connections that have a request in work.
    pub active: usize,
    /// Peers of the listed connections, as far as the page has them.
    pub peers: Vec<SocketAddr>,
    /// Whether the page lists all open connections, as far as the page itself tells.
    pub all: bool,
    /// Number of open connections for which the page has no room.
    pub unlisted: u64,
}

/// The requests that a worker has in work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Their number.
    pub requests: u64,
    /// The age of the oldest one, as far as the page tells.
    pub oldest: Option<Duration>,
    /// Connections accepted since the worker's start.
    pub connections: u64,
}

/// Buffers that are reused from page to page.
#[derive(Debug, Default)]
pub struct Buffers {
    first: Vec<u8>,
    second: Vec<u8>,
}

impl Scoreboard {
    /// Makes an empty page for a worker with this stop timeout. The descriptor is close-on-exec; the worker's copy must not be.
    pub fn create(stop_timeout: Duration) -> io::Result<Self> {
        Self::with_slots(SLOTS, stop_timeout)
    }

    /// Makes an empty page with room for `slots` connections.
    pub fn with_slots(slots: usize, stop_timeout: Duration) -> io::Result<Self> {
        let geometry = Geometry::new(slots);
        // Each worker has such a descriptor; its high number keeps it out of the low numbers, which are copied for each child.
        let file = File::from(dup_high(map::sealed("ratoon-scoreboard", geometry.size)?, RESERVED_FD_BASE));
        let mut head = [0; header::STOP_TIMEOUT + 1];
        head[..8].copy_from_slice(&geometry.header());
        head[header::STOP_TIMEOUT] = u64::try_from(stop_timeout.as_nanos()).unwrap_or(u64::MAX);
        let head: Vec<u8> = head.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
        file.write_all_at(&head, 0)?;
        Ok(Scoreboard(file, geometry.size as u32))
    }

    /// A page that an earlier program of this process made. Refused when the descriptor is not a sealed file in memory.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let size = map::sealed_size(&fd)?;
        if size > map::MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a page of {size} bytes is too large")));
        }
        Ok(Scoreboard(fd.into(), size as u32))
    }

    /// Totals of the worker; `None` when the worker has never written the page, or its header is invalid.
    pub fn totals(&self) -> Option<Totals> {
        self.open().map(|page| page.totals())
    }

    /// The whole page; `None` as for [`Self::totals`]. The open connections are appended to `json` as a list of [`Connection`]:
    /// as values, ten thousand connections would take a hundred thousand small allocations.
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

    /// A checksum that changes with the content of the page; 0 before the worker writes it. `None` when more than [`MARKED`] slots are
    /// in use, or the layout is not the one that the master made.
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

    /// The number of requests in work; `None` when the worker has never written the page, or does not list its connections.
    pub fn in_work(&self) -> Option<u64> {
        self.work().map(|work| work.requests)
    }

    /// The requests in work; `None` as for [`Self::in_work`].
    pub fn work(&self) -> Option<Work> {
        let page = self.open()?;
        let counts = page.word(header::NOT_COUNTED) & not_counted::CONNECTIONS == 0;
        // A worker that has had requests on no connection does not tell of its connections.
        let lists = page.slots_used() > 0 || counts && (page.word(header::CONNECTIONS) > 0 || page.word(header::REQUESTS) == 0);
        if !lists {
            return None;
        }
        let (mut buffers, mut active, mut first) = (Buffers::default(), 0_u64, None::<u64>);
        page.connections(&mut buffers.first, &mut buffers.second, |entry| {
            active += u64::from(entry.active);
            let start = entry.guarded.filter(|_| entry.active).and_then(|guarded| guarded.request?.start);
            first = first.into_iter().chain(start).min();
        });
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
        Some(Work {
            requests: active.saturating_add(plausible(page.word(header::UNLISTED_IN_WORK))),
            oldest: first.map(|start| now.saturating_sub(Duration::from_nanos(start))),
            connections: plausible(page.word(header::CONNECTIONS)),
        })
    }

    /// The requests in work, the longest-running first: the cause of a hang or a crash may be among them. The second value is the
    /// number of connections that have a request in work, but no room on the page.
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

    /// Fills `bytes` from the offset `at`, in words of 8 bytes.
    fn bytes(&self, at: usize, bytes: &mut [u8]) -> Option<()> {
        self.0.read_exact_at(bytes, at as u64 * 8).ok()
    }
}

/// The number at this index, in words of 8 bytes.
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

/// A page whose header is valid.
struct Page<'a> {
    board: &'a Scoreboard,
    /// The first bytes of the page: the header and, in the layout that the master makes, the counters.
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
            times: Times {
                count: plausible(self.word(header::TIMED)),
                logs: plausible(self.word(header::TIMED_LOGS)),
                squares: plausible(self.word(header::TIMED_SQUARES)),
            },
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

    /// Calls `each` with every connection.
    fn connections(&self, first: &mut Vec<u8>, second: &mut Vec<u8>, mut each: impl FnMut(Entry)) {
        let used = self.slots_used();
        let size = self.geometry.slot_words * 8;
        if used == 0 {
            return;
        }
        // All slots are read twice: if two reads in a row are equal, both show the state of one moment between them.
        for bytes in [&mut *first, &mut *second] {
            bytes.resize(used * size, 0);
            if self.board.bytes(self.geometry.slots_at, bytes).is_none() {
                return;
            }
        }
        let slots = first.chunks_exact(size).zip(second.chunks_exact(size)).enumerate();
        slots.filter_map(|(number, (first, second))| self.slot(number, first, second)).for_each(&mut each);
    }

    /// One slot, read again until two reads agree, at most [`TRIES`] times.
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

/// Whether the words that the sequence guards were complete and equal in both reads.
fn same(before: &[u8; SLOT], after: &[u8; SLOT]) -> bool {
    let sequence = word_of(before, slot::SEQUENCE);
    sequence.is_multiple_of(2)
        && sequence == word_of(after, slot::SEQUENCE)
        && before[slot::GUARDED * 8..] == after[slot::GUARDED * 8..]
}

#[cfg(test)]
#[path = "scoreboard_tests.rs"]
mod tests;
