//! The socket of varlink: it is there as long as the instance, whatever happens to the master's program and to its file.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::harness::{Master, Place, Signal, TIMEOUT, eventually};
use super::upgrade::upgrade;

fn socket(master: &Master) -> PathBuf {
    master.control().with_file_name("varlink")
}

fn start() -> Master {
    let master = Place::new().pool("count = 1", "").start();
    eventually("it is bound", || UnixStream::connect(socket(&master)).ok(), || master.log());
    master
}

/// Whether the call was answered. A connection that the master of before has accepted is closed without an answer.
fn ping(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let call = b"{\"method\":\"io.systemd.service.Ping\",\"parameters\":{}}\0";
    if stream.write_all(call).is_err() {
        return false;
    }
    let mut answer = Vec::new();
    BufReader::new(stream).read_until(0, &mut answer).is_ok() && answer.ends_with(b"}\0")
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).expect("the socket").ino()
}

#[test]
fn removed_varlink_socket_is_bound_again() {
    let master = start();
    let path = socket(&master);
    for _ in 0..2 {
        let mut before = UnixStream::connect(&path).expect("a connection");
        assert!(ping(&mut before), "{}", master.log());
        std::fs::remove_file(&path).expect("removed");
        let mut again = eventually("it is there again", || UnixStream::connect(&path).ok(), || master.log());
        assert!(ping(&mut again), "{}", master.log());
        assert!(ping(&mut before), "the connection of before: {}", master.log());
    }
    master.wait_for_log("the socket of varlink was removed: it is there again");
    std::fs::remove_dir_all(master.place.path("run")).expect("removed");
    let mut again = eventually("it is there again", || UnixStream::connect(&path).ok(), || master.log());
    assert!(ping(&mut again), "{}", master.log());
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert!(!path.exists(), "the socket is left");
}

#[test]
fn varlink_connection_waits_during_an_upgrade() {
    let master = start();
    let (path, stop) = (socket(&master), Arc::new(AtomicBool::new(false)));
    let (connected, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let client = std::thread::spawn({
        let (path, stop, connected, refused) = (path.clone(), stop.clone(), connected.clone(), refused.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                match UnixStream::connect(&path) {
                    Ok(mut stream) => connected.fetch_add(usize::from(ping(&mut stream)), Ordering::Relaxed),
                    Err(_) => refused.fetch_add(1, Ordering::Relaxed),
                };
            }
        }
    });
    let before = inode(&path);
    for _ in 0..3 {
        upgrade(&master);
        let answered = connected.load(Ordering::Relaxed);
        let more = || (connected.load(Ordering::Relaxed) > answered).then_some(());
        eventually("the next program answers", more, || master.log());
    }
    stop.store(true, Ordering::Relaxed);
    client.join().expect("no panic");
    assert_eq!(refused.load(Ordering::Relaxed), 0, "{}", master.log());
    assert_eq!(inode(&path), before);
    // The next program has it in its care, too.
    std::fs::remove_file(&path).expect("removed");
    let mut again = eventually("it is there again", || UnixStream::connect(&path).ok(), || master.log());
    assert!(ping(&mut again), "{}", master.log());
}
