//! `ratoon top` on a real terminal: what a person sees and does, and how the terminal is left.

use std::process::{Command, Stdio};

use ratoon::api::Change;
use ratoon::pool::{Phase, PoolState};
use ratoon::status::tree::Document;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::fake::{Fake, within, worker};
use crate::pty::OnTerminal;

const RATOON: &str = env!("CARGO_BIN_EXE_ratoon");

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(RATOON);
    command.args(arguments).env("TERM", "xterm-256color").env("TZ", "UTC");
    for name in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "RATOON_CONTROL", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

fn top(fake: &Fake) -> OnTerminal {
    OnTerminal::start(&mut command(&["top", "--control", fake.control.to_str().unwrap()]), 130, 30)
}

fn serving() -> Document {
    serde_json::from_str(include_str!("../../src/cli/recorded/serving.json")).unwrap()
}

/// The pool of the recorded document, served by a runtime of its own, since the test itself waits for the screen.
fn pool(document: Document) -> (tokio::runtime::Runtime, Fake) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fake = runtime.block_on(async { Fake::start() });
    *fake.document.lock().unwrap() = document;
    (runtime, fake)
}

fn signal(top: &OnTerminal, signal: Signal) {
    kill_process(Pid::from_raw(top.pid().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_person_sees_the_pool_turns_pages_and_leaves() {
    let (_runtime, fake) = pool(serving());
    let mut top = top(&fake);
    top.wait_for("q quit");
    // What the fake's events tell at first is another pool's; the document comes a moment later.
    for text in ["web running, generation 7, 3/3 ready", "gen 7     serving R R R", "SLOT▲", "5001", "warm"] {
        top.wait_for(text);
    }
    assert!(!top.is_given_back(), "it is ours now");

    // A figure that grows has a rate.
    fake.document.lock().unwrap().workers[0].requests = Some(2_200_000);
    top.wait("a rate", |shown| {
        shown.lines().any(|line| line.contains("5001") && !line.contains(" 0  2.2M") && line.contains("2.2M"))
    });

    // The order.
    let order = |shown: &str| {
        let row = |pid: &str| shown.lines().position(|line| line.contains(pid));
        (row("5001"), row("5002"))
    };
    top.press("m");
    top.wait("the largest first", |shown| shown.contains("MEM▼") && matches!(order(shown), (Some(one), Some(two)) if two < one));
    top.press("s");
    top.wait("by slot", |shown| shown.contains("SLOT▲") && matches!(order(shown), (Some(one), Some(two)) if one < two));

    // What a worker serves; text of a client's cannot steer the terminal.
    top.press("\r");
    top.wait_for("/report/17?\\u{1b}[2Jx=1");
    top.press("\x1b[B\x1b");
    top.wait_for("SLOT▲");
    top.press("a");
    top.wait_for("3 requests in work");
    top.press("f");
    top.wait_for("signal SIGSEGV (core dumped)");

    // In a smaller window, columns go; what stood beyond its edge is drawn anew.
    top.press("f");
    top.wait_for("STATUS");
    top.resize(70, 20);
    top.wait("fewer columns", |shown| shown.contains("REQS") && !shown.contains("STATUS"));

    top.press("q");
    assert_eq!(top.end().code(), Some(0));
    top.wait_until_given_back();
    assert_eq!(top.shown().trim(), "", "nothing of it is left");
}

#[test]
fn top_counts_connections_that_have_no_room_on_a_page() {
    let mut document = serving();
    (document.workers[0].unlisted_connections, document.workers[1].unlisted_connections) = (Some(1_100), Some(100));
    document.failures[0].serving_unlisted = 7;
    let (_runtime, fake) = pool(document);
    let mut top = top(&fake);
    top.wait_for("web running, generation 7, 3/3 ready");
    top.press("a");
    top.wait_for("1200 more connections have no room on the workers' pages");
    top.press("a\r");
    top.wait_for("1100 more connections have no room on the workers' pages");
    top.press("\x1bf");
    top.wait_for("while serving 7 more requests that its page had no room for");
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
}

#[test]
fn a_reload_is_seen_as_it_goes_on() {
    let (_runtime, fake) = pool(serving());
    let mut top = top(&fake);
    top.wait_for("gen 7     serving R R R");
    // The stream of events is open when one of them is seen.
    top.wait("events", |shown| {
        let _ = fake.changes.send(Change::Worker(worker(5, 0, 7, Phase::Draining)));
        shown.contains("gen 7     serving d R R")
    });
    fake.summary.send_modify(|summary| {
        (summary.state, summary.workers_configured, summary.workers_ready) = (PoolState::Reloading, 3, 3);
    });
    fake.document.lock().unwrap().state = "reloading".into();
    fake.changes.send(Change::ReloadStarted { generation: 8 }).unwrap();
    let mut new = serving().workers[2].clone();
    (new.id, new.slot, new.generation, new.state) = (9, 1, 8, "starting".into());
    fake.document.lock().unwrap().workers.push(new);
    fake.changes.send(Change::Worker(worker(9, 1, 8, Phase::Starting))).unwrap();
    let wanted = [
        "gen 7     serving R R R",
        "gen 8     new     . s .",
        "reloading to generation 8 [....................] 0/3 ready",
        "generation 7, serving: 3 ready",
        "generation 8, new: 1 starting",
    ];
    top.wait("both generations, side by side", |shown| wanted.iter().all(|text| shown.contains(text)));
    top.press("\x03");
    assert_eq!(top.end().code(), Some(0), "Ctrl-C leaves");
    top.wait_until_given_back();
}

#[test]
fn a_master_that_goes_away_is_shown_and_found_again() {
    let (runtime, fake) = pool(serving());
    let mut top = top(&fake);
    top.wait_for("3/3 ready");
    let place = runtime.block_on(async { fake.end().await });
    let shown = top.wait_for("MASTER GONE");
    assert!(shown.contains("5001"), "what was known stays\n{shown}");
    let fake = runtime.block_on(async { Fake::start_again(place) });
    *fake.document.lock().unwrap() = Document { instance: "reborn".into(), ..serving() };
    top.wait("the new master", |shown| shown.contains("reborn running") && !shown.contains("MASTER GONE"));
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
}

#[test]
fn signals_end_it_and_the_terminal_is_given_back() {
    let (_runtime, fake) = pool(serving());
    for (which, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let mut top = top(&fake);
        top.wait_for("q quit");
        signal(&top, which);
        assert_eq!(top.end().code(), Some(code), "{which:?}");
        top.wait_until_given_back();
    }
}

#[test]
fn who_was_stopped_goes_on_where_it_was() {
    let (_runtime, fake) = pool(serving());
    let mut top = top(&fake);
    top.wait_for("q quit");
    // A shell has put it aside, and somebody else has drawn on the terminal meanwhile.
    signal(&top, Signal::STOP);
    let pid = Pid::from_raw(top.pid().try_into().unwrap());
    waitpid(pid, WaitOptions::UNTRACED).unwrap();
    top.print("\x1b[2J\x1b[?1049l\x1b[?25h$ ls");
    top.wait("a shell's screen", |shown| shown.contains("$ ls") && !shown.contains("SLOT"));
    signal(&top, Signal::CONT);
    top.wait("the pool again", |shown| shown.contains("SLOT▲") && shown.contains("3/3 ready") && !shown.contains("$ ls"));
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
    top.wait_until_given_back();
}

#[tokio::test]
async fn without_a_terminal_or_a_master_it_says_so() {
    let run = |mut command: Command| async move {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = within(tokio::task::spawn_blocking(move || child.wait_with_output())).await.unwrap().unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    let fake = Fake::start();
    let (code, out, err) = run(command(&["top", "--control", fake.control.to_str().unwrap()])).await;
    assert_eq!((code, out.len()), (Some(2), 0), "{err}");
    assert!(err.contains("standard output is none") && err.contains("ratoon status"), "{err}");

    let (code, shown) = within(tokio::task::spawn_blocking(|| {
        let mut top = OnTerminal::start(&mut command(&["top", "--control", "/nonexistent/control"]), 80, 10);
        let code = top.end().code();
        (code, top.wait_for("no instance listens at"))
    }))
    .await
    .unwrap();
    assert_eq!(code, Some(2), "{shown}");

    let dumb = tokio::task::spawn_blocking(|| {
        let mut top = OnTerminal::start(command(&["top", "--control", "/nonexistent/control"]).env("TERM", "dumb"), 80, 10);
        let code = top.end().code();
        (code, top.wait_for("TERM says"))
    });
    assert_eq!(within(dumb).await.unwrap().0, Some(2));
}
