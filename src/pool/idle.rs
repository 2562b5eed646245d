//! Zero workers (`worker.min = 0`): a pool without a connection for `scale.idle` drains its workers and keeps the sockets; the first
//! connection starts one worker, and the others follow when that one is ready.
//!
//! Law: a pool without workers starts none unless a connection waits or an operator asks. A pool becomes idle only after a look that
//! saw no activity, never on the deadline alone. When the first worker of a wake fails, the pool is what it is after any failure:
//! every slot has its backoff, and connections wait.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::exit_cause::Span;
use super::report::workers;
use super::serving::Queue;
use super::time::Time;
use super::timers::Key;
use super::vocabulary::{Answer, Kind};
use super::worker::{Phase, StopReason, Worker};

/// The number of looks for activity in `scale.idle`.
const LOOKS: u32 = 4;

/// The stage of a pool on its way to zero workers and back; `None` in [`Idling`]: it serves as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// No worker is wanted. The last ones may still drain.
    NoWorkers,
    /// A connection waits, and the first worker starts.
    Waking {
        /// The time at which the connection was seen.
        since: Time,
    },
}

/// The part of the pool's state for zero workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Idling {
    stage: Option<Stage>,
    /// The master looks for activity. While [`Key::Quiet`] is set, `scale.idle` has not passed since the last one.
    is_watched: bool,
    /// The time from the last first connection to the readiness of its worker.
    last_wake: Option<Duration>,
}

impl Idling {
    /// Ends the idleness without a start: a new generation serves, or the pool is paused or stops.
    pub(super) fn end(&mut self) {
        self.stage = None;
    }

    /// Whether the pool has no worker or starts the first one.
    pub(super) fn is_idle(&self) -> bool {
        self.stage.is_some()
    }

    /// Whether no worker of the current generation may start.
    pub(super) fn wants_no_workers(&self) -> bool {
        self.stage == Some(Stage::NoWorkers)
    }
}

impl Pool {
    /// Whether the pool is idle: it has no worker, or the first connection has just started the first one.
    pub fn is_idle(&self) -> bool {
        self.idling.is_idle()
    }

    /// Whether the pool waits for its first connection, of which the master tells by [`Event::Connected`](super::Event::Connected).
    pub fn wants_no_workers(&self) -> bool {
        self.idling.wants_no_workers()
    }

    /// The time between two looks for activity, whose results the master tells by [`Event::Looked`](super::Event::Looked); `None`
    /// while none is wanted.
    pub fn look_period(&self) -> Option<Duration> {
        self.scale_idle().filter(|_| self.idling.is_watched).map(|idle| idle / LOOKS)
    }

    /// The time from the last first connection of an idle pool to the readiness of its worker.
    pub fn last_wake(&self) -> Option<Duration> {
        self.idling.last_wake
    }

    /// Whether no worker is left without a connection.
    pub(super) fn can_be_idle(&self) -> bool {
        self.scale_idle().is_some()
    }

    /// `scale.idle` of the current generation; `None` unless its `worker.min` is 0 and it has listening sockets.
    fn scale_idle(&self) -> Option<Duration> {
        self.generations.get(&self.current).and_then(|home| home.settings.idle.filter(|_| home.settings.listens))
    }

    /// The queue that gets new connections while the pool is idle: that of the first worker.
    pub(super) fn idle_queue(&self) -> Queue {
        match self.has_queues(self.current) {
            true => Queue { slot: 0, second: self.second_queue(self.current, 0) },
            false => Queue::FIRST,
        }
    }

    /// Whether the pool is complete and nothing is under way that needs its workers.
    fn is_at_rest(&self) -> bool {
        self.announced
            && self.stopping.is_none()
            && self.pause.is_none()
            && self.reload.is_none()
            && self.probe.is_none()
            && !self.degraded
            && !self.timers.is_set(Key::Watch)
            && self.ready() >= self.target
    }

    /// Begins and ends the looks for activity, and ends a wake. Called after every step.
    pub(super) fn check_idle(&mut self) {
        match self.idling.stage {
            Some(Stage::Waking { since }) => self.check_wake(since),
            Some(Stage::NoWorkers) => self.end_idle_preload(),
            None => {}
        }
        let idle = self.scale_idle().filter(|_| self.is_at_rest() && !self.is_idle());
        match idle {
            Some(idle) if !self.idling.is_watched => {
                self.idling.is_watched = true;
                self.timers.set(Key::Quiet, self.after(idle));
            }
            Some(_) => {}
            None => {
                self.idling.is_watched = false;
                self.timers.clear(Key::Quiet);
            }
        }
    }

    /// The master has looked for activity since the look before: connections that are open or came in.
    pub(super) fn looked(&mut self, active: bool) {
        let Some(idle) = self.scale_idle().filter(|_| self.idling.is_watched) else {
            return self.ignore_event("a look for activity that was not asked for", None);
        };
        if active {
            self.timers.set(Key::Quiet, self.after(idle));
        } else if !self.timers.is_set(Key::Quiet) {
            self.end_workers(idle);
        }
    }

    fn end_workers(&mut self, idle: Duration) {
        let message = format!("idle: no connection for {}, {} to drain, the next one starts a worker", Span(idle), {
            workers(self.workers.values().filter(|worker| worker.has_slot() && worker.phase != Phase::Draining).count())
        });
        self.log(Kind::Idle, message, Some(self.current), None);
        // Every worker is replaced, as a recycling wants it.
        self.recycle_over(&Answer::Done);
        self.idling.stage = Some(Stage::NoWorkers);
        self.drain_all();
    }

    /// A connection waits on a socket of the pool, which has no worker.
    pub(super) fn connected(&mut self) {
        if !self.idling.wants_no_workers() {
            return self.ignore_event("a connection although the pool is not idle", None);
        }
        self.idling.stage = Some(Stage::Waking { since: self.now });
        self.log(Kind::Waking, format!("a connection waits: {} starts", self.named(self.current)), Some(self.current), None);
        let _ = (0..self.target).find(|slot| self.start_in(*slot));
    }

    /// Starts every worker of an idle pool, except in a slot that waits after a failure.
    pub(super) fn start_workers(&mut self) {
        if self.idling.stage.take().is_none() {
            return;
        }
        for slot in 0..self.target {
            if !self.timers.is_set(Key::Restart(self.current, slot)) {
                self.fill(slot);
            }
        }
    }

    /// Ends a wake when the first worker is ready, or has failed: the others follow.
    fn check_wake(&mut self, since: Time) {
        let starts = |worker: &Worker| worker.generation == self.current && worker.has_slot() && worker.phase == Phase::Starting;
        if self.ready() > 0 {
            let took = self.now - since;
            self.idling.last_wake = Some(took);
            let message = format!(
                "{} serves again: a worker was ready {} after the first connection",
                self.named(self.current),
                Span(took)
            );
            self.log(Kind::Woken, message, Some(self.current), None);
        } else if self.workers.values().any(|worker| worker.how.is_none() && starts(worker)) {
            return;
        }
        self.start_workers();
    }

    /// Ends a preload process that was started for a worker that an idle pool needed for a moment.
    fn end_idle_preload(&mut self) {
        let Some(process) = self.preload().and_then(|preload| preload.process) else { return };
        if self.members(self.current).iter().all(|id| *id == process) {
            self.drain(process, StopReason::Asked);
        }
    }

    /// The part of the status text about zero workers, in place of the number of ready ones.
    pub(super) fn idle_in_words(&self) -> Option<String> {
        Some(match self.idling.stage? {
            Stage::NoWorkers => {
                let left = match self.workers.len() {
                    0 => "0 workers".to_owned(),
                    left => format!("{} left", workers(left)),
                };
                format!("idle, {left}, starts at the first connection")
            }
            Stage::Waking { .. } => format!("waking, {}/{} ready", self.ready(), self.target),
        })
    }
}
