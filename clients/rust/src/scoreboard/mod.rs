//! The scoreboard: a page of shared memory on which a worker shows its connections and requests. This is its layout, for
//! writers and readers.
//!
//! A worker inherits one memfd; `RATOON_SCOREBOARD` is its descriptor's number. The worker maps it shared and writes to it. The master
//! reads it when a status is requested, also when the worker hangs or has exited. Any language that can map a file can write it.
//!
//! Law: the reader trusts nothing on the page; it leaves out values that make no sense.
//!
//! # Layout, version 1
//!
//! All numbers are unsigned 64-bit words in the machine's byte order at offsets that 8 divides; texts are UTF-8, their
//! bytes in order of their addresses. Times are nanoseconds of `CLOCK_MONOTONIC`
//! (`CLOCK_MONOTONIC_COARSE` is precise enough), 0 for none. The master fills in the first eight words before it passes the page
//! to the worker. The worker must take offsets and sizes from there, and must not use a page whose magic or version it doesn't know.
//!
//! | word of the header | meaning |
//! |---|---|
//! | 0 | magic: the bytes `RATOONSB` |
//! | 1 | version: 1 |
//! | 2 | size of the page in bytes |
//! | 3, 4 | offset of the named counters in bytes; how many there may be (32) |
//! | 5, 6, 7 | offset of the connection slots in bytes; size of one (640); how many there may be |
//! | 8 | the writer's pid; 0: no process writes, and no number here is valid. Set by compare-and-swap from 0: a page has one writer |
//! | 9 | how long a drain may take until the worker is killed, nanoseconds; the master fills it in; 0: not known |
//! | 16 | connections accepted |
//! | 17 | requests begun |
//! | 18, 19 | bytes read from clients, bytes written to them |
//! | 20 | number of the first slot that was never used; no later slot was used either |
//! | 21 | connections that found no free slot (they are in word 16, too) |
//! | 22 | what the writer does not count: bit 0 connections (word 16), bit 1 bytes read (word 18), bit 2 bytes written (word 19) |
//! | 23, 24 | open connections without a slot; of those, how many have a request in work |
//! | 25, 26, 27 | answers whose time was taken; the sum of the logarithms of their times; the sum of the squares of these logarithms |
//!
//! The other words up to the counters are 0 and reserved. Words 16 to 19 are running totals and never fall. A writer
//! that does not count connections or bytes sets word 22 before its first request: these totals are then shown as "not known".
//!
//! The time of an answer is that from the request to the head of the answer, or to the answer's end where the writer does not see the head; an
//! answer that was cut off has none. Its logarithm is a whole number: sixteen times the logarithm to base two of its microseconds, 0 for less than one, at most 640.
//! A writer that takes no times leaves words 25 to 27 at 0, and may leave out a part of the answers; an older reader ignores these words.
//! (The worker libraries in `clients` write the page in other languages: those for Python and Go map it, those for Node.js and Ruby write
//! at offsets of the file.)
//!
//! A named counter takes 64 bytes. Word 0 is 0 while the counter is free, 1 while its name is written (compare-and-swap from 0),
//! 2 when it counts. Word 1 is its running total. The other 48 bytes are its name, ended by a NUL if shorter. A counter
//! keeps its name. The first free counter follows the last used counter.
//!
//! | word of a slot | meaning |
//! |---|---|
//! | 0 | 0 free, 1 idle, 2 active (a request is in work) |
//! | 1 | sequence: odd while words 8 … 79 are written |
//! | 2 | since when the connection is idle |
//! | 3 | requests begun on the connection |
//! | 4, 5 | bytes read, bytes written |
//! | 6 | the request: 0 none, 1 processing, 2 sending its answer, 3 finished, 4 aborted |
//! | 8 | when the connection was accepted |
//! | 9 | the peer: bits 0–7 its address's family (0 none or unknown, 4, 6); bits 16–31 its port |
//! | 10, 11 | the peer's address: 4 or 16 bytes in network order |
//! | 12 | when the request began |
//! | 13 | of the request: bits 0–7 length of the method, 8–15 HTTP version (10, 11, 20, 30), 16–23 family of the client's address, 32–47 length of the URL, 48–63 length of the info |
//! | 14, 15 | the client's address, as in 10, 11 |
//! | 16, 17 | method, up to 16 bytes |
//! | 18 – 47 | URL (path and query), cut to 240 bytes |
//! | 48 – 79 | info: a JSON object of up to 256 bytes, or nothing |
//!
//! A writer of words 8 … 79 makes the sequence odd (by compare-and-swap from even, if several threads may write one slot), executes a
//! release fence, writes the words, then increments the sequence with release ordering. Words 0 and 2 … 6 are written singly at
//! any time. A slot with 0 in word 0 is free.
#![forbid(unsafe_code)]

#[cfg(feature = "worker")]
pub mod connection;
pub mod entry;
#[cfg(feature = "worker")]
pub(crate) mod text;
#[cfg(feature = "worker")]
pub mod writer;

/// Word 0 of a page: `RATOONSB`.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"RATOONSB");
/// Word 1 of a page.
pub const VERSION: u64 = 1;
/// Connection slots of a scoreboard that the master makes; with them the scoreboard has 256 KiB.
pub const SLOTS: usize = 400;
/// Named counters of a page.
pub const COUNTERS: usize = 32;
/// Longest name of a counter, bytes.
pub const COUNTER_NAME: usize = 48;
/// Longest URL that is shown uncut, bytes.
pub const URL: usize = 240;
/// Largest info of a request, bytes of JSON.
pub const INFO: usize = 256;
/// Longest method, bytes.
pub const METHOD: usize = 16;

/// Words of the header.
#[allow(missing_docs, reason = "the tables above say what each number is")]
pub mod header {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 1;
    pub const SIZE: usize = 2;
    pub const COUNTERS_AT: usize = 3;
    pub const COUNTERS: usize = 4;
    pub const SLOTS_AT: usize = 5;
    pub const SLOT_SIZE: usize = 6;
    pub const SLOTS: usize = 7;
    pub const PID: usize = 8;
    pub const STOP_TIMEOUT: usize = 9;
    pub const CONNECTIONS: usize = 16;
    pub const REQUESTS: usize = 17;
    pub const BYTES_READ: usize = 18;
    pub const BYTES_WRITTEN: usize = 19;
    pub const SLOTS_USED: usize = 20;
    pub const UNLISTED: usize = 21;
    pub const NOT_COUNTED: usize = 22;
    pub const UNLISTED_OPEN: usize = 23;
    pub const UNLISTED_IN_WORK: usize = 24;
    pub const TIMED: usize = 25;
    pub const TIMED_LOGS: usize = 26;
    pub const TIMED_SQUARES: usize = 27;
    /// Words of the header.
    pub const WORDS: usize = 64;
}

/// Bits of the header's word 22.
#[allow(missing_docs, reason = "the tables above say what each number is")]
pub mod not_counted {
    pub const CONNECTIONS: u64 = 1;
    pub const BYTES_READ: u64 = 2;
    pub const BYTES_WRITTEN: u64 = 4;
    /// All bits: only requests are counted.
    pub const ALL: u64 = CONNECTIONS | BYTES_READ | BYTES_WRITTEN;
}

/// Words of a named counter.
#[allow(missing_docs, reason = "the tables above say what each number is")]
pub mod counter {
    pub const STATE: usize = 0;
    pub const VALUE: usize = 1;
    pub const NAME: usize = 2;
    /// Words of a counter.
    pub const WORDS: usize = 8;
    pub const FREE: u64 = 0;
    pub const NAMING: u64 = 1;
    pub const USED: u64 = 2;
}

/// Words of a connection slot.
#[allow(missing_docs, reason = "the tables above say what each number is")]
pub mod slot {
    pub const STATE: usize = 0;
    pub const SEQUENCE: usize = 1;
    pub const IDLE_SINCE: usize = 2;
    pub const REQUESTS: usize = 3;
    pub const BYTES_READ: usize = 4;
    pub const BYTES_WRITTEN: usize = 5;
    pub const REQUEST: usize = 6;
    /// The first word that the sequence number guards; all later words are guarded, too.
    pub const GUARDED: usize = 8;
    pub const START: usize = 8;
    pub const PEER: usize = 9;
    pub const PEER_ADDRESS: usize = 10;
    pub const REQUEST_START: usize = 12;
    pub const REQUEST_SHAPE: usize = 13;
    pub const CLIENT_ADDRESS: usize = 14;
    pub const METHOD: usize = 16;
    pub const URL: usize = 18;
    pub const INFO: usize = 48;
    /// Words of a slot.
    pub const WORDS: usize = 80;
    pub const FREE: u64 = 0;
    pub const IDLE: u64 = 1;
    pub const ACTIVE: u64 = 2;
}

/// Offsets and numbers of counters and slots: the header's words 2 to 7, checked against the size of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the page in bytes.
    pub size: usize,
    /// Offset of the counters in words.
    pub counters_at: usize,
    /// Number of counters.
    pub counters: usize,
    /// Offset of the slots in words.
    pub slots_at: usize,
    /// Words of a slot; at least the 80 of this version.
    pub slot_words: usize,
    /// Number of slots.
    pub slots: usize,
}

impl Geometry {
    /// The geometry of a page of this version with this number of slots, clamped to 1 … 16384.
    pub fn new(slots: usize) -> Self {
        let slots = slots.clamp(1, 16384);
        let slots_at = 512; // the second 4 KiB page, so that a worker that only counts touches one page
        let size = (slots_at + slots * slot::WORDS).next_multiple_of(512) * 8;
        Geometry { size, counters_at: header::WORDS, counters: COUNTERS, slots_at, slot_words: slot::WORDS, slots }
    }

    /// The first eight words of the header.
    pub fn header(&self) -> [u64; 8] {
        let bytes = |words: usize| (words * 8) as u64;
        let (counters, slots) = (self.counters as u64, self.slots as u64);
        let counters_at = bytes(self.counters_at);
        [MAGIC, VERSION, self.size as u64, counters_at, counters, bytes(self.slots_at), bytes(self.slot_words), slots]
    }

    /// Reads the geometry from a header and checks it. `size`: the actual size of the page in bytes. The error is a text for people.
    pub fn read(words: &[u64; 8], size: usize) -> Result<Self, String> {
        if words[header::MAGIC] != MAGIC {
            return Err(format!("not a scoreboard: its magic is {:#x}", words[header::MAGIC]));
        }
        if words[header::VERSION] != VERSION {
            return Err(format!("version {} of the scoreboard is not known, {VERSION} is", words[header::VERSION]));
        }
        let number =
            |word: usize| usize::try_from(words[word]).map_err(|error| format!("word {word} of the scoreboard: {error}"));
        let place = |word: usize| match number(word)? {
            bytes if bytes % 8 == 0 => Ok(bytes / 8),
            bytes => Err(format!("word {word} of the scoreboard: 8 does not divide {bytes}")),
        };
        let geometry = Geometry {
            size: number(header::SIZE)?,
            counters_at: place(header::COUNTERS_AT)?,
            counters: number(header::COUNTERS)?,
            slots_at: place(header::SLOTS_AT)?,
            slot_words: place(header::SLOT_SIZE)?,
            slots: number(header::SLOTS)?,
        };
        let end = |at: usize, count: usize, each: usize| count.checked_mul(each).and_then(|words| at.checked_add(words));
        let fits = geometry.size == size
            && geometry.counters_at >= header::WORDS
            && geometry.counters <= COUNTERS
            && geometry.slot_words >= slot::WORDS
            && end(geometry.counters_at, geometry.counters, counter::WORDS).is_some_and(|end| end <= geometry.slots_at)
            && end(geometry.slots_at, geometry.slots, geometry.slot_words).is_some_and(|end| end <= size / 8);
        if fits { Ok(geometry) } else { Err(format!("the scoreboard's parts do not fit into its {size} bytes: {geometry:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_page_has_256_kib() {
        let geometry = Geometry::new(SLOTS);
        assert_eq!(geometry.size, 256 << 10);
        assert_eq!(Geometry::read(&geometry.header(), geometry.size), Ok(geometry));
        for slots in [0, 1, 7, 16384, usize::MAX] {
            let geometry = Geometry::new(slots);
            assert_eq!(Geometry::read(&geometry.header(), geometry.size), Ok(geometry));
        }
    }

    #[test]
    fn a_header_that_reaches_out_of_its_page_is_refused() {
        let geometry = Geometry::new(10);
        assert!(Geometry::read(&geometry.header(), geometry.size - 8).is_err());
        for word in 0..8 {
            for lie in [1, 12, 513, 1 << 20, u64::MAX - 7, u64::MAX / 640] {
                let mut header = geometry.header();
                header[word] = lie;
                if header == geometry.header() {
                    continue;
                }
                match Geometry::read(&header, geometry.size) {
                    Err(_) => {}
                    // A wrong header may describe less than the page has, but never more.
                    Ok(read) => {
                        let end = |at: usize, count: usize, each: usize| at as u128 + count as u128 * each as u128;
                        assert!(end(read.counters_at, read.counters, counter::WORDS) <= read.slots_at as u128, "{word} {lie}");
                        assert!(end(read.slots_at, read.slots, read.slot_words) <= geometry.size as u128 / 8, "{word} {lie}");
                        assert!((2..8).contains(&word) && read.size == geometry.size && read.slot_words >= slot::WORDS);
                    }
                }
            }
        }
    }
}
