//! The JSON messages of the control socket beside the status document: the summary, the events, the answers.
//!
//! Law: server and client share these types, so that the two cannot differ. A reader ignores fields that it does not know,
//! and accepts messages without the fields that an older master does not send.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::api::{Change, ProbeAnswer, ReloadAnswer, Summary, WorkerView};
use crate::pool::Scaled;
use crate::status::tree::Canary;

/// The summary of the pool: body of `GET /readyz`, and the event `summary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SummaryMessage {
    /// The instance's name.
    pub instance: String,
    /// The version of the master's program.
    pub version: String,
    /// PID of the master.
    pub pid: u32,
    /// `starting`, `running`, `idle`, `reloading` or `stopping`.
    pub state: String,
    /// Whether workers crash more often than the configuration allows.
    pub degraded: bool,
    /// Whether the instance is paused.
    pub paused: bool,
    /// Whether the instance has no worker until the first connection, or that connection has just started one.
    pub idle: bool,
    /// The status text that systemd shows.
    pub status_text: String,
    /// The committed generation; 0 before the first.
    pub generation: u64,
    /// Number of workers that there should be.
    pub workers_configured: u32,
    /// Number of ready workers of the committed generation.
    pub workers_ready: u32,
    /// Least number of workers by the configuration.
    pub workers_min: u32,
    /// Largest number of workers by the configuration.
    pub workers_max: u32,
    /// Whether connections wait although the load has brought the pool to its largest number of workers.
    pub at_max: bool,
    /// Number of workers that ended without having been asked to, since the instance began.
    pub worker_crashes: u64,
    /// Start time of the instance, RFC 3339.
    pub start_time: String,
    /// Start time of this program of the master, RFC 3339. After an upgrade in place it differs from that of the instance.
    pub program_start_time: String,
    /// The canary that is under way, as in the status document, with its time in whole seconds; left out without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Box<Canary>>,
}

/// A worker as the loop knows it: the event `worker`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerMessage {
    /// The worker's id; never used twice.
    pub id: u64,
    /// The worker's slot.
    pub slot: u32,
    /// The worker's generation.
    pub generation: u64,
    /// PID of the worker's main process; `null` before there is one.
    pub pid: Option<u32>,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// The worker's last `STATUS=`.
    pub status: String,
    /// Start time of the worker, RFC 3339.
    pub start_time: String,
}

/// The exit of a worker: the event `worker-exited`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitMessage {
    /// The worker's id.
    pub id: u64,
    /// The worker's slot.
    pub slot: u32,
    /// The worker's generation.
    pub generation: u64,
    /// The cause of the exit, as in the status document: `exit 1`, `signal SIGSEGV (core dumped)` …
    pub how: String,
    /// Whether the worker ended without having been asked to.
    pub failed: bool,
}

/// The outcome of a reload or a probe: the answer to `POST /reload` and `POST /probe`, and the event `reload-finished`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadMessage {
    /// The reload's new generation.
    pub generation: u64,
    /// `committed`, `rolled-back`, `refused` or `aborted`; of a probe `passed` or `failed`.
    pub result: String,
    /// The reason as text; empty when committed.
    pub reason: String,
    /// The line that looks like the error in the output of the check, the hook or the failed worker; only in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The first and the last lines of that output; only in the answer, and left out when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// The failed worker; only in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u64>,
    /// Warnings for the requester beside the outcome; only in the answer, and left out when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether the instance is stopping; only in the answer, and left out when it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
}

impl ReloadMessage {
    /// Whether the new generation was committed.
    pub fn committed(&self) -> bool {
        self.result == "committed"
    }
}

/// The answer to the other changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeMessage {
    /// `done` or `failed`.
    pub result: String,
    /// The reason of the failure; empty when done.
    pub reason: String,
}

/// The error of a request that was not carried out: body of every other answer that is not 2xx.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorMessage {
    /// The error as a sentence: what was wrong, and what to do.
    pub error: String,
}

/// A committed generation that `reload.watch` has undone: the event `undone`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UndoneMessage {
    /// The generation that was undone.
    pub generation: u64,
    /// The generation for which the release that serves again was read.
    pub release: u64,
    /// The reason as text.
    pub reason: String,
}

/// Another number of workers: the event `scaled`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScaledMessage {
    /// The generation.
    pub generation: u64,
    /// The number of workers before.
    pub from: u32,
    /// The number of workers from now on.
    pub to: u32,
    /// The reason with its figures.
    pub reason: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Started {
    generation: u64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Lagged {
    missed: u64,
}

/// One server-sent event of `GET /events`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// `summary`: the first event, and again whenever the summary changes.
    Summary(SummaryMessage),
    /// `worker`: a worker was started, or its state or status changed.
    Worker(WorkerMessage),
    /// `worker-exited`
    WorkerExited(ExitMessage),
    /// `reload-started`, with the reload's new generation.
    ReloadStarted(u64),
    /// `reload-finished`
    ReloadFinished(ReloadMessage),
    /// `undone`: `reload.watch` has undone a committed generation; follows the `reload-finished` that tells the same.
    Undone(UndoneMessage),
    /// `scaled`: the number of workers is another one.
    Scaled(ScaledMessage),
    /// `lagged`: the listener was too slow and lost this number of events; a fresh `summary` follows.
    Lagged(u64),
}

impl Event {
    /// The event's stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Summary(_) => "summary",
            Event::Worker(_) => "worker",
            Event::WorkerExited(_) => "worker-exited",
            Event::ReloadStarted(_) => "reload-started",
            Event::ReloadFinished(_) => "reload-finished",
            Event::Undone(_) => "undone",
            Event::Scaled(_) => "scaled",
            Event::Lagged(_) => "lagged",
        }
    }

    /// The event as text of the stream: three lines and an empty one. A listener that reconnects sends the last `id` that it saw.
    pub fn to_stream(&self, id: &str) -> String {
        format!("id: {id}\nevent: {}\ndata: {}\n\n", self.name(), self.data())
    }

    /// The event's data: one line of JSON.
    pub fn data(&self) -> String {
        match self {
            Event::Summary(message) => json(message),
            Event::Worker(message) => json(message),
            Event::WorkerExited(message) => json(message),
            Event::ReloadStarted(generation) => json(&Started { generation: *generation }),
            Event::ReloadFinished(message) => json(message),
            Event::Undone(message) => json(message),
            Event::Scaled(message) => json(message),
            Event::Lagged(missed) => json(&Lagged { missed: *missed }),
        }
    }

    /// Reads an event; `None` for a name or data that this version does not know.
    pub fn parse(name: &str, data: &str) -> Option<Event> {
        match name {
            "summary" => serde_json::from_str(data).ok().map(Event::Summary),
            "worker" => serde_json::from_str(data).ok().map(Event::Worker),
            "worker-exited" => serde_json::from_str(data).ok().map(Event::WorkerExited),
            "reload-started" => serde_json::from_str::<Started>(data).ok().map(|it| Event::ReloadStarted(it.generation)),
            "reload-finished" => serde_json::from_str(data).ok().map(Event::ReloadFinished),
            "undone" => serde_json::from_str(data).ok().map(Event::Undone),
            "scaled" => serde_json::from_str(data).ok().map(Event::Scaled),
            "lagged" => serde_json::from_str::<Lagged>(data).ok().map(|it| Event::Lagged(it.missed)),
            _ => None,
        }
    }
}

/// A message as one line of JSON. These types have only string keys and plain numbers, so writing cannot fail.
pub fn json<T: Serialize>(message: &T) -> String {
    serde_json::to_string(message).unwrap_or_else(|_| "{}".to_owned())
}

/// A time as RFC 3339, to the microsecond.
pub fn time(at: SystemTime) -> String {
    match jiff::Timestamp::try_from(at) {
        Ok(at) => format!("{at:.6}"),
        Err(_) => String::new(),
    }
}

impl From<&Summary> for SummaryMessage {
    fn from(summary: &Summary) -> Self {
        SummaryMessage {
            instance: summary.instance.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: summary.state.as_str().to_owned(),
            degraded: summary.degraded,
            paused: summary.paused,
            idle: summary.idle,
            status_text: summary.status_text.to_string(),
            generation: summary.generation,
            workers_configured: summary.workers_configured,
            workers_ready: summary.workers_ready,
            workers_min: summary.workers_min,
            workers_max: summary.workers_max,
            at_max: summary.at_max,
            worker_crashes: summary.crashes,
            start_time: time(summary.started_at),
            program_start_time: time(*crate::api::PROGRAM_STARTED),
            canary: summary.canary.as_deref().cloned().map(Box::new),
        }
    }
}

impl From<&WorkerView> for WorkerMessage {
    fn from(worker: &WorkerView) -> Self {
        WorkerMessage {
            id: worker.id,
            slot: worker.slot,
            generation: worker.generation,
            pid: (worker.pid != 0).then_some(worker.pid),
            state: worker.state.as_str().to_owned(),
            status: worker.status_text.to_string(),
            start_time: time(worker.started_at),
        }
    }
}

impl From<&ReloadAnswer> for ReloadMessage {
    fn from(answer: &ReloadAnswer) -> Self {
        ReloadMessage {
            generation: answer.generation,
            result: answer.outcome.as_str().to_owned(),
            reason: answer.reason.clone(),
            detail: answer.detail.clone(),
            output: answer.output.clone(),
            worker: answer.worker,
            warnings: answer.warnings.clone(),
            stopping: answer.stopping,
        }
    }
}

impl From<&ProbeAnswer> for ReloadMessage {
    fn from(answer: &ProbeAnswer) -> Self {
        ReloadMessage {
            generation: answer.generation,
            result: if answer.passed { "passed" } else { "failed" }.to_owned(),
            reason: answer.reason.clone(),
            detail: answer.detail.clone(),
            output: answer.output.clone(),
            worker: answer.worker,
            ..ReloadMessage::default()
        }
    }
}

impl From<&Change> for Event {
    fn from(change: &Change) -> Self {
        match change {
            Change::Worker(worker) => Event::Worker(worker.into()),
            Change::WorkerExited { id, slot, generation, how, failed } => Event::WorkerExited(ExitMessage {
                id: *id,
                slot: *slot,
                generation: *generation,
                how: how.to_string(),
                failed: *failed,
            }),
            Change::ReloadStarted { generation } => Event::ReloadStarted(*generation),
            Change::ReloadFinished { generation, outcome, reason } => Event::ReloadFinished(ReloadMessage {
                generation: *generation,
                result: outcome.as_str().to_owned(),
                reason: reason.to_string(),
                ..ReloadMessage::default()
            }),
            Change::Scaled(Scaled { generation, from, to, reason }) => {
                Event::Scaled(ScaledMessage { generation: *generation, from: *from, to: *to, reason: reason.clone() })
            }
            Change::Undone { generation, release, reason } => {
                Event::Undone(UndoneMessage { generation: *generation, release: *release, reason: reason.to_string() })
            }
        }
    }
}
