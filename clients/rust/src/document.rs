//! The status document, docs/contract.md §6, as types: the master writes them, clients read them.
//!
//! Law: times are RFC 3339 strings, sizes bytes. A figure that is unknown, or hidden from this reader, is `null` (`None`), never 0.
//! A reader accepts the document of an older or newer master.

mod worker;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::worker::{Connection, Failure, Request, Worker};

/// The application's own counters: name to running total.
pub type Counters = BTreeMap<String, f64>;

/// The whole document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    /// The instance's name.
    pub instance: String,
    /// The version of the master's program.
    pub version: String,
    /// `starting`, `running`, `idle`, `reloading` or `stopping`.
    pub state: String,
    /// Whether workers crash more often than the configuration allows.
    pub degraded: bool,
    /// Whether the instance is paused: all workers are drained, and connections wait.
    pub paused: bool,
    /// The time until a paused instance resumes by itself, in milliseconds.
    pub resumes_in_ms: Option<u64>,
    /// Whether the instance has no worker until the first connection, or that connection has just started one (`worker.min = 0`); also
    /// while it reloads.
    pub idle: bool,
    /// The time from the last first connection of an idle instance to the readiness of its worker, in milliseconds.
    pub last_wake_ms: Option<u64>,
    /// The text that systemd shows as `Status:`.
    pub status_text: String,
    /// The committed generation; 0 before the first.
    pub generation: u64,
    /// Start time of the instance.
    pub start_time: String,
    /// Workers that ended without having been asked to, since the instance began.
    pub worker_crashes: u64,
    /// Number of workers that there should be.
    pub workers_configured: u32,
    /// Number of ready workers of the committed generation.
    pub workers_ready: u32,
    /// Least number of workers by the configuration.
    pub workers_min: u32,
    /// Largest number of workers by the configuration; the load decides between the two.
    pub workers_max: u32,
    /// Whether connections wait although the load has brought the pool to its largest number of workers.
    pub at_max: bool,
    /// The number of workers: whether it is fixed, and what changed it.
    pub scale: Scale,
    /// Connections accepted by all workers that count them, ended workers included.
    pub connections: Option<u64>,
    /// Requests served by all workers that count them, ended workers included.
    pub requests: Option<u64>,
    /// Bytes read from clients.
    pub bytes_read: Option<u64>,
    /// Bytes written to clients.
    pub bytes_written: Option<u64>,
    /// Sums of the application's own counters.
    pub counters: Counters,
    /// The release that runs; `None` before the first commit.
    pub release: Option<CurrentRelease>,
    /// The committed releases that `ratoon undo` can go back to, newest first; the first one runs.
    pub releases: Vec<Release>,
    /// The canary that is under way (`reload.steps`).
    pub canary: Option<Canary>,
    /// The watch after the last commit (`reload.watch`).
    pub watch: Option<Watch>,
    /// The preload process of the committed generation; `None` without `worker.preload`.
    pub preload: Option<Preload>,
    /// Time of the commit of the present generation; `None` before the first commit.
    pub committed_at: Option<String>,
    /// The outcome of the last reload.
    pub last_reload: Option<LastReload>,
    /// Reloads by result, since the instance began.
    pub reloads: BTreeMap<String, Reloads>,
    /// Failed workers by cause, since the instance began.
    pub failures_by_cause: BTreeMap<String, u64>,
    /// Workers that were recycled, by reason, since the instance began.
    pub recycled_by_reason: BTreeMap<String, u64>,
    /// Limits that the configuration sets.
    pub limits: Limits,
    /// Log lines, URLs, client addresses and `info` are hidden from this reader (`status.details`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub details_hidden: bool,
    /// The master itself.
    pub master: Master,
    /// The listening sockets.
    pub sockets: Vec<Socket>,
    /// The living workers, by slot, then id.
    pub workers: Vec<Worker>,
    /// The last failures, oldest first.
    pub failures: Vec<Failure>,
}

/// The release that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CurrentRelease {
    /// The generation for which the release was read: another one than the present one after an undo.
    pub generation: u64,
    /// The path of its program.
    pub program: String,
    /// The path of its directory, symlinks resolved.
    pub directory: String,
    /// Time of the commit of the present generation.
    pub committed_at: Option<String>,
    /// Whether the configured paths lead to another release now; `None` when the file system did not tell.
    pub path_leads_elsewhere: Option<bool>,
}

/// A canary: the first workers of a new generation beside the whole old one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Canary {
    /// The new generation.
    pub generation: u64,
    /// The step, from 1.
    pub step: u64,
    /// Number of steps in `reload.steps`.
    pub steps: u64,
    /// Number of ready workers of the new generation.
    pub workers_ready: u32,
    /// Number of workers of this step.
    pub workers: u32,
    /// Number of workers that the generation will have.
    pub workers_configured: u32,
    /// Whether the workers of the step are ready, and it waits.
    pub waits: bool,
    /// Whether the step waits for `ratoon promote`.
    pub manual: bool,
    /// Whether `reload.judge_command` is asked for its verdict.
    pub asks_command: bool,
    /// Time until the step, or the wait for a promotion, ends, milliseconds.
    pub left_ms: Option<u64>,
    /// Figures of the old generation since the step began to wait; `None` when that is not known.
    pub old: Option<GenerationFigures>,
    /// Figures of the new generation since the step began to wait.
    pub new: Option<GenerationFigures>,
    /// The verdict on these figures, if the step ended now, as text; `None` without figures.
    pub verdict: Option<String>,
}

/// The number of workers: whether it is fixed, the load that decides on it, and its last change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scale {
    /// Whether `ratoon scale` has fixed the number.
    pub fixed: bool,
    /// The share of busy workers at the last sample, percent; `None` while the load decides nothing, and if it is not known.
    pub busy_percent: Option<u32>,
    /// The figure by which that share was measured: `requests`, `cpu-time` or `connections`.
    pub measured_by: Option<String>,
    /// Connections that waited at the last sample.
    pub connections_waiting: Option<u64>,
    /// `scale.target`, percent; this and the other settings are `None` where the number of workers has no bounds.
    pub target_percent: Option<u32>,
    /// `scale.up_after`, milliseconds.
    pub up_after_ms: Option<u64>,
    /// `scale.down_after`, milliseconds.
    pub down_after_ms: Option<u64>,
    /// `scale.step`: a number, or a share such as `25%`.
    pub step: Option<String>,
    /// The last change since the start of the master's program; `None` before one.
    pub last_change: Option<Scaled>,
}

/// A change of the number of workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scaled {
    /// The generation.
    pub generation: u64,
    /// The number of workers before.
    pub from: u32,
    /// The number of workers from then on.
    pub to: u32,
    /// The reason with its figures.
    pub reason: String,
    /// The time of the change.
    pub time: String,
}

/// A watch: for some time after a commit the new generation is compared with the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    /// The generation that is watched.
    pub generation: u64,
    /// The generation whose release comes back if the new one is worse.
    pub before: u64,
    /// `watching`, `undoing`, or `undo-failed`: the release before did not come up, and the watched generation serves on.
    pub state: String,
    /// Whether requests are compared: `reload.watch` is a time. Otherwise only failures of every slot count.
    pub compares: bool,
    /// Time until the watch ends, milliseconds; `None` unless it is `watching`.
    pub left_ms: Option<u64>,
    /// Figures of the generation before, counted by its last workers in their lives; `None` when they are not known.
    pub old: Option<GenerationFigures>,
    /// Figures of the watched generation since its start.
    pub new: Option<GenerationFigures>,
}

/// A preload process (`worker.preload`): it has loaded the application, and the workers are forked from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preload {
    /// PID of the process; `None` without one.
    pub pid: Option<u32>,
    /// `starting`, `ready`, `absent` (it has ended; the next start of a worker starts it again) or `failed` (it did not get ready, and
    /// the workers are started without it).
    pub state: String,
    /// Proportional memory of the process, bytes: what it shares with its workers counts in parts.
    pub memory_pss: Option<u64>,
}

/// Figures that the workers of a generation have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationFigures {
    /// Requests begun.
    pub requests: u64,
    /// Requests that failed: answered with a status of 500 or above, or cut off.
    pub failed: u64,
    /// Geometric mean of the times from a request to the head of its answer, microseconds; `None` if no worker takes them.
    pub answer_usec: Option<u64>,
}

/// A committed release that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Release {
    /// The generation.
    pub generation: u64,
    /// The generation for which its release was read: another one after an undo.
    pub release: u64,
    /// The path of its program.
    pub program: String,
    /// The path of its directory, symlinks resolved.
    pub directory: String,
    /// Time of its commit.
    pub committed_at: Option<String>,
    /// The requester of the commit: `start`, `SIGHUP`, `user 0 on the control socket`, …
    pub asked_by: Option<String>,
    /// How it ended, `replaced` or `undone`; `None` while it serves.
    pub ended: Option<String>,
}

/// The outcome of the last reload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastReload {
    /// The reload's new generation.
    pub generation: u64,
    /// `committed`, `rolled-back`, `refused` or `aborted`.
    pub result: String,
    /// The reason as text; empty when committed.
    pub reason: String,
    /// The line that looks like the error in the output of the check, the hook or the failed worker; `None` for readers without details.
    pub detail: Option<String>,
    /// The first and the last lines of that output; empty for readers without details.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// Start time.
    pub start_time: String,
    /// Duration of the reload, milliseconds.
    pub duration_ms: u64,
}

/// Reloads of one result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloads {
    /// Number of reloads.
    pub count: u64,
    /// Sum of their durations, milliseconds.
    pub duration_ms: u64,
    /// Numbers of reloads that took at most as long as each bound in [`RELOAD_BOUNDS_MS`].
    pub within: Vec<u64>,
}

/// Bounds for the durations of reloads, milliseconds.
pub const RELOAD_BOUNDS_MS: [u64; 10] = [100, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000];

impl Reloads {
    /// Counts one reload with this duration.
    pub fn add(&mut self, took_ms: u64) {
        self.count += 1;
        self.duration_ms = self.duration_ms.saturating_add(took_ms);
        // Reloads that an older master counted without bounds are below no bound.
        self.within.resize(RELOAD_BOUNDS_MS.len(), 0);
        for (within, bound) in self.within.iter_mut().zip(RELOAD_BOUNDS_MS) {
            *within += u64::from(took_ms <= bound);
        }
    }
}

/// Limits that the configuration sets, for alerts before they are reached; `None` without a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// `worker.limits.memory_max`, bytes.
    pub memory_max: Option<u64>,
    /// `worker.limits.memory_high`, bytes.
    pub memory_high: Option<u64>,
    /// `worker.limits.tasks_max`
    pub tasks_max: Option<u64>,
    /// `worker.limits.nofile`
    pub nofile: Option<u64>,
    /// `recycle.max_memory`, bytes.
    pub recycle_memory: Option<u64>,
    /// `recycle.max_requests`
    pub recycle_requests: Option<u64>,
}

/// The master itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Master {
    /// PID of the master.
    pub pid: u32,
    /// Resident memory, bytes.
    pub memory_rss: Option<u64>,
    /// Proportional memory, bytes.
    pub memory_pss: Option<u64>,
    /// CPU time, microseconds.
    pub cpu_usec: Option<u64>,
    /// Start time of this process.
    pub start_time: String,
}

/// A listening socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Socket {
    /// Name of the socket (`FileDescriptorName=` or from `--listen name=…`).
    pub name: String,
    /// Address on which the socket listens.
    pub address: String,
    /// Connections that wait to be accepted.
    pub queue: Option<u64>,
    /// Number of connections that may wait.
    pub queue_max: Option<u64>,
    /// Connections that the kernel refused since the socket was made, most often because the queue was full (TCP).
    pub dropped: Option<u64>,
    /// Connections that wait in the queue of each slot, with `worker.balance = "per-slot"`; `queue` and `queue_max` are then the sums.
    /// Absent otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<Option<u64>>,
}
