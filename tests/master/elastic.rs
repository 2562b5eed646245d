//! Elastic pools: the load brings workers and takes them away again, and no connection is lost over that.
//!
//! The workers are a script that serves one connection at a time and answers `/hold` when its client says so. Connections that wait in
//! the kernel's queue are then what the test wants them to be, on a machine of any speed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use super::generator::Load;
use super::harness::http;
use super::harness::master::{pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Plan, RATOON, Signal, TIMEOUT, Value, example, processes};
use super::upgrade::upgrade;

const WORKER: &str = r#"#!/usr/bin/python3
import os, select, signal, socket, sys
listener = socket.socket(fileno=3)
listener.setblocking(False)
woken, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)
stopping = False
def stop(*_):
    global stopping
    stopping = True
signal.signal(signal.SIGTERM, stop)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while not stopping:
    select.select([listener, woken], [], [])
    if stopping:
        break
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        continue
    connection.setblocking(True)
    request = b""
    while b"\r\n\r\n" not in request:
        more = connection.recv(4096)
        if not more:
            break
        request += more
    # The byte that ends the hold may have come with the request.
    if request.startswith(b"GET /hold") and request.endswith(b"\r\n\r\n"):
        connection.recv(1)
    body = b"generation " + os.environ["RATOON_GENERATION"].encode()
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(4096):
        pass
    connection.close()
"#;
const QUICK: &str = "[scale]\nup_after = '200ms'\ndown_after = '1s'";
const PATIENT: &str = "[scale]\nup_after = '200ms'\ndown_after = '1h'";

fn pool(bounds: &str, scale: &str) -> Plan {
    let place = Place::new();
    place.program("v1/worker", WORKER);
    std::os::unix::fs::symlink(RATOON, place.path("ratoon")).expect("a link");
    place.configure(&worker(bounds), scale);
    Plan::new(place).program("ratoon")
}

fn worker(bounds: &str) -> String {
    format!("{bounds}\nready = 'notify'")
}

/// A request that is answered when [`Held::answer`] is called; until then it keeps a worker busy, or waits.
struct Held(TcpStream);

impl Held {
    fn new(master: &Master) -> Held {
        let mut stream = TcpStream::connect(master.address()).expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        stream.write_all(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
        Held(stream)
    }

    fn answer(mut self) -> String {
        self.0.write_all(b"x").expect("a byte");
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

#[track_caller]
fn has(master: &Master, count: usize) -> Value {
    master.wait(&format!("{count} are ready and no other is left"), |status| {
        status["workers_configured"] == count && status["workers_ready"] == count && workers(status).len() == count
    })
}

#[test]
fn load_brings_workers_up_to_the_maximum_and_calm_takes_them() {
    let master = pool("min = 1\nmax = 3\ncount = 1", QUICK).start();
    assert_eq!(has(&master, 1)["scale"]["fixed"], false);
    let held: Vec<Held> = (0..5).map(|_| Held::new(&master)).collect();
    let status = has(&master, 3);
    assert_eq!((&status["workers_min"], &status["workers_max"]), (&1.into(), &3.into()), "{status:#}");
    let change = &status["scale"]["last_change"];
    assert_eq!((&change["from"], &change["to"]), (&2.into(), &3.into()), "{status:#}");
    let reason = change["reason"].as_str().expect("a reason");
    assert!(reason.contains("wait, some do for") || reason.contains("busy"), "{reason}");
    master.wait_for_log("scaled from 1 to 2 workers: ");

    // Three are busy, two wait.
    let at_max = master.wait("the maximum is told", |status| status["at_max"] == true);
    assert_eq!(at_max["status_text"], "generation 1: 3/3 ready, at max, 2 connections wait", "{at_max:#}");
    master.systemd().wait_for("STATUS=generation 1: 3/3 ready, at max, 2 connections wait", 1);
    master.wait_for_log("3 of 3 serve, and 2 connections wait: worker.max is reached");
    let metrics = http::over_unix(&master.control(), "GET", "/metrics", TIMEOUT).expect("an answer").body;
    assert!(metrics.lines().any(|line| line.starts_with("ratoon_at_max{") && line.ends_with(" 1")), "{metrics}");

    let before = pids(&status);
    for request in held {
        let answer = request.answer();
        assert!(answer.ends_with("generation 1"), "{answer}");
    }
    let status = has(&master, 1);
    before[1..].iter().copied().for_each(wait_for_end_of);
    assert_eq!((pids(&status), &status["worker_crashes"]), (before[..1].to_vec(), &0.into()), "{status:#}");
    assert!(status["scale"]["last_change"]["reason"].as_str().is_some_and(|why| why.contains("fewer workers would have done")));
}

#[test]
fn load_that_comes_and_goes_loses_no_request() {
    let master = pool("min = 1\nmax = 3\ncount = 1", QUICK).start();
    for _ in 0..2 {
        let mut load = Command::new(example("load"));
        load.args([
            &master.address(),
            "--new",
            "8",
            "--expect-body-prefix",
            "generation 1",
            "--think",
            "0.001",
            "--timeout",
            "60",
        ]);
        load.env(processes::MARK, master.place.root());
        let load = Load::start(load);
        load.wait_for(100);
        // Held requests keep the workers busy on a machine of any speed; the requests of the load wait meanwhile.
        let held: Vec<Held> = (0..5).map(|_| Held::new(&master)).collect();
        master.wait("the load has brought all", |status| status["workers_ready"] == 3);
        assert!(held.into_iter().all(|request| request.answer().ends_with("generation 1")));
        load.wait_for(load.requests() + 100);
        let report = load.stop();
        assert_eq!(report["failed"], 0, "{report:#}");
        has(&master, 1);
    }
    assert_eq!(master.status()["worker_crashes"], 0);
}

#[test]
fn reload_brings_as_many_as_serve_and_takes_another_maximum() {
    let master = pool("min = 1\nmax = 3\ncount = 1", PATIENT).start();
    let mut held: Vec<Held> = (0..5).map(|_| Held::new(&master)).collect();
    has(&master, 3);
    master.ok(&["reload"]);
    let status = master.status();
    assert_eq!((&status["generation"], &status["workers_ready"]), (&2.into(), &3.into()), "{status:#}");
    // The two that waited are served by the new generation.
    let waited = held.split_off(3);
    assert!(waited.into_iter().all(|request| request.answer().ends_with("generation 2")));
    master.place.configure(&worker("min = 1\nmax = 2\ncount = 1"), PATIENT);
    master.signal(Signal::HUP);
    master.wait("two of the third", |status| status["generation"] == 3 && status["workers_ready"] == 2);
    assert_eq!(master.status()["workers_max"], 2);
    assert!(held.into_iter().all(|request| request.answer().ends_with("generation 1")));
    has(&master, 2);
    master.place.configure(&worker("min = 1\nmax = 2\ncount = 1"), QUICK);
    master.ok(&["reload"]);
    has(&master, 1);
    // Without bounds the number is the file's.
    master.place.configure(&worker("count = 2"), "");
    master.ok(&["reload"]);
    let status = has(&master, 2);
    assert_eq!((&status["workers_min"], &status["workers_max"]), (&2.into(), &2.into()), "{status:#}");
}

#[test]
fn number_of_the_load_and_a_fixed_one_go_on_over_an_upgrade() {
    let master = pool("min = 1\nmax = 3\ncount = 1", PATIENT).start();
    let held: Vec<Held> = (0..5).map(|_| Held::new(&master)).collect();
    let before = pids(&has(&master, 3));
    upgrade(&master);
    assert_eq!(pids(&has(&master, 3)), before);
    master.ok(&["scale", "2"]);
    master.wait("two are wanted", |status| status["workers_configured"] == 2 && status["scale"]["fixed"] == true);
    let mut held = held;
    // The third worker drains, which ends with its request; the upgrade waits for nothing else.
    assert!(held.drain(..3).all(|request| request.answer().ends_with("generation 1")));
    has(&master, 2);
    upgrade(&master);
    let status = has(&master, 2);
    assert_eq!(status["scale"]["fixed"], true, "{status:#}");
    held.extend((0..3).map(|_| Held::new(&master)));
    master.wait("they wait", |status| status["sockets"][0]["queue"].as_u64() >= Some(2));
    assert_eq!(master.ok(&["scale", "auto"]).out, "as many workers as the configuration says from now on\n");
    assert_eq!(has(&master, 3)["scale"]["fixed"], false);
    assert!(held.into_iter().all(|request| request.answer().ends_with("generation 1")));
    assert_eq!(master.status()["worker_crashes"], 0);
}

/// By hand, `RATOON_CHANGES=1000`: so many changes of the number of workers under load; else a few.
#[test]
fn changes_of_the_number_lose_no_request() {
    let changes: usize = std::env::var("RATOON_CHANGES").map_or(10, |count| count.parse().expect("a number"));
    let master = Place::new().pool("min = 1\nmax = 4\ncount = 2", PATIENT).start();
    let mut load = Command::new(example("load"));
    load.args([&master.address(), "--keep-alive", "3", "--new", "3", "--expect-body-prefix", "chaos pid", "--think", "0.002"]);
    load.env(processes::MARK, master.place.root());
    let load = Load::start(load);
    load.wait_for(100);
    for change in 0..changes {
        master.ok(&["scale", ["1", "4", "2", "3"][change % 4]]);
        load.wait_for(load.requests() + 10);
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!(master.status()["worker_crashes"], 0);
}
