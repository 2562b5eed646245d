//! The worker's side of the scoreboard: counts and shows connections and requests.
//!
//! Law: no update for a request blocks, fails or allocates; it is a few atomic stores. Without an inherited page the same
//! words are written to private memory, from which an overdue drain logs its requests.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize, fence};
use std::time::Duration;
use std::{array, io};

use rustix::time::{ClockId, clock_gettime};

use super::entry::Entry;
use super::text::{cut, store_text};
use super::{COUNTER_NAME, Geometry, SLOTS, counter, header, not_counted, slot};
use crate::sys::map::Words;

/// The standard counters of answers: those that were cut off, then each class of status.
const ANSWERS: [&str; 6] = ["errors", "responses_1xx", "responses_2xx", "responses_3xx", "responses_4xx", "responses_5xx"];
/// No answer of this class was counted yet.
const NOT_LOOKED_UP: usize = usize::MAX;
/// All counters are taken.
const NO_ROOM: usize = usize::MAX - 1;

/// Units of the logarithm of a time in a factor of two, and the largest logarithm.
const LOG_UNITS: f64 = 16.0;
const LOG_MAX: u64 = 640;

/// A scoreboard page that this process writes.
#[derive(Debug)]
pub struct Board {
    pub(super) words: Words,
    geometry: Geometry,
    /// One bit for each slot in use. It is private to this process.
    pub(super) taken: Box<[AtomicU64]>,
    /// The place of the counter of each of [`ANSWERS`], words; or [`NOT_LOOKED_UP`], or [`NO_ROOM`].
    answers: [AtomicUsize; ANSWERS.len()],
}

/// The words of a slot. The length is constant, so accesses need no bounds check.
pub(super) type Slot = [AtomicU64; slot::WORDS];

/// `CLOCK_MONOTONIC_COARSE` in nanoseconds: the time of the kernel's last tick. A precision of some milliseconds is enough for a
/// display, and the call costs a tenth of the exact one.
#[inline]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Board {
    /// Maps an inherited page and becomes its writer. Fails when it is no page of this version, or another process writes it.
    pub fn shared(fd: impl AsFd) -> io::Result<Self> {
        let board = Self::of(Words::shared(fd)?)?;
        let pid = u64::from(std::process::id());
        match board.words[header::PID].compare_exchange(0, pid, AcqRel, Acquire) {
            Ok(_) => Ok(board),
            Err(other) if other == pid => Ok(board),
            Err(other) => Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("process {other} writes it"))),
        }
    }

    /// A page in private memory, which no other process sees.
    ///
    /// # Panics
    /// When 256 KiB of memory cannot be mapped.
    pub fn private() -> Self {
        let geometry = Geometry::new(SLOTS);
        let words = Words::private(geometry.size).expect("address space of 256 KiB");
        for (word, value) in words.iter().zip(geometry.header()) {
            word.store(value, Relaxed);
        }
        Self::of(words).expect("a page as we make it")
    }

    /// How long a drain may take until the master kills the worker; `None` when the page does not say.
    pub fn stop_timeout(&self) -> Option<Duration> {
        let told = self.words[header::STOP_TIMEOUT].load(Relaxed);
        (told > 0).then(|| Duration::from_nanos(told))
    }

    fn of(words: Words) -> io::Result<Self> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        if words.len() < header::WORDS {
            return Err(wrong(format!("{} bytes are no scoreboard", words.len() * 8)));
        }
        let head = array::from_fn(|word| words[word].load(Acquire));
        let geometry = Geometry::read(&head, words.len() * 8).map_err(wrong)?;
        let taken = (0..geometry.slots.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let answers = array::from_fn(|_| AtomicUsize::new(NOT_LOOKED_UP));
        Ok(Board { words, geometry, taken, answers })
    }

    /// Takes the lowest free slot and returns its number. Low numbers come first so that unused memory pages are never touched.
    pub(super) fn take_slot(&self) -> Option<usize> {
        for (group, bits) in self.taken.iter().enumerate() {
            let mut seen = bits.load(Relaxed);
            while seen != u64::MAX {
                let bit = (!seen).trailing_zeros();
                let number = group * 64 + bit as usize;
                if number >= self.geometry.slots {
                    return None;
                }
                match bits.compare_exchange_weak(seen, seen | 1 << bit, AcqRel, Relaxed) {
                    Ok(_) => return Some(number),
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// Offset of a slot in words.
    pub(super) fn slot_at(&self, number: usize) -> usize {
        self.geometry.slots_at + number * self.geometry.slot_words
    }

    pub(super) fn slot(&self, number: usize) -> &Slot {
        self.words[self.slot_at(number)..].first_chunk().expect("the page's geometry was checked")
    }

    /// All connections that are shown now, for this process itself. (The master has a reader that does not trust the writer.)
    pub fn entries(&self) -> Vec<Entry> {
        let used = usize::try_from(self.words[header::SLOTS_USED].load(Relaxed)).unwrap_or(usize::MAX);
        (0..used.min(self.geometry.slots)).filter_map(|number| self.entry(number)).collect()
    }

    /// Marks connections and bytes as not counted: this program counts only requests. No effect once a connection was counted.
    pub fn count_requests_only(&self) {
        if self.words[header::CONNECTIONS].load(Relaxed) == 0 {
            self.words[header::NOT_COUNTED].store(not_counted::ALL, Relaxed);
        }
    }

    /// Number of open connections that found no free slot and therefore are not in [`Self::entries`].
    pub fn unlisted(&self) -> u64 {
        self.words[header::UNLISTED_OPEN].load(Relaxed)
    }

    fn entry(&self, number: usize) -> Option<Entry> {
        let slot = self.slot(number);
        let mut copy = [0; slot::WORDS];
        for _ in 0..100 {
            let before = slot[slot::SEQUENCE].load(Acquire);
            copy = array::from_fn(|word| slot[word].load(Relaxed));
            fence(Acquire);
            if before % 2 == 0 && slot[slot::SEQUENCE].load(Relaxed) == before {
                return Entry::read(&copy, true);
            }
        }
        Entry::read(&copy, false)
    }

    /// The counter with this name, created if it does not exist. `None` when all counters are taken, or when the name is empty. Names
    /// are cut to 48 bytes.
    pub fn counter(&self, name: &str) -> Option<&AtomicU64> {
        Some(&self.words[self.counter_at(name)?])
    }

    /// Counts an answer of this class (`responses_2xx` for 2), or one that was cut off (`errors`) for `None` or another number.
    #[inline]
    pub fn count_answer(&self, class: Option<u16>) {
        let class = class.filter(|class| (1..=5).contains(class)).map_or(0, usize::from);
        let mut at = self.answers[class].load(Relaxed);
        if at == NOT_LOOKED_UP {
            at = self.counter_at(ANSWERS[class]).unwrap_or(NO_ROOM);
            self.answers[class].store(at, Relaxed);
        }
        if at != NO_ROOM {
            self.words[at].fetch_add(1, Relaxed);
        }
    }

    /// Counts an answer that was given after this time.
    #[inline]
    pub fn count_time(&self, time: Duration) {
        let log = (time.as_secs_f64() * 1e6).max(1.0).log2() * LOG_UNITS;
        let log = (log.round() as u64).min(LOG_MAX);
        for (word, value) in [(header::TIMED, 1), (header::TIMED_LOGS, log), (header::TIMED_SQUARES, log * log)] {
            self.words[word].fetch_add(value, Relaxed);
        }
    }

    /// The sums of [`Self::count_time`].
    #[cfg(test)]
    pub(crate) fn times(&self) -> [u64; 3] {
        [header::TIMED, header::TIMED_LOGS, header::TIMED_SQUARES].map(|word| self.words[word].load(Relaxed))
    }

    /// The place of a counter's value, words.
    fn counter_at(&self, name: &str) -> Option<usize> {
        let name = cut(name.split('\0').next().filter(|name| !name.is_empty())?, COUNTER_NAME);
        for number in 0..self.geometry.counters {
            let at = self.geometry.counters_at + number * counter::WORDS;
            let words = &self.words[at..at + counter::WORDS];
            let state = &words[counter::STATE];
            if state.compare_exchange(counter::FREE, counter::NAMING, AcqRel, Acquire).is_ok() {
                store_text(&words[counter::NAME..], name.as_bytes());
                state.store(counter::USED, Release);
                return Some(at + counter::VALUE);
            }
            // Another thread writes the name, which takes a few stores. A counter that an ended process left unnamed is skipped.
            for _ in 0..1000 {
                if state.load(Acquire) != counter::NAMING {
                    break;
                }
                std::thread::yield_now();
            }
            let mut named = [0; COUNTER_NAME];
            for (bytes, word) in named.chunks_exact_mut(8).zip(&words[counter::NAME..]) {
                bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
            }
            if state.load(Acquire) == counter::USED
                && named.starts_with(name.as_bytes())
                && named[name.len()..].iter().all(|b| *b == 0)
            {
                return Some(at + counter::VALUE);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::connection::{Connection, Head, Stage};
    use super::*;

    /// Miri runs it with other interleavings, and looks for races and wrong pointers (`tests/miri`).
    #[test]
    fn private_page_never_shows_half_of_a_request() {
        const REQUESTS: u64 = if cfg!(miri) { 6 } else { 20_000 };
        let board = Arc::new(Board::private());
        let connection = Connection::new(Arc::clone(&board), Some(([192, 0, 2, 7], 4711).into()));
        let writer = std::thread::spawn(move || {
            for number in 1..=REQUESTS {
                let (method, url) = if number % 2 == 0 { ("GET", "/aaaaaaaaaaaaaaaaaaaa") } else { ("POST", "/bbbbbbbbbb") };
                assert_eq!(connection.begin(Head { method, url, version: 11 }), number);
                connection.read(100);
                connection.stage(Stage::Finished);
                connection.wrote(50);
            }
            connection
        });
        while !writer.is_finished() {
            let Some(request) = board.entry(0).and_then(|entry| entry.guarded).and_then(|guarded| guarded.request) else {
                continue;
            };
            let expected = if request.method == "GET" { "/aaaaaaaaaaaaaaaaaaaa" } else { "/bbbbbbbbbb" };
            assert_eq!((request.url.as_str(), request.version), (expected, "1.1"), "{}", request.method);
        }
        let connection = writer.join().expect("the writer");
        let entry = board.entry(0).expect("a connection");
        assert_eq!((entry.requests, entry.bytes_read, entry.bytes_written), (REQUESTS, REQUESTS * 100, REQUESTS * 50));
        drop(connection);
        assert!(board.entry(0).is_none());
    }
}
