//! A worker in the status document: its figures, connections, requests, and its failure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Counters;

/// A living worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// The worker's id; never used twice.
    pub id: u64,
    /// The worker's slot.
    pub slot: u32,
    /// The worker's generation.
    pub generation: u64,
    /// PID of the worker's main process.
    pub pid: Option<u32>,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// The worker's last `STATUS=`.
    pub status: Option<String>,
    /// The evidence of readiness: `said` (READY=1 alone), `epoll`, `accept`, `connection` (the worker was seen to accept), or `unseen`.
    pub readiness: Option<String>,
    /// Whether the ready worker was seen to accept connections at the last look; `None` if it was not looked at, or cannot be seen.
    pub accepting: Option<bool>,
    /// How the ready worker hangs, so that new connections go to others: `stopped`, `request` or `queue`; `None` if they do not.
    pub avoided: Option<String>,
    /// Start time of the worker.
    pub start_time: String,
    /// Resident memory of all processes of the worker, bytes.
    pub memory_rss: Option<u64>,
    /// CPU time, microseconds.
    pub cpu_usec: Option<u64>,
    /// Connections that the worker holds now (the kernel's figure).
    pub open_connections: Option<u64>,
    /// Whether the worker holds a listening socket open (the kernel's figure). A draining worker that does may still accept.
    pub listening: Option<bool>,
    /// Requests in work, as far as the worker's page lists connections.
    pub requests_in_work: Option<u64>,
    /// Connections accepted since the worker's start.
    pub connections: Option<u64>,
    /// Requests served since the worker's start.
    pub requests: Option<u64>,
    /// Bytes read from clients.
    pub bytes_read: Option<u64>,
    /// Bytes written to clients.
    pub bytes_written: Option<u64>,
    /// The application's own counters.
    pub counters: Counters,
    /// The application's own `X_RATOON_INFO`; `None` for readers without details.
    pub info: Option<Map<String, Value>>,
    /// Open connections that the worker's page has no room for; they are not in `active_connections`. `None` without a page.
    pub unlisted_connections: Option<u64>,
    /// The worker's open connections, as far as its page lists them. Empty in a master that writes a document, where connections are
    /// JSON text from the start (`status::rendered`).
    pub active_connections: Vec<Connection>,
}

/// A connection that a worker holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// `active` or `idle`.
    pub state: String,
    /// Time of the accept.
    pub start_time: String,
    /// The peer's address.
    pub remote_address: Option<String>,
    /// The peer's port.
    pub remote_port: Option<u16>,
    /// Time since which no request is in work.
    pub idle_since: Option<String>,
    /// Requests begun on the connection.
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
    /// Start time.
    pub start_time: String,
    /// The client's address.
    pub ip: Option<String>,
    /// GET, POST …
    pub method: String,
    /// Path and query; `None` for readers without details.
    pub url: Option<String>,
    /// `1.0`, `1.1`, `2`.
    pub http_version: String,
    /// The application's information about the request; `None` for readers without details.
    pub info: Option<Map<String, Value>>,
}

/// A worker that ended without having been asked to, that failed to start, or that was asked to end and did not end cleanly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// The worker's id.
    pub worker: u64,
    /// The worker's slot.
    pub slot: u32,
    /// The worker's generation.
    pub generation: u64,
    /// PID of the worker's process, if there ever was one.
    pub pid: Option<u32>,
    /// Time of the worker's end.
    pub time: String,
    /// `exit 1`, `signal SIGSEGV (core dumped)`, `start timeout after 10s` …
    pub how: String,
    /// `how`, and the phase of the worker at its end: `exit 1 before it was ready`.
    pub cause: String,
    /// The line that looks like the error in the worker's output; `None` for readers without details.
    pub detail: Option<String>,
    /// Files of the worker's generation that changed in place since the release was pinned: the worker may have run a mixture.
    pub release_changed: Option<String>,
    /// The worker's last `STATUS=`.
    pub last_status: Option<String>,
    /// The first lines that the worker printed, unless they are in `log_tail`; lines between the two may be missing.
    pub log_head: Vec<String>,
    /// The last lines that the worker printed, oldest first.
    pub log_tail: Vec<String>,
    /// Requests that were in work when the worker ended.
    pub serving: Vec<Request>,
    /// Connections with a request in work that the worker's page had no room for; they are not in `serving`.
    pub serving_unlisted: u64,
}
