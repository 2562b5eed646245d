//! A canary with `worker.balance = "per-slot"`: queues of its own, which get exactly its part of the new connections.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::harness::master::{Verb, pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Signal, TIMEOUT, Value, processes};

/// The first source port. A socket is chosen for 16 ports at a time; these are below those that the kernel gives to clients.
const FIRST_PORT: u16 = 12_288;
/// Source ports of a turn.
const TURN: u16 = 16;

fn pool(table: &str) -> Master {
    let place = Place::new();
    let master = place
        .pool("count = 4\nbalance = 'per-slot'\nbalance_hung = 'off'", &format!("[reload]\nprobation = '0s'\n{table}"))
        .start();
    master.wait_until_calm();
    master
}

/// Begins a reload and waits for its canary; the reload and the process of the canary.
fn canary(master: &Master) -> (Verb, u32) {
    let reload = master.begin(&["reload"]);
    master.wait_for_log("canary of generation 2: 1/4 workers, waiting");
    let status = master.status();
    let own = workers(&status).iter().find(|worker| worker["generation"] == 2);
    (reload, own.and_then(|worker| worker["pid"].as_u64()).expect("a canary") as u32)
}

/// A connection from a port of this turn, with a request that is the only one.
fn connect(to: SocketAddr, turn: u16) -> TcpStream {
    let first = FIRST_PORT + turn * TURN;
    for port in first..first + TURN {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("a socket");
        sockopt::set_socket_reuseaddr(&socket, true).expect("an option");
        let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        // A process, or a connection that has ended a moment ago, may have the port.
        match rustix::net::bind(&socket, &from).and_then(|()| rustix::net::connect(&socket, &to)) {
            Ok(()) => {}
            Err(rustix::io::Errno::ADDRINUSE | rustix::io::Errno::ADDRNOTAVAIL) => continue,
            Err(error) => panic!("port {port}: {error}"),
        }
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT)).expect("an option");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        return stream;
    }
    panic!("no port of {first} to {} is free", first + TURN - 1);
}

/// The process that answers.
fn answer(mut stream: TcpStream) -> Result<u32, String> {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset && !text.is_empty() => {}
        Err(error) => return Err(error.to_string()),
    }
    let pid = text.split_whitespace().skip_while(|word| *word != "pid").nth(1).and_then(|pid| pid.parse().ok());
    pid.ok_or_else(|| format!("no pid in {text:?}"))
}

/// How many of 1000 connections each process gets, one of each turn.
fn thousand(master: &Master) -> BTreeMap<u32, u32> {
    let address = master.address().parse().expect("an address");
    let mut answered = BTreeMap::new();
    for turn in 0..1000 {
        let pid = answer(connect(address, turn)).unwrap_or_else(|error| panic!("{error}\n{}", master.log()));
        *answered.entry(pid).or_default() += 1;
    }
    answered
}

#[test]
fn canary_of_one_and_of_a_quarter_get_exactly_their_parts() {
    for (step, of_canary, of_each) in [("1", 200, [200, 200]), ("25%", 250, [187, 188])] {
        let master = pool(&format!("steps = ['{step}']\nstep_time = 'manual'"));
        let (reload, pid) = canary(&master);
        let mut answered = thousand(&master);
        assert_eq!(answered.remove(&pid), Some(of_canary), "{step}: {answered:?}");
        assert!(answered.len() == 4 && answered.values().all(|count| of_each.contains(count)), "{step}: {answered:?}");
        // The queues of a slot are shown as one.
        let slots = master.status()["sockets"][0]["slots"].as_array().map(Vec::len);
        assert_eq!(slots, Some(4));
        master.ok(&["promote"]);
        assert_eq!(reload.end().code, Some(0));
        let status = master.wait("the new generation alone", |status| workers(status).len() == 4);
        let answered = thousand(&master);
        assert_eq!(answered.keys().copied().collect::<Vec<_>>(), sorted(&status), "{answered:?}");
        assert!(answered.values().all(|count| *count == 250), "{answered:?}");
    }
}

fn sorted(status: &Value) -> Vec<u32> {
    let mut pids: Vec<u32> = pids(status);
    pids.sort_unstable();
    pids
}

#[test]
fn rollback_loses_nothing_that_waits_for_the_canary() {
    let master = pool("steps = ['1']\nstep_time = 'manual'");
    let before = sorted(&master.status());
    let (reload, pid) = canary(&master);
    let address = master.address().parse().expect("an address");
    processes::signal(pid, Signal::STOP);
    let waiting: Vec<TcpStream> = (0..100).map(|turn| connect(address, turn)).collect();
    let queued = |status: &Value| status["sockets"][0]["slots"][0].as_u64() >= Some(20);
    master.wait("a part waits for the canary", queued);
    master.ok(&["abort"]);
    assert_eq!(reload.end().code, Some(1));
    // Steering has moved away, while the canary still has what waited for it.
    let others: Vec<u32> = (100..150).map(|turn| answer(connect(address, turn)).expect("an answer")).collect();
    assert!(!others.contains(&pid), "{others:?}");
    processes::signal(pid, Signal::CONT);
    let answered: Vec<u32> =
        waiting.into_iter().map(answer).collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}\n{}", master.log()));
    assert_eq!(answered.iter().filter(|answered| **answered == pid).count(), 20, "{answered:?}");
    wait_for_end_of(pid);
    assert_eq!(sorted(&master.status()), before);
}

#[test]
fn crash_of_the_canary_loses_nothing_that_waits_for_it() {
    let master = pool("steps = ['1']\nstep_time = 'manual'");
    let before = sorted(&master.status());
    let (reload, pid) = canary(&master);
    let address = master.address().parse().expect("an address");
    processes::signal(pid, Signal::STOP);
    // The kernel completes connections for the stopped canary, which never accepts them.
    let waiting: Vec<TcpStream> = (0..100).map(|turn| connect(address, turn)).collect();
    master.wait("a part waits for the canary", |status| status["sockets"][0]["slots"][0].as_u64() >= Some(20));
    processes::signal(pid, Signal::KILL);
    assert_eq!(reload.end().code, Some(1));
    let answered: Vec<u32> =
        waiting.into_iter().map(answer).collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}\n{}", master.log()));
    let relief: Vec<u32> = answered.into_iter().filter(|answered| !before.contains(answered)).collect();
    assert_eq!(relief.len(), 20, "{relief:?}");
    wait_for_end_of(relief[0]);
    master.wait("the old workers alone", |status| sorted(status) == before);
}
