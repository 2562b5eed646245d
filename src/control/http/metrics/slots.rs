//! Figures of workers by slot: a series outlives its worker, so that a reload makes no new series. Other facts of a worker are labels
//! of `ratoon_worker_info` alone.
//!
//! Law: a gauge is the sum over the slot's workers, the draining ones included. A counter is that of the slot's newest ready worker,
//! and begins anew with each worker: Prometheus takes that for a restart, and counts right. Totals over all workers, ended ones
//! included, are figures of the pool.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::text::{Micros, Text, sample_name, seconds};
use crate::status::tree::{Document, Worker};

/// The workers of one slot, oldest first.
type Slots<'a> = BTreeMap<u32, Vec<&'a Worker>>;

/// All families of workers.
pub(super) fn workers(text: &mut Text<'_>, document: &Document) {
    if document.workers.is_empty() {
        return;
    }
    info(text, document);
    let mut slots = Slots::new();
    for worker in &document.workers {
        slots.entry(worker.slot).or_default().push(worker);
    }
    for workers in slots.values_mut() {
        workers.sort_by_key(|worker| worker.id);
    }
    let slots = &slots;
    sums(text, slots, "ratoon_worker_memory_rss_bytes", "bytes", "Resident memory of the workers of a slot.", |it| it.memory_rss);
    sums(text, slots, "ratoon_worker_open_connections", "", "Connections that the workers of a slot hold.", |it| {
        it.open_connections
    });
    sums(text, slots, "ratoon_worker_requests_in_work", "", "Requests in work in a slot.", |it| it.requests_in_work);
    let accepting = "Whether the ready worker of a slot was seen to accept connections.";
    newest(text, slots, "ratoon_worker_accepting", "gauge", "", accepting, |it| it.accepting.map(u8::from));
    let avoided = "Whether new connections go to other slots because the ready worker of a slot hangs.";
    newest(text, slots, "ratoon_worker_avoided", "gauge", "", avoided, |it| {
        (it.state == "ready").then(|| u8::from(it.avoided.is_some()))
    });
    let start = "When the worker of a slot was started.";
    newest(text, slots, "ratoon_worker_start_time_seconds", "gauge", "seconds", start, |it| seconds(&it.start_time));
    let cpu = "CPU time of the worker of a slot.";
    newest(text, slots, "ratoon_worker_cpu_seconds", "counter", "seconds", cpu, |it| it.cpu_usec.map(Micros));
    type Figure = fn(&Worker) -> Option<u64>;
    let counters: [(&str, &str, &str, Figure); 4] = [
        ("ratoon_worker_connections", "", "Connections accepted by the worker of a slot.", |it| it.connections),
        ("ratoon_worker_requests", "", "Requests served by the worker of a slot.", |it| it.requests),
        ("ratoon_worker_read_bytes", "bytes", "Bytes that the worker of a slot read from clients.", |it| it.bytes_read),
        ("ratoon_worker_written_bytes", "bytes", "Bytes that the worker of a slot wrote to clients.", |it| it.bytes_written),
    ];
    for (name, unit, help, figure) in counters {
        newest(text, slots, name, "counter", unit, help, figure);
    }
}

fn info(text: &mut Text<'_>, document: &Document) {
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
}

/// A gauge with the sum of each slot; a slot without a known figure is left out.
fn sums(text: &mut Text<'_>, slots: &Slots<'_>, name: &str, unit: &str, help: &str, figure: fn(&Worker) -> Option<u64>) {
    let sum =
        |workers: &[&Worker]| workers.iter().filter_map(|worker| figure(worker)).reduce(|sum, more| sum.saturating_add(more));
    family(text, slots, (name, "gauge", unit, help), sum);
}

/// A figure of each slot's newest ready worker; without a ready one, of the slot's newest worker.
fn newest<T: Display>(
    text: &mut Text<'_>,
    slots: &Slots<'_>,
    name: &str,
    kind: &str,
    unit: &str,
    help: &str,
    figure: impl Fn(&Worker) -> Option<T>,
) {
    let of = |workers: &[&Worker]| {
        let ready = workers.iter().rfind(|worker| worker.state == "ready");
        ready.or(workers.last()).and_then(|worker| figure(worker))
    };
    family(text, slots, (name, kind, unit, help), of);
}

fn family<T: Display>(
    text: &mut Text<'_>,
    slots: &Slots<'_>,
    (name, kind, unit, help): (&str, &str, &str, &str),
    figure: impl Fn(&[&Worker]) -> Option<T>,
) {
    let mut begun = false;
    for (slot, workers) in slots {
        let Some(value) = figure(workers) else { continue };
        if !std::mem::replace(&mut begun, true) {
            text.family(name, kind, unit, help);
        }
        text.sample(&sample_name(name, kind), &[("slot", slot)], Some(value));
    }
}
