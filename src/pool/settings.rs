//! The settings of a generation, and what an observation of a worker shows. Plain data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::verdict::Limits;

/// The part of a generation's configuration that the pool needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The configured number of workers (`worker.count`); in an elastic pool the one at the start.
    pub count: u32,
    /// The load decides on the number of workers within these bounds; `None` where `worker.min` is `worker.max`.
    #[serde(default)]
    pub elastic: Option<Elastic>,
    /// The condition on which a worker counts as ready (`worker.ready`).
    pub ready: Readiness,
    /// Longest time from a worker's start to its readiness (`worker.start_timeout`).
    pub start_timeout: Duration,
    /// Time from the stop signal to SIGKILL (`worker.stop_timeout`).
    pub stop_timeout: Duration,
    /// The signal that starts a drain (`worker.stop_signal`). A drained worker that this signal ends has ended cleanly.
    pub stop_signal: i32,
    /// Longest time between two `WATCHDOG=1` of a ready worker (`worker.watchdog`); `None`: no watchdog.
    pub watchdog: Option<Duration>,
    /// Backoff and limits for the replacement of failed workers (`restart.*`).
    pub restart: Restart,
    /// How many new workers a reload may run beside the old ones at once (`reload.surge`).
    pub surge: Surge,
    /// Time after all new workers are ready in which a crash still rolls back (`reload.probation`); `None`: it depends on how the
    /// workers became ready ([`UNPROVEN_PROBATION`](super::UNPROVEN_PROBATION)).
    pub probation: Option<Duration>,
    /// A worker is recycled at this age, less up to a tenth at random (`recycle.max_age`).
    pub max_age: Option<Duration>,
    /// Each slot has its own accept queue (`worker.balance = "per-slot"`).
    pub per_slot: bool,
    /// The age of a request from which its worker hangs (`worker.balance_hung`); `None`: no worker is avoided.
    #[serde(default)]
    pub balance_hung: Option<Duration>,
    /// The instance has listening sockets.
    pub listens: bool,
    /// The time without a connection after which no worker is left (`scale.idle`); `None` unless `worker.min` is 0.
    #[serde(default)]
    pub idle: Option<Duration>,
    /// The number of committed releases that stay pinned, the current one included (`reload.keep`).
    pub keep: u32,
    /// The steps of a canary (`reload.steps`).
    pub steps: Steps,
    /// The watch after a commit (`reload.watch`).
    #[serde(default)]
    pub watch: WatchFor,
    /// The master knows a last good release, which may be started if the first generation does not come up (`start.fallback`).
    #[serde(default)]
    pub fallback: bool,
    /// One worker is probed on private sockets before the generation starts (`reload.probe`).
    pub probe: bool,
    /// The workers are forked from a process that has loaded the application (`worker.preload`).
    #[serde(default)]
    pub preload: bool,
    /// Workers start directly when that process does not get ready (`worker.preload_fallback`).
    #[serde(default)]
    pub preload_fallback: bool,
}

/// The condition under which a starting worker becomes ready (`worker.ready`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// The worker sends `READY=1`.
    Notify,
    /// The worker's process has lived for this time, or the worker sent `READY=1` before.
    Running(Duration),
    /// The worker was observed to accept. Where that cannot be observed, the worker sent `READY=1` or was silent for this time.
    Accepting(Duration),
    /// The worker sent `READY=1` and was observed to accept. If no worker of the committed generation sent `READY=1`, it is also
    /// enough that the worker was observed to accept and sent no `READY=1` for this time.
    Auto(Duration),
}

/// The result of an observation from outside: on which sockets a worker accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepting {
    /// The listening sockets on which the worker accepts: bit 0 is the first, bit 31 stands for the 32nd and all after it.
    pub sockets: u32,
    /// Some of the worker's state could not be observed.
    pub hidden: bool,
}

/// Backoff and limits for failed workers (`restart.*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// The first delay of a slot (`restart.initial`).
    pub initial: Duration,
    /// The longest delay (`restart.max`). A worker that was ready for this time resets the backoff of its slot.
    pub max: Duration,
    /// The pool is degraded after more failures than this of one slot within `interval` (`restart.limit`).
    pub limit: u32,
    /// The time in which `limit` counts failures (`restart.interval`).
    pub interval: Duration,
    /// The instance ends with status 1 after this time without a ready worker (`restart.give_up`).
    pub give_up: Option<Duration>,
}

/// How many new workers a reload may run beside the old ones at once (`reload.surge`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Surge {
    /// Percent of the number of workers, rounded up.
    Percent(u32),
    /// A number of workers.
    Count(u32),
}

impl Surge {
    /// The surge in workers for a pool of `count` workers; at least 1.
    pub fn of(self, count: u32) -> u32 {
        match self {
            Surge::Percent(percent) => (u64::from(count) * u64::from(percent)).div_ceil(100).clamp(1, u64::from(u32::MAX)) as u32,
            Surge::Count(count) => count.max(1),
        }
    }
}

/// The steps of a generation (`reload.steps`) and how long each takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// The workers of each step, as a number or as a share of the wanted number. Empty: no canary.
    pub sizes: Vec<Surge>,
    /// Time that each step waits (`reload.step_time`); `None`: until a promotion.
    pub time: Option<Duration>,
    /// Longest wait for a promotion; then the reload is rolled back (`reload.promote_timeout`).
    pub promote_timeout: Duration,
    /// The limits of the new generation against the old one (`reload.judge`).
    pub judge: Limits,
    /// A command is asked at the end of each step (`reload.judge_command`).
    #[serde(default)]
    pub judge_command: bool,
}

/// The configured watch (`reload.watch`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchFor {
    /// `"off"`
    Off,
    /// Not configured: a reload is undone only if every slot fails within 30 s of the commit.
    #[default]
    EverySlot,
    /// A time: a reload is also undone if its requests fail more often than those of the generation before, or if it is degraded.
    Time(Duration),
}

/// The bounds of an elastic pool, and the settings of its controller (`[scale]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elastic {
    /// The least number of workers (`worker.min`), at least 1.
    pub min: u32,
    /// The largest number of workers (`worker.max`).
    pub max: u32,
    /// The share of busy workers, in percent, at which the number is right (`scale.target`).
    pub target: u32,
    /// How long the load must ask for more workers before a step up (`scale.up_after`).
    pub up_after: Duration,
    /// How long the load must ask for fewer workers before a step down (`scale.down_after`).
    pub down_after: Duration,
    /// The largest step, as a number or a share of the workers (`scale.step`).
    pub step: Surge,
}

impl Elastic {
    /// The number within the bounds that is nearest to this one.
    pub fn clamp(&self, count: u32) -> u32 {
        count.max(self.min).min(self.max)
    }
}
