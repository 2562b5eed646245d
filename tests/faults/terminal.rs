//! A terminal that closes under a master.

use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::harness::{Master, Place, Plan, Signal, eventually};

/// A terminal: whoever holds the first closes it, the second is for the master.
fn terminal() -> (OwnedFd, OwnedFd) {
    let holder = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&holder).expect("granted");
    unlockpt(&holder).expect("unlocked");
    let name = ptsname(&holder, Vec::new()).expect("a name");
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let side = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).expect("the other side");
    (holder, side)
}

fn plan() -> Plan {
    Place::new().pool("count = 1", "")
}

fn reloads(master: &Master, generation: u64) {
    master.signal(Signal::HUP);
    master.wait("reloaded", |status| status["generation"] == generation);
    master.wait_until_calm();
}

#[test]
fn hang_up_of_the_terminal_drains_and_ends() {
    let (holder, side) = terminal();
    let master = plan().terminal(side).start();
    reloads(&master, 2);
    let request = master.ask_for_later();
    drop(holder);
    master.wait("stopping", |status| status["state"] == "stopping");
    let answer = request.answer();
    assert!(answer.contains("generation 2"), "a request was lost: {answer}");
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert!(master.log().contains("the terminal has closed"), "{}", master.log());
}

#[test]
fn hang_up_after_an_upgrade_drains_and_ends() {
    let (holder, side) = terminal();
    let master = plan().terminal(side).start();
    master.ok(&["upgrade"]);
    drop(holder);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}

#[test]
fn nohup_outlives_the_terminal_and_reloads() {
    let (holder, side) = terminal();
    let master = plan().terminal(side).ignoring(&[libc::SIGHUP]).start();
    reloads(&master, 2);
    master.ok(&["upgrade"]);
    drop(holder);
    master.wait_for_log("the terminal has closed");
    reloads(&master, 3);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}

#[test]
fn hang_up_without_a_terminal_reloads() {
    // A session of its own, as setsid and systemd make it.
    let master = plan().session().start();
    reloads(&master, 2);
    reloads(&master, 3);
    eventually("it runs", || (master.status()["state"] == "running").then_some(()), || master.log());
}
