//! Tests with real processes, whose output goes to pipes of the test in place of the master's stdout and stderr.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

const LONG: Duration = Duration::from_secs(30);

/// Makes a relay to two pipes, and returns their reading ends.
fn relay(grace: Duration) -> (Relay, BufReader<File>, BufReader<File>) {
    let (out, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let (err, stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let relay = Relay::with_grace(stdout.as_fd(), stderr.as_fd(), grace).expect("a relay");
    (relay, BufReader::new(out.into()), BufReader::new(err.into()))
}

fn start(relay: &Relay, worker: u64, script: &str) -> Child {
    let streams = relay.open(worker, "web/3").expect("streams");
    relay.wake();
    assert_eq!(streams.journal_stream, None);
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(streams.stdout).stderr(streams.stderr);
    command.spawn().expect("sh")
}

fn line(reader: &mut BufReader<File>) -> String {
    let mut fds = [PollFd::new(reader.get_ref(), PollFlags::IN)];
    if reader.buffer().is_empty() {
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 30, tv_nsec: 0 })).expect("poll"), 1, "nothing comes");
    }
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    line
}

#[tokio::test]
async fn lines_go_to_where_they_belong_and_the_last_ones_are_kept() {
    let (relay, mut out, mut err) = relay(LONG);
    let mut child = start(&relay, 1, "echo to stdout; echo to stderr >&2; printf 'no end'; printf '\\033[31mred\\n' >&2; exit 3");
    assert_eq!(child.wait().expect("our child").code(), Some(3));
    // All lines of a dead worker are there, without a wait.
    let mut tail = relay.tail(1).await.lines();
    tail.sort();
    assert_eq!(tail, ["no end", "red", "to stderr", "to stdout"]);
    assert!(relay.flush(LONG));
    assert_eq!((line(&mut out), line(&mut out)), ("to stdout\n".into(), "no end\n".into()));
    // The lines are passed on byte for byte, without a label, because the sink is no terminal.
    assert_eq!((line(&mut err), line(&mut err)), ("to stderr\n".into(), "\u{1b}[31mred\n".into()));
    relay.close(1);
    assert_eq!(relay.tail(1).await.lines(), Vec::<String>::new());
    assert_eq!(relay.tail(4711).await.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn the_last_lines_of_many_before_a_death() {
    let (relay, mut out, _err) = relay(LONG);
    let mut child = start(&relay, 1, "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done");
    let reader = std::thread::spawn(move || (0..2000).map(|_| line(&mut out)).collect::<Vec<_>>());
    child.wait().expect("our child");
    let tail = relay.tail(1).await.lines();
    let expected: Vec<String> = (0..10).chain(1980..2000).map(|n| format!("line {n}")).collect();
    assert_eq!(tail, expected);
    let lines = reader.join().expect("all lines");
    assert!(lines.iter().enumerate().all(|(n, line)| *line == format!("line {n}\n")));
}

#[tokio::test]
async fn one_that_prints_without_end_while_nobody_reads_starves_nobody() {
    let (relay, mut out, _err) = relay(LONG);
    let mut endless = start(&relay, 1, "exec yes endless");
    // Wait until stdout is full: soon after, the relay holds as much as it may, and no reader makes room.
    let deadline = std::time::Instant::now() + LONG;
    let has_room = || {
        let mut fds = [PollFd::new(&relay.sinks.0, PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll") == 1
    };
    while has_room() {
        assert!(std::time::Instant::now() < deadline, "stdout is never full");
        std::thread::yield_now();
    }
    let mut neighbour = start(&relay, 2, "echo last words; exit 1");
    neighbour.wait().expect("our child");
    assert_eq!(relay.tail(2).await.lines(), ["last words"]);
    assert_eq!(relay.tail(1).await.lines()[0], "endless");
    assert!(!relay.flush(Duration::from_millis(10)), "nobody reads");
    // The test reads again: the neighbour's line comes among the others.
    let mut lines = 0;
    while line(&mut out) != "last words\n" {
        lines += 1;
        assert!(lines < 5_000_000, "it never comes");
    }
    endless.kill().expect("our child");
    endless.wait().expect("our child");
}

#[tokio::test]
async fn a_pipe_that_a_grandchild_keeps_is_closed_after_a_while() {
    let (relay, mut out, _err) = relay(Duration::from_millis(50));
    let streams = relay.open(1, "web/0").expect("streams");
    let kept = streams.stdout.try_clone().expect("a descriptor");
    drop(streams);
    relay.wake();
    rustix::io::write(&kept, b"from the grandchild\n").expect("room");
    assert_eq!(line(&mut out), "from the grandchild\n");
    relay.close(1);
    relay.wake();
    // The writer gets POLLERR once the pipe has no reader any more.
    let mut fds = [PollFd::new(&kept, PollFlags::empty())];
    assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 30, tv_nsec: 0 })).expect("poll"), 1, "it is never closed");
    assert!(fds[0].revents().contains(PollFlags::ERR));
}

#[tokio::test]
async fn what_a_grandchild_says_soon_after_is_still_passed_on() {
    let (relay, mut out, _err) = relay(LONG);
    let streams = relay.open(1, "web/0").expect("streams");
    let kept = streams.stdout.try_clone().expect("a descriptor");
    drop(streams);
    relay.close(1);
    relay.wake();
    rustix::io::write(&kept, b"late\n").expect("room");
    assert_eq!(line(&mut out), "late\n");
    assert_eq!(relay.tail(1).await.lines(), Vec::<String>::new(), "but kept for nobody");
}

#[tokio::test]
async fn without_a_reader_workers_go_on_and_their_lines_are_kept() {
    let (relay, out, err) = relay(LONG);
    drop((out, err));
    let mut child = start(&relay, 1, "yes | head -c 1000000; echo done");
    assert!(child.wait().expect("our child").success(), "it was not stopped by a full pipe or SIGPIPE");
    assert_eq!(relay.tail(1).await.lines().last().map(String::as_str), Some("done"));
    assert!(relay.flush(LONG));
}

#[tokio::test]
async fn lines_that_are_too_long_are_broken() {
    let (relay, mut out, _err) = relay(LONG);
    let mut child = start(&relay, 1, "head -c 100000 /dev/zero | tr '\\0' x; echo; echo next");
    let lengths: Vec<usize> = (0..3).map(|_| line(&mut out).len() - 1).collect();
    assert_eq!(lengths, [49152, 49152, 100_000 - 2 * 49152]);
    assert_eq!(line(&mut out), "next\n");
    child.wait().expect("our child");
    assert!(relay.tail(1).await.lines().iter().all(|line| line.len() <= super::super::TAIL_LINE_MAX));
}

#[tokio::test]
async fn stdout_and_stderr_that_are_one_keep_their_order() {
    let (out, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let relay = Relay::new(stdout.as_fd(), stdout.as_fd()).expect("a relay");
    let mut out = BufReader::new(File::from(out));
    let mut child = start(&relay, 1, "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done");
    for n in 1..=5 {
        assert_eq!((line(&mut out), line(&mut out)), (format!("out {n}\n"), format!("err {n}\n")));
    }
    child.wait().expect("our child");
}

#[tokio::test]
async fn a_terminal_shows_whose_line_it_is() {
    let controller = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).expect("a pty");
    rustix::pty::unlockpt(&controller).expect("a pty");
    let name = rustix::pty::ptsname(&controller, Vec::new()).expect("a pty");
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).expect("a pty");
    let relay = Relay::new(terminal.as_fd(), terminal.as_fd()).expect("a relay");
    let mut screen = BufReader::new(File::from(controller));
    let mut child = start(&relay, 1, "echo hello");
    assert_eq!(line(&mut screen), "web/3: hello\r\n");
    child.wait().expect("our child");
}

#[test]
fn the_thread_ends_with_the_relay() {
    let (relay, mut out, _err) = relay(LONG);
    let mut child = start(&relay, 1, "echo hello");
    assert_eq!(line(&mut out), "hello\n");
    child.wait().expect("our child");
    drop(relay);
    // The end of file: the thread has closed its copy.
    assert_eq!(line(&mut out), "");
}

#[tokio::test]
async fn another_relay_goes_on_with_no_line_lost_and_none_twice() {
    let (first, out, _err) = relay(LONG);
    let reader = std::thread::spawn(move || {
        let mut numbers = Vec::new();
        for line in out.lines() {
            match line.expect("text").as_str() {
                "end" => return numbers,
                number => numbers.push(number.parse::<u32>().expect("a number")),
            }
        }
        panic!("no end: {} lines", numbers.len());
    });
    let script = "i=0; while [ $i -lt 3000 ]; do printf $i; printf '\\n'; i=$((i+1)); done; echo end";
    let mut child = start(&first, 1, script);
    let mut relay = first;
    for _ in 0..5 {
        let mut handed = relay.hand_over().await.expect("it ends");
        relay.late(&mut handed);
        let tails = relay.tails();
        let (out, err) = (relay.sinks.0.try_clone().unwrap(), relay.sinks.1.as_ref().unwrap().try_clone().unwrap());
        drop(relay);
        relay = Relay::with_grace(out.as_fd(), err.as_fd(), LONG).expect("a relay");
        relay.take_over(handed, tails);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(child.wait().expect("our child").success());
    assert_eq!(relay.tail(1).await.lines().last().map(String::as_str), Some("end"));
    assert_eq!(reader.join().expect("the reader"), (0..3000).collect::<Vec<_>>());
    // The relay also serves a pipe that it opens itself, and can hand over and take over again.
    let mut handed = relay.hand_over().await.expect("it ends");
    let mut other = start(&relay, 2, "echo late");
    relay.late(&mut handed);
    assert_eq!(handed.pipes.iter().filter(|pipe| pipe.worker == 2).count(), 2);
    relay.take_over(handed, Vec::new());
    assert!(other.wait().expect("our child").success());
    assert_eq!(relay.tail(2).await.lines(), ["late"]);
}

#[tokio::test]
async fn relay_to_the_journal_names_the_worker_and_keeps_its_lines() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("socket");
    let journald = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    journald.set_read_timeout(Some(LONG)).expect("a socket");
    let relay = Relay::to_journal(&path, "web").expect("a relay");
    let mut child = start(&relay, 17, "echo to stdout; echo '<3>to stderr' >&2; exit 3");
    assert_eq!(child.wait().expect("our child").code(), Some(3));
    assert_eq!(relay.tail(17).await.lines(), ["to stdout", "to stderr"]);
    for (priority, message) in [(6, "to stdout"), (3, "to stderr")] {
        let mut buffer = [0; 4096];
        let length = journald.recv(&mut buffer).expect("an entry");
        let fields = "RATOON_INSTANCE=web\nSYSLOG_IDENTIFIER=web/3\nRATOON_SLOT=3\nRATOON_WORKER=17";
        let entry = format!("PRIORITY={priority}\n{fields}\nMESSAGE={message}\n");
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), entry);
    }
}
