//! The status document of another master, which `ratoon -H HOST status` reads.
#![no_main]

use ratoon::status::tree::Document;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Ok(document) = serde_json::from_slice::<Document>(input) else { return };
    // A document that was read can be written, and reads the same again.
    let once = serde_json::to_string(&document).expect("a document");
    let again: Document = serde_json::from_str(&once).expect("the same document");
    assert_eq!(serde_json::to_string(&again).expect("a document"), once);
});
