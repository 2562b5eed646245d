//! The program of the previous release wrote another format of the state: it is not upgraded to this one in place, and says what to do.
//!
//! `tests/previous` builds that program; `tests/run` calls it before it runs these.

use std::fs;
use std::path::{Path, PathBuf};

use super::harness::master::pids;
use super::harness::{Master, Place, Plan, RATOON, Signal};
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

#[test]
#[ignore = "needs the program of the previous release: tests/previous"]
fn previous_release_and_this_one_refuse_each_other_until_a_restart() {
    let Some(previous) = previous() else { return };
    let place = Place::new();
    install(&place, &previous);
    let master = place.pool("count = 3", "").program("ratoon").start();
    let load = load(&master);
    load.wait_for(200);
    refused(&master, Path::new(RATOON), &["has format 1", "restart the service once: systemctl restart ratoon@"]);
    load.wait_for(load.requests() + 100);
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}\n{}", master.log());

    // A restart takes the new program up; the way back is refused, too.
    let master = Plan::new(master.into_place()).program("ratoon").start();
    master.wait_until_calm();
    assert_eq!(fs::read_link(format!("/proc/{}/exe", master.pid)).expect("exe"), fs::canonicalize(RATOON).expect("a path"));
    refused(&master, &previous, &["format"]);
    upgrade_to_itself(&master);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}

/// This program is not taken, for a reason with these words; the master and its workers go on.
#[track_caller]
fn refused(master: &Master, program: &Path, reason: &[&str]) {
    let before = pids(&master.wait_until_calm());
    let running = fs::read_link(format!("/proc/{}/exe", master.pid)).expect("exe");
    install(&master.place, program);
    let said = master.verb(&["upgrade"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(reason.iter().all(|words| said.err.contains(words)), "{said:?}");
    assert_eq!(pids(&master.wait_until_calm()), before);
    assert_eq!(fs::read_link(format!("/proc/{}/exe", master.pid)).expect("exe"), running);
}

fn upgrade_to_itself(master: &Master) {
    install(&master.place, Path::new(RATOON));
    upgrade(master);
}
