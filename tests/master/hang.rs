//! Workers that hang, with `worker.balance = "per-slot"`: new connections go to others, and those that wait are served.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use super::balance::{PER_SLOT, queues, who_answers};
use super::generator::Load;
use super::harness::master::workers;
use super::harness::{Master, Place, Signal, TIMEOUT, Value, eventually, example, http, processes};

fn pool(count: u32, worker: &str) -> Master {
    Place::new().pool(&format!("count = {count}\n{PER_SLOT}\n{worker}"), "").start()
}

/// Clients that make a connection for each request.
fn load(master: &Master, clients: u32) -> Load {
    let mut load = Command::new(example("load"));
    load.args([
        &master.address(),
        "--new",
        &clients.to_string(),
        "--expect-body-prefix",
        "chaos pid",
        "--think",
        "0.002",
        "--timeout",
        "100",
    ]);
    load.env(processes::MARK, master.place.root());
    Load::start(load)
}

fn slot(status: &Value, slot: u64) -> &Value {
    workers(status).iter().find(|worker| worker["slot"] == slot && worker["state"] == "ready").expect("a ready worker")
}

fn pid(status: &Value, of: u64) -> u32 {
    slot(status, of)["pid"].as_u64().expect("a pid") as u32
}

fn is_avoided(status: &Value, of: u64) -> bool {
    workers(status).iter().any(|worker| worker["slot"] == of && worker["state"] == "ready" && !worker["avoided"].is_null())
}

#[test]
fn stopped_worker_gets_no_connections_until_it_goes_on() {
    let master = pool(4, "");
    let victim = pid(&master.status(), 2);
    let load = load(&master, 8);
    for _ in 0..2 {
        load.wait_for(load.requests() + 200);
        processes::signal(victim, Signal::STOP);
        let status = master.wait("it is avoided", |status| is_avoided(status, 2));
        assert_eq!(slot(&status, 2)["avoided"], "stopped", "{status:#}");
        let waiting = queues(&master.status())[2];
        let others = who_answers(&master, 100);
        assert!(!others.contains_key(&victim) && others.len() == 3, "{others:?}");
        assert_eq!(queues(&master.status())[2], waiting, "a new connection waits for the stopped worker");
        let metrics = http::over_unix(&master.control(), "GET", "/metrics", TIMEOUT).expect("an answer").body;
        assert!(metrics.contains("ratoon_worker_avoided{instance=\"pool\",slot=\"2\"} 1"), "{metrics}");
        master.wait_for_log("gets no new connections: its process is stopped");
        processes::signal(victim, Signal::CONT);
        master.wait("it is well", |status| !is_avoided(status, 2));
        eventually("it answers again", || who_answers(&master, 40).contains_key(&victim).then_some(()), || master.log());
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    master.wait_for_log("is well after ");
    let status = master.status();
    assert_eq!(status["workers_ready"], 4, "{status:#}");
}

/// Asks on a new connection, and does not wait for the answer.
fn ask(master: &Master, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(master.address()).expect("a connection");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("written");
    stream
}

#[test]
fn what_waits_for_a_worker_that_hangs_is_served_by_another() {
    let master = pool(2, "balance_hung = '3s'\nstop_timeout = '1s'");
    let before = master.status();
    let _hangs = ask(&master, "/hang");
    let in_work = |worker: &Value| worker["requests_in_work"] == 1;
    let status = master.wait("a worker has the request", |status| workers(status).iter().any(in_work));
    let hung = workers(&status).iter().find(|worker| in_work(worker)).expect("a worker")["slot"].as_u64().expect("a slot");
    let mut waiting = Vec::new();
    eventually(
        "one waits for it, and new ones go to the other",
        || {
            waiting.push(ask(&master, "/"));
            let status = master.status();
            (queues(&status)[hung as usize] > 0 && is_avoided(&status, hung)).then_some(())
        },
        || master.log(),
    );
    for mut stream in waiting {
        stream.set_read_timeout(Some(TIMEOUT)).expect("an option");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    master.wait_for_log("serves what may wait in the queue of worker");
    assert!(is_avoided(&master.status(), hung));
    assert_eq!(who_answers(&master, 50).into_keys().collect::<Vec<_>>(), [pid(&before, 1 - hung)]);
    // Its replacement takes the queue over.
    let worker = slot(&master.status(), hung)["id"].to_string();
    master.ok(&["recycle", &worker]);
    master.wait_until_calm();
    assert_eq!(who_answers(&master, 100).len(), 2);
}

#[test]
fn avoided_worker_stays_so_over_an_upgrade() {
    let master = pool(3, "");
    let victim = pid(&master.status(), 1);
    processes::signal(victim, Signal::STOP);
    let (address, mut open) = (master.address(), Vec::new());
    eventually(
        "it is avoided",
        || {
            open.push(TcpStream::connect(&address).expect("a connection"));
            is_avoided(&master.status(), 1).then_some(())
        },
        || master.log(),
    );
    master.ok(&["upgrade"]);
    let status = master.status();
    assert!(is_avoided(&status, 1), "{status:#}");
    assert!(!who_answers(&master, 60).contains_key(&victim));
    processes::signal(victim, Signal::CONT);
    master.wait("it is well", |status| !is_avoided(status, 1));
    assert!(who_answers(&master, 100).contains_key(&victim));
}
