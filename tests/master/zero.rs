//! Zero workers (`worker.min = 0`): without a connection no worker is left, and the first connection starts one.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::harness::http;
use super::harness::master::{pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Plan, RATOON, Signal, TIMEOUT, Value, processes};
use super::upgrade::upgrade;

/// A pool that is idle soon.
fn pool(place: Place, worker: &str, tables: &str) -> Plan {
    place.pool(&format!("min = 0\n{worker}"), &format!("[scale]\nidle = '100ms'\n[reload]\nwatch = 'off'\n{tables}"))
}

/// Waits until it is idle and its workers are gone.
#[track_caller]
fn asleep(master: &Master) -> Value {
    master.wait("no worker is left", |status| status["state"] == "idle" && workers(status).is_empty())
}

/// A request that may wait for a worker.
fn asks(address: &str) -> std::thread::JoinHandle<String> {
    let address = address.to_owned();
    std::thread::spawn(move || http::get(&address, "/").map_or_else(|error| error.to_string(), |answer| answer.body))
}

#[test]
fn idle_instance_is_healthy_and_its_first_request_is_answered() {
    let master = pool(Place::new(), "count = 2", "").launch();
    master.systemd().wait_for("READY=1", 1);
    let status = asleep(&master);
    let text = "generation 1: idle, 0 workers, starts at the first connection";
    assert_eq!((&status["status_text"], &status["idle"], &status["last_wake_ms"]), (&text.into(), &true.into(), &Value::Null));
    assert_eq!((&status["workers_configured"], &status["worker_crashes"]), (&2.into(), &0.into()), "{status:#}");
    master.systemd().wait_for(&format!("STATUS={text}"), 1);
    let answer = |path| http::over_unix(&master.control(), "GET", path, TIMEOUT).expect("an answer");
    assert_eq!(answer("/readyz").status, 200);
    let metrics = answer("/metrics").body;
    assert!(metrics.lines().any(|line| line.starts_with("ratoon_idle{") && line.ends_with(" 1")), "{metrics}");
    let shown = master.ok(&["status"]);
    assert!(shown.out.contains(" idle, generation 1, 0/2 ready"), "{shown:?}");
    let checked = master.ok(&["status", "--check"]);
    assert!(checked.out.contains(" healthy: generation 1: idle, 0 workers"), "{checked:?}");

    assert!(master.get("/").contains("generation 1"));
    master.wait_for_log("generation 1 serves again: a worker was ready ");
    let status = master.status();
    assert!(status["last_wake_ms"].is_u64(), "{status:#}");
    assert!(master.ok(&["status"]).out.contains("\n  woken "), "{status:#}");
    asleep(&master);
    assert_eq!(master.status()["worker_crashes"], 0);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
}

/// With a maximum the load decides while there are connections, and without one no worker is left.
#[test]
fn pool_from_zero_to_a_maximum_sleeps_and_wakes() {
    let master = pool(Place::new(), "count = 2\nmax = 3", "").launch();
    let status = asleep(&master);
    assert_eq!((&status["workers_min"], &status["workers_max"]), (&0.into(), &3.into()), "{status:#}");
    assert!(master.get("/").contains("generation 1"));
    asleep(&master);
    assert_eq!(master.status()["worker_crashes"], 0);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
}

/// Each time that the pool goes idle, connections come in that moment: while the stop signals are sent, and while the workers leave.
#[test]
fn connections_in_the_moment_of_going_idle_are_answered() {
    let master = pool(Place::new(), "count = 2", "").launch();
    let address = asleep(&master)["sockets"][0]["address"].as_str().expect("an address").to_owned();
    let seen = |what: &str| master.log().matches(what).count();
    for round in 0..50_usize {
        let begun = Instant::now();
        while seen("idle: no connection for 100ms") <= round {
            assert!(begun.elapsed() < TIMEOUT, "round {round}: not idle\n{}", master.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        let requests: Vec<_> = (0..1 + round % 3).map(|_| asks(&address)).collect();
        for request in requests {
            let answer = request.join().expect("an answer");
            assert!(answer.contains("generation 1"), "round {round}: {answer}\n{}", master.log());
        }
        // A worker that was about to leave may have answered them; the next idleness needs a wake.
        while seen(" serves again: ") <= round {
            assert!(asks(&address).join().expect("an answer").contains("generation 1"), "{}", master.log());
        }
    }
    assert_eq!(master.status()["worker_crashes"], 0);
}

#[test]
fn open_connection_keeps_its_worker() {
    let master = pool(Place::new(), "count = 2", "").launch();
    asleep(&master);
    let idle = || master.log().matches("idle: no connection for 100ms").count();
    let before = idle();
    let request = master.ask_for_later();
    let serving = pids(&master.wait("all serve", |status| status["workers_ready"] == 2));
    // Ten times scale.idle; the request is an open connection all that time.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((pids(&master.status()), idle()), (serving, before), "{}", master.log());
    assert!(request.answer().contains("generation 1"));
    asleep(&master);
}

#[test]
fn reload_of_an_idle_instance_proves_its_release() {
    let place = Place::new();
    place.release("v2", "");
    place.release("v3", "exit_at_start=3");
    let master = pool(place, "count = 2", "").launch();
    asleep(&master);
    master.place.current("v2");
    master.ok(&["reload"]);
    let status = asleep(&master);
    assert_eq!(status["generation"], 2, "{status:#}");
    master.place.current("v3");
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let status = asleep(&master);
    assert_eq!((&status["generation"], &status["workers"]), (&2.into(), &Value::Array(Vec::new())), "{status:#}");
    assert!(master.get("/").contains("version v2"));
    asleep(&master);
    master.ok(&["undo"]);
    assert!(master.get("/").contains("version v1"));
    asleep(&master);
    // SIGHUP, and requests that start nobody.
    master.place.current("v2");
    master.signal(Signal::HUP);
    master.wait("a reload by SIGHUP", |status| status["generation"].as_u64() > Some(4));
    asleep(&master);
    master.ok(&["scale", "3"]);
    master.ok(&["recycle"]);
    assert_eq!(workers(&master.status()).len(), 0);
    let request = master.ask_for_later();
    master.wait("as many as it was scaled to", |status| status["workers_ready"] == 3);
    assert!(request.answer().contains("version v2"));
}

#[test]
fn idle_instance_can_be_paused_and_resumed() {
    let master = pool(Place::new(), "count = 1", "").launch();
    asleep(&master);
    master.ok(&["pause"]);
    let request = asks(&master.address());
    let status = master.wait("the connection waits", |status| status["sockets"][0]["queue"] == 1);
    assert_eq!((&status["paused"], &status["idle"], &status["state"]), (&true.into(), &false.into(), &"running".into()));
    master.ok(&["resume"]);
    assert!(request.join().expect("an answer").contains("generation 1"));
    asleep(&master);
}

#[test]
fn idleness_goes_on_over_an_upgrade_and_a_wake_too() {
    let place = Place::new();
    std::os::unix::fs::symlink(RATOON, place.path("ratoon")).expect("a link");
    place.gate("v1");
    let master = pool(place, "count = 1\nstart_timeout = '10min'", "").program("ratoon").launch();
    master.place.open(1, 0);
    asleep(&master);
    std::fs::remove_file(master.place.path("gate.1.0")).expect("the gate");
    upgrade(&master);
    let address = master.address();
    assert_eq!(asleep(&master)["generation"], 1);
    let request = asks(&address);
    let waking = "generation 1: waking, 0/1 ready";
    master.wait("it wakes", |status| status["status_text"] == waking);
    upgrade(&master);
    let status = master.wait("it still wakes", |status| status["status_text"] == waking);
    assert_eq!((&status["state"], workers(&status).len()), (&"idle".into(), 1), "{status:#}");
    master.place.open(1, 0);
    assert!(request.join().expect("an answer").contains("generation 1"));
    assert!(asleep(&master)["last_wake_ms"].is_u64());
    assert_eq!(master.status()["worker_crashes"], 0);
}

#[test]
fn release_that_fails_at_waking_is_degraded_and_connections_wait() {
    let place = Place::new();
    place.wrap("v1", "test -e PLACE/broken && exit 3");
    let master = pool(place, "count = 1", "[restart]\nlimit = 1").launch();
    asleep(&master);
    master.place.write("broken", "");
    let request = asks(&master.address());
    let status = master.wait("it is degraded", |status| status["degraded"] == true);
    assert_eq!((&status["state"], &status["idle"]), (&"running".into(), &false.into()), "{status:#}");
    assert_eq!(http::over_unix(&master.control(), "GET", "/readyz", TIMEOUT).expect("an answer").status, 503);
    assert_eq!(master.verb(&["status"]).code, Some(1));
    std::fs::remove_file(master.place.path("broken")).expect("the file");
    assert!(request.join().expect("an answer").contains("generation 1"));
}

#[test]
fn slots_with_queues_of_their_own_wake_too() {
    let master = pool(Place::new(), "count = 3\nbalance = 'per-slot'", "").launch();
    for _ in 0..5 {
        asleep(&master);
        let address = master.address();
        let requests: Vec<_> = (0..12).map(|_| asks(&address)).collect();
        for request in requests {
            let answer = request.join().expect("an answer");
            assert!(answer.contains("generation 1"), "{answer}\n{}", master.log());
        }
    }
}

/// A worker on a UDP socket, which has no connections.
const ECHO: &str = r#"#!/usr/bin/env python3
import os, signal, socket, sys

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = socket.socket(fileno=3)
server.setblocking(True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    text, peer = server.recvfrom(100)
    server.sendto(text, peer)
"#;

#[test]
fn first_datagram_starts_a_worker() {
    let place = Place::new();
    place.program("v1/worker", ECHO);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("an address");
    let master = pool(place, "count = 1\nready = 'notify'", "").socket("echo", socket).launch();
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    for text in ["one", "two"] {
        asleep(&master);
        client.send_to(text.as_bytes(), address).expect("sent");
        let mut answer = [0; 10];
        let length = client.recv(&mut answer).unwrap_or_else(|error| panic!("{error}\n{}", master.log()));
        assert_eq!(&answer[..length], text.as_bytes());
    }
}

#[test]
fn preload_process_ends_with_the_last_worker() {
    let place = super::preload::place();
    let master = pool(place, &super::preload::keys(super::preload::PRELOAD, ""), "").launch();
    let status = master.wait("it can fork", |status| status["preload"]["pid"].is_u64());
    let preload = status["preload"]["pid"].as_u64().expect("a pid") as u32;
    let status = asleep(&master);
    assert_eq!((&status["preload"]["state"], &status["preload"]["pid"]), (&"absent".into(), &Value::Null), "{status:#}");
    wait_for_end_of(preload);
    assert!(!processes::lives(preload));
    let answer: Value = serde_json::from_str(&master.get("/")).expect("JSON");
    assert_ne!(answer["loaded"], preload, "{answer:#}");
}

#[test]
fn instance_without_sockets_keeps_its_workers_and_says_so() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nsystemd-notify --ready\nexec sleep 1000\n");
    let master = pool(place, "count = 1\nready = 'notify'", "").listens_nowhere().start();
    master.wait_for_log("worker.min = 0 has no effect");
    assert_eq!(workers(&master.status()).len(), 1);
}
