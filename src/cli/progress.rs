//! The progress of a reload as lines. Pure: events and the time come in, lines go out.

use std::time::{Duration, Instant};

use super::canary_progress::CanaryProgress;
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
    /// Time at which the worker became ready or ended.
    settled: Option<Instant>,
    failed: bool,
}

/// The state of a reload, from the events so far.
pub(super) struct Progress {
    begun: Instant,
    /// The reload's new generation, once the reload has begun.
    generation: Option<u64>,
    /// Whether this reload waits for another one.
    waits: bool,
    /// Whether the state of the instance before this reload is known.
    state_known: bool,
    /// The committed generation, which serves meanwhile.
    serving: u64,
    rows: Vec<Row>,
    canary: CanaryProgress,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Progress {
            begun: now,
            generation: None,
            waits: false,
            state_known: false,
            serving: 0,
            rows: Vec::new(),
            canary: CanaryProgress::default(),
        }
    }

    /// Duration of the reload so far.
    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    /// The committed generation, which serves meanwhile; 0 when unknown.
    pub(super) fn serving(&self) -> u64 {
        self.serving
    }

    /// Takes an event; returns the lines for a log.
    pub(super) fn event(&mut self, event: &Event, now: Instant) -> Vec<String> {
        match event {
            Event::Summary(summary) => {
                // After the commit the figures of the last step are still those of the generation before.
                let goes_on = summary.state == "reloading" || Some(summary.generation) == self.generation;
                let canary = summary.canary.as_deref().filter(|canary| Some(canary.generation) == self.generation);
                let lines = self.canary.take(canary, self.serving, goes_on, now);
                self.serving = summary.generation;
                // Later summaries may have the state of this reload, because a new state comes before its event.
                let first = !std::mem::replace(&mut self.state_known, true);
                if first && self.generation.is_none() && summary.state == "reloading" {
                    self.waits = true;
                    return vec!["another reload is under way; this one comes after it".to_owned()];
                }
                lines
            }
            Event::ReloadStarted(generation) => {
                self.generation = Some(*generation);
                self.rows.clear();
                vec![format!("reloading to generation {generation}")]
            }
            Event::Worker(worker) if Some(worker.generation) == self.generation => {
                let row = self.row(worker.id, worker.slot, now);
                let changed = row.state != worker.state;
                row.pid = worker.pid;
                row.state = clean(&worker.state);
                row.status = clean(&worker.status);
                if !changed {
                    return Vec::new();
                }
                row.settled = (worker.state == "ready").then_some(now);
                vec![row.plain(now)]
            }
            Event::WorkerExited(exit) if Some(exit.generation) == self.generation => {
                let row = self.row(exit.id, exit.slot, now);
                row.state = clean(&exit.how);
                row.failed = exit.failed;
                row.settled = Some(now);
                // A start timeout is part of the outcome of the reload.
                let lines = if exit.how.starts_with("start timeout") { Vec::new() } else { vec![row.plain(now)] };
                // A probed worker ends when it has answered, and is none of those that are to serve.
                if !exit.failed {
                    self.rows.retain(|row| row.id != exit.id);
                }
                lines
            }
            // The answer to the request has the outcome; workers of other generations do not belong to this reload.
            Event::ReloadFinished(_) | Event::Undone(_) | Event::Scaled(_) | Event::Worker(_) | Event::WorkerExited(_) => {
                Vec::new()
            }
            Event::Lagged(missed) => vec![format!("({missed} events were lost; the outcome is not)")],
        }
    }

    /// The worker's row; a new row has no state yet.
    fn row(&mut self, id: u64, slot: u32, now: Instant) -> &mut Row {
        let place = match self.rows.binary_search_by_key(&(slot, id), |row| (row.slot, row.id)) {
            Ok(place) => place,
            Err(place) => {
                let (state, status) = (String::new(), String::new());
                self.rows.insert(place, Row { id, slot, pid: None, state, status, since: now, settled: None, failed: false });
                place
            }
        };
        &mut self.rows[place]
    }

    /// The lines for a terminal, cut to the screen: one for the reload, and one for each worker of the new generation.
    pub(super) fn lines(&self, now: Instant, screen: &Screen) -> Vec<String> {
        let ready = self.rows.iter().filter(|row| row.state == "ready").count();
        let head = match self.generation {
            Some(generation) => {
                format!("reloading to generation {generation}: {ready}/{} ready, {}", self.rows.len(), time(self.elapsed(now)))
            }
            None if self.waits => format!("another reload is under way; this one comes after it, {}", time(self.elapsed(now))),
            None => format!("asking for a reload, {}", time(self.elapsed(now))),
        };
        let mut lines = vec![screen.paint(&screen.cut(&head), Style::Strong)];
        lines.extend(self.canary.lines(self.serving, now).iter().map(|line| screen.cut(line)));
        let room = screen.height.map_or(usize::MAX, |height| height.saturating_sub(lines.len() + 2));
        // If not all workers fit, those that are not ready are shown first.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::messages::{ExitMessage, ReloadMessage, SummaryMessage, WorkerMessage};

    fn summary(state: &str) -> Event {
        Event::Summary(SummaryMessage { state: state.into(), generation: 7, ..SummaryMessage::default() })
    }

    fn worker(id: u64, slot: u32, generation: u64, state: &str) -> Event {
        let pid = Some(4000 + u32::try_from(id).unwrap());
        Event::Worker(WorkerMessage { id, slot, generation, pid, state: state.into(), ..WorkerMessage::default() })
    }

    fn exited(id: u64, slot: u32, generation: u64) -> Event {
        Event::WorkerExited(ExitMessage { id, slot, generation, how: "exit 1".into(), failed: true })
    }

    /// The events of a reload that fails, with their times in milliseconds.
    fn story() -> Vec<(u64, Event)> {
        vec![
            (0, summary("running")),
            (10, Event::ReloadStarted(8)),
            (11, worker(12, 1, 8, "starting")),
            (11, worker(11, 0, 8, "starting")),
            // Events of the old generation.
            (15, worker(3, 0, 7, "ready")),
            (16, exited(4, 1, 7)),
            // Only the status of the worker changed.
            (400, worker(11, 0, 8, "starting")),
            (811, worker(11, 0, 8, "ready")),
            (1311, exited(12, 1, 8)),
            (1320, Event::ReloadFinished(ReloadMessage { generation: 8, ..ReloadMessage::default() })),
        ]
    }

    #[test]
    fn a_log_gets_a_line_a_change() {
        let begun = Instant::now();
        let mut progress = Progress::new(begun);
        let lines = story().into_iter().flat_map(|(at, event)| progress.event(&event, begun + Duration::from_millis(at)));
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r"
        reloading to generation 8
        worker 12 (slot 1, pid 4012): starting
        worker 11 (slot 0, pid 4011): starting
        worker 11 (slot 0, pid 4011): ready after 800 ms
        worker 12 (slot 1, pid 4012): exit 1 after 1.3 s
        ");
        assert_eq!(progress.serving(), 7);
    }

    #[test]
    fn start_timeout_is_left_to_the_outcome() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        progress.event(&Event::ReloadStarted(8), now);
        assert_eq!(progress.event(&worker(5, 0, 8, "starting"), now).len(), 1);
        let how = "start timeout after 10s".into();
        let exit = Event::WorkerExited(ExitMessage { id: 5, slot: 0, generation: 8, how, failed: true });
        assert!(progress.event(&exit, now).is_empty());
        let screen = Screen { width: None, height: None, colour: false };
        assert!(progress.lines(now, &screen)[1].contains("start timeout after 10s"));
    }

    #[test]
    fn a_terminal_shows_all_workers_of_the_new_generation_by_slot() {
        let begun = Instant::now();
        let mut progress = Progress::new(begun);
        for (at, event) in story().iter().take(8) {
            progress.event(event, begun + Duration::from_millis(*at));
        }
        let screen = Screen { width: Some(60), height: Some(24), colour: false };
        insta::assert_snapshot!(progress.lines(begun + Duration::from_millis(1000), &screen).join("\n"), @r"
        reloading to generation 8: 1/2 ready, 1.0 s
          slot 0    worker 11     pid 4011      800 ms  ready
          slot 1    worker 12     pid 4012      989 ms  starting
        ");
    }

    #[test]
    fn probed_worker_that_has_ended_is_not_counted() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        progress.event(&Event::ReloadStarted(8), now);
        progress.event(&worker(5, 0, 8, "ready"), now);
        let exit = ExitMessage { id: 5, slot: 0, generation: 8, how: "signal SIGTERM".into(), failed: false };
        assert_eq!(progress.event(&Event::WorkerExited(exit), now).len(), 1, "a log has the line");
        progress.event(&worker(6, 0, 8, "ready"), now);
        let screen = Screen { width: None, height: None, colour: false };
        let lines = progress.lines(now, &screen);
        assert!(lines.len() == 2 && lines[0].contains("1/1 ready"), "{lines:?}");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_unready_are_shown_first() {
        let begun = Instant::now();
        let mut progress = Progress::new(begun);
        progress.event(&Event::ReloadStarted(8), begun);
        for id in 0..1000 {
            progress.event(&worker(id, u32::try_from(id).unwrap(), 8, if id == 777 { "starting" } else { "ready" }), begun);
        }
        let screen = Screen { width: Some(40), height: Some(8), colour: false };
        let lines = progress.lines(begun, &screen);
        assert_eq!(lines.len(), 6);
        assert!(lines.iter().all(|line| crate::cli::screen::width(line) <= 40), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("777")), "{lines:?}");
        assert_eq!(lines[5], "  … and 996 more");
    }

    #[test]
    fn who_waits_for_another_reload_is_told_so() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        assert_eq!(progress.event(&summary("reloading"), now), ["another reload is under way; this one comes after it"]);
        assert!(progress.event(&summary("reloading"), now).is_empty(), "once");
        assert!(progress.event(&worker(5, 0, 8, "ready"), now).is_empty(), "not ours");
        assert_eq!(progress.event(&Event::ReloadStarted(9), now), ["reloading to generation 9"]);
    }

    #[test]
    fn own_reload_whose_state_comes_first_is_no_other_one() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        assert!(progress.event(&summary("running"), now).is_empty());
        assert!(progress.event(&summary("reloading"), now).is_empty());
        assert_eq!(progress.event(&Event::ReloadStarted(8), now), ["reloading to generation 8"]);
    }
}
