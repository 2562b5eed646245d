//! Helpers for tests: a test runs itself again in a process of its own, so that it can be moved (to a namespace, to a cgroup)
//! without moving other tests.

use std::process::{Command, Output, Stdio};

/// The environment variable that marks the second run.
const AGAIN: &str = "RATOON_TEST_AGAIN";

/// In the second run: returns `None`, and the test goes on. In the first run: runs the test with this full name (below the crate)
/// again under `wrapper`, fails if that run fails, and returns its output.
pub fn in_own_process(test: &str, wrapper: &[&str]) -> Option<Output> {
    in_own_process_with(test, wrapper, Stdio::null())
}

/// As [`in_own_process`], with a standard input.
pub fn in_own_process_with(test: &str, wrapper: &[&str], stdin: Stdio) -> Option<Output> {
    if std::env::var(AGAIN).is_ok_and(|name| name == test) {
        return None;
    }
    let exe = std::env::current_exe().expect("a program");
    let mut words = wrapper.iter().map(std::ffi::OsStr::new).chain([exe.as_os_str()]);
    let mut command = Command::new(words.next().expect("at least the program"));
    command.args(words).args(["--exact", test, "--nocapture", "--test-threads=1"]);
    let output = command.env(AGAIN, test).stdin(stdin).output().expect("the wrapper is installed");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    // A misspelt name would run nothing and succeed.
    assert!(output.status.success() && stdout.contains("1 passed"), "{}\n{stdout}\n{stderr}", output.status);
    Some(output)
}

/// A wrapper that gives the test a `/run` of its own. It needs root, as in CI; without root the test fails and says so.
pub const OWN_RUN: [&str; 6] =
    ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && exec \"$@\"", "sh"];
