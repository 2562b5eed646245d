//! The program of the master is replaced, and nobody on the bus notices: the connection goes on in the new program, with its
//! names and with those who wait. The real master, on a real bus.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::bus::{Bus, Ran, Running, TIMEOUT, error_name};

const RATOON: &str = env!("CARGO_BIN_EXE_ratoon");
const NAME: &str = "org.ratoon1.web";
const BUS: &str = "org.freedesktop.DBus";

struct Master {
    child: Child,
    directory: tempfile::TempDir,
}

impl Master {
    /// With workers that take so long to be ready.
    fn start(bus: &Bus, settle: &str) -> Master {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        symlink(RATOON, path("ratoon")).unwrap();
        fs::create_dir(path("run")).unwrap();
        let worker = format!("[worker]\ncommand = ['sleep', '1000']\nready = 'running'\nsettle = '{settle}'\ncount = 2\n");
        fs::write(path("web.toml"), worker).unwrap();
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
    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
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

fn call(bus: &Bus, method: &str) -> Ran {
    bus.busctl(&["call", NAME, "/org/ratoon1", "org.ratoon1.Manager", method])
}

fn calling(bus: &Bus, method: &str) -> Running {
    let mut command = bus.command();
    command.args(["call", NAME, "/org/ratoon1", "org.ratoon1.Manager", method]);
    Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn owner(bus: &Bus) -> String {
    bus.busctl(&["call", BUS, "/org/freedesktop/DBus", BUS, "GetNameOwner", "s", NAME]).json()["data"][0].to_string()
}

#[test]
fn the_answer_comes_from_the_new_program_on_the_same_connection() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    let before = owner(&bus);
    let monitor = bus.monitor(&["--match=type=signal,member=PropertiesChanged,path=/org/ratoon1"]);
    let open = || fs::read_dir(format!("/proc/{}/fd", master.child.id())).unwrap().count();
    let mut first = 0;
    for round in 1..=5 {
        call(&bus, "Upgrade").good();
        master.until("the upgrade is told", || master.upgrades() == round);
        assert_eq!(owner(&bus), before);
        // Who remembers properties is told what they are now.
        monitor.until(|message| message["payload"]["data"][1]["Version"]["data"] == env!("CARGO_PKG_VERSION"));
        assert_eq!(call(&bus, "Reload").json(), json!({"type": "t", "data": [round + 1]}));
        // After the first one all is open that ever will be.
        first = if round == 1 { open() } else { first };
    }
    master.until("no more files are open", || open() <= first);
    let queued = bus.busctl(&["call", BUS, "/org/freedesktop/DBus", BUS, "ListQueuedOwners", "s", "org.ratoon1"]).json();
    assert_eq!(queued["data"][0].as_array().unwrap().len(), 1);
    // No rule is left of those who waited.
    let stats = ["call", BUS, "/org/freedesktop/DBus", "org.freedesktop.DBus.Debug.Stats", "GetConnectionStats", "s", NAME];
    let rules = || bus.busctl(&stats).json()["data"][0]["MatchRules"]["data"].as_u64();
    let deadline = Instant::now() + TIMEOUT;
    while rules() != Some(0) {
        assert!(Instant::now() < deadline, "{:?} match rules are left", rules());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn who_asks_for_a_reload_meanwhile_hears_how_it_ended() {
    let bus = Bus::start();
    let master = Master::start(&bus, "300ms");
    let before = owner(&bus);
    for round in 0..3 {
        let first = calling(&bus, "Reload");
        master.until("it reloads", || master.log().contains(&format!("reloading to generation {}", 2 + 2 * round)));
        let upgrade = calling(&bus, "Upgrade");
        let second = calling(&bus, "Reload");
        assert_eq!(first.ran().json()["data"][0], 2 + 2 * round);
        upgrade.ran().good();
        // It began before the upgrade, or is the new program's.
        let generation = second.ran().json()["data"][0].as_u64().unwrap();
        assert_eq!(generation, 3 + 2 * round, "{}", master.log());
        assert_eq!((master.upgrades() as u64, owner(&bus)), (round + 1, before.clone()));
    }
}

#[test]
fn nobody_on_the_bus_notices() {
    let bus = Arc::new(Bus::start());
    let master = Master::start(&bus, "10ms");
    let before = owner(&bus);
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let asking = [(); 2].map(|()| {
        let (over, asked, address) = (over.clone(), asked.clone(), bus.address());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = zbus::connection::Builder::address(address.as_str()).build().await.unwrap();
                while !over.load(Ordering::Relaxed) {
                    let method = if asked.fetch_add(1, Ordering::Relaxed) % 50 == 0 { "GetStatus" } else { "Introspect" };
                    let interface =
                        if method == "GetStatus" { "org.ratoon1.Manager" } else { "org.freedesktop.DBus.Introspectable" };
                    let answer = client.call_method(Some(NAME), "/org/ratoon1", Some(interface), method, &()).await;
                    answer.unwrap_or_else(|error| panic!("{method}: {error}"));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        })
    });
    for round in 1..=10 {
        let calls = asked.load(Ordering::Relaxed);
        call(&bus, "Upgrade").good();
        master.until("the upgrade is told", || master.upgrades() == round);
        assert_eq!(owner(&bus), before);
        master.until("they ask on", || asked.load(Ordering::Relaxed) > calls + 20);
    }
    over.store(true, Ordering::Relaxed);
    for asking in asking {
        asking.join().expect("no call failed");
    }
}

#[test]
fn a_refusal_is_told_by_the_old_program_and_a_caller_who_leaves_is_forgotten() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    let before = owner(&bus);
    let monitor = bus.monitor(&["--match=type=error"]);
    master.install(Some("exec true"));
    assert!(call(&bus, "Upgrade").bad().contains("said nothing"));
    assert_eq!(error_name(&monitor.until(|message| error_name(message).starts_with("org.ratoon1"))), "org.ratoon1.Error.Failed");
    // It says yes, and is gone: execve(2) itself fails.
    let own = master.directory.path().join("ratoon");
    master.install(Some(&format!("rm {}; exec REAL \"$@\"", own.display())));
    assert!(call(&bus, "Upgrade").bad().contains("No such file"));
    assert_eq!((owner(&bus), master.upgrades()), (before.clone(), 0));
    // The caller leaves while the program is asked.
    let gate = master.directory.path().join("gate");
    master.install(Some(&format!("while [ ! -e {} ]; do sleep 0.01; done; exec REAL \"$@\"", gate.display())));
    let mut caller = calling(&bus, "Upgrade");
    master.until("the program is asked", || is_asked(&own));
    caller.0.kill().unwrap();
    caller.0.wait().unwrap();
    fs::write(&gate, "").unwrap();
    master.until("it is upgraded all the same", || master.upgrades() == 1);
    master.install(None);
    call(&bus, "Upgrade").good();
    assert_eq!(owner(&bus), before);
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
fn a_state_that_cannot_be_read_costs_the_connection_and_not_the_name() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    let before = owner(&bus);
    master.install(Some(
        "if [ \"$1\" = handover-check ]; then exec REAL \"$@\"; fi
         RATOON_STATE=$(echo \"$RATOON_STATE\" | sed 's/^\\([0-9]*\\):[0-9]*/\\1:0/') exec REAL \"$@\"",
    ));
    call(&bus, "Upgrade").bad();
    master.until("another connection has the name", || master.log().matches("on the message bus as").count() == 2);
    assert_ne!(owner(&bus), before);
    master.install(None);
    call(&bus, "Upgrade").good();
    master.until("the upgrade is told", || master.upgrades() == 1);
}
