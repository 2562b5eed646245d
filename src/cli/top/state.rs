//! The state of the view: the pool's data, and the page and order that are shown. Pure: documents, events, keys and the time come in.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::columns::{ALL, Column};
use super::feed::News;
use super::rates::Rates;
use crate::cli::screen::clean;
use crate::control::messages::Event;
use crate::status::tree::{Connection, Document, Request, Worker};

/// The page in the lower part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// The workers: one table, or two side by side when there are several generations.
    Workers,
    /// The requests of this worker; `None` for the requests of all workers.
    Requests(Option<u64>),
    /// The last failures.
    Failures,
    /// The keys.
    Help,
}

/// The action of the caller after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Stay,
    Leave,
    Suspend,
}

/// The reload under way.
pub(super) struct Reload {
    /// The reload's new generation. Unknown if the view began during the reload, until a worker of that generation is seen.
    pub(super) generation: Option<u64>,
    /// Time at which the view learned of the reload.
    pub(super) since: Instant,
}

/// The whole state.
pub(super) struct State {
    pub(super) document: Document,
    pub(super) rates: Rates,
    pub(super) reload: Option<Reload>,
    /// Time since which the master is gone, and the reason.
    pub(super) lost: Option<(Instant, String)>,
    /// A line about the last event, whether the event is bad, and when it came.
    pub(super) said: Option<(String, bool, Instant)>,
    pub(super) page: Page,
    pub(super) sort: Column,
    pub(super) down: bool,
    /// Whether all generations share one table.
    pub(super) together: bool,
    /// The worker under the cursor.
    pub(super) chosen: Option<u64>,
    /// Number of lines by which a page other than the table is scrolled.
    pub(super) scroll: usize,
    /// The largest useful value of `scroll`; set when the page is drawn.
    pub(super) reach: Cell<usize>,
}

impl State {
    /// The state with the first document, which arrived at `at`.
    pub(super) fn new(document: Document, at: Instant) -> Self {
        let mut state = State {
            document: Document::default(),
            rates: Rates::default(),
            reload: None,
            lost: None,
            said: None,
            page: Page::Workers,
            sort: Column::Slot,
            down: false,
            together: false,
            chosen: None,
            scroll: 0,
            reach: Cell::new(0),
        };
        state.learn(News::Document(Box::new(document), at), at);
        state
    }

    /// Takes news that arrived at `now`.
    pub(super) fn learn(&mut self, news: News, now: Instant) {
        match news {
            News::Document(document, at) => {
                self.rates.learn(&document, at);
                self.document = *document;
                self.lost = None;
                self.follow_reload(now);
            }
            News::Event(event) => self.hear(event, now),
            News::Lost(why) => {
                let since = self.lost.as_ref().map_or(now, |(since, _)| *since);
                self.lost = Some((since, clean(&why)));
            }
        }
        self.keep_cursor();
    }

    fn follow_reload(&mut self, now: Instant) {
        if self.document.state != "reloading" {
            self.reload = None;
            return;
        }
        let newest = self.document.workers.iter().map(|worker| worker.generation).max();
        let newest = newest.filter(|generation| *generation > self.document.generation);
        let reload = self.reload.get_or_insert(Reload { generation: newest, since: now });
        reload.generation = reload.generation.or(newest);
    }

    fn hear(&mut self, event: Event, now: Instant) {
        let document = &mut self.document;
        let said = match event {
            Event::Summary(summary) => {
                document.state = summary.state;
                document.degraded = summary.degraded;
                document.paused = summary.paused;
                document.idle = summary.idle;
                document.status_text = summary.status_text;
                document.generation = summary.generation;
                document.workers_configured = summary.workers_configured;
                document.workers_ready = summary.workers_ready;
                (document.workers_min, document.workers_max) = (summary.workers_min, summary.workers_max);
                document.at_max = summary.at_max;
                document.worker_crashes = summary.worker_crashes;
                self.follow_reload(now);
                return;
            }
            Event::Worker(told) => {
                let who = name(told.id, told.slot, told.generation);
                let known = document.workers.iter().position(|worker| worker.id == told.id);
                let place = known.unwrap_or_else(|| {
                    let (id, slot, generation, start_time) = (told.id, told.slot, told.generation, told.start_time);
                    document.workers.push(Worker { id, slot, generation, start_time, ..Worker::default() });
                    document.workers.len() - 1
                });
                let worker = &mut document.workers[place];
                worker.pid = told.pid;
                worker.status = Some(told.status).filter(|status| !status.is_empty());
                if worker.state == told.state {
                    return;
                }
                worker.state = told.state;
                (format!("{who}: {}", clean(&worker.state)), false)
            }
            Event::WorkerExited(exit) => {
                document.workers.retain(|worker| worker.id != exit.id);
                (format!("{}: {}", name(exit.id, exit.slot, exit.generation), clean(&exit.how)), exit.failed)
            }
            Event::ReloadStarted(generation) => {
                self.reload = Some(Reload { generation: Some(generation), since: now });
                (format!("reload to generation {generation} begins"), false)
            }
            Event::ReloadFinished(outcome) => {
                self.reload = None;
                let why = if outcome.reason.is_empty() { String::new() } else { format!(": {}", clean(&outcome.reason)) };
                let result = clean(&outcome.result).replace('-', " ");
                (format!("reload to generation {} {result}{why}", outcome.generation), !outcome.committed())
            }
            Event::Undone(undone) => {
                let why = clean(&undone.reason);
                (format!("generation {} undone, back to release {}: {why}", undone.generation, undone.release), true)
            }
            Event::Scaled(scaled) => (format!("{} to {} workers: {}", scaled.from, scaled.to, clean(&scaled.reason)), false),
            Event::Lagged(missed) => (format!("{missed} events were missed"), false),
        };
        let (text, bad) = said;
        self.said = Some((text, bad, now));
    }

    /// Keeps the cursor on its worker; if that worker is gone, moves the cursor to the first worker of the first table.
    fn keep_cursor(&mut self) {
        let workers = &self.document.workers;
        if self.chosen.is_some_and(|id| workers.iter().any(|worker| worker.id == id)) || matches!(self.page, Page::Requests(_)) {
            return;
        }
        self.chosen = self.panels().first().and_then(|panel| panel.workers.first()).map(|worker| worker.id);
    }

    /// The tables, from left to right: older generations and the newest one, or all in one table.
    pub(super) fn panels(&self) -> Vec<Panel<'_>> {
        let mut all = self.document.workers.iter().collect::<Vec<_>>();
        all.sort_by(|one, two| self.sort.compare(one, two, &self.rates, self.down));
        let generations = all.iter().map(|worker| worker.generation).collect::<BTreeSet<_>>();
        if self.together || generations.len() < 2 {
            return vec![Panel { generations, workers: all }];
        }
        let newest = generations.last().copied().unwrap_or_default();
        let (new, old) = all.into_iter().partition(|worker| worker.generation == newest);
        let older = generations.into_iter().filter(|generation| *generation != newest).collect();
        vec![Panel { generations: older, workers: old }, Panel { generations: BTreeSet::from([newest]), workers: new }]
    }

    /// The place of the cursor: panel and row.
    pub(super) fn cursor(&self, panels: &[Panel<'_>]) -> (usize, usize) {
        let place = panels
            .iter()
            .enumerate()
            .find_map(|(panel, it)| Some((panel, it.workers.iter().position(|worker| Some(worker.id) == self.chosen)?)));
        place.unwrap_or_default()
    }

    /// Moves the cursor by so many rows and panels; scrolls on other pages.
    fn go(&mut self, rows: isize, panels: isize) {
        if self.page != Page::Workers {
            self.scroll = self.scroll.min(self.reach.get()).saturating_add_signed(rows);
            return;
        }
        let all = self.panels();
        let (panel, row) = self.cursor(&all);
        let panel = panel.saturating_add_signed(panels).min(all.len().saturating_sub(1));
        let workers = all.get(panel).map(|panel| panel.workers.as_slice()).unwrap_or_default();
        let row = row.saturating_add_signed(rows).min(workers.len().saturating_sub(1));
        let chosen = workers.get(row).map(|worker| worker.id);
        self.chosen = chosen.or(self.chosen);
    }

    /// Handles a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Turn {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Turn::Leave,
                KeyCode::Char('z') => Turn::Suspend,
                _ => Turn::Stay,
            };
        }
        match key.code {
            KeyCode::Char('q') => return Turn::Leave,
            KeyCode::Esc | KeyCode::Backspace => self.turn_to(Page::Workers),
            KeyCode::Enter => match self.page {
                Page::Workers => self.turn_to(Page::Requests(self.chosen)),
                _ => self.turn_to(Page::Workers),
            },
            KeyCode::Char('a') => self.turn_to(Page::Requests(None)),
            KeyCode::Char('f') => self.turn_to(Page::Failures),
            KeyCode::Char('h' | '?') | KeyCode::F(1) => self.turn_to(Page::Help),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1, 0),
            KeyCode::Down | KeyCode::Char('j') => self.go(1, 0),
            KeyCode::PageUp => self.go(-10, 0),
            KeyCode::PageDown => self.go(10, 0),
            KeyCode::Home => self.go(isize::MIN, 0),
            KeyCode::End => self.go(isize::MAX, 0),
            KeyCode::Left => self.go(0, -1),
            KeyCode::Right | KeyCode::Tab => self.go(0, 1),
            KeyCode::Char('<' | ',') => self.sort_beside(-1),
            KeyCode::Char('>' | '.') => self.sort_beside(1),
            KeyCode::Char('r') => self.down = !self.down,
            KeyCode::Char('g') => self.together = !self.together,
            KeyCode::Char('s') => self.sort_by(Column::Slot),
            KeyCode::Char('u') => self.sort_by(Column::Up),
            KeyCode::Char('m') => self.sort_by(Column::Memory),
            KeyCode::Char('c') => self.sort_by(Column::Cpu),
            KeyCode::Char('o') => self.sort_by(Column::Connections),
            KeyCode::Char('t') => self.sort_by(Column::Rate),
            _ => {}
        }
        Turn::Stay
    }

    fn turn_to(&mut self, page: Page) {
        // The key of the shown page leads back to the workers.
        self.page = if self.page == page { Page::Workers } else { page };
        self.scroll = 0;
        self.keep_cursor();
    }

    fn sort_by(&mut self, column: Column) {
        self.sort = column;
        self.down = column.largest_first();
    }

    fn sort_beside(&mut self, step: isize) {
        let place = ALL.iter().position(|column| *column == self.sort).unwrap_or_default();
        self.sort_by(ALL[place.saturating_add_signed(step).min(ALL.len() - 1)]);
    }

    /// Requests in work of one worker or of all, the longest-running first; for one worker then its other connections.
    pub(super) fn serving(&self, of: Option<u64>) -> Vec<Serving<'_>> {
        let workers = self.document.workers.iter().filter(|worker| of.is_none_or(|id| worker.id == id));
        let connections = workers.flat_map(|worker| worker.active_connections.iter().map(move |it| (worker, it)));
        let mut found = connections
            .map(|(worker, connection)| {
                let request = connection.request.as_ref().filter(|it| matches!(it.state.as_str(), "processing" | "sending"));
                Serving { worker, connection, request }
            })
            .filter(|it| of.is_some() || it.request.is_some())
            .collect::<Vec<_>>();
        // Times of one master have one format, so they sort as text.
        found.sort_by_key(|it| match it.request {
            Some(request) => (false, request.start_time.as_str()),
            None => (true, it.connection.start_time.as_str()),
        });
        found
    }
}

/// One table of workers.
pub(super) struct Panel<'a> {
    /// The generations of these workers.
    pub(super) generations: BTreeSet<u64>,
    /// The workers, in the order in which they are shown.
    pub(super) workers: Vec<&'a Worker>,
}

/// A connection, and the request in work on it.
pub(super) struct Serving<'a> {
    pub(super) worker: &'a Worker,
    pub(super) connection: &'a Connection,
    pub(super) request: Option<&'a Request>,
}

fn name(id: u64, slot: u32, generation: u64) -> String {
    format!("worker {id} (slot {slot}, generation {generation})")
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
