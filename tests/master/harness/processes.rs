//! What /proc says of processes, signals to them, and the end of all that a test left.
//!
//! Every process of a test has `RATOON_TEST=DIRECTORY` in its environment; that is how it is found.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The mark of a test's processes.
pub const MARK: &str = "RATOON_TEST";

/// Sends a signal; a process that is gone is none to signal.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
        let _ = pidfd_send_signal(pidfd, signal);
    }
}

/// Whether the process lives: a zombie does not.
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the state may hold anything, a parenthesis too.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The fields of `/proc/PID/status`.
pub fn facts(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    parse_facts(&text)
}

/// `Name:\tvalue` lines.
pub fn parse_facts(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.into(), value.trim().into())).collect()
}

/// All threads of a process.
pub fn threads(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

/// The children of a process, zombies too, by number.
pub fn children(pid: u32) -> Vec<u32> {
    let of = |task: u32| fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
    let all = threads(pid).into_iter().map(of).collect::<Vec<_>>().join(" ");
    let mut children: Vec<u32> = all.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect();
    children.sort_unstable();
    children
}

/// Living processes with this entry in their environment.
pub fn with_environment(entry: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|it| it == entry.as_bytes()) && lives(*pid)
    })
    .collect()
}

/// Ends every process of the test in this directory.
pub fn end_all_of(directory: &Path) {
    let mark = format!("{MARK}={}", directory.display());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = with_environment(&mark);
        if left.is_empty() {
            return;
        }
        for pid in &left {
            signal(*pid, Signal::KILL);
        }
        if Instant::now() > deadline {
            return eprintln!("left behind by a test: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
