//! A front that is open to whoever may open the socket: none of this may end it, hold it up, or fill its memory.

use std::time::Duration;

use ratoon::api::{Reply, Request};
use ratoon::status::tree::{Connection, Worker};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use crate::fake::{DEADLINE, Fake, read_all, split, within};

async fn still_serves(fake: &Fake) {
    assert_eq!(fake.request("GET", "/healthz").await, (200, "ok\n".to_owned()));
}

/// Reads until the peer closes, whichever way, and gives what came.
///
/// A program that another test starts has all of our sockets from its fork to its exec, so that the end of one may come
/// late, and a paused clock does not wait for it: then the real one is given a moment.
async fn until_closed(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    let real = std::time::Instant::now();
    loop {
        let Ok(read) = timeout(DEADLINE, stream.read(&mut piece)).await else {
            assert!(real.elapsed() < DEADLINE, "not closed after {} bytes", text.len());
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        match read {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&text).into_owned(),
            Ok(count) => text.extend_from_slice(&piece[..count]),
        }
    }
}

#[tokio::test]
async fn garbage_is_answered_with_400_or_nothing() {
    let mut fake = Fake::start();
    let long_line = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));
    let inputs: Vec<Vec<u8>> = vec![
        b"\r\n\r\n\r\n\r\n".to_vec(),
        b"\0\0\0\0\0\0\0\0\0\0\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET /status HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /status HTTP/1.1\r\nA\0b: c\r\n\r\n".to_vec(),
        b"GET /status HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"GET /status HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx".to_vec(),
        b"POST /reload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        b"POST /reload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_vec(),
        b"GET http://[::1 HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /%00%ff%2e%2e/ HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        b"CONNECT x:1 HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
        long_line.into_bytes(),
        vec![0xff; 100_000],
    ];
    for input in inputs {
        let mut stream = fake.connect().await;
        // The front may close before all of it is written.
        let _ = stream.write_all(&input).await;
        let _ = stream.shutdown().await;
        let answer = until_closed(&mut stream).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{:?} got {answer}", String::from_utf8_lossy(&input));
    }
    still_serves(&fake).await;
    assert!(fake.asked.try_recv().is_err(), "nothing of it was a request");
}

#[tokio::test]
async fn random_bytes_never_end_it() {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let fake = Fake::start();
    let words = prop_oneof![
        Just(b"GET ".to_vec()),
        Just(b"POST ".to_vec()),
        Just(b"/scale?workers=".to_vec()),
        Just(b"/status".to_vec()),
        Just(b" HTTP/1.1\r\n".to_vec()),
        Just(b"Host: x\r\n".to_vec()),
        Just(b"Content-Length: 9\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Expect: 100-continue\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let requests = proptest::collection::vec(words, 0..12).prop_map(|words| words.concat());
    let mut runner = TestRunner::default();
    for _ in 0..500 {
        let input = requests.new_tree(&mut runner).unwrap().current();
        let mut stream = fake.connect().await;
        let _ = stream.write_all(&input).await;
        let _ = stream.shutdown().await;
        until_closed(&mut stream).await;
    }
    still_serves(&fake).await;
}

#[tokio::test]
async fn heads_are_limited_in_size_and_lines() {
    let fake = Fake::start();
    let with_lines = |count: usize, size: usize| {
        let lines = (0..count).map(|number| format!("X-{number}: {}\r\n", "v".repeat(size))).collect::<String>();
        format!("GET /healthz HTTP/1.1\r\nConnection: close\r\n{lines}\r\n")
    };
    for (count, size, status) in [(60, 10, 200), (80, 10, 431), (3, 4_000, 200), (5, 4_000, 431), (1, 100_000, 431)] {
        let mut stream = fake.connect().await;
        let _ = stream.write_all(with_lines(count, size).as_bytes()).await;
        let answer = until_closed(&mut stream).await;
        assert_eq!(split(&answer).0, status, "{count} lines of {size} bytes");
    }
    still_serves(&fake).await;
}

#[tokio::test]
async fn a_body_is_ignored_up_to_64_kib_and_then_refused() {
    let mut fake = Fake::start();
    let request = |length: usize| {
        format!("POST /abort HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{}", "b".repeat(length))
    };
    let mut stream = fake.connect().await;
    stream.write_all(request(64 * 1024).as_bytes()).await.unwrap();
    let asked = fake.next_ask().await;
    asked.reply.unwrap().send(Reply::Done).unwrap();
    assert_eq!(split(&read_all(&mut stream).await).0, 200);

    let mut stream = fake.connect().await;
    let _ = stream.write_all(request(64 * 1024 + 1).as_bytes()).await;
    let (status, head, _) = split(&until_closed(&mut stream).await);
    assert_eq!(status, 413);
    assert!(head.contains("connection: close"), "{head}");
    assert!(fake.asked.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_is_cut_off_after_ten_seconds() {
    let fake = Fake::start();
    let mut silent = fake.connect().await;
    let mut dripping = fake.connect().await;
    let begun = Instant::now();
    assert_eq!(until_closed(&mut silent).await, "");
    assert_eq!(begun.elapsed().as_secs(), 10);
    // A byte every second does not buy more time.
    let begun = Instant::now();
    let mut answer = [0; 100];
    let mut sent = 0;
    while let Ok(()) = dripping.write_all(b"G").await {
        sent += 1;
        tokio::select! {
            read = dripping.read(&mut answer) => { assert!(matches!(read, Ok(0) | Err(_)), "no answer"); break }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    assert!(begun.elapsed().as_secs() <= 10 && sent <= 11, "{:?} {sent}", begun.elapsed());
    still_serves(&fake).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_cut_off_after_ten_seconds() {
    let mut fake = Fake::start();
    let mut stream = fake.connect().await;
    stream.write_all(b"POST /reload HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe").await.unwrap();
    let begun = Instant::now();
    let answer = until_closed(&mut stream).await;
    assert_eq!(split(&answer).0, 408);
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert!(fake.asked.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_stays_for_a_minute_and_serves_again_until_then() {
    let fake = Fake::start();
    let mut stream = fake.connect().await;
    let mut answer = [0; 4096];
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let count = within(stream.read(&mut answer)).await.unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_secs(50)).await;
    }
    // The next request has begun, so it has ten seconds and not the rest of the minute.
    stream.write_all(b"GET /heal").await.unwrap();
    let begun = Instant::now();
    assert_eq!(until_closed(&mut stream).await, "");
    assert_eq!(begun.elapsed().as_secs(), 10);

    let mut stream = fake.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let begun = Instant::now();
    assert!(until_closed(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(begun.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_requester_of_a_reload_may_wait_for_hours() {
    let mut fake = Fake::start();
    let mut stream = fake.connect().await;
    stream.write_all(b"POST /upgrade HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
    let asked = fake.next_ask().await;
    assert_eq!(asked.ask, Request::Upgrade);
    tokio::time::sleep(Duration::from_secs(10_000)).await;
    asked.reply.unwrap().send(Reply::Done).unwrap();
    assert_eq!(split(&read_all(&mut stream).await).0, 200);
    assert!(fake.gone.try_recv().is_err());
}

/// A document of some MB.
fn large(fake: &Fake) {
    let connections = vec![Connection { state: "idle".repeat(50), ..Connection::default() }; 100];
    let worker = Worker { active_connections: connections, ..Worker::default() };
    fake.document.lock().unwrap().workers = vec![worker; 100];
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_a_large_answer_is_dropped_and_its_place_is_free_again() {
    let fake = Fake::start();
    large(&fake);
    let mut held = Vec::new();
    // More than may be on their way at once: the last ones wait for a place, and get one.
    for _ in 0..20 {
        let mut stream = fake.connect().await;
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        held.push(stream);
    }
    let mut cut_off = 0;
    for mut stream in held {
        tokio::time::sleep(Duration::from_secs(12)).await;
        let text = until_closed(&mut stream).await;
        let (status, _, body) = split(&text);
        if status == 200 {
            cut_off += usize::from(serde_json::from_str::<serde_json::Value>(&body).is_err());
        } else {
            assert_eq!(status, 503, "{body}");
        }
    }
    assert!(cut_off >= 16, "{cut_off}");
    let (status, body) = fake.request("GET", "/status").await;
    assert_eq!(status, 200);
    assert!(body.len() > 2_000_000, "{}", body.len());
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_steady_reader_gets_a_large_answer_whole() {
    let fake = Fake::start();
    large(&fake);
    let mut stream = fake.connect().await;
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        match within(stream.read(&mut piece)).await.unwrap() {
            0 => break,
            count => text.extend_from_slice(&piece[..count]),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let (status, _, body) = split(&String::from_utf8(text).unwrap());
    assert_eq!(status, 200);
    serde_json::from_str::<serde_json::Value>(&body).unwrap();
}

/// Connections beyond the limit of descriptors would show nothing of our own limit.
fn allow_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    let enough = |most: Option<u64>| most.is_none_or(|most| most >= count);
    assert!(enough(limit.maximum), "this test needs {count} descriptors (ulimit -Hn)");
    if !enough(limit.current) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum: limit.maximum }).unwrap();
    }
}

#[tokio::test]
async fn connections_are_limited_and_one_too_many_is_told() {
    allow_descriptors(4096);
    let fake = Fake::start();
    let mut open = Vec::new();
    for _ in 0..1024 {
        let mut stream = fake.connect().await;
        // Its answer shows that it has its place.
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_ne!(within(stream.read(&mut [0; 4096])).await.unwrap(), 0);
        open.push(stream);
    }
    let mut refused = fake.connect().await;
    let (status, _, body) = split(&until_closed(&mut refused).await);
    assert_eq!(status, 503);
    assert!(body.contains("too many connections"), "{body}");
    open.truncate(1000);
    within(async {
        while fake.raw("GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").await.contains(" 503 ") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    still_serves(&fake).await;
}

#[tokio::test]
async fn strangers_who_take_all_places_do_not_lock_the_owner_out() {
    allow_descriptors(4096);
    let mut fake = Fake::start();
    let port = fake.start_status().await;
    let mut open = Vec::new();
    for _ in 0..960 {
        let mut stream = within(TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_ne!(within(stream.read(&mut [0; 4096])).await.unwrap(), 0);
        open.push(stream);
    }
    let mut one_more = within(TcpStream::connect(("127.0.0.1", port))).await.unwrap();
    let mut text = String::new();
    within(one_more.read_to_string(&mut text)).await.unwrap();
    assert_eq!(split(&text).0, 503);
    still_serves(&fake).await;
}

#[tokio::test]
async fn requests_one_after_the_other_without_waiting_are_answered_in_order() {
    let fake = Fake::start();
    let mut stream = fake.connect().await;
    let paths = ["/healthz", "/nothing", "/readyz", "/reload", "/healthz"];
    let requests = paths.map(|path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).concat();
    stream.write_all(requests.as_bytes()).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
    let text = read_all(&mut stream).await;
    let statuses = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect::<Vec<_>>();
    assert_eq!(statuses, ["200", "404", "200", "405", "200", "200"]);
}

#[tokio::test]
async fn a_master_that_ends_tells_its_requesters() {
    let mut fake = Fake::start();
    let mut stream = fake.connect().await;
    stream.write_all(b"POST /reload HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
    let asked = fake.next_ask().await;
    drop(asked.reply);
    let (status, _, body) = split(&read_all(&mut stream).await);
    assert_eq!(status, 503);
    assert!(body.contains("the master is ending"), "{body}");
}
