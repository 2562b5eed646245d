//! Datagrams of workers on their notify sockets. `tests/faults/fuzz.rs` gives the same reader pieces of real ones.
#![no_main]

use ratoon::master::workers::sd_notify::{Assignment, parse};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Ok(words) = parse(&input[..input.len().min(4096)]) else { return };
    assert!(words.len() <= 64);
    for word in words {
        if let Assignment::Status(text) = word {
            assert!(!text.contains(char::is_control));
        }
    }
});
