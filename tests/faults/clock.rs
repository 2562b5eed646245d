//! A wall clock that is set back and forth while the pool serves (libfaketime): whatever it says, waits and spans are right.

use std::time::Duration;

use super::harness::master::workers;
use super::harness::{Master, Place, Signal, processes};

/// The library that makes a program believe another time; `tests/setup` installs it.
fn libfaketime() -> std::path::PathBuf {
    let directories = std::fs::read_dir("/usr/lib").expect("/usr/lib").flatten();
    let found = directories.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("libfaketime: run tests/setup")
}

/// Sets the master's wall clock so far from the true one.
fn set(master: &Master, offset: &str) {
    // Replaced, so that it is never read half written.
    master.place.write("clock.new", offset);
    std::fs::rename(master.place.path("clock.new"), master.place.path("clock")).expect("rename");
}

#[test]
fn a_wall_clock_set_back_and_forth_changes_nothing() {
    let place = Place::new();
    place.write("clock", "+0");
    place.wrap("v1", "unset LD_PRELOAD; [ $RATOON_GENERATION = 1 ] || export CHAOS_GATE=PLACE/gate.$RATOON_GENERATION");
    let clock = place.path("clock");
    let master = place
        .pool("count = 2\nstart_timeout = '1h'\nwatchdog = '20s'", "[restart]\ninitial = '50ms'\nmax = '200ms'\nlimit = 1000")
        .environment("LD_PRELOAD", libfaketime())
        .environment("FAKETIME_TIMESTAMP_FILE", clock)
        .environment("FAKETIME_NO_CACHE", "1")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let year = |status: &super::harness::Value| status["workers"][1]["start_time"].as_str().expect("a time")[..4].to_owned();
    let now = year(&master.status());

    for (number, offset) in [(2, "-3650d"), (3, "+3650d"), (4, "-3650d"), (5, "+0")] {
        let reload = master.begin(&["reload"]);
        master.wait("it reloads", |status| status["state"] == "reloading");
        set(&master, offset);
        master.place.write(&format!("gate.{number}"), "");
        assert_eq!(reload.end().code, Some(0), "{}", master.log());
        let status = master.wait_until_calm();
        let took = status["last_reload"]["duration_ms"].as_u64().expect("a number");
        assert!(took > 0 && Duration::from_millis(took) < super::harness::TIMEOUT * 2, "{took} ms\n{status:#}");

        // A failure is mended as soon as ever, and told in the time of the clock.
        let victim = workers(&status)[0]["pid"].as_u64().expect("a pid");
        processes::signal(victim as u32, Signal::KILL);
        let crashes = number - 1;
        let status = master.wait("it is replaced", |status| {
            status["worker_crashes"] == crashes && status["workers_ready"] == 2 && workers(status).len() == 2
        });
        let newest = workers(&status).iter().max_by_key(|worker| worker["id"].as_u64()).expect("a worker");
        let told = newest["start_time"].as_str().expect("a time");
        assert_eq!(told.starts_with(&now), offset == "+0", "{offset}: {told}");
        assert!(master.get("/").contains(&format!("generation {number}")));
        assert_eq!(master.verb(&["status"]).code, Some(0));
    }
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}
