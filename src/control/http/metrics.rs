//! `GET /metrics`: the document as OpenMetrics 1.0 text; as Prometheus's older text format for who asks for that alone.
//!
//! Law: what is not known is left out, never 0. Names and units are stable, and samples have the same names in both formats:
//! a dashboard depends on them.

use std::fmt::{Display, Write};

use hyper::StatusCode;
use hyper::header::HeaderValue;

use super::accept;
use super::answer::{Answer, Reply, answer, error};
use super::reads::{document, off_loop};
use super::routes::Call;
use crate::status::tree::{Document, Worker};

/// Answers with all figures of this moment.
pub(super) async fn metrics(call: Call<'_>) -> Answer {
    let (document, permit) = match document(&call).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let format = match accept::prefers(call.headers, "text/plain", "application/openmetrics-text") {
        true => Format::Classic,
        false => Format::OpenMetrics,
    };
    match off_loop(document, move |document| render(document, format)).await {
        Some(text) => answer(StatusCode::OK, format.kind(), Reply::whole(text).with_permit(permit)),
        None => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written out"),
    }
}

/// How the figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4: families are named as their samples, and have neither units nor the types `info` and
    /// `stateset`. `promtool check metrics` reads this one.
    Classic,
}

impl Format {
    fn kind(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        })
    }
}

/// The whole exposition, `# EOF` included where the format has it.
pub(super) fn render(document: &Document, format: Format) -> String {
    let mut text = Text { text: String::with_capacity(4096), instance: &document.instance, format };
    pool(&mut text, document);
    counts(&mut text, document);
    reload(&mut text, document);
    sockets(&mut text, document);
    slots(&mut text, document);
    workers(&mut text, document);
    if format == Format::OpenMetrics {
        text.text.push_str("# EOF\n");
    }
    text.text
}

fn pool(text: &mut Text<'_>, document: &Document) {
    text.family("ratoon", "info", "", "The master's program.");
    text.sample("ratoon_info", &[("version", &document.version)], Some(1));
    text.family("ratoon_state", "stateset", "", "What the pool is doing.");
    for state in ["starting", "running", "reloading", "stopping"] {
        text.sample("ratoon_state", &[("ratoon_state", &state)], Some(u8::from(document.state == state)));
    }
    text.one("ratoon_degraded", "gauge", "", "1 while workers crash more often than allowed.", Some(u8::from(document.degraded)));
    text.one("ratoon_generation", "gauge", "", "The committed generation.", Some(document.generation));
    text.one("ratoon_start_time_seconds", "gauge", "seconds", "When the instance began.", seconds(&document.start_time));
    text.one("ratoon_workers_configured", "gauge", "", "Workers that there should be.", Some(document.workers_configured));
    text.one(
        "ratoon_workers_ready",
        "gauge",
        "",
        "Workers of the committed generation that are ready.",
        Some(document.workers_ready),
    );
    text.one(
        "ratoon_worker_crashes",
        "counter",
        "",
        "Workers that ended without having been asked to.",
        Some(document.worker_crashes),
    );
    text.one("ratoon_connections", "counter", "", "Connections accepted.", document.connections);
    text.one("ratoon_requests", "counter", "", "Requests served.", document.requests);
    text.one("ratoon_read_bytes", "counter", "bytes", "Bytes read from clients.", document.bytes_read);
    text.one("ratoon_written_bytes", "counter", "bytes", "Bytes written to clients.", document.bytes_written);
    let counters = document.counters.iter().filter(|(_, value)| value.is_finite() && **value >= 0.0).collect::<Vec<_>>();
    if !counters.is_empty() {
        text.family("ratoon_application", "counter", "", "The application's own counters.");
        for (name, value) in counters {
            text.sample("ratoon_application_total", &[("counter", name)], Some(value));
        }
    }
    let master = &document.master;
    text.one("ratoon_master_memory_rss_bytes", "gauge", "bytes", "Resident memory of the master.", master.memory_rss);
    text.one("ratoon_master_memory_pss_bytes", "gauge", "bytes", "Proportional memory of the master.", master.memory_pss);
    text.one("ratoon_master_cpu_seconds", "counter", "seconds", "CPU time of the master.", master.cpu_usec.map(Micros));
}

fn counts(text: &mut Text<'_>, document: &Document) {
    if !document.failures_by_cause.is_empty() {
        let help = "Workers that failed, by cause; each of a serving generation is replaced.";
        text.family("ratoon_worker_failures", "counter", "", help);
        for (cause, count) in &document.failures_by_cause {
            text.sample("ratoon_worker_failures_total", &[("cause", cause)], Some(count));
        }
    }
    if !document.reloads.is_empty() {
        text.family("ratoon_reload_duration_seconds", "summary", "seconds", "Reloads by result, and how long they took.");
        for (result, reloads) in &document.reloads {
            text.sample("ratoon_reload_duration_seconds_count", &[("result", result)], Some(reloads.count));
            let took = Micros(reloads.duration_ms.saturating_mul(1000));
            text.sample("ratoon_reload_duration_seconds_sum", &[("result", result)], Some(took));
        }
    }
}

fn reload(text: &mut Text<'_>, document: &Document) {
    let Some(last) = &document.last_reload else { return };
    text.family("ratoon_last_reload_result", "stateset", "", "How the last reload ended.");
    for result in ["committed", "rolled-back", "refused", "aborted"] {
        let labels: &[(&str, &dyn Display)] = &[("ratoon_last_reload_result", &result)];
        text.sample("ratoon_last_reload_result", labels, Some(u8::from(last.result == result)));
    }
    text.one(
        "ratoon_last_reload_generation",
        "gauge",
        "",
        "The generation that the last reload wanted to bring.",
        Some(last.generation),
    );
    text.one(
        "ratoon_last_reload_start_time_seconds",
        "gauge",
        "seconds",
        "When the last reload began.",
        seconds(&last.start_time),
    );
    let duration = Micros(last.duration_ms.saturating_mul(1000));
    text.one("ratoon_last_reload_duration_seconds", "gauge", "seconds", "How long the last reload took.", Some(duration));
}

fn sockets(text: &mut Text<'_>, document: &Document) {
    type Figure = fn(&crate::status::tree::Socket) -> Option<u64>;
    let families: [(&str, &str, Figure); 2] = [
        ("ratoon_socket_queue", "Connections that wait to be accepted.", |socket| socket.queue),
        ("ratoon_socket_queue_max", "Connections that may wait.", |socket| socket.queue_max),
    ];
    for (name, help, figure) in families {
        if document.sockets.iter().all(|socket| figure(socket).is_none()) {
            continue;
        }
        text.family(name, "gauge", "", help);
        for (number, socket) in document.sockets.iter().enumerate() {
            // Two sockets may share name and address (SO_REUSEPORT); the number keeps them apart.
            let labels: &[(&str, &dyn Display)] = &[("socket", &number), ("name", &socket.name), ("address", &socket.address)];
            text.sample(name, labels, figure(socket));
        }
    }
}

fn slots(text: &mut Text<'_>, document: &Document) {
    if document.sockets.iter().all(|socket| socket.slots.is_empty()) {
        return;
    }
    text.family(
        "ratoon_socket_slot_queue",
        "gauge",
        "",
        "Connections that wait in the queue of a slot (worker.balance is per-slot).",
    );
    for (number, socket) in document.sockets.iter().enumerate() {
        for (slot, queue) in socket.slots.iter().enumerate() {
            text.sample("ratoon_socket_slot_queue", &[("socket", &number as &dyn Display), ("slot", &slot)], *queue);
        }
    }
}

fn workers(text: &mut Text<'_>, document: &Document) {
    if document.workers.is_empty() {
        return;
    }
    text.family("ratoon_worker", "info", "", "The living workers.");
    for worker in &document.workers {
        let labels: &[(&str, &dyn Display)] = &[
            ("slot", &worker.slot),
            ("worker", &worker.id),
            ("generation", &worker.generation),
            ("pid", &worker.pid.map_or_else(String::new, |pid| pid.to_string())),
            ("state", &worker.state),
        ];
        text.sample("ratoon_worker_info", labels, Some(1));
    }
    text.per_worker(document, "ratoon_worker_start_time_seconds", "gauge", "seconds", "When it was started.", |it| {
        seconds(&it.start_time)
    });
    text.per_worker(document, "ratoon_worker_memory_rss_bytes", "gauge", "bytes", "Resident memory.", |it| it.memory_rss);
    text.per_worker(document, "ratoon_worker_cpu_seconds", "counter", "seconds", "CPU time.", |it| it.cpu_usec.map(Micros));
    text.per_worker(document, "ratoon_worker_open_connections", "gauge", "", "Connections that it holds.", |it| {
        it.open_connections
    });
    text.per_worker(document, "ratoon_worker_connections", "counter", "", "Connections accepted.", |it| it.connections);
    text.per_worker(document, "ratoon_worker_requests", "counter", "", "Requests served.", |it| it.requests);
    text.per_worker(document, "ratoon_worker_read_bytes", "counter", "bytes", "Bytes read from clients.", |it| it.bytes_read);
    text.per_worker(document, "ratoon_worker_written_bytes", "counter", "bytes", "Bytes written to clients.", |it| {
        it.bytes_written
    });
}

/// The text as it grows. Every sample carries the instance's name.
struct Text<'a> {
    text: String,
    instance: &'a str,
    format: Format,
}

impl Text<'_> {
    /// Head of a family; a counter's samples then end in `_total`, an info's in `_info`. `help`: without quotes, backslashes
    /// and line breaks, which each format escapes in its own way.
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        let sample = sample_name(name, kind);
        let (name, kind, unit) = match (self.format, kind) {
            (Format::OpenMetrics, _) => (name, kind, unit),
            (Format::Classic, "info" | "stateset") => (&*sample, "gauge", ""),
            (Format::Classic, _) => (&*sample, kind, ""),
        };
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.text, "# HELP {name} {help}");
    }

    /// One sample, when its value is known.
    fn sample<T: Display>(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: Option<T>) {
        let Some(value) = value else { return };
        let _ = write!(self.text, "{name}{{instance=\"{}\"", Escaped(&self.instance));
        for (label, content) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", Escaped(content));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    /// A family of one sample; left out when the value is not known.
    fn one<T: Display>(&mut self, name: &str, kind: &str, unit: &str, help: &str, value: Option<T>) {
        if value.is_some() {
            self.family(name, kind, unit, help);
            self.sample(&sample_name(name, kind), &[], value);
        }
    }

    /// A family with a sample for each worker whose value is known; left out when none is.
    fn per_worker<T: Display>(
        &mut self,
        document: &Document,
        name: &str,
        kind: &str,
        unit: &str,
        help: &str,
        figure: impl Fn(&Worker) -> Option<T>,
    ) {
        let mut begun = false;
        for worker in &document.workers {
            let Some(value) = figure(worker) else { continue };
            if !begun {
                self.family(name, kind, unit, help);
                begun = true;
            }
            self.sample(&sample_name(name, kind), &[("slot", &worker.slot), ("worker", &worker.id)], Some(value));
        }
    }
}

fn sample_name(family: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{family}_total"),
        "info" => format!("{family}_info"),
        _ => family.to_owned(),
    }
}

/// A label's value: backslash, quote and newline are escaped, as the format demands.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Microseconds, shown as seconds.
struct Micros(u64);

impl Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// An RFC 3339 time as seconds since 1970.
fn seconds(time: &str) -> Option<String> {
    let at: jiff::Timestamp = time.parse().ok()?;
    let micros = u64::try_from(at.as_microsecond()).ok()?;
    Some(Micros(micros).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tree::{LastReload, Socket};

    fn document() -> Document {
        serde_json::from_str(include_str!("../../cli/recorded/busy.json")).unwrap()
    }

    #[test]
    fn the_whole_of_a_busy_pool() {
        insta::assert_snapshot!(render(&document(), Format::OpenMetrics));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let text = render(&Document { instance: "web".into(), ..Document::default() }, Format::OpenMetrics);
        for name in ["ratoon_requests", "ratoon_worker_info", "ratoon_last_reload", "ratoon_socket", "ratoon_master_memory"] {
            assert!(!text.contains(name), "{name}: {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn labels_are_escaped() {
        let nasty = "a\"b\\c\nd";
        let socket = Socket { name: nasty.into(), address: "x".into(), queue: Some(1), queue_max: None, slots: Vec::new() };
        let text =
            render(&Document { instance: nasty.into(), sockets: vec![socket], ..Document::default() }, Format::OpenMetrics);
        assert!(text.contains(r#"{instance="a\"b\\c\nd",socket="0",name="a\"b\\c\nd",address="x"} 1"#), "{text}");
    }

    #[test]
    fn every_line_is_a_sample_of_the_family_above_it() {
        let mut document = document();
        document.last_reload = Some(LastReload { result: "committed".into(), ..LastReload::default() });
        document.counters.insert("broken".into(), f64::INFINITY);
        document.counters.insert("negative".into(), -1.0);
        document.sockets[0].slots = vec![Some(1), None];
        let [ours, classic] = [Format::OpenMetrics, Format::Classic].map(|format| render(&document, format));
        heads_and_samples(&ours, Format::OpenMetrics);
        heads_and_samples(&classic, Format::Classic);
        // What a dashboard asks for has one name.
        let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(samples(&ours), samples(&classic));
        assert!(!classic.contains("# EOF") && !classic.contains("# UNIT"));
        assert!(classic.contains("# TYPE ratoon_info gauge\n") && classic.contains("# TYPE ratoon_requests_total counter\n"));
    }

    fn heads_and_samples(text: &str, format: Format) {
        let (mut family, mut kind, mut families) = ("", "", Vec::new());
        for line in text.lines().take_while(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                (family, kind) = rest.split_once(' ').unwrap();
                assert!(!families.contains(&family), "{family} twice");
                families.push(family);
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').unwrap();
                assert!(name == family && name.ends_with(unit), "{line}");
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(name == family && !help.contains(['"', '\\']), "{line}");
            } else {
                let (name, rest) = line.split_once('{').unwrap();
                let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} below {family}"));
                let suffixes: &[&str] = match (kind, format) {
                    ("counter", Format::OpenMetrics) => &["_total"],
                    ("info", Format::OpenMetrics) => &["_info"],
                    ("summary", _) => &["_count", "_sum"],
                    ("stateset", Format::OpenMetrics) | ("gauge", _) => &[""],
                    ("counter", Format::Classic) if name.ends_with("_total") => &[""],
                    _ => panic!("{line} of the kind {kind}"),
                };
                assert!(suffixes.contains(&suffix), "{line}");
                let value = rest.rsplit_once("} ").unwrap().1.parse::<f64>().unwrap();
                assert!(value.is_finite() && value >= 0.0, "{line}");
            }
        }
        assert!(families.len() > 25, "{families:?}");
        assert!(!text.contains("broken") && !text.contains("negative"));
    }
}
