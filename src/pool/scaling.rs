//! The controller of an elastic pool: from figures of the load and the time to a number of workers between `worker.min` and `worker.max`,
//! with the reason. Pure: it keeps its own figures and knows nothing of the pool.
//!
//! Law: a step never leads above the maximum or below the minimum, and a step up never to more workers than fit into memory. A step up
//! needs a load that lasts for `scale.up_after`, a step down one that lasts for `scale.down_after`. Between the load that asks for one
//! worker more and the load that asks for one less there is a gap of a tenth, so that the number stays at a constant load.

use std::fmt;
use std::time::Duration;

use super::exit_cause::Span;
use super::ids::GenerationId;
use super::settings::Elastic;
use super::time::Time;

/// The time between two samples of the load.
const PERIOD: Duration = Duration::from_secs(1);
/// The time between two samples once nothing has been pending for [`CALM_AFTER`].
const CALM_PERIOD: Duration = Duration::from_secs(10);
/// See [`CALM_PERIOD`].
const CALM_AFTER: Duration = Duration::from_secs(60);
/// After a longer time without a sample, as in a pause, the figures of before do not count.
const GAP: Duration = Duration::from_secs(15);
/// A queue that was full at the maximum is told until no connection has waited for this time.
const RELIEVED_AFTER: Duration = Duration::from_secs(10);
/// The part of `scale.target` at which one worker less would do.
const GAP_BELOW: f64 = 0.9;
/// Largest rounding error of a sum of shares.
const ROUNDING: f64 = 1e-6;

/// The figure by which the share of busy workers is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The workers that have a request in work, by their status pages.
    Requests,
    /// The CPU time of the workers against the time that has passed.
    CpuTime,
    /// The workers that have an open connection.
    Connections,
}

impl Measure {
    /// The name in the status document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::CpuTime => "cpu-time",
            Self::Connections => "connections",
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Requests => "by requests in work",
            Self::CpuTime => "by CPU time",
            Self::Connections => "by open connections",
        }
    }
}

/// The share of busy workers, from 0 to 1, and what tells it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busy {
    /// The share.
    pub share: f64,
    /// The figure by which the share was measured.
    pub by: Measure,
}

/// The memory for more workers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The memory that is left.
    pub left: u64,
    /// The memory that a ready worker has for itself, on average.
    pub worker: u64,
}

/// A sample of the load. A figure that is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// The ready workers of the current generation.
    pub ready: u32,
    /// The share of them that is busy.
    pub busy: Option<Busy>,
    /// The connections that wait in the accept queues.
    pub waiting: Option<u64>,
    /// The memory for more workers.
    pub memory: Option<Room>,
}

/// The limit that keeps the pool from growing although connections wait, or the workers are busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceiling {
    /// `worker.max`, and this number of connections waits.
    Max(u64),
    /// No further worker fits into memory.
    Memory,
}

/// The reason of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// The workers are busier than `scale.target`; the share of busy workers.
    Busy(Busy),
    /// Connections wait, this many.
    Queue(u64),
    /// The workers are less busy than `scale.target`; the share of busy workers.
    Calm(Busy),
    /// The number was not within the bounds.
    Bounds,
}

/// A step to another number of workers, with its reason.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The number of workers.
    pub to: u32,
    /// The reason.
    pub why: Why,
    /// How long the reason has held.
    pub lasted: Duration,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.lasted < PERIOD { self.lasted } else { Duration::from_secs(self.lasted.as_secs()) };
        let lasted = Span(whole);
        let busy = |of: Busy| format!("{:.0}% busy {}", of.share * 100.0, of.by.in_words());
        match self.why {
            Why::Busy(share) => write!(f, "{}, too busy for {lasted}", busy(share)),
            Why::Queue(1) => write!(f, "1 connection waits, some do for {lasted}"),
            Why::Queue(waiting) => write!(f, "{waiting} connections wait, some do for {lasted}"),
            Why::Calm(share) => write!(f, "{}, fewer workers would have done for {lasted}", busy(share)),
            Why::Bounds => f.write_str("worker.min and worker.max"),
        }
    }
}

/// A change of the number of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// The generation.
    pub generation: GenerationId,
    /// The number before.
    pub from: u32,
    /// The number from now on.
    pub to: u32,
    /// The reason with its figures, for every reader.
    pub reason: String,
}

/// A wish for another number of workers that has held since a time; the number is the most modest one since then.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Wish {
    since: Time,
    count: u32,
}

/// The controller's memory between two samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Controller {
    /// The last sample, and its time.
    last: Option<(Time, Load)>,
    /// Busy workers, averaged over about half of `scale.up_after`.
    fast: Option<f64>,
    /// Busy workers, averaged over about an eighth of `scale.down_after`.
    slow: Option<f64>,
    more: Option<Wish>,
    fewer: Option<Wish>,
    /// Since when connections have waited in every sample.
    queue_since: Option<Time>,
    /// When connections waited last.
    queue_at: Option<Time>,
    ceiling: Option<Ceiling>,
    stepped_at: Option<Time>,
    /// When a wish, a ceiling or a step was there last.
    busy_at: Option<Time>,
}

impl Controller {
    /// The last sample.
    pub fn load(&self) -> Option<&Load> {
        self.last.as_ref().map(|(_, load)| load)
    }

    /// What keeps the pool from growing.
    pub fn ceiling(&self) -> Option<Ceiling> {
        self.ceiling
    }

    /// The time from a sample to the next one.
    pub fn period(&self) -> Duration {
        let calm = self.last.zip(self.busy_at).is_some_and(|((last, _), busy)| last - busy >= CALM_AFTER);
        if calm { CALM_PERIOD } else { PERIOD }
    }

    /// Takes a sample, and says to which number of workers to go from `count`, if to another. `starting`: workers of an earlier step are not
    /// ready yet. `may_shrink`: a step down is allowed.
    pub fn decide(
        &mut self,
        now: Time,
        bounds: &Elastic,
        count: u32,
        load: Load,
        starting: bool,
        may_shrink: bool,
    ) -> Option<Step> {
        self.take(now, bounds, load);
        if count != bounds.clamp(count) {
            return Some(self.step(now, bounds.clamp(count), Why::Bounds, Duration::ZERO));
        }
        let decided = self.up(now, bounds, count, load, starting).or_else(|| self.down(now, bounds, count, load, may_shrink));
        if self.more.is_some() || self.fewer.is_some() || self.ceiling.is_some() {
            self.busy_at = Some(now);
        }
        let (to, why, since) = decided?;
        Some(self.step(now, to, why, now - since))
    }

    /// Adds the sample to the averages, and to what is known of the queue.
    fn take(&mut self, now: Time, bounds: &Elastic, load: Load) {
        let by = |load: &Load| load.busy.map(|busy| busy.by);
        let before = self.last.filter(|(at, before)| now - *at <= GAP && by(before) == by(&load));
        if before.is_none() {
            *self = Controller { busy_at: Some(now), ..Controller::default() };
        }
        let passed = before.map_or(Duration::ZERO, |(at, _)| now - at);
        self.last = Some((now, load));
        let busy = load.busy.map(|busy| busy.share.clamp(0.0, 1.0) * f64::from(load.ready));
        self.fast = average(self.fast, busy, passed, bounds.up_after / 2);
        self.slow = average(self.slow, busy, passed, bounds.down_after / 8);
        if load.waiting.is_some_and(|waiting| waiting > 0) {
            self.queue_since.get_or_insert(now);
            self.queue_at = Some(now);
        } else {
            self.queue_since = None;
        }
    }

    fn up(&mut self, now: Time, bounds: &Elastic, count: u32, load: Load, starting: bool) -> Option<(u32, Why, Time)> {
        let needed = self.fast.map_or(0, |busy| workers_for(busy, bounds, 1.0));
        let queue = self.queue_since.filter(|since| now - *since >= bounds.up_after);
        self.tell_ceiling(now, bounds, count, load, queue.is_some());
        if needed <= count && self.queue_since.is_none() || starting {
            self.more = None;
            return None;
        }
        // A queue does not tell how many workers are missing: the step decides.
        let wanted = if self.queue_since.is_some() { needed.max(count.saturating_add(bounds.step.of(count))) } else { needed };
        let more = self.more.get_or_insert(Wish { since: now, count: wanted });
        more.count = more.count.min(wanted);
        let more = *more;
        let to = more.count.min(count.saturating_add(bounds.step.of(count))).min(bounds.max);
        if now - more.since < bounds.up_after || to <= count {
            return None;
        }
        let room = load.memory.map_or(u64::MAX, |room| room.left / room.worker.max(1));
        let to = to.min(count.saturating_add(u32::try_from(room).unwrap_or(u32::MAX)));
        if to <= count {
            self.ceiling = Some(Ceiling::Memory);
            return None;
        }
        let why = match load.busy {
            Some(busy) if needed > count => Why::Busy(busy),
            _ => Why::Queue(load.waiting.unwrap_or(0)),
        };
        Some((to, why, more.since))
    }

    /// Keeps what is told of the ceiling up to date. Memory is a ceiling only as long as each sample finds it to be one.
    fn tell_ceiling(&mut self, now: Time, bounds: &Elastic, count: u32, load: Load, waits: bool) {
        let waiting = load.waiting.unwrap_or(0);
        let was_full = matches!(self.ceiling, Some(Ceiling::Max(_)));
        let is_recent = self.queue_at.is_some_and(|at| now - at < RELIEVED_AFTER);
        self.ceiling = (count >= bounds.max && (waits || was_full && is_recent)).then_some(Ceiling::Max(waiting));
    }

    fn down(&mut self, now: Time, bounds: &Elastic, count: u32, load: Load, may_shrink: bool) -> Option<(u32, Why, Time)> {
        let busy = self.slow.zip(self.fast).map(|(slow, fast)| slow.max(fast));
        let needed = busy.map_or(count, |busy| workers_for(busy, bounds, GAP_BELOW));
        let is_pressed = self.more.is_some() || load.waiting.is_some_and(|waiting| waiting > u64::from(load.ready));
        if !may_shrink || is_pressed || needed >= count || count <= bounds.min {
            self.fewer = None;
            return None;
        }
        let before = self.fewer.filter(|fewer| fewer.count.max(needed) < count);
        let fewer = before.map_or(Wish { since: now, count: needed }, |fewer| Wish { count: fewer.count.max(needed), ..fewer });
        self.fewer = Some(fewer);
        let rested = self.stepped_at.is_none_or(|at| now - at >= bounds.up_after);
        if now - fewer.since < bounds.down_after || !rested {
            return None;
        }
        let to = fewer.count.max(count.saturating_sub(bounds.step.of(count))).max(bounds.min);
        Some((to, Why::Calm(load.busy?), fewer.since))
    }

    fn step(&mut self, now: Time, to: u32, why: Why, lasted: Duration) -> Step {
        self.more = None;
        (self.stepped_at, self.busy_at) = (Some(now), Some(now));
        Step { to, why, lasted }
    }
}

/// The workers of which this number of busy ones is the target, or this part of it; at least 1.
fn workers_for(busy: f64, bounds: &Elastic, part: f64) -> u32 {
    let share = f64::from(bounds.target.max(1)) / 100.0 * part;
    // A number that is too large for the type becomes its largest one.
    ((busy / share - ROUNDING).ceil() as u32).max(1)
}

/// The exponential moving average with this time constant, after a further value.
fn average(before: Option<f64>, value: Option<f64>, passed: Duration, constant: Duration) -> Option<f64> {
    let value = value?;
    let Some(before) = before else { return Some(value) };
    let kept = (-passed.as_secs_f64() / constant.as_secs_f64().max(0.001)).exp();
    Some(before * kept + value * (1.0 - kept))
}

#[cfg(test)]
#[path = "scaling_tests.rs"]
mod tests;
