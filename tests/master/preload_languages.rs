//! Preload processes in C (`clients/c/ratoon_preload.h`) and Rust (feature `preload` of `ratoon-worker`), with their examples as the pool.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::master::{last_failure, pids};
use super::harness::processes::{facts, lives, signal};
use super::harness::{Place, Signal, example};
use super::preload::preload;

/// The life of a pool whose one program is the preload process and the worker.
fn lives_by(program: &Path) {
    let place = Place::new();
    for release in ["v1", "v2"] {
        let _ = std::fs::remove_dir_all(place.path(release));
        std::fs::create_dir_all(place.path(release)).expect("a release");
        std::fs::copy(program, place.path(release).join("worker")).expect("a copy");
    }
    let master = place.pool("count = 2\npreload = ['./worker']\npreload_fallback = false", "").start();
    let status = master.status();
    let parent = preload(&status);
    let answer = master.get("/");
    assert!(answer.trim().ends_with(&format!("loaded by {parent} as ./worker")), "{answer}");
    let worker: u32 = answer.split(' ').nth(3).and_then(|pid| pid.parse().ok()).expect("hello from pid …");
    assert!(pids(&status).contains(&worker), "{status:#}");
    let facts = facts(worker);
    assert_eq!((&facts["PPid"], &facts["NSsid"]), (&master.pid.to_string(), &worker.to_string()), "{facts:#?}");
    // The worker has these descriptors and no other of the kept numbers: standard input and output, the listening socket, the status page.
    let number = |file: std::io::Result<std::fs::DirEntry>| file.ok()?.file_name().to_str()?.parse::<u32>().ok();
    let null =
        |number: &u32| std::fs::read_link(format!("/proc/{worker}/fd/{number}")).is_ok_and(|to| to == Path::new("/dev/null"));
    let files = std::fs::read_dir(format!("/proc/{worker}/fd")).expect("the process lives").filter_map(number);
    assert_eq!(files.filter(null).collect::<Vec<_>>(), [0], "the kept numbers are closed");

    signal(worker, Signal::KILL);
    let status = master.wait("it is replaced", |status| !pids(status).contains(&worker) && status["workers_ready"] == 2);
    assert_eq!((preload(&status), &last_failure(&status)["how"]), (parent, &"signal SIGKILL".into()));
    master.place.current("v2");
    master.ok(&["reload"]);
    let status = master.wait_until_calm();
    assert_ne!(preload(&status), parent);
    assert!(master.get("/").contains(&format!("loaded by {} as", preload(&status))));
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert!(!lives(preload(&status)));
}

#[test]
fn header_for_c_makes_workers() {
    let directory = tempfile::tempdir().expect("a directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/c/example.c");
    let program: PathBuf = directory.path().join("example");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1", "-o"]).args([&program, &source]);
    let compiled = compiler.output().expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    lives_by(&program);
}

#[test]
fn function_of_rust_makes_workers() {
    lives_by(&example("preloaded"));
}

#[test]
fn header_for_c_has_less_than_200_lines() {
    let header =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/c/ratoon_preload.h")).expect("a header");
    assert!(header.lines().count() < 200);
}
