//! Decodes the words of one connection slot or one counter into plain values.
//!
//! Law: any words are decoded without a panic and within bounds; texts are made valid UTF-8.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{COUNTER_NAME, INFO, METHOD, URL, counter, slot};

/// A connection as its slot shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether a request is in work.
    pub active: bool,
    /// Since when the connection is idle, nanoseconds of `CLOCK_MONOTONIC`; `None` while a request is in work, and if not known.
    pub idle_since: Option<u64>,
    /// Requests begun on this connection.
    pub requests: u64,
    /// Bytes read from the client.
    pub bytes_read: u64,
    /// Bytes written to the client.
    pub bytes_written: u64,
    /// The words that the sequence number guards; `None` when each read met a write in progress.
    pub guarded: Option<Guarded>,
}

/// The words of a slot that the sequence number guards, so that they are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// When the connection was accepted, nanoseconds of `CLOCK_MONOTONIC`.
    pub start: Option<u64>,
    /// The peer's address.
    pub address: Option<IpAddr>,
    /// The peer's port.
    pub port: Option<u16>,
    /// The request in work, or the last one.
    pub request: Option<Request>,
}

/// A request as its slot shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `processing`, `sending`, `finished` or `aborted`.
    pub state: &'static str,
    /// When the request began, nanoseconds of `CLOCK_MONOTONIC`.
    pub start: Option<u64>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// HTTP method: GET, POST …
    pub method: String,
    /// Path and query, cut to [`URL`] bytes.
    pub url: String,
    /// HTTP version: `1.0`, `1.1`, `2`, `3`; empty if not known.
    pub version: &'static str,
    /// The application's JSON object; the text is not checked here.
    pub info: String,
}

impl Entry {
    /// Decodes a slot; `None` when the slot is free. `whole`: no write changed the guarded words while they were read.
    pub fn read(words: &[u64; slot::WORDS], whole: bool) -> Option<Self> {
        let active = match words[slot::STATE] {
            slot::IDLE => false,
            slot::ACTIVE => true,
            _ => return None,
        };
        Some(Entry {
            active,
            idle_since: time(words[slot::IDLE_SINCE]).filter(|_| !active),
            requests: words[slot::REQUESTS],
            bytes_read: words[slot::BYTES_READ],
            bytes_written: words[slot::BYTES_WRITTEN],
            guarded: whole.then(|| Guarded::read(words)),
        })
    }
}

impl Guarded {
    fn read(words: &[u64; slot::WORDS]) -> Self {
        let peer = words[slot::PEER];
        let address = address(peer as u8, &words[slot::PEER_ADDRESS..]);
        Guarded {
            start: time(words[slot::START]),
            address,
            port: address.map(|_| (peer >> 16) as u16),
            request: Request::read(words),
        }
    }
}

impl Request {
    fn read(words: &[u64; slot::WORDS]) -> Option<Self> {
        let shape = words[slot::REQUEST_SHAPE];
        let state = match words[slot::REQUEST] {
            1 => "processing",
            2 => "sending",
            3 => "finished",
            4 => "aborted",
            _ => return None,
        };
        Some(Request {
            state,
            start: time(words[slot::REQUEST_START]),
            client: address((shape >> 16) as u8, &words[slot::CLIENT_ADDRESS..]),
            method: text(&words[slot::METHOD..], usize::from(shape as u8), METHOD),
            url: text(&words[slot::URL..], usize::from((shape >> 32) as u16), URL),
            version: match (shape >> 8) as u8 {
                10 => "1.0",
                11 => "1.1",
                20 => "2",
                30 => "3",
                _ => "",
            },
            info: text(&words[slot::INFO..], usize::from((shape >> 48) as u16), INFO),
        })
    }
}

/// A counter's name and running total; `None` while it has no name.
pub fn counter(words: &[u64; counter::WORDS]) -> Option<(String, u64)> {
    let bytes = words[counter::NAME..].iter().flat_map(|word| word.to_ne_bytes());
    let len = bytes.take_while(|byte| *byte != 0).count();
    (words[counter::STATE] == counter::USED && len > 0)
        .then(|| (text(&words[counter::NAME..], len, COUNTER_NAME), words[counter::VALUE]))
}

fn time(word: u64) -> Option<u64> {
    (word != 0).then_some(word)
}

fn address(family: u8, words: &[u64]) -> Option<IpAddr> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
    match family {
        4 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// Decodes `len` bytes of text, at most `most`. An incomplete character at the end is removed.
fn text(words: &[u64], len: usize, most: usize) -> String {
    let len = len.min(most);
    let mut bytes = Vec::with_capacity(words.len().min(len.div_ceil(8)) * 8);
    words.iter().take(len.div_ceil(8)).for_each(|word| bytes.extend_from_slice(&word.to_ne_bytes()));
    bytes.truncate(len);
    // Fast path: most texts are printable ASCII.
    if bytes.iter().all(|byte| (b' '..0x7f).contains(byte)) {
        return String::from_utf8(bytes).unwrap_or_default();
    }
    let valid = match std::str::from_utf8(&bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => &bytes[..],
    };
    // Control characters are replaced, since a terminal could take them for a command.
    String::from_utf8_lossy(valid).chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
