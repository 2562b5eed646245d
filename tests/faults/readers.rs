//! Readers that may not change the pool: what they see of the status document, and what a web page sees by DNS rebinding.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::harness::master::{last_failure, workers};
use super::harness::{Master, Place, Plan, TIMEOUT, Value};

/// An unprivileged user; the tests that speak as one need root.
const NOBODY: &str = "65534";
const SECRET: &str = "s3cret";

/// A pool of one whose worker crashed with a secret in its last line and its last STATUS=, and whose present worker has a secret
/// in its info and in the URL of a request under way.
fn pool_with_secrets(worker: &str, tables: &str) -> Master {
    let place = Place::new();
    // The control socket is for everyone, the test's directory is not.
    std::fs::set_permissions(place.root(), std::fs::Permissions::from_mode(0o755)).expect("the place");
    let master = place.pool(&format!("count = 1\n{worker}"), tables).start();
    expose(&master);
    master
}

fn expose(master: &Master) {
    master.get(&format!("/err?text=postgres://app:{SECRET}@db/prod"));
    master.get(&format!("/status?text=last-{SECRET}"));
    let _ = master.try_get(&format!("/crash?token={SECRET}"));
    master.wait("the crash is told whole", |status| {
        let failure = last_failure(status);
        status["workers_ready"] == 1 && failure["log_tail"].to_string().contains(SECRET) && failure["serving"][0].is_object()
    });
    master.get(&format!("/info?text={SECRET}"));
    let (address, path) = (master.address(), format!("/wait?file={}&token={SECRET}", master.place.path("never").display()));
    std::thread::spawn(move || super::harness::http::get(&address, &path));
    master.wait("a request with a secret is under way", |status| {
        let worker = &workers(status)[0];
        worker["info"].to_string().contains(SECRET)
            && worker["active_connections"][0]["request"]["url"].to_string().contains(SECRET)
    });
}

/// GET /status on the control socket as this user, with these groups.
fn status_as(master: &Master, uid: &str, groups: &str) -> Value {
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    let output = Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), &groups, "curl", "-sS", "--unix-socket"])
        .arg(master.control())
        .arg("http://localhost/status")
        .output()
        .expect("setpriv and curl");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The number of a group of this machine.
fn group(name: &str) -> String {
    let groups = std::fs::read_to_string("/etc/group").expect("/etc/group");
    let line = groups.lines().find(|line| line.starts_with(&format!("{name}:"))).expect("a group of every Debian");
    line.split(':').nth(2).expect("a number").to_owned()
}

#[track_caller]
fn assert_without_details(status: &Value) {
    assert!(!status.to_string().contains(SECRET) || !without_status_text(status).contains(SECRET), "{status:#}");
    let worker = &workers(status)[0];
    assert_eq!(worker["info"], Value::Null, "{worker:#}");
    let connection = &worker["active_connections"][0];
    for hidden in ["remote_address", "remote_port"] {
        assert_eq!(connection[hidden], Value::Null, "{hidden}: {connection:#}");
    }
    for hidden in ["url", "ip", "info"] {
        assert_eq!(connection["request"][hidden], Value::Null, "{hidden}: {connection:#}");
    }
    let failure = last_failure(status);
    assert_eq!((&failure["log_tail"], &failure["last_status"]), (&Value::Array(Vec::new()), &Value::Null), "{failure:#}");
    assert_eq!(failure["serving"][0]["url"], Value::Null, "{failure:#}");
    // The rest is there.
    assert_eq!((&connection["request"]["method"], &connection["state"]), (&"GET".into(), &"active".into()), "{connection:#}");
    assert_eq!((&status["workers_ready"], &status["worker_crashes"]), (&1.into(), &1.into()), "{status:#}");
    assert!(failure["how"].as_str().is_some_and(|how| !how.is_empty()), "{failure:#}");
}

/// The document without the living workers' STATUS=, which systemd and the bus show to everyone.
fn without_status_text(status: &Value) -> String {
    let mut status = status.clone();
    for worker in status["workers"].as_array_mut().expect("workers") {
        worker["status"] = Value::Null;
    }
    status.to_string()
}

#[track_caller]
fn assert_with_details(status: &Value) {
    let worker = &workers(status)[0];
    let connection = &worker["active_connections"][0];
    assert!(worker["info"].to_string().contains(SECRET), "{worker:#}");
    assert!(connection["request"]["url"].to_string().contains(SECRET), "{connection:#}");
    assert!(connection["remote_address"].is_string() && connection["remote_port"].is_u64(), "{connection:#}");
    let failure = last_failure(status);
    for detail in ["log_tail", "last_status", "serving"] {
        assert!(failure[detail].to_string().contains(SECRET), "{detail}: {failure:#}");
    }
}

#[test]
#[ignore = "needs root"]
fn control_socket_hides_details_from_strangers() {
    let master = pool_with_secrets("", "");
    assert_with_details(&master.status());
    assert_with_details(&status_as(&master, "0", ""));
    assert_without_details(&status_as(&master, NOBODY, ""));
    assert_without_details(&status_as(&master, NOBODY, "12345"));
    for trusted in ["adm", "systemd-journal"] {
        assert_with_details(&status_as(&master, NOBODY, &group(trusted)));
    }
    // The verb reads the same document, and prints it.
    let output = Command::new("setpriv")
        .args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", super::harness::RATOON])
        .args(["status", "--control"])
        .arg(master.control())
        .output()
        .expect("setpriv");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && out.contains("ready") && !out.contains(SECRET), "{output:?}");
}

#[test]
#[ignore = "needs root"]
fn user_of_the_workers_sees_details() {
    let master = pool_with_secrets("user = '65534'\ngroup = '65534'", "");
    assert_with_details(&status_as(&master, NOBODY, ""));
    assert_without_details(&status_as(&master, "65533", ""));
}

#[test]
#[ignore = "needs root"]
fn status_details_everyone_opens_them_at_a_reload() {
    let master = pool_with_secrets("", "");
    assert_without_details(&status_as(&master, NOBODY, ""));
    // The crash that follows undoes no reload.
    master.place.configure("count = 1", "[status]\ndetails = 'everyone'\n[reload]\nwatch = 'off'");
    master.ok(&["reload"]);
    expose(&master);
    assert_with_details(&status_as(&master, NOBODY, ""));
    master.place.configure("count = 1", "[status]\ndetails = 'trusted'");
    master.ok(&["reload"]);
    let status = status_as(&master, NOBODY, "");
    assert_eq!(last_failure(&status)["log_tail"], Value::Array(Vec::new()), "{status:#}");
}

/// The text of `GET path` on the control socket as a stranger; of an endless answer what comes within a second.
fn text_as_stranger(master: &Master, path: &str) -> String {
    let output = Command::new("setpriv")
        .args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"])
        .args(["curl", "-sS", "--max-time", "1", "--unix-socket"])
        .arg(master.control())
        .arg(format!("http://localhost{path}"))
        .output()
        .expect("setpriv and curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Nothing that everyone reads has the secret, and each has `known`, so that it was looked at after the event.
#[track_caller]
fn assert_not_public(master: &Master, known: &str) {
    master
        .systemd()
        .wait("the cause in STATUS=", |all| all.iter().any(|it| it.starts_with("STATUS=") && it.contains(known)).then_some(()));
    let said = master.systemd().messages().join("\n");
    assert!(!said.contains(SECRET), "{said}");
    for path in ["/status", "/events", "/readyz", "/metrics", "/"] {
        let text = text_as_stranger(master, path);
        assert!(!text.is_empty() && !text.contains(SECRET), "{path}: {text}");
        assert!(text.contains(known) || matches!(path, "/metrics" | "/"), "{path}: {text}");
    }
}

#[test]
#[ignore = "needs root"]
fn output_of_a_check_is_for_its_requester_alone() {
    let place = Place::new();
    std::fs::set_permissions(place.root(), std::fs::Permissions::from_mode(0o755)).expect("the place");
    let script = format!("echo first; seq 100; echo postgres://app:{SECRET}@db >&2; echo 'KeyError: {SECRET}'; exit 9");
    let master = place.pool("count = 1", &format!("[reload]\ncheck = ['sh', '-c', \"{script}\"]")).start();
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("reload.check \"sh\": exit 9"), "{said:?}");
    assert!(said.err.contains("first") && said.err.contains(&format!("KeyError: {SECRET}")), "{said:?}");
    master.wait_for_log(&format!("KeyError: {SECRET}"));
    let last = &master.wait_until_calm()["last_reload"];
    assert!(last["detail"].to_string().contains(SECRET) && last["output"].to_string().contains(SECRET), "{last:#}");
    assert_not_public(&master, "exit 9");
    let last = &status_as(&master, NOBODY, "")["last_reload"];
    assert_eq!((&last["detail"], &last["output"]), (&Value::Null, &Value::Null), "{last:#}");
}

#[test]
#[ignore = "needs root"]
fn output_of_a_failed_worker_is_for_its_requester_alone() {
    let place = Place::new();
    std::fs::set_permissions(place.root(), std::fs::Permissions::from_mode(0o755)).expect("the place");
    place.release("v2", "");
    let script = format!(
        "#!/bin/sh\nsystemd-notify --status=last-{SECRET}\necho Traceback: begins\nseq 100\necho 'KeyError: {SECRET}' >&2\nseq 40\nexit 3\n"
    );
    place.program("v2/worker", &script);
    let master = place.pool("count = 1", "").start();
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("exit 3 before it was ready"), "{said:?}");
    let status = master.wait_until_calm();
    let failure = last_failure(&status);
    assert_eq!(failure["cause"], "exit 3 before it was ready", "{failure:#}");
    assert_eq!((failure["log_head"][0].as_str(), failure["log_tail"][19].as_str()), (Some("Traceback: begins"), Some("40")));
    assert_not_public(&master, "exit 3 before it was ready");
    let stranger = status_as(&master, NOBODY, "");
    let failure = last_failure(&stranger);
    assert_eq!((&failure["detail"], &failure["log_head"]), (&Value::Null, &Value::Array(Vec::new())), "{failure:#}");
    // What looks like the error is told to the requester, the log and readers with details.
    master.place.program("v2/worker", &format!("#!/bin/sh\nseq 100\necho 'KeyError: {SECRET}' >&2\nexit 3\n"));
    let said = master.verb(&["reload"]);
    assert!(said.err.contains(&format!("KeyError: {SECRET}")), "{said:?}");
    let status = master.wait_until_calm();
    let expected = Value::from(format!("KeyError: {SECRET}"));
    assert_eq!((&last_failure(&status)["detail"], &status["last_reload"]["detail"]), (&expected, &expected), "{status:#}");
    master.wait_for_log(&format!("exit 3 before it was ready: KeyError: {SECRET}"));
    assert_not_public(&master, "exit 3 before it was ready");
}

/// A free port of 127.0.0.2, where the pool, which listens on 127.0.0.1, cannot take it.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.2:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Status code and body of `GET path` at `status.listen`, with this line of a Host.
fn get_with(port: u16, path: &str, host: Option<&str>) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.2", port)).expect("status.listen");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let host = host.map(|host| format!("Host: {host}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n").expect("written");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    (code, text)
}

fn listening(place: Place, port: u16, more: &str) -> Plan {
    place.pool("count = 1", &format!("[status]\nlisten = '127.0.0.2:{port}'\n{more}"))
}

#[test]
fn status_address_hides_details_from_everyone() {
    let port = free_port();
    let place = Place::new();
    let master = listening(place, port, "").start();
    expose(&master);
    let (code, text) = get_with(port, "/status", Some("localhost"));
    let status: Value = serde_json::from_str(text.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    assert_eq!(code, 200);
    assert_without_details(&status);
    for path in ["/metrics", "/"] {
        assert!(!get_with(port, path, Some("localhost")).1.contains(SECRET), "{path}");
    }
    // Of the endless answer: all up to the first worker, with which it begins for each listener.
    let mut stream = TcpStream::connect(("127.0.0.2", port)).expect("status.listen");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
    let mut events = Vec::new();
    while !String::from_utf8_lossy(&events).contains("event: worker") {
        let mut part = [0; 4096];
        let length = stream.read(&mut part).expect("events");
        assert!(length > 0, "{}", String::from_utf8_lossy(&events));
        events.extend_from_slice(&part[..length]);
    }
    assert!(!String::from_utf8_lossy(&events).contains(SECRET));
}

#[test]
fn status_address_refuses_a_foreign_host() {
    let port = free_port();
    let master = listening(Place::new(), port, "hosts = ['status.example.org']").start();
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let own = name.to_uppercase();
    let accepted = ["127.0.0.1", "127.0.0.1:9090", "[::1]", "[::1]:9090", "localhost", "LOCALHOST:80", "localhost.", &name, &own]
        .into_iter()
        .chain(["status.example.org", "Status.Example.org:443", "status.example.org.", ""]);
    for host in accepted {
        for path in ["/status", "/metrics", "/"] {
            assert_eq!(get_with(port, path, Some(host)).0, 200, "{path} with {host:?}");
        }
    }
    assert_eq!(get_with(port, "/status", None).0, 200);
    let refused = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "example.org", "x.status.example.org"]
        .into_iter()
        .chain(["evil.example:80", "::1", "[::1", "localhost:x", "a@localhost", "127.1", "0x7f.1"]);
    for host in refused {
        for path in ["/status", "/metrics", "/", "/events", "/nothing"] {
            let (code, text) = get_with(port, path, Some(host));
            assert_eq!(code, 421, "{path} with {host:?}: {text}");
            assert!(!text.contains("workers_ready"), "{text}");
        }
        for path in ["/healthz", "/readyz"] {
            assert_eq!(get_with(port, path, Some(host)).0, 200, "{path} with {host:?}");
        }
    }
    let (_, text) = get_with(port, "/status", Some("evil.example"));
    assert!(text.contains("evil.example") && text.contains("status.hosts"), "{text}");
    // Two of them, or another in the request's target.
    assert_eq!(get_with(port, "/status", Some("localhost\r\nHost: evil.example")).0, 421);
    assert_eq!(get_with(port, "http://evil.example/status", Some("localhost")).0, 421);
    // A reload applies another list.
    master.place.configure("count = 1", &format!("[status]\nlisten = '127.0.0.2:{port}'\nhosts = ['evil.example']"));
    master.ok(&["reload"]);
    assert_eq!(get_with(port, "/status", Some("evil.example")).0, 200);
    assert_eq!(get_with(port, "/status", Some("status.example.org")).0, 421);
}
