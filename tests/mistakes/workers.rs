//! Workers that do not come up: what the log says, what `ratoon reload` says, and the hint that `ratoon status` has.

use super::harness::{Master, Place};
use super::{lines, plain, recorded};

/// A reload to a release whose worker is this script: what `ratoon reload` prints, and the hint in the log.
fn reload_to(script: &str, more: &str) -> String {
    let place = Place::new();
    place.program("bad.text", script);
    std::fs::create_dir(place.path("bad")).expect("bad");
    place.install("0755", &place.path("bad.text"), "bad/worker");
    let master = place.pool(&format!("count = 1\n{more}"), "").start();
    master.place.current("bad");
    let said = failing_reload(&master);
    master.wait_for_log("hint for workers of generation 2");
    assert_eq!(master.verb(&["status"]).out.matches("hint: ").count(), 1);
    let log = lines(&plain(&master.place, &master.log()), &["hint for"]);
    format!("{said}\n{log}")
}

#[track_caller]
fn failing_reload(master: &Master) -> String {
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    // The lines before tell of numbers and times.
    plain(&master.place, &format!("$ ratoon reload\n…\n{}(exit 1)", said.err))
}

#[test]
fn a_worker_that_never_says_ready() {
    let said = reload_to("#!/bin/sh\nexec sleep 1000\n", "start_timeout = '300ms'");
    // Whether it has ended when the reload is answered, and so has a record, is chance; what is said is the same.
    recorded!("never_ready", said);
}

#[test]
fn a_wrong_descriptor() {
    let script = "#!/bin/sh\nexec python3 -c 'import socket; socket.socket(fileno=4).accept()'\n";
    let said = reload_to(script, "");
    // Python's own words differ from version to version.
    let kept = said.lines().filter(|line| !line.contains("File \"") && !line.contains("  import") && !line.contains("^^^"));
    recorded!("wrong_descriptor", kept.collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_worker_that_binds_the_port_itself() {
    let script = "#!/bin/sh\necho 'listen tcp 127.0.0.1:8080: bind: address already in use' >&2\nexit 1\n";
    recorded!("binds_itself", reload_to(script, ""));
}

#[test]
fn a_script_without_an_interpreter() {
    recorded!("no_interpreter", reload_to("#!/opt/no-such/python\n", ""));
    recorded!("no_first_line", reload_to("echo hello\n", ""));
}

#[test]
fn a_reload_with_a_broken_configuration() {
    let master = Place::new().pool("count = 1", "").start();
    let good = master.place.read("pool.toml");
    master.place.write("pool.toml", &good.replace("count = 1", "count = \"four"));
    recorded!("broken_configuration", failing_reload(&master));
    assert_eq!(master.status()["workers_ready"], 1);
}
