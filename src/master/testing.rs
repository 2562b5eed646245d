//! Helpers for tests: releases without an instance, and tests in processes of their own: a test runs itself again in a process of its own, so that it can be moved (to a namespace, to a cgroup)
//! without moving other tests.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crate::config::Overrides;
use crate::master::releases::prepare::{self, InstanceContext, Release, Source};
use crate::master::tasks::Job;

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

/// The values that the releases of a test's instance have in common. The instance has no listening sockets.
pub(in crate::master) fn context(directory: &Path) -> InstanceContext {
    InstanceContext {
        instance: "web".into(),
        control: directory.join("control"),
        listeners: Vec::new().into(),
        nofile: (1024, 4096),
        die_with_parent: Some(libc::SIGKILL),
    }
}

/// A configuration file with this text, in this directory.
pub(in crate::master) fn source(directory: &Path, config: &str) -> Source {
    let file = directory.join("web.toml");
    std::fs::write(&file, config).expect("a file");
    Source { file: Some(file), flags: Overrides::default(), directory: directory.to_owned(), recorded: None }
}

/// A release with this configuration.
pub(in crate::master) fn release(directory: &Path, config: &str) -> Arc<Release> {
    let job = Job::unwatched().expect("a job");
    let prepared = prepare::prepare(&source(directory, config), &context(directory), None, crate::pool::Purpose::Reload, &job);
    prepared.map_err(|why| why.in_full()).expect("a release").release
}
