//! `ratoon reload` while the steps of a canary wait: on a terminal and in a pipe.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use ratoon::api::{Change, ReloadAnswer, Reply};
use ratoon::pool::{Outcome, Phase, PoolState};
use ratoon::status::tree::{Canary, GenerationFigures};
use tokio::runtime::{Builder, Runtime};

use crate::fake::{Asked, Fake, worker};
use crate::pty::OnTerminal;

fn reload(fake: &Fake) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratoon"));
    command.arg("reload").arg("--control").arg(&fake.control).env("TERM", "xterm-256color");
    for name in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "RATOON_CONTROL"] {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command
}

/// A loop on threads of its own, as the test itself waits for the screen.
fn fake() -> (Runtime, Fake) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fake = runtime.block_on(async { Fake::start() });
    (runtime, fake)
}

/// The instance reloads, and this is its canary.
fn show(fake: &Fake, canary: Option<Canary>) {
    fake.summary.send_modify(|summary| {
        summary.state = PoolState::Reloading;
        summary.canary = canary.map(Arc::new);
    });
}

fn first_step() -> Canary {
    Canary {
        generation: 8,
        step: 1,
        steps: 2,
        workers_ready: 1,
        workers: 1,
        workers_configured: 4,
        waits: true,
        left_ms: Some(3_600_000),
        ..Canary::default()
    }
}

fn judged() -> Canary {
    let figures = |requests, failed| Some(GenerationFigures { requests, failed, answer_usec: None });
    let verdict = Some("no worse than reload.judge allows".to_owned());
    Canary { old: figures(400, 0), new: figures(100, 1), verdict, ..first_step() }
}

fn second_step() -> Canary {
    Canary { step: 2, workers_ready: 2, workers: 2, manual: true, ..first_step() }
}

/// The reload begins with its first worker.
fn begin(fake: &Fake) {
    for change in [Change::ReloadStarted { generation: 8 }, Change::Worker(worker(11, 0, 8, Phase::Ready))] {
        fake.changes.send(change).unwrap();
    }
}

fn commit(fake: &Fake, asked: Asked) {
    fake.summary.send_modify(|summary| (summary.state, summary.generation, summary.canary) = (PoolState::Running, 8, None));
    fake.changes.send(Change::ReloadFinished { generation: 8, outcome: Outcome::Committed, reason: "".into() }).unwrap();
    asked.reply.unwrap().send(Reply::Reload(ReloadAnswer::new(8, Outcome::Committed, ""))).unwrap();
}

#[test]
fn terminal_shows_the_step_while_it_waits() {
    let (runtime, mut fake) = fake();
    let mut terminal = OnTerminal::start(&mut reload(&fake), 80, 24);
    let asked = runtime.block_on(fake.next_ask());
    begin(&fake);
    terminal.wait_for("reloading to generation 8: 1/1 ready");
    show(&fake, Some(first_step()));
    terminal.wait_for("  canary   step 1 of 2: 1/4 workers, ");
    assert!(!terminal.shown().contains("verdict"), "{}", terminal.shown());
    show(&fake, Some(judged()));
    terminal.wait_for(
        "  share    20% of the requests, 1 of 100 failed, 0 of 400 of generation 7\n  verdict  no worse than reload.judge",
    );
    // The time that is left goes by without a word of the master.
    terminal.wait_for(" workers, 59m ");
    show(&fake, Some(second_step()));
    let shown = terminal.wait_for("  canary   step 2 of 2: 2/4 workers, waits for ratoon promote");
    assert!(!shown.contains("20% of the requests") && shown.contains("  slot 0    worker 11 "), "{shown}");
    commit(&fake, asked);
    assert!(terminal.end().success());
    let shown = terminal.wait_for("generation 8 is serving: 4/4 ready after ");
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn pipe_gets_the_begin_and_the_end_of_each_step() {
    let (runtime, mut fake) = fake();
    let mut child = reload(&fake).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let asked = runtime.block_on(fake.next_ask());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = |begin: &str| {
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with(begin), "{line:?} is not {begin:?}");
    };
    begin(&fake);
    next("reloading to generation 8");
    next("worker 11 (slot 0, pid 4011): ready");
    show(&fake, Some(first_step()));
    next("canary step 1 of 2: 1/4 workers, 1h 0m left");
    // The stream has the last of several summaries, so these figures may be missed.
    show(&fake, Some(judged()));
    show(&fake, Some(Canary { waits: false, ..second_step() }));
    next("canary step 1 of 2 is over: ");
    show(&fake, Some(second_step()));
    next("canary step 2 of 2: 2/4 workers, waits for ratoon promote, at most 1h 0m");
    commit(&fake, asked);
    next("canary step 2 of 2 is over: no requests were counted");
    next("generation 8 is serving: 4/4 ready after ");
    assert!(child.wait().unwrap().success());
}
