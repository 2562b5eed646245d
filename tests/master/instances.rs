//! Several masters on one machine.

use super::harness::master::{pids, workers};
use super::harness::{Place, Plan, RATOON, Signal, eventually, http};

#[test]
fn two_of_one_name_cannot_run_at_once() {
    let first = Place::new().pool("count = 1", "").start();
    let place = Place::new();
    let plan = place.pool("count = 1", "").environment("RUNTIME_DIRECTORY", first.place.path("run"));
    let second = plan.launch();
    assert_eq!(second.end().code(), Some(1));
    let log = second.log();
    assert!(log.contains("another master runs in") && log.contains("run"), "{log}");
    // The first has not felt it.
    first.ok(&["reload"]);
    assert_eq!(first.status()["generation"], 2);
}

#[test]
fn two_of_different_names_know_nothing_of_each_other() {
    let (one, other) = (Place::new().pool("count = 1", "").start(), Place::new().pool("count = 2", "").start());
    let before = pids(&other.status());
    one.ok(&["reload"]);
    one.signal(Signal::TERM);
    assert_eq!(one.end().code(), Some(0));
    assert_eq!(pids(&other.status()), before);
    assert!(other.get("/").contains("generation 1"));
}

#[test]
fn the_socket_of_a_dead_master_is_replaced() {
    let first = Place::new().pool("count = 1", "").start();
    first.signal(Signal::KILL);
    first.end();
    assert!(http::over_unix(&first.control(), "GET", "/status", super::harness::TIMEOUT).is_err());
    let second = first.again();
    assert_eq!(second.ok(&["status"]).code, Some(0));
}

#[test]
fn list_shows_what_runs_and_what_is_dead() {
    let base = tempfile::Builder::new().prefix("rt").tempdir().expect("a directory");
    let directory = |name: &str| base.path().join("ratoon").join(name);
    let start = |name: &str| {
        std::fs::create_dir_all(directory(name)).expect("a directory");
        let place = Place::new();
        place.configure("count = 1", "");
        let plan = Plan::bare(place);
        let config = plan.place.path("pool.toml");
        let plan = plan.argument("--config").argument(config).argument("--name").argument(name);
        plan.environment("RUNTIME_DIRECTORY", directory(name)).launch()
    };
    let (one, two) = (start("one"), start("two"));
    for master in [&one, &two] {
        master.systemd().wait_for("READY=1", 1);
    }
    two.signal(Signal::KILL);
    two.end();
    let list = std::process::Command::new(RATOON).arg("list").env("XDG_RUNTIME_DIR", base.path()).output().expect("ratoon");
    assert_eq!(list.status.code(), Some(0));
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    assert!(line("one").contains("1/1"), "{text}");
    assert!(!line("two").contains("1/1"), "{text}");

    // By its name, from anywhere.
    let status =
        std::process::Command::new(RATOON).args(["status", "one"]).env("XDG_RUNTIME_DIR", base.path()).output().expect("ratoon");
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
    one.signal(Signal::TERM);
    assert_eq!(one.end().code(), Some(0));
}

#[test]
fn a_runtime_directory_that_is_removed_comes_back() {
    let master = Place::new().pool("count = 2", "").start();
    let before = pids(&master.status());
    // As a cleaner of temporary files does it: first the sockets one by one, then all of it.
    std::fs::remove_file(master.control()).expect("the control socket");
    master.wait("it is there again", |status| status["workers_ready"] == 2);
    // Until it is quicker than the master, which puts back what is removed.
    let removed = || std::fs::remove_dir_all(master.place.path("run")).ok();
    eventually("the directory is removed", removed, || master.log());
    let status = master.wait("it is there again", |status| status["workers_ready"] == 2);
    assert_eq!((pids(&status), &status["worker_crashes"]), (before, &0.into()), "{status:#}");
    // The workers are heard as before, and new ones, too.
    for _ in 0..8 {
        master.get("/status?text=still+here");
    }
    master.wait("their words", |status| workers(status).iter().any(|worker| worker["status"] == "still here"));
    master.ok(&["reload"]);
    master.wait_until_calm();
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
}
