//! Private sockets of every family, and answers of every kind.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::*;
use crate::config::StatusRange;

fn public(fd: impl Into<OwnedFd>) -> Listener {
    Listener::of("web".to_owned(), fd.into(), true)
}

fn tcp() -> Listener {
    public(TcpListener::bind("127.0.0.1:0").expect("a port"))
}

fn config(probe: Probe) -> Config {
    let mut config = Config::for_command(vec!["server".to_owned()]);
    config.reload.probe = Some(probe);
    config
}

/// A worker that accepts one connection on the socket, reads a request and answers with `answer`.
fn answering(socket: &OwnedFd, answer: &'static str) -> JoinHandle<String> {
    let listener = TcpListener::from(socket.try_clone().expect("a copy"));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 1024];
        let length = stream.read(&mut request).expect("a request");
        stream.write_all(answer.as_bytes()).expect("an answer");
        String::from_utf8_lossy(&request[..length]).into_owned()
    })
}

async fn asked(probe: Probe, answer: &'static str) -> (Result<(), Reason>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let private = PrivateSockets::open(&[tcp()], directory.path(), "probe-1").expect("sockets");
    let worker = answering(&private.sockets()[0], answer);
    let result = private.request(&config(probe)).expect("a request").send().await;
    (result, worker.join().expect("the worker"))
}

#[tokio::test]
async fn get_passes_with_the_expected_status() {
    let (result, request) = asked(Probe::Get("/up".to_owned()), "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(result, Ok(()));
    assert!(request.starts_with("GET /up HTTP/1.1\r\nhost: localhost\r\n"), "{request}");
}

#[tokio::test]
async fn other_status_is_told_with_the_first_line_of_the_body() {
    let answer = "HTTP/1.1 500 Oh no\r\ncontent-length: 32\r\n\r\n\nno database: s3cret\nmore lines\n\n";
    let (result, _) = asked(Probe::Get("/up".to_owned()), answer).await;
    let reason = result.expect_err("500");
    assert_eq!(reason.cause, "GET /up was answered with 500 Internal Server Error; 200 to 399 pass");
    assert_eq!(reason.detail.as_deref(), Some("no database: s3cret"));
}

#[tokio::test]
async fn answer_that_is_not_http_is_told() {
    let (result, _) = asked(Probe::Get("/".to_owned()), "SSH-2.0-OpenSSH\r\n").await;
    let reason = result.expect_err("no HTTP");
    assert!(reason.cause.starts_with("GET /: "), "{}", reason.cause);
}

#[tokio::test]
async fn silence_ends_after_the_timeout() {
    let directory = tempfile::tempdir().expect("a directory");
    let private = PrivateSockets::open(&[tcp()], directory.path(), "probe-1").expect("sockets");
    for (probe, says) in [
        (Probe::Get("/up".to_owned()), "GET /up had no answer within 50ms"),
        (Probe::Connect, "connect was not accepted within 50ms"),
    ] {
        let mut config = config(probe);
        config.reload.probe_timeout = Duration::from_millis(50);
        let result = private.request(&config).expect("a request").send().await;
        assert_eq!(result.expect_err("nobody accepts").cause, says);
    }
}

#[tokio::test]
async fn connect_passes_once_the_worker_accepts() {
    let directory = tempfile::tempdir().expect("a directory");
    let unix = UnixListener::bind(directory.path().join("public")).expect("a socket");
    let private = PrivateSockets::open(&[public(unix)], directory.path(), "probe-1").expect("sockets");
    let worker = UnixListener::from(private.sockets()[0].try_clone().expect("a copy"));
    let worker = std::thread::spawn(move || drop(worker.accept().expect("a connection")));
    assert_eq!(private.request(&config(Probe::Connect)).expect("a request").send().await, Ok(()));
    worker.join().expect("the worker");
}

#[test]
fn stand_ins_have_family_type_and_place_of_the_public_sockets() {
    let directory = tempfile::tempdir().expect("a directory");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let unix = UnixListener::bind(directory.path().join("public")).expect("a socket");
    let mut public = vec![public(udp), tcp(), public(unix)];
    // IPv6 may be missing on the machine that runs this test.
    public.extend(TcpListener::bind("[::1]:0").map(self::public).ok());
    let private = PrivateSockets::open(&public, directory.path(), "probe-1").expect("sockets");
    for (ours, theirs) in private.sockets().iter().zip(&public) {
        assert_eq!(sockopt::socket_domain(&**ours), sockopt::socket_domain(&*theirs.fd));
        assert_eq!(sockopt::socket_type(&**ours), sockopt::socket_type(&*theirs.fd));
        let shown = Listener::of(String::new(), ours.try_clone().expect("a copy"), false);
        assert_ne!(shown.address, theirs.address);
        assert_eq!(shown.kind, theirs.kind);
    }
    let variables: Vec<_> = private.environment().map(|entry| entry.into_string().expect("text")).collect();
    assert_eq!(variables[0], "RATOON_PROBE=1");
    assert!(variables[1].starts_with(&format!("RATOON_PROBE_ADDRESSES={} {} ", public[0].address, public[1].address)));
    let file = directory.path().join("probe-1-2");
    assert!(file.exists());
    drop(private);
    assert!(!file.exists(), "the file of the private socket is removed");
}

#[test]
fn datagrams_alone_have_no_request() {
    let directory = tempfile::tempdir().expect("a directory");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let private = PrivateSockets::open(&[public(udp)], directory.path(), "probe-1").expect("sockets");
    assert!(private.request(&config(Probe::Get("/".to_owned()))).is_none());
    let mut config = config(Probe::Connect);
    config.reload.probe_status = StatusRange(200..=200);
    assert!(private.request(&config).is_none());
}

#[test]
fn what_is_no_socket_has_no_stand_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let error = PrivateSockets::open(&[public(null)], directory.path(), "probe-1").expect_err("no socket");
    assert!(error.contains("stands in for web"), "{error}");
    assert!(error.contains("unset reload.probe"), "{error}");
}
