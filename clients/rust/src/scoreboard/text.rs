//! Texts and addresses as the words of a page.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// The word of these 8 bytes.
#[inline]
fn word_of(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes.try_into().expect("8 bytes"))
}

/// Stores a text, its bytes in order of their addresses.
#[inline]
pub(super) fn store_text(words: &[AtomicU64], text: &[u8]) {
    let whole = text.chunks_exact(WORD);
    let rest = whole.remainder();
    for (word, bytes) in words.iter().zip(whole) {
        word.store(word_of(bytes), Relaxed);
    }
    let Some(word) = words.get(text.len() / WORD).filter(|_| !rest.is_empty()) else { return };
    // A copy of a variable length would be a function call. So a text of 8 bytes or more is loaded by its last 8 bytes, and those
    // already stored are shifted out; a shorter text is assembled byte by byte.
    let last = match text.last_chunk() {
        Some(last) => u64::from_le_bytes(*last) >> (8 * (8 - rest.len())),
        None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    word.store(u64::from_ne_bytes(last.to_le_bytes()), Relaxed);
}

/// An address as a slot stores it: its family (0 for none, 4, 6) and two words.
pub(super) fn address_words(address: Option<IpAddr>) -> (u64, [u64; 2]) {
    let mut bytes = [0; 16];
    let family = match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V4(four)) => {
            bytes[..4].copy_from_slice(&four.octets());
            4
        }
        Some(IpAddr::V6(six)) => {
            bytes = six.octets();
            6
        }
        None => 0,
    };
    let (first, second) = bytes.split_at(WORD);
    (family, [word_of(first), word_of(second)])
}

/// Stores the two words of an address.
#[inline]
pub(super) fn store_address(words: &[AtomicU64], address: [u64; 2]) {
    words.iter().zip(address).for_each(|(word, part)| word.store(part, Relaxed));
}

/// The text, cut to at most `most` bytes between two characters.
#[inline]
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
