//! Servers that know nothing of Ratoon, as workers: each the real program, as its users start it.
//!
//! What is asked of all: it starts, is reloaded under load without a lost request, scaled, replaced when killed, drained.
//! What a program loses by itself is written where it is tested.
#![forbid(unsafe_code)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use support::load::{Load, answers};
use support::{Master, example, signal};

/// What a program loses by itself when it is told to stop under load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loses {
    Nothing,
    /// It closes connections that it has accepted and from which it has not read yet. No supervisor can mend that.
    UnreadConnections,
}

/// How many clients ask at once.
const CLIENTS: u64 = 4;

/// How often the pool is reloaded under them.
const RELOADS: u64 = 3;

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn node_http() {
    a_worker_s_life(r#"command = ["node", "node.js"]"#, Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn uvicorn() {
    // Speaks no sd_notify, so it is ready when it has lived for a while.
    let command = format!("command = [{:?}, '--fd', '3', '--no-access-log', 'app:asgi']\nready = 'running'", venv("uvicorn"));
    a_worker_s_life(&command, Loses::UnreadConnections);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn gunicorn() {
    a_worker_s_life(&format!("command = [{:?}, '--no-control-socket', 'app:wsgi']", venv("gunicorn")), Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn puma() {
    a_worker_s_life(r#"command = ["puma", "--bind-to-activated-sockets=only", "--config", "puma.rb"]"#, Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn shell_script() {
    a_worker_s_life(r#"command = ["./shell.sh"]"#, Loses::Nothing);
}

/// `worker` is what stands under `[worker]` beside the directory and the count.
fn a_worker_s_life(worker: &str, loses: Loses) {
    let workers = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workers");
    let mut master = Master::start(&format!(
        "[worker]\ndirectory = {workers:?}\ncount = 2\nenvironment = {{ PYTHONDONTWRITEBYTECODE = '1' }}\n{worker}\n"
    ));

    // Reloads, under a little load of new connections.
    let mut load = Command::new(example("load"));
    load.args([&master.address(), "--new", &CLIENTS.to_string()]);
    let load = Load::start(load);
    load.wait_for(10);
    for generation in 2..=RELOADS + 1 {
        master.ok(&["reload"]);
        let status = master.wait("only the new generation is left", |status| {
            pids(status).len() == 2 && status["workers"][0]["generation"] == generation
        });
        assert_eq!((&status["generation"], &status["workers_ready"]), (&generation.into(), &2.into()));
        load.wait_for(load.requests() + 10);
    }
    let report = load.stop();
    let answered = answers(&report);
    println!("answered by generation: {answered:?}, failed: {}", report["failed"]);
    assert_eq!(answered.keys().copied().collect::<Vec<_>>(), (1..=RELOADS + 1).collect::<Vec<_>>(), "{report:#}");
    let failures = &report["classes"]["new"]["failures"];
    let of = |kind: &str| failures[kind].as_u64().unwrap_or(0);
    let unread = of("end-before-answer") + of("reset");
    // A client has one connection at a time, so a reload costs it one request at most.
    let may = if loses == Loses::UnreadConnections { CLIENTS * RELOADS } else { 0 };
    assert!(report["failed"] == unread && unread <= may, "{failures}, {may} at most: {report:#}\n{}", master.log());

    // More, then fewer.
    master.ok(&["scale", "3"]);
    master.wait("three are ready", |status| status["workers_ready"] == 3 && pids(status).len() == 3);
    master.ok(&["scale", "1"]);
    let status = master.wait("one is left", |status| status["workers_ready"] == 1 && pids(status).len() == 1);

    // One that is killed is replaced.
    let killed = pids(&status)[0];
    signal(killed, Signal::KILL);
    let status = master.wait("another is ready in its place", |status| {
        status["worker_crashes"] == 1 && status["workers_ready"] == 1 && pids(status).first().is_some_and(|pid| *pid != killed)
    });
    assert_eq!(status["failures"][0]["how"], "signal SIGKILL", "{status:#}");
    let last = pids(&status)[0];

    // The end.
    let ended = master.stop();
    assert!(ended.success(), "{ended}");
    assert!(!Path::new(&format!("/proc/{last}")).exists(), "the worker outlived its master");
}

/// The pids of all living workers.
fn pids(status: &Value) -> Vec<u32> {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter_map(|worker| worker["pid"].as_u64()?.try_into().ok()).collect()
}

/// A program of the virtual environment that `tests/setup` made.
fn venv(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin").join(program);
    assert!(path.exists(), "{} is missing: run tests/setup", path.display());
    path
}
