//! `start.fallback`: at a start whose release does not come up, the last good release runs.

use std::os::unix::fs::PermissionsExt as _;

use super::harness::master::{pids, workers};
use super::harness::{Master, Place, Plan, Signal, Value, eventually};

const SECRET: &str = "environment = { PASSWORD = 'correct horse' }";

/// A plan for a master with a state directory, as the unit gives it.
fn plan(place: Place, tables: &str) -> Plan {
    let state = place.path("state/ratoon/pool");
    std::fs::create_dir_all(&state).expect("a state directory");
    place.pool(&format!("count = 2\n{SECRET}"), tables).environment("STATE_DIRECTORY", state)
}

/// The place of a pool whose v1 was committed and recorded, after the end of its master; v2 is on disk now.
fn rebooted(v2: impl FnOnce(&Place), tables: &str) -> Place {
    let master = plan(Place::new(), tables).start();
    recorded(&master, "/v1");
    master.signal(Signal::TERM);
    assert!(master.end().success());
    let place = master.into_place();
    place.release("v2", "");
    v2(&place);
    place.current("v2");
    place
}

/// Waits until the newest recorded release has a directory with this end; the text of the record.
fn recorded(master: &Master, directory: &str) -> String {
    let file = master.place.path("state/ratoon/pool/releases.json");
    let read = || {
        let text = std::fs::read_to_string(&file).ok()?;
        let record: Value = serde_json::from_str(&text).expect("JSON");
        record["releases"][0]["directory"].as_str()?.ends_with(directory).then_some(text)
    };
    eventually("it is recorded", read, || master.log())
}

/// Checks that v1 serves in place of what is on disk, and that this is told everywhere with the reason.
#[track_caller]
fn runs_the_last_good(master: &Master, why: &str) {
    assert!(master.get("/").contains("version v1"), "{}", master.log());
    let status = master.wait("two workers", |status| workers(status).len() == 2);
    assert_eq!((&status["degraded"], &status["state"]), (&true.into(), &"running".into()), "{status:#}");
    let text = status["status_text"].as_str().expect("text");
    assert!(text.contains(why) && text.contains("; the last good release runs instead"), "{text}");
    assert!(status["release"]["directory"].as_str().is_some_and(|directory| directory.ends_with("/v1")), "{status:#}");
    assert_eq!(status["release"]["path_leads_elsewhere"], true, "{status:#}");
    let check = master.verb(&["status", "--check"]);
    assert!(check.code == Some(1) && check.out.contains("degraded"), "{check:?}");
    assert!(master.log().contains("error: degraded: "), "{}", master.log());
    master.systemd().wait("it is in STATUS", |messages| {
        messages.iter().any(|message| message.contains("the last good release runs instead")).then_some(())
    });
}

#[test]
fn bad_release_on_disk_is_replaced_by_the_last_good_one() {
    let place = rebooted(|place| place.behave("v2", "exit_at_start=3"), "");
    let master = plan(place, "").start();
    runs_the_last_good(&master, "generation 1 cannot start: slot ");
    let status = master.status();
    assert_eq!((&status["generation"], &status["releases"][0]["asked_by"]), (&2.into(), &"start.fallback".into()), "{status:#}");
    // It stays degraded while the release on disk is bad, and recovers with a good one.
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    assert_eq!(master.status()["degraded"], true);
    master.place.release("v3", "");
    master.place.current("v3");
    master.ok(&["reload"]);
    let status = master.wait_until_calm();
    assert_eq!(status["degraded"], false, "{status:#}");
    assert!(master.get("/").contains("version v3"));
    let text = recorded(&master, "/v3");
    assert!(text.contains("/v1") && !text.contains("/v2"), "{text}");
}

#[test]
fn release_without_a_program_is_replaced_from_the_start() {
    let place = rebooted(|place| std::fs::remove_file(place.path("v2/worker")).expect("removed"), "");
    let master = plan(place, "").start();
    runs_the_last_good(&master, "./worker");
    assert_eq!(master.status()["generation"], 1);
}

#[test]
fn record_is_for_its_owner_alone_and_has_no_secret() {
    let master = plan(Place::new(), "").start();
    let text = recorded(&master, "/v1");
    assert!(!text.contains("PASSWORD") && !text.contains("correct horse"), "{text}");
    let file = master.place.path("state/ratoon/pool/releases.json");
    assert_eq!(std::fs::metadata(file).expect("a file").permissions().mode() & 0o7777, 0o600);
    // Nor do the workers learn of the directory.
    let pid = workers(&master.status())[0]["pid"].as_u64().expect("a pid");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("an environment");
    assert!(!String::from_utf8_lossy(&environment).contains("STATE_DIRECTORY"));
}

#[test]
fn environment_file_of_the_last_good_release_is_read_again() {
    let place = Place::new();
    let (file, state) = (place.path("secrets"), place.path("state/ratoon/pool"));
    std::fs::create_dir_all(&state).expect("a state directory");
    let worker = format!("count = 1\nenvironment_file = '{}'", file.display());
    let start = |place: Place| place.pool(&worker, "").environment("STATE_DIRECTORY", &state).start();
    std::fs::write(&file, "TOKEN=of-yesterday\n").expect("the file");
    let master = start(place);
    let record = recorded(&master, "/v1");
    assert!(record.contains("secrets") && !record.contains("of-yesterday"), "{record}");
    master.signal(Signal::TERM);
    assert!(master.end().success());
    let place = master.into_place();
    place.release("v2", "");
    place.behave("v2", "exit_at_start=3");
    place.current("v2");
    std::fs::write(&file, "TOKEN=of-today\n").expect("the file");
    let master = start(place);
    assert!(master.get("/").contains("version v1"), "{}", master.log());
    let environment = std::fs::read(format!("/proc/{}/environ", pids(&master.status())[0])).expect("an environment");
    assert!(String::from_utf8_lossy(&environment).contains("TOKEN=of-today"));
}

#[test]
fn start_fails_where_there_is_nothing_to_fall_back_to() {
    let bad = |place: &Place| place.behave("v2", "exit_at_start=3");
    for (change, tables, why) in [
        ((|_: &Place| {}) as fn(&Place), "[start]\nfallback = 'none'", "generation 1 cannot start"),
        (|place| place.program("v1/worker", "#!/bin/sh\nexec sleep 1000\n"), "", "has changed since it was committed"),
        (|place| std::fs::remove_dir_all(place.path("v1")).expect("removed"), "", "generation 1 cannot start"),
        (|place| place.behave("v1", "exit_at_start=4"), "", "nor does the last good release: "),
        (|place| place.write("state/ratoon/pool/releases.json", "{"), "", "the record of releases "),
    ] {
        let place = rebooted(bad, tables);
        change(&place);
        let master = plan(place, tables).launch();
        assert_eq!(master.end().code(), Some(1), "{}", master.log());
        assert!(master.log().contains(why), "{why:?} is not in\n{}", master.log());
    }
}

/// The user, the limits and the environment of the workers stand in the configuration alone.
#[test]
fn configuration_that_cannot_be_read_gets_no_fallback() {
    let place = rebooted(|_| {}, "");
    let master = plan(place, "[reload]\nkeep = 'three'").launch();
    assert_eq!(master.end().code(), Some(1), "{}", master.log());
    let log = master.log();
    assert!(log.contains("pool.toml:") && log.contains("keep"), "{log}");
    assert!(!log.contains("last good release"), "{log}");
}

#[test]
fn missing_state_directory_is_said_once() {
    let master = Place::new().pool("count = 1", "").start();
    master.ok(&["reload"]);
    assert_eq!(master.log().matches("no StateDirectory=ratoon/NAME").count(), 1, "{}", master.log());
}
