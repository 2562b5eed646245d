//! Formats the status document for reading on a screen. Pure: the time is an argument, so that a test can record the screen.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::comparison::comparison;
use super::screen::{Screen, Style, bytes, clean, number, span, wrapped};
use super::table::{Cell, Table};
use crate::status::down::is_down;
use crate::status::hint::hint;
use crate::status::tree::{CurrentRelease, Document, Failure, Preload, Worker};

/// Number of failures that are shown, the last ones.
const FAILURES: usize = 3;
/// Number of lines of a failed worker that are shown.
const LOG_LINES: usize = 5;

/// Number of workers that are shown at least, even on a small screen.
const WORKERS: usize = 4;

/// The line below the failures when their details are hidden.
const HIDDEN: &str = "what they printed is hidden from this user: ask with sudo or as a member of adm, or set status.details";

/// The beginning of a line with a hint.
pub(super) const HINT: &str = "hint: ";

/// The present time and the time zone.
pub(super) struct Clock {
    pub(super) now: Timestamp,
    pub(super) zone: TimeZone,
}

impl Clock {
    /// An RFC 3339 time in the local time zone.
    pub(super) fn local(&self, time: &str) -> String {
        match time.parse::<Timestamp>() {
            Ok(at) => at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            Err(_) => clean(time),
        }
    }

    /// The time that has passed since an RFC 3339 time; 0 if the clock was set back.
    pub(super) fn since(&self, time: &str) -> String {
        match time.parse::<Timestamp>() {
            Ok(at) => milliseconds(self.now.duration_since(at)),
            Err(_) => "-".to_owned(),
        }
    }
}

fn milliseconds(duration: SignedDuration) -> String {
    span(u64::try_from(duration.max(SignedDuration::ZERO).as_millis()).unwrap_or(0))
}

/// The style of the state of a pool or a worker.
pub(super) fn state_style(state: &str, degraded: bool) -> Style {
    match state {
        _ if degraded => Style::Bad,
        "running" | "ready" | "idle" => Style::Good,
        _ => Style::Busy,
    }
}

/// The state of an instance as a word: `paused` in place of `running`.
pub(super) fn state_word(state: &str, paused: bool) -> &str {
    if paused && state == "running" { "paused" } else { state }
}

/// The whole text. On a terminal it has the workers that fit on the screen, in a pipe all workers.
pub(super) fn view(document: &Document, clock: &Clock, screen: &Screen) -> String {
    let head = head(document, clock, screen);
    let mut below = String::new();
    if !document.sockets.is_empty() {
        below += "\n";
        below += &sockets(document, screen);
    }
    if !document.failures.is_empty() {
        below += "\n";
        below += &failures(document, clock, screen);
    }
    if document.workers.is_empty() {
        return head + &below;
    }
    // Three more lines: an empty line, the head of the workers' table, and the prompt of the shell.
    let others = head.lines().count() + below.lines().count() + 3;
    let room = screen.height.map_or(usize::MAX, |height| height.saturating_sub(others).max(WORKERS));
    let (shown, hidden) = chosen(document, room);
    let mut out = head + "\n" + &workers(&shown, document.generation, clock, screen);
    if !hidden.is_empty() {
        let states = hidden.iter().map(|(state, count)| format!("{} {state}", number(*count))).collect::<Vec<_>>().join(", ");
        out += &screen.paint(
            &screen.cut(&format!("and {states}; `ratoon status {} | less` has all", clean(&document.instance))),
            Style::Faint,
        );
        out.push('\n');
    }
    out + &below
}

/// The workers for which there is room, in the document's order, and the number of the other workers by state. Workers that are not
/// ready, or not of the committed generation, are chosen first.
fn chosen(document: &Document, room: usize) -> (Vec<&Worker>, BTreeMap<String, u64>) {
    let mut hidden = BTreeMap::new();
    if document.workers.len() <= room {
        return (document.workers.iter().collect(), hidden);
    }
    let plain = |worker: &&Worker| worker.state == "ready" && worker.generation == document.generation;
    // One line is for the counts of the hidden workers.
    let mut left = room.saturating_sub(1);
    let mut odd = left.min(document.workers.iter().filter(|worker| !plain(worker)).count());
    left -= odd;
    let shown = document.workers.iter().filter(|worker| {
        let places = if plain(worker) { &mut left } else { &mut odd };
        let shown = *places > 0;
        *places = places.saturating_sub(1);
        if !shown {
            *hidden.entry(clean(&worker.state)).or_default() += 1;
        }
        shown
    });
    (shown.collect(), hidden)
}

/// The release that runs, since when, and whether a reload would bring another one.
fn shown_release(release: &CurrentRelease, clock: &Clock) -> String {
    let since = release.committed_at.as_ref().map_or(String::new(), |at| format!(" since {}", clock.local(at)));
    let elsewhere = match release.path_leads_elsewhere {
        Some(true) => "; the path leads to another release now",
        Some(false) | None => "",
    };
    format!("{} in {}{since}{elsewhere}", clean(&release.program), clean(&release.directory))
}

/// The preload process: its state, pid and memory.
pub(super) fn shown_preload(preload: &Preload) -> String {
    let mut text = clean(&preload.state);
    if let Some(pid) = preload.pid {
        text += &format!(", pid {pid}");
    }
    if let Some(memory) = preload.memory_pss {
        text += &format!(", memory {}", bytes(memory));
    }
    text
}

/// The bounds of an elastic pool and its load: `1 to 16 workers, 78% busy by cpu-time`; `None` for another pool.
fn scale(document: &Document) -> Option<String> {
    let (min, max, scale) = (document.workers_min, document.workers_max, &document.scale);
    let busy =
        scale.busy_percent.map(|busy| format!(", {busy}% busy by {}", clean(scale.measured_by.as_deref().unwrap_or("load"))));
    let fixed = if scale.fixed { ", fixed until `ratoon scale auto`" } else { "" };
    (min < max).then(|| format!("{min} to {max} workers{}{fixed}", busy.unwrap_or_default()))
}

/// The first line: the instance, its state, its generation and its workers. It is an alarm when nobody serves.
fn first_line(document: &Document, screen: &Screen) -> String {
    let state = shown_state(document);
    let rest = format!(", generation {}, {}/{} ready", document.generation, document.workers_ready, document.workers_configured);
    if is_down(document) {
        return screen.paint(&format!("{} {state}{rest}", clean(&document.instance)), Style::Alarm) + "\n";
    }
    let style = match document.workers_ready {
        0 if !document.paused && !document.idle => Style::Bad,
        _ => state_style(state_word(&document.state, document.paused), document.degraded),
    };
    format!("{} {}{rest}\n", screen.paint(&clean(&document.instance), Style::Strong), screen.paint(&state, style))
}

/// The state in words: `running`, `running, degraded`, or `DOWN (running, degraded)` when nobody serves.
pub(super) fn shown_state(document: &Document) -> String {
    let degraded = if document.degraded { ", degraded" } else { "" };
    let state = format!("{}{degraded}", clean(state_word(&document.state, document.paused)));
    if is_down(document) { format!("DOWN ({state})") } else { state }
}

fn head(document: &Document, clock: &Clock, screen: &Screen) -> String {
    let mut out = first_line(document, screen);
    let mut line = |label: &str, text: String| {
        // A reason is wrapped and not cut, because it must be complete; the label has 11 columns.
        let room = screen.width.filter(|_| matches!(label, "status" | "reload")).map(|width| width.saturating_sub(11));
        for (number, part) in wrapped(&text, room).iter().enumerate() {
            let label = if number == 0 { label } else { "" };
            out += &screen.cut(&format!("  {label:<9}{part}"));
            out.push('\n');
        }
    };
    if !document.status_text.is_empty() {
        line("status", clean(&document.status_text));
    }
    if let Some(left) = document.resumes_in_ms {
        line("pause", format!("ends by itself in {}", span(left)));
    }
    if let Some(took) = document.last_wake_ms {
        line("woken", format!("last time a worker was ready {} after the first connection", span(took)));
    }
    if let Some(scale) = scale(document) {
        line("scale", scale);
    }
    let crashes = match document.worker_crashes {
        0 => "no worker has failed".to_owned(),
        1 => "1 worker has failed".to_owned(),
        count => format!("{} workers have failed", number(count)),
    };
    line("since", format!("{} ({}), {crashes}", clock.local(&document.start_time), clock.since(&document.start_time)));
    if let Some(release) = &document.release {
        line("release", shown_release(release, clock));
    }
    if let Some((label, text)) = comparison(document) {
        line(label, text);
    }
    if let Some(last) = &document.last_reload {
        // The status has the reason of a reload that was not committed; it is told once.
        let is_told = last.reason.is_empty() || document.status_text.contains(&last.reason);
        let reason = if is_told { String::new() } else { format!(": {}", clean(&last.reason)) };
        line(
            "reload",
            format!(
                "{} to generation {} {} after {}{reason}",
                clock.local(&last.start_time),
                last.generation,
                clean(&last.result).replace('-', " "),
                span(last.duration_ms),
            ),
        );
    }
    let master = &document.master;
    let mut text = format!("pid {}, version {}", master.pid, clean(&document.version));
    if let Some(memory) = master.memory_pss.or(master.memory_rss) {
        text += &format!(", memory {}", bytes(memory));
    }
    if let Some(cpu) = master.cpu_usec {
        text += &format!(", cpu {}", span(cpu / 1000));
    }
    if let Some(preload) = &document.preload {
        line("preload", shown_preload(preload));
    }
    line("master", text + &format!(", up {}", clock.since(&master.start_time)));
    let known = |value: Option<u64>, show: fn(u64) -> String, unit: &str| value.map(|it| format!("{}{unit}", show(it)));
    if let Some(unlisted) = unlisted(document.workers.iter().filter_map(|worker| worker.unlisted_connections).sum()) {
        line("unlisted", unlisted);
    }
    let served = [
        known(document.connections, number, " connections"),
        known(document.requests, number, " requests"),
        known(document.bytes_read, bytes, " read"),
        known(document.bytes_written, bytes, " written"),
    ];
    let mut served = served.into_iter().flatten().collect::<Vec<_>>();
    served.extend(document.counters.iter().map(|(name, value)| format!("{} {value}", clean(name))));
    if !served.is_empty() {
        line("served", served.join(", "));
    }
    out
}

fn workers(shown: &[&Worker], generation: u64, clock: &Clock, screen: &Screen) -> String {
    let mut table = Table::new(&[">SLOT", ">ID", ">PID", ">GEN", "STATE", ">UP", ">MEM", ">CPU", ">CONNS", ">REQS", "STATUS"]);
    let or_dash = |value: Option<String>| Cell::from(value.unwrap_or_else(|| "-".to_owned()));
    for worker in shown {
        let old = if worker.generation == generation { Style::Plain } else { Style::Busy };
        table.row(vec![
            Cell::from(worker.slot.to_string()),
            Cell::from(worker.id.to_string()),
            or_dash(worker.pid.map(|pid| pid.to_string())),
            Cell::styled(&worker.generation.to_string(), old),
            Cell::styled(&state(worker), state_style(&worker.state, false)),
            Cell::from(clock.since(&worker.start_time)),
            or_dash(worker.memory_rss.map(bytes)),
            or_dash(worker.cpu_usec.map(|cpu| span(cpu / 1000))),
            or_dash(worker.open_connections.map(number)),
            or_dash(worker.requests.map(number)),
            Cell::from(worker.status.as_deref().unwrap_or("")),
        ]);
    }
    table.render(screen)
}

/// The state of a worker. For a draining worker it tells whether the worker holds its listening socket, because it may then accept.
pub(super) fn state(worker: &Worker) -> String {
    match (worker.state.as_str(), worker.listening) {
        ("draining", Some(true)) => "draining, still listens".to_owned(),
        ("ready", _) if worker.avoided.is_some() => "ready, avoided".to_owned(),
        ("ready", _) if worker.accepting == Some(false) => "ready, not accepting".to_owned(),
        (state, _) => state.to_owned(),
    }
}

fn sockets(document: &Document, screen: &Screen) -> String {
    let mut table = Table::new(&[">FD", "SOCKET", "ADDRESS", ">QUEUE", ">MAX"]);
    // The number of the descriptor in a worker.
    for (fd, socket) in (3..).zip(&document.sockets) {
        let figure = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |it| it.to_string());
        // A queue that is full refuses clients.
        let full = socket.queue.zip(socket.queue_max).is_some_and(|(queue, most)| {
            let queues = socket.slots.len().max(1) as u64;
            let longest = socket.slots.iter().flatten().copied().max().unwrap_or(queue);
            most > 0 && longest >= most / queues
        });
        let longest = (0..).zip(&socket.slots).filter_map(|(slot, queue): (u32, _)| Some(((*queue)?, slot))).max();
        let of_slot =
            longest.filter(|(queue, _)| *queue > 0).map_or_else(String::new, |(queue, slot)| format!(" (slot {slot}: {queue})"));
        table.row(vec![
            Cell::from(fd.to_string()),
            Cell::from(&socket.name),
            Cell::from(&socket.address),
            Cell::styled(&(figure(socket.queue) + &of_slot), if full { Style::Bad } else { Style::Plain }),
            Cell::from(figure(socket.queue_max)),
        ]);
    }
    table.render(screen)
}

fn failures(document: &Document, clock: &Clock, screen: &Screen) -> String {
    let shown = document.failures.len().min(FAILURES);
    let title = match document.failures.len() {
        1 => "LAST FAILURE".to_owned(),
        all if all > shown => format!("LAST FAILURES ({shown} of {all}; --json has all)"),
        _ => "LAST FAILURES".to_owned(),
    };
    let mut out = screen.paint(&screen.cut(&title), Style::Faint) + "\n";
    for failure in document.failures.iter().rev().take(FAILURES) {
        let line = format!("{} {}", clock.local(&failure.time), describe(failure));
        out += &screen.paint(&screen.cut(&line), Style::Bad);
        out.push('\n');
        for line in details(failure, LOG_LINES) {
            // A hint is wrapped and not cut, because it must be complete.
            let room = screen.width.filter(|_| line.starts_with(HINT)).map(|width| width.saturating_sub(4));
            for line in wrapped(&line, room) {
                out += &screen.cut(&format!("    {line}"));
                out.push('\n');
            }
        }
    }
    if document.details_hidden {
        out += &screen.paint(&screen.cut(&format!("    {HIDDEN}")), Style::Faint);
        out.push('\n');
    }
    out
}

/// A failure in one line: `worker 12 (slot 2, generation 8): exit 1 before it was ready`.
pub(super) fn describe(failure: &Failure) -> String {
    // An older master sends no cause.
    let cause = if failure.cause.is_empty() { &failure.how } else { &failure.cause };
    format!("worker {} (slot {}, generation {}): {}", failure.worker, failure.slot, failure.generation, clean(cause))
}

/// The details of a failure: the last status, requests in work, the line that looks like the error, printed lines, and a hint.
pub(super) fn details(failure: &Failure, log_lines: usize) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(status) = failure.last_status.as_deref().filter(|status| !status.is_empty()) {
        lines.push(format!("status: {}", clean(status)));
    }
    for request in &failure.serving {
        let times = (request.start_time.parse::<Timestamp>(), failure.time.parse::<Timestamp>());
        let took = match times {
            (Ok(begun), Ok(ended)) => format!(" for {}", milliseconds(ended.duration_since(begun))),
            _ => String::new(),
        };
        let url = request.url.as_deref().map_or_else(String::new, |url| format!(" {}", clean(url)));
        lines.push(format!("while serving {}{url}{took}", clean(&request.method)));
    }
    lines.extend(printed(failure.detail.as_deref(), &failure.log_head, &failure.log_tail, log_lines));
    if failure.serving_unlisted > 0 {
        lines.push(format!("while serving {} more requests that its page had no room for", failure.serving_unlisted));
    }
    if let Some(changed) = &failure.release_changed {
        lines.push(format!("its release is not what it was: {}", clean(changed)));
    }
    lines.extend(hint(&failure.how, &failure.log_tail).map(|hint| format!("{HINT}{hint}")));
    lines
}

/// The line with the number of connections that are not shown; `None` when there are none.
pub(super) fn unlisted(count: u64) -> Option<String> {
    (count > 0).then(|| format!("{} more connections have no room on the workers' pages", number(count)))
}

/// The line of a program's output that looks like the error, and at most `log_lines` lines of the output: the last ones, and if no
/// line looks like the error, also the first ones.
pub(super) fn printed(detail: Option<&str>, head: &[String], tail: &[String], log_lines: usize) -> Vec<String> {
    let quoted = |line: &String| format!("| {}", clean(line));
    let first = if detail.is_some() { &[] } else { &head[..head.len().min(log_lines / 2)] };
    let room = log_lines - first.len();
    let last = &tail[tail.len().saturating_sub(room)..];
    let is_shown = |detail: &str| last.iter().any(|line| line.trim() == detail);
    let mut lines: Vec<String> = detail.filter(|detail| !is_shown(detail)).map(clean).into_iter().collect();
    lines.extend(first.iter().map(quoted));
    if !first.is_empty() {
        lines.push("| …".to_owned());
    }
    lines.extend(last.iter().map(quoted));
    lines
}

#[cfg(test)]
#[path = "status_view_tests.rs"]
mod tests;
