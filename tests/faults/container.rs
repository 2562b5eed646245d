//! A master that is the first process of a PID namespace, as in a container: its session and its group are another's.

use std::os::unix::fs::PermissionsExt;

use super::harness::{Place, RATOON, Signal, processes};

#[test]
#[ignore = "needs root"]
fn the_first_process_of_a_container_replaces_its_workers_and_ends_when_told() {
    let place = Place::new();
    let program = place.path("in-a-container");
    let script = format!("#!/bin/sh\nexec unshare --pid --fork --mount-proc --kill-child {RATOON} \"$@\"\n");
    std::fs::write(&program, script).expect("a script");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("a program");
    let master = place.pool("count = 2", "").program("in-a-container").start();

    let before = master.status();
    assert_eq!(before["master"]["pid"], 1, "{before:#}");
    // What a daemon leaves behind, and what dies, comes to the first process.
    master.get("/child");
    let _ = master.try_get("/crash");
    let after = master.wait("the one that crashed is replaced", |status| {
        status["worker_crashes"] == 1
            && status["workers_ready"] == 2
            && status["workers"].as_array().is_some_and(|all| all.len() == 2)
    });
    assert_eq!(after["generation"], 1, "{after:#}");
    master.ok(&["reload"]);
    master.wait_until_calm();

    // To whoever is outside, the master is the only child of unshare, whose end is its own.
    let inside = processes::children(master.pid);
    processes::signal(inside[0], Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
}
