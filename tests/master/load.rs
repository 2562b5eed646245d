//! Under load: new connections and keep-alive ones, over reloads of which some fail.

use std::collections::BTreeSet;
use std::process::Command;

use super::generator::{Load, answers};
use super::harness::master::{pids, wait_for_end_of};
use super::harness::{Master, Place, Signal, example, processes};

/// Starts the load, new connections and keep-alive.
fn load(master: &Master, clients: usize) -> Load {
    let mut load = Command::new(example("load"));
    let clients = clients.to_string();
    load.args([&master.address(), "--keep-alive", &clients, "--new", &clients, "--expect-body-prefix", "chaos pid"]);
    // Neither master nor test shall starve on a small machine.
    load.args(["--think", "0.002"]).env(processes::MARK, master.place.root());
    Load::start(load)
}

/// So many more requests.
fn go_on(load: &Load, requests: u64) {
    load.wait_for(load.requests() + requests);
}

#[track_caller]
fn nothing_was_lost(load: Load) -> serde_json::Value {
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert!(report["answered"].as_u64() > Some(500), "{report:#}");
    report
}

#[test]
fn no_request_is_lost_over_reloads_of_which_some_fail() {
    let place = Place::new();
    place.release("v2", "exit_at_start=1");
    place.release("v3", "hang_before_ready=1");
    place.release("v4", "exit_at_start=0");
    std::fs::create_dir(place.path("v5")).expect("v5");
    let master = place.pool("count = 2\nstart_timeout = '2s'", "").start();
    let load = load(&master, 4);
    go_on(&load, 200);
    let mut served = BTreeSet::from([1]);
    for version in ["v1", "v2", "v1", "v3", "v1", "v4", "v1", "v5", "v1", "v6"] {
        let before = master.wait_until_calm();
        master.place.current(version);
        let said = master.verb(&["reload"]);
        let is_good = version == "v1";
        assert_eq!(said.code, Some(i32::from(!is_good)), "{version}: {said:?}");
        let status = master.wait_until_calm();
        if is_good {
            served.insert(status["generation"].as_u64().expect("a number"));
        } else {
            assert_eq!((pids(&status), &status["generation"]), (pids(&before), &before["generation"]), "{version}");
        }
        go_on(&load, 50);
    }
    let report = nothing_was_lost(load);
    let answered = answers(&report);
    assert_eq!(answered.keys().copied().collect::<BTreeSet<_>>(), served, "{report:#}");
    assert!(answered.values().all(|by| by.len() == 2), "a worker never answered: {answered:?}");
}

#[test]
fn no_request_is_lost_while_the_pool_is_scaled_and_recycled() {
    let master = Place::new().pool("count = 2", "").start();
    let load = load(&master, 3);
    for words in [&["scale", "4"][..], &["recycle"], &["scale", "1"], &["recycle"], &["scale", "3"], &["reload"]] {
        master.ok(words);
        master.wait_until_calm();
        go_on(&load, 100);
    }
    nothing_was_lost(load);
}

#[test]
fn no_request_is_lost_when_workers_leave_by_themselves() {
    let master = Place::new().pool("count = 2", "").start();
    let load = load(&master, 3);
    for _ in 0..5 {
        master.get("/stopping");
        master.wait_until_calm();
        go_on(&load, 100);
    }
    nothing_was_lost(load);
}

#[test]
fn new_connections_wait_out_the_death_of_the_last_worker() {
    let master = Place::new().pool("count = 1", "").start();
    let mut load = Command::new(example("load"));
    load.args([&master.address(), "--new", "2", "--think", "0.01"]);
    let load = Load::start(load);
    go_on(&load, 50);
    let killed = pids(&master.status())[0];
    processes::signal(killed, Signal::KILL);
    wait_for_end_of(killed);
    master.wait("another", |status| status["worker_crashes"] == 1 && status["workers_ready"] == 1);
    go_on(&load, 50);
    // What the dead one had accepted is lost with it; who came later only waited.
    let report = load.stop();
    let failures = report["classes"]["new"]["failures"].clone();
    assert!(failures.as_object().is_some_and(|kinds| !kinds.keys().any(|kind| kind.contains("refused"))), "{report:#}");
    assert!(report["failed"].as_u64() <= Some(2), "{report:#}");
}
