//! A connection of this process on its status page, and the request that it serves.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, fence};
use std::time::Duration;

use super::text::{address_words, cut, store_address, store_text};
use super::writer::{Board, Slot, now};
use super::{INFO, METHOD, URL, header, slot};

/// A connection on the board, shown until it is dropped.
#[derive(Debug)]
pub struct Connection {
    board: Arc<Board>,
    /// Number of the slot; `None` when none was free: the connection is counted but not shown.
    number: Option<usize>,
    /// Offset of the slot in words.
    at: usize,
    /// The peer's address as a slot stores it: family and two words.
    peer: (u64, [u64; 2]),
    /// Only for a connection without a slot: whether a request is in work.
    unlisted_in_work: AtomicBool,
}

/// The head of a request, shown when the request begins.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// HTTP method: GET, POST …
    pub method: &'a str,
    /// Path and query.
    pub url: &'a str,
    /// HTTP version: 10, 11, 20, 30; 0 if not known.
    pub version: u8,
}

/// The stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The handler runs.
    Processing = 1,
    /// The answer has begun.
    Sending = 2,
    /// The answer is complete.
    Finished = 3,
    /// The answer will never be complete.
    Aborted = 4,
}

impl Connection {
    /// Counts an answer on the board; see [`Board::count_answer`].
    #[inline]
    pub fn count_answer(&self, class: Option<u16>) {
        self.board.count_answer(class);
    }

    /// Counts the time of an answer on the board; see [`Board::count_time`].
    #[inline]
    pub fn count_time(&self, time: Duration) {
        self.board.count_time(time);
    }

    /// Counts and shows an accepted connection. `peer`: its address, `None` if it has none.
    pub fn new(board: Arc<Board>, peer: Option<SocketAddr>) -> Self {
        if board.words[header::NOT_COUNTED].load(Relaxed) != 0 {
            board.words[header::NOT_COUNTED].store(0, Relaxed);
        }
        board.words[header::CONNECTIONS].fetch_add(1, Relaxed);
        Self::show(board, peer)
    }

    /// Shows a request whose connection is not known. It takes a slot like a connection, but is not counted as one.
    pub fn unknown(board: Arc<Board>) -> Self {
        Self::show(board, None)
    }

    fn show(board: Arc<Board>, peer: Option<SocketAddr>) -> Self {
        let number = board.take_slot();
        let words = &board.words;
        let address = address_words(peer.map(|peer| peer.ip()));
        if let Some(number) = number {
            let slot = board.slot(number);
            for word in [slot::IDLE_SINCE, slot::REQUESTS, slot::BYTES_READ, slot::BYTES_WRITTEN, slot::REQUEST] {
                slot[word].store(0, Relaxed);
            }
            let accepted = now();
            write(slot, |slot| {
                slot[slot::START].store(accepted, Relaxed);
                let port = peer.map_or(0, |peer| u64::from(peer.port()) << 16);
                store_address(&slot[slot::PEER_ADDRESS..], address.1);
                slot[slot::PEER].store(address.0 | port, Relaxed);
            });
            slot[slot::IDLE_SINCE].store(accepted, Relaxed);
            slot[slot::STATE].store(slot::IDLE, Release);
            words[header::SLOTS_USED].fetch_max(number as u64 + 1, Release);
        } else {
            words[header::UNLISTED].fetch_add(1, Relaxed);
            words[header::UNLISTED_OPEN].fetch_add(1, Relaxed);
        }
        let at = board.slot_at(number.unwrap_or(0));
        Connection { board, number, at, peer: address, unlisted_in_work: AtomicBool::new(false) }
    }

    #[inline]
    fn slot(&self) -> Option<&Slot> {
        self.number.and_then(|_| self.board.words.get(self.at..)?.first_chunk())
    }

    /// Counts bytes read from the peer. Only the connection's own task may call it.
    #[inline]
    pub fn read(&self, bytes: usize) {
        self.add(header::BYTES_READ, slot::BYTES_READ, bytes);
    }

    /// Counts bytes written to the peer. Only the connection's own task may call it.
    #[inline]
    pub fn wrote(&self, bytes: usize) {
        self.add(header::BYTES_WRITTEN, slot::BYTES_WRITTEN, bytes);
    }

    #[inline]
    fn add(&self, total: usize, own: usize, bytes: usize) {
        self.board.words[total].fetch_add(bytes as u64, Relaxed);
        if let Some(slot) = self.slot() {
            slot[own].store(slot[own].load(Relaxed).wrapping_add(bytes as u64), Relaxed);
        }
    }

    /// Begins a request whose head was read. Returns the request's number on this connection, from 1.
    #[inline]
    pub fn begin(&self, head: Head<'_>) -> u64 {
        self.board.words[header::REQUESTS].fetch_add(1, Relaxed);
        let Some(slot) = self.slot() else { return self.begin_unlisted() };
        let (method, url) = (cut(head.method, METHOD), cut(head.url, URL));
        let began = now();
        write(slot, |slot| {
            let number = slot[slot::REQUESTS].load(Relaxed).wrapping_add(1);
            slot[slot::REQUESTS].store(number, Relaxed);
            slot[slot::REQUEST].store(Stage::Processing as u64, Relaxed);
            slot[slot::REQUEST_START].store(began, Relaxed);
            let (family, address) = self.peer;
            store_address(&slot[slot::CLIENT_ADDRESS..], address);
            let shape = method.len() as u64 | u64::from(head.version) << 8 | family << 16 | (url.len() as u64) << 32;
            slot[slot::REQUEST_SHAPE].store(shape, Relaxed);
            store_text(&slot[slot::METHOD..], method.as_bytes());
            store_text(&slot[slot::URL..], url.as_bytes());
            slot[slot::STATE].store(slot::ACTIVE, Relaxed);
            slot[slot::IDLE_SINCE].store(0, Relaxed);
            number
        })
    }

    /// Counts this connection as one without a slot that has a request in work. Returns 0, which is the number of no request.
    #[cold]
    fn begin_unlisted(&self) -> u64 {
        if !self.unlisted_in_work.swap(true, Relaxed) {
            self.board.words[header::UNLISTED_IN_WORK].fetch_add(1, Relaxed);
        }
        0
    }

    #[cold]
    fn end_unlisted(&self) {
        if self.unlisted_in_work.swap(false, Relaxed) {
            self.board.words[header::UNLISTED_IN_WORK].fetch_sub(1, Relaxed);
        }
    }

    /// Sets the request's stage; `Finished` and `Aborted` end the request.
    #[inline]
    pub fn stage(&self, stage: Stage) {
        let over = matches!(stage, Stage::Finished | Stage::Aborted);
        let Some(slot) = self.slot() else {
            if over {
                self.end_unlisted();
            }
            return;
        };
        slot[slot::REQUEST].store(stage as u64, Relaxed);
        if over {
            slot[slot::IDLE_SINCE].store(now(), Relaxed);
            slot[slot::STATE].store(slot::IDLE, Relaxed);
        }
    }

    /// Sets the client's address, where the peer is a proxy. `number`: from [`Connection::begin`]. Any thread may call it. No effect
    /// when the connection has begun a later request.
    pub fn set_client(&self, number: u64, client: IpAddr) {
        self.describe(number, |slot| {
            let (family, address) = address_words(Some(client));
            store_address(&slot[slot::CLIENT_ADDRESS..], address);
            let shape = slot[slot::REQUEST_SHAPE].load(Relaxed) & !(0xff << 16);
            slot[slot::REQUEST_SHAPE].store(shape | family << 16, Relaxed);
        });
    }

    /// Sets the application's description of the request, a JSON object. `number`: as for [`Connection::set_client`]. Returns `false`
    /// when the object is too long.
    pub fn set_info(&self, number: u64, json: &str) -> bool {
        if json.len() > INFO {
            return false;
        }
        self.describe(number, |slot| {
            store_text(&slot[slot::INFO..], json.as_bytes());
            let shape = slot[slot::REQUEST_SHAPE].load(Relaxed) & !(0xffff << 48);
            slot[slot::REQUEST_SHAPE].store(shape | (json.len() as u64) << 48, Relaxed);
        });
        true
    }

    fn describe(&self, number: u64, change: impl FnOnce(&Slot)) {
        let Some(slot) = self.slot() else { return };
        write(slot, |slot| {
            if slot[slot::REQUESTS].load(Relaxed) == number {
                change(slot);
            }
        });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.board.slot(number)[slot::STATE].store(slot::FREE, Release);
            self.board.taken[number / 64].fetch_and(!(1 << (number % 64)), Release);
        } else {
            self.end_unlisted();
            self.board.words[header::UNLISTED_OPEN].fetch_sub(1, Relaxed);
        }
    }
}

/// Changes guarded words of a slot; the sequence is odd meanwhile. Two threads write at once only when a handler describes its
/// request while the connection begins the next one. The second thread then waits for a few stores of the first.
#[inline]
fn write<T>(slot: &Slot, change: impl FnOnce(&Slot) -> T) -> T {
    let sequence = &slot[slot::SEQUENCE];
    let mut even = sequence.load(Relaxed) & !1;
    let mut tries = 0;
    while let Err(now) = sequence.compare_exchange_weak(even, even.wrapping_add(1), Acquire, Relaxed) {
        even = now & !1;
        tries += 1;
        if tries > 100 {
            // Odd for so long: the writing thread was preempted, so let the scheduler run it.
            std::thread::yield_now();
        }
        if tries > 10_000 {
            break; // no thread of this process made it odd; the page is only a display, so do not wait for ever
        }
    }
    fence(Release);
    let result = change(slot);
    sequence.store(even.wrapping_add(2), Release);
    result
}
