//! Servers that know nothing of Ratoon, as workers: each the real program, as its users start it.
//!
//! What is asked of all: it starts, is reloaded under load without a lost request, scaled, replaced when killed, drained.
//! What a program loses by itself is written where it is tested.
#![forbid(unsafe_code)]

#[path = "foreign/preload.rs"]
mod preload;
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::load::{Load, answers};
use support::{Master, example, signal};

/// What a program loses by itself when it is told to stop under load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loses {
    Nothing,
    /// It closes connections that it has accepted and from which it has not read yet. No supervisor can mend that.
    UnreadConnections,
}

/// How many clients ask at once.
const CLIENTS: u64 = 4;

/// How often the pool is reloaded under them.
const RELOADS: u64 = 3;

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn node_http() {
    a_worker_s_life(r#"command = ["node", "node.js"]"#, Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn uvicorn() {
    // Speaks no sd_notify, so it is ready when it has lived for a while.
    let command = format!("command = [{:?}, '--fd', '3', '--no-access-log', 'app:asgi']\nready = 'running'", venv("uvicorn"));
    a_worker_s_life(&command, Loses::UnreadConnections);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn gunicorn() {
    a_worker_s_life(&format!("command = [{:?}, '--no-control-socket', 'app:wsgi']", venv("gunicorn")), Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn puma() {
    a_worker_s_life(r#"command = ["puma", "--bind-to-activated-sockets=only", "--config", "puma.rb"]"#, Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn shell_script() {
    a_worker_s_life(r#"command = ["./shell.sh"]"#, Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn node_shows_its_connections_and_requests() {
    let worker = r#"command = ["node", "shown.js"]"#;
    let status = a_request_is_shown(worker, "node");
    let worker = &status["workers"][0];
    assert_eq!((&worker["connections"], &status["connections"]), (&1.into(), &2.into()), "{status:#}");
    assert!(worker["bytes_read"].as_u64() > Some(40) && worker["bytes_written"].as_u64() > Some(100), "{status:#}");
    let connection = &worker["active_connections"][0];
    assert_eq!((&connection["state"], &connection["requests"]), (&"idle".into(), &2.into()), "{status:#}");
    assert_eq!(connection["request"]["state"], "finished", "{status:#}");
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn node_shows_and_loses_nothing() {
    a_worker_s_life(r#"command = ["node", "shown.js"]"#, Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn python_shows_its_requests() {
    let worker =
        format!("command = [{:?}, '--threads', '4', '--config', 'python:ratoon.gunicorn', 'shown:app']", venv("gunicorn"));
    let status = a_request_is_shown(&worker, "python");
    // Nobody told of connections: that is not none.
    assert_eq!((&status["connections"], &status["workers"][0]["bytes_read"]), (&Value::Null, &Value::Null), "{status:#}");
}

/// A worker that shows its requests by its language's library: one is in work, the worker is killed, another serves two. Gives the last
/// status.
fn a_request_is_shown(worker: &str, language: &str) -> Value {
    let mut master = pool("tests/workers", 1, worker);
    let (mut first, port) = ask(&master.address(), "/invoice/17?about=invoices&seconds=600");
    let status = master.wait("the request is shown", |status| in_work(status)["request"]["info"]["about"] == "invoices");
    let connection = in_work(&status);
    assert_eq!((&connection["remote_address"], &connection["remote_port"]), (&"127.0.0.1".into(), &port.into()), "{status:#}");
    let request = &connection["request"];
    assert_eq!(request["url"], "/invoice/17?about=invoices&seconds=600", "{status:#}");
    assert_eq!((&request["method"], &request["http_version"]), (&"GET".into(), &"1.1".into()), "{status:#}");
    assert_eq!((&request["state"], &request["ip"]), (&"processing".into(), &"127.0.0.1".into()), "{status:#}");
    let age = |time: &Value| time.as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z'));
    assert!(age(&request["start_time"]) && age(&connection["start_time"]), "{status:#}");
    let worker = &status["workers"][0];
    assert!(worker["requests"] == 1 && worker["info"][language].is_string(), "{status:#}");
    // What a dead worker wrote is still there.
    let pid = pids(&status)[0];
    signal(pid, Signal::KILL);
    let status = master.wait("another shows that it has served nothing", |status| {
        status["worker_crashes"] == 1 && status["workers"][0]["requests"] == 0 && pids(status)[0] != pid
    });
    assert_eq!(first.read(&mut [0; 100]).unwrap_or(0), 0, "nobody answers");
    assert_eq!(status["failures"][0]["serving"][0]["url"], "/invoice/17?about=invoices&seconds=600", "{status:#}");
    assert_eq!(status["requests"], 1, "{status:#}");
    // The library leaves the queue of the shared socket as long as it was.
    let most =
        std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("somaxconn").trim().parse::<u64>().expect("a number");
    assert_eq!(status["sockets"][0]["queue_max"], most.min(4096), "{status:#}");
    // Two on one connection.
    let (mut client, _) = ask(&master.address(), "/?about=one");
    for left in [1, 0] {
        let mut text = String::new();
        // With a length, or in chunks.
        while !(text.ends_with("generation 1") || text.ends_with("\r\n0\r\n\r\n")) {
            let mut part = [0; 1024];
            let length = client.read(&mut part).expect("an answer");
            assert!(length > 0, "cut off: {text}");
            text += &String::from_utf8_lossy(&part[..length]);
        }
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        for _ in 0..left {
            client.write_all(b"GET /?about=two HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("another request");
        }
    }
    // The killed worker's count is not lost.
    master.wait("both are over", |status| {
        status["requests"] == 3 && status["counters"]["asked"] == 3.0 && in_work(status).is_null()
    })
}

/// The connection with a request in work, if there is one.
fn in_work(status: &Value) -> &Value {
    let mut all = status["workers"].as_array().into_iter().flatten().flat_map(|worker| worker["active_connections"].as_array());
    all.by_ref().flatten().find(|connection| connection["state"] == "active").unwrap_or(&Value::Null)
}

/// Asks; gives the connection and its port at this end.
fn ask(address: &str, url: &str) -> (TcpStream, u16) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    write!(stream, "GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
    let port = stream.local_addr().expect("an address").port();
    (stream, port)
}

/// A master whose workers run in this directory of the tree.
fn pool(directory: &str, count: u32, worker: &str) -> Master {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/src");
    let environment = format!("environment = {{ PYTHONDONTWRITEBYTECODE = '1', PYTHONPATH = {libraries:?} }}");
    Master::start(&format!("[worker]\ndirectory = {directory:?}\ncount = {count}\n{environment}\n{worker}\n"))
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn the_metrics_are_what_a_strict_parser_accepts() {
    let program = example("chaos");
    let directory = tempfile::tempdir().expect("a directory");
    let address = directory.path().join("status");
    let mut master = pool("examples", 2, &format!("command = [{program:?}]\n[status]\nlisten = {address:?}"));
    // Something of each kind: requests, a counter, connections that are open, a failure, reloads of two results.
    let (mut open, _) = ask(&master.address(), "/count?name=a%22b%5Cc&by=3");
    assert!(open.read(&mut [0; 1024]).expect("an answer") > 0);
    let pid = pids(&master.status().expect("a status"))[0];
    signal(pid, Signal::KILL);
    master.wait("a failure", |status| status["worker_crashes"] == 1 && status["workers_ready"] == 2);
    master.ok(&["reload"]);
    master.wait("calm", |status| pids(status).len() == 2);
    let ask_for = |accept: &str| {
        let mut prometheus = UnixStream::connect(&address).expect("the status address");
        write!(prometheus, "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
            .expect("a request");
        let mut answer = String::new();
        prometheus.read_to_string(&mut answer).expect("an answer");
        let (head, text) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_owned(), text.to_owned())
    };
    let (head, text) = ask_for("*/*");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let families = accepted(&text);
    for family in [
        "ratoon",
        "ratoon_state",
        "ratoon_generation",
        "ratoon_worker_failures",
        "ratoon_reload_duration_seconds",
        "ratoon_requests",
        "ratoon_worker_requests",
        "ratoon_worker_open_connections",
        "ratoon_worker_memory_rss_bytes",
        "ratoon_worker_cpu_seconds",
        "ratoon_socket_queue",
    ] {
        assert!(families.iter().any(|found| found == family), "no {family}: {families:?}");
    }
    for line in [
        "ratoon_worker_failures_total{instance=\"pool\",cause=\"signal\"} 1",
        "ratoon_reload_duration_seconds_count{instance=\"pool\",result=\"committed\"} 1",
        "ratoon_application_total{instance=\"pool\",counter=\"a\\\"b\\\\c\"} 3",
    ] {
        assert!(text.contains(line), "no {line}: {text}");
    }
    // The parser is strict: what is no OpenMetrics is refused.
    let broken = std::panic::catch_unwind(|| accepted(&text.replace("# EOF\n", "")));
    assert!(broken.is_err(), "a text without an end was accepted");

    // The older format, for who asks for it: by the rules of Prometheus's own tool, too.
    let (head, classic) = ask_for("text/plain;version=0.0.4");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(classic.contains("ratoon_worker_requests_total{instance=\"pool\",slot=\"0\""), "{classic}");
    let said = promtool(&classic);
    assert!(said.is_empty(), "{said}\n{classic}");
    assert!(promtool(&text).contains("unknown metric type"), "promtool reads OpenMetrics: one format is enough");
}

/// What `promtool check metrics` finds wrong.
fn promtool(text: &str) -> String {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/promtool/usr/bin/promtool");
    let mut promtool = Command::new(if ours.exists() { ours } else { "promtool".into() });
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool: run tests/setup");
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let said = promtool.wait_with_output().expect("its end");
    let text = [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(said.status.success(), text.is_empty(), "{}: {text}", said.status);
    text
}

/// The names of the families, as the parser of Prometheus's own client for Python finds them.
fn accepted(text: &str) -> Vec<String> {
    let script = "import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()): print(family.name)";
    let mut python = Command::new(venv("python"));
    let mut parser =
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python");
    parser.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let said = parser.wait_with_output().expect("its end");
    assert!(said.status.success(), "{}\n{text}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect()
}

/// `worker` is what stands under `[worker]` beside the directory and the count.
fn a_worker_s_life(worker: &str, loses: Loses) {
    let mut master = pool("tests/workers", 2, worker);

    // Reloads, under a little load of new connections.
    let mut load = Command::new(example("load"));
    load.args([&master.address(), "--new", &CLIENTS.to_string()]);
    let load = Load::start(load);
    load.wait_for(10);
    for generation in 2..=RELOADS + 1 {
        master.ok(&["reload"]);
        let status = master.wait("only the new generation is left", |status| {
            pids(status).len() == 2 && status["workers"][0]["generation"] == generation
        });
        assert_eq!((&status["generation"], &status["workers_ready"]), (&generation.into(), &2.into()));
        load.wait_for(load.requests() + 10);
    }
    let report = load.stop();
    let answered = answers(&report);
    println!("answered by generation: {answered:?}, failed: {}", report["failed"]);
    assert_eq!(answered.keys().copied().collect::<Vec<_>>(), (1..=RELOADS + 1).collect::<Vec<_>>(), "{report:#}");
    let failures = &report["classes"]["new"]["failures"];
    let of = |kind: &str| failures[kind].as_u64().unwrap_or(0);
    let unread = of("end-before-answer") + of("reset");
    // A client has one connection at a time, so a reload costs it one request at most.
    let may = if loses == Loses::UnreadConnections { CLIENTS * RELOADS } else { 0 };
    assert!(report["failed"] == unread && unread <= may, "{failures}, {may} at most: {report:#}\n{}", master.log());

    // More, then fewer.
    master.ok(&["scale", "3"]);
    master.wait("three are ready", |status| status["workers_ready"] == 3 && pids(status).len() == 3);
    master.ok(&["scale", "1"]);
    let status = master.wait("one is left", |status| status["workers_ready"] == 1 && pids(status).len() == 1);

    // One that is killed is replaced.
    let killed = pids(&status)[0];
    signal(killed, Signal::KILL);
    let status = master.wait("another is ready in its place", |status| {
        status["worker_crashes"] == 1 && status["workers_ready"] == 1 && pids(status).first().is_some_and(|pid| *pid != killed)
    });
    assert_eq!(status["failures"][0]["how"], "signal SIGKILL", "{status:#}");
    let last = pids(&status)[0];

    // The end.
    let ended = master.stop();
    assert!(ended.success(), "{ended}");
    assert!(!Path::new(&format!("/proc/{last}")).exists(), "the worker outlived its master");
}

/// The pids of all living workers.
fn pids(status: &Value) -> Vec<u32> {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter_map(|worker| worker["pid"].as_u64()?.try_into().ok()).collect()
}

/// A program of the virtual environment that `tests/setup` made.
fn venv(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin").join(program);
    assert!(path.exists(), "{} is missing: run tests/setup", path.display());
    path
}
