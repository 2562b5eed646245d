//! The status page of a worker that writes what it likes: memory that master and worker share.
#![no_main]

use std::time::Duration;

use ratoon::status::scoreboard::{Buffers, Scoreboard};
use ratoon::status::tree::Connection;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let page = Scoreboard::with_slots(16, Duration::from_secs(7)).expect("a page");
    // Ten bytes each: where, and a word to write there.
    for patch in input.chunks_exact(10).take(256) {
        let at = u64::from(u16::from_le_bytes([patch[0], patch[1]])) * 8;
        // Refused beyond the end, as the size is sealed.
        let _ = rustix::io::pwrite(&page, &patch[2..], at);
    }
    let mut json = Vec::new();
    if let Some(shown) = page.read(&mut Buffers::default(), &mut json) {
        let connections: Vec<Connection> = serde_json::from_slice(&json).expect("valid JSON");
        assert_eq!(connections.len(), shown.connections);
        assert!(connections.len() <= 16);
    }
    let (requests, _) = page.serving();
    assert!(requests.len() <= 16);
    page.totals();
    page.mark();
    page.in_work();
});
