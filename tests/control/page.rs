//! The page of `GET /`, as a browser gets it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake::{Fake, split, within};

#[tokio::test]
async fn the_page_comes_with_a_policy_that_admits_only_itself() {
    let mut fake = Fake::start();
    let port = fake.start_status().await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let mut stream = within(tokio::net::TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        within(stream.read_to_string(&mut text)).await.unwrap();
        let (status, head, body) = split(&text);
        assert_eq!(status, 200, "{head}");
        for line in ["content-type: text/html; charset=utf-8", "cache-control: no-store", "x-content-type-options: nosniff"] {
            assert!(head.contains(line), "{line} in {head}");
        }
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).expect("a policy");
        for directive in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(directive), "{directive} in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let nonce = policy.split_once("script-src 'nonce-").and_then(|(_, rest)| rest.split_once('\'')).expect("a nonce").0;
        assert!(body.contains(&format!("<script nonce=\"{nonce}\">")), "the script bears {nonce}");
        assert!(body.contains(&format!("<style nonce=\"{nonce}\">")), "the style bears {nonce}");
        nonces.push(nonce.to_owned());
    }
    assert_ne!(nonces[0], nonces[1], "each answer has its own");
    // On the control socket too; and its head alone.
    let (status, body) = fake.request("GET", "/").await;
    assert!(status == 200 && body.starts_with("<!doctype html>"), "{body}");
    let (status, head, body) = split(&fake.raw("HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await);
    assert!(status == 200 && body.is_empty() && head.contains("content-security-policy"), "{head}");
    assert_eq!(fake.request("POST", "/").await.0, 405);
}
