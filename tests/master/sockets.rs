//! The listening sockets: from systemd, or bound; held whatever becomes of the workers.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use rustix::fs::{OFlags, fcntl_getfl};

use super::harness::master::pids;
use super::harness::{Place, Plan, Signal, Value, eventually, http, processes};

/// `name address` of each socket of the status document.
fn sockets(status: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let sockets = status["sockets"].as_array().into_iter().flatten();
    sockets.map(|socket| format!("{} {}", text(&socket["name"]), text(&socket["address"]))).collect()
}

fn inode_of(socket: &OwnedFd) -> String {
    format!("socket:[{}]", rustix::fs::fstat(socket).expect("a socket").st_ino)
}

fn copy_of(socket: impl AsFd) -> OwnedFd {
    socket.as_fd().try_clone_to_owned().expect("a descriptor")
}

#[test]
fn systemd_s_sockets_of_every_kind_are_passed_on_in_their_order_with_their_names() {
    let place = Place::new();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("tcp");
    let tcp6 = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).expect("tcp");
    let unix = UnixListener::bind(place.path("unix")).expect("unix");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("udp");
    let datagram = UnixDatagram::bind(place.path("datagram")).expect("datagram");
    let wanted = [
        format!("http {}", tcp.local_addr().expect("tcp")),
        format!("http {}", tcp6.local_addr().expect("tcp")),
        format!("admin {}", place.path("unix").display()),
        format!("dns {}", udp.local_addr().expect("udp")),
        format!("log {}", place.path("datagram").display()),
    ];
    let all: Vec<(&str, OwnedFd)> =
        vec![("http", tcp.into()), ("http", tcp6.into()), ("admin", unix.into()), ("dns", udp.into()), ("log", datagram.into())];
    let inodes: Vec<String> = all.iter().map(|(_, socket)| inode_of(socket)).collect();
    place.wrap("v1", "echo $LISTEN_FDS $LISTEN_FDNAMES > PLACE/said.$RATOON_WORKER");
    let plan = all.into_iter().fold(place.pool("count = 1", ""), |plan, (name, socket)| plan.socket(name, socket));
    let master = plan.start();
    assert_eq!(sockets(&master.status()), wanted);
    let born_with = master.get("/fds");
    for (number, inode) in (3..).zip(&inodes) {
        assert!(born_with.contains(&format!("{number} {inode}\n")), "{number} {inode}: {born_with}");
    }
    assert_eq!(master.place.read("said.1").trim(), "5 http:http:admin:dns:log");
}

#[test]
fn instance_whose_name_begins_with_ratoon_has_its_sockets() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    let master = Place::new().pool("count = 1", "").socket("ratoon-web", socket).start();
    assert_eq!(sockets(&master.status()), [format!("ratoon-web {address}")]);
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    let plan = Place::new().pool("count = 1", "").socket("http", socket).shell("LISTEN_PID=1 exec \"$0\" \"$@\"");
    let master = plan.listen("127.0.0.1:0").start();
    assert_ne!(master.address(), address);
}

#[test]
fn with_sockets_from_systemd_listen_is_ignored_and_that_is_said() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    let master = Place::new().pool("count = 1", "").socket("http", socket).listen("127.0.0.1:0").start();
    assert_eq!(sockets(&master.status()), [format!("http {address}")]);
    master.wait_for_log("--listen is ignored");
}

#[test]
fn listen_binds_every_kind() {
    let place = Place::new();
    let path = place.path("web.sock");
    let unique = place.root().file_name().expect("a name").to_str().expect("text").to_owned();
    place.wrap("v1", "echo $LISTEN_FDNAMES > PLACE/said.$RATOON_WORKER");
    let plan = place.pool("count = 1", "").listen("udp:127.0.0.1:0").listen(&format!("inside=@{unique}"));
    let plan = plan.listen(&format!("file={}", path.display())).listen("[::1]:0").listen("web=127.0.0.1:0");
    let master = plan.start();
    let found = sockets(&master.status());
    // Each `.listen()` of the plan goes to the front.
    assert!(found[0].starts_with("web 127.0.0.1:") && found[1].starts_with("listen [::1]:"), "{found:?}");
    assert_eq!(found[2..4], [format!("file {}", path.display()), format!("inside @{unique}")]);
    assert!(found[4].starts_with("listen 127.0.0.1:"), "{found:?}");
    assert_eq!(master.place.read("said.1").trim(), "web:listen:file:inside:listen");

    for address in found[..2].iter().filter_map(|it| it.split(' ').nth(1)) {
        TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    UnixStream::connect(&path).expect("the file");
    let name =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(unique).expect("a name");
    UnixStream::connect_addr(&name).expect("the abstract name");
    // UDP has it: nobody else can.
    let udp = found[4].split(' ').nth(1).expect("an address");
    assert_eq!(UdpSocket::bind(udp).expect_err("it is taken").kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn requests_are_answered_over_a_unix_socket() {
    let place = Place::new();
    let path = place.path("web.sock");
    // A dead one of an earlier run lies there.
    drop(UnixListener::bind(&path).expect("a socket"));
    let master = place.pool("count = 1", "").listen(path.to_str().expect("text")).start();
    assert!(http::get(path.to_str().expect("text"), "/").expect("an answer").body.contains("chaos"));
    drop(master);
}

#[test]
fn an_address_that_cannot_be_had_ends_the_start_with_the_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let place = Place::new();
    let path = place.path("taken.sock");
    let _alive = UnixListener::bind(&path).expect("a socket");
    let master = place.pool("count = 1", "").listen(&address).launch();
    assert_eq!(master.end().code(), Some(1));
    master.wait_for_log(&address);
    master.wait_for_log("another process has this port");

    let place = Place::new();
    let master = place.pool("count = 1", "").listen(path.to_str().expect("text")).launch();
    assert_eq!(master.end().code(), Some(1));
    master.wait_for_log("another process listens there");
    assert!(UnixStream::connect(&path).is_ok(), "the other's socket was removed");
}

#[test]
fn nothing_but_a_number_is_changed_of_a_socket_from_systemd() {
    // O_NONBLOCK is shared with systemd and with every generation.
    let (blocking, other) =
        (TcpListener::bind("127.0.0.1:0").expect("a port"), TcpListener::bind("127.0.0.1:0").expect("a port"));
    other.set_nonblocking(true).expect("nonblocking");
    let seen = [copy_of(&blocking), copy_of(&other)];
    let place = Place::new();
    // A worker that leaves them alone.
    let script = "systemd-notify --ready; exec sleep 1000";
    place.program("v1/worker", &format!("#!/bin/sh\n{script}\n"));
    let master = place.pool("ready = 'notify'\ncount = 1", "").socket("a", blocking).socket("b", other).start();
    let flags = || seen.each_ref().map(|socket| fcntl_getfl(socket).expect("flags").contains(OFlags::NONBLOCK));
    assert_eq!(flags(), [false, true]);
    master.ok(&["reload"]);
    master.wait_until_calm();
    assert_eq!(flags(), [false, true]);
}

#[test]
fn nonblocking_is_taken_back_with_the_release_that_wanted_it() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let seen = copy_of(&socket);
    let is_set = || fcntl_getfl(&seen).expect("flags").contains(OFlags::NONBLOCK);
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nsystemd-notify --ready\nexec sleep 1000\n");
    place.release("bad", "");
    place.program("bad/worker", "#!/bin/sh\ncat /proc/self/fdinfo/3 > ../fdinfo\nexit 3\n");
    let worker = "ready = 'notify'\ncount = 1\nnonblocking = ";
    let master = place.pool(&format!("{worker}false"), "").socket("a", socket).start();
    assert!(!is_set());
    // A release whose worker fails before it is ready: the generation that serves may wait in accept(2).
    master.place.configure(&format!("{worker}true"), "");
    master.place.current("bad");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    master.wait_until_calm();
    let fdinfo = master.place.read("fdinfo");
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
    assert!(i32::from_str_radix(flags, 8).expect("octal digits") & libc::O_NONBLOCK != 0, "the worker had it: {fdinfo}");
    eventually("the flag is cleared", || (!is_set()).then_some(()), || master.log());
    master.place.current("v1");
    master.ok(&["reload"]);
    assert!(is_set());
    master.place.configure(&format!("{worker}false"), "");
    master.ok(&["reload"]);
    master.wait_until_calm();
    assert!(is_set(), "workers may rely on it");
}

#[test]
fn connections_wait_while_no_worker_lives() {
    let place = Place::new();
    let master = place.pool("count = 1", "[restart]\ninitial = '1ms'\nmax = '5ms'").start();
    let address = master.address();
    master.place.behave("v1", "exit_at_start=1");
    processes::signal(pids(&master.status())[0], Signal::KILL);
    master.wait("nobody is ready", |status| status["workers_ready"] == 0 && status["worker_crashes"].as_u64() > Some(1));
    let asks = std::thread::spawn(move || http::get(&address, "/").expect("an answer").body);
    // It is in the queue, not refused.
    master.wait("one waits", |status| status["sockets"][0]["queue"] == 1);
    master.place.behave("v1", "");
    assert!(asks.join().expect("no panic").contains("generation 1"));
}

#[test]
fn a_pool_without_a_socket_is_a_pool_too() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nenv | grep LISTEN_ > ../said\nsystemd-notify --ready\nexec sleep 1000\n");
    place.configure("count = 1", "");
    let master = Plan::new(place).listens_nowhere().start();
    assert_eq!(master.status()["sockets"], serde_json::json!([]));
    assert_eq!(master.place.read("said"), "", "there is nothing to listen on");
}

/// Serves requests on standard input, and knows of no other descriptor.
const SERVES_ON_STDIN: &str = "#!/usr/bin/python3
import os, socket
listener = socket.socket(fileno=0)
while True:
    client, _ = listener.accept()
    client.recv(4096)
    client.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nslot ' + os.environ['RATOON_SLOT'].encode())
    client.close()
";

#[test]
fn stdin_is_the_first_socket_where_the_configuration_says_so() {
    for balance in ["shared", "per-slot"] {
        let place = Place::new();
        place.program("v1/worker", SERVES_ON_STDIN);
        let worker = format!("count = 2\nready = 'accepting'\nstdin = 'socket'\nbalance = '{balance}'");
        let master = place.pool(&worker, "").start();
        assert!(master.get("/").starts_with("slot "), "{balance}");
        // A descriptor of the same socket as number 3, in each worker another socket where each slot has its own.
        let link = |pid: u32, number: u32| std::fs::read_link(format!("/proc/{pid}/fd/{number}")).expect("a descriptor");
        let pids = pids(&master.status());
        for pid in &pids {
            assert_eq!(link(*pid, 0), link(*pid, 3), "{balance}");
        }
        assert_eq!(link(pids[0], 0) == link(pids[1], 0), balance == "shared");
        master.ok(&["reload"]);
        assert!(master.get("/").starts_with("slot "), "{balance}");
    }
}

#[test]
fn stdin_socket_without_a_socket_is_refused_with_the_reason() {
    let place = Place::new();
    place.configure("count = 1\nstdin = 'socket'", "");
    let master = Plan::new(place).listens_nowhere().launch();
    assert_eq!(master.end().code(), Some(1));
    master.wait_for_log("worker.stdin = \"socket\" needs a listening socket");
}
