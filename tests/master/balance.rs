//! `worker.balance = "per-slot"`: a queue for each slot, which dies with no process.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::generator::{Load, answers};
use super::harness::master::{pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Signal, Value, eventually, example, http, processes};

pub const PER_SLOT: &str = "balance = 'per-slot'";

fn pool(count: u32) -> Master {
    Place::new().pool(&format!("count = {count}\n{PER_SLOT}"), "").start()
}

/// A socket as systemd opens it, with `ReusePort=yes` or without.
fn socket(reuse_port: bool, address: &str) -> OwnedFd {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
    sockopt::set_socket_reuseaddr(&socket, true).expect("an option");
    sockopt::set_socket_reuseport(&socket, reuse_port).expect("an option");
    rustix::net::bind(&socket, &address.parse::<std::net::SocketAddr>().expect("an address")).expect("a port");
    rustix::net::listen(&socket, 128).expect("listens");
    socket
}

fn address_of(socket: &OwnedFd) -> String {
    TcpListener::from(socket.try_clone().expect("a copy")).local_addr().expect("an address").to_string()
}

/// Which process answers, on so many new connections.
pub fn who_answers(master: &Master, requests: usize) -> BTreeMap<u32, usize> {
    let address = master.address();
    let mut answered = BTreeMap::new();
    for _ in 0..requests {
        let body = http::get(&address, "/").unwrap_or_else(|error| panic!("{error}\n{}", master.log())).body;
        let pid = body.split_whitespace().skip_while(|word| *word != "pid").nth(1).and_then(|pid| pid.parse().ok());
        *answered.entry(pid.unwrap_or_else(|| panic!("{body}"))).or_default() += 1;
    }
    answered
}

/// How many wait in the queue of each slot.
pub fn queues(status: &Value) -> Vec<u64> {
    status["sockets"][0]["slots"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

fn load(master: &Master, clients: usize) -> Load {
    let mut load = Command::new(example("load"));
    let clients = clients.to_string();
    load.args([&master.address(), "--keep-alive", &clients, "--new", &clients, "--expect-body-prefix", "chaos pid"]);
    load.args(["--think", "0.002"]).env(processes::MARK, master.place.root());
    Load::start(load)
}

fn go_on(load: &Load, requests: u64) {
    load.wait_for(load.requests() + requests);
}

#[track_caller]
fn nothing_was_lost(load: Load) -> Value {
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert!(report["answered"].as_u64() > Some(500), "{report:#}");
    report
}

#[test]
fn every_slot_has_a_socket_of_its_own_at_the_same_number() {
    let place = Place::new();
    place.wrap("v1", "ls -l /proc/$$/fd/3 | grep -o 'socket:.*' >> PLACE/socket.$RATOON_SLOT; echo $LISTEN_FDS $LISTEN_FDNAMES $LISTEN_PID $$ > PLACE/said");
    let master = place.pool(&format!("count = 3\n{PER_SLOT}"), "").start();
    master.ok(&["reload"]);
    master.wait_until_calm();
    let sockets: Vec<String> = (0..3).map(|slot| master.place.read(&format!("socket.{slot}"))).collect();
    for socket in &sockets {
        let [old, new] = socket.lines().collect::<Vec<_>>()[..] else { panic!("{sockets:?}") };
        assert_eq!(old, new, "the old and the new worker of a slot have different queues");
    }
    assert!(sockets[0] != sockets[1] && sockets[1] != sockets[2] && sockets[0] != sockets[2], "{sockets:?}");
    let said = master.place.read("said");
    let [count, name, listen_pid, pid] = said.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!((count, name, listen_pid), ("1", "listen", pid));
    assert_eq!(queues(&master.status()), [0, 0, 0]);
}

#[test]
fn connections_are_spread_over_all_workers() {
    let master = pool(4);
    let all = who_answers(&master, 400);
    assert_eq!(all.len(), 4, "{all:?}");
    // Chance alone would stay below this in all but one of a million runs.
    assert!(all.values().max() < Some(&150), "{all:?}");
}

#[test]
fn what_waits_for_a_worker_that_dies_waits_for_its_replacement_and_new_connections_go_to_others() {
    let place = Place::new();
    place.gate("v1");
    [0, 1].into_iter().for_each(|slot| place.open(1, slot));
    let master = place.pool(&format!("count = 2\nstart_timeout = '1h'\nbalance_hung = 'off'\n{PER_SLOT}"), "").start();
    let status = master.status();
    let victim = workers(&status)[1]["pid"].as_u64().expect("a pid") as u32;
    let address = master.address();
    // It cannot accept any more; what comes to its slot waits.
    processes::signal(victim, Signal::STOP);
    let mut waiting = Vec::new();
    eventually(
        "some wait in the queue of slot 1",
        || {
            waiting.push(TcpStream::connect(&address).expect("a connection"));
            (queues(&master.status())[1] >= 2).then_some(())
        },
        || master.log(),
    );
    std::fs::remove_file(master.place.path("gate.1.1")).expect("a gate");
    processes::signal(victim, Signal::KILL);
    wait_for_end_of(victim);
    let status = master.wait("slot 1 starts again", |status| {
        workers(status).iter().any(|worker| worker["slot"] == 1 && worker["state"] == "starting")
    });
    let waited = queues(&status)[1];
    assert!(waited >= 2, "{status:#}");
    // Nothing new goes there, not even by chance.
    let others = who_answers(&master, 100);
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!(queues(&master.status())[1], waited);
    master.place.open(1, 1);
    master.wait_until_ready();
    for mut stream in waiting {
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("an option");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn nothing_is_lost_while_the_pool_is_scaled() {
    let master = pool(4);
    let load = load(&master, 6);
    go_on(&load, 200);
    for count in ["2", "6", "1", "5", "4"] {
        master.ok(&["scale", count]);
        master.wait_until_calm();
        go_on(&load, 100);
    }
    let answered = nothing_was_lost(load);
    assert_eq!(queues(&master.status()).iter().sum::<u64>(), 0, "{answered:#}");
}

/// A worker that serves one after the other, and whom the stop signal ends at once.
const HASTY: &str = "#!/usr/bin/python3
import socket, os
listener = socket.socket(fileno=3)
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
while True:
    client, _ = listener.accept()
    client.recv(4096)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nhi')
    client.close()
";

#[test]
fn a_worker_that_is_one_too_many_is_told_when_nothing_more_comes_to_it() {
    let place = Place::new();
    place.program("v1/worker", HASTY);
    let master = place.pool(&format!("count = 4\n{PER_SLOT}"), "").start();
    let mut load = Command::new(example("load"));
    load.args([&master.address(), "--new", "16"]).env(processes::MARK, master.place.root());
    let load = Load::start(load);
    for count in ["3", "2", "4", "1"] {
        go_on(&load, 300);
        master.ok(&["scale", count]);
        master.wait_until_calm();
    }
    nothing_was_lost(load);
}

#[test]
fn nothing_is_lost_over_reloads() {
    let master = pool(3);
    let load = load(&master, 4);
    go_on(&load, 100);
    for _ in 0..20 {
        master.ok(&["reload"]);
    }
    master.wait_until_calm();
    go_on(&load, 300);
    let report = nothing_was_lost(load);
    let last = answers(&report).pop_last().expect("answers");
    assert_eq!((last.0, last.1.len()), (21, 3), "{report:#}");
}

#[test]
fn nothing_is_lost_when_a_reload_changes_the_balance_or_the_number_or_is_rolled_back() {
    let place = Place::new();
    place.release("bad", "exit_at_start=1");
    let master = place.pool("count = 3", "").start();
    let load = load(&master, 4);
    go_on(&load, 100);
    for worker in [PER_SLOT, "", "balance = 'per-slot'\nenvironment.A = '1'", "environment.A = '2'", PER_SLOT] {
        for count in [3, 2, 4] {
            master.place.configure(&format!("count = {count}\n{worker}"), "[reload]\nsurge = 1");
            master.ok(&["reload"]);
        }
        master.wait_until_calm();
        go_on(&load, 100);
    }
    master.place.current("bad");
    master.place.configure(&format!("count = 6\n{PER_SLOT}"), "");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    go_on(&load, 100);
    nothing_was_lost(load);
}

#[test]
fn an_upgrade_in_place_keeps_every_queue() {
    let master = pool(4);
    let load = load(&master, 4);
    go_on(&load, 100);
    master.ok(&["scale", "3"]);
    master.wait_until_calm();
    master.ok(&["upgrade"]);
    master.ok(&["scale", "5"]);
    let status = master.wait_until_calm();
    assert_eq!(queues(&status).len(), 5, "{status:#}");
    master.ok(&["reload"]);
    master.wait_until_calm();
    go_on(&load, 300);
    let report = nothing_was_lost(load);
    let all = who_answers(&master, 300);
    assert_eq!(all.len(), 5, "{all:?} {report:#}");
}

#[test]
fn systemd_s_socket_is_the_first_and_outlives_the_rest() {
    let ours = socket(true, "127.0.0.1:0");
    let address = address_of(&ours);
    let kept = ours.try_clone().expect("a copy");
    let master = Place::new().pool(&format!("count = 3\n{PER_SLOT}"), "").socket("http", ours).start();
    assert_eq!(who_answers(&master, 100).len(), 3);
    master.signal(Signal::TERM);
    assert!(master.end().success());
    // Nobody serves; systemd's socket takes what comes.
    let mut early = TcpStream::connect(address).expect("a connection");
    let master = Place::new().pool(&format!("count = 2\n{PER_SLOT}"), "").socket("http", kept).start();
    early.set_read_timeout(Some(Duration::from_secs(60))).expect("an option");
    early.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("written");
    let mut answer = String::new();
    early.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(who_answers(&master, 100).len(), 2);
}

#[test]
fn several_sockets_of_systemd_at_one_address_are_the_slots_() {
    let first = socket(true, "127.0.0.1:0");
    let second = socket(true, &address_of(&first));
    let plan = Place::new().pool(&format!("count = 2\n{PER_SLOT}"), "").socket("http", first).socket("http", second);
    let master = plan.start();
    let status = master.status();
    assert_eq!(status["sockets"].as_array().map(Vec::len), Some(1), "{status:#}");
    assert_eq!(queues(&status), [0, 0]);
    assert_eq!(who_answers(&master, 100).len(), 2);
    assert!(master.get("/fds").lines().filter(|line| line.contains("socket:")).count() <= 2, "{}", master.get("/fds"));
}

#[test]
fn what_cannot_be_is_said_with_its_cure() {
    let plan = Place::new().pool(&format!("count = 2\n{PER_SLOT}"), "").socket("http", socket(false, "127.0.0.1:0"));
    let master = plan.launch();
    assert_eq!(master.end().code(), Some(1));
    master.wait_for_log("add ReusePort=yes to the [Socket] section");
    // And a reload that asks for it is refused and changes nothing.
    let master = Place::new().pool("count = 2", "").socket("http", socket(false, "127.0.0.1:0")).start();
    let before = pids(&master.status());
    master.place.configure(&format!("count = 2\n{PER_SLOT}"), "");
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("ReusePort=yes") || said.out.contains("ReusePort=yes"), "{said:?}");
    assert_eq!(pids(&master.wait_until_calm()), before);
}

#[test]
fn fewer_workers_without_load_need_no_warning() {
    let master = pool(3);
    master.ok(&["scale", "1"]);
    master.wait_until_calm();
    let log = master.log();
    assert!(!log.contains("did not empty its queue"), "{log}");
}
