//! The `ratoon` program's asking verbs: what they print where, and how they exit.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ratoon::api::{Change, ReloadAnswer, Reply, Request};
use ratoon::pool::{Outcome, Phase};
use ratoon::status::tree::{Document, Failure, Worker};
use rustix::process::{Pid, Signal, kill_process};

use crate::fake::{Fake, within, worker};

/// The program in an environment that names no instance.
fn ratoon(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratoon"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "RATOON_CONTROL", "NO_COLOR"] {
        command.env_remove(name);
    }
    command.env("TZ", "UTC").env("TERM", "xterm");
    command
}

fn with_control(fake: &Fake, verb: &str, arguments: &[&str]) -> Command {
    let control = fake.control.to_str().unwrap();
    ratoon(&[&[verb, "--control", control], arguments].concat())
}

struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

async fn end(child: Child) -> Ended {
    let output = within(tokio::task::spawn_blocking(move || child.wait_with_output())).await.unwrap();
    let Output { status, stdout, stderr } = output.unwrap();
    Ended { status: status.code(), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
}

async fn run(mut command: Command) -> Ended {
    end(command.spawn().unwrap()).await
}

fn finish(fake: &Fake, reply: tokio::sync::oneshot::Sender<Reply>, outcome: Outcome, reason: &str) {
    let answer = ReloadAnswer::new(8, outcome, reason);
    fake.changes.send(Change::ReloadFinished { generation: 8, outcome, reason: reason.into() }).unwrap();
    reply.send(Reply::Reload(answer)).unwrap();
}

#[tokio::test]
async fn reload_prints_a_line_a_change_and_ends_with_the_outcome() {
    let mut fake = Fake::start();
    let child = with_control(&fake, "reload", &[]).spawn().unwrap();
    let asked = fake.next_ask().await;
    assert_eq!(asked.ask, Request::Reload);
    for change in [
        Change::ReloadStarted { generation: 8 },
        Change::Worker(worker(11, 0, 8, Phase::Starting)),
        Change::Worker(worker(11, 0, 8, Phase::Ready)),
    ] {
        fake.changes.send(change).unwrap();
    }
    fake.summary.send_modify(|summary| summary.generation = 8);
    finish(&fake, asked.reply.unwrap(), Outcome::Committed, "");
    let ended = end(child).await;
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    let lines = ended.out.lines().map(without_figures).collect::<Vec<_>>();
    let expected = [
        "reloading to generation 8",
        "worker 11 (slot 0, pid 4011): starting",
        "worker 11 (slot 0, pid 4011): ready after # s",
        "generation 8 is serving: 4/4 ready after # s",
    ];
    assert_eq!(lines, expected);
    assert_eq!(ended.err, "");
}

/// A time that was measured is not the test's business.
fn without_figures(line: &str) -> String {
    match line.rsplit_once(" after ") {
        Some((before, _)) => format!("{before} after # s"),
        None => line.to_owned(),
    }
}

#[tokio::test]
async fn a_failed_reload_shows_why_and_what_the_worker_printed() {
    let mut fake = Fake::start();
    fake.document.lock().unwrap().failures = vec![Failure {
        worker: 12,
        slot: 2,
        generation: 8,
        how: "exit 1".into(),
        log_tail: vec!["Traceback".into(), "KeyError: \x1b[31mDATABASE_URL".into()],
        ..Failure::default()
    }];
    let child = with_control(&fake, "reload", &[]).spawn().unwrap();
    let reply = fake.next_ask().await.reply.unwrap();
    finish(&fake, reply, Outcome::RolledBack, "worker 12 (slot 2): exit 1");
    let ended = end(child).await;
    assert_eq!(ended.status, Some(1));
    let expected = "reload to generation 8 rolled back: worker 12 (slot 2): exit 1\n    | Traceback\n    \
                    | KeyError: \\u{1b}[31mDATABASE_URL\n";
    assert_eq!(ended.err, expected);
    assert_eq!(ended.out, "");
}

#[tokio::test]
async fn a_refused_or_aborted_reload_exits_1_too() {
    let mut fake = Fake::start();
    for (outcome, shown) in [(Outcome::Refused, "refused: line 3: no"), (Outcome::Aborted, "aborted: line 3: no")] {
        let child = with_control(&fake, "reload", &[]).spawn().unwrap();
        let reply = fake.next_ask().await.reply.unwrap();
        finish(&fake, reply, outcome, "line 3: no");
        let ended = end(child).await;
        assert_eq!((ended.status, ended.err), (Some(1), format!("reload to generation 8 {shown}\n")));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[tokio::test]
async fn a_reload_whose_client_is_killed_is_withdrawn() {
    let mut fake = Fake::start();
    let mut child = with_control(&fake, "reload", &[]).spawn().unwrap();
    let asked = fake.next_ask().await;
    child.kill().unwrap();
    assert_eq!(fake.next_gone().await, asked.requester);
    child.wait().unwrap();
}

#[tokio::test]
async fn an_interrupted_reload_is_withdrawn_and_says_so() {
    let mut fake = Fake::start();
    for which in [Signal::INT, Signal::TERM] {
        let child = with_control(&fake, "reload", &[]).spawn().unwrap();
        let asked = fake.next_ask().await;
        signal(&child, which);
        assert_eq!(fake.next_gone().await, asked.requester);
        let ended = end(child).await;
        assert_eq!(ended.status, Some(1));
        assert!(ended.err.contains("withdrawn") && ended.err.contains("generation 7 serves on"), "{}", ended.err);
    }
}

#[tokio::test]
async fn a_reload_whose_output_nobody_reads_still_runs_to_its_end() {
    let mut fake = Fake::start();
    let mut child = with_control(&fake, "reload", &[]).spawn().unwrap();
    drop(child.stdout.take());
    let reply = fake.next_ask().await.reply.unwrap();
    for id in 0..100 {
        fake.changes.send(Change::Worker(worker(id, 0, 8, Phase::Starting))).unwrap();
    }
    finish(&fake, reply, Outcome::Committed, "");
    let ended = end(child).await;
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""));
    assert!(fake.gone.try_recv().is_err());
}

#[tokio::test]
async fn status_exits_by_readiness_and_quietly_into_a_closed_pipe() {
    let fake = Fake::start();
    *fake.document.lock().unwrap() = Document {
        instance: "web".into(),
        state: "running".into(),
        generation: 7,
        workers_configured: 1,
        workers_ready: 1,
        workers: vec![Worker { id: 3, pid: Some(77), state: "ready".into(), generation: 7, ..Worker::default() }],
        ..Document::default()
    };
    let ended = run(with_control(&fake, "status", &[])).await;
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    assert!(ended.out.starts_with("web running, generation 7, 1/1 ready\n"), "{}", ended.out);
    assert!(!ended.out.contains('\x1b'), "{}", ended.out);

    let ended = run(with_control(&fake, "status", &["--json"])).await;
    let document: Document = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(document, *fake.document.lock().unwrap());
    assert!(ended.out.starts_with("{\n  \"instance\": \"web\",\n"), "{}", ended.out);

    fake.document.lock().unwrap().workers_ready = 0;
    assert_eq!(run(with_control(&fake, "status", &[])).await.status, Some(1));
    assert_eq!(run(with_control(&fake, "status", &["--json"])).await.status, Some(1));

    let mut child = with_control(&fake, "status", &["--json"]).spawn().unwrap();
    drop(child.stdout.take());
    let ended = end(child).await;
    assert_eq!((ended.status, ended.err.as_str()), (Some(1), ""));
}

#[tokio::test]
async fn changes_exit_0_when_done_and_1_with_the_reason_when_not() {
    let mut fake = Fake::start();
    let table: [(&str, &[&str], Request, &str); 9] = [
        ("abort", &[], Request::Abort, "the reload is rolled back\n"),
        ("promote", &[], Request::Promote, "the canary is promoted: the reload goes on with its next step\n"),
        ("scale", &["6"], Request::Scale(6), "6 workers from now on\n"),
        ("scale", &["auto"], Request::ScaleAuto, "as many workers as the configuration says from now on\n"),
        ("pause", &[], Request::Pause(None), "paused: all workers are gone, and connections wait until `ratoon resume`\n"),
        (
            "pause",
            &["--for", "30s"],
            Request::Pause(Some(Duration::from_secs(30))),
            "paused: all workers are gone, and connections wait until the time is over, or `ratoon resume`\n",
        ),
        ("resume", &[], Request::Resume, "resumed: the workers start\n"),
        ("recycle", &[], Request::Recycle(None), "all workers are being replaced\n"),
        ("recycle", &["12"], Request::Recycle(Some(12)), "worker 12 is being replaced\n"),
    ];
    for (verb, arguments, ask, done) in table {
        for (reply, status, out, err) in [
            (Reply::Done, 0, done, ""),
            (Reply::Failed("no reload is under way".into()), 1, "", "ratoon: no reload is under way\n"),
        ] {
            let child = with_control(&fake, verb, arguments).spawn().unwrap();
            let asked = fake.next_ask().await;
            assert_eq!(asked.ask, ask);
            asked.reply.unwrap().send(reply).unwrap();
            let ended = end(child).await;
            assert_eq!((ended.status, ended.out.as_str(), ended.err.as_str()), (Some(status), out, err), "{verb}");
        }
    }
}

#[tokio::test]
async fn upgrade_asks_the_master_again_before_it_says_done() {
    let mut fake = Fake::start();
    // This one says that it is done, and is the same program as before.
    for (reply, reason) in [(Reply::Done, "keeps its program"), (Reply::Failed("exit 1: no".into()), "exit 1: no")] {
        let child = with_control(&fake, "upgrade", &[]).spawn().unwrap();
        let asked = fake.next_ask().await;
        assert_eq!(asked.ask, Request::Upgrade);
        asked.reply.unwrap().send(reply).unwrap();
        let ended = end(child).await;
        assert_eq!((ended.status, ended.out.as_str()), (Some(1), ""), "{}", ended.err);
        assert!(ended.err.contains(reason), "{}", ended.err);
    }
}

#[tokio::test]
async fn usage_errors_exit_2() {
    let table: &[&[&str]] = &[
        &[],
        &["nothing"],
        &["reload", "a", "b"],
        &["reload", "--bogus"],
        &["reload", "web", "--control", "/x"],
        &["scale"],
        &["scale", "web"],
        &["scale", "0"],
        &["scale", "-1"],
        &["scale", "100000"],
        &["recycle", "web", "x"],
        &["status", "../x"],
        &["check"],
    ];
    for arguments in table {
        let ended = run(ratoon(arguments)).await;
        assert_eq!(ended.status, Some(2), "{arguments:?}: {}", ended.out);
        assert!(!ended.err.is_empty(), "{arguments:?}");
    }
    for arguments in [["--version"].as_slice(), &["--help"], &["reload", "--help"]] {
        let ended = run(ratoon(arguments)).await;
        assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_exits_2_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let dead = directory.path().join("control");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let missing = directory.path().join("missing");
    for verb in ["reload", "abort", "status", "recycle", "upgrade"] {
        for (path, words) in [(&dead, "is dead"), (&missing, "no such socket")] {
            let ended = run(ratoon(&[verb, "--control", path.to_str().unwrap()])).await;
            assert_eq!(ended.status, Some(2), "{verb}");
            assert!(ended.err.contains(words) && ended.err.starts_with("ratoon: "), "{verb}: {}", ended.err);
        }
    }
    let ended = run(ratoon(&["status", "no-instance-has-this-name"])).await;
    assert_eq!(ended.status, Some(2));
    assert!(ended.err.contains("no instance \"no-instance-has-this-name\" runs here; "), "{}", ended.err);
}

/// Puts the fake's socket where the instance `name` of a user's session has it.
fn publish(fake: &Fake, name: &str) -> PathBuf {
    let session = fake.directory.path().join("session");
    let directory = session.join("ratoon").join(name);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::hard_link(&fake.control, directory.join("control")).unwrap();
    session
}

fn in_session(session: &Path, arguments: &[&str]) -> Command {
    let mut command = ratoon(arguments);
    command.env("XDG_RUNTIME_DIR", session);
    command
}

#[tokio::test]
async fn an_instance_is_found_by_its_name_and_by_the_environment() {
    let fake = Fake::start();
    let session = publish(&fake, "test-of-names");
    let ended = run(in_session(&session, &["status", "test-of-names"])).await;
    assert_eq!(ended.status, Some(0), "{}", ended.err);

    let mut in_unit = ratoon(&["status"]);
    in_unit.env("RUNTIME_DIRECTORY", fake.directory.path());
    assert_eq!(run(in_unit).await.status, Some(0));

    let mut in_worker = ratoon(&["status"]);
    in_worker.env("RATOON_CONTROL", &fake.control).env("RUNTIME_DIRECTORY", "/nowhere");
    assert_eq!(run(in_worker).await.status, Some(0));
}

#[tokio::test]
async fn list_shows_the_living_and_the_dead() {
    let fake = Fake::start();
    let session = publish(&fake, "test-alive");
    let dead = session.join("ratoon/test-dead");
    std::fs::create_dir_all(&dead).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dead.join("control")).unwrap());
    let ended = run(in_session(&session, &["list"])).await;
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    let fields = |name: &str| {
        let line = ended.out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {}", ended.out));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(fields("NAME"), ["NAME", "STATE", "GENERATION", "READY", "PID", "CONTROL"]);
    let own = std::process::id().to_string();
    let control = session.join("ratoon/test-alive/control");
    assert_eq!(fields("test-alive"), ["test-alive", "running", "7", "4/4", &own, control.to_str().unwrap()]);
    assert_eq!(fields("test-dead")[..5], ["test-dead", "dead", "-", "-", "-"]);
}

/// The program on a terminal of its own; `script` makes one, of 80 by 24.
fn on_terminal(fake: &Fake, verb: &str) -> Command {
    let mut command = Command::new("script");
    let call = format!("stty rows 24 cols 80; exec {} {verb} --control {}", env!("CARGO_BIN_EXE_ratoon"), fake.control.display());
    command.args(["-qefc", &call, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("NO_COLOR").env("TERM", "xterm").env("TZ", "UTC");
    command
}

#[tokio::test]
async fn a_terminal_gets_colours_unless_unwanted_and_lines_that_fit() {
    let fake = Fake::start();
    *fake.document.lock().unwrap() = Document {
        instance: "web".into(),
        state: "running".into(),
        workers_ready: 1,
        workers: vec![Worker { state: "ready".into(), status: Some("words ".repeat(50)), ..Worker::default() }],
        ..Document::default()
    };
    let ended = run(on_terminal(&fake, "status")).await;
    assert_eq!(ended.status, Some(0), "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("\x1b[32mready\x1b[0m"), "{}", ended.out);
    let mut command = on_terminal(&fake, "status");
    command.env("NO_COLOR", "1");
    let ended = run(command).await;
    assert!(!ended.out.contains('\x1b'), "{}", ended.out);
    let widest = ended.out.lines().map(|line| line.trim_end().chars().count()).max();
    assert_eq!(widest, Some(80), "{}", ended.out);
}

#[tokio::test]
async fn on_a_terminal_the_progress_is_drawn_in_place() {
    let mut fake = Fake::start();
    let child = on_terminal(&fake, "reload").spawn().unwrap();
    let asked = fake.next_ask().await;
    for change in [
        Change::ReloadStarted { generation: 8 },
        Change::Worker(worker(11, 0, 8, Phase::Starting)),
        Change::Worker(worker(12, 1, 8, Phase::Starting)),
        Change::Worker(worker(12, 1, 8, Phase::Ready)),
        Change::Worker(worker(11, 0, 8, Phase::Ready)),
    ] {
        fake.changes.send(change).unwrap();
    }
    fake.summary.send_modify(|summary| summary.generation = 8);
    finish(&fake, asked.reply.unwrap(), Outcome::Committed, "");
    let ended = end(child).await;
    assert_eq!(ended.status, Some(0), "{}", ended.out);
    let screen = screen_after(&ended.out);
    let expected = [
        "reloading to generation 8: 2/2 ready, # s",
        "slot 0 worker 11 pid 4011 # s ready",
        "slot 1 worker 12 pid 4012 # s ready",
        "generation 8 is serving: 4/4 ready after # s",
    ];
    let shown = screen.iter().map(|line| times_hidden(line)).collect::<Vec<_>>();
    assert_eq!(shown, expected, "{}", ended.out);
}

/// What a terminal shows in the end: understands what the progress uses, up, clear the line, clear below.
fn screen_after(output: &str) -> Vec<String> {
    let (mut screen, mut row) = (vec![String::new()], 0_usize);
    let mut rest = output;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match character {
            '\x1b' => {
                let end = rest.find(|it: char| it.is_ascii_alphabetic()).expect("a whole sequence");
                let (number, kind) = (rest[..end].trim_start_matches('['), rest.as_bytes()[end]);
                rest = &rest[end + 1..];
                match kind {
                    b'A' => {
                        row -= number.parse::<usize>().unwrap();
                        screen[row].clear();
                    }
                    b'J' => screen.truncate(row + 1),
                    b'K' | b'm' => {}
                    other => panic!("sequence {number}{}", char::from(other)),
                }
            }
            '\n' => {
                row += 1;
                screen.resize(screen.len().max(row + 1), String::new());
                screen[row].clear();
            }
            '\r' => {}
            other => screen[row].push(other),
        }
    }
    screen.retain(|line| !line.trim().is_empty());
    screen
}

/// `0.3 s` and `31 ms` become `# s`, and blanks one blank.
fn times_hidden(line: &str) -> String {
    let words = line.split_whitespace().collect::<Vec<_>>();
    let is_unit = |word: Option<&&str>| word.is_some_and(|word| ["ms", "s", "ms,", "s,"].contains(word));
    let hidden = words.iter().enumerate().map(|(at, word)| if is_unit(words.get(at + 1)) { "#" } else { word });
    hidden.map(|word| word.replace("ms", "s")).collect::<Vec<_>>().join(" ")
}
