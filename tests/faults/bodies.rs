//! Requests with bodies, which mean nothing to the master: what they cost it.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::harness::http::unread;
use super::harness::{Place, eventually};
use super::meter;

/// As many as the master serves at once, less those that are reserved for its owner.
const CONNECTIONS: usize = 900;
/// The largest body that is not refused at once, bytes.
const BODY: usize = 64 * 1024;
/// What a connection may cost while its body is under way, KiB: buffers of its own for a head and for an answer.
const EACH: u64 = 32;
/// What may stay when all are gone, KiB.
const STAYS: u64 = 6 * 1024;

#[test]
fn thousand_bodies_are_dropped_as_they_come() {
    let master = Place::new().pool("count = 1", "").start();
    let before = meter::memory(master.pid);
    // All but the last byte, so that every request is under way at once.
    let head = format!("POST /abort HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\n");
    let request = [head.as_bytes(), &vec![b'x'; BODY - 1]].concat();
    let open = || {
        let mut stream = UnixStream::connect(master.control()).expect("the control socket");
        stream.write_all(&request).expect("the kernel's buffer has room");
        stream
    };
    let streams: Vec<UnixStream> = (0..CONNECTIONS).map(|_| open()).collect();
    eventually("all is read", || streams.iter().all(|stream| unread(stream) == 0).then_some(()), || master.log());
    let grown = meter::memory(master.pid).saturating_sub(before);
    assert!(grown < EACH * CONNECTIONS as u64, "{CONNECTIONS} connections cost {grown} KiB");
    master.get("/");
    drop(streams);
    let stays = || meter::memory(master.pid).saturating_sub(before);
    eventually("the memory is given back", || (stays() < STAYS).then_some(()), || format!("{} KiB stay", stays()));
}
