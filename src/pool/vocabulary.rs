//! The types between the pool and the master: what happened ([`Event`]), and what the master must do ([`Action`]). Plain data. A new variant also needs a place in the simulation (`tests/simulation.rs`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::exit_cause::ExitCause;
use super::ids::{GenerationId, RequesterId, Slot, WorkerId};
use super::reason::{Cause, Reason, RecycleReason};
use super::scaling::{Load, Scaled};
use super::settings::{Accepting, Settings};
use super::verdict::Comparison;
use super::worker::{Hang, Phase};

/// An input of the pool: something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The instance starts, with the configuration of the first generation.
    Start(Settings),
    /// The instance starts for one probe of this configuration, and ends: with status 0 if the probe passes, else with status 1.
    ProbeOnce(Settings),
    /// The deadline of [`super::Pool::deadline`] has passed.
    Due,
    /// The master did not run for this time: every deadline moves by as much.
    Absent(Duration),
    /// The process of a worker was started; its pid.
    Spawned(WorkerId, u32),
    /// The process of a worker could not be started, and why (fork failed, a cgroup could not be made …).
    SpawnFailed(WorkerId, String),
    /// The preload process lives but cannot fork any more, and why: it has closed its socket, or broken the protocol.
    PreloadLost(WorkerId, String),
    /// The preload process was started by a master before this one, and what it forks would be no child of this one.
    PreloadOutlived(WorkerId),
    /// Another process of the worker is its main process now; its pid (`MAINPID=`).
    MainPid(WorkerId, u32),
    /// A worker sent a notification.
    Notification(WorkerId, Notification),
    /// The master observed from outside on which sockets a starting worker accepts.
    Seen(WorkerId, Accepting),
    /// A worker's main process ended.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// How the process ended.
        how: ExitCause,
        /// Other processes of the worker still live; [`Event::Cleared`] follows.
        left: bool,
    },
    /// The last process of the worker is gone.
    Cleared(WorkerId),
    /// The answer to [`Action::DrainOrphaned`].
    Orphaned {
        /// The worker.
        worker: WorkerId,
        /// An orphaned process of the worker holds a listening socket or an accepted connection.
        serving: bool,
    },
    /// No connection waits in the accept queue of the worker any more; the answer to [`Action::DrainQueue`].
    QueueDrained(WorkerId),
    /// A worker with an accept queue of its own hangs, and how; from [`super::Pool::judge`], as the next two.
    Hangs(WorkerId, Hang),
    /// A worker hangs no more.
    Well(WorkerId),
    /// Connections have waited in the queue of a worker that hangs for `worker.balance_hung`.
    HungQueueWaits(WorkerId),
    /// The worker has reached a limit (`recycle.max_memory` …) and is to be recycled.
    RecycleDue(WorkerId, RecycleReason),
    /// A reload is requested; `None`: no requester waits for its outcome.
    Reload(Option<RequesterId>),
    /// The release of the generation is pinned and its configuration is read; the answer to [`Action::Prepare`].
    Prepared(GenerationId, Settings),
    /// The generation cannot be prepared; the other answer to [`Action::Prepare`].
    Refused(GenerationId, Reason),
    /// Go back to the release of this generation, or of the one before the current one.
    Undo(Option<GenerationId>, Option<RequesterId>),
    /// Probe the release that a reload would start, and end the probed worker; no generation starts.
    Probe(Option<RequesterId>),
    /// The probed worker has answered as it must, or not and why; the answer to [`Action::Probe`].
    Probed(WorkerId, Result<(), Reason>),
    /// End the present step of the canary.
    Promote(Option<RequesterId>),
    /// The requests that the old generation and this new one have counted since the present step began to wait, if they count them;
    /// sent once a second while [`super::Pool::compares`] returns generations.
    Compared(GenerationId, Option<Comparison>),
    /// The command that was asked for a verdict on this step of this generation's canary has answered; the answer to [`Action::Judge`].
    Judged(GenerationId, usize, CommandVerdict),
    /// Roll back the running reload.
    Abort(Option<RequesterId>),
    /// The master before this one died: the running reload is rolled back, as parts of it may be lost. The undo of a watch begins again.
    MasterDied,
    /// A requester disconnected and no longer waits for its answer.
    RequesterGone(RequesterId),
    /// Change the number of workers, which stays until [`Event::ScaleAuto`] or another number in the configuration.
    Scale(u32, Option<RequesterId>),
    /// The number of workers is that of the configuration again: `worker.count`, or what the load decides.
    ScaleAuto(Option<RequesterId>),
    /// A sample of the load of this generation, the current one; taken as often as [`super::Pool::load_period`] says.
    Load(GenerationId, Load),
    /// Replace one worker, or all (`None`), within the current generation.
    Recycle(Option<WorkerId>, Option<RequesterId>),
    /// Drain all workers and keep the sockets until [`Event::Resume`], or for this time.
    Pause(Option<Duration>, Option<RequesterId>),
    /// Start the workers of the paused instance again.
    Resume(Option<RequesterId>),
    /// A look for activity has ended; the master looks while [`super::Pool::look_period`] returns a time.
    Looked {
        /// A connection is open, or one came in since the look before; or that cannot be seen.
        active: bool,
    },
    /// A connection, or a datagram, waits while [`super::Pool::wants_no_workers`].
    Connected,
    /// End the instance.
    Stop {
        /// Kill all workers instead of draining them.
        now: bool,
    },
}

/// A message of a worker that concerns the pool, as in `sd_notify(3)`.
#[derive(Clone, Debug, PartialEq)]
pub enum Notification {
    /// `READY=1`.
    Ready,
    /// `STOPPING=1`: the worker ends without having been asked to.
    Stopping,
    /// `STATUS=`.
    Status(String),
    /// `WATCHDOG=1`.
    Watchdog,
    /// `WATCHDOG=trigger`.
    WatchdogTrigger,
    /// `WATCHDOG_USEC=`: a new watchdog interval; zero turns the watchdog off.
    WatchdogEvery(Duration),
    /// `EXTEND_TIMEOUT_USEC=`: time, from now on, to which the present timeout is extended.
    Extend(Duration),
}

/// An output of the pool: the master must do this.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Pin the release of the generation; answer with [`Event::Prepared`] or [`Event::Refused`].
    Prepare(GenerationId, Purpose),
    /// Start a worker's process as [`super::Pool::start_mode`] says; answer with [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn {
        /// The worker's id.
        worker: WorkerId,
        /// The worker's slot.
        slot: Slot,
        /// The worker's generation.
        generation: GenerationId,
    },
    /// Send the probe's request to this worker; answer with [`Event::Probed`].
    Probe(WorkerId),
    /// Ask the command for a verdict on this step of this generation's canary, from 0; answer with [`Event::Judged`].
    Judge(GenerationId, usize),
    /// Send the generation's stop signal to the worker's main process.
    Stop(WorkerId),
    /// Watch the accept queue of the worker, which gets no new connections any more ([`super::Pool::serving`]); answer with
    /// [`Event::QueueDrained`] when the queue has been empty for a moment.
    DrainQueue(WorkerId),
    /// Send SIGABRT to the worker's main process.
    Abort(WorkerId),
    /// Send SIGKILL to every process of the worker.
    Kill(WorkerId),
    /// Send the stop signal to each orphaned process of the worker that holds a listening socket or an accepted connection and did
    /// not get the signal before; answer with [`Event::Orphaned`].
    DrainOrphaned(WorkerId),
    /// The worker's phase, pid or status changed.
    Changed(WorkerId),
    /// The worker's main process ended: record it.
    Ended(Ended),
    /// A worker was recycled: the worker's successor is ready and has taken over the slot.
    Recycled(RecycleReason),
    /// The last process of the worker is gone: free everything that is held for the worker.
    Forget(WorkerId),
    /// Free the release of the generation: the generation has no worker left and will get none.
    Release(GenerationId),
    /// A reload began; the first requester that waits for it, if there is one.
    ReloadStarted(GenerationId, Option<RequesterId>),
    /// A reload ended.
    ReloadFinished(GenerationId, Outcome, Reason),
    /// The watch has undone this generation, which was committed, and why; the reload that brought the former release back was told before.
    Undone {
        /// The generation that was undone.
        generation: GenerationId,
        /// The generation for which the release that serves again was read.
        release: GenerationId,
        /// Why.
        reason: Reason,
    },
    /// Answer a requester.
    Answer(RequesterId, Answer),
    /// All workers of the first committed generation are ready: report READY=1 to systemd. At most once.
    Ready,
    /// The instance starts to stop.
    Stopping,
    /// End the master with this exit status.
    Exit(u8),
    /// The number of workers is another one.
    Scaled(Scaled),
    /// Write a log line.
    Log(Log),
}

/// The record of the end of a worker's main process.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The worker's id.
    pub worker: WorkerId,
    /// The worker's slot.
    pub slot: Slot,
    /// The worker's generation.
    pub generation: GenerationId,
    /// The pid of the main process; `None` if the worker never had a process.
    pub pid: Option<u32>,
    /// How the process ended.
    pub how: ExitCause,
    /// The worker's phase when the process ended.
    pub phase: Phase,
    /// The end is a failure: the worker was not asked to end, had to be killed, or did not end cleanly while it drained.
    pub failed: bool,
    /// The worker's last `STATUS=`.
    pub status: String,
}

impl Ended {
    /// How the worker ended, and in which phase.
    pub fn cause(&self) -> Cause {
        Cause { how: self.how.clone(), phase: self.phase }
    }
}

/// The purpose for which a release is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A new generation.
    Reload,
    /// A probe alone; hooks do not run.
    Probe,
    /// A new generation with the last good release that is recorded, because the first one does not come up.
    LastGood,
    /// A new generation with an earlier release.
    Undo {
        /// The generation whose pin is used.
        target: GenerationId,
        /// The generation for which that release was read.
        release: GenerationId,
    },
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new generation is the current one.
    Committed,
    /// The new generation failed; the old one stays.
    RolledBack,
    /// No worker was started: the configuration, the check or a hook failed.
    Refused,
    /// The reload was ended on request, by the loss of its last requester, or by the end of the instance.
    Aborted,
    /// The new generation was committed, and undone by `reload.watch`. Requesters of the reload were answered at the commit.
    Undone,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 5] = [Outcome::Committed, Outcome::RolledBack, Outcome::Refused, Outcome::Aborted, Outcome::Undone];

    /// The name in `docs/contract.md`.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Committed => "committed",
            Outcome::RolledBack => "rolled-back",
            Outcome::Refused => "refused",
            Outcome::Aborted => "aborted",
            Outcome::Undone => "undone",
        }
    }
}

/// The answer of the command.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandVerdict {
    /// Exit status 0: the canary goes on.
    GoOn,
    /// Exit status 1: it is rolled back, and why.
    RollBack(Reason),
    /// Anything else, and what it was.
    Unclear(Reason),
}

/// The answer to a requester.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The outcome of the requested reload.
    Reload(GenerationId, Outcome, Reason),
    /// The end of a probe that was requested by itself: the number of its generation, and why it failed.
    Probed(GenerationId, Option<Reason>),
    /// The request was carried out.
    Done,
    /// The request was not carried out, and why.
    Failed(String),
}

/// A log line, with the generation and worker that it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The kind of the event; the journal's message catalog explains each kind.
    pub kind: Kind,
    /// The text.
    pub message: String,
    /// The generation that the line is about.
    pub generation: Option<GenerationId>,
    /// The worker that the line is about.
    pub worker: Option<WorkerId>,
    /// The slot of that worker.
    pub slot: Option<Slot>,
}

/// The kind of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ordinary information.
    Info,
    /// A problem that the administrator should look at.
    Warning,
    /// A detail for debugging.
    Debug,
    /// A reload began.
    ReloadStarted,
    /// A step of a canary waits, or has passed.
    Canary,
    /// A reload was committed.
    Committed,
    /// A reload was rolled back, or aborted.
    RolledBack,
    /// A reload was refused.
    Refused,
    /// `reload.watch` undoes a reload that was committed.
    Undone,
    /// All workers are drained, and connections wait.
    Paused,
    /// The instance serves again after a pause.
    Resumed,
    /// All workers are drained for want of connections.
    Idle,
    /// The first connection starts a worker of an idle pool.
    Waking,
    /// The first worker of an idle pool is ready.
    Woken,
    /// The number of workers is another one.
    Scaled,
    /// All workers that the configuration allows are there, and connections wait.
    AtMax,
    /// A worker hangs, so that new connections go to others.
    Hangs,
    /// A worker ended without having been asked to, or did not end cleanly while it drained.
    WorkerFailed,
    /// A worker was not ready in time.
    StartTimeout,
    /// A worker did not stop in time.
    StopTimeout,
    /// A worker's watchdog timeout expired, or the worker sent `WATCHDOG=trigger`.
    Watchdog,
    /// A slot failed more often than `restart.limit` allows.
    Degraded,
    /// The pool is no longer degraded.
    Recovered,
    /// No worker was ready for `restart.give_up`.
    GaveUp,
    /// The probe of the first generation failed.
    ProbeFailed,
    /// Every slot failed several times and no worker was ever ready: the first start ends.
    CannotStart,
}
