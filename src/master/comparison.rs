//! The figures of the old and the new generation while a step of a canary waits, which are counted from its beginning, or while a
//! generation is watched after its commit, which are those of the workers' whole lives.
//!
//! Law: figures are read once a second, and only while the pool asks for them. What an exited worker had counted stays in the sum.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::master::event_queue::EventQueue;
use crate::pool::{AnswerTimes, Comparison, Event, Figures, GenerationId, Sides, WorkerId};
use crate::status::scoreboard::{Times, Totals};

/// Interval of the readings.
const PERIOD: Duration = Duration::from_secs(1);

/// The running totals of a worker; `None` if it counts no requests.
pub(in crate::master) struct Reading {
    pub worker: WorkerId,
    pub generation: GenerationId,
    pub figures: Option<Figures>,
}

/// Compares two generations while the pool asks for it.
#[derive(Default)]
pub(in crate::master) struct Comparer(Option<Run>);

struct Run {
    sides: Sides,
    /// When the figures are read next.
    at: Instant,
    /// The totals of each worker at the beginning and at the last reading.
    workers: BTreeMap<WorkerId, (GenerationId, Figures, Figures)>,
}

impl Comparer {
    /// When [`Self::on_deadline`] is due; at once if the pool asks for another comparison than the present one.
    pub fn deadline(&self, sides: Option<Sides>, now: Instant) -> Option<Instant> {
        let sides = sides?;
        Some(self.0.as_ref().filter(|run| run.sides == sides).map_or(now, |run| run.at))
    }

    /// Reads the totals of all workers, when it is time, and tells the pool the figures.
    pub fn on_deadline(
        &mut self,
        now: Instant,
        sides: Option<Sides>,
        readings: impl FnOnce() -> Vec<Reading>,
        events: &mut EventQueue,
    ) {
        let Some(sides) = sides else {
            self.0 = None;
            return;
        };
        if self.deadline(Some(sides), now).is_none_or(|at| at > now) {
            return;
        }
        let begins = self.0.as_ref().is_none_or(|run| run.sides != sides);
        if begins {
            self.0 = Some(Run { sides, at: now, workers: BTreeMap::new() });
        }
        let Some(run) = &mut self.0 else { return };
        run.at = now + PERIOD;
        for Reading { worker, generation, figures } in readings() {
            let Some(figures) = figures.filter(|_| generation == sides.old || generation == sides.new) else { continue };
            // A worker that starts in the step has counted everything since the beginning; a watch has none.
            let begin = if begins && sides.step.is_some() { figures } else { Figures::default() };
            run.workers.entry(worker).or_insert((generation, begin, figures)).2 = figures;
        }
        if !begins || sides.step.is_none() {
            events.push(Event::Compared(sides.new, run.comparison()));
        }
    }
}

impl Run {
    fn comparison(&self) -> Option<Comparison> {
        let sum = |side: GenerationId| {
            let own = self.workers.values().filter(|(generation, ..)| *generation == side);
            own.fold(Figures::default(), |sum, (_, begin, last)| Figures {
                requests: sum.requests.saturating_add(last.requests.saturating_sub(begin.requests)),
                failed: sum.failed.saturating_add(last.failed.saturating_sub(begin.failed)),
                times: sum.times.plus(last.times.since(begin.times)),
            })
        };
        // The figures of the generation before a watched one must be told before its workers are gone.
        let is_told = |generation| generation == self.sides.new || self.sides.step.is_none();
        let known = self.workers.values().any(|(generation, ..)| is_told(*generation));
        known.then(|| Comparison { old: sum(self.sides.old), new: sum(self.sides.new) })
    }
}

/// The figures in a worker's totals: its counters `responses_5xx` and `errors` are its failed requests. A worker that does not count
/// requests but answers has as many as it has counted answers. `None` if it counts neither.
pub(in crate::master) fn figures(totals: &Totals) -> Option<Figures> {
    let counted = |name: &str| totals.counters.get(name).map(|value| *value as u64);
    let failed = counted("responses_5xx").unwrap_or(0).saturating_add(counted("errors").unwrap_or(0));
    let answers = || {
        let own = totals.counters.iter().filter(|(name, _)| name.starts_with("responses_") || *name == "errors");
        own.map(|(_, value)| *value as u64).reduce(u64::saturating_add)
    };
    let requests = totals.known_requests().or_else(answers)?;
    let Times { count, logs, squares } = totals.times;
    Some(Figures { requests, failed, times: AnswerTimes { count, logs, squares } })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: Sides = Sides { old: 1, new: 2, step: Some(0) };

    fn reading(worker: WorkerId, generation: GenerationId, requests: u64, failed: u64) -> Reading {
        Reading { worker, generation, figures: Some(Figures::counted(requests, failed)) }
    }

    /// The figures of old and new that the pool is told, if it is told.
    fn told(events: &mut EventQueue) -> Option<Option<[u64; 4]>> {
        match events.pop()? {
            Event::Compared(2, figures) => {
                Some(figures.map(|it| [it.old.requests, it.old.failed, it.new.requests, it.new.failed]))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn figures_count_from_the_beginning_of_the_step() {
        let (mut comparer, mut events, mut now) = (Comparer::default(), EventQueue::default(), Instant::now());
        assert_eq!(comparer.deadline(None, now), None);
        assert_eq!(comparer.deadline(Some(SIDES), now), Some(now));
        comparer.on_deadline(now, Some(SIDES), || vec![reading(1, 1, 1000, 10), reading(2, 2, 5, 5)], &mut events);
        assert_eq!(told(&mut events), None);
        assert_eq!(comparer.deadline(Some(SIDES), now), Some(now + PERIOD));
        comparer.on_deadline(now, Some(SIDES), || panic!("too early"), &mut events);
        now += PERIOD;
        // Worker 3 starts, worker 1 exits; a worker of a third generation does not count.
        let later = || vec![reading(1, 1, 1007, 10), reading(2, 2, 6, 6), reading(3, 1, 4, 1), reading(9, 9, 50, 50)];
        comparer.on_deadline(now, Some(SIDES), later, &mut events);
        assert_eq!(told(&mut events), Some(Some([11, 1, 1, 1])));
        now += PERIOD;
        comparer.on_deadline(now, Some(SIDES), || vec![reading(2, 2, 8, 6)], &mut events);
        assert_eq!(told(&mut events), Some(Some([11, 1, 3, 1])));
        // The next step begins anew.
        let next = Some(Sides { step: Some(1), ..SIDES });
        assert_eq!(comparer.deadline(next, now), Some(now));
        comparer.on_deadline(now, next, || vec![reading(2, 2, 8, 6)], &mut events);
        comparer.on_deadline(now + PERIOD, next, || vec![reading(2, 2, 9, 6)], &mut events);
        assert_eq!(told(&mut events), Some(Some([0, 0, 1, 0])));
        comparer.on_deadline(now, None, || panic!("nothing is compared"), &mut events);
        assert_eq!(told(&mut events), None);
    }

    #[test]
    fn figures_of_a_watch_are_those_of_whole_lives() {
        let (mut comparer, mut events, now) = (Comparer::default(), EventQueue::default(), Instant::now());
        let watch = Some(Sides { step: None, ..SIDES });
        comparer.on_deadline(
            now,
            watch,
            || vec![reading(1, 1, 1000, 10), Reading { figures: None, ..reading(2, 2, 0, 0) }],
            &mut events,
        );
        assert_eq!(told(&mut events), Some(Some([1000, 10, 0, 0])));
        // The old worker has exited.
        comparer.on_deadline(now + PERIOD, watch, || vec![reading(2, 2, 7, 5)], &mut events);
        assert_eq!(told(&mut events), Some(Some([1000, 10, 7, 5])));
    }

    #[test]
    fn workers_that_count_nothing_are_not_known() {
        let (mut comparer, mut events, now) = (Comparer::default(), EventQueue::default(), Instant::now());
        let silent = || vec![reading(1, 1, 7, 0), Reading { worker: 2, generation: 2, figures: None }];
        comparer.on_deadline(now, Some(SIDES), silent, &mut events);
        comparer.on_deadline(now + PERIOD, Some(SIDES), silent, &mut events);
        assert_eq!(told(&mut events), Some(None));
    }

    #[test]
    fn failed_requests_are_the_standard_counters() {
        let totals = |counters: &[(&str, f64)]| Totals {
            counters: counters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            ..Totals::default()
        };
        assert_eq!(figures(&totals(&[("jobs", 3.0)])), None);
        let counted = [("responses_2xx", 7.0), ("responses_5xx", 2.0), ("errors", 1.0), ("jobs", 3.0)];
        assert_eq!(figures(&totals(&counted)), Some(Figures::counted(10, 3)));
        let with_page = Totals { requests: 12, ..totals(&counted) };
        assert_eq!(figures(&with_page), Some(Figures::counted(12, 3)));
    }
}
