//! How a reload goes on, as lines. Pure: events and the time come in, lines go out.

use std::time::{Duration, Instant};

use super::screen::{Screen, Style, clean, span};
use super::status_view::state_style;
use crate::control::messages::Event;

/// A worker of the new generation.
struct Row {
    id: u64,
    slot: u32,
    pid: Option<u32>,
    state: String,
    status: String,
    since: Instant,
    /// When it became ready or ended.
    settled: Option<Instant>,
    failed: bool,
}

/// What is known of a reload so far.
pub(super) struct Progress {
    begun: Instant,
    /// The generation that the reload wants to bring, once it has begun.
    generation: Option<u64>,
    /// Another reload is under way; ours waits.
    waits: bool,
    /// The generation that serves meanwhile.
    serving: u64,
    rows: Vec<Row>,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Progress { begun: now, generation: None, waits: false, serving: 0, rows: Vec::new() }
    }

    /// How long it has taken so far.
    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    /// The generation that serves meanwhile, 0 when not known.
    pub(super) fn serving(&self) -> u64 {
        self.serving
    }

    /// Takes in an event; gives the lines that a log should have of it.
    pub(super) fn event(&mut self, event: &Event, now: Instant) -> Vec<String> {
        match event {
            Event::Summary(summary) => {
                self.serving = summary.generation;
                if self.generation.is_none() && !self.waits && summary.state == "reloading" {
                    self.waits = true;
                    return vec!["another reload is under way; this one comes after it".to_owned()];
                }
                Vec::new()
            }
            Event::ReloadStarted(generation) => {
                self.generation = Some(*generation);
                self.rows.clear();
                vec![format!("reloading to generation {generation}")]
            }
            Event::Worker(worker) if Some(worker.generation) == self.generation => {
                let known = self.rows.iter_mut().find(|row| row.id == worker.id);
                let changed = known.as_ref().is_none_or(|row| row.state != worker.state);
                let row = match known {
                    Some(row) => row,
                    None => {
                        self.rows.push(Row {
                            id: worker.id,
                            slot: worker.slot,
                            pid: None,
                            state: String::new(),
                            status: String::new(),
                            since: now,
                            settled: None,
                            failed: false,
                        });
                        self.rows.sort_by_key(|row| (row.slot, row.id));
                        match self.rows.iter_mut().find(|row| row.id == worker.id) {
                            Some(row) => row,
                            None => return Vec::new(),
                        }
                    }
                };
                row.pid = worker.pid;
                row.state = clean(&worker.state);
                row.status = clean(&worker.status);
                if worker.state == "ready" && changed {
                    row.settled = Some(now);
                }
                if changed { vec![row.plain(now)] } else { Vec::new() }
            }
            Event::WorkerExited(exit) if Some(exit.generation) == self.generation => {
                match self.rows.iter_mut().find(|row| row.id == exit.id) {
                    Some(row) => {
                        row.state = clean(&exit.how);
                        row.failed = exit.failed;
                        row.settled = Some(now);
                        vec![row.plain(now)]
                    }
                    None => Vec::new(),
                }
            }
            Event::ReloadFinished(outcome) if Some(outcome.generation) == self.generation => Vec::new(),
            // The one that we waited for.
            Event::ReloadFinished(_) => Vec::new(),
            Event::Worker(_) | Event::WorkerExited(_) => Vec::new(),
            Event::Lagged(missed) => vec![format!("({missed} events were lost; the outcome is not)")],
        }
    }

    /// What a terminal should show now: a line for the whole, and one a worker of the new generation, cut to the screen.
    pub(super) fn lines(&self, now: Instant, screen: &Screen) -> Vec<String> {
        let ready = self.rows.iter().filter(|row| row.state == "ready").count();
        let head = match self.generation {
            Some(generation) => {
                format!("reloading to generation {generation}: {ready}/{} ready, {}", self.rows.len(), time(self.elapsed(now)))
            }
            None if self.waits => format!("another reload is under way; this one comes after it, {}", time(self.elapsed(now))),
            None => format!("asking for a reload, {}", time(self.elapsed(now))),
        };
        let room = screen.height.map_or(usize::MAX, |height| height.saturating_sub(3));
        let mut lines = vec![screen.paint(&screen.cut(&head), Style::Strong)];
        // Where not all fit, those that are not ready say more.
        let mut shown = self.rows.iter().collect::<Vec<_>>();
        if shown.len() > room {
            shown.sort_by_key(|row| row.state == "ready");
            shown.truncate(room.saturating_sub(1));
            shown.sort_by_key(|row| (row.slot, row.id));
        }
        let hidden = self.rows.len() - shown.len();
        lines.extend(shown.into_iter().map(|row| row.live(now, screen)));
        if hidden > 0 {
            lines.push(screen.cut(&format!("  … and {hidden} more")));
        }
        lines
    }
}

impl Row {
    fn took(&self, now: Instant) -> String {
        time(self.settled.unwrap_or(now).saturating_duration_since(self.since))
    }

    fn plain(&self, now: Instant) -> String {
        let pid = self.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
        let took = if self.settled.is_some() { format!(" after {}", self.took(now)) } else { String::new() };
        format!("worker {} (slot {}{pid}): {}{took}", self.id, self.slot, self.state)
    }

    fn live(&self, now: Instant, screen: &Screen) -> String {
        let style = if self.failed { Style::Bad } else { state_style(&self.state, false) };
        let pid = self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let line = format!(
            "  slot {:<4} worker {:<6} pid {:<8} {:>7}  {}  {}",
            self.slot,
            self.id,
            pid,
            self.took(now),
            self.state,
            self.status
        );
        screen.paint(screen.cut(&line).trim_end(), style)
    }
}

fn time(duration: Duration) -> String {
    span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
