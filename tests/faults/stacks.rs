//! Stack sizes: every thread of a master on a terminal with a time zone, after all that it does, has used a quarter of its
//! stack at most.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};

use super::harness::{Place, Signal, eventually};

/// A stack must be at least this many times as large as what its thread has used.
const FACTOR: u64 = 4;

/// Threads that every master has: the loop, the log, what may block.
const THREADS: [&str; 3] = ["ratoon-loop", "ratoon-log", "ratoon-blocking"];

/// A terminal: the side of the person who watches, and the side of the programs.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: both numbers are written before it returns 0; no name, modes and size are asked for.
    let made = unsafe { libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null(), std::ptr::null()) };
    assert_eq!(made, 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: openpty has just made both descriptors, and nothing else owns them.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// Reads everything that is written to the terminal into a file, so that the programs on it never wait.
fn copy_to(mut terminal: File, log: std::path::PathBuf) {
    std::thread::spawn(move || {
        let mut log = File::create(log).expect("a file");
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = terminal.read(&mut buffer) {
            std::io::Write::write_all(&mut log, &buffer[..count]).expect("a file");
        }
    });
}

/// The name of each thread but the first, whose stack `ulimit -s` gives, with the size of its stack and what it has touched of
/// it, both in KiB: the mapping that holds its stack pointer. `None` while a thread runs, which has no stack pointer to read.
fn stacks(pid: u32) -> Option<BTreeMap<String, (u64, u64)>> {
    let mappings = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("smaps");
    let mut all = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).expect("a living process").flatten() {
        if thread.file_name().to_str() == Some(&pid.to_string()) {
            continue;
        }
        let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default().trim().to_owned();
        let (name, call) = (read("comm"), read("syscall"));
        let mut fields = call.rsplit(' ');
        // The last two are the stack pointer and the program counter.
        let pointer = fields.nth(1).and_then(|hex| u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok())?;
        let mut inside = false;
        let (mut size, mut touched) = (0, 0);
        for line in mappings.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let range =
                range.and_then(|(from, to)| Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?)));
            if let Some((from, to)) = range {
                inside = (from..to).contains(&pointer);
                if inside {
                    size = (to - from) / 1024;
                }
            } else if inside && line.starts_with("Rss:") {
                touched = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("KiB");
            }
        }
        let most = all.entry(name).or_insert((size, touched));
        *most = (size.min(most.0), touched.max(most.1));
    }
    Some(all)
}

#[test]
fn threads_use_a_quarter_of_their_stack_at_most() {
    let (ours, theirs) = terminal();
    let place = Place::new();
    let log = place.path("terminal");
    copy_to(ours, log.clone());
    let plan = place.pool("count = 2", "[status]\nlisten = '127.0.0.1:0'\n");
    let master = plan.environment("TZ", "Europe/Berlin").environment("TERM", "xterm").stderr(theirs).start();
    let shown = || fs::read_to_string(&log).unwrap_or_default();
    eventually("the log names the generation", || shown().contains("generation 1 is serving").then_some(()), shown);
    // What runs on the threads: a release is read, one fails, lines are printed, the document and its texts are made.
    master.ok(&["reload"]);
    master.place.behave("v1", "exit_at_start=3\nprint=no database\n");
    assert_eq!(master.verb(&["reload"]).code, Some(1), "{}", shown());
    master.place.behave("v1", "");
    master.ok(&["reload"]);
    master.ok(&["recycle"]);
    master.ok(&["status"]);
    master.wait_until_calm();
    let stacks = eventually(
        "every thread sleeps",
        || stacks(master.pid).filter(|all| THREADS.iter().all(|name| all.contains_key(*name))),
        || format!("{:?}", stacks(master.pid)),
    );
    println!("stacks, KiB of size and use: {stacks:?}");
    for (name, (size, touched)) in &stacks {
        assert!(touched * FACTOR <= *size, "{name}: {touched} KiB of {size} KiB are used\n{stacks:?}");
    }
    master.signal(Signal::TERM);
    assert!(master.end().success(), "{}", shown());
}

#[test]
fn a_master_on_a_terminal_survives_every_form_of_zone() {
    for zone in ["Europe/Berlin", ":America/New_York", "CET-1CEST,M3.5.0,M10.5.0/3", "No/Such", "/etc/passwd", ""] {
        let (ours, theirs) = terminal();
        let place = Place::new();
        let log = place.path("terminal");
        copy_to(ours, log.clone());
        let master = place.pool("count = 1", "").environment("TZ", zone).stderr(theirs).start();
        let shown = || fs::read_to_string(&log).unwrap_or_default();
        eventually("the log names the generation", || shown().contains("generation 1 is serving").then_some(()), shown);
        master.signal(Signal::TERM);
        assert!(master.end().success(), "TZ={zone}: {}", shown());
    }
}
