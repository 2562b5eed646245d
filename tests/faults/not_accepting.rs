//! Workers that are ready and stop accepting connections: they are told of, with and without a reader of the status.

use std::net::TcpStream;
use std::time::Duration;

use super::harness::http::over_unix;
use super::harness::master::pids;
use super::harness::processes::signal;
use super::harness::{Master, Place, Plan, RATOON, Signal, Value};

/// A worker that accepts, and closes its socket at SIGUSR1. It says nothing but READY=1.
const DEAF_AT_USR1: &str = r#"#!/usr/bin/env python3
import os, select, signal, socket, subprocess

listener = socket.socket(fileno=3)
listener.setblocking(False)
deaf = False

def become_deaf(*_):
    global deaf
    deaf = True

signal.signal(signal.SIGUSR1, become_deaf)
subprocess.run(['systemd-notify', '--ready'])
while not deaf:
    if select.select([listener], [], [], 0.02)[0]:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            continue
        client.close()
listener.close()
while True:
    signal.pause()
"#;

fn pool(worker: &str) -> Master {
    let place = Place::new();
    place.program("worker.py", DEAF_AT_USR1);
    let program = place.path("worker.py");
    place.write("pool.toml", &format!("[worker]\ncommand = [{program:?}]\n{worker}\n"));
    Plan::new(place).start()
}

/// A worker whose descriptors nobody may see but root: it is not dumpable, prctl(2).
const HIDDEN: &str = r#"#!/usr/bin/env python3
import ctypes, os, socket

PR_SET_DUMPABLE = 4
assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
listener = socket.socket(fileno=3)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
while True:
    client, _ = listener.accept()
    client.close()
"#;

#[test]
#[ignore = "needs root"]
fn worker_that_hides_its_descriptors_is_believed_and_told_as_unseen() {
    let place = Place::new();
    place.program("worker.py", HIDDEN);
    let program = place.path("worker.py");
    place.write("pool.toml", &format!("[worker]\ncommand = [{program:?}]\ncount = 1\n"));
    place.install("0755", RATOON.as_ref(), "ratoon");
    // The master of root would see them.
    let ratoon = place.path("ratoon");
    let script = format!("#!/bin/sh\nexec setpriv --reuid=54322 --regid=54322 --clear-groups {} \"$@\"\n", ratoon.display());
    place.program("start", &script);
    let plan = Plan::new(place).program("start");
    for path in ["", "run", "systemd"] {
        std::os::unix::fs::chown(plan.place.path(path), Some(54_322), Some(54_322)).expect("a directory of this user");
    }
    let master = plan.start();
    let status = master.status();
    assert_eq!((&status["workers_ready"], &status["workers"][0]["readiness"]), (&1.into(), &"unseen".into()), "{status:#}");
    assert_eq!((&status["workers"][0]["accepting"], &status["degraded"]), (&Value::Null, &false.into()), "{status:#}");
}

const NOBODY: &str = "no ready worker accepts connections; ratoon recycle";

#[test]
fn pool_in_which_nobody_accepts_is_degraded_until_it_is_recycled() {
    let master = pool("count = 2");
    let status = master.wait("it is looked at", |status| status["workers"][1]["accepting"] == true);
    assert_eq!((&status["degraded"], &status["workers"][0]["accepting"]), (&false.into(), &true.into()), "{status:#}");
    pids(&status).into_iter().for_each(|pid| signal(pid, Signal::USR1));
    let status = master.wait("it is told", |status| status["degraded"] == true);
    assert!(status["status_text"].as_str().is_some_and(|text| text.contains(NOBODY)), "{status:#}");
    let status = master.wait("of each worker", |status| status["workers"][1]["accepting"] == false);
    assert_eq!(status["workers_ready"], 2, "{status:#}");
    let metrics = over_unix(&master.control(), "GET", "/metrics", Duration::from_secs(30)).expect("the metrics").body;
    assert!(metrics.contains("ratoon_worker_accepting{instance=\"pool\",slot=\"1\"} 0"), "{metrics}");
    master.wait_for_log(NOBODY);
    master.ok(&["recycle"]);
    master.wait("they accept", |status| status["degraded"] == false);
    master.wait_for_log("the ready workers accept connections again");
}

#[test]
fn worker_that_stops_accepting_is_told_while_connections_wait() {
    let master = pool("count = 2\nready = 'notify'\nbalance = 'per-slot'");
    let status = master.wait_until_ready();
    let deaf = &status["workers"][0];
    signal(pids(&status)[0], Signal::USR1);
    let status = master.wait("it is seen", |status| status["workers"][0]["accepting"] == false);
    assert_eq!(status["degraded"], false, "nobody waits: {status:#}");
    // The kernel deals the connections out to both queues.
    let _clients: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(master.address()).expect("a connection")).collect();
    let sentence = format!("worker {}: ready without accepting, while connections wait", deaf["id"]);
    master.wait("it is told", |status| status["status_text"].as_str().is_some_and(|text| text.contains(&sentence)));
}

#[test]
fn stopped_worker_is_told_without_a_reader_of_the_status() {
    let master = pool("count = 1");
    let pid = pids(&master.status())[0];
    signal(pid, Signal::STOP);
    let told = |said: &str| said.starts_with("STATUS=") && said.contains(NOBODY);
    master.systemd().wait("STATUS=", |said| said.iter().any(|said| told(said)).then_some(()));
    signal(pid, Signal::CONT);
    master.systemd().wait("STATUS=", |said| said.last().is_some_and(|said| !told(said)).then_some(()));
}

#[test]
fn paused_pool_is_not_degraded_for_workers_that_did_not_accept() {
    let master = pool("count = 1");
    let status = master.wait("it is looked at", |status| status["workers"][0]["accepting"] == true);
    signal(pids(&status)[0], Signal::USR1);
    master.wait("it is told", |status| status["degraded"] == true);
    master.ok(&["pause"]);
    let status = master.wait("it is told no more", |status| status["degraded"] == false);
    let text = status["status_text"].as_str().expect("a text");
    assert!(text.starts_with("generation 1: paused, 0 connections wait") && !text.contains(NOBODY), "{text}");
    master.ok(&["resume"]);
    master.wait("it accepts", |status| status["workers"][0]["accepting"] == true && status["degraded"] == false);
}
