//! Tests with a journald of their own, in a mount namespace where `/run/systemd/journal/socket` is the test's socket.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::time::{Duration, UNIX_EPOCH};

use super::queue::ENTRIES_MAX;
use super::writer::{Look, line};
use super::*;
use crate::master::log::catalog;
use crate::master::testing::{OWN_RUN, in_own_process};

const JOURNALD: &str = "/run/systemd/journal/socket";
const LONG: Duration = Duration::from_secs(30);

/// A socket in the place of journald's; it reads when the test calls [`receive`].
fn journald() -> UnixDatagram {
    let socket = UnixDatagram::bind(JOURNALD).expect("a /run of our own");
    socket.set_read_timeout(Some(LONG)).expect("a socket");
    socket
}

/// The next entry. Skips the empty datagram with which the layer checks whether there is a journald.
fn receive(socket: &UnixDatagram) -> BTreeMap<String, String> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let length = socket.recv(&mut buffer).expect("an entry");
        if length > 0 {
            return parse(&buffer[..length]);
        }
    }
}

/// The native protocol: "NAME\n", eight bytes of length, value, "\n"; or "NAME=value\n".
fn parse(mut bytes: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line");
        let name = std::str::from_utf8(&bytes[..end]).expect("ASCII");
        if let Some((name, value)) = name.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
            bytes = &bytes[end + 1..];
        } else {
            let from = end + 9;
            let length = u64::from_le_bytes(bytes[end + 1..from].try_into().expect("eight bytes")) as usize;
            fields.insert(name.to_owned(), String::from_utf8(bytes[from..from + length].to_vec()).expect("UTF-8"));
            bytes = &bytes[from + length + 1..];
        }
    }
    fields
}

fn whole() -> Record {
    Record {
        level: Level::Warning,
        message: "worker 12 of slot 3 failed: exit 1\nand a second line".into(),
        generation: Some(7),
        worker: Some(12),
        slot: Some(3),
        pid: Some(4711),
        id: catalog::WORKER_FAILED,
        how: Some("exit 1".into()),
        reason: Some("no reason".into()),
    }
}

#[test]
fn fields_arrive_on_the_wire() {
    if in_own_process("master::log::journal::tests::fields_arrive_on_the_wire", &OWN_RUN).is_some() {
        return;
    }
    let socket = journald();
    let journal = start_with("web", Target::Journal, Level::Info);
    journal.log(whole());
    journal.log(Record::new(Level::Debug, "not kept at level info"));
    journal.log(Record::new(Level::Info, "bare"));
    journal.set_level(Level::Debug);
    journal.log(Record::new(Level::Debug, "kept now"));
    journal.log(Record::new(Level::Error, "x".repeat(200_000)));

    let entry = receive(&socket);
    let expected = [
        ("MESSAGE", "worker 12 of slot 3 failed: exit 1\nand a second line"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "ratoon"),
        ("MESSAGE_ID", catalog::WORKER_FAILED),
        ("RATOON_INSTANCE", "web"),
        ("RATOON_GENERATION", "7"),
        ("RATOON_WORKER", "12"),
        ("RATOON_SLOT", "3"),
        ("RATOON_PID", "4711"),
        ("OBJECT_PID", "4711"),
        ("RATOON_HOW", "exit 1"),
        ("RATOON_REASON", "no reason"),
    ];
    for (name, value) in expected {
        assert_eq!(entry.get(name).map(String::as_str), Some(value), "{name} in {entry:?}");
    }
    for field in FIELDS {
        assert!(entry.contains_key(field), "{field}");
    }

    let bare = receive(&socket);
    assert_eq!(bare["MESSAGE"], "bare");
    assert_eq!(bare["PRIORITY"], "6");
    assert_eq!(bare["RATOON_INSTANCE"], "web");
    assert_eq!(bare["MESSAGE_ID"], catalog::NOTICE, "the id of its level");
    for field in FIELDS.into_iter().filter(|field| *field != "RATOON_INSTANCE").chain(["OBJECT_PID"]) {
        assert!(!bare.contains_key(field), "{field} in {bare:?}");
    }
    let debug = receive(&socket);
    assert_eq!((debug["MESSAGE"].as_str(), debug["PRIORITY"].as_str()), ("kept now", "7"));
    let long = receive(&socket);
    assert_eq!(long["PRIORITY"], "3");
    assert_eq!(long["MESSAGE"].len(), MESSAGE_MAX + '…'.len_utf8());
    assert!(journal.close(LONG));
}

#[test]
fn a_journald_that_does_not_read_stops_nobody_and_the_loss_is_told() {
    if in_own_process("master::log::journal::tests::a_journald_that_does_not_read_stops_nobody_and_the_loss_is_told", &OWN_RUN)
        .is_some()
    {
        return;
    }
    const MANY: usize = 20_000;
    let socket = journald();
    let journal = start_with("web", Target::Journal, Level::Info);
    let (done, finished) = mpsc::channel();
    let logger = journal.clone();
    std::thread::spawn(move || {
        for n in 0..MANY {
            logger.log(Record::new(Level::Info, format!("entry {n}")));
        }
        done.send(()).expect("the test waits");
    });
    finished.recv_timeout(LONG).expect("logging waits for journald");
    assert!(!journal.flush(Duration::from_millis(10)), "nobody has read");

    // The test reads again: the kept entries come in order, then the number of lost entries; together they are all.
    let mut next = 0;
    let lost = loop {
        let entry = receive(&socket);
        let message = &entry["MESSAGE"];
        if let Some(number) = message.strip_prefix("entry ") {
            assert!(number.parse::<usize>().expect("a number") >= next, "{message} after {next}");
            next += 1;
        } else {
            assert_eq!(entry["PRIORITY"], "4");
            break message.split(' ').next().expect("a word").parse::<usize>().expect("a number");
        }
    };
    assert_eq!(next + lost, MANY);
    assert!(next >= ENTRIES_MAX, "{next}");
    journal.log(Record::new(Level::Info, "as before"));
    assert_eq!(receive(&socket)["MESSAGE"], "as before");
    assert!(journal.close(LONG));
}

#[test]
fn without_journald_entries_go_to_stderr_and_come_back_to_it() {
    let output =
        in_own_process("master::log::journal::tests::without_journald_entries_go_to_stderr_and_come_back_to_it", &OWN_RUN);
    if let Some(output) = output {
        let stderr = String::from_utf8_lossy(&output.stderr);
        // stderr is a pipe here: no time, no colour.
        assert!(stderr.lines().any(|line| line == "web warning: worker 12 of slot 3 failed: exit 1"), "{stderr}");
        assert!(stderr.lines().any(|line| line == "  and a second line"), "{stderr}");
        assert!(stderr.lines().any(|line| line == "web error: while it was away"), "{stderr}");
        assert!(!stderr.contains("to journald"), "{stderr}");
        return;
    }
    let journal = start_with("web", Target::Journal, Level::Info);
    journal.log(whole());
    assert!(journal.flush(LONG));
    let first = journald();
    journal.log(Record::new(Level::Info, "to journald 1"));
    assert_eq!(receive(&first)["MESSAGE"], "to journald 1");
    // journald has exited, and its path is still there.
    drop(first);
    journal.log(Record::new(Level::Error, "while it was away"));
    assert!(journal.flush(LONG));
    std::fs::remove_file(JOURNALD).expect("the socket");
    let second = journald();
    journal.log(Record::new(Level::Info, "to journald 2"));
    assert_eq!(receive(&second)["MESSAGE"], "to journald 2");
    journal.set_target(Target::Stderr);
    journal.log(Record::new(Level::Info, "to stderr by will"));
    assert!(journal.close(LONG));
    second.set_nonblocking(true).expect("a socket");
    assert!(second.recv(&mut [0; 64]).is_err(), "nothing more came to journald");
}

#[test]
fn a_stderr_that_nobody_reads_stops_nobody() {
    use std::os::fd::AsFd;
    let name = "master::log::journal::tests::a_stderr_that_nobody_reads_stops_nobody";
    if in_own_process(name, &[]).is_some() {
        return;
    }
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    let before = rustix::io::dup(std::io::stderr().as_fd()).expect("stderr");
    rustix::stdio::dup2_stderr(&write).expect("stderr");
    let journal = start_with("web", Target::Stderr, Level::Info);
    journal.log(Record::new(Level::Info, "first"));
    let mut first = [0; 64];
    let length = rustix::io::read(&read, &mut first).expect("the thread writes here");
    assert_eq!(&first[..length], b"web: first\n");
    for _ in 0..2 * ENTRIES_MAX {
        journal.log(Record::new(Level::Info, "y".repeat(200)));
    }
    assert!(!journal.close(Duration::from_millis(10)), "nobody has read");
    rustix::stdio::dup2_stderr(&before).expect("stderr");
    drop(read);
}

#[test]
fn the_queue_is_bounded_in_bytes_too() {
    let queue = Queue::default();
    for _ in 0..ENTRIES_MAX {
        let record = Record::new(Level::Info, "x".repeat(MESSAGE_MAX));
        let size = record.size();
        queue.push(record, size);
    }
    let mut kept = 0;
    loop {
        match queue.next().expect("open") {
            queue::Next::Record(record) => kept += record.size(),
            queue::Next::Lost(lost) => {
                assert_eq!(kept / MESSAGE_MAX + lost as usize, ENTRIES_MAX);
                break;
            }
        }
    }
    assert!(kept <= 2 << 20, "{kept}");
    queue.close();
    assert!(queue.next().is_none());
    queue.push(Record::new(Level::Info, "too late"), 8);
    assert!(queue.next().is_none());
}

#[test]
fn lines_for_each_kind_of_reader() {
    let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let record = Record::new(Level::Error, "cannot fork: \x1b[31mEAGAIN\x07\n\n  second");
    assert_eq!(line(Look::Pipe, "web", &record, now), "web error: cannot fork: EAGAIN\n    second\n");
    assert_eq!(line(Look::File, "web", &record, now), "2023-11-14T22:13:20.123Z web error: cannot fork: EAGAIN\n    second\n");
    assert_eq!(line(Look::Stream, "web", &record, now), "<3>cannot fork: EAGAIN\n<3>    second\n");
    let coloured = line(Look::Terminal { colour: true }, "web", &record, now);
    assert!(coloured.contains("\x1b[1;31mweb error:\x1b[0m cannot fork"), "{coloured:?}");
    let plain = line(Look::Terminal { colour: false }, "web", &Record::new(Level::Info, "ready"), now);
    assert!(plain.ends_with(":20 web: ready\n") && plain.len() == "22:13:20 web: ready\n".len(), "{plain:?}");
    assert_eq!(line(Look::Pipe, "web", &Record::new(Level::Info, ""), now), "web: \n");
}

#[test]
fn levels_by_the_names_of_syslog() {
    for level in [Level::Error, Level::Warning, Level::Info, Level::Debug] {
        assert_eq!(level.as_str().parse(), Ok(level));
        assert_eq!((level as u8).to_string().parse(), Ok(level));
        assert_eq!(Level::from_number(level as u8), level);
    }
    assert_eq!("emerg".parse(), Ok(Level::Error));
    assert_eq!("notice".parse(), Ok(Level::Info));
    assert!("loud".parse::<Level>().expect_err("no level").contains("\"loud\""));
    let journal = start_with("web", Target::Stderr, Level::Warning);
    assert!(journal.enabled(Level::Error) && journal.enabled(Level::Warning) && !journal.enabled(Level::Info));
    journal.set_level(Level::Debug);
    assert_eq!(journal.level(), Level::Debug);
}
