//! `GET /metrics`: the document as OpenMetrics 1.0 text, or as Prometheus's older text format for a client that prefers that.
//!
//! Law: an unknown figure is left out, never 0. Names and units are stable, and samples have the same names in both formats,
//! because dashboards depend on them.

mod deploys;
mod slots;
mod text;

use std::fmt::Display;

use hyper::StatusCode;

use super::accept;
use super::answer::{Answer, Reply, answer, error};
use super::call::Call;
use super::reads::{document, off_loop};
use crate::pool::PoolState;
use crate::status::tree::{Document, RELOAD_BOUNDS_MS};
use text::{Format, Micros, Text, seconds};

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

/// The whole exposition, with `# EOF` where the format has it.
pub(super) fn render(document: &Document, format: Format) -> String {
    let mut text = Text { text: String::with_capacity(4096), instance: &document.instance, format };
    pool(&mut text, document);
    preload(&mut text, document);
    counts(&mut text, document);
    deploys::deploys(&mut text, document);
    sockets(&mut text, document);
    slots(&mut text, document);
    slots::workers(&mut text, document);
    limits(&mut text, document);
    if format == Format::OpenMetrics {
        text.text.push_str("# EOF\n");
    }
    text.text
}

fn pool(text: &mut Text<'_>, document: &Document) {
    text.family("ratoon", "info", "", "The master's program.");
    text.sample("ratoon_info", &[("version", &document.version)], Some(1));
    text.family("ratoon_state", "stateset", "", "What the pool is doing.");
    for state in PoolState::ALL.map(PoolState::as_str) {
        text.sample("ratoon_state", &[("ratoon_state", &state)], Some(u8::from(document.state == state)));
    }
    text.one("ratoon_degraded", "gauge", "", "1 while workers crash more often than allowed.", Some(u8::from(document.degraded)));
    text.one(
        "ratoon_paused",
        "gauge",
        "",
        "1 while the instance is paused and connections wait.",
        Some(u8::from(document.paused)),
    );
    text.one(
        "ratoon_idle",
        "gauge",
        "",
        "1 while the instance has no worker until the first connection.",
        Some(u8::from(document.idle)),
    );
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
    let (min, max) = (document.workers_min, document.workers_max);
    text.one("ratoon_workers_min", "gauge", "", "Least number of workers by the configuration.", Some(min));
    text.one("ratoon_workers_max", "gauge", "", "Largest number of workers by the configuration.", Some(max));
    let at_max = u8::from(document.at_max);
    text.one("ratoon_at_max", "gauge", "", "1 while connections wait with the largest number of workers.", Some(at_max));
    text.one(
        "ratoon_worker_crashes",
        "counter",
        "",
        "Workers that ended without having been asked to.",
        Some(document.worker_crashes),
    );
    // For a worker without a page it is unknown whether it is busy.
    let in_work: Vec<u64> = document.workers.iter().filter_map(|worker| worker.requests_in_work).collect();
    let (sum, busy) = (in_work.iter().sum::<u64>(), in_work.iter().filter(|requests| **requests > 0).count());
    let known = !in_work.is_empty();
    text.one("ratoon_requests_in_work", "gauge", "", "Requests in work.", known.then_some(sum));
    text.one("ratoon_workers_busy", "gauge", "", "Workers with a request in work.", known.then_some(busy));
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

/// The preload process; nothing without `worker.preload`.
fn preload(text: &mut Text<'_>, document: &Document) {
    let Some(preload) = &document.preload else { return };
    text.one(
        "ratoon_preload_ready",
        "gauge",
        "",
        "1 while the preload process can fork workers.",
        Some(u8::from(preload.state == "ready")),
    );
    text.one(
        "ratoon_preload_memory_pss_bytes",
        "gauge",
        "bytes",
        "Proportional memory of the preload process.",
        preload.memory_pss,
    );
}

fn counts(text: &mut Text<'_>, document: &Document) {
    if !document.failures_by_cause.is_empty() {
        let help = "Workers that failed, by cause; each of a serving generation is replaced.";
        text.family("ratoon_worker_failures", "counter", "", help);
        for (cause, count) in &document.failures_by_cause {
            text.sample("ratoon_worker_failures_total", &[("cause", cause)], Some(count));
        }
    }
    if !document.recycled_by_reason.is_empty() {
        text.family("ratoon_worker_recycles", "counter", "", "Workers that were recycled, by reason.");
        for (reason, count) in &document.recycled_by_reason {
            text.sample("ratoon_worker_recycles_total", &[("reason", reason)], Some(count));
        }
    }
    if !document.reloads.is_empty() {
        text.family("ratoon_reload_duration_seconds", "histogram", "seconds", "Reloads by result, and how long they took.");
        for (result, reloads) in &document.reloads {
            for (at, bound) in RELOAD_BOUNDS_MS.into_iter().enumerate() {
                let within = reloads.within.get(at).copied().unwrap_or_default();
                let bound = Bound(bound);
                text.sample("ratoon_reload_duration_seconds_bucket", &[("result", result), ("le", &bound)], Some(within));
            }
            let all: &[(&str, &dyn Display)] = &[("result", result), ("le", &"+Inf")];
            text.sample("ratoon_reload_duration_seconds_bucket", all, Some(reloads.count));
            text.sample("ratoon_reload_duration_seconds_count", &[("result", result)], Some(reloads.count));
            let took = Micros(reloads.duration_ms.saturating_mul(1000));
            text.sample("ratoon_reload_duration_seconds_sum", &[("result", result)], Some(took));
        }
    }
}

/// A bound of a histogram: milliseconds, written as seconds in the only spelling that OpenMetrics allows.
struct Bound(u64);

impl Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0 as f64 / 1000.0)
    }
}

/// Limits that the configuration sets, for comparison with the figures that they limit.
fn limits(text: &mut Text<'_>, document: &Document) {
    let limits = &document.limits;
    for (name, unit, help, limit) in [
        ("ratoon_worker_memory_max_bytes", "bytes", "Memory of a worker beyond which the kernel kills it.", limits.memory_max),
        ("ratoon_worker_memory_high_bytes", "bytes", "Memory of a worker beyond which it is slowed down.", limits.memory_high),
        ("ratoon_worker_tasks_max", "", "Processes and threads that a worker may have.", limits.tasks_max),
        ("ratoon_worker_open_files_max", "", "Files that a worker may have open.", limits.nofile),
        ("ratoon_worker_recycle_memory_bytes", "bytes", "Memory at which a worker is recycled.", limits.recycle_memory),
        ("ratoon_worker_recycle_requests", "", "Requests after which a worker is recycled.", limits.recycle_requests),
    ] {
        text.one(name, "gauge", unit, help, limit);
    }
}

fn sockets(text: &mut Text<'_>, document: &Document) {
    type Figure = fn(&crate::status::tree::Socket) -> Option<u64>;
    let dropped = "Connections that the kernel refused, most often because the queue was full.";
    let families: [(&str, &str, &str, Figure); 3] = [
        ("ratoon_socket_queue", "gauge", "Connections that wait to be accepted.", |socket| socket.queue),
        ("ratoon_socket_queue_max", "gauge", "Connections that may wait.", |socket| socket.queue_max),
        ("ratoon_socket_dropped", "counter", dropped, |socket| socket.dropped),
    ];
    for (name, kind, help, figure) in families {
        if document.sockets.iter().all(|socket| figure(socket).is_none()) {
            continue;
        }
        text.family(name, kind, "", help);
        for (number, socket) in document.sockets.iter().enumerate() {
            // Two sockets may share name and address (SO_REUSEPORT); the number distinguishes them.
            let labels: &[(&str, &dyn Display)] = &[("socket", &number), ("name", &socket.name), ("address", &socket.address)];
            text.sample(&text::sample_name(name, kind), labels, figure(socket));
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
    fn labels_that_change_with_a_reload_stand_on_one_info_metric() {
        let document = document();
        let text = render(&document, Format::OpenMetrics);
        let changing = ["worker=", "pid=", "generation=", "state="];
        for line in text.lines().filter(|line| !line.starts_with("ratoon_worker_info{") && !line.starts_with("ratoon_state{")) {
            let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once("} ")).map_or("", |(labels, _)| labels);
            assert!(labels.split(',').all(|label| !changing.iter().any(|name| label.starts_with(name))), "{line}");
        }
        // A series has one sample, also where a slot has two workers.
        let samples: Vec<&str> =
            text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0)).filter(|it| !it.starts_with('#')).collect();
        let distinct: std::collections::BTreeSet<&&str> = samples.iter().collect();
        assert_eq!(distinct.len(), samples.len());
    }

    #[test]
    fn reload_durations_are_a_histogram() {
        let mut reloads = crate::status::tree::Reloads::default();
        [90, 100, 2_000, 400_000].into_iter().for_each(|took| reloads.add(took));
        let reloads = [("committed".to_owned(), reloads), ("refused".to_owned(), Default::default())].into();
        let text = render(&Document { instance: "web".into(), reloads, ..Document::default() }, Format::OpenMetrics);
        let bucket = |result: &str, bound: &str, count: u64| {
            let line =
                format!("ratoon_reload_duration_seconds_bucket{{instance=\"web\",result=\"{result}\",le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        };
        for (bound, count) in [("0.1", 2), ("1.0", 2), ("2.5", 3), ("300.0", 3), ("+Inf", 4)] {
            bucket("committed", bound, count);
            bucket("refused", bound, 0);
        }
        assert!(
            text.contains("ratoon_reload_duration_seconds_sum{instance=\"web\",result=\"committed\"} 402.190000\n"),
            "{text}"
        );
    }

    #[test]
    fn labels_are_escaped() {
        let nasty = "a\"b\\c\nd";
        let socket = Socket { name: nasty.into(), address: "x".into(), queue: Some(1), ..Socket::default() };
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
        // Samples, which dashboards query, have the same names in both formats.
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
                    ("histogram", _) => &["_bucket", "_count", "_sum"],
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
