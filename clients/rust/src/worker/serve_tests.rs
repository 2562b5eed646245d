//! Tests of draining over real sockets.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Server;
use crate::scoreboard::connection::Connection;
use crate::scoreboard::writer::{Board, now};
use crate::worker::Drain;
use crate::worker::board::board;
use crate::worker::listen::Listener;

const SOON: Duration = Duration::from_secs(10);

/// A test server. A request for `/slow` waits for a permit and then gets as many bytes as its query says.
struct Rig {
    drain: Drain,
    address: std::net::SocketAddr,
    permits: Arc<Semaphore>,
    entered: Arc<Semaphore>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Rig {
    async fn new(server: Server) -> Self {
        Self::on(server, TcpListener::bind("127.0.0.1:0").await.unwrap().into())
    }

    fn on(server: Server, listener: Listener) -> Self {
        let address = listener.address().parse().unwrap();
        let drain = Drain::new();
        let permits = Arc::new(Semaphore::new(0));
        let entered = Arc::new(Semaphore::new(0));
        let (wait, tell) = (permits.clone(), entered.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (wait, tell) = (wait.clone(), tell.clone());
            async move {
                let mut answer = Response::new(Full::new(Bytes::from("hello")));
                match request.uri().path() {
                    "/slow" => {
                        tell.add_permits(1);
                        wait.acquire().await.unwrap().forget();
                        if let Some(bytes) = request.uri().query().and_then(|query| query.strip_prefix("bytes=")) {
                            *answer.body_mut() = Full::new(vec![b'x'; bytes.parse().unwrap()].into());
                        }
                    }
                    "/upgrade" => {
                        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                        answer.headers_mut().insert("connection", "upgrade".parse().unwrap());
                        answer.headers_mut().insert("upgrade", "echo".parse().unwrap());
                        *answer.body_mut() = Full::default();
                        tokio::spawn(echo(request));
                    }
                    _ => {}
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let server = tokio::spawn(server.drain(drain.clone()).serve(listener, service));
        Rig { drain, address, permits, entered, server }
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// An idle connection. It has had an answer, so the server has accepted it.
    async fn idle(&self) -> Client {
        let mut client = self.connect().await;
        assert_eq!(client.get("/").await, Answer { close: false });
        client
    }

    async fn ended(self) {
        timeout(SOON, self.server).await.expect("the server ends").unwrap().unwrap();
    }
}

async fn echo(request: Request<Incoming>) {
    let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
    let mut bytes = [0; 64];
    while let Ok(len @ 1..) = stream.read(&mut bytes).await {
        stream.write_all(&bytes[..len]).await.unwrap();
    }
}

#[derive(Debug, PartialEq)]
struct Answer {
    close: bool,
}

struct Client(TcpStream);

impl Client {
    async fn send(&mut self, path: &str) {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    }

    async fn answer(&mut self) -> Answer {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\nhello") {
            let mut byte = [0];
            let read = timeout(SOON, self.0.read(&mut byte)).await.expect("an answer").unwrap();
            assert_eq!(read, 1, "the connection ended within an answer: {}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        Answer { close: text.to_lowercase().contains("connection: close") }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(path).await;
        self.answer().await
    }

    /// Asserts that the server ended the connection with an end of file, and not with a reset.
    async fn at_end(&mut self) {
        let mut rest = Vec::new();
        timeout(SOON, self.0.read_to_end(&mut rest)).await.expect("the end").unwrap();
        assert_eq!(rest, b"", "bytes after the last answer");
    }
}

#[derive(Clone)]
struct Greeter;

impl tower_service::Service<Request<Incoming>> for Greeter {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Incoming>) -> Self::Future {
        std::future::ready(Ok(Response::new(Full::new(Bytes::from("hello")))))
    }
}

#[tokio::test]
async fn a_tower_service_is_served_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::bind(path.to_str().unwrap()).unwrap();
    let drain = Drain::new();
    let server = tokio::spawn(Server::new().drain(drain.clone()).serve_tower(listener, Greeter));
    let mut client = UnixStream::connect(&path).await.unwrap();
    for close in [false, true] {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut text = [0; 1024];
        let len = timeout(SOON, client.read(&mut text)).await.expect("an answer").unwrap();
        let text = std::str::from_utf8(&text[..len]).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("hello"), "{text}");
        assert_eq!(text.contains("connection: close"), close);
        drain.begin();
    }
    drop(client);
    timeout(SOON, server).await.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_busy_connection_is_told_with_its_answer() {
    let rig = Rig::new(Server::new()).await;
    let mut client = rig.connect().await;
    client.send("/slow").await;
    rig.entered.acquire().await.unwrap().forget();
    rig.drain.begin();
    rig.permits.add_permits(1);
    assert_eq!(client.answer().await, Answer { close: true });
    client.at_end().await;
    drop(client);
    rig.ended().await;
}

#[tokio::test]
async fn an_idle_connection_is_told_with_its_next_answer() {
    let rig = Rig::new(Server::new()).await;
    let (mut one, mut two) = (rig.idle().await, rig.idle().await);
    rig.drain.begin();
    // Once the listener is closed, the drain is under way.
    while TcpStream::connect(rig.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    for client in [&mut one, &mut two] {
        assert_eq!(client.get("/").await, Answer { close: true });
        client.at_end().await;
    }
    drop((one, two));
    rig.ended().await;
}

#[tokio::test]
async fn a_fresh_connection_is_served() {
    let rig = Rig::new(Server::new()).await;
    let mut fresh = rig.connect().await;
    let _accepted_after = rig.idle().await; // the queue is first in, first out, so `fresh` is accepted, too
    rig.drain.begin();
    while TcpStream::connect(rig.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(fresh.get("/").await, Answer { close: true });
    fresh.at_end().await;
}

/// The answer is larger than the client's receive buffer and fits into the server's send buffer. If the server closed its socket with
/// unread bytes, its kernel would discard the rest of the answer.
#[tokio::test]
async fn pipelined_requests_lose_no_answer_that_was_given() {
    let rig = Rig::new(Server::new()).await;
    let mut client = rig.connect().await;
    client.send("/slow?bytes=1000000").await;
    rig.entered.acquire().await.unwrap().forget();
    rig.drain.begin();
    // More requests than the server reads ahead, sent before the answer. `Connection: close` tells the client that none was processed.
    client.0.write_all("GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20_000).as_bytes()).await.unwrap();
    rig.permits.add_permits(1);
    let mut all = Vec::new();
    timeout(SOON, client.0.read_to_end(&mut all)).await.expect("the end").unwrap();
    let head = all.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
    assert!(String::from_utf8_lossy(&all[..head]).contains("connection: close"));
    assert_eq!(all.len() - head - 4, 1_000_000, "bytes of the body");
    drop(client);
    rig.ended().await;
}

#[tokio::test]
async fn an_answer_on_its_way_is_no_idle_connection() {
    let rig = Rig::new(Server::new().grace(Duration::ZERO)).await;
    let mut client = rig.connect().await;
    let body = 32 << 20; // bytes; more than the socket buffers hold
    rig.permits.add_permits(1);
    client.send(&format!("/slow?bytes={body}")).await;
    rig.entered.acquire().await.unwrap().forget();
    rig.idle().await; // the server has run: it has written as much as the socket takes
    let shown = board().entries().into_iter().find(|entry| {
        let request = entry.guarded.as_ref().and_then(|guarded| guarded.request.as_ref());
        request.is_some_and(|request| request.url == format!("/slow?bytes={body}") && request.state == "sending")
    });
    assert!(shown.expect("it is shown as being sent").active);
    rig.drain.begin();
    let mut all = Vec::new();
    timeout(SOON, client.0.read_to_end(&mut all)).await.expect("the end").unwrap();
    assert!(all.ends_with(&[b'x'; 1000]) && all.len() > body, "{} bytes", all.len());
    drop(client);
    rig.ended().await;
}

#[tokio::test]
async fn the_drain_ends_at_its_deadline_though_a_request_hangs() {
    let rig = Rig::new(Server::new().deadline(Duration::from_millis(50))).await;
    let mut client = rig.connect().await;
    client.send("/slow?overdue").await;
    rig.entered.acquire().await.unwrap().forget();
    let local = client.0.local_addr().unwrap();
    rig.drain.begin();
    rig.ended().await;
    let lines = super::overdue(board(), now() + 1_500_000_000);
    let about = format!("the drain is over, and {local} still waits for GET /slow?overdue after ");
    assert!(lines.iter().any(|line| line.starts_with(&about) && line.ends_with(" s")), "{lines:?}");
}

#[test]
fn what_the_page_has_no_room_for_is_counted_at_the_deadline() {
    let page = Arc::new(Board::private());
    let mut open: Vec<_> = (0..402).map(|_| Connection::new(page.clone(), None)).collect();
    let lines = super::overdue(&page, now());
    assert_eq!(lines, ["the drain is over, and beyond the status page's 400 connections 2 are open"]);
    // Drop two connections with a slot on the page and two without.
    open.drain(..2);
    open.truncate(398);
    assert_eq!(super::overdue(&page, now()), [""; 0]);
}

#[tokio::test]
async fn an_upgraded_connection_is_waited_for() {
    let rig = Rig::new(Server::new()).await;
    let mut client = rig.connect().await;
    client.0.write_all(b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await.unwrap();
    let mut head = [0; 1024];
    let len = timeout(SOON, client.0.read(&mut head)).await.expect("an answer").unwrap();
    assert!(head[..len].starts_with(b"HTTP/1.1 101 "));
    rig.drain.begin();
    while TcpStream::connect(rig.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    client.0.write_all(b"ping").await.unwrap();
    let len = timeout(SOON, client.0.read(&mut head)).await.expect("an echo").unwrap();
    assert_eq!(&head[..len], b"ping");
    assert!(!rig.server.is_finished());
    drop(client);
    rig.ended().await;
}

#[tokio::test]
async fn half_a_head_is_waited_for() {
    let rig = Rig::new(Server::new().grace(Duration::ZERO)).await;
    let mut client = rig.idle().await;
    let other = rig.idle().await;
    client.0.write_all(b"GET / HT").await.unwrap();
    let mut probe = rig.idle().await; // the server has run: it has read the half head
    assert_eq!(probe.get("/").await, Answer { close: false });
    rig.drain.begin();
    // Without a grace time the other idle connections are closed at once …
    for mut idle in [other, probe] {
        idle.at_end().await;
    }
    // … but the connection with half a request is not.
    client.0.write_all(b"TP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await, Answer { close: true });
    client.at_end().await;
    drop(client);
    rig.ended().await;
}

#[tokio::test]
async fn the_grace_counts_from_the_last_answer_and_ends() {
    let rig = Rig::new(Server::new().grace(Duration::from_millis(30))).await;
    let (mut idle, mut fresh) = (rig.idle().await, rig.connect().await);
    rig.idle().await.0.shutdown().await.unwrap();
    rig.drain.begin();
    idle.at_end().await;
    fresh.at_end().await;
    drop((idle, fresh));
    rig.ended().await;
}

async fn queue_is_emptied_before_the_listener_closes(listener: Listener) {
    let rig = Rig::on(Server::new(), listener);
    rig.drain.begin(); // before the server has run at all
    let address = rig.address;
    // The kernel completes these connections without the server, which shares this thread and has not run.
    let waiting: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    for stream in waiting {
        stream.set_nonblocking(true).unwrap();
        let mut client = Client(TcpStream::from_std(stream).unwrap());
        assert_eq!(client.get("/").await, Answer { close: true });
        client.at_end().await;
    }
    rig.ended().await;
}

#[tokio::test]
async fn own_queue_is_emptied_before_the_listener_closes() {
    queue_is_emptied_before_the_listener_closes(Listener::bind("127.0.0.1:0").unwrap()).await;
}

/// The other copies of a shared listener are closed when the instance stops.
#[tokio::test]
async fn shared_queue_is_emptied_before_the_listener_closes() {
    queue_is_emptied_before_the_listener_closes(TcpListener::bind("127.0.0.1:0").await.unwrap().into()).await;
}

#[tokio::test]
async fn shared_queue_that_is_never_empty_ends_the_drain() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let drain = Drain::new();
    drain.begin();
    let address = listener.local_addr().unwrap();
    let (mut accepted, mut waiting) = (0, Vec::new());
    let mut connect = || waiting.push(std::net::TcpStream::connect(address).unwrap());
    connect();
    // Each accepted connection is followed by another one.
    let start = |_| {
        accepted += 1;
        connect();
    };
    timeout(SOON, super::accept_until(&drain, listener.into(), start)).await.expect("it ends");
    assert_eq!(accepted, super::SHARED_QUEUE_MAX);
}
