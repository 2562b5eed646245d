//! Pause and resume: all workers drain, connections wait in the kernel's queue, and the same generation serves again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Command;

use super::generator::Load;
use super::harness::http::{self, Asked};
use super::harness::master::{pids, wait_for_end_of, workers};
use super::harness::{Master, Place, RATOON, Signal, Value, eventually, example, processes};
use super::upgrade::upgrade;

/// Pauses; all workers are gone.
fn pause(master: &Master, words: &[&str]) {
    let before = pids(&master.status());
    master.ok(&[&["pause"], words].concat());
    let status = master.status();
    assert_eq!((&status["paused"], workers(&status).len()), (&true.into(), 0), "{status:#}");
    assert!(before.into_iter().all(|pid| !processes::lives(pid)), "a worker lives: {}", master.log());
}

/// A request that is sent while nobody accepts.
fn asks(address: &str) -> std::thread::JoinHandle<String> {
    let address = address.to_owned();
    std::thread::spawn(move || http::get(&address, "/").map_or_else(|error| error.to_string(), |answer| answer.body))
}

fn queue(master: &Master) -> u64 {
    master.status()["sockets"][0]["queue"].as_u64().expect("a queue")
}

#[test]
fn connections_of_a_pause_are_answered_after_the_resume() {
    let master = Place::new().pool("count = 2", "").start();
    let address = master.address();
    pause(&master, &[]);
    let waiting: Vec<_> = (0..3).map(|_| asks(&address)).collect();
    master.wait("three wait", |status| status["sockets"][0]["queue"] == 3);
    let room = master.status()["sockets"][0]["queue_max"].as_u64().expect("a room");
    master.systemd().wait_for(&format!("STATUS=generation 1: paused, 3 connections wait (room for {room})"), 1);
    assert_eq!(http::over_unix(&master.control(), "GET", "/readyz", super::harness::TIMEOUT).expect("an answer").status, 503);
    assert_eq!(master.verb(&["status"]).code, Some(1));
    let checked = master.verb(&["status", "--check"]);
    assert!(checked.code == Some(1) && checked.out.contains(": generation 1: paused, 3 connections wait"), "{checked:?}");
    assert!(checked.out.contains(" paused: "), "{checked:?}");

    let said = master.ok(&["resume"]);
    assert_eq!(said.out, "resumed: the workers start\n");
    for request in waiting {
        let answer = request.join().expect("an answer");
        assert!(answer.contains("generation 1"), "{answer}");
    }
    let status = master.wait("two are ready", |status| status["workers_ready"] == 2);
    assert_eq!((&status["paused"], &status["generation"], &status["worker_crashes"]), (&false.into(), &1.into(), &0.into()));
    assert_eq!(status["last_reload"], Value::Null, "a pause is no reload");
    assert_eq!(master.verb(&["resume"]).code, Some(1), "not paused");
}

#[test]
fn twenty_pauses_under_load_lose_no_request() {
    let master = Place::new().pool("count = 2", "").start();
    let mut load = Command::new(example("load"));
    load.args([&master.address(), "--keep-alive", "3", "--new", "3", "--expect-body-prefix", "chaos pid", "--think", "0.002"]);
    load.env(processes::MARK, master.place.root());
    let load = Load::start(load);
    load.wait_for(100);
    for _ in 0..20 {
        pause(&master, &[]);
        master.wait("the clients wait", |status| status["sockets"][0]["queue"].as_u64() >= Some(1));
        master.ok(&["resume"]);
        load.wait_for(load.requests() + 20);
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert!(report["answered"].as_u64() > Some(400), "{report:#}");
    assert_eq!(master.status()["worker_crashes"], 0);
}

#[test]
fn pause_and_what_waits_go_on_over_an_upgrade() {
    let place = Place::new();
    std::os::unix::fs::symlink(RATOON, place.path("ratoon")).expect("a link");
    let master = place.pool("count = 2", "").program("ratoon").start();
    let address = master.address();
    pause(&master, &["--for", "1h"]);
    let waiting: Vec<_> = (0..3).map(|_| asks(&address)).collect();
    master.wait("three wait", |status| status["sockets"][0]["queue"] == 3);
    upgrade(&master);
    let status = master.wait("the next program knows them", |status| {
        status["status_text"].as_str().is_some_and(|text| text.contains("paused for 1h, 3 connections wait"))
    });
    assert_eq!((workers(&status).len(), status["resumes_in_ms"].as_u64() > Some(0)), (0, true), "{status:#}");
    master.ok(&["resume"]);
    for request in waiting {
        let answer = request.join().expect("an answer");
        assert!(answer.contains("generation 1"), "{answer}");
    }
}

#[test]
fn upgrade_waits_for_the_end_of_the_workers_of_a_pause() {
    let place = Place::new();
    std::os::unix::fs::symlink(RATOON, place.path("ratoon")).expect("a link");
    let master = place.pool("count = 1", "").program("ratoon").start();
    let request = master.ask_for_later();
    let paused = master.begin(&["pause"]);
    master.wait("the worker drains", |status| status["paused"] == true && workers(status)[0]["state"] == "draining");
    let upgraded = master.begin(&["upgrade"]);
    assert!(request.answer().contains("generation 1"));
    assert_eq!((paused.end().code, upgraded.end().code), (Some(0), Some(0)));
    let status = master.wait("the next program", |status| status["paused"] == true);
    assert_eq!(workers(&status).len(), 0, "{status:#}");
}

#[test]
fn pause_with_a_length_ends_by_itself() {
    let master = Place::new().pool("count = 1", "").start();
    let address = master.address();
    pause(&master, &["--for", "2s"]);
    let answer = asks(&address).join().expect("an answer");
    assert!(answer.contains("generation 1"), "{answer}");
    let status = master.status();
    assert_eq!((&status["paused"], &status["resumes_in_ms"]), (&false.into(), &Value::Null), "{status:#}");
    master.wait_for_log("resumed after the time of the pause: generation 1 starts with 1 worker");
}

#[test]
fn reload_in_a_pause_is_refused_and_systemd_is_told_of_none() {
    let master = Place::new().pool("count = 1", "").start();
    pause(&master, &[]);
    for words in [&["reload"][..], &["undo"], &["recycle"]] {
        let said = master.verb(words);
        assert!(said.code == Some(1) && said.err.contains("the instance is paused; `ratoon resume` first"), "{said:?}");
    }
    let before = master.log().matches("the reload is refused: ").count();
    master.signal(Signal::HUP);
    let refused = || (master.log().matches("the reload is refused: ").count() > before).then_some(());
    eventually("SIGHUP is refused", refused, || master.log());
    assert!(!master.systemd().messages().iter().any(|message| message.contains("RELOADING=1")), "a reload without an end");
    // The number counts when the instance serves again.
    master.ok(&["scale", "2"]);
    assert_eq!(workers(&master.status()).len(), 0);
    master.ok(&["resume"]);
    master.wait("two are ready", |status| status["workers_ready"] == 2);
    master.ok(&["reload"]);
    assert_eq!(master.status()["generation"], 2);
}

#[test]
fn nearly_full_queue_is_warned_of_once() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    rustix::net::listen(&socket, 10).expect("a shorter queue");
    let address = socket.local_addr().expect("an address");
    let master = Place::new().pool("count = 1", "").socket("http", socket).start();
    pause(&master, &[]);
    let clients: Vec<_> = (0..8).map(|_| std::net::TcpStream::connect(address).expect("a place in the queue")).collect();
    let warning = format!("the queue of {address} is nearly full: 8 connections wait, and there is room for 10;");
    master.wait_for_log(&warning);
    let text = "STATUS=generation 1: paused, 8 connections wait (room for 10), a queue is nearly full";
    master.systemd().wait_for(text, 1);
    let one_more = std::net::TcpStream::connect(address).expect("a place in the queue");
    master.systemd().wait_for(&text.replace('8', "9"), 1);
    assert_eq!(master.log().matches("is nearly full: ").count(), 1, "{}", master.log());
    drop((clients, one_more));
    master.ok(&["resume"]);
    master.wait("the queue is empty", |status| status["workers_ready"] == 1 && status["sockets"][0]["queue"] == 0);
}

#[test]
fn stop_in_a_pause_ends_at_once() {
    let master = Place::new().pool("count = 1\nstop_timeout = '1h'", "").start();
    pause(&master, &[]);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
    // Also while a worker drains, and then the requester is told.
    let master = Place::new().pool("count = 1\nstop_timeout = '1h'", "").start();
    let request = master.ask_for_later();
    let worker = pids(&master.status())[0];
    let asked = Asked::post(&master.control(), "/pause");
    master.wait("the worker drains", |status| status["paused"] == true);
    master.signal(Signal::TERM);
    assert!(request.answer().contains("generation 1"));
    let answer = asked.answer();
    assert!(answer.status == 409 && answer.body.contains("the instance is stopping"), "{answer:?}");
    wait_for_end_of(worker);
    assert_eq!(master.end().code(), Some(0));
}

#[test]
fn slots_with_queues_of_their_own_keep_what_waits() {
    let master = Place::new().pool("count = 3\nbalance = 'per-slot'", "").start();
    let address = master.address();
    pause(&master, &[]);
    let waiting: Vec<_> = (0..12).map(|_| asks(&address)).collect();
    eventually("all wait", || (queue(&master) == 12).then_some(()), || format!("{:#}", master.status()));
    let fewer = master.verb(&["scale", "2"]);
    assert!(fewer.code == Some(1) && fewer.err.contains("queues of the slots"), "{fewer:?}");
    master.ok(&["resume"]);
    for request in waiting {
        let answer = request.join().expect("an answer");
        assert!(answer.contains("generation 1"), "{answer}");
    }
}

/// A worker that accepts, and in a place with the file `deaf` only holds the socket.
const DEAF: &str = r#"#!/usr/bin/env python3
import os, socket, time

while os.path.exists("PLACE/deaf"):
    time.sleep(1000)
listener = socket.socket(fileno=3)
listener.setblocking(True)
while True:
    listener.accept()[0].close()
"#;

/// Between its clone and its program a worker has the descriptors of the master, which watches the queues during a pause.
#[test]
fn resumed_worker_is_not_ready_before_its_program_runs() {
    let place = Place::new();
    let _ = std::fs::remove_dir_all(place.path("v1"));
    std::fs::create_dir_all(place.path("v1")).expect("a release");
    place.program("v1/worker", &DEAF.replace("PLACE", place.root().to_str().expect("text")));
    let keys = "count = 4\nready = 'accepting'\nstart_timeout = '10min'\nstop_timeout = '1ms'";
    let master = place.pool(keys, "").start();
    master.wait_until_calm();
    pause(&master, &[]);
    master.place.write("deaf", "");
    let mut events = UnixStream::connect(master.control()).expect("the control socket");
    events.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
    let mut lines = BufReader::new(events).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("event: ")), "the state at the beginning");
    // The stream is read all the time: the master closes one that is not.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.try_for_each(|line| tell.send(line)));
    for _ in 0..50 {
        for path in ["/resume", "/pause"] {
            let answer = http::over_unix(&master.control(), "POST", path, super::harness::TIMEOUT).expect("an answer");
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        }
    }
    std::fs::remove_file(master.place.path("deaf")).expect("the file");
    master.ok(&["resume"]);
    // The first worker that is told as ready is one of the last start, which has the highest numbers.
    let ready = told.iter().find(|line| line.starts_with("data: ") && line.contains("\"state\":\"ready\"")).expect("an event");
    let event: Value = serde_json::from_str(ready.trim_start_matches("data: ")).expect("JSON");
    assert!(event["id"].as_u64() > Some(4 * 51), "{event:#}\n{}", master.log());
}
