//! What each path answers, and to whom.

use std::time::Duration;

use ratoon::api::{Change, ReloadAnswer, Reply, Request};
use ratoon::pool::{Outcome, Phase};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::fake::{Asked, Fake, read_all, split, within, worker};

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("JSON, not {text:?}: {error}"))
}

fn answer(asked: Asked, reply: Reply) {
    asked.reply.expect("somebody waits").send(reply).expect("somebody still waits");
}

fn reloaded(outcome: Outcome, reason: &str) -> Reply {
    Reply::Reload(ReloadAnswer::new(8, outcome, reason))
}

#[tokio::test]
async fn a_reload_is_answered_at_its_end() {
    let mut fake = Fake::start();
    for (outcome, reason, status) in [
        (Outcome::Committed, "", 200),
        (Outcome::RolledBack, "worker 12 (slot 2): exit 1", 409),
        (Outcome::Refused, "line 3", 409),
        (Outcome::Aborted, "asked", 409),
    ] {
        let mut stream = fake.connect().await;
        stream.write_all(b"POST /reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let asked = fake.next_ask().await;
        assert_eq!(asked.ask, Request::Reload);
        answer(asked, reloaded(outcome, reason));
        let (got, head, body) = split(&read_all(&mut stream).await);
        assert_eq!(got, status);
        assert!(head.contains("content-type: application/json"), "{head}");
        assert_eq!(value(&body), json!({"generation": 8, "result": outcome.as_str(), "reason": reason}));
    }
    assert!(fake.gone.try_recv().is_err(), "nobody went away");
}

#[tokio::test]
async fn a_requester_that_goes_away_is_reported_at_once() {
    let mut fake = Fake::start();
    let ask = b"POST /reload HTTP/1.1\r\nHost: x\r\n\r\n";

    let mut closed = fake.connect().await;
    closed.write_all(ask).await.unwrap();
    let asked = fake.next_ask().await;
    drop(closed);
    assert_eq!(fake.next_gone().await, asked.requester);

    let mut half_closed = fake.connect().await;
    half_closed.write_all(ask).await.unwrap();
    let asked = fake.next_ask().await;
    half_closed.shutdown().await.unwrap();
    assert_eq!(fake.next_gone().await, asked.requester);
    // Who still reads is told.
    assert_eq!(split(&read_all(&mut half_closed).await).0, 408);

    // More bytes behind the request do not hide the end of the connection.
    let mut pipelined = fake.connect().await;
    pipelined.write_all(&[ask.as_slice(), b"GET /status HTTP/1.1\r\n"].concat()).await.unwrap();
    let asked = fake.next_ask().await;
    drop(pipelined);
    assert_eq!(fake.next_gone().await, asked.requester);

    // With a body, whose end hyper waits for first.
    let mut with_body = fake.connect().await;
    with_body.write_all(b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
    let asked = fake.next_ask().await;
    drop(with_body);
    assert_eq!(fake.next_gone().await, asked.requester);
}

#[tokio::test]
async fn the_other_changes_say_done_or_why_not() {
    let mut fake = Fake::start();
    let table = [
        ("/abort", Request::Abort),
        ("/promote", Request::Promote),
        ("/scale?workers=6", Request::Scale(6)),
        ("/scale?workers=auto", Request::ScaleAuto),
        ("/recycle", Request::Recycle(None)),
        ("/recycle?worker=12", Request::Recycle(Some(12))),
        ("/pause", Request::Pause(None)),
        ("/pause?for=1min", Request::Pause(Some(Duration::from_secs(60)))),
        ("/resume", Request::Resume),
        ("/upgrade", Request::Upgrade),
    ];
    for (path, ask) in table {
        for (reply, status, body) in [
            (Reply::Done, 200, json!({"result": "done", "reason": ""})),
            (Reply::Failed("no".into()), 409, json!({"result": "failed", "reason": "no"})),
        ] {
            let mut stream = fake.connect().await;
            let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let asked = fake.next_ask().await;
            assert_eq!(asked.ask, ask);
            answer(asked, reply);
            let (got, _, text) = split(&read_all(&mut stream).await);
            assert_eq!((got, value(&text)), (status, body), "{path}");
        }
    }
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused_and_not_asked() {
    let mut fake = Fake::start();
    for path in [
        "/scale",
        "/scale?workers=",
        "/scale?workers=0",
        "/scale?workers=-1",
        "/scale?workers=+1",
        "/scale?workers=4294967296",
        "/scale?workers=four",
        "/scale?workers=Auto",
        "/scale?worker=4",
        "/scale?workers=4&workers=5",
        "/recycle?worker=x",
        "/recycle?all",
        "/reload?now",
        "/abort?x=1",
        "/pause?for=",
        "/pause?for=0s",
        "/pause?for=soon",
        "/pause?until=30s",
        "/resume?for=30s",
    ] {
        let (status, body) = fake.request("POST", path).await;
        assert_eq!(status, 400, "{path}: {body}");
        assert!(value(&body)["error"].as_str().is_some_and(|words| words.len() > 10), "{path}: {body}");
    }
    assert!(fake.asked.try_recv().is_err());
}

#[tokio::test]
async fn reads_answer_get_and_head() {
    let fake = Fake::start();
    fake.document.lock().unwrap().generation = 7;
    let (status, body) = fake.request("GET", "/status").await;
    assert_eq!(value(&body)["generation"], 7);
    assert_eq!((status, value(&body)["instance"].clone()), (200, json!("web")));
    assert_eq!(fake.request("GET", "/healthz").await, (200, "ok\n".to_owned()));
    for path in ["/status", "/healthz", "/readyz", "/metrics", "/events"] {
        let text = fake.raw(&format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let (status, head, body) = split(&text);
        assert_eq!((status, body.as_str()), (200, ""), "{path}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        assert!(!head.contains("access-control"), "{head}");
    }
}

#[tokio::test]
async fn readyz_follows_the_summary() {
    let fake = Fake::start();
    let (status, body) = fake.request("GET", "/readyz").await;
    assert_eq!(status, 200);
    let summary_now = value(&body);
    assert_eq!(summary_now["status_text"], "generation 7: 4/4 ready");
    assert_eq!(summary_now["workers_ready"], 4);
    fake.summary.send_modify(|summary| {
        summary.workers_ready = 0;
        summary.degraded = true;
    });
    let (status, body) = fake.request("GET", "/readyz").await;
    assert_eq!((status, value(&body)["degraded"].clone()), (503, json!(true)));
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods() {
    let mut fake = Fake::start();
    let (status, body) = fake.request("GET", "/nothing").await;
    assert_eq!(status, 404);
    assert!(value(&body)["error"].as_str().unwrap().contains("/status"), "{body}");
    for (method, path, allow) in
        [("GET", "/reload", "POST"), ("POST", "/status", "GET, HEAD"), ("DELETE", "/events", "GET, HEAD")]
    {
        let text = fake.raw(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let (status, head, _) = split(&text);
        assert_eq!(status, 405);
        assert!(head.contains(&format!("allow: {}", allow.to_lowercase())), "{head}");
    }
    assert!(fake.asked.try_recv().is_err());
}

#[tokio::test]
async fn the_status_address_serves_reads_only() {
    let mut fake = Fake::start();
    let port = fake.start_status().await;
    for (request, expected) in [("GET /status", 200), ("GET /readyz", 200), ("POST /reload", 403), ("POST /abort", 403)] {
        let mut stream = within(tokio::net::TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        within(stream.read_to_string(&mut text)).await.unwrap();
        assert_eq!(split(&text).0, expected, "{request}");
    }
    assert!(fake.asked.try_recv().is_err());
}

#[tokio::test]
async fn a_stranger_reads_but_does_not_change() {
    if !rustix::process::geteuid().is_root() {
        // Root may always change: only a peer of another user shows this, and only root can start one.
        eprintln!("skipped: a_stranger_reads_but_does_not_change needs root");
        return;
    }
    let mut fake = Fake::start();
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &std::path::Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(fake.directory.path(), 0o755);
    open(&fake.control, 0o666);
    let control = fake.control.clone();
    let ask = move |method: &'static str, path: &'static str| {
        let control = control.clone();
        tokio::task::spawn_blocking(move || {
            let mut command = std::process::Command::new("curl");
            command.args(["-sS", "-o", "-", "-w", "%{http_code}", "-X", method, "--unix-socket"]).arg(control);
            std::os::unix::process::CommandExt::uid(&mut command, 65534);
            String::from_utf8(command.arg(format!("http://x{path}")).output().unwrap().stdout).unwrap()
        })
    };
    let read = within(ask("GET", "/readyz")).await.unwrap();
    assert!(read.ends_with("200"), "{read}");
    let changed = within(ask("POST", "/reload")).await.unwrap();
    assert!(changed.ends_with("403") && changed.contains("user 65534 may read but not change"), "{changed}");
    assert!(fake.asked.try_recv().is_err());
}

async fn next_event(reader: &mut BufReader<UnixStream>) -> (String, Value) {
    let mut name = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(within(reader.read_line(&mut line)).await.unwrap(), 0, "the stream goes on");
        if let Some(it) = line.strip_prefix("event: ") {
            name = it.trim().to_owned();
        }
        if let Some(data) = line.strip_prefix("data: ") {
            return (name, value(data));
        }
    }
}

async fn listen(fake: &Fake) -> BufReader<UnixStream> {
    let mut stream = fake.connect().await;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    BufReader::new(stream)
}

#[tokio::test]
async fn events_have_stable_names_and_begin_with_the_summary() {
    let fake = Fake::start();
    let mut reader = listen(&fake).await;
    let (name, first) = next_event(&mut reader).await;
    assert_eq!((name.as_str(), &first["generation"]), ("summary", &json!(7)));
    let (name, first) = next_event(&mut reader).await;
    assert_eq!((name.as_str(), &first["id"], &first["state"]), ("worker", &json!(1), &json!("ready")));
    let told = [
        (Change::ReloadStarted { generation: 8 }, "reload-started", json!({"generation": 8})),
        (
            Change::Worker(worker(12, 2, 8, Phase::Starting)),
            "worker",
            json!({"id": 12, "slot": 2, "generation": 8, "pid": 4012, "state": "starting", "status": "",
                "start_time": "2026-07-14T11:53:20.000000Z"}),
        ),
        (
            Change::WorkerExited { id: 12, slot: 2, generation: 8, how: "exit 1".into(), failed: true },
            "worker-exited",
            json!({"id": 12, "slot": 2, "generation": 8, "how": "exit 1", "failed": true}),
        ),
        (
            Change::ReloadFinished { generation: 8, outcome: Outcome::RolledBack, reason: "worker 12 (slot 2): exit 1".into() },
            "reload-finished",
            json!({"generation": 8, "result": "rolled-back", "reason": "worker 12 (slot 2): exit 1"}),
        ),
        (
            Change::Undone { generation: 8, release: 6, reason: "9 of 60 requests failed".into() },
            "undone",
            json!({"generation": 8, "release": 6, "reason": "9 of 60 requests failed"}),
        ),
    ];
    for (change, name, data) in told {
        fake.changes.send(change).unwrap();
        assert_eq!(next_event(&mut reader).await, (name.to_owned(), data));
    }
    fake.summary.send_modify(|summary| summary.generation = 8);
    let (name, again) = next_event(&mut reader).await;
    assert_eq!((name.as_str(), &again["generation"]), ("summary", &json!(8)));
}

/// The lines of the stream up to and with the next that begins so.
async fn until(reader: &mut BufReader<UnixStream>, begin: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    while lines.last().is_none_or(|line| !line.starts_with(begin)) {
        let mut line = String::new();
        assert_ne!(within(reader.read_line(&mut line)).await.unwrap(), 0, "the stream goes on: {lines:?}");
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// The same listener again, which has seen the event with this id.
async fn listen_after(fake: &Fake, id: &str) -> BufReader<UnixStream> {
    let mut stream = fake.connect().await;
    stream.write_all(format!("GET /events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {id}\r\n\r\n").as_bytes()).await.unwrap();
    BufReader::new(stream)
}

#[tokio::test]
async fn events_missed_by_a_listener_follow_when_it_comes_back() {
    let fake = Fake::start();
    let mut reader = listen(&fake).await;
    assert!(until(&mut reader, "data: ").await.contains(&"retry: 2000".to_owned()));
    until(&mut reader, "data: ").await;
    fake.changes.send(Change::ReloadStarted { generation: 8 }).unwrap();
    let lines = until(&mut reader, "data: ").await;
    let id = lines.iter().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned();
    drop(reader);
    let _ = fake.changes.send(Change::WorkerExited { id: 12, slot: 2, generation: 8, how: "exit 1".into(), failed: true });
    let _ = fake.changes.send(Change::ReloadFinished { generation: 8, outcome: Outcome::RolledBack, reason: "exit 1".into() });
    // Summary, what was missed, all workers; the last id is that of the last event.
    let mut again = listen_after(&fake, &id).await;
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(next_event(&mut again).await);
    }
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["summary", "worker-exited", "reload-finished", "worker"], "{told:?}");
    // An id of another master: what it was is not known, and nothing is made up.
    let mut other = listen_after(&fake, "0-1").await;
    assert_eq!(next_event(&mut other).await.0, "summary");
    assert_eq!(next_event(&mut other).await.0, "worker");
    // More than is kept: said, with the number.
    (0..400).for_each(|generation| drop(fake.changes.send(Change::ReloadStarted { generation })));
    let mut late = listen_after(&fake, &id).await;
    assert_eq!(next_event(&mut late).await.0, "summary");
    let (name, data) = next_event(&mut late).await;
    assert_eq!((name.as_str(), &data["missed"]), ("lagged", &json!(146)));
    assert_eq!(next_event(&mut late).await, ("reload-started".to_owned(), json!({"generation": 144})));
}

#[tokio::test]
async fn a_slow_listener_loses_the_oldest_and_learns_how_many() {
    let fake = Fake::start();
    let mut reader = listen(&fake).await;
    next_event(&mut reader).await;
    next_event(&mut reader).await;
    // Far more than the socket, the connection and the shared channel hold.
    let wordy = "x".repeat(1000);
    for id in 0..5_000 {
        let mut view = worker(id, 0, 7, Phase::Ready);
        view.status_text = wordy.as_str().into();
        fake.changes.send(Change::Worker(view)).unwrap();
        if id % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let (mut seen, mut missed) = (0, 0);
    let mut summary_after = false;
    while seen + missed < 5_000 {
        match next_event(&mut reader).await {
            // All workers follow where events were lost; those of the fake say nothing.
            (name, data) if name == "worker" => seen += u64::from(data["status"] != ""),
            (name, data) if name == "lagged" => missed += data["missed"].as_u64().unwrap(),
            (name, _) => summary_after |= name == "summary" && missed > 0,
        }
    }
    assert!(missed > 0, "the listener was slow");
    assert_eq!(seen + missed, 5_000);
    if !summary_after {
        assert_eq!(next_event(&mut reader).await.0, "summary");
    }
}

#[tokio::test]
async fn a_listener_that_leaves_costs_nothing_more() {
    let fake = Fake::start();
    let before = fake.changes.receiver_count();
    let mut reader = listen(&fake).await;
    next_event(&mut reader).await;
    assert_eq!(fake.changes.receiver_count(), before + 1);
    drop(reader);
    within(async {
        while fake.changes.receiver_count() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
