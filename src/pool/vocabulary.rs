//! The words between the pool and the world: what can happen ([`Event`]), what shall be done ([`Action`]), and the
//! settings of a generation. Plain data; whoever adds a word adds it to the simulation too.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::exit_cause::ExitCause;
use super::reason::{Cause, Reason};
use super::worker::Phase;

/// A worker's number, never used twice in an instance's life.
pub type WorkerId = u64;
/// A generation's number, from 1.
pub type GenerationId = u64;
/// A worker's place, `0 … N-1`.
pub type Slot = u32;
/// Who waits for an answer.
pub type RequesterId = u64;

/// What the pool must know of a generation's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How many workers the configuration wants (`worker.count`).
    pub count: u32,
    /// How a worker becomes ready.
    pub ready: Readiness,
    /// To readiness.
    pub start_timeout: Duration,
    /// From the stop signal to SIGKILL.
    pub stop_timeout: Duration,
    /// Begins a drain; a worker that ends by it ended cleanly.
    pub stop_signal: i32,
    /// Longest silence of a ready worker; `None`: not watched.
    pub watchdog: Option<Duration>,
    /// Replacing workers that failed.
    pub restart: Restart,
    /// How many new workers may live beside the old.
    pub surge: Surge,
    /// Time after all are ready in which a crash still rolls back; `None`: it depends on how they got ready.
    pub probation: Option<Duration>,
    /// A worker older than this is replaced.
    pub max_age: Option<Duration>,
    /// Each slot has a queue of its own (`worker.balance = "per-slot"`).
    pub per_slot: bool,
    /// There are listening sockets.
    pub listens: bool,
}

/// `worker.ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// It says `READY=1`.
    Notify,
    /// It lived for so long.
    Running(Duration),
    /// It was seen to accept; where that cannot be seen, it said `READY=1` or lived for so long.
    Accepting(Duration),
    /// It said `READY=1` and was seen to accept; or it was seen to accept and was silent for so long, when no worker of the committed
    /// generation said `READY=1`.
    Auto(Duration),
}

/// What a look from outside showed of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepting {
    /// The listening sockets on which it accepts: bit 0 is the first, bit 31 the 32nd and all behind it.
    pub sockets: u32,
    /// Something could not be seen.
    pub hidden: bool,
}

/// `restart.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// The first delay of a slot.
    pub initial: Duration,
    /// The longest delay; also the life after which a slot starts afresh.
    pub max: Duration,
    /// More failures of one slot than this within `interval`: degraded.
    pub limit: u32,
    /// See `limit`.
    pub interval: Duration,
    /// With no worker ready for so long the instance ends with status 1.
    pub give_up: Option<Duration>,
}

/// `reload.surge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Surge {
    /// Of the number of workers, rounded up.
    Percent(u32),
    /// So many.
    Count(u32),
}

impl Surge {
    /// How many workers that is, at least one.
    pub fn of(self, count: u32) -> u32 {
        match self {
            Surge::Percent(percent) => (u64::from(count) * u64::from(percent)).div_ceil(100).clamp(1, u64::from(u32::MAX)) as u32,
            Surge::Count(count) => count.max(1),
        }
    }
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The instance begins: the first generation's configuration was read.
    Start(Settings),
    /// The deadline that [`super::Pool::deadline`] gave is reached.
    Due,
    /// The master did not run for so long: every deadline is that much later.
    Absent(Duration),
    /// The process of a worker exists.
    Spawned(WorkerId, u32),
    /// It could not be made (fork failed, a cgroup could not be made …).
    SpawnFailed(WorkerId, String),
    /// Another process of the worker is its main one now.
    MainPid(WorkerId, u32),
    /// A worker said something.
    Notification(WorkerId, Notification),
    /// A starting worker was looked at from outside.
    Seen(WorkerId, Accepting),
    /// A worker's main process ended; `left` says whether other processes of it still live.
    Exited {
        /// Which worker.
        worker: WorkerId,
        /// How.
        how: ExitCause,
        /// Other processes of it still live; [`Event::Cleared`] follows.
        left: bool,
    },
    /// Nothing of the worker is left.
    Cleared(WorkerId),
    /// The answer to [`Action::DrainOrphaned`].
    Orphaned {
        /// Which worker.
        worker: WorkerId,
        /// An orphaned process of it holds a listening socket or an accepted connection.
        serving: bool,
    },
    /// Nothing waits any more in the queue that the worker served; the answer to [`Action::Vacate`].
    Vacated(WorkerId),
    /// The worker has used up what it may (memory, requests): recycle it.
    RecycleDue(WorkerId, RecycleReason),
    /// Somebody wants a new generation; nobody waits when `None`.
    Reload(Option<RequesterId>),
    /// The release of that generation is pinned, its configuration read.
    Prepared(GenerationId, Settings),
    /// It can't be.
    Refused(GenerationId, Reason),
    /// Roll back the reload that is under way.
    Abort(Option<RequesterId>),
    /// A requester went away.
    RequesterGone(RequesterId),
    /// Have so many workers.
    Scale(u32, Option<RequesterId>),
    /// Replace one worker or all, within the generation.
    Recycle(Option<WorkerId>, Option<RequesterId>),
    /// Drain all and end; `now`: kill all and end.
    Stop {
        /// Without drain.
        now: bool,
    },
}

/// What a worker can say that concerns the pool.
#[derive(Clone, Debug, PartialEq)]
pub enum Notification {
    /// `READY=1`.
    Ready,
    /// `STOPPING=1`: it leaves by its own will.
    Stopping,
    /// `STATUS=`.
    Status(String),
    /// `WATCHDOG=1`.
    Watchdog,
    /// `WATCHDOG=trigger`.
    WatchdogTrigger,
    /// `WATCHDOG_USEC=`; zero turns it off.
    WatchdogEvery(Duration),
    /// `EXTEND_TIMEOUT_USEC=`.
    Extend(Duration),
}

/// Something shall be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read the configuration, pin the release; answer with `Prepared` or `Refused`.
    Prepare(GenerationId),
    /// Start a worker; answer with `Spawned` or `SpawnFailed`.
    Spawn {
        /// Its id.
        worker: WorkerId,
        /// Its slot.
        slot: Slot,
        /// Its generation.
        generation: GenerationId,
    },
    /// Send the generation's stop signal to the worker's main process.
    Stop(WorkerId),
    /// Watch the queue that the worker serves, to which no new connection goes any more ([`super::Pool::serving`]); answer with
    /// `Vacated` when it has been empty for a moment.
    Vacate(WorkerId),
    /// Send SIGABRT to the worker's main process.
    Abort(WorkerId),
    /// Send SIGKILL to every process of the worker.
    Kill(WorkerId),
    /// Send the stop signal to each orphaned process of the worker that holds a listening socket or an accepted connection and has
    /// not got the signal yet; answer with [`Event::Orphaned`].
    DrainOrphaned(WorkerId),
    /// The worker's state, pid or status is another now.
    Changed(WorkerId),
    /// The worker's main process is gone.
    Ended(Ended),
    /// A worker was recycled: its successor is ready and has its place.
    Recycled(RecycleReason),
    /// Nothing of the worker is left: what was held for it can go.
    Forget(WorkerId),
    /// No worker of that generation is left and none will come.
    Release(GenerationId),
    /// A reload began.
    ReloadStarted(GenerationId),
    /// A reload ended.
    ReloadFinished(GenerationId, Outcome, Reason),
    /// Answer a requester.
    Answer(RequesterId, Answer),
    /// All workers of the first committed generation are ready.
    Ready,
    /// The instance begins to end.
    Stopping,
    /// End, with this exit status.
    Exit(u8),
    /// Tell people.
    Log(Log),
}

/// Why a worker is recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecycleReason {
    /// Somebody asked for it.
    Request,
    /// `recycle.max_age`
    Age,
    /// `recycle.max_memory`
    Memory,
    /// `recycle.max_requests`
    Requests,
    /// Its listening socket was bound anew for the master after it.
    Socket,
}

impl RecycleReason {
    /// All there are.
    pub const ALL: [RecycleReason; 5] = [Self::Request, Self::Age, Self::Memory, Self::Requests, Self::Socket];

    /// As the status document and the metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Age => "age",
            Self::Memory => "memory",
            Self::Requests => "requests",
            Self::Socket => "socket",
        }
    }

    /// As the log has it.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Request => "on request",
            Self::Age => "recycle.max_age",
            Self::Memory => "recycle.max_memory",
            Self::Requests => "recycle.max_requests",
            Self::Socket => "its listening socket was bound anew",
        }
    }
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Its id.
    pub worker: WorkerId,
    /// Its slot.
    pub slot: Slot,
    /// Its generation.
    pub generation: GenerationId,
    /// Its process, if there ever was one.
    pub pid: Option<u32>,
    /// How.
    pub how: ExitCause,
    /// Where it was in its life.
    pub phase: Phase,
    /// Nobody had asked it to go, or it had to be killed.
    pub failed: bool,
    /// Its last `STATUS=`.
    pub status: String,
}

impl Ended {
    /// How it ended, and when in its life.
    pub fn cause(&self) -> Cause {
        Cause { how: self.how.clone(), phase: self.phase }
    }
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new generation is the one.
    Committed,
    /// It failed; the old one stays.
    RolledBack,
    /// It never began: configuration, check or hook said no.
    Refused,
    /// Somebody wanted it to end.
    Aborted,
}

impl Outcome {
    /// All there are.
    pub const ALL: [Outcome; 4] = [Outcome::Committed, Outcome::RolledBack, Outcome::Refused, Outcome::Aborted];

    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Committed => "committed",
            Outcome::RolledBack => "rolled-back",
            Outcome::Refused => "refused",
            Outcome::Aborted => "aborted",
        }
    }
}

/// What a requester is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Its reload ended so.
    Reload(GenerationId, Outcome, Reason),
    /// Done.
    Done,
    /// Not done, and why.
    Failed(String),
}

/// A line for people, with what it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// What kind of happening; the journal's catalog explains it.
    pub kind: Kind,
    /// The sentence.
    pub message: String,
    /// The generation that it is about.
    pub generation: Option<GenerationId>,
    /// The worker that it is about.
    pub worker: Option<WorkerId>,
    /// Its slot.
    pub slot: Option<Slot>,
}

/// Kinds of happenings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing special.
    Info,
    /// Worth a look.
    Warning,
    /// A detail.
    Debug,
    /// A reload began.
    ReloadStarted,
    /// A reload was committed.
    Committed,
    /// A reload was rolled back, or aborted.
    RolledBack,
    /// A reload was refused.
    Refused,
    /// A worker ended without having been asked to.
    WorkerFailed,
    /// A worker was not ready in time.
    StartTimeout,
    /// A worker did not stop in time.
    StopTimeout,
    /// A worker's watchdog ran out.
    Watchdog,
    /// More failures than the configuration allows.
    Degraded,
    /// All is well again.
    Recovered,
    /// No worker was ready for too long.
    GaveUp,
    /// Every slot failed several times, and no worker was ever ready.
    CannotStart,
}
