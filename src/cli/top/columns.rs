//! The columns of the workers' table: their texts, their sort orders, and the order in which they are left out when room is short.

use std::cmp::Ordering;

use super::rates::{OfWorker, Rates};
use crate::cli::screen::{Style, bytes, clean, number, span};
use crate::cli::status_view::{Clock, state, state_style};
use crate::status::tree::Worker;

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Slot,
    Id,
    Pid,
    Generation,
    State,
    Up,
    Memory,
    Cpu,
    CpuTime,
    Connections,
    Rate,
    Requests,
    Status,
}

use Column::*;

/// All columns, from left to right.
pub(super) const ALL: [Column; 13] =
    [Slot, Id, Pid, Generation, State, Up, Memory, Cpu, CpuTime, Connections, Rate, Requests, Status];

/// Columns that are left out when room is short, the first one first. Other columns always stay.
pub(super) const DISPENSABLE: [Column; 9] = [Status, CpuTime, Requests, Pid, Up, Generation, Id, Memory, Cpu];

impl Column {
    /// The name of the column.
    pub(super) fn head(self) -> &'static str {
        match self {
            Slot => "SLOT",
            Id => "ID",
            Pid => "PID",
            Generation => "GEN",
            State => "STATE",
            Up => "UP",
            Memory => "MEM",
            Cpu => "CPU%",
            CpuTime => "CPU",
            Connections => "CONNS",
            Rate => "REQ/S",
            Requests => "REQS",
            Status => "STATUS",
        }
    }

    /// Whether the column is aligned to the right.
    pub(super) fn right(self) -> bool {
        !matches!(self, State | Status)
    }

    /// Whether the default order of the column has the largest value first.
    pub(super) fn largest_first(self) -> bool {
        matches!(self, Up | Memory | Cpu | CpuTime | Connections | Rate | Requests)
    }

    /// The text of a worker's cell, safe for a terminal.
    pub(super) fn text(self, worker: &Worker, rates: &Rates, clock: &Clock) -> String {
        let rate = of(rates, worker);
        let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        match self {
            Slot => worker.slot.to_string(),
            Id => worker.id.to_string(),
            Pid => dash(worker.pid.map(|pid| pid.to_string())),
            Generation => worker.generation.to_string(),
            State => clean(&state(worker)),
            Up => clock.since(&worker.start_time),
            Memory => dash(worker.memory_rss.map(bytes)),
            Cpu => dash(rate.cpu.map(|cpu| format!("{:.1}", cpu * 100.0))),
            CpuTime => dash(worker.cpu_usec.map(|usec| span(usec / 1000))),
            Connections => dash(worker.open_connections.map(number)),
            Rate => dash(rate.requests.map(per_second)),
            Requests => dash(worker.requests.map(number)),
            Status => clean(worker.status.as_deref().unwrap_or("")),
        }
    }

    /// The style of a worker's cell.
    pub(super) fn style(self, worker: &Worker, committed: u64) -> Style {
        match self {
            State => state_style(&worker.state, false),
            Generation if worker.generation != committed => Style::Busy,
            _ => Style::Plain,
        }
    }

    /// The order of two workers. An unknown value comes last in both directions.
    pub(super) fn compare(self, one: &Worker, two: &Worker, rates: &Rates, down: bool) -> Ordering {
        let rate = |worker| of(rates, worker);
        let turned = |order: Ordering| if down { order.reverse() } else { order };
        let order = match self {
            Slot => turned(one.slot.cmp(&two.slot)),
            Id => turned(one.id.cmp(&two.id)),
            Pid => known(one.pid, two.pid, down),
            Generation => turned(one.generation.cmp(&two.generation)),
            State => turned(one.state.cmp(&two.state)),
            // RFC 3339 times in one zone sort as text. The worker with the earliest start is up longest.
            Up => turned(two.start_time.cmp(&one.start_time)),
            Memory => known(one.memory_rss, two.memory_rss, down),
            Cpu => known(rate(one).cpu, rate(two).cpu, down),
            CpuTime => known(one.cpu_usec, two.cpu_usec, down),
            Connections => known(one.open_connections, two.open_connections, down),
            Rate => known(rate(one).requests, rate(two).requests, down),
            Requests => known(one.requests, two.requests, down),
            Status => known(one.status.as_ref(), two.status.as_ref(), down),
        };
        order.then(one.slot.cmp(&two.slot)).then(one.id.cmp(&two.id))
    }
}

fn of(rates: &Rates, worker: &Worker) -> OfWorker {
    rates.workers.get(&worker.id).copied().unwrap_or_default()
}

fn known<T: PartialOrd>(one: Option<T>, two: Option<T>, down: bool) -> Ordering {
    match (one, two) {
        (Some(one), Some(two)) => {
            let order = one.partial_cmp(&two).unwrap_or(Ordering::Equal);
            if down { order.reverse() } else { order }
        }
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

/// A rate of events a second: `0.5`, `17`, `1204`, `123k`.
pub(super) fn per_second(rate: f64) -> String {
    // The cast saturates, and a rate is never negative.
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { number(rate.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_comes_last_either_way() {
        assert_eq!(known(Some(1), None, false), Ordering::Less);
        assert_eq!(known(Some(1), None, true), Ordering::Less);
        assert_eq!(known(Some(1), Some(2), true), Ordering::Greater);
        assert_eq!(known(Some(f64::NAN), Some(1.0), false), Ordering::Equal);
    }

    #[test]
    fn rates_are_short() {
        assert_eq!([0.0, 0.25, 9.96, 10.4, 1_234_567.0].map(per_second), ["0", "0.2", "10.0", "10", "1.2M"]);
    }
}
