//! The master replaces its own program: the process, its workers and its words go on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use super::generator::Load;
use super::harness::http::Asked;
use super::harness::master::{Notification, pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Plan, RATOON, Signal, TIMEOUT, Value, eventually, example, processes};

/// A pool whose master's program is the link `ratoon` of its place.
fn pool(place: Place, worker: &str, tables: &str) -> Plan {
    symlink(RATOON, place.path("ratoon")).expect("a link");
    place.pool(worker, tables).program("ratoon")
}

/// Lets the link lead elsewhere, as a package does: at once.
pub fn install(place: &Place, target: &Path) {
    symlink(target, place.path("ratoon.new")).expect("a link");
    fs::rename(place.path("ratoon.new"), place.path("ratoon")).expect("a link");
}

/// A script in the place of the program; `REAL` in it is the real one.
fn script(place: &Place, text: &str) {
    place.program("script", &format!("#!/bin/sh\n{}\n", text.replace("REAL", RATOON)));
    install(place, &place.path("script"));
}

/// So many upgrades came about.
fn upgrades(master: &Master) -> usize {
    master.log().matches("upgraded in place from version").count()
}

#[track_caller]
pub fn upgrade(master: &Master) -> Notification {
    let before = upgrades(master);
    let said = master.ok(&["upgrade"]);
    eventually("it is told", || (upgrades(master) == before + 1).then_some(()), || master.log());
    said
}

/// What a process has open, each kind counted: sockets and anonymous files without their numbers.
fn open_files(pid: u32) -> BTreeMap<String, usize> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        let kind = target.split(":[").next().expect("a part").to_owned();
        *files.entry(kind).or_default() += 1;
    }
    files
}

#[test]
fn the_process_its_workers_and_all_that_is_known_of_them_go_on() {
    let master = pool(Place::new(), "count = 2", "").environment("WATCHDOG_USEC", "60000000").start();
    master.get("/count?name=jobs&by=5");
    master.get("/info?text=hello");
    let killed = pids(&master.status())[0];
    processes::signal(killed, Signal::KILL);
    wait_for_end_of(killed);
    let is_back = |status: &Value| status["worker_crashes"] == 1 && status["failures"][0]["how"].is_string();
    master.wait("the crash is known", is_back);
    master.ok(&["reload"]);
    let before = master.wait_until_calm();
    let address = master.address();
    let watchdogs = || master.systemd().messages().iter().filter(|it| *it == "WATCHDOG=1").count();
    let fed = watchdogs();

    let said = upgrade(&master);
    assert!(said.out.contains("the master runs version"), "{said:?}");
    let after = master.wait_until_calm();
    assert!(master.has_ended().is_none());
    for key in [
        "generation",
        "worker_crashes",
        "start_time",
        "last_reload",
        "failures",
        "sockets",
        "requests",
        "counters",
        "degraded",
        "reloads",
        "failures_by_cause",
    ] {
        assert_eq!(after[key], before[key], "{key}");
    }
    let of = |status: &Value| -> Vec<Value> {
        let keys = ["id", "slot", "generation", "pid", "state", "status", "info", "counters", "requests", "start_time"];
        workers(status).iter().map(|worker| keys.iter().map(|key| worker[*key].clone()).collect()).collect()
    };
    assert_eq!(of(&after), of(&before));
    assert_eq!(after["master"]["pid"], master.pid);
    assert_eq!(master.address(), address);
    // The watchdog is fed before and behind, and systemd hears of no restart.
    assert!(watchdogs() >= fed + 2, "{:?}", master.systemd().messages());
    assert!(!master.systemd().messages().iter().any(|it| it.contains("STOPPING") || it.contains("RELOADING")));
    // What it does from now on it does as before: reload, scale, hear its workers.
    master.get("/status?text=anew");
    master.wait("it is heard", |status| workers(status).iter().any(|worker| worker["status"] == "anew"));
    master.ok(&["scale", "3"]);
    master.wait_until_calm();
    let said = master.ok(&["reload"]);
    assert!(said.out.contains("generation 3"), "{said:?}");
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    let left = processes::with_environment(&format!("{}={}", processes::MARK, master.place.root().display()));
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fs::read_dir(master.place.path("run")).expect("run").count(), 0);
}

#[test]
fn nothing_is_left_open_by_many_upgrades() {
    let master = pool(Place::new(), "count = 3", "[status]\nlisten = '127.0.0.1:0'").start();
    upgrade(&master);
    // After the first one of each kind everything is as it will be.
    let first =
        eventually("calm", || (master.wait_until_calm()["state"] == "running").then(|| open_files(master.pid)), String::new);
    for _ in 0..5 {
        upgrade(&master);
    }
    let no_more = || {
        let now = open_files(master.pid);
        now.iter().all(|(kind, count)| first.get(kind).is_some_and(|before| count <= before)).then_some(())
    };
    eventually("no more files are open", no_more, || format!("{first:#?}\n{:#?}", open_files(master.pid)));
    assert_eq!(processes::children(master.pid).len(), 3);
}

#[test]
fn whatever_is_wrong_with_the_new_program_the_old_one_goes_on_and_says_why() {
    let master = pool(Place::new(), "count = 2", "").start();
    let before = pids(&master.wait_until_calm());
    let place = &master.place;
    let fails = |what: &str, reason: &str| {
        let said = master.verb(&["upgrade"]);
        assert_eq!(said.code, Some(1), "{what}: {said:?}");
        assert!(said.err.contains(reason) && said.err.contains("keeps its program"), "{what}: {said:?}");
        assert_eq!(pids(&master.wait_until_calm()), before, "{what}");
        assert_eq!(upgrades(&master), 0, "{what}");
    };
    install(place, &place.path("missing"));
    fails("missing", "No such file or directory");
    place.write("text", "no program");
    install(place, &place.path("text"));
    fails("not executable", "Permission denied");
    place.install("0755", &place.path("text"), "format");
    fails("its format", "Permission denied");
    install(place, &place.path("format"));
    fails("wrong format", "Exec format error");
    script(place, "exec /bin/true");
    fails("another program", "said nothing");
    script(place, "echo no state of mine; exit 1");
    fails("rejects", "exit 1: no state of mine");
    script(place, "kill -SEGV $$");
    fails("crashes", "SIGSEGV");
    script(place, "cat >/dev/null; echo '{\"format\":99}' | REAL handover-check");
    fails("a state of later times", "has format 99");
    script(place, "echo nonsense | REAL handover-check");
    fails("nonsense", "no JSON");
    script(place, "exec sleep 1000");
    fails("hangs", "not finished after 5s");
    // An older ratoon, that knows of no such thing.
    script(place, "exec REAL unknown-verb");
    fails("knows no handover", "unrecognized subcommand");
    // And nothing stands in the way of the next.
    install(place, Path::new(RATOON));
    upgrade(&master);
    assert_eq!(pids(&master.wait_until_calm()), before);
}

#[test]
fn if_the_exec_itself_fails_the_old_one_goes_on_too() {
    let master = pool(Place::new(), "count = 1", "").start();
    let before = pids(&master.wait_until_calm());
    // It says yes, and is gone.
    script(&master.place, &format!("rm {}; exec REAL \"$@\"", master.place.path("ratoon").display()));
    let said = master.verb(&["upgrade"]);
    assert!(said.code == Some(1) && said.err.contains("keeps its program"), "{said:?}\n{}", master.log());
    assert!(master.log().lines().any(|line| line.contains("not upgraded") && line.contains("No such file")), "{}", master.log());
    assert_eq!(pids(&master.wait_until_calm()), before);
    install(&master.place, Path::new(RATOON));
    upgrade(&master);
    assert_eq!(pids(&master.wait_until_calm()), before);
}

#[test]
fn a_reload_under_way_is_finished_first_and_none_is_lost() {
    let place = Place::new();
    place.release("v2", "");
    place.gate("v2");
    let master = pool(place, "count = 1", "").start();
    master.place.current("v2");
    let first = master.begin(&["reload"]);
    first.wait_for_line("starting");
    let upgrade = master.begin(&["upgrade"]);
    // Asked twice it is done once.
    let twice = master.begin(&["upgrade"]);
    let second = master.begin(&["reload"]);
    // All three are with the master before the gate opens: each is a connection that waits.
    let connections = || open_files(master.pid).get("socket").copied().unwrap_or(0);
    let before = connections();
    assert!(master.systemd().messages().iter().all(|it| !it.contains("upgraded")), "{before}");
    assert_eq!(upgrades(&master), 0);
    master.place.open(2, 0);
    master.place.open(3, 0);
    let first = first.end();
    assert!(first.code == Some(0) && first.out.contains("generation 2"), "{first:?}\n{}", master.log());
    assert_eq!(upgrade.end().code, Some(0), "{}", master.log());
    assert_eq!(twice.end().code, Some(0), "{}", master.log());
    assert_eq!(second.end().code, Some(0), "{}", master.log());
    let status = master.wait_until_calm();
    assert_eq!(status["generation"], 3, "{}", master.log());
    master.wait_for_log("upgraded in place");
    let log = master.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text:?}\n{log}"));
    assert!(at("generation 2 is serving") < at("upgraded in place"), "{log}");
}

#[test]
fn sigusr2_does_it_too_and_no_signal_is_lost_on_the_way() {
    let master = pool(Place::new(), "count = 2", "[restart]\nlimit = 1000\nmax = '200ms'").start();
    for round in 1..=10 {
        let before = pids(&master.wait_until_calm());
        master.signal(Signal::USR2);
        // Somewhere before, in the middle of, or behind the exec.
        std::thread::sleep(std::time::Duration::from_millis(round * 7));
        processes::signal(before[0], Signal::KILL);
        master.signal(Signal::TTIN);
        master.signal(Signal::TTOU);
        let what = format!("round {round}");
        master.wait(&what, |status| status["worker_crashes"] == round && status["workers_ready"] == 2);
        let done = || (upgrades(&master) as u64 == round).then_some(());
        eventually(&what, done, || master.log());
        assert_eq!(master.wait_until_calm()["workers_configured"], 2);
    }
    // A signal for the end that comes with the wish for an upgrade.
    master.signal(Signal::USR2);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}

#[test]
fn what_workers_print_is_neither_lost_nor_doubled() {
    let place = Place::new();
    place.wrap("v1", "i=0; while [ $i -lt 2000 ]; do echo line $i of it; i=$((i+1)); sleep 0.001; done &");
    let master = pool(place, "count = 1", "").start();
    for _ in 0..5 {
        upgrade(&master);
    }
    master.wait_for_log("line 1999 of it");
    let log = master.log();
    let numbers = log.lines().filter_map(|line| line.split_once("line ")?.1.strip_suffix(" of it")?.parse::<u32>().ok());
    assert_eq!(numbers.collect::<Vec<_>>(), (0..2000).collect::<Vec<_>>());
}

#[test]
fn a_state_that_cannot_be_read_after_all_costs_a_generation_and_no_request() {
    let master = pool(Place::new(), "count = 2", "").start();
    let before = pids(&master.wait_until_calm());
    let address = master.address();
    let request = master.ask_for_later();
    let load = load(&master);
    load.wait_for(200);
    // It says yes, and then does not find it.
    script(
        &master.place,
        "if [ \"$1\" = handover-check ]; then exec REAL \"$@\"; fi
         RATOON_STATE=$(echo \"$RATOON_STATE\" | sed 's/^\\([0-9]*\\):[0-9]*/\\1:0/') exec REAL \"$@\"",
    );
    master.ok(&["upgrade"]);
    master.wait_for_log("the state of the earlier program cannot be used");
    assert_eq!(request.answer().split_whitespace().next(), Some("chaos"), "{}", master.log());
    let status = master.wait("a new generation serves alone", |status| {
        status["workers_ready"] == 2 && status["degraded"] == false && before.iter().all(|pid| !processes::lives(*pid))
    });
    assert!(workers(&status).iter().all(|worker| worker["id"].as_u64() > Some(2)), "an id was used twice: {status:#}");
    assert_eq!((master.address(), status["master"]["pid"].as_u64()), (address, Some(master.pid.into())));
    load.wait_for(load.requests() + 200);
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}\n{}", master.log());
    // And it can be replaced again.
    install(&master.place, Path::new(RATOON));
    upgrade(&master);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}

/// New connections and keep-alive ones.
pub fn load(master: &Master) -> Load {
    let mut load = Command::new(example("load"));
    load.args([&master.address(), "--keep-alive", "4", "--new", "4", "--expect-body-prefix", "chaos pid", "--think", "0.002"]);
    load.env(processes::MARK, master.place.root());
    Load::start(load)
}

#[test]
fn under_load_no_request_is_lost_by_upgrades_between_reloads() {
    let master = pool(Place::new(), "count = 2", "").start();
    let load = load(&master);
    load.wait_for(200);
    for round in 0..8 {
        let before = pids(&master.wait_until_calm());
        upgrade(&master);
        assert_eq!(pids(&master.wait_until_calm()), before);
        load.wait_for(load.requests() + 100);
        if round % 3 == 0 {
            // Old workers drain while the master is replaced.
            master.ok(&["reload"]);
        }
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
}

/// A connection to the control socket on which this was sent.
fn connection(master: &Master, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(master.control()).expect("a connection");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("it is written");
    stream
}

#[test]
fn post_upgrade_is_answered_and_streams_of_events_end() {
    let master = pool(Place::new(), "count = 1", "").start();
    master.wait_until_calm();
    let mut events = connection(&master, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut first = [0; 12];
    events.read_exact(&mut first).expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    // Idle, and kept open by its client.
    let mut idle = connection(&master, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    idle.read_exact(&mut first).expect("an answer");
    let program = || {
        let mut answer = String::new();
        let mut stream = connection(&master, "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.read_to_string(&mut answer).expect("an answer");
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        serde_json::from_str::<Value>(body).expect("JSON")["program_start_time"].as_str().expect("a time").to_owned()
    };
    let before = program();
    assert_eq!(program(), before);

    let mut upgrade = connection(&master, "POST /upgrade HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut answer = String::new();
    upgrade.read_to_string(&mut answer).expect("an answer, and the end");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""result":"done""#), "{answer}");
    // What asks now is answered by the new program.
    assert_ne!(program(), before);
    let mut rest = String::new();
    events.read_to_string(&mut rest).expect("the end of the stream");
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
    idle.read_to_string(&mut String::new()).expect("the end of the connection");
}

#[test]
fn recycle_that_somebody_waits_for_is_answered_before_exec() {
    let place = Place::new();
    place.gate("v1");
    place.open(1, 0);
    let master = pool(place, "count = 1", "").start();
    fs::remove_file(master.place.path("gate.1.0")).expect("the gate");
    let recycle = master.begin(&["recycle"]);
    master.wait_for_log("is recycled");
    let upgrade = Asked::post(&master.control(), "/upgrade");
    assert_eq!(upgrades(&master), 0);
    master.place.open(1, 0);
    let recycle = recycle.end();
    assert_eq!(recycle.code, Some(0), "{recycle:?}\n{}", master.log());
    assert_eq!(upgrade.answer().status, 200);
    eventually("it is told", || (upgrades(&master) == 1).then_some(()), || master.log());
}

/// Without systemd workers ask for a signal at the end of the thread that has started them.
#[test]
fn workers_outlive_each_of_many_upgrades_without_systemd() {
    let master = pool(Place::new(), "count = 2", "").without_systemd().start();
    let before = pids(&master.wait_until_calm());
    for round in 1..=3 {
        upgrade(&master);
        assert_eq!(pids(&master.wait_until_calm()), before, "after upgrade {round}");
        assert_eq!(master.status()["worker_crashes"], 0, "after upgrade {round}");
    }
    master.ok(&["recycle"]);
    eventually(
        "others",
        || (pids(&master.wait_until_calm()).iter().all(|pid| !before.contains(pid))).then_some(()),
        || master.log(),
    );
    let others = pids(&master.wait_until_calm());
    upgrade(&master);
    assert_eq!(pids(&master.wait_until_calm()), others);
}
