//! The order in which things are told is the order in which they were decided.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use super::harness::{Master, Place, TIMEOUT};

/// The names of the events that the master tells, as they come; ends with the master.
fn events(master: &Master) -> impl Iterator<Item = String> + use<> {
    let mut stream = UnixStream::connect(master.control()).expect("the control socket");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    write!(stream, "GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("written");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.filter_map(|line| {
        line.strip_prefix("event: ").or_else(|| line.strip_prefix("event:")).map(|name| name.trim().to_owned())
    })
}

#[test]
fn crash_of_a_candidate_is_told_before_its_rollback() {
    let place = Place::new();
    place.release("v2", "exit_at_start=7");
    let master = place.pool("count = 1", "").start();
    let mut events = events(&master);
    assert_eq!(events.next().as_deref(), Some("summary"));
    master.place.current("v2");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    let told: Vec<String> = events.by_ref().filter(|name| name != "summary" && name != "worker").take(3).collect();
    assert_eq!(told, ["reload-started", "worker-exited", "reload-finished"], "{}", master.log());
}
