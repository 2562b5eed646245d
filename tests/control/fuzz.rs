//! Bytes of every kind for the HTTP front: each connection is answered or closed, and the front serves on.
//!
//! `RATOON_FUZZ` is how many connections; what once broke it is in `tests/faults/corpus/http/` and is sent first.

use ratoon::api::Reply;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::dice::{Dice, count};
use crate::fake::{Fake, within};

/// Connections at once.
const CLIENTS: u64 = 8;

const PIECES: [&[u8]; 52] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"OPTIONS ",
    b"/status",
    b"/metrics",
    b"/healthz",
    b"/readyz",
    b"/events",
    b"/",
    b"/reload",
    b"/abort",
    b"/scale",
    b"/recycle",
    b"/upgrade",
    b"?workers=",
    b"?worker=",
    b"&",
    b"4",
    b"-1",
    b"99999999999999999999",
    b"%",
    b"%00",
    b"%ff",
    b"..",
    b" HTTP/1.1\r\n",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b" HTTP/2.0\r\n",
    b"Host: x\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Accept: application/json\r\n",
    b"Accept: text/event-stream\r\n",
    b"Last-Event-ID: 3\r\n",
    b"Origin: http://evil.example\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n\r\n",
    b"\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"\0",
    b"\xff\xfe",
    b":",
    b" ",
    b"\t",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// Sends it, and waits for the first bytes of an answer or the end.
async fn feed(control: &std::path::Path, input: &[u8]) {
    let mut stream = within(UnixStream::connect(control)).await.expect("the front accepts");
    let _ = within(stream.write_all(input)).await;
    let _ = stream.shutdown().await;
    let mut piece = [0; 4096];
    if let Ok(read @ 1..) = within(stream.read(&mut piece)).await {
        assert!(piece[..read].starts_with(b"HTTP/1."), "{:?} got {:?}", input.escape_ascii().to_string(), &piece[..read]);
    }
}

#[tokio::test]
async fn any_bytes_are_answered_or_refused() {
    let mut fake = Fake::start();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/corpus/http");
    for entry in std::fs::read_dir(corpus).expect("the corpus").flatten() {
        feed(&fake.control, &std::fs::read(entry.path()).expect("a file")).await;
    }
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let control = fake.control.clone();
        clients.spawn(async move {
            let mut dice = Dice(0x5EED + client);
            for _ in 0..count(4_000) / CLIENTS {
                feed(&control, &dice.text(&PIECES, 16)).await;
            }
        });
    }
    // What reaches the pool is answered at once.
    loop {
        tokio::select! {
            asked = fake.asked.recv() => {
                let reply = asked.expect("the front runs").reply;
                reply.map(|reply| reply.send(Reply::Failed("not now".to_owned())).is_ok());
            }
            done = clients.join_next() => match done {
                Some(done) => done.expect("no panic"),
                None => break,
            },
        }
    }
    assert_eq!(fake.request("GET", "/healthz").await, (200, "ok\n".to_owned()));
}
