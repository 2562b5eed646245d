//! The worker library in real processes: what the status document shows of them, and what a reload does to connections
//! that are open. The worker is the example `chaos`.

#[allow(dead_code)]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Master, example, signal};

const TIMEOUT: Duration = Duration::from_secs(60);

fn pool(workers: u32) -> Master {
    pool_with(workers, "")
}

fn pool_with(workers: u32, more: &str) -> Master {
    let program = example("chaos");
    Master::start(&format!("worker.command = [{program:?}]\nworker.count = {workers}\n{more}\n"))
}

/// A kept connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        Client(BufReader::new(stream))
    }

    fn ask(&mut self, path: &str) {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
    }

    /// Whether the end of the connection was announced, and the body.
    fn answer(&mut self) -> (bool, String) {
        let (mut length, mut close, mut first) = (0, false, true);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("an answer");
            assert!(!first || line.starts_with("HTTP/1.1 200 "), "{line:?}");
            first = false;
            match line.trim_end().to_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().expect("a length"),
                Some(("connection", value)) => close = value == "close",
                Some(_) => {}
                None if line == "\r\n" => break,
                None => assert!(!line.is_empty(), "the connection ended within a head"),
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body");
        (close, String::from_utf8(body).expect("text"))
    }

    fn get(&mut self, path: &str) -> (bool, String) {
        self.ask(path);
        self.answer()
    }

    fn at_end(mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("an end in good order");
        assert_eq!(rest, b"");
    }
}

fn said(who: &str, word: &str) -> u64 {
    let mut words = who.split_whitespace().skip_while(|found| *found != word);
    words.nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {word} in {who:?}"))
}

fn workers(status: &Value) -> impl Iterator<Item = &Value> {
    status["workers"].as_array().expect("workers").iter()
}

#[test]
fn the_status_shows_connections_requests_and_the_applications_own_words() {
    let mut master = pool(1);
    let address = master.address();
    let idle_pool = master.status().expect("a status");
    assert_eq!((&idle_pool["requests"], &idle_pool["connections"]), (&json!(0), &json!(0)), "known, and none");
    let mut client = Client::new(&address);
    client.get("/count?name=jobs&by=5");
    client.get("/info?text=hello");
    let mut busy = Client::new(&address);
    busy.ask("/describe?about=invoices&ms=600000");
    let status = master.wait("the request is shown", |status| {
        let mut all = workers(status).flat_map(|worker| worker["active_connections"].as_array().expect("connections"));
        all.any(|connection| connection["request"]["info"]["about"] == "invoices")
    });
    let worker = workers(&status).next().expect("a worker");
    assert_eq!((&worker["connections"], &worker["requests"]), (&json!(2), &json!(3)));
    assert_eq!((&worker["counters"], &worker["info"]), (&json!({"jobs": 5.0, "responses_2xx": 2.0}), &json!({"says": "hello"})));
    let of = |state: &str| {
        let mut all = worker["active_connections"].as_array().expect("connections").iter();
        all.find(|connection| connection["state"] == state).unwrap_or_else(|| panic!("no {state} one: {worker:#}"))
    };
    let request = &of("active")["request"];
    assert_eq!(
        (&request["state"], &request["method"], &request["http_version"]),
        (&json!("processing"), &json!("GET"), &json!("1.1"))
    );
    assert_eq!((&request["url"], &request["ip"]), (&json!("/describe?about=invoices&ms=600000"), &json!("127.0.0.1")));
    let port = busy.0.get_ref().local_addr().expect("an address").port();
    assert_eq!((&of("active")["remote_port"], &of("active")["bytes_written"]), (&json!(port), &json!(0)));
    assert_eq!((&of("idle")["requests"], &of("idle")["request"]["state"]), (&json!(2), &json!("finished")));
    assert!(of("idle")["bytes_written"].as_u64() > Some(100) && of("idle")["idle_since"].is_string());
    assert_eq!(client.get("/pool").1, "1 workers ready\n");
}

#[test]
fn a_killed_worker_leaves_its_totals_and_the_request_that_it_died_in() {
    let mut master = pool(1);
    let mut client = Client::new(&master.address());
    let pid = said(&client.get("/count?name=jobs&by=7").1, "pid");
    client.ask("/describe?about=doom&ms=600000");
    master.wait("the request is shown", |status| status["requests"] == 2);
    // Rust's handler of the first one only looks for an overflow of the stack, and steps aside.
    let status = master.wait("it is replaced", |status| {
        signal(pid as u32, Signal::SEGV);
        status["worker_crashes"] == 1 && status["workers_ready"] == 1
    });
    assert_eq!(
        (&status["requests"], &status["connections"], &status["counters"]),
        (&json!(2), &json!(1), &json!({"jobs": 7.0, "responses_2xx": 1.0}))
    );
    // The record is complete when the worker's last lines have been read.
    let url = "/describe?about=doom&ms=600000";
    let status = master.wait("the record", |status| status["failures"][0]["serving"][0]["url"] == url);
    let failure = &status["failures"][0];
    assert_eq!((&failure["pid"], &failure["serving"][0]["info"]["about"]), (&json!(pid), &json!("doom")));
    assert!(failure["how"].as_str().is_some_and(|how| how.starts_with("signal SIGSEGV")), "{failure:#}");
    // The same for people: in the log, and in `ratoon status`.
    logged(&master, "while serving");
    let (log, shown) = (master.log(), master.ask(&["status"]).stdout);
    let sentence = log.lines().find(|line| line.contains("while serving")).unwrap_or_else(|| panic!("{log}"));
    assert!(sentence.contains("worker 1 (slot 0): signal SIGSEGV"), "{sentence}");
    let serving = format!("while serving GET {url} for ");
    assert!(sentence.contains(&serving) && sentence.ends_with(" s"), "{sentence}");
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains(&format!("while serving GET {url} for ")), "{shown}");
}

/// The kept connection is idle, the fresh one has sent nothing yet, the busy one waits for its answer.
#[test]
fn a_reload_serves_every_connection_that_was_accepted() {
    let mut master = pool(1);
    let address = master.address();
    let mut idle = Client::new(&address);
    let old = said(&idle.get("/").1, "pid");
    let fresh = Client::new(&address);
    let mut busy = Client::new(&address);
    let directory = tempfile::tempdir().expect("a directory");
    let gate = directory.path().join("gate");
    busy.ask(&format!("/wait?file={}", gate.display()));
    master.wait("all are accepted", |status| status["connections"] == 3 && status["requests"] == 2);
    master.ok(&["reload"]);
    let draining = |status: &Value| workers(status).any(|worker| worker["pid"] == old && worker["listening"] == false);
    master.wait("the old one listens no more", draining);
    assert_ne!(said(&Client::new(&address).get("/").1, "pid"), old);
    for mut client in [idle, fresh] {
        let (close, who) = client.get("/");
        assert!(close && said(&who, "pid") == old, "{close} {who}");
        client.at_end();
    }
    std::fs::write(&gate, "").expect("the gate opens");
    let (close, who) = busy.answer();
    assert!(close && said(&who, "pid") == old, "{close} {who}");
    busy.at_end();
    let gone = |status: &Value| workers(status).all(|worker| worker["pid"] != old);
    let status = master.wait("the old one is gone", gone);
    assert_eq!((&status["worker_crashes"], &status["requests"]), (&json!(0), &json!(5)));
}

/// Nobody asks a worker for its status, so one that is stopped delays nothing, and shows what it hangs in.
#[test]
fn a_stopped_worker_does_not_delay_the_status() {
    let mut master = pool(2);
    let mut client = Client::new(&master.address());
    client.ask("/describe?about=everything&ms=600000");
    let in_work = |status: &Value| workers(status).find(|worker| worker["requests"] == 1).and_then(|it| it["pid"].as_u64());
    let status = master.wait("the request is in work", |status| in_work(status).is_some());
    let pid = in_work(&status).expect("just seen") as u32;
    let mut times = [Duration::MAX; 2];
    for (time, stop) in times.iter_mut().zip([None, Some(Signal::STOP)]) {
        if let Some(stop) = stop {
            signal(pid, stop);
        }
        for _ in 0..20 {
            let began = Instant::now();
            let status = master.status().expect("a status");
            *time = began.elapsed().min(*time);
            let hangs = workers(&status).find(|worker| worker["pid"] == pid).expect("the worker");
            assert_eq!(hangs["active_connections"][0]["request"]["info"]["about"], "everything", "{status:#}");
            assert!(hangs["memory_rss"].is_u64() && hangs["open_connections"] == 1, "{status:#}");
        }
    }
    signal(pid, Signal::CONT);
    // The best of twenty each, so that a neighbour's load is not in it; a wait of any length would be in all of them.
    assert!(times[1] < times[0] + Duration::from_millis(50), "{times:?}");
}

/// A worker with a request in work that will not end, in a pool that has been reloaded, and the request's port at the client.
fn overdue(more: &str) -> (Master, Client, u16) {
    let mut master = pool_with(1, more);
    let mut hanging = Client::new(&master.address());
    let port = hanging.0.get_ref().local_addr().expect("an address").port();
    hanging.ask("/sleep?ms=600000");
    master.wait("the request is in work", |status| status["requests"] == 1);
    master.ok(&["reload"]);
    (master, hanging, port)
}

/// Waits until the log has it.
fn logged(master: &Master, said: &str) {
    let deadline = Instant::now() + TIMEOUT;
    while !master.log().contains(said) {
        assert!(Instant::now() < deadline, "no {said:?} in {}", master.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The master tells how long a drain may take, by the status page; the library leaves in good order before.
#[test]
fn what_a_drain_leaves_undone_is_named_by_peer_and_url_before_the_kill() {
    let (mut master, _hanging, port) = overdue("worker.stop_timeout = '2s'");
    let status = master.wait("the old one leaves", |status| workers(status).count() == 1);
    assert_eq!((&status["failures"], &status["worker_crashes"]), (&json!([]), &json!(0)), "it was not killed: {status:#}");
    let said = format!("the drain is over, and 127.0.0.1:{port} still waits for GET /sleep?ms=600000 after ");
    logged(&master, &said);
}

/// One that does not leave is killed, and the master says what that cut off.
#[test]
fn what_the_kill_at_the_end_of_a_drain_cuts_off_is_in_the_record() {
    let (mut master, _hanging, _) = overdue("worker.stop_timeout = '200ms'\nworker.environment = { CHAOS_IGNORE_TERM = '1' }");
    let cut_off = |status: &Value| status["failures"][0]["serving"][0]["url"] == "/sleep?ms=600000";
    let status = master.wait("the record", cut_off);
    assert_eq!((&status["failures"][0]["how"], &status["worker_crashes"]), (&json!("stop timeout after 200ms"), &json!(0)));
    logged(&master, "worker 1 (slot 0): stop timeout after 200ms while serving GET /sleep?ms=600000 for ");
}

/// The same program alone, on a port that was free a moment ago.
fn alone() -> (Child, String) {
    let address = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").to_string();
    let child = Command::new(example("chaos"))
        .env("CHAOS_LISTEN", &address)
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chaos");
    let mut left = 60_000 / 10;
    while TcpStream::connect(&address).is_err() {
        left -= 1;
        assert!(left > 0, "it does not listen on {address}");
        std::thread::sleep(Duration::from_millis(10));
    }
    (child, address)
}

#[test]
fn alone_it_serves_drains_at_a_signal_and_ends_at_the_second() {
    for stop in [Signal::TERM, Signal::INT] {
        let (mut child, address) = alone();
        let mut client = Client::new(&address);
        assert_eq!(said(&client.get("/").1, "generation"), 0);
        signal(child.id(), stop);
        while TcpStream::connect(&address).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(client.get("/").0, "the end is announced");
        drop(client);
        assert_eq!(child.wait().expect("its end").code(), Some(0));
    }
    let (mut child, address) = alone();
    let mut client = Client::new(&address);
    client.get("/");
    client.ask("/sleep?ms=600000");
    signal(child.id(), Signal::INT);
    while TcpStream::connect(&address).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(child.id(), Signal::INT);
    assert_eq!(child.wait().expect("its end").code(), Some(130));
}
