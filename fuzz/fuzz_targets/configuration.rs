//! The file of configuration. `tests/faults/fuzz.rs` gives the same reader pieces of a real one.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(error) = ratoon::config::parse(text, Path::new("web.toml")) {
        assert!(!error.summary().contains('\n') && error.to_string().len() < 20_000);
    }
});
