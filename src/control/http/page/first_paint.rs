//! The pool as the page shows it before its script runs, or where none runs: the values of the frame, from the status document.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::template::{Escaped, Value, Values};
use crate::status::down::is_down;
use crate::status::tree::{Document, Failure, LastReload, Worker};

/// The most workers that are drawn; the script draws more. It bounds the size of the page.
const WORKERS: usize = 200;
/// From this many slots on, the cells of the pool are small; as in the script.
const MANY: u32 = 48;
/// Columns of the workers' table: head and class; those of the class `more` are left out on a narrow screen.
const COLUMNS: [(&str, &str); 11] = [
    ("slot", "right"),
    ("id", "right more"),
    ("pid", "right more"),
    ("gen", "right"),
    ("state", ""),
    ("up", "right"),
    ("memory", "right"),
    ("CPU", "right more"),
    ("conns", "right"),
    ("requests", "right more"),
    ("status", "wide more"),
];

/// The values for a master that does not answer.
pub(super) fn without_document(host: &str, why: &str) -> Values {
    Values::from([
        ("title", "Ratoon".into()),
        ("instance", "Ratoon".into()),
        ("state", "no answer".into()),
        ("state-class", "bad".into()),
        ("host", host.into()),
        ("alarm", why.into()),
        ("banner-hidden", " hidden".into()),
    ])
}

/// The values for this document, which the reader may see as it is.
pub(super) fn of(document: &Document, host: &str, now: Timestamp) -> Values {
    let (down, paused) = (is_down(document), document.paused && document.state == "running");
    let word = if paused { "paused" } else { document.state.as_str() };
    let (state, class) = match word {
        "running" if down => ("DOWN".to_owned(), "bad"),
        _ if down => (format!("DOWN, {word}"), "bad"),
        _ if document.degraded => (format!("{word}, degraded"), "bad"),
        "running" | "idle" => (word.to_owned(), "good"),
        _ => (word.to_owned(), "busy"),
    };
    let ready = format!("{}/{}", document.workers_ready, document.workers_configured);
    let title = format!("{} {} · Ratoon", if down { "DOWN" } else { ready.as_str() }, document.instance);
    let crashes = match document.worker_crashes {
        0 => "none has failed".to_owned(),
        count => format!("{count} failed so far"),
    };
    let generation = format!("generation {}, up {}, {crashes}", document.generation, since(&document.start_time, now));
    let queues = document.sockets.iter().map(|socket| socket.queue);
    let rooms = document.sockets.iter().map(|socket| socket.queue_max);
    let hidden = |hidden: bool| if hidden { " hidden".into() } else { "".into() };
    let banner = document.last_reload.as_ref().filter(|last| matches!(&*last.result, "rolled-back" | "refused" | "undone"));
    let output = banner.map(|last| last.output.join("\n")).unwrap_or_default();
    let told = if output.is_empty() { "What it printed is hidden here (status.details).".to_owned() } else { output.clone() };
    let (min, max) = (document.workers_min, document.workers_max);
    let bounds = if min < max { format!(", {min} to {max} workers") } else { String::new() };
    let all = document.workers.len();
    let more = if all > WORKERS { format!("and {} more", all - WORKERS) } else { String::new() };
    let master = &document.master;
    let memory = sum(document.workers.iter().map(|it| it.memory_rss));
    Values::from([
        ("title", title.into()),
        ("instance", document.instance.as_str().into()),
        ("state", state.into()),
        ("state-class", class.into()),
        ("line", document.status_text.as_str().into()),
        ("host", host.into()),
        ("release", release(document).into()),
        ("time", moment(&now).into()),
        ("alarm-hidden", " hidden".into()),
        ("banner-hidden", hidden(banner.is_none())),
        ("banner", banner.map(|last| refusal(document, last)).unwrap_or_default().into()),
        ("banner-output-hidden", hidden(output.is_empty() && !document.details_hidden)),
        ("banner-output", told.into()),
        ("ready", ready.into()),
        ("generation", (generation + &bounds).into()),
        ("requests", counted(document.requests, "in all").into()),
        ("queue", sum(queues).map_or_else(|| "–".to_owned(), |it| it.to_string()).into()),
        ("queue-room", sum(rooms).map_or_else(String::new, |room| format!("room for {room}")).into()),
        ("connections", dash(sum(document.workers.iter().map(|it| it.open_connections))).into()),
        ("accepted", counted(document.connections, "accepted so far").into()),
        ("memory", memory.map_or_else(String::new, |it| format!("{} of memory", bytes(it))).into()),
        ("pool-class", if slots(document) > MANY { " class=many" } else { "" }.into()),
        ("pool", Value::Markup(pool(document))),
        ("last-reload", document.last_reload.as_ref().map(reload).unwrap_or_default().into()),
        ("workers", Value::Markup(workers(document, now))),
        ("workers-note", more.into()),
        ("sockets", Value::Markup(sockets(document))),
        ("failures", Value::Markup(failures(document))),
        ("failures-note", if document.failures.is_empty() { "none" } else { "" }.into()),
        ("master", format!("Ratoon {}, pid {}, up {}", document.version, master.pid, since(&master.start_time, now)).into()),
    ])
}

fn dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "–".to_owned(), |it| it.to_string())
}

fn counted(total: Option<u64>, words: &str) -> String {
    total.map_or_else(String::new, |total| format!("{total} {words}"))
}

fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.flatten().fold(None, |sum, value| Some(sum.unwrap_or(0_u64).saturating_add(value)))
}

/// A time to the second, as ISO 8601 has it.
fn moment(time: &Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn told(time: &str) -> String {
    time.parse::<Timestamp>().map_or_else(|_| time.to_owned(), |it| moment(&it))
}

/// The time since an RFC 3339 time: `12 s`, `5m 12s`, `3h 4m`, `2d 7h`.
fn since(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return "–".to_owned() };
    span(now.duration_since(time))
}

fn span(time: SignedDuration) -> String {
    match u64::try_from(time.as_secs()).unwrap_or(0) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        seconds @ 3600..86400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{}d {}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count / 1024),
        1_048_576..1_073_741_824 => format!("{} MiB", count / 1_048_576),
        _ => format!("{} GiB", count / 1_073_741_824),
    }
}

fn release(document: &Document) -> String {
    let Some(release) = &document.release else { return String::new() };
    let of =
        if release.generation == document.generation { String::new() } else { format!(" of generation {}", release.generation) };
    let from = release.committed_at.as_ref().map_or_else(String::new, |at| format!(" since {}", told(at)));
    let elsewhere = match release.path_leads_elsewhere {
        Some(true) => "; the path leads to another release now",
        Some(false) | None => "",
    };
    format!("Release{of}: {} in {}{from}{elsewhere}", release.program, release.directory)
}

/// The text of the banner: what was refused, and why.
fn refusal(document: &Document, last: &LastReload) -> String {
    let detail = last.detail.as_deref().filter(|_| last.output.is_empty());
    let why = [Some(last.reason.as_str()), detail];
    let why = why.into_iter().flatten().filter(|why| !why.is_empty()).collect::<Vec<_>>().join("; ");
    let why = if why.is_empty() { why } else { format!(": {why}") };
    let goes_on = if last.result == "undone" { String::new() } else { format!(" Generation {} goes on.", document.generation) };
    let result = last.result.replace('-', " ");
    format!("{}: the reload to generation {} was {result}{why}.{goes_on}", told(&last.start_time), last.generation)
}

fn reload(last: &LastReload) -> String {
    let why = if last.reason.is_empty() { String::new() } else { format!(": {}", last.reason) };
    let took = span(SignedDuration::from_millis(i64::try_from(last.duration_ms).unwrap_or(i64::MAX)));
    let result = last.result.replace('-', " ");
    format!("Last reload: {} to generation {}, {result} after {took}{why}", told(&last.start_time), last.generation)
}

fn slots(document: &Document) -> u32 {
    document.workers.iter().map(|it| it.slot.saturating_add(1)).max().unwrap_or(0).max(document.workers_configured)
}

/// The class of a worker's state; a state that is not known has none.
fn class(worker: &Worker, committed: u64) -> &'static str {
    match worker.state.as_str() {
        "ready" if worker.generation > committed => "ready fresh",
        "ready" => "ready",
        "starting" => "starting",
        "draining" => "draining",
        _ => "",
    }
}

/// Generations below each other, with a cell for each worker.
fn pool(document: &Document) -> String {
    let shown = &document.workers[..document.workers.len().min(WORKERS)];
    let generations: BTreeSet<u64> = shown.iter().map(|it| it.generation).collect();
    let mut out = String::new();
    for generation in generations {
        let own = || shown.iter().filter(|it| it.generation == generation);
        let ready = own().filter(|it| it.state == "ready").count();
        let role = match generation.cmp(&document.generation) {
            std::cmp::Ordering::Less => "draining",
            std::cmp::Ordering::Equal => "serving",
            std::cmp::Ordering::Greater => "new",
        };
        let _ = write!(
            out,
            "<div class=\"generation\"><p class=\"faint\">generation {generation}, {role}: {ready} of {} ready</p><div class=\"cells\">",
            own().count()
        );
        for worker in own() {
            let text = match worker.open_connections {
                Some(count) if worker.state == "ready" => format!("{count} conn"),
                _ => worker.state.clone(),
            };
            let class = class(worker, document.generation);
            let _ = write!(out, "<span class=\"cell {class}\"><b>{}</b><small>{}</small></span>", worker.slot, Escaped(&text));
        }
        out += "</div></div>";
    }
    out
}

/// A table with these heads and rows, which are texts.
fn table(columns: &[(&str, &str)], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut out = "<thead><tr>".to_owned();
    for (head, class) in columns {
        let _ = write!(out, "<th scope=\"col\" class=\"{class}\">{head}</th>");
    }
    out += "</tr></thead><tbody>";
    for row in rows {
        out += "<tr>";
        for (text, (_, class)) in row.iter().zip(columns) {
            let _ = write!(out, "<td class=\"{class}\">{}</td>", Escaped(text));
        }
        out += "</tr>";
    }
    out + "</tbody>"
}

fn workers(document: &Document, now: Timestamp) -> String {
    if document.workers.is_empty() {
        return String::new();
    }
    table(
        &COLUMNS,
        document.workers.iter().take(WORKERS).map(|it| {
            let cpu = it.cpu_usec.and_then(|usec| i64::try_from(usec).ok()).map(SignedDuration::from_micros);
            vec![
                it.slot.to_string(),
                it.id.to_string(),
                dash(it.pid),
                it.generation.to_string(),
                it.state.clone(),
                since(&it.start_time, now),
                dash(it.memory_rss.map(bytes)),
                dash(cpu.map(span)),
                dash(it.open_connections),
                dash(it.requests),
                it.status.clone().unwrap_or_default(),
            ]
        }),
    )
}

fn sockets(document: &Document) -> String {
    if document.sockets.is_empty() {
        return String::new();
    }
    let columns = [("name", ""), ("address", ""), ("waiting", "right"), ("at most", "right")];
    let row = |it: &crate::status::tree::Socket| vec![it.name.clone(), it.address.clone(), dash(it.queue), dash(it.queue_max)];
    table(&columns, document.sockets.iter().map(row))
}

/// The failures, newest first; those of one generation with the same cause and error are one.
fn failures(document: &Document) -> String {
    let cause = |it: &Failure| if it.cause.is_empty() { it.how.clone() } else { it.cause.clone() };
    let mut groups: Vec<Vec<&Failure>> = Vec::new();
    for it in document.failures.iter().rev() {
        let same = |other: &Failure| (other.generation, cause(other), &other.detail) == (it.generation, cause(it), &it.detail);
        match groups.iter_mut().find(|group| group.first().is_some_and(|other| same(other))) {
            Some(group) => group.push(it),
            None => groups.push(vec![it]),
        }
    }
    let mut out = String::new();
    for (number, group) in groups.iter().enumerate() {
        let Some(newest) = group.first() else { continue };
        let times = if group.len() > 1 { format!("×{}, the last one ", group.len()) } else { String::new() };
        let head = format!(
            "{} · {times}worker {} (slot {}, generation {}): {}",
            told(&newest.time),
            newest.worker,
            newest.slot,
            newest.generation,
            cause(newest)
        );
        let open = if number == 0 { " open" } else { "" };
        let _ = write!(out, "<details{open}><summary>{}</summary>", Escaped(&head));
        if let Some(detail) = &newest.detail {
            let _ = write!(out, "<p>{}</p>", Escaped(detail));
        }
        if !newest.log_tail.is_empty() {
            let _ = write!(out, "<pre>{}</pre>", Escaped(&newest.log_tail.join("\n")));
        }
        out += "</details>";
    }
    out
}

#[cfg(test)]
#[path = "first_paint_tests.rs"]
mod tests;
