//! The other pages: requests of workers, the last failures, the keys. Each page is a list of lines that can be scrolled.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};
use serde_json::{Map, Value};

use super::View;
use crate::cli::screen::{Screen, Style, bytes, clean, number, span};
use crate::cli::status_view::{describe, details, state, state_style, unlisted};
use crate::cli::table::{Cell, Table};
use crate::cli::top::state::Serving;
use crate::status::tree::{Connection, Worker};

/// The most requests that are formatted; a screen shows fewer.
const MOST: usize = 500;
/// Number of lines of a failed worker that are shown.
const LOG_LINES: usize = 20;

const HELP: &[&str] = &[
    "↑ ↓ j k, PgUp PgDn, Home End   another worker, or scroll",
    "← → Tab                        the other generation's table",
    "Enter                          what the worker serves; Enter or Esc leads back",
    "a                              what all workers serve, the longest first",
    "f                              the last failures, with what they printed",
    "< >                            sort by the column to the left or right",
    "s u m c o t                    sort by slot, up, memory, CPU, connections, requests a second",
    "r                              the other way round",
    "g                              generations side by side, or in one table",
    "q, Ctrl-C                      quit; Ctrl-Z stops for a while",
    "",
    "The picture has a letter a slot: R ready, s starting, d draining, x failed, . empty.",
];

impl View<'_> {
    /// Draws one worker with all its connections.
    pub(super) fn worker(&self, frame: &mut Frame<'_>, area: Rect, id: u64) {
        let Some(worker) = self.state.document.workers.iter().find(|worker| worker.id == id) else {
            let mut lines = vec![Line::from(self.span(format!("worker {id} is gone"), Style::Strong))];
            if let Some(failure) = self.state.document.failures.iter().rev().find(|failure| failure.worker == id) {
                lines.push(Line::from(self.span(describe(failure), Style::Bad)));
                lines.extend(details(failure, LOG_LINES).into_iter().map(|line| Line::from(format!("    {line}"))));
            }
            return self.lines(frame, area, lines);
        };
        let mut lines = self.facts(worker);
        lines.push(Line::default());
        lines.extend(unlisted(worker.unlisted_connections.unwrap_or_default()).map(Line::from));
        let serving = self.state.serving(Some(id));
        if serving.is_empty() {
            let open = worker.open_connections.map_or_else(String::new, |open| format!("; the kernel counts {}", number(open)));
            lines.push(Line::from(format!("it tells of no connection{open}")));
        } else {
            lines.extend(self.table_of(&serving, false));
        }
        self.lines(frame, area, lines);
    }

    /// Draws the requests in work of all workers.
    pub(super) fn all_requests(&self, frame: &mut Frame<'_>, area: Rect) {
        let serving = self.state.serving(None);
        let title = match serving.len() {
            0 => "no worker tells of a request in work".to_owned(),
            1 => "1 request in work".to_owned(),
            count => format!("{} requests in work, the longest first", number(count as u64)),
        };
        let mut lines = vec![Line::from(self.span(title, Style::Strong))];
        let all = self.state.document.workers.iter().filter_map(|worker| worker.unlisted_connections).sum();
        lines.extend(unlisted(all).map(Line::from));
        if !serving.is_empty() {
            lines.extend(self.table_of(&serving, true));
        }
        self.lines(frame, area, lines);
    }

    /// Draws the last failures, the newest first.
    pub(super) fn failures(&self, frame: &mut Frame<'_>, area: Rect) {
        let failures = &self.state.document.failures;
        let title = if failures.is_empty() { "no worker has failed" } else { "LAST FAILURES" };
        let mut lines = vec![Line::from(self.span(title, Style::Strong))];
        for failure in failures.iter().rev() {
            lines.push(Line::from(self.span(format!("{} {}", self.clock.local(&failure.time), describe(failure)), Style::Bad)));
            lines.extend(details(failure, LOG_LINES).into_iter().map(|line| Line::from(format!("    {line}"))));
        }
        self.lines(frame, area, lines);
    }

    /// Draws the list of keys.
    pub(super) fn help(&self, frame: &mut Frame<'_>, area: Rect) {
        self.lines(frame, area, HELP.iter().map(|line| Line::from(*line)).collect());
    }

    fn facts(&self, worker: &Worker) -> Vec<Line<'static>> {
        let pid = worker.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
        let mut lines = vec![Line::from(vec![
            self.span(format!("worker {}", worker.id), Style::Strong),
            Span::raw(format!(" (slot {}, generation {}{pid}) ", worker.slot, worker.generation)),
            self.span(clean(&state(worker)), state_style(&worker.state, false)),
            Span::raw(format!(", up {}", self.clock.since(&worker.start_time))),
        ])];
        let known = |name: &str, value: Option<u64>, show: fn(u64) -> String| value.map(|it| format!("{} {name}", show(it)));
        let figures = [
            known("memory", worker.memory_rss, bytes),
            known("cpu", worker.cpu_usec.map(|usec| usec / 1000), span),
            known("open connections", worker.open_connections, number),
            known("connections", worker.connections, number),
            known("requests", worker.requests, number),
            known("read", worker.bytes_read, bytes),
            known("written", worker.bytes_written, bytes),
        ];
        lines.push(Line::from(figures.into_iter().flatten().collect::<Vec<_>>().join(", ")));
        let counters = worker.counters.iter().map(|(name, value)| format!("{}={value}", clean(name))).collect::<Vec<_>>();
        for (label, text) in [
            ("status", worker.status.as_deref().map(clean).unwrap_or_default()),
            ("counters", counters.join(" ")),
            ("info", worker.info.as_ref().map(info).unwrap_or_default()),
        ] {
            if !text.is_empty() {
                lines.push(Line::from(vec![self.span(format!("{label} "), Style::Faint), Span::raw(text)]));
            }
        }
        lines
    }

    /// A table with one line for each connection.
    fn table_of(&self, serving: &[Serving<'_>], of_all: bool) -> Vec<Line<'static>> {
        let mut table = Table::new(&[">FOR", ">WORKER", "STATE", "METHOD", "URL", "CLIENT", ">REQS", "INFO"]);
        for it in serving.iter().take(MOST) {
            let (age, state, method, url, said) = match it.request {
                Some(request) => (
                    &request.start_time,
                    request.state.as_str(),
                    request.method.as_str(),
                    request.url.as_deref().unwrap_or("-"),
                    request.info.as_ref().map(info).unwrap_or_default(),
                ),
                None => (it.connection.idle_since.as_ref().unwrap_or(&it.connection.start_time), "idle", "", "", String::new()),
            };
            table.row(vec![
                Cell::from(if age.parse::<Timestamp>().is_ok() { self.clock.since(age) } else { "-".to_owned() }),
                Cell::from(it.worker.id.to_string()),
                Cell::from(state),
                Cell::from(method),
                Cell::from(crate::cli::screen::cut(&clean(url), 60)),
                Cell::from(peer(it.connection, it.request.and_then(|request| request.ip.as_deref()))),
                Cell::from(number(it.connection.requests)),
                Cell::from(said),
            ]);
        }
        let text = table.render(&Screen { width: None, height: None, colour: false });
        let mut lines = text.lines().map(|line| Line::from(line.to_owned())).collect::<Vec<_>>();
        if let Some(head) = lines.first_mut() {
            *head = head.clone().style(self.look(Style::Faint));
        }
        let hidden = serving.len().saturating_sub(MOST);
        if hidden > 0 {
            let what = if of_all { "requests" } else { "connections" };
            lines.push(Line::from(format!("… and {} more {what}", number(hidden as u64))));
        }
        lines
    }

    /// Draws the lines from the scrolled one on; the last line stays on the screen.
    fn lines(&self, frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'static>>) {
        self.state.reach.set(lines.len().saturating_sub(usize::from(area.height).max(1)));
        let first = self.state.scroll.min(self.state.reach.get());
        let shown = lines.into_iter().skip(first).take(area.height.into()).map(|line| self.cut(line, area.width));
        frame.render_widget(Text::from(shown.collect::<Vec<_>>()), area);
    }
}

/// The address of the client from the request (behind a proxy), else that of the peer.
fn peer(connection: &Connection, client: Option<&str>) -> String {
    match (client.or(connection.remote_address.as_deref()), connection.remote_port) {
        (Some(address), Some(port)) if client.is_none_or(|it| Some(it) == connection.remote_address.as_deref()) => {
            if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
        }
        (Some(address), _) => address.to_owned(),
        (None, _) => "-".to_owned(),
    }
}

/// The application's `info` as `name=value` pairs.
fn info(info: &Map<String, Value>) -> String {
    let pairs = info.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{}={}", clean(name), clean(text)),
        other => format!("{}={}", clean(name), clean(&other.to_string())),
    });
    pairs.collect::<Vec<_>>().join(" ")
}
