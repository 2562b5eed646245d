//! The twenty most likely mistakes, made with the real program: each answer names the cause and the hint, and is recorded in
//! `recorded/`. What differs from run to run (times, paths, numbers of processes and users) is replaced by a word.
//!
//! | file | owns |
//! |---|---|
//! | `start.rs` | a master that cannot start, or serves nobody |
//! | `workers.rs` | workers that do not come up |
//! | `bus.rs` | D-Bus and polkit |
//! | `asking.rs` | commands that ask a master |

#![allow(dead_code)]

mod asking;
mod bus;
#[path = "../dbus/bus.rs"]
mod dbus;
#[allow(unused_imports)]
#[path = "../master/harness/mod.rs"]
mod harness;
mod start;
mod workers;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use harness::{Place, RATOON};

/// `assert_snapshot!`, with the answers in `recorded/`.
macro_rules! recorded {
    ($name:literal, $said:expr) => {
        insta::with_settings!({
            snapshot_path => "recorded", omit_expression => true, prepend_module_to_snapshot => false
        }, {
            insta::assert_snapshot!($name, $said);
        })
    };
}
pub(crate) use recorded;

/// The program in this place, in an environment that names no instance and no systemd, with nobody's bus.
fn ratoon(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(RATOON);
    command.args(arguments).current_dir(place.root()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "RATOON_CONTROL", "INVOCATION_ID", "NO_COLOR"] {
        command.env_remove(name);
    }
    let no_bus = format!("unix:path={}", place.path("no-bus").display());
    command.env("DBUS_SYSTEM_BUS_ADDRESS", &no_bus).env("DBUS_SESSION_BUS_ADDRESS", &no_bus);
    command.env("RUNTIME_DIRECTORY", place.path("run")).env("XDG_RUNTIME_DIR", place.path("run"));
    command.env(harness::processes::MARK, place.root()).env("PATH", "/usr/bin:/bin").env("TZ", "UTC");
    command
}

/// Runs a command that must fail by itself; what it said, and its status.
#[track_caller]
fn failing(place: &Place, arguments: &[&str]) -> String {
    shown(place, arguments, &ratoon(place, arguments).output().expect("ratoon"))
}

/// A command and what came of it, as a person would copy it from a terminal.
#[track_caller]
fn shown(place: &Place, arguments: &[&str], output: &Output) -> String {
    assert!(!output.status.success(), "ratoon {arguments:?} was no mistake");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let text = format!("$ ratoon {}\n{}{}", arguments.join(" "), said(&output.stdout), said(&output.stderr));
    plain(place, &format!("{text}(exit {})", output.status.code().unwrap_or(-1)))
}

/// The text without what differs from run to run.
fn plain(place: &Place, text: &str) -> String {
    let real = std::fs::canonicalize(place.root()).expect("a place");
    let mut text = text.replace(&real.display().to_string(), "PLACE").replace(&place.root().display().to_string(), "PLACE");
    text = text.replace(RATOON, "ratoon");
    let home = Path::new(RATOON).parent().expect("a directory").join("examples");
    text = text.replace(&home.display().to_string(), "EXAMPLES");
    let uid = rustix::process::geteuid().as_raw();
    text = text.replace(&format!("user {uid}"), "user UID").replace(&format!("user=\"{uid}\""), "user=\"UID\"");
    text.lines().map(|line| format!("{}\n", without_time(line))).collect()
}

/// A line of the log without the time that it begins with.
fn without_time(line: &str) -> &str {
    match line.split_once("Z ") {
        Some((time, rest)) if time.len() == 23 && time.starts_with("20") => rest,
        _ => line,
    }
}

/// The lines of a log that have one of these parts.
fn lines(text: &str, parts: &[&str]) -> String {
    let chosen = text.lines().filter(|line| parts.iter().any(|part| line.contains(part)));
    chosen.map(|line| format!("{line}\n")).collect()
}
