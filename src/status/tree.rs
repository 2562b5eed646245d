//! The status document, docs/contract.md §6: the one shape in which everything that is known is told.
//!
//! Law: times are RFC 3339 strings, sizes bytes; what is not known, or not for this reader, is `null` (`None`), never 0. A reader gets along with
//! the document of an older or newer master.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
    /// `starting`, `running`, `reloading` or `stopping`.
    pub state: String,
    /// More crashes than the configuration allows.
    pub degraded: bool,
    /// The line that systemd shows as `Status:`.
    pub status_text: String,
    /// The committed generation; 0 before the first.
    pub generation: u64,
    /// When the instance began.
    pub start_time: String,
    /// Workers that ended without having been asked to, since the instance began.
    pub worker_crashes: u64,
    /// How many workers there should be.
    pub workers_configured: u32,
    /// How many of the committed generation are ready.
    pub workers_ready: u32,
    /// Connections accepted by all workers that tell, ended ones included.
    pub connections: Option<u64>,
    /// Requests served by all workers that tell, ended ones included.
    pub requests: Option<u64>,
    /// Bytes read from clients.
    pub bytes_read: Option<u64>,
    /// Bytes written to clients.
    pub bytes_written: Option<u64>,
    /// Sums of the application's own counters.
    pub counters: Counters,
    /// When the present generation was committed; `None` before the first is.
    pub committed_at: Option<String>,
    /// How the last reload ended.
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

/// How the last reload ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastReload {
    /// The generation that it wanted to bring.
    pub generation: u64,
    /// `committed`, `rolled-back`, `refused` or `aborted`.
    pub result: String,
    /// Why, in words; empty when committed.
    pub reason: String,
    /// What looks like the error in what the check, the hook or the failed worker printed; `None` for readers without details.
    pub detail: Option<String>,
    /// The first and the last lines that it printed; empty for readers without details.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// When it began.
    pub start_time: String,
    /// How long it took.
    pub duration_ms: u64,
}

/// Reloads of one result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloads {
    /// How many.
    pub count: u64,
    /// How long they took, in sum.
    pub duration_ms: u64,
    /// How many took at most as long as each of [`RELOAD_BOUNDS_MS`].
    pub within: Vec<u64>,
}

/// Bounds for the durations of reloads, milliseconds.
pub const RELOAD_BOUNDS_MS: [u64; 10] = [100, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000];

impl Reloads {
    /// Counts one that took so long.
    pub fn add(&mut self, took_ms: u64) {
        self.count += 1;
        self.duration_ms = self.duration_ms.saturating_add(took_ms);
        // Those that a master without bounds has counted are in none.
        self.within.resize(RELOAD_BOUNDS_MS.len(), 0);
        for (within, bound) in self.within.iter_mut().zip(RELOAD_BOUNDS_MS) {
            *within += u64::from(took_ms <= bound);
        }
    }
}

/// Limits that the configuration sets, for alerts before they are reached; `None` where there is none.
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
    /// Its process.
    pub pid: u32,
    /// Resident memory, bytes.
    pub memory_rss: Option<u64>,
    /// Proportional memory, bytes.
    pub memory_pss: Option<u64>,
    /// CPU time, microseconds.
    pub cpu_usec: Option<u64>,
    /// When this process began.
    pub start_time: String,
}

/// A listening socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Socket {
    /// Its name (`FileDescriptorName=` or from `--listen name=…`).
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Connections that wait to be accepted.
    pub queue: Option<u64>,
    /// How many may wait.
    pub queue_max: Option<u64>,
    /// Connections that the kernel refused since the socket was made, most often because the queue was full (TCP).
    pub dropped: Option<u64>,
    /// With a queue for each slot (`worker.balance = "per-slot"`): how many wait in each, by slot; `queue` and `queue_max` are
    /// the sums. Else it is not there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<Option<u64>>,
}

/// A living worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// Its number, never used twice.
    pub id: u64,
    /// Its place.
    pub slot: u32,
    /// Its generation.
    pub generation: u64,
    /// Its main process.
    pub pid: Option<u32>,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// What it said last as `STATUS=`.
    pub status: Option<String>,
    /// How it is known that it is ready: `said` (READY=1 alone), `epoll`, `accept`, `connection` (it was seen to accept), or `unseen`.
    pub readiness: Option<String>,
    /// When it was started.
    pub start_time: String,
    /// Resident memory of all its processes, bytes.
    pub memory_rss: Option<u64>,
    /// CPU time, microseconds.
    pub cpu_usec: Option<u64>,
    /// Connections that it holds now (the kernel's figure).
    pub open_connections: Option<u64>,
    /// Whether it still holds a listening socket open (the kernel's figure); says of a draining one whether it may still accept.
    pub listening: Option<bool>,
    /// Requests in work, as far as its page lists connections.
    pub requests_in_work: Option<u64>,
    /// Connections accepted since its start.
    pub connections: Option<u64>,
    /// Requests served since its start.
    pub requests: Option<u64>,
    /// Bytes read from clients.
    pub bytes_read: Option<u64>,
    /// Bytes written to clients.
    pub bytes_written: Option<u64>,
    /// The application's own counters.
    pub counters: Counters,
    /// What the application says of itself (`X_RATOON_INFO`); `None` for readers without details.
    pub info: Option<Map<String, Value>>,
    /// Open connections that the worker's page has no room for; they are not in `active_connections`. `None` without a page.
    pub unlisted_connections: Option<u64>,
    /// Its open connections, as far as it tells them. In a master that writes a document they are text from the beginning
    /// (`status::finished`), and this is empty.
    pub active_connections: Vec<Connection>,
}

/// A connection that a worker holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// `active` or `idle`.
    pub state: String,
    /// When it was accepted.
    pub start_time: String,
    /// The peer's address.
    pub remote_address: Option<String>,
    /// The peer's port.
    pub remote_port: Option<u16>,
    /// Since when no request is in work.
    pub idle_since: Option<String>,
    /// Requests begun on it.
    pub requests: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// The request in work, or the last one.
    pub request: Option<Request>,
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// `processing`, `sending`, `finished` or `aborted`.
    pub state: String,
    /// When it began.
    pub start_time: String,
    /// The client's address.
    pub ip: Option<String>,
    /// GET, POST …
    pub method: String,
    /// Path and query; `None` for readers without details.
    pub url: Option<String>,
    /// `1.0`, `1.1`, `2`.
    pub http_version: String,
    /// What the application says of it; `None` for readers without details.
    pub info: Option<Map<String, Value>>,
}

/// A worker that ended without having been asked to, that failed to start, or whose end was not clean although it was asked to end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// The worker's id.
    pub worker: u64,
    /// Its slot.
    pub slot: u32,
    /// Its generation.
    pub generation: u64,
    /// Its process, if there ever was one.
    pub pid: Option<u32>,
    /// When it ended.
    pub time: String,
    /// `exit 1`, `signal SIGSEGV (core dumped)`, `start timeout after 10s` …
    pub how: String,
    /// `how`, and when in its life: `exit 1 before it was ready`.
    pub cause: String,
    /// What looks like the error in the lines that it printed; `None` for readers without details.
    pub detail: Option<String>,
    /// Files that its generation runs and that changed in place since the release was pinned: the worker may have run a mixture.
    pub release_changed: Option<String>,
    /// Its last `STATUS=`.
    pub last_status: Option<String>,
    /// The first lines that it printed, unless they are in `log_tail`; lines between the two may be missing.
    pub log_head: Vec<String>,
    /// The last lines that it printed, oldest first.
    pub log_tail: Vec<String>,
    /// What it was serving.
    pub serving: Vec<Request>,
    /// Connections with a request in work that the worker's page had no room for; they are not in `serving`.
    pub serving_unlisted: u64,
}
