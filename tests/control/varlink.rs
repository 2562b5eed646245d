//! Varlink: calls and their replies as bytes on the socket, and peers that break the protocol.

use std::sync::{Arc, Mutex};

use ratoon::api::{Change, Reply, Request};
use ratoon::control::bound::BoundSocket;
use ratoon::control::dbus::{Bus, LogControl};
use ratoon::control::varlink::{self, Service};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::fake::{Fake, summary, within};

/// A log whose level can be set.
#[derive(Default)]
struct Level(Mutex<String>);

impl LogControl for Level {
    fn level(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn set_level(&self, level: &str) -> Result<(), String> {
        *self.0.lock().unwrap() = level.to_owned();
        Ok(())
    }

    fn target(&self) -> String {
        "journal".to_owned()
    }

    fn identifier(&self) -> String {
        "ratoon".to_owned()
    }
}

fn start(fake: &Fake, own_uid: u32) -> (Service, Arc<Level>) {
    let log = Arc::new(Level::default());
    let options = varlink::Options {
        own_uid,
        unit: None,
        bus: Bus { address: "unix:path=/nonexistent/bus".to_owned(), system: true },
        log_control: log.clone(),
    };
    let listener = bind(fake);
    (varlink::spawn(varlink::served(listener).1, fake.handle.clone(), options), log)
}

fn bind(fake: &Fake) -> std::os::unix::net::UnixListener {
    let socket = BoundSocket::bind(fake.directory.path().join(varlink::SOCKET)).unwrap();
    socket.listener().unwrap()
}

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

async fn connect(fake: &Fake) -> UnixStream {
    within(UnixStream::connect(fake.directory.path().join(varlink::SOCKET))).await.unwrap()
}

async fn send(stream: &mut UnixStream, call: Value) {
    stream.write_all(format!("{call}\0").as_bytes()).await.unwrap();
}

/// The next reply; `None` when the connection is closed.
async fn reply(stream: &mut UnixStream) -> Option<Value> {
    let mut text = Vec::new();
    loop {
        match within(stream.read_u8()).await {
            Ok(0) => return Some(serde_json::from_slice(&text).unwrap()),
            Ok(byte) => text.push(byte),
            Err(_) => return None,
        }
    }
}

async fn call(fake: &Fake, method: &str, parameters: Value) -> Value {
    let mut stream = connect(fake).await;
    send(&mut stream, json!({ "method": method, "parameters": parameters })).await;
    reply(&mut stream).await.expect("a reply")
}

#[tokio::test]
async fn service_tells_its_interfaces_and_their_texts() {
    let fake = Fake::start();
    let (_service, _) = start(&fake, own());
    let info = call(&fake, "org.varlink.service.GetInfo", json!({})).await;
    assert_eq!(info["parameters"]["product"], "ratoon");
    for interface in info["parameters"]["interfaces"].as_array().unwrap() {
        let told = call(&fake, "org.varlink.service.GetInterfaceDescription", json!({ "interface": interface })).await;
        let text = told["parameters"]["description"].as_str().unwrap();
        assert!(text.contains(&format!("interface {}\n", interface.as_str().unwrap())), "{text}");
    }
    assert_eq!(call(&fake, "io.systemd.service.Ping", json!(null)).await, json!({ "parameters": {} }));
    for (method, error) in [
        ("org.ratoon1.Manager.Explode", "org.varlink.service.MethodNotFound"),
        ("org.example.Explode", "org.varlink.service.InterfaceNotFound"),
        ("Explode", "org.varlink.service.InterfaceNotFound"),
        ("org.ratoon1.Manager.Monitor", "org.varlink.service.ExpectedMore"),
    ] {
        assert_eq!(call(&fake, method, json!({})).await["error"], error, "{method}");
    }
}

#[tokio::test]
async fn reads_are_those_of_the_control_socket() {
    let fake = Fake::start();
    let (_service, _) = start(&fake, own());
    let status = call(&fake, "org.ratoon1.Manager.GetStatus", json!({})).await;
    assert_eq!(status["parameters"]["status"]["workers_ready"], 4);
    assert_eq!(call(&fake, "org.ratoon1.Manager.GetHistory", json!({})).await["parameters"], json!({ "releases": [] }));
    let environment = call(&fake, "io.systemd.service.GetEnvironment", json!({})).await;
    let path = format!("PATH={}", std::env::var("PATH").unwrap());
    assert!(environment["parameters"]["environment"].as_array().unwrap().contains(&json!(path)), "{environment}");
}

#[tokio::test]
async fn changes_reach_the_loop_and_its_answer_the_caller() {
    let mut fake = Fake::start();
    let (_service, _) = start(&fake, own());
    for (method, parameters, request) in [
        ("Scale", json!({ "workers": 9 }), Request::Scale(9)),
        ("Recycle", json!({}), Request::Recycle(None)),
        ("Recycle", json!({ "worker": 3 }), Request::Recycle(Some(3))),
        ("Undo", json!({ "generation": 5 }), Request::Undo(Some(5))),
        ("Pause", json!({ "timeout_usec": 30_000_000 }), Request::Pause(Some(std::time::Duration::from_secs(30)))),
        ("Promote", json!({ "allowInteractiveAuthentication": true }), Request::Promote),
    ] {
        let mut stream = connect(&fake).await;
        send(&mut stream, json!({ "method": format!("org.ratoon1.Manager.{method}"), "parameters": parameters })).await;
        let asked = fake.next_ask().await;
        assert_eq!(asked.ask, request);
        asked.reply.unwrap().send(Reply::Failed("not now".to_owned())).unwrap();
        let failed = json!({ "error": "org.ratoon1.Manager.Failed", "parameters": { "reason": "not now" } });
        assert_eq!(reply(&mut stream).await, Some(failed), "{method}");
    }
    for (method, parameters, wrong) in [
        ("Scale", json!({ "workers": 0 }), "workers"),
        ("Scale", json!({ "workers": 1e9 }), "workers"),
        ("Scale", json!({}), "workers"),
        ("Pause", json!({ "timeout_usec": 0 }), "timeout_usec"),
        ("Reload", json!({ "force": true }), "force"),
    ] {
        let answer = call(&fake, &format!("org.ratoon1.Manager.{method}"), parameters).await;
        assert_eq!(answer["error"], "org.varlink.service.InvalidParameter", "{answer}");
        assert_eq!(answer["parameters"]["parameter"], wrong);
    }
}

#[tokio::test]
async fn log_level_is_set_by_its_number() {
    let fake = Fake::start();
    let (_service, log) = start(&fake, own());
    assert_eq!(call(&fake, "io.systemd.service.SetLogLevel", json!({ "level": 7 })).await, json!({ "parameters": {} }));
    assert_eq!(log.level(), "debug");
    for level in [json!(8), json!(null), json!("debug")] {
        let refused = call(&fake, "io.systemd.service.SetLogLevel", json!({ "level": level })).await;
        assert_eq!(refused["error"], "org.varlink.service.InvalidParameter");
    }
}

/// The caller is another user than root and the master's, and no polkit is there. As root the test takes that user for one thread.
#[tokio::test]
async fn user_without_permission_is_told_whom_to_ask() {
    let fake = Fake::start();
    let is_root = own() == 0;
    let (_service, _) = start(&fake, if is_root { 0 } else { own() + 1 });
    std::fs::set_permissions(fake.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = fake.directory.path().join(varlink::SOCKET);
    let ask = move |method: &str| {
        use std::io::{BufRead, Write};
        if is_root {
            use rustix::process::{Gid, Uid};
            let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        }
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.write_all(format!("{}\0", json!({ "method": method })).as_bytes()).unwrap();
        let mut reply = Vec::new();
        std::io::BufReader::new(stream).read_until(0, &mut reply).unwrap();
        String::from_utf8(reply).unwrap()
    };
    for method in ["org.ratoon1.Manager.Reload", "io.systemd.service.Reload", "io.systemd.service.GetEnvironment"] {
        let (ask, (send, receive)) = (ask.clone(), tokio::sync::oneshot::channel());
        // A thread of its own: its user is not that of the other tests.
        std::thread::spawn(move || send.send(ask(method)));
        let said = within(receive).await.unwrap();
        assert!(said.contains("org.ratoon1.Manager.AccessDenied") && said.contains("ask with sudo"), "{said}");
    }
}

#[tokio::test]
async fn reload_tells_its_outcome_as_data() {
    let mut fake = Fake::start();
    let (_service, _) = start(&fake, own());
    let mut stream = connect(&fake).await;
    send(&mut stream, json!({ "method": "org.ratoon1.Manager.Reload" })).await;
    let asked = fake.next_ask().await;
    let outcome = ratoon::pool::Outcome::RolledBack;
    let answer = ratoon::api::ReloadAnswer { worker: Some(4), ..ratoon::api::ReloadAnswer::new(8, outcome, "worker 4: exit 3") };
    asked.reply.unwrap().send(Reply::Reload(answer)).unwrap();
    let told = reply(&mut stream).await.unwrap();
    assert_eq!(told["error"], "org.ratoon1.Manager.NotCommitted");
    assert_eq!(told["parameters"]["generation"], 8);
    assert_eq!(told["parameters"]["result"], "rolled-back");
    assert_eq!(told["parameters"]["reason"], "worker 4: exit 3");
    // The same connection takes the next call; the method of systemd's interface has no parameters.
    send(&mut stream, json!({ "method": "io.systemd.service.Reload" })).await;
    let answer = ratoon::api::ReloadAnswer::new(9, ratoon::pool::Outcome::Committed, "");
    fake.next_ask().await.reply.unwrap().send(Reply::Reload(answer)).unwrap();
    assert_eq!(reply(&mut stream).await, Some(json!({ "parameters": {} })));
}

#[tokio::test]
async fn reload_is_withdrawn_when_its_caller_leaves() {
    let mut fake = Fake::start();
    let (_service, _) = start(&fake, own());
    let mut stream = connect(&fake).await;
    send(&mut stream, json!({ "method": "org.ratoon1.Manager.Reload" })).await;
    let asked = fake.next_ask().await;
    drop(stream);
    assert_eq!(fake.next_gone().await, asked.requester);
}

#[tokio::test]
async fn calls_are_answered_in_order_and_oneway_calls_not() {
    let fake = Fake::start();
    let (_service, log) = start(&fake, own());
    let mut stream = connect(&fake).await;
    let calls = [
        json!({ "method": "io.systemd.service.SetLogLevel", "parameters": { "level": 3 }, "oneway": true }),
        json!({ "method": "org.ratoon1.Manager.GetHistory" }),
        json!({ "method": "io.systemd.service.Ping" }),
    ];
    let bytes: String = calls.iter().map(|call| format!("{call}\0")).collect();
    // In pieces, as a slow network of a forwarded socket would bring them.
    for piece in bytes.as_bytes().chunks(7) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(reply(&mut stream).await, Some(json!({ "parameters": { "releases": [] } })));
    assert_eq!(reply(&mut stream).await, Some(json!({ "parameters": {} })));
    assert_eq!(log.level(), "err");
}

#[tokio::test]
async fn monitor_sends_each_change_until_the_end() {
    let fake = Fake::start();
    let (service, _) = start(&fake, own());
    let mut stream = connect(&fake).await;
    send(&mut stream, json!({ "method": "org.ratoon1.Manager.Monitor", "more": true })).await;
    for event in ["summary", "worker"] {
        let told = reply(&mut stream).await.unwrap();
        assert_eq!((&told["parameters"]["event"], &told["continues"]), (&json!(event), &json!(true)));
    }
    fake.summary.send(ratoon::api::Summary { generation: 8, ..summary() }).unwrap();
    fake.changes.send(Change::ReloadStarted { generation: 8 }).ok();
    let told = reply(&mut stream).await.unwrap();
    assert_eq!(told["parameters"]["data"]["generation"], 8, "the summary is told first: {told}");
    let told = reply(&mut stream).await.unwrap();
    assert_eq!(told["parameters"], json!({ "event": "reload-started", "data": { "generation": 8 } }));
    within(service.stop()).await;
    assert_eq!(reply(&mut stream).await, None);
}

#[tokio::test]
async fn peer_that_breaks_the_protocol_loses_its_connection_alone() {
    let fake = Fake::start();
    let (_service, _) = start(&fake, own());
    let mut waiting = connect(&fake).await;
    for bytes in
        [&b"\0"[..], b"{}\0", b"[1]\0", b"GET / HTTP/1.1\r\n\r\n\0", b"\xff\xfe\0", &vec![b'x'; 1 << 20], &vec![b'['; 60_000]]
    {
        let mut stream = connect(&fake).await;
        // The connection may be closed before all bytes are written.
        let _ = stream.write_all(bytes).await;
        let _ = stream.write_all(b"\0").await;
        assert_eq!(reply(&mut stream).await, None);
    }
    send(&mut waiting, json!({ "method": "io.systemd.service.Ping" })).await;
    assert_eq!(reply(&mut waiting).await, Some(json!({ "parameters": {} })));
}

#[tokio::test]
async fn connections_are_limited() {
    let fake = Fake::start();
    let (_service, _) = start(&fake, own());
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(connect(&fake).await);
    }
    let mut last = open.pop().unwrap();
    assert_eq!(reply(&mut last).await, None, "closed at once");
    open.clear();
    // The server has seats again as soon as it has seen the ends of those connections.
    loop {
        let mut stream = connect(&fake).await;
        let _ = stream.write_all(b"{\"method\": \"io.systemd.service.Ping\"}\0").await;
        if reply(&mut stream).await.is_some() {
            return;
        }
    }
}
