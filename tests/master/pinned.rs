//! A release is pinned: what replaces a dead worker is the old program, in the old directory, whatever the paths lead to
//! by now.

use std::path::Path;
use std::process::Command;

use super::harness::master::{pids, workers};
use super::harness::{Master, Place, Signal, Value, example, processes};

/// Kills the worker in slot 0 and gives the status when another is ready there.
#[track_caller]
fn kill_one(master: &Master) -> Value {
    let before = master.status();
    let (killed, crashes) = (pids(&before)[0], before["worker_crashes"].as_u64().expect("a number"));
    processes::signal(killed, Signal::KILL);
    master.wait("another in its place", |status| {
        let same_count = status["workers_ready"] == status["workers_configured"];
        status["worker_crashes"].as_u64() > Some(crashes) && same_count && !pids(status).contains(&killed)
    })
}

/// Kills every worker once and asks each that replaces one: all are of generation 1, and say what `is_old` wants.
#[track_caller]
fn all_are_old(master: &Master, ask: &str, is_old: impl Fn(&str) -> bool) {
    for _ in 0..2 {
        let status = kill_one(master);
        assert!(workers(&status).iter().all(|worker| worker["generation"] == 1), "{status:#}");
        // The first slot's worker is the new one; who answers is the kernel's choice.
        for _ in 0..4 {
            let said = master.get(ask);
            assert!(is_old(&said), "{said}");
        }
    }
}

/// The directory and the program that a worker says, where it is.
fn is_in<'a>(directory: &'a Path, program: &'a str) -> impl Fn(&str) -> bool + 'a {
    move |said| said.lines().collect::<Vec<_>>() == [directory.to_str().expect("text"), program]
}

fn real(path: impl AsRef<Path>) -> std::path::PathBuf {
    std::fs::canonicalize(path).expect("a path")
}

#[test]
fn after_a_failed_reload_through_a_symlink_the_old_release_goes_on() {
    let place = Place::new();
    place.release("v2", "exit_at_start=1");
    let master = place.pool("count = 1", "").start();
    master.place.current("v2");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    all_are_old(&master, "/", |said| said.contains("generation 1 ") && said.contains("version v1"));
    let (v1, chaos) = (real(master.place.path("v1")), real(example("chaos")));
    all_are_old(&master, "/where", is_in(&v1, chaos.to_str().expect("text")));
}

#[test]
fn a_crash_while_a_reload_runs_is_replaced_from_the_old_release() {
    let place = Place::new();
    place.release("v2", "hang_before_ready=1");
    let master = place.pool("count = 2\nstart_timeout = '1h'", "").start();
    let old = pids(&master.status());
    master.place.current("v2");
    let reload = master.begin(&["reload"]);
    master.wait("the new ones start", |status| {
        workers(status).iter().filter(|it| it["generation"] == 2 && it["pid"].is_u64()).count() == 2
    });
    processes::signal(old[0], Signal::KILL);
    let of_the_old = |status: &Value| {
        let old = workers(status).iter().filter(|worker| worker["generation"] == 1);
        old.map(|worker| (worker["slot"].clone(), worker["state"].clone())).collect::<Vec<_>>()
    };
    let both = vec![(Value::from(0), Value::from("ready")), (Value::from(1), Value::from("ready"))];
    let status = master.wait("another old one", |status| status["worker_crashes"] == 1 && of_the_old(status) == both);
    assert_eq!(status["state"], "reloading", "the crash of an old worker is nothing to the reload: {status:#}");
    assert_eq!(status["failures"][0]["generation"], 1);
    for _ in 0..4 {
        assert!(master.get("/").contains("version v1"));
    }
    master.ok(&["abort"]);
    assert_eq!(reload.end().code, Some(1));
}

#[test]
fn a_binary_that_was_replaced_by_rename_is_not_the_old_release() {
    let place = Place::new();
    place.install("0755", &example("chaos"), "v1/worker");
    let master = place.pool("count = 1", "").start();
    let worker = real(master.place.path("v1")).join("worker");
    assert!(is_in(worker.parent().expect("v1"), worker.to_str().expect("text"))(&master.get("/where")));

    // A broken one comes, as `mv` and every package manager do it.
    master.place.program("v1/worker", "#!/bin/sh\nexit 6\n");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("exit 6"), "{said:?}");
    let deleted = format!("{} (deleted)", worker.display());
    all_are_old(&master, "/where", is_in(worker.parent().expect("v1"), &deleted));

    // A good one is started by the next reload only.
    master.place.install("0755", &example("chaos"), "v1/worker");
    all_are_old(&master, "/where", is_in(worker.parent().expect("v1"), &deleted));
    master.ok(&["reload"]);
    master.wait_until_calm();
    assert!(is_in(worker.parent().expect("v1"), worker.to_str().expect("text"))(&master.get("/where")));
}

#[test]
fn a_script_that_was_rewritten_in_place_is_not_the_old_release() {
    let place = Place::new();
    place.wrap("v1", "export CHAOS_VERSION=old-script");
    let master = place.pool("count = 1", "").start();
    let rewrite = |text: &str| {
        // Into the same file, by another process: see `place.rs`.
        master.place.write("text", text);
        let (text, worker) = (master.place.path("text"), master.place.path("v1/worker"));
        assert!(
            Command::new("dd")
                .arg("status=none")
                .arg(format!("if={}", text.display()))
                .arg(format!("of={}", worker.display()))
                .status()
                .expect("dd")
                .success()
        );
    };
    rewrite("#!/bin/sh\nexit 6\n");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    all_are_old(&master, "/", |said| said.contains("version old-script"));
}

#[test]
fn a_directory_that_was_replaced_is_not_the_old_release() {
    let place = Place::new();
    place.write("pool.toml", "");
    let (directory, aside) = (place.path("v1"), place.path("aside"));
    let master = place.pool("count = 1", "").start();
    std::fs::rename(&directory, &aside).expect("rename");
    master.place.release("v1", "exit_at_start=1");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    let chaos = real(example("chaos"));
    all_are_old(&master, "/where", is_in(&real(&aside), chaos.to_str().expect("text")));
}

#[test]
fn a_release_that_was_deleted_goes_on() {
    let place = Place::new();
    place.install("0755", &example("chaos"), "v1/worker");
    let master = place.pool("count = 1", "").start();
    std::fs::remove_dir_all(master.place.path("v1")).expect("v1");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("No such file or directory"), "{said:?}");
    all_are_old(&master, "/", |said| said.contains("generation 1 "));
}

#[test]
fn the_configuration_and_its_variables_are_pinned_too() {
    let place = Place::new();
    place.write("variables", "CHAOS_VERSION=old-variable\n");
    let file = place.path("variables");
    let master = place.pool(&format!("count = 1\nenvironment_file = [{file:?}]"), "").start();
    master.place.write("variables", "CHAOS_EXIT_AT_START=1\n");
    master.place.write("pool.toml", "not a configuration");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    all_are_old(&master, "/", |said| said.contains("version old-variable"));
}
