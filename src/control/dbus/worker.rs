//! `org.ratoon1.Worker`: the last published state of each worker, so that only changes are signalled.
//!
//! A change of the state or the process is signalled at once. So is a new `STATUS=`, unless another one was signalled just before: a
//! worker that changes its status all the time must not flood the bus.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use zbus::Variant;

use super::{Properties, WORKERS_PATH, clean, microseconds};
use crate::api::WorkerView;
use crate::status::tree;
use crate::table::Table;

/// Pause between two signals of new status texts.
const PAUSE: Duration = Duration::from_millis(200);

/// The path of a worker's object.
pub(super) fn path(id: u64) -> String {
    format!("{WORKERS_PATH}/{id}")
}

/// All properties. `figures` is the worker in the status document; without it the figures are unknown, which is `u64::MAX` as with
/// systemd.
pub(super) fn properties<'a>(view: &'a WorkerView, figures: Option<&tree::Worker>) -> Properties<'a> {
    let figure = |read: fn(&tree::Worker) -> Option<u64>| Variant::from(figures.and_then(read).unwrap_or(u64::MAX));
    [
        ("Id", Variant::from(view.id)),
        ("Slot", Variant::from(view.slot)),
        ("Generation", Variant::from(view.generation)),
        ("Pid", Variant::from(view.pid)),
        ("State", Variant::from(view.state.as_str())),
        ("StatusText", Variant::from(clean(&view.status_text))),
        ("StartedAt", Variant::from(microseconds(view.started_at))),
        ("MemoryCurrent", figure(|worker| worker.memory_rss)),
        ("CPUUsageNSec", figure(|worker| Some(worker.cpu_usec?.saturating_mul(1000)))),
        ("Connections", figure(|worker| worker.connections)),
        ("Requests", figure(|worker| worker.requests)),
    ]
    .into()
}

/// Whether reading this property needs the status document.
pub(super) fn is_figure(property: &str) -> bool {
    matches!(property, "MemoryCurrent" | "CPUUsageNSec" | "Connections" | "Requests")
}

/// A signal about a worker.
#[derive(Debug, PartialEq)]
pub(super) enum BusSignal {
    /// The object appeared.
    Added(WorkerView),
    /// These properties changed.
    Changed(u64, Properties<'static>),
    /// The object is gone.
    Removed(u64),
}

/// The workers in their last published state.
#[derive(Default)]
pub(super) struct Workers {
    known: Table<u64, Box<WorkerView>>,
    /// Workers whose new status text is not signalled yet.
    unsaid: BTreeSet<u64>,
    /// Time until which new status texts wait.
    quiet: Option<Instant>,
}

impl Workers {
    pub fn new(workers: Vec<WorkerView>) -> Self {
        Self { known: workers.into_iter().map(|view| (view.id, Box::new(view))).collect(), ..Self::default() }
    }

    pub fn get(&self, id: u64) -> Option<&WorkerView> {
        self.known.get(&id).map(|view| &**view)
    }

    pub fn all(&self) -> impl ExactSizeIterator<Item = &WorkerView> {
        self.known.values().map(|view| &**view)
    }

    /// Takes a new worker, or the new state of a known one; returns the signal that is due now.
    pub fn update(&mut self, view: WorkerView, now: Instant) -> Option<BusSignal> {
        let Some(old) = self.known.get_mut(&view.id) else {
            self.known.insert(view.id, Box::new(view.clone()));
            return Some(BusSignal::Added(view));
        };
        let text_changed = old.status_text != view.status_text || self.unsaid.contains(&view.id);
        let mut changed = Properties::new();
        if old.pid != view.pid {
            changed.insert("Pid", view.pid.into());
        }
        if old.state != view.state {
            changed.insert("State", view.state.as_str().into());
        }
        let id = view.id;
        **old = view;
        if text_changed {
            if changed.is_empty() && self.quiet.is_some_and(|until| now < until) {
                self.unsaid.insert(id);
                return None;
            }
            changed.insert("StatusText", clean(&old.status_text).into_owned().into());
            self.unsaid.remove(&id);
            self.quiet = Some(now + PAUSE);
        }
        if changed.is_empty() { None } else { Some(BusSignal::Changed(id, changed)) }
    }

    /// Removes a worker that is gone.
    pub fn remove(&mut self, id: u64) -> Option<BusSignal> {
        self.unsaid.remove(&id);
        self.known.remove(&id).map(|_| BusSignal::Removed(id))
    }

    /// Takes all present workers after missed changes, and returns the signals for the differences.
    pub fn resync(&mut self, workers: Vec<WorkerView>, now: Instant) -> Vec<BusSignal> {
        let living: BTreeSet<u64> = workers.iter().map(|view| view.id).collect();
        let gone: Vec<u64> = self.known.keys().copied().filter(|id| !living.contains(id)).collect();
        let mut tell: Vec<BusSignal> = gone.into_iter().filter_map(|id| self.remove(id)).collect();
        tell.extend(workers.into_iter().filter_map(|view| self.update(view, now)));
        tell
    }

    /// Time at which the waiting status texts are due; `None` when none waits.
    pub fn due(&self) -> Option<Instant> {
        self.quiet.filter(|_| !self.unsaid.is_empty())
    }

    /// The signals for the status texts that waited.
    pub fn flush(&mut self, now: Instant) -> Vec<BusSignal> {
        self.quiet = Some(now + PAUSE);
        let text = |view: &WorkerView| [("StatusText", Variant::from(clean(&view.status_text).into_owned()))].into();
        let unsaid = std::mem::take(&mut self.unsaid);
        unsaid.into_iter().filter_map(|id| Some(BusSignal::Changed(id, text(self.known.get(&id)?)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Phase;
    use std::time::UNIX_EPOCH;

    fn view(id: u64, state: Phase, text: &str) -> WorkerView {
        WorkerView { id, slot: 0, generation: 1, pid: 10, state, status_text: text.into(), started_at: UNIX_EPOCH }
    }

    fn changed(tell: Option<BusSignal>) -> Vec<&'static str> {
        match tell {
            Some(BusSignal::Changed(_, properties)) => properties.into_keys().collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tells_only_what_changed() {
        let now = Instant::now();
        let mut workers = Workers::default();
        assert_eq!(workers.update(view(1, Phase::Starting, ""), now), Some(BusSignal::Added(view(1, Phase::Starting, ""))));
        assert_eq!(workers.update(view(1, Phase::Starting, ""), now), None);
        assert_eq!(changed(workers.update(view(1, Phase::Ready, ""), now)), ["State"]);
        assert_eq!(
            changed(workers.update(WorkerView { pid: 11, ..view(1, Phase::Draining, "bye") }, now)),
            ["Pid", "State", "StatusText"]
        );
        assert_eq!(workers.remove(1), Some(BusSignal::Removed(1)));
        assert_eq!(workers.remove(1), None);
    }

    #[test]
    fn a_flood_of_texts_is_told_in_pauses_and_ends_with_the_last() {
        let now = Instant::now();
        let mut workers = Workers::new(vec![view(1, Phase::Ready, ""), view(2, Phase::Ready, "")]);
        assert_eq!(changed(workers.update(view(1, Phase::Ready, "0"), now)), ["StatusText"]);
        for text in ["1", "2", "3"] {
            assert_eq!(workers.update(view(1, Phase::Ready, text), now), None);
        }
        assert_eq!(workers.update(view(2, Phase::Ready, "other"), now), None);
        assert_eq!(workers.due(), Some(now + PAUSE));
        let later = now + PAUSE;
        let told = workers.flush(later);
        let expected = |id, text: &str| BusSignal::Changed(id, [("StatusText", Variant::from(text.to_owned()))].into());
        assert_eq!(told, [expected(1, "3"), expected(2, "other")]);
        assert_eq!(workers.due(), None);
        assert_eq!(workers.update(view(1, Phase::Ready, "4"), later), None);
        assert_eq!(changed(workers.update(view(1, Phase::Ready, "5"), later + PAUSE)), ["StatusText"]);
        assert_eq!(workers.due(), None);
    }

    #[test]
    fn a_text_that_waits_goes_with_a_state_and_not_after_the_end() {
        let now = Instant::now();
        let mut workers = Workers::new(vec![view(1, Phase::Ready, "")]);
        workers.update(view(1, Phase::Ready, "a"), now);
        workers.update(view(1, Phase::Ready, "b"), now);
        assert_eq!(changed(workers.update(view(1, Phase::Draining, "b"), now)), ["State", "StatusText"]);
        assert_eq!(workers.due(), None);
        workers.update(view(1, Phase::Draining, "c"), now);
        workers.remove(1);
        assert_eq!(workers.flush(now), []);
    }

    #[test]
    fn missed_notices_are_made_good() {
        let now = Instant::now();
        let mut workers = Workers::new(vec![view(1, Phase::Ready, ""), view(2, Phase::Ready, "")]);
        let told = workers.resync(vec![view(2, Phase::Draining, ""), view(3, Phase::Starting, "")], now);
        let draining = BusSignal::Changed(2, [("State", Variant::from("draining"))].into());
        assert_eq!(told, [BusSignal::Removed(1), draining, BusSignal::Added(view(3, Phase::Starting, ""))]);
        assert_eq!(workers.all().map(|view| view.id).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn unknown_figures_are_u64_max() {
        let shown = view(1, Phase::Ready, "");
        assert_eq!(properties(&shown, None)["MemoryCurrent"], Variant::from(u64::MAX));
        let worker = tree::Worker { cpu_usec: Some(5), requests: Some(0), ..tree::Worker::default() };
        let all = properties(&shown, Some(&worker));
        assert_eq!(all["CPUUsageNSec"], Variant::from(5000u64));
        assert_eq!(all["Requests"], Variant::from(0u64));
        assert_eq!(all["Connections"], Variant::from(u64::MAX));
        assert!(all.keys().filter(|name| is_figure(name)).count() == 4);
    }
}
