//! Tests of the streams with a journald of their own, and of the queries with a journalctl of their own.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;
use crate::sys::process::Stat;

fn program(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("journalctl");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a file");
    path
}

#[test]
fn a_worker_gets_a_stream_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("stdout");
    let journald = UnixListener::bind(&path).expect("a socket");
    let streams = stream::Streams::new(path);
    let fds = streams.open(1, "web/3").expect("streams");
    let (accepted, _) = journald.accept().expect("a connection");

    let stat = rustix::fs::fstat(&fds.stderr).expect("a socket");
    assert_eq!(fds.journal_stream, Some(format!("{}:{}", stat.st_dev, stat.st_ino)));
    for fd in [&fds.stdout, &fds.stderr] {
        assert!(
            !rustix::fs::fcntl_getfl(fd).expect("a socket").contains(rustix::fs::OFlags::NONBLOCK),
            "programs want a blocking one"
        );
        assert!(rustix::io::fcntl_getfd(fd).expect("a socket").contains(rustix::io::FdFlags::CLOEXEC));
    }
    let mut child =
        Command::new("sh").args(["-c", "echo out; echo '<3>err' >&2"]).stdout(fds.stdout).stderr(fds.stderr).spawn().expect("sh");
    child.wait().expect("our child");
    // The stream ends when the last copy of the master is closed.
    streams.close(1);
    let mut text = String::new();
    BufReader::new(accepted).read_to_string(&mut text).expect("UTF-8");
    assert_eq!(text, "web/3\n\n6\n1\n0\n0\n0\nout\n<3>err\n");
}

#[test]
fn a_name_cannot_add_a_header_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("stdout");
    let journald = UnixListener::bind(&path).expect("a socket");
    let streams = stream::Streams::new(path);
    let _fds = streams.open(1, "web\n/3").expect("streams");
    let mut lines = BufReader::new(journald.accept().expect("a connection").0).lines();
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), "web_/3");
}

#[test]
fn a_journald_that_is_absent_or_does_not_accept_costs_only_the_stream() {
    let dir = tempfile::tempdir().expect("a directory");
    let absent = stream::Streams::new(dir.path().join("none"));
    let ours = rustix::fs::fstat(std::io::stderr().as_fd()).expect("stderr");
    let fds = absent.open(1, "web/0").expect("our own stderr");
    let got = rustix::fs::fstat(&fds.stdout).expect("stderr");
    assert_eq!((got.st_dev, got.st_ino), (ours.st_dev, ours.st_ino));
    assert_eq!(fds.journal_stream, None);

    // A journald that accepts no connection: the backlog fills up, and `open` must not wait.
    let path = dir.path().join("full");
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).expect("a socket");
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).expect("short")).expect("bound");
    rustix::net::listen(&socket, 2).expect("listening");
    let hung = stream::Streams::new(path);
    let all: Vec<Streams> = (0..20).map(|worker| hung.open(worker, "web/0").expect("streams")).collect();
    assert!(all[0].journal_stream.is_some());
    assert!(all[19].journal_stream.is_none());
}

#[tokio::test]
async fn journald_is_asked_once_it_has_read_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("stdout");
    let journald = UnixListener::bind(&path).expect("a socket");
    let streams = stream::Streams::new(path);
    drop(streams.open(7, "web/3").expect("streams"));
    let (mut accepted, _) = journald.accept().expect("a connection");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        accepted.read_to_string(&mut text).expect("UTF-8");
        text
    });
    // The journal of this machine has no lines of this process. The test checks that the call returns, and that the stream has
    // ended.
    streams.tail(7, std::process::id(), None, SystemTime::now()).await.lines();
    assert!(reader.join().expect("the end of the stream").starts_with("web/3\n"));
    assert_eq!(streams.tail(7, 0, None, SystemTime::now()).await.lines(), Vec::<String>::new());
}

#[test]
fn journalctl_is_asked_for_the_process_and_its_group_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
    // A query by the identifier would also find lines of the other worker of the slot.
    let script = format!(
        "echo \"$@\" >> {0}; case \"$*\" in *SYSLOG_IDENTIFIER*) echo of another worker;; *PID=4711*) printf '\\033[1mtwo\\n\\n'; echo one; esac",
        log.display()
    );
    let path = program(dir.path(), &script);
    let group = Path::new("/sys/fs/cgroup/system.slice/web.service/w-7");
    assert_eq!(ask::journalctl(path.as_os_str(), 4711, Some(group), since).lines(), ["one", "two"]);
    let asked = std::fs::read_to_string(&log).expect("a log");
    let common = "--quiet --no-pager --reverse --lines=30 --output=cat --since=@1700000000.900000";
    let own = "_TRANSPORT=stdout _PID=4711";
    let of_group = "_TRANSPORT=stdout _SYSTEMD_CGROUP=/system.slice/web.service/w-7";
    assert_eq!(asked, format!("{common} {own} + {of_group}\n"));
    // A worker that printed nothing has no lines, even if others printed.
    std::fs::write(&log, "").expect("a log");
    assert_eq!(ask::journalctl(path.as_os_str(), 1, None, since).lines(), Vec::<String>::new());
    let asked = std::fs::read_to_string(&log).expect("a log");
    assert_eq!(asked, format!("{common} _TRANSPORT=stdout _PID=1\n"));
}

#[test]
fn a_journalctl_that_hangs_or_says_too_much_or_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(ask::journalctl(dir.path().join("none").as_os_str(), 1, None, SystemTime::now()).lines(), Vec::<String>::new());

    let pid_file = dir.path().join("pid");
    let hangs = program(dir.path(), &format!("echo $$ > {}; echo first; exec sleep 1000", pid_file.display()));
    let began = Instant::now();
    let lines = ask::journalctl(hangs.as_os_str(), 1, None, SystemTime::now());
    assert_eq!(lines.tail, ["first"]);
    assert!(began.elapsed() < Duration::from_secs(60));
    let pid: u32 = std::fs::read_to_string(&pid_file).expect("a pid").trim().parse().expect("a number");
    assert!(Stat::read(pid).is_none_or(|stat| stat.parent != std::process::id()), "it was killed and reaped");

    let endless = program(dir.path(), "exec yes endless");
    let lines = ask::journalctl(endless.as_os_str(), 1, None, SystemTime::now());
    assert_eq!((lines.head.len(), lines.tail.len()), (HEAD_LINES, TAIL_LINES));
}

#[test]
fn journalctl_gives_first_and_last_lines_of_long_output() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = "case \"$*\" in *--reverse*) seq 500 -1 471;; *) seq 1 500; sleep 1000;; esac";
    let path = program(dir.path(), script);
    let printed = ask::journalctl(path.as_os_str(), 1, None, SystemTime::now());
    let expected: Vec<String> = (1..=10).chain(481..=500).map(|n: u32| n.to_string()).collect();
    assert_eq!(printed.lines(), expected);
    assert_eq!(printed.tail.len(), TAIL_LINES);
}

#[tokio::test]
async fn the_whole_way_for_a_terminal() {
    // The test's own stdout and stderr stand for the master's.
    let outputs = Outputs::new(Mode::Relay, "web", false);
    let streams = outputs.open(1, 0).expect("streams");
    let mut child =
        Command::new("sh").args(["-c", "echo last words"]).stdout(streams.stdout).stderr(Stdio::null()).spawn().expect("sh");
    drop(streams.stderr);
    child.wait().expect("our child");
    assert_eq!(outputs.tail(1, child.id(), None, SystemTime::now()).await.lines(), ["last words"]);
    outputs.close(1);
    assert!(outputs.flush(Duration::from_secs(30)));
}

#[test]
fn mode_is_native_for_a_master_that_cannot_read_the_journal() {
    assert_eq!(Mode::of(Target::Journal, 0), Mode::Journal);
    assert_eq!(Mode::of(Target::Journal, 1000), Mode::Native);
    assert_eq!(Mode::of(Target::Stderr, 1000), Mode::Relay);
}

#[test]
fn worker_never_gets_a_dead_stream() {
    let (near, far) = std::os::unix::net::UnixStream::pair().expect("a pair");
    drop(far);
    let streams = alive(near.as_fd()).expect("streams");
    for fd in [&streams.stdout, &streams.stderr] {
        assert_eq!(rustix::io::write(fd, b"line\n"), Ok(5));
    }
    assert_eq!(streams.journal_stream, None);
}
