//! The program of the previous release is upgraded to this one, and this one goes back to it.
//!
//! `tests/previous` builds that program; `tests/run` calls it before it runs these.

use std::fs;
use std::path::{Path, PathBuf};

use super::generator::Load;
use super::harness::master::pids;
use super::harness::{Master, Place, RATOON, Signal, Value, processes};
use super::upgrade::{install, load, upgrade};

/// The program of the previous release; `None` (and the reason in the output) where there is no history to build it from.
fn previous() -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/previous");
    if let Ok(why) = fs::read_to_string(place.join("missing")) {
        eprintln!("not run: {why}");
        return None;
    }
    let program = place.join("ratoon");
    assert!(program.exists(), "{} is missing: tests/previous", program.display());
    Some(program)
}

/// What must be the same before and behind: all that is known but for what the load and the clock change.
fn lasting(status: &Value) -> Value {
    let mut lasting = status.clone();
    let changing = ["version", "master", "sockets", "connections", "requests", "bytes_read", "bytes_written", "workers"];
    lasting.as_object_mut().expect("an object").retain(|key, _| !changing.contains(&key.as_str()));
    let keys = ["id", "slot", "generation", "pid", "state", "status", "start_time", "counters", "info"];
    let workers = status["workers"].as_array().expect("workers").iter();
    let workers = workers.map(|worker| Value::Array(keys.iter().map(|key| worker[*key].clone()).collect()));
    lasting["workers"] = workers.collect();
    lasting["listening"] = status["sockets"].as_array().expect("sockets").iter().map(|it| it["address"].clone()).collect();
    lasting
}

/// Two documents say the same of what both of them tell.
#[track_caller]
fn agree(one: &Value, other: &Value, place: &str) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            for (key, value) in one {
                if let Some(other) = other.get(key) {
                    agree(value, other, &format!("{place}.{key}"));
                }
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            assert_eq!(one.len(), other.len(), "{place}: {one:?} {other:?}");
            one.iter().zip(other).for_each(|(one, other)| agree(one, other, place));
        }
        (one, other) => assert_eq!(one, other, "{place}"),
    }
}

/// Requests are counted on.
fn counted_on(before: &Value, after: &Value, load: &Load) {
    let requests = |status: &Value| status["requests"].as_u64().expect("a number");
    assert!(requests(after) >= requests(before), "{} {}", requests(before), requests(after));
    load.wait_for(load.requests() + 100);
}

#[test]
#[ignore = "needs the program of the previous release: tests/previous"]
fn the_previous_release_and_this_one_hand_over_to_each_other_under_load() {
    let Some(previous) = previous() else { return };
    let place = Place::new();
    install(&place, &previous);
    let master = place
        .pool("count = 3\nwatchdog = '60s'", "[status]\nlisten = '127.0.0.1:0'\n[reload]\nprobation = '50ms'")
        .program("ratoon")
        .start();
    // A history of all kinds.
    master.get("/count?name=jobs&by=5");
    master.get("/info?text=hello");
    let killed = pids(&master.status())[0];
    processes::signal(killed, Signal::KILL);
    master.wait("the crash is known", |it| it["worker_crashes"] == 1 && it["failures"][0]["how"].is_string());
    master.ok(&["reload"]);
    master.place.release("bad", "exit_at_start=3");
    master.place.current("bad");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    master.place.current("v1");
    master.ok(&["scale", "4"]);
    let load = load(&master);
    load.wait_for(200);

    let mut before = calm(&master);
    for round in 0..6 {
        let next = if round % 2 == 0 { Path::new(RATOON) } else { &previous };
        install(&master.place, next);
        upgrade(&master);
        assert_eq!(fs::read_link(format!("/proc/{}/exe", master.pid)).expect("exe"), fs::canonicalize(next).expect("a path"));
        let after = calm(&master);
        agree(&lasting(&before), &lasting(&after), "status");
        counted_on(&before, &after, &load);
        // What each does on its own the other one knows.
        if round % 3 == 2 {
            master.ok(&["reload"]);
            master.ok(&["recycle"]);
        }
        before = calm(&master);
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}\n{}", master.log());
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}

fn calm(master: &Master) -> Value {
    master.wait_until_calm()
}
