//! The program of the master is replaced: every caller on the bus is answered before, and the names come back with another
//! connection. The real master, on a real bus.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::bus::{Bus, Ran, Running, TIMEOUT, error_name};

const RATOON: &str = env!("CARGO_BIN_EXE_ratoon");
pub const NAME: &str = "org.ratoon1.web";
const BUS: &str = "org.freedesktop.DBus";

pub struct Master {
    child: Child,
    directory: tempfile::TempDir,
}

impl Master {
    /// With workers that take so long to be ready.
    pub fn start(bus: &Bus, settle: &str) -> Master {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        symlink(RATOON, path("ratoon")).unwrap();
        fs::create_dir(path("run")).unwrap();
        fs::write(path("web.toml"), configuration(settle, "")).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let child = Command::new(path("ratoon"))
            .args(["run", "--config"])
            .arg(path("web.toml"))
            .env("RUNTIME_DIRECTORY", path("run"))
            .env("DBUS_SYSTEM_BUS_ADDRESS", bus.address())
            .env("DBUS_SESSION_BUS_ADDRESS", bus.address())
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let master = Master { child, directory };
        master.until("it is on the bus", || master.log().contains("on the message bus as"));
        master.until("it is ready", || master.log().contains("generation 1 is serving"));
        master
    }

    /// Writes another configuration, which the next reload reads.
    pub fn configure(&self, settle: &str, reload: &str) {
        fs::write(self.directory.path().join("web.toml"), configuration(settle, reload)).unwrap();
    }

    /// A program in the place of the master's, which goes on as the real one when it says `exec REAL`.
    fn install(&self, script: Option<&str>) {
        let new = self.directory.path().join("new");
        match script {
            None => symlink(RATOON, &new).unwrap(),
            Some(script) => {
                let text = format!("#!/bin/sh\n{}\n", script.replace("REAL", RATOON));
                let from = self.directory.path().join("text");
                fs::write(&from, text).unwrap();
                // By another process: see tests/master/harness/place.rs.
                assert!(Command::new("install").args(["-m", "755"]).arg(&from).arg(&new).status().unwrap().success());
            }
        }
        fs::rename(new, self.directory.path().join("ratoon")).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    fn upgrades(&self) -> usize {
        self.log().matches("upgraded in place").count()
    }

    #[track_caller]
    pub fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Two workers that take `settle` to be ready, and a table `[reload]`.
fn configuration(settle: &str, reload: &str) -> String {
    format!("[worker]\ncommand = ['sleep', '1000']\nready = 'running'\nsettle = '{settle}'\ncount = 2\n{reload}")
}

impl Drop for Master {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        // The second one ends it at once.
        for _ in 0..2 {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

pub fn call(bus: &Bus, method: &str) -> Ran {
    bus.busctl(&["call", NAME, "/org/ratoon1", "org.ratoon1.Manager", method])
}

fn calling(bus: &Bus, method: &str) -> Running {
    let mut command = bus.command();
    command.args(["call", NAME, "/org/ratoon1", "org.ratoon1.Manager", method]);
    Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// The unique name of the connection that owns the instance's name; `None` while nobody does.
fn owner(bus: &Bus) -> Option<String> {
    let ran = bus.busctl(&["call", BUS, "/org/freedesktop/DBus", BUS, "NameHasOwner", "s", NAME]);
    if ran.json()["data"][0] != true {
        return None;
    }
    let ran = bus.busctl(&["call", BUS, "/org/freedesktop/DBus", BUS, "GetNameOwner", "s", NAME]);
    ran.0.status.success().then(|| ran.json()["data"][0].to_string())
}

/// Waits until another connection than `before` has the name; gives it, and how long that took.
fn next_owner(bus: &Bus, master: &Master, before: &str) -> (String, Duration) {
    let begun = Instant::now();
    master.until("the name is back", || owner(bus).is_some_and(|owner| owner != before));
    (owner(bus).unwrap(), begun.elapsed())
}

#[test]
fn upgrade_is_answered_before_exec_and_names_come_back() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    let mut before = owner(&bus).unwrap();
    let open = || fs::read_dir(format!("/proc/{}/fd", master.child.id())).unwrap().count();
    let (mut first, mut shortest) = (0, Duration::MAX);
    for round in 1..=5 {
        call(&bus, "Upgrade").good();
        let (after, took) = next_owner(&bus, &master, &before);
        (before, shortest) = (after, shortest.min(took));
        assert_eq!(master.upgrades(), round);
        assert_eq!(call(&bus, "Reload").json(), json!({"type": "t", "data": [round + 1]}));
        // After three reloads as many releases are kept as ever will be (reload.keep). The workers of the one before are gone.
        let workers = || serde_json::from_str::<Value>(call(&bus, "GetStatus").json()["data"][0].as_str()?).ok();
        master.until("the old workers are gone", || {
            workers().is_some_and(|it| it["workers"].as_array().is_some_and(|it| it.len() == 2))
        });
        first = if round == 3 { open() } else { first };
    }
    // The machine may be busy with something else for some of the rounds.
    assert!(shortest < Duration::from_secs(1), "{shortest:?}");
    master.until("no more files are open", || open() <= first);
    let queued = bus.busctl(&["call", BUS, "/org/freedesktop/DBus", BUS, "ListQueuedOwners", "s", "org.ratoon1"]).json();
    assert_eq!(queued["data"][0].as_array().unwrap().len(), 1);
}

#[test]
fn requests_under_way_are_answered_before_exec() {
    let bus = Bus::start();
    let master = Master::start(&bus, "2s");
    let before = owner(&bus).unwrap();
    let first = calling(&bus, "Reload");
    master.until("it reloads", || master.log().contains("reloading to generation 2"));
    let upgrade = calling(&bus, "Upgrade");
    let second = calling(&bus, "Reload");
    let manager = [NAME, "/org/ratoon1", "org.ratoon1.Manager"];
    bus.busctl(&[&["call"], manager.as_slice(), &["Scale", "u", "1"]].concat()).good();
    assert_eq!(first.ran().json()["data"][0], 2);
    assert_eq!(second.ran().json()["data"][0], 3);
    upgrade.ran().good();
    let (before, _) = next_owner(&bus, &master, &before);
    let log = master.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text:?}\n{log}"));
    assert!(at("generation 3 is serving") < at("upgraded in place"), "{log}");

    let mut recycle = bus.command();
    recycle.args([&["call"], manager.as_slice(), &["Recycle", "t", "0"]].concat());
    let recycle = Running(recycle.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    master.until("it recycles", || master.log().contains("is recycled"));
    call(&bus, "Upgrade").good();
    recycle.ran().good();
    next_owner(&bus, &master, &before);
    assert_eq!(master.upgrades(), 2, "{}", master.log());
}

#[test]
fn refused_upgrade_keeps_the_connection() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    let before = owner(&bus);
    let monitor = bus.monitor(&["--match=type=error"]);
    master.install(Some("exec true"));
    assert!(call(&bus, "Upgrade").bad().contains("said nothing"));
    assert_eq!(error_name(&monitor.until(|message| error_name(message).starts_with("org.ratoon1"))), "org.ratoon1.Error.Failed");
    assert_eq!((owner(&bus), master.upgrades()), (before, 0));
}

#[test]
fn name_comes_back_when_exec_itself_fails() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    let before = owner(&bus).unwrap();
    // It says yes, and is gone.
    let own = master.directory.path().join("ratoon");
    master.install(Some(&format!("rm {}; exec REAL \"$@\"", own.display())));
    call(&bus, "Upgrade").good();
    master.until("the reason is told", || {
        master.log().lines().any(|line| line.contains("not upgraded") && line.contains("No such file"))
    });
    next_owner(&bus, &master, &before);
    assert_eq!(call(&bus, "Reload").json()["data"][0], 2);
    assert_eq!(master.upgrades(), 0);
}

#[test]
fn upgrade_goes_on_when_its_caller_leaves() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    let before = owner(&bus).unwrap();
    let own = master.directory.path().join("ratoon");
    let gate = master.directory.path().join("gate");
    master.install(Some(&format!("while [ ! -e {} ]; do sleep 0.01; done; exec REAL \"$@\"", gate.display())));
    let mut caller = calling(&bus, "Upgrade");
    master.until("the program is asked", || is_asked(&own));
    caller.0.kill().unwrap();
    caller.0.wait().unwrap();
    fs::write(&gate, "").unwrap();
    master.until("it is upgraded all the same", || master.upgrades() == 1);
    next_owner(&bus, &master, &before);
}

/// The script is running.
fn is_asked(program: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()).any(|line| {
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&program.display().to_string()) && line.contains("handover-check")
    })
}

#[test]
fn name_comes_back_when_the_state_cannot_be_read() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    let before = owner(&bus).unwrap();
    master.install(Some(
        "if [ \"$1\" = handover-check ]; then exec REAL \"$@\"; fi
         RATOON_STATE=$(echo \"$RATOON_STATE\" | sed 's/^\\([0-9]*\\):[0-9]*/\\1:0/') exec REAL \"$@\"",
    ));
    call(&bus, "Upgrade").good();
    let (before, _) = next_owner(&bus, &master, &before);
    master.install(None);
    call(&bus, "Upgrade").good();
    next_owner(&bus, &master, &before);
    assert_eq!(master.upgrades(), 1);
}
