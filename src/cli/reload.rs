//! `ratoon reload [NAME]`: requests a new generation, shows the progress, and exits with the outcome. If the process is killed,
//! its connection closes, which withdraws the reload.

use std::cell::RefCell;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::after_commit::{self, Watched};
use super::progress::Progress;
use super::screen::{Screen, clean, complain, say, span};
use super::status_view::{HINT, describe, details, printed};
use super::target::Target;
use crate::control::client::Client;
use crate::control::messages::{Event, ReloadMessage};
use crate::status::hint::hint;
use crate::status::tree::Failure;

/// Interval at which the figures on a terminal are updated.
const TICK: Duration = Duration::from_millis(100);
/// Number of lines of a failed worker that are shown.
const LOG_LINES: usize = 10;
/// Number of lines of a failed hook or check that are shown: all lines of the answer.
const CHECK_LINES: usize = 30;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    follow: Follow,
    /// For ExecReload= of the unit: a reload that ends because the instance stops, or by SIGTERM to this command, is no failure.
    #[arg(long, hide = true)]
    exec_reload: bool,
}

/// How a new generation is followed; for `reload` and `undo`.
#[derive(clap::Args)]
pub(super) struct Follow {
    /// Return at the commit, or when no worker of the old generation is left
    #[arg(long, value_name = "UNTIL", default_value = "committed")]
    wait: Until,
    /// Return at the end of the watch after the commit (reload.watch), and fail when it undoes the new generation
    #[arg(long)]
    watch: bool,
    /// Print nothing but the outcome, as JSON
    #[arg(long)]
    json: bool,
}

/// Until when a reload is waited for.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    /// The new generation serves.
    Committed,
    /// No worker of another generation is left.
    Drained,
}

/// The release that the new generation gets.
#[derive(Clone, Copy)]
pub(super) enum Bring {
    /// The release on disk.
    Reload,
    /// An earlier release: that of this generation, or of the one before the current one.
    Undo(Option<u64>),
}

/// The result of the wait for the outcome.
enum Waited<T> {
    Told(T),
    Interrupted,
    Terminated,
}

/// Exit status 0 when committed; 1 for every other outcome, and when the reload is withdrawn. With `--exec-reload` also 0 when the
/// instance stops: otherwise systemd would mark the unit as failed, because its ExecReload= fails while it stops.
pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let client = options.target.client().await?;
    bring(&client, Bring::Reload, &options.follow, options.exec_reload).await
}

/// Brings a new generation and follows it to its end.
pub(super) async fn bring(client: &Client, what: Bring, follow: &Follow, exec_reload: bool) -> Result<ExitCode, String> {
    let hook = |kind| signal(kind).map_err(|error| format!("cannot watch for signals: {error}"));
    let (mut interrupt, mut terminate) = (hook(SignalKind::interrupt())?, hook(SignalKind::terminate())?);
    let show = RefCell::new(Show::new(follow.json));
    let outcome = {
        let reload = async {
            let progress = |event: &Event| show.borrow_mut().event(event);
            match what {
                Bring::Reload => client.reload(progress).await,
                Bring::Undo(generation) => client.undo(generation, progress).await,
            }
        };
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
        // The future of the reload is dropped here, which closes its connection.
    };
    let show = show.into_inner();
    match outcome {
        Waited::Told(Ok(outcome)) => {
            let took = show.progress.elapsed(Instant::now());
            let stopping = outcome.stopping;
            let waits = outcome.committed() && (follow.watch || follow.wait == Until::Drained);
            let code = tokio::select! {
                code = tell(client, what, follow, outcome, took) => code?,
                _ = interrupt.recv(), if waits => interrupted_wait(),
                _ = terminate.recv(), if waits => interrupted_wait(),
            };
            Ok(if exec_reload && stopping { ExitCode::SUCCESS } else { code })
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
            let excused = exec_reload && matches!(ended, Waited::Terminated);
            Ok(if excused { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// Tells the outcome, after the waits that the caller wants after the commit. The exit status is 0 if the generation serves after them.
async fn tell(
    client: &Client,
    what: Bring,
    follow: &Follow,
    mut outcome: ReloadMessage,
    took: Duration,
) -> Result<ExitCode, String> {
    let committed = outcome.committed();
    if committed && follow.wait == Until::Drained {
        after_commit::drained(client, outcome.generation).await?;
    }
    let watches = committed && follow.watch;
    if !follow.json {
        let code = finish(client, what, &outcome, took).await;
        if !watches {
            return Ok(code);
        }
    }
    let mut end = String::new();
    if watches {
        let said = |text: &str| if follow.json { complain(text) } else { say(text) };
        let generation = outcome.generation;
        match after_commit::watched(client, generation, said).await? {
            Watched::Passed => end = format!("generation {generation} has passed its watch"),
            Watched::Replaced(by) => {
                end = format!("generation {by} serves now, which ended the watch of generation {generation}")
            }
            Watched::Undone(reason) => (outcome.result, outcome.reason) = ("undone".to_owned(), reason),
            Watched::UndoFailed(reason) => (outcome.result, outcome.reason) = ("undo-failed".to_owned(), reason),
            Watched::Unknown => {
                return Err(format!(
                    "the instance was started anew: how the watch of generation {generation} ended is not known"
                ));
            }
        }
    }
    let ReloadMessage { generation, result, reason, .. } = &outcome;
    match (follow.json, outcome.committed()) {
        (true, _) => say(&serde_json::to_string(&outcome).map_err(|error| error.to_string())?),
        (false, true) => say(&end),
        (false, false) => complain(&format!("generation {generation} {}: {}", clean(result).replace('-', " "), clean(reason))),
    }
    Ok(if outcome.committed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn interrupted_wait() -> ExitCode {
    complain("ratoon: interrupted: the new generation is committed and serves; only the wait is over");
    ExitCode::FAILURE
}

/// Prints the last line, and after a failure the details of the failed worker.
async fn finish(client: &Client, what: Bring, outcome: &ReloadMessage, took: Duration) -> ExitCode {
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
        let from = match (what, client.history().await.ok().and_then(|releases| releases.into_iter().next())) {
            (Bring::Undo(_), Some(first)) if first.generation == outcome.generation => {
                format!(" (release of generation {})", first.release)
            }
            _ => String::new(),
        };
        say(&format!("generation {}{from} is serving{ready} after {took}", outcome.generation));
        return ExitCode::SUCCESS;
    }
    let to = if outcome.generation == 0 { String::new() } else { format!(" to generation {}", outcome.generation) };
    let result = clean(&outcome.result).replace('-', " ");
    // The reason of a refusal may have many lines: an error in the configuration is shown with its line.
    let reason = outcome.reason.trim_end().lines().map(clean).collect::<Vec<_>>().join("\n");
    let verb = match what {
        Bring::Reload => "reload",
        Bring::Undo(_) => "undo",
    };
    complain(&format!("{verb}{to} {result}: {reason}"));
    let mut told = false;
    if let Ok(document) = client.status().await {
        let of_reload = |it: &&Failure| outcome.worker.map_or(it.generation == outcome.generation, |worker| it.worker == worker);
        let failure = document.failures.iter().rev().find(of_reload);
        let failure = failure.filter(|_| outcome.generation != 0);
        // A worker that was not ready in time may not have ended yet. Then there is no failure, and only the reason is known.
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
            told = true;
        }
    }
    if !told {
        // A hook, a check or a living worker that was probed: only the answer has its output.
        let lines = printed(outcome.detail.as_deref(), &[], &outcome.output, CHECK_LINES);
        lines.iter().for_each(|line| complain(&format!("    {line}")));
    }
    ExitCode::FAILURE
}

/// Whether the reason of an outcome already has the end of this worker.
fn tells(reason: &str, failure: &Failure) -> bool {
    let told = format!("worker {} (slot {}): {}", failure.worker, failure.slot, clean(&failure.how));
    reason.strip_prefix(&told).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
}

/// Shows the progress: in place on a terminal, line by line elsewhere.
struct Show {
    progress: Progress,
    screen: Screen,
    live: bool,
    silent: bool,
    /// Number of lines on the terminal that the next drawing replaces.
    drawn: usize,
    /// The text of these lines.
    text: String,
}

impl Show {
    fn new(silent: bool) -> Self {
        let screen = Screen::of_stdout();
        let live = !silent && screen.width.is_some() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Show { progress: Progress::new(Instant::now()), screen, live, silent, drawn: 0, text: String::new() }
    }

    fn event(&mut self, event: &Event) {
        let lines = self.progress.event(event, Instant::now());
        if self.live {
            self.draw();
        } else if !self.silent {
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
