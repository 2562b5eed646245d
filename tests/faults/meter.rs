//! What a process costs: CPU, memory, descriptors, children.

use std::fs;
use std::time::Duration;

use super::harness::processes;

/// User and system time of a process so far.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let (_, fields) = stat.rsplit_once(") ").expect("a stat line");
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Resident memory of a process, KiB.
pub fn memory(pid: u32) -> u64 {
    let facts = processes::facts(pid);
    facts["VmRSS"].trim_end_matches(" kB").parse().expect("a number")
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours").count()
}

/// What they are, for the message of a test that fails.
pub fn descriptors_told(pid: u32) -> String {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut all: Vec<String> =
        entries.filter_map(|entry| Some(format!("{}", fs::read_link(entry.path()).ok()?.display()))).collect();
    all.sort();
    all.join("\n")
}

/// The children of a process that have ended and wait to be reaped.
pub fn zombies(pid: u32) -> usize {
    let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = |child: &u32| stat(*child).rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
    processes::children(pid).iter().filter(|child| is_zombie(child)).count()
}
