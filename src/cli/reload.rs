//! `ratoon reload [NAME]`: asks for a new generation, shows how it goes, and exits with the outcome. When it is killed,
//! its connection closes, and with that the reload is withdrawn.

use std::cell::RefCell;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::progress::Progress;
use super::screen::{Screen, clean, complain, say, span};
use super::status_view::{HINT, describe, details, printed};
use super::target::Target;
use crate::control::client::Client;
use crate::control::messages::ReloadMessage;
use crate::status::hint::hint;
use crate::status::tree::Failure;

/// How often a terminal's figures move on.
const TICK: Duration = Duration::from_millis(100);
/// How many of a failed worker's last lines are shown.
const LOG_LINES: usize = 10;
/// How many lines of a failed hook or check are shown: all that there are.
const CHECK_LINES: usize = 30;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    /// For ExecReload= of the unit: a reload that ends because the instance stops, or by SIGTERM to this command, is no failure.
    #[arg(long, hide = true)]
    exec_reload: bool,
}

/// How the wait for the outcome ended.
enum Waited<T> {
    Told(T),
    Interrupted,
    Terminated,
}

/// 0 committed, 1 anything else that the master decided or we withdrew. With `--exec-reload` also 0 when the instance stops: systemd
/// marks a unit as failed whose ExecReload= fails while it stops, and nobody asked for that.
pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let client = options.target.client().await?;
    let hook = |kind| signal(kind).map_err(|error| format!("cannot watch for signals: {error}"));
    let (mut interrupt, mut terminate) = (hook(SignalKind::interrupt())?, hook(SignalKind::terminate())?);
    let show = RefCell::new(Show::new());
    let outcome = {
        let reload = client.reload(|event| show.borrow_mut().event(event));
        tokio::pin!(reload);
        let mut tick = tokio::time::interval(TICK);
        let live = show.borrow().live;
        loop {
            tokio::select! {
                outcome = &mut reload => break Waited::Told(outcome),
                _ = interrupt.recv() => break Waited::Interrupted,
                _ = terminate.recv() => break Waited::Terminated,
                _ = tick.tick(), if live => show.borrow_mut().draw(),
            }
        }
        // Here the reload's future is dropped, and its connection with it.
    };
    let show = show.into_inner();
    match outcome {
        Waited::Told(Ok(outcome)) => {
            let code = finish(&client, &outcome, show.progress.elapsed(Instant::now())).await;
            Ok(if options.exec_reload && outcome.stopping { ExitCode::SUCCESS } else { code })
        }
        Waited::Told(Err(error)) => Err(error.to_string()),
        ended @ (Waited::Interrupted | Waited::Terminated) => {
            let serving = match show.progress.serving() {
                0 => String::new(),
                generation => format!(", and generation {generation} serves on"),
            };
            complain(&format!(
                "ratoon: interrupted: this reload is withdrawn; unless somebody else waits for it too, it is rolled back{serving}"
            ));
            let excused = options.exec_reload && matches!(ended, Waited::Terminated);
            Ok(if excused { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// The last line, and after a failure what the failed worker left.
async fn finish(client: &Client, outcome: &ReloadMessage, took: Duration) -> ExitCode {
    let took = span(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    for warning in &outcome.warnings {
        complain(&format!("warning: {}", clean(warning)));
    }
    if outcome.committed() {
        let ready = match client.summary().await {
            Ok(summary) if summary.generation == outcome.generation => {
                format!(": {}/{} ready", summary.workers_ready, summary.workers_configured)
            }
            _ => String::new(),
        };
        say(&format!("generation {} is serving{ready} after {took}", outcome.generation));
        return ExitCode::SUCCESS;
    }
    let to = if outcome.generation == 0 { String::new() } else { format!(" to generation {}", outcome.generation) };
    let result = clean(&outcome.result).replace('-', " ");
    // A refusal may be many lines: the configuration's error with its line.
    let reason = outcome.reason.trim_end().lines().map(clean).collect::<Vec<_>>().join("\n");
    complain(&format!("reload{to} {result}: {reason}"));
    if outcome.worker.is_none() {
        // A hook or a check failed: what it printed is told by the answer alone.
        let lines = printed(outcome.detail.as_deref(), &[], &outcome.output, CHECK_LINES);
        lines.iter().for_each(|line| complain(&format!("    {line}")));
    }
    if let Ok(document) = client.status().await {
        let of_reload = |it: &&Failure| outcome.worker.map_or(it.generation == outcome.generation, |worker| it.worker == worker);
        let failure = document.failures.iter().rev().find(of_reload);
        let failure = failure.filter(|_| outcome.generation != 0);
        // A worker that was not ready in time may not have ended yet: then the reason is all that there is.
        let how = reason.split_once("): ").map_or("", |(_, how)| how);
        if let Some(hint) = hint(how, &[]).filter(|_| failure.is_none()) {
            complain(&format!("    {HINT}{hint}"));
        }
        if let Some(failure) = failure {
            let details = details(failure, LOG_LINES);
            if !details.is_empty() && !tells(&reason, failure) {
                complain(&describe(failure));
            }
            details.iter().for_each(|line| complain(&format!("    {line}")));
        }
    }
    ExitCode::FAILURE
}

/// Whether the reason of an outcome tells how this worker ended.
fn tells(reason: &str, failure: &Failure) -> bool {
    let told = format!("worker {} (slot {}): {}", failure.worker, failure.slot, clean(&failure.how));
    reason.strip_prefix(&told).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
}

/// Where the progress is shown: in place on a terminal, line by line elsewhere.
struct Show {
    progress: Progress,
    screen: Screen,
    live: bool,
    /// Lines on the terminal that the next drawing replaces.
    drawn: usize,
    /// What they are.
    text: String,
}

impl Show {
    fn new() -> Self {
        let screen = Screen::of_stdout();
        let live = screen.width.is_some() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Show { progress: Progress::new(Instant::now()), screen, live, drawn: 0, text: String::new() }
    }

    fn event(&mut self, event: &crate::control::messages::Event) {
        let lines = self.progress.event(event, Instant::now());
        if self.live {
            self.draw();
        } else {
            lines.iter().for_each(|line| say(line));
        }
    }

    fn draw(&mut self) {
        // The window may have changed.
        self.screen = Screen::of_stdout();
        let lines = self.progress.lines(Instant::now(), &self.screen);
        let text = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect::<String>() + "\x1b[J";
        if text == self.text {
            return;
        }
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        self.drawn = lines.len();
        self.text = text;
        let mut out = stdout().lock();
        let _ = write!(out, "{up}{}", self.text).and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_knows_the_worker_and_its_end() {
        let failure = |worker, how: &str| Failure { worker, slot: 0, how: how.to_owned(), ..Failure::default() };
        assert!(tells("worker 2 (slot 0): start timeout after 10s", &failure(2, "start timeout after 10s")));
        assert!(tells("worker 2 (slot 0): exit 1 (its last status: loading)", &failure(2, "exit 1")));
        assert!(!tells("worker 2 (slot 0): exit 12", &failure(2, "exit 1")));
        assert!(!tells("worker 3 (slot 0): exit 1", &failure(2, "exit 1")));
    }
}
