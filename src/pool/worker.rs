//! One worker as the pool keeps it. Plain data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::exit_cause::ExitCause;
use super::ids::{GenerationId, Slot};
use super::settings::Accepting;
use super::time::Time;

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The worker's process is being started, or is not ready yet.
    Starting,
    /// The worker serves.
    Ready,
    /// The worker was asked to end, or ends by itself (`STOPPING=1`).
    Draining,
}

impl Phase {
    /// The name in `docs/contract.md` §6.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
        }
    }
}

/// Why a worker drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StopReason {
    /// The pool does not need the worker any more.
    Asked,
    /// The worker sent `STOPPING=1`.
    Leaving,
    /// The worker sent `STOPPING=1` before it was ready, or less than `restart.initial` after that in a slot that had failed before.
    LeavingAtOnce,
    /// The worker was not ready within this time.
    StartTimeout(Duration),
    /// The worker's watchdog timeout expired, or the worker sent `WATCHDOG=trigger`.
    Watchdog,
}

/// The part of a worker in forks from a preload process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Forking {
    /// None: the worker has a process, or its process is started directly.
    #[default]
    No,
    /// The preload process of its generation is not ready yet; [`Action::Spawn`] was not returned.
    Held,
    /// The preload process is to fork it.
    Asked,
    /// The worker is the preload process of its generation, which has no slot and serves no client.
    Parent,
}

/// The evidence for a worker's readiness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signs {
    /// The worker sent READY=1.
    pub said: bool,
    /// The result of the last observation from outside.
    pub seen: Accepting,
}

/// How a worker is seen to hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hang {
    /// Its process is stopped, as by SIGSTOP.
    Stopped,
    /// Its oldest request takes longer than `worker.balance_hung`.
    Request,
    /// Connections wait in its queue and it accepts none, while the queues of others are empty.
    Queue,
}

impl Hang {
    /// The name in the status document.
    pub fn as_str(self) -> &'static str {
        match self {
            Hang::Stopped => "stopped",
            Hang::Request => "request",
            Hang::Queue => "queue",
        }
    }

    /// The text for the log.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Hang::Stopped => "its process is stopped",
            Hang::Request => "its request takes longer than worker.balance_hung",
            Hang::Queue => "it accepts no connections, and others do",
        }
    }
}

/// One worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worker {
    /// The worker's slot.
    pub slot: Slot,
    /// The worker's generation.
    pub generation: GenerationId,
    /// The pid of the main process; `None` until the process is started.
    pub pid: Option<u32>,
    /// The worker's state.
    pub phase: Phase,
    /// The worker's last `STATUS=`.
    pub status: String,
    pub(super) stop_reason: Option<StopReason>,
    pub(super) ready_at: Option<Time>,
    /// The evidence for the worker's readiness.
    pub(super) signs: Signs,
    /// Longest time between two `WATCHDOG=1` while the worker is ready; `None`: no watchdog.
    pub(super) watchdog: Option<Duration>,
    /// The worker is counted in the `ready` of its generation.
    pub(super) counted: bool,
    /// The worker is to stop, but serves on until its accept queue is empty, because no other worker serves that queue.
    #[serde(rename = "vacating")]
    pub(super) draining_queue: bool,
    /// The worker serves the second queue of its slot; see [`Queue`](super::Queue).
    #[serde(default)]
    pub(super) second_queue: bool,
    /// The worker was started to empty the queue of a failed worker, and stands in no slot; see [`Pool::relieve`].
    #[serde(default)]
    pub(super) is_relief: bool,
    /// The worker is probed on private sockets, has no slot and serves no client.
    pub is_probe: bool,
    /// The worker's part in forks from a preload process.
    #[serde(default)]
    pub(super) forking: Forking,
    /// The stop timeout expired and SIGKILL was sent.
    pub(super) killed: bool,
    /// How the main process ended; `None` while it lives.
    pub(super) how: Option<Box<ExitCause>>,
}

/// The master may use at most 1 KiB of memory for each worker, and this struct is a part of that.
const _: () = assert!(size_of::<Worker>() <= 120);
