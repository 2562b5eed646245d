//! A master in a directory of its own, started, asked, waited for, and ended with everything that it left.
//!
//! | file | owns |
//! |---|---|
//! | `place.rs` | a test's directory: releases, scripts, configuration |
//! | `plan.rs` | how a master is started: flags, environment, sockets, descriptors |
//! | `master.rs` | the running master |
//! | `systemd.rs` | the systemd that the test plays |
//! | `http.rs` | one request, one answer |
//! | `processes.rs` | what /proc says, signals, and the end of all |

pub mod http;
pub mod master;
pub mod place;
pub mod plan;
pub mod processes;
pub mod systemd;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use master::Master;
pub use place::Place;
pub use plan::Plan;
pub use rustix::process::Signal;
pub use serde_json::Value;

/// Long enough for a machine under load; nothing waits for it but a test that fails.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The program under test.
pub const RATOON: &str = env!("CARGO_BIN_EXE_ratoon");

/// A program of `examples/`; `cargo test` builds them.
pub fn example(name: &str) -> PathBuf {
    let path = Path::new(RATOON).parent().expect("a file in a directory").join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --all-features --examples", path.display());
    path
}

/// Asks until there is an answer; the test fails when there is none in time, saying what `otherwise` knows.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>, otherwise: impl FnOnce() -> String) -> T {
    let deadline = Instant::now() + TIMEOUT;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}\n{}", otherwise());
        std::thread::sleep(pause);
        // Who asks keeps the machine from what is waited for.
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
