//! Commands that ask a master that is not there, is dead, or is another version's.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use super::harness::Place;
use super::{failing, ratoon, recorded, shown};

#[test]
fn no_such_instance() {
    let place = Place::new();
    // Where other instances run, they are named.
    let said = failing(&place, &["reload", "no-such-instance"]);
    recorded!("no_such_instance", said.split("; ").next().unwrap_or_default());
    recorded!("no_such_socket", failing(&place, &["reload", "--control", "missing"]));
}

#[test]
fn somebody_else_s_master() {
    let master = Place::new().pool("count = 1", "").start();
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED somebody_else_s_master: another user's question needs root; tests/run has it");
        return;
    }
    let mut command = super::start::command_as_nobody(&master.place, &["reload", "--control", "run/control"]);
    let output = command.output().expect("setpriv");
    recorded!("no_permission_to_change", shown(&master.place, &["reload", "--control", "run/control"], &output));
}

#[test]
fn a_dead_master() {
    let place = Place::new();
    drop(UnixListener::bind(place.path("control")).expect("a socket"));
    recorded!("dead_master", failing(&place, &["status", "--control", "control"]));
}

/// Something that answers every request so.
fn answering(place: &Place, answer: &'static str) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(place.path("control")).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = Vec::new();
            let mut buffer = [0; 1024];
            while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(length) if length > 0 => request.extend_from_slice(&buffer[..length]),
                    _ => break,
                }
            }
            // The last one is the test's.
            if request.starts_with(b"END") {
                return;
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    })
}

#[test]
fn a_master_of_another_version() {
    for (name, answer) in [
        (
            "other_version",
            "HTTP/1.1 404 Not Found\r\nserver: ratoon/0.0.1\r\nconnection: close\r\ncontent-length: 25\r\n\r\n{\"error\":\"no such path\"}\n\n",
        ),
        ("no_ratoon", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 12\r\n\r\n<html></html>"),
    ] {
        let place = Place::new();
        let server = answering(&place, answer);
        let said = shown(
            &place,
            &["status", "--control", "control"],
            &ratoon(&place, &["status", "--control", "control"]).output().expect("ratoon"),
        );
        let mut last = std::os::unix::net::UnixStream::connect(place.path("control")).expect("a connection");
        last.write_all(b"END\r\n\r\n").expect("a word");
        server.join().expect("no panic");
        let said = said.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        match name {
            "other_version" => recorded!("other_version", said),
            _ => recorded!("no_ratoon", said),
        }
    }
}
