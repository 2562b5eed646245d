//! Tests with the memory of real processes: the sum over the whole tree, found by the cgroup or by descent.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use super::tests::{Group, Worker, cgroups};
use super::*;

/// Memory of the worker's child: 32 MiB. The worker's main process has a few MiB.
const OF_CHILD: u64 = 32 << 20;

/// A worker whose child has nearly all of its memory; `before` is the first command of the main process.
fn worker_with_a_large_child(before: &str) -> Worker {
    let child = format!("x=$(head -c {OF_CHILD} /dev/zero | tr '\\0' x); echo up; while :; do sleep 1000; done");
    Worker::sh(&format!("{before}; ({child}) & wait"), Stdio::null())
}

#[test]
fn memory_is_that_of_the_tree_without_a_cgroup() {
    let worker = worker_with_a_large_child(":");
    let seen = survey(&[(1, worker.pid(), None)], &[] as &[OwnedFd]);
    let rss = seen.worker(1).and_then(|figures| figures.rss).expect("known");
    assert!((OF_CHILD..4 * OF_CHILD).contains(&rss), "{rss}");
}

#[test]
fn memory_is_the_same_figure_with_a_cgroup_and_without() {
    let group = Path::new(&cgroups()).join(format!("ratoon-memory-test-{}", std::process::id()));
    std::fs::create_dir(&group).expect("these tests need root, to make a cgroup");
    let _end = Group(group.clone());
    let worker = worker_with_a_large_child(&format!("echo 0 > {}/cgroup.procs", group.display()));
    // Until the child has started its sleep: before exec, a fork of a shell shares all of its memory and counts as much.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let seen = survey(&[(1, worker.pid(), Some(group.clone())), (2, worker.pid(), None)], &[] as &[OwnedFd]);
        let rss = |id| seen.worker(id).and_then(|figures| figures.rss).expect("known");
        if rss(1) >= OF_CHILD && rss(1).abs_diff(rss(2)) < OF_CHILD / 8 {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{} {}", rss(1), rss(2));
    }
}

#[test]
fn children_of_every_thread_are_found() {
    let main = Process::of(std::process::id()).expect("procfs");
    let child = std::thread::spawn(|| {
        let worker = Worker::sh("echo up; exec sleep 1000", Stdio::null());
        let pid = worker.pid();
        let found = super::process::descendants(&Process::of(std::process::id()).expect("procfs"), PROCESSES_MAX);
        (found.expect("they can be seen").contains(&pid), worker)
    });
    let (found, worker) = child.join().expect("no panic");
    assert!(found, "while the thread that started it lives");
    assert!(super::process::descendants(&main, PROCESSES_MAX).expect("they can be seen").contains(&worker.pid()));
}
