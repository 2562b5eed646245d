//! Tests on the real cgroup v2 tree of this machine. Each test makes its own group, marked as systemd marks a delegated group.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::XattrFlags;

use super::*;
use crate::master::testing::in_own_process;

/// A delegated group. Dropping it removes the group and its sub-groups.
struct Delegated(PathBuf);

impl Delegated {
    fn new(name: &str) -> Delegated {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        let root = find::own_group("0::/", &mounts).expect("these tests need a cgroup2 mount");
        let path = root.join(format!("ratoon-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("these tests need root, to make a cgroup");
        Self::mark(&path);
        Delegated(path)
    }

    fn mark(path: &Path) {
        rustix::fs::setxattr(path, "user.delegate", b"1", XattrFlags::empty()).expect("an attribute");
    }

    /// The group as in a unit with `DelegateSubgroup=master`, but this process is not in it.
    fn cgroups(&self) -> Cgroups {
        fs::create_dir_all(self.0.join(MASTER)).expect("a group");
        Cgroups::at(&self.0.join(MASTER), false).expect("usable").expect("delegated")
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = group::write(&self.0.join("cgroup.kill"), "1");
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while group::remove_tree(&self.0).is_err() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

/// Starts a shell in the group, and waits until it has printed "in".
fn start(group: &WorkerGroup, script: &str) -> Child {
    let procs = group.path().join("cgroup.procs");
    let script = format!("echo 0 > {}; echo in; {script}", procs.display());
    let mut child = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("sh");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "in\n");
    child
}

/// Waits for the group of this worker to be reported as empty.
fn wait_for_empty(cgroups: &mut Cgroups, worker: u64) {
    let within = Timespec { tv_sec: 20, tv_nsec: 0 };
    loop {
        let mut fds = [PollFd::from_borrowed_fd(cgroups.events_fd().expect("inotify"), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&within)).expect("poll"), 1, "no event came");
        if cgroups.drain().contains(&worker) {
            return;
        }
    }
}

#[test]
fn a_worker_and_its_grandchildren_live_and_end_in_their_group() {
    let base = Delegated::new("kill");
    let mut cgroups = base.cgroups();
    let group = cgroups.create(7, 1, 0, &Limits::default()).expect("a group");
    assert!(!group.populated());
    // The script leaves a grandchild in another session, without its parent.
    let mut child = start(&group, "setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000");
    assert!(group.populated());
    assert!(cgroups.drain().is_empty(), "a group with processes is not empty");
    assert!(cgroups.create(7, 1, 0, &Limits::default()).is_err(), "a living group is not made anew");
    group.kill().expect("killed");
    wait_for_empty(&mut cgroups, 7);
    assert!(!group.populated());
    child.wait().expect("a child");
    let path = group.path().to_owned();
    cgroups.remove(&group).expect("empty");
    assert!(!path.exists());
}

#[test]
fn killing_by_hand_reaches_the_same_processes() {
    let base = Delegated::new("by-hand");
    let mut cgroups = base.cgroups();
    let group = cgroups.create(1, 1, 0, &Limits::default()).expect("a group");
    let below = group.path().join("own-subgroup");
    fs::create_dir(&below).expect("a group");
    let script = format!("setsid sleep 1000 & (echo 0 > {}/cgroup.procs; exec sleep 1000) & sleep 1000", below.display());
    let mut child = start(&group, &script);
    group::kill_each(group.path(), 0).expect("killed");
    // The subshell may have changed its group during the scan, so kill again while the group is populated.
    while group.populated() {
        group::kill_each(group.path(), 0).expect("killed");
    }
    child.wait().expect("a child");
    cgroups.remove(&group).expect("sub-groups of the worker's own go too");
}

#[test]
fn a_group_with_processes_is_not_removed() {
    let base = Delegated::new("busy");
    let mut cgroups = base.cgroups();
    let group = cgroups.create(1, 1, 0, &Limits::default()).expect("a group");
    let mut child = start(&group, "sleep 1000");
    assert!(cgroups.remove(&group).is_err());
    group.kill().expect("killed");
    // The group is still reported when it becomes empty.
    wait_for_empty(&mut cgroups, 1);
    cgroups.remove(&group).expect("empty");
    child.wait().expect("a child");
}

#[test]
fn group_of_a_failed_start_is_discarded_with_its_watch() {
    let base = Delegated::new("discard");
    let mut cgroups = base.cgroups();
    let path = cgroups.create(4, 1, 0, &Limits::default()).expect("a group").path().to_owned();
    assert!(path.exists());
    cgroups.discard(4);
    assert!(!path.exists() && cgroups.watches.is_empty());
    // A worker that has no group: nothing happens.
    cgroups.discard(5);
}

#[test]
fn a_later_master_finds_what_a_dead_one_left() {
    let base = Delegated::new("strays");
    let mut child = {
        let mut dead = base.cgroups();
        let group = dead.create(41, 7, 3, &Limits::default()).expect("a group");
        dead.create(42, 8, 4, &Limits::default()).expect("a group");
        start(&group, "sleep 1000")
    };
    fs::create_dir(base.0.join("w-x")).expect("a group");
    fs::create_dir(base.0.join("other")).expect("a group");
    let mut cgroups = base.cgroups();
    let strays = cgroups.strays();
    let seen: Vec<_> = strays.iter().map(|stray| (stray.worker, stray.place, stray.group.populated())).collect();
    assert_eq!(seen, [(41, Some((7, 3)), true), (42, Some((8, 4)), false)]);
    strays[0].group.kill().expect("killed");
    wait_for_empty(&mut cgroups, 41);
    child.wait().expect("a child");
}

#[test]
fn limits_without_their_controller_are_reported_and_nothing_else() {
    let base = Delegated::new("limits");
    let mut cgroups = base.cgroups();
    let limits = Limits { memory_max: Some(64 << 20), memory_high: None, tasks_max: Some(100), cpu_weight: Some(50) };
    let group = cgroups.create(1, 1, 0, &limits).expect("a group");
    let read = |file: &str| fs::read_to_string(group.path().join(file)).map(|text| text.trim().to_owned()).ok();
    for (controller, file, key, value) in [
        ("memory", "memory.max", "memory_max", "67108864"),
        ("pids", "pids.max", "tasks_max", "100"),
        ("cpu", "cpu.weight", "cpu_weight", "50"),
    ] {
        let said = group.unapplied().iter().any(|line| line.contains(&format!("worker.limits.{key} = {value} ")));
        if cgroups.controllers().contains(&controller) {
            assert_eq!(read(file).as_deref(), Some(value));
            assert!(!said, "{:?}", group.unapplied());
        } else {
            println!("SKIPPED where the limit works: this machine's cgroup v2 has no {controller} controller");
            assert!(said, "{:?}", group.unapplied());
        }
    }
    assert!(!group.unapplied().iter().any(|line| line.contains("memory_high")), "{:?}", group.unapplied());
    if cgroups.controllers().contains(&"memory") {
        assert_eq!(read("memory.oom.group").as_deref(), Some("1"));
        assert_eq!(group.oom_kills(), Some(0));
        assert!(group.memory_current().is_some());
    } else {
        println!("SKIPPED memory.oom.group: this machine's cgroup v2 has no memory controller");
        assert_eq!((group.oom_kills(), group.memory_current(), group.memory_peak()), (None, None, None));
    }
}

#[test]
fn the_oom_killer_takes_the_whole_worker_and_is_counted() {
    let base = Delegated::new("oom");
    let mut cgroups = base.cgroups();
    if !cgroups.controllers().contains(&"memory") {
        println!("SKIPPED the OOM kill: this machine's cgroup v2 has no memory controller");
        return;
    }
    let limits = Limits { memory_max: Some(16 << 20), ..Limits::default() };
    let group = cgroups.create(1, 1, 0, &limits).expect("a group");
    let _ = group::write(&group.path().join("memory.swap.max"), "0");
    let mut child = start(&group, "sleep 1000 & exec tail /dev/zero");
    wait_for_empty(&mut cgroups, 1);
    child.wait().expect("a child");
    assert!(group.oom_kills().is_some_and(|kills| kills > 0));
}

#[test]
fn the_master_moves_itself_down() {
    if in_own_process("master::workers::cgroup::tests::the_master_moves_itself_down", &[]).is_some() {
        return;
    }
    let base = Delegated::new("move");
    group::write(&base.0.join("cgroup.procs"), "0").expect("moved");
    let cgroups = Cgroups::detect().expect("usable").expect("delegated");
    assert_eq!(cgroups.base(), base.0);
    let own = || fs::read_to_string("/proc/self/cgroup").expect("procfs");
    assert!(own().contains(&format!("{}/master\n", base.0.file_name().expect("a name").to_str().expect("ASCII"))), "{}", own());
    // A second call, as after an upgrade in place: the process is already in `master/`, and stays there.
    assert_eq!(Cgroups::detect().expect("usable").expect("delegated").base(), base.0);
    group::write(&base.0.parent().expect("a root").join("cgroup.procs"), "0").expect("moved back");
}

#[test]
fn a_delegated_group_with_strangers_in_it_is_left_alone() {
    if in_own_process("master::workers::cgroup::tests::a_delegated_group_with_strangers_in_it_is_left_alone", &[]).is_some() {
        return;
    }
    let base = Delegated::new("strangers");
    group::write(&base.0.join("cgroup.procs"), "0").expect("moved");
    let mut stranger = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let why = Cgroups::detect().expect_err("not ours alone");
    assert!(why.contains(&format!("holds process {}", stranger.id())), "{why}");
    assert!(!base.0.join(MASTER).exists());
    stranger.kill().expect("our child");
    stranger.wait().expect("our child");
    group::write(&base.0.parent().expect("a root").join("cgroup.procs"), "0").expect("moved back");
}

#[test]
fn what_was_not_delegated_is_left_alone() {
    let base = Delegated::new("not-ours");
    rustix::fs::removexattr(&base.0, "user.delegate").expect("an attribute");
    fs::create_dir(base.0.join(MASTER)).expect("a group");
    assert!(Cgroups::at(&base.0, false).expect("no error").is_none());
    assert!(Cgroups::at(&base.0.join(MASTER), false).expect("no error").is_none());
    assert_eq!(fs::read_dir(base.0.join(MASTER)).expect("a group").flatten().filter(|entry| entry.path().is_dir()).count(), 0);
    // A user's systemd marks no group; there the unit says that the group is delegated.
    assert!(Cgroups::at(&base.0.join(MASTER), true).expect("usable").is_some());
    // The value of the attribute is not "1".
    rustix::fs::setxattr(&base.0, "user.delegate", b"0", XattrFlags::empty()).expect("an attribute");
    assert!(Cgroups::at(&base.0, false).expect("no error").is_none());
    // A group below a delegated group is not delegated itself (as below a user's systemd), unless its name is `master`.
    Delegated::mark(&base.0);
    fs::create_dir(base.0.join("x.service")).expect("a group");
    assert!(Cgroups::at(&base.0.join("x.service"), false).expect("no error").is_none());
}

#[test]
fn many_ends_at_once_are_all_reported() {
    let base = Delegated::new("many");
    let mut cgroups = base.cgroups();
    let groups: Vec<_> = (0..200).map(|id| cgroups.create(id, 1, id as u32, &Limits::default()).expect("a group")).collect();
    let mut children: Vec<_> = groups.iter().map(|group| start(group, "exec sleep 1000")).collect();
    groups.iter().for_each(|group| group.kill().expect("killed"));
    let mut left: std::collections::HashSet<u64> = groups.iter().map(WorkerGroup::worker).collect();
    let within = Timespec { tv_sec: 20, tv_nsec: 0 };
    while !left.is_empty() {
        let mut fds = [PollFd::from_borrowed_fd(cgroups.events_fd().expect("inotify"), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&within)).expect("poll"), 1, "never reported: {left:?}");
        for id in cgroups.drain() {
            left.remove(&id);
        }
    }
    children.iter_mut().for_each(|child| drop(child.wait()));
    groups.iter().for_each(|group| cgroups.remove(group).expect("empty"));
    assert!(cgroups.drain().is_empty());
    let info =
        fs::read_to_string(format!("/proc/self/fdinfo/{}", cgroups.events_fd().expect("inotify").as_raw_fd())).expect("procfs");
    assert!(!info.contains("inotify wd:"), "watches are left: {info}");
    assert!(cgroups.watches.is_empty());
}
