//! The pool as plain data: what one master saves and the next one restores.
//!
//! Law: a pool that was saved and restored decides as if nothing had happened. Times are spans from the instant of
//! saving. What can be derived is not saved, so that no saved state contradicts itself. Fields that a reader does not
//! know are ignored, those that are missing have a default: masters of different versions hand over to each other.

mod convert;
mod restore;
mod words;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::vocabulary::{GenerationId, RequesterId, Slot, WorkerId};
use super::{Pool, Stopping};

/// A saved [`Pool`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    workers: BTreeMap<WorkerId, Worker>,
    generations: BTreeMap<GenerationId, Generation>,
    current: GenerationId,
    last_worker: WorkerId,
    last_number: GenerationId,
    target: u32,
    configured: u32,
    reload: Option<Reload>,
    waiting: Option<Askers>,
    recycling: Vec<Job>,
    /// The worker that takes over the first of `recycling`.
    successor: Option<WorkerId>,
    /// Of all slots; for masters that count them together.
    failures: Vec<Offset>,
    degraded: bool,
    /// For masters that know no `last_failure` of a place.
    last_crash: Option<LastCrash>,
    failure_text: Option<String>,
    timers: Vec<Timer>,
    stopping: Option<Ending>,
    /// Missing: some worker was ready, the more harmless reading.
    unproven: bool,
    announced: bool,
    crashes: u64,
    random: u64,
}

/// Nanoseconds from the instant of saving; what is behind it is negative.
type Offset = i64;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Worker {
    slot: Slot,
    generation: GenerationId,
    pid: Option<u32>,
    phase: words::Phase,
    status: String,
    doom: Option<words::StopReason>,
    ready_at: Option<Offset>,
    said_ready: bool,
    accepts_on: u32,
    hidden: bool,
    watchdog: Option<Duration>,
    counted: bool,
    vacating: bool,
    killed: bool,
    how: Option<words::ExitCause>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Generation {
    settings: words::Settings,
    places: Vec<Place>,
    accepted_on: u32,
    says_ready: bool,
    unproven: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Place {
    worker: Option<WorkerId>,
    successor: Option<WorkerId>,
    holder: Option<WorkerId>,
    strikes: u32,
    failures: Vec<Offset>,
    degraded: bool,
    last_failure: Option<Failure>,
    delay: Duration,
    settled: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Reload {
    number: GenerationId,
    stage: words::Stage,
    askers: Askers,
    target: u32,
    started: u32,
    yields: BTreeMap<WorkerId, Slot>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Askers {
    waiting: Vec<RequesterId>,
    unattended: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Job {
    worker: WorkerId,
    why: String,
    asker: Option<RequesterId>,
    last: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct LastCrash {
    slot: Slot,
    how: words::ExitCause,
    at_once: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Failure {
    how: words::ExitCause,
    at_once: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Timer {
    at: Offset,
    #[serde(flatten)]
    key: words::Key,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Ending {
    code: u8,
    now: bool,
    exited: bool,
}

impl Saved {
    /// The last worker id that was given out: whoever cannot restore the rest begins behind it.
    pub fn last_worker(&self) -> WorkerId {
        self.last_worker
    }
}

impl Pool {
    /// The pool as it is between two steps.
    pub fn save(&self, now: Instant) -> Saved {
        // Whoever adds a field decides here what becomes of it.
        let Pool {
            now: _,
            actions: _,
            workers,
            generations,
            current,
            last_worker,
            last_number,
            target,
            configured,
            reload,
            waiting,
            recycling,
            degraded,
            failure_text,
            timers,
            stopping,
            unproven,
            announced,
            crashes,
            random,
        } = self;
        let jobs = recycling.running.iter().map(|(job, _)| job).chain(&recycling.queue);
        Saved {
            workers: workers.iter().map(|(id, worker)| (*id, Worker::of(worker, now))).collect(),
            generations: generations.iter().map(|(number, home)| (*number, Generation::of(home, now))).collect(),
            current: *current,
            last_worker: *last_worker,
            last_number: *last_number,
            target: *target,
            configured: *configured,
            reload: reload.as_ref().map(Reload::of),
            waiting: waiting.as_ref().map(Askers::of),
            recycling: jobs.map(Job::of).collect(),
            successor: recycling.running.as_ref().map(|(_, successor)| *successor),
            failures: self.failure_times().map(|at| offset(at, now)).collect(),
            degraded: *degraded,
            last_crash: self.failing_slot().map(|(slot, _, failure)| LastCrash {
                slot,
                how: (&failure.how).into(),
                at_once: failure.at_once,
            }),
            failure_text: failure_text.clone(),
            timers: timers.iter().map(|(key, at)| Timer { at: offset(at, now), key: key.into() }).collect(),
            stopping: stopping.map(|Stopping { code, now, exited }| Ending { code, now, exited }),
            unproven: *unproven,
            announced: *announced,
            crashes: *crashes,
            random: *random,
        }
    }
}

fn offset(at: Instant, now: Instant) -> Offset {
    let span = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    if at >= now { span(at - now) } else { -span(now - at) }
}

/// What lies beyond the clock's range is as good as now.
fn instant(offset: Offset, now: Instant) -> Instant {
    let span = Duration::from_nanos(offset.unsigned_abs());
    if offset >= 0 { now.checked_add(span) } else { now.checked_sub(span) }.unwrap_or(now)
}
