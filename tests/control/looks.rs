//! `ratoon status` and `ratoon top` on a terminal with a time zone, of a pool that nobody serves, with and without colours.

use std::process::Command;

use ratoon::status::tree::{Document, LastReload};
use vt100::Color;

use crate::fake::Fake;
use crate::pty::OnTerminal;

const REASON: &str = "worker 9 (slot 1) of the new generation did not start within 30 s: it says that it waits for the database \
                      db1.example.org, which answers nothing at its port 5432";

fn down() -> Document {
    let document: Document = serde_json::from_str(include_str!("../../src/cli/recorded/serving.json")).unwrap();
    let last = LastReload {
        generation: 8,
        result: "rolled-back".into(),
        reason: REASON.into(),
        ..document.last_reload.clone().unwrap()
    };
    Document {
        workers_ready: 0,
        degraded: true,
        workers: Vec::new(),
        failures: Vec::new(),
        status_text: format!("generation 7: 0/3 ready, degraded; reload to generation 8 rolled back: {REASON}"),
        last_reload: Some(last),
        ..document
    }
}

/// `ratoon` with these arguments, on a terminal in Berlin, asking a fake that has this document.
fn on_terminal(verb: &str, colours: bool, size: (u16, u16), document: Document) -> (tokio::runtime::Runtime, Fake, OnTerminal) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fake = runtime.block_on(async { Fake::start() });
    fake.summary.send_modify(|summary| {
        (summary.workers_ready, summary.degraded, summary.generation) = (document.workers_ready, document.degraded, 7);
        (summary.workers_configured, summary.status_text) = (3, document.status_text.as_str().into());
    });
    *fake.document.lock().unwrap() = document;
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratoon"));
    command.arg(verb).arg("--control").arg(&fake.control).env("TERM", "xterm-256color").env("TZ", "Europe/Berlin");
    for name in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "RATOON_CONTROL", "NO_COLOR"] {
        command.env_remove(name);
    }
    if !colours {
        command.env("NO_COLOR", "1");
    }
    let terminal = OnTerminal::start(&mut command, size.0, size.1);
    (runtime, fake, terminal)
}

#[test]
fn status_is_an_alarm_with_the_whole_reason_once() {
    for colours in [true, false] {
        let (_runtime, _fake, mut terminal) = on_terminal("status", colours, (70, 40), down());
        assert_eq!(terminal.end().code(), Some(1));
        let shown = terminal.wait_for("rolled back after 1.2 s");
        let first = "web DOWN (running, degraded), generation 7, 0/3 ready";
        assert!(shown.lines().any(|line| line == first), "{shown}");
        let expected = if colours { (Color::Idx(7), Color::Idx(1)) } else { (Color::Default, Color::Default) };
        assert_eq!(terminal.colours("web DOWN"), expected);
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words.matches(REASON).count(), 1, "{shown}");
        // In the summer time of Berlin.
        assert!(shown.contains("2026-07-14 13:40:00 to generation 8"), "{shown}");
    }
}

#[test]
fn top_is_an_alarm_and_marks_what_it_cuts_off() {
    for colours in [true, false] {
        let (_runtime, fake, mut terminal) = on_terminal("top", colours, (80, 30), down());
        terminal.wait_for("web DOWN (running, degraded), generation 7, 0/3 ready");
        let (fore, back) = terminal.colours("reload ");
        assert_eq!((fore != Color::Default, back), (colours, Color::Default));
        let shown = terminal.wait("the reason ends with a mark", |shown| {
            shown.lines().any(|line| line.starts_with("reload ") && line.ends_with('…'))
        });
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        // The plots, with their scale and span: the number of ready workers grows.
        for label in ["req/s ", "ready ", "queue "] {
            terminal.wait("a plot", |shown| shown.lines().any(|line| line.starts_with(label)));
        }
        fake.document.lock().unwrap().workers_ready = 3;
        terminal.wait("a scale and a span", |shown| {
            shown.lines().any(|line| line.starts_with("ready 0 to 3") && line.contains(" last "))
        });
        terminal.wait_for("each slot: R ready");
        terminal.press("q");
        assert_eq!(terminal.end().code(), Some(0));
    }
}
