//! The interface between the front ends (HTTP, D-Bus) and the master's loop: requests, answers, the summary, changes.
//!
//! Law: only the loop touches the pool. A front end holds a [`Handle`], sends commands, awaits one answer to each, and reads
//! what the loop publishes. When a requester's future is dropped, the loop is told that the requester went away.
#![forbid(unsafe_code)]

pub mod changes;
pub mod readers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use self::changes::ChangeFeed;
use self::readers::Readers;
use crate::pool::{Outcome, Phase, PoolState, Scaled};
use crate::status::rendered::RenderedStatus;
use crate::status::tree::{Canary, Release};

/// Number of a requester, which waits for an answer; never used twice.
pub type RequesterId = u64;

/// A request to change the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Start a new generation; answered at its end.
    Reload,
    /// Go back to the release of this generation, or of the one before the current one; answered as a reload.
    Undo(Option<u64>),
    /// Probe the release that a reload would start; no generation starts.
    Probe,
    /// Roll back the reload that is under way.
    Abort,
    /// End the step of the canary that waits.
    Promote,
    /// Set the number of workers, until [`Request::ScaleAuto`].
    Scale(u32),
    /// The number of workers is the configuration's again: `worker.count`, or what the load decides.
    ScaleAuto,
    /// Replace this worker, or all, within the generation.
    Recycle(Option<u64>),
    /// Drain all workers and keep the sockets, for this time or until [`Request::Resume`]; answered when the last worker is gone.
    Pause(Option<Duration>),
    /// Start the workers of the paused instance again.
    Resume,
    /// Replace the master's own program in place.
    Upgrade,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The answer to [`Request::Reload`].
    Reload(ReloadAnswer),
    /// The answer to [`Request::Probe`].
    Probe(ProbeAnswer),
    /// The request was carried out.
    Done,
    /// The request was not carried out; the reason.
    Failed(String),
}

/// The outcome of a reload and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadAnswer {
    /// The reload's new generation.
    pub generation: u64,
    /// The outcome of the reload.
    pub outcome: Outcome,
    /// The reason as text, for every reader; empty when committed.
    pub reason: String,
    /// Output of a program that explains the reason.
    pub detail: Option<String>,
    /// The first and the last lines that this program printed.
    pub output: Vec<String>,
    /// The worker that failed.
    pub worker: Option<u64>,
    /// Warnings for the requester beside the outcome, a sentence each.
    pub warnings: Vec<String>,
    /// Whether the instance is stopping, so that no later request for a reload can succeed.
    pub stopping: bool,
}

/// The outcome of a probe that was requested by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// The generation's number that the probed worker had; no other generation gets it.
    pub generation: u64,
    /// Whether a reload of this release would start its generation.
    pub passed: bool,
    /// Why not, as text, for every reader; empty when passed.
    pub reason: String,
    /// Output of a program that explains the reason.
    pub detail: Option<String>,
    /// The first and the last lines that this program printed.
    pub output: Vec<String>,
    /// The worker that was probed and failed.
    pub worker: Option<u64>,
}

impl ReloadAnswer {
    /// An answer that has an outcome and a reason, and nothing else.
    pub fn new(generation: u64, outcome: Outcome, reason: impl Into<String>) -> ReloadAnswer {
        let (reason, output, warnings) = (reason.into(), Vec::new(), Vec::new());
        ReloadAnswer { generation, outcome, reason, detail: None, output, worker: None, warnings, stopping: false }
    }
}

/// A command from a front end to the loop.
#[derive(Debug)]
pub enum Command {
    /// A request; `reply` is `None` when no requester waits for the outcome.
    Request {
        /// The number of the requester.
        requester: RequesterId,
        /// The request.
        request: Request,
        /// The channel for the answer.
        reply: Option<oneshot::Sender<Reply>>,
        /// Whether systemd is told that a reload runs, because its own `ExecReload=` did not start that reload.
        announce: bool,
        /// The requester in words: `user 0 on the control socket`.
        by: Arc<str>,
    },
    /// The requester went away before the answer.
    Gone(RequesterId),
    /// Get the whole status document.
    Document(oneshot::Sender<Arc<RenderedStatus>>),
    /// Get the committed releases that are kept, newest first.
    History(oneshot::Sender<Vec<Release>>),
    /// Get the workers as the loop knows them, without the kernel's figures.
    Workers(oneshot::Sender<Vec<WorkerView>>),
}

/// A summary of the pool. The loop publishes it whenever it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The instance's name.
    pub instance: Arc<str>,
    /// State of the pool.
    pub state: PoolState,
    /// Whether workers crash more often than the configuration allows.
    pub degraded: bool,
    /// Whether the instance is paused.
    pub paused: bool,
    /// Whether the instance has no worker until the first connection, or that connection has just started one.
    pub idle: bool,
    /// The time from the last first connection of an idle instance to the readiness of its worker.
    pub last_wake: Option<Duration>,
    /// The status text that systemd shows.
    pub status_text: Arc<str>,
    /// The committed generation.
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
    pub crashes: u64,
    /// Start time of the instance.
    pub started_at: SystemTime,
    /// The last reload: generation, outcome, reason, time of its end.
    pub last_reload: Option<(u64, Outcome, Arc<str>, SystemTime)>,
    /// The canary that is under way; its time is in whole seconds.
    pub canary: Option<Arc<Canary>>,
}

/// A worker as the loop knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerView {
    /// The worker's id; never used twice.
    pub id: u64,
    /// The worker's slot.
    pub slot: u32,
    /// The worker's generation.
    pub generation: u64,
    /// PID of the worker's main process; 0 before there is one.
    pub pid: u32,
    /// The worker's phase.
    pub state: Phase,
    /// The worker's last `STATUS=`.
    pub status_text: Arc<str>,
    /// Start time of the worker.
    pub started_at: SystemTime,
}

/// One change, sent to all listeners (server-sent events, D-Bus signals, the progress of a reload).
#[derive(Clone, Debug)]
pub enum Change {
    /// A worker was started, or its state or status changed.
    Worker(WorkerView),
    /// A worker exited; `how` as in docs/contract.md §6.
    WorkerExited {
        /// The worker's id.
        id: u64,
        /// The worker's slot.
        slot: u32,
        /// The worker's generation.
        generation: u64,
        /// `exit 1`, `signal SIGSEGV (core dumped)` …
        how: Arc<str>,
        /// Whether the worker ended without having been asked to.
        failed: bool,
    },
    /// A reload began.
    ReloadStarted {
        /// The reload's new generation.
        generation: u64,
    },
    /// A reload ended.
    ReloadFinished {
        /// The reload's new generation.
        generation: u64,
        /// The outcome of the reload.
        outcome: Outcome,
        /// The reason as text; empty when committed.
        reason: Arc<str>,
    },
    /// The number of workers is another one.
    Scaled(Scaled),
    /// `reload.watch` has undone a committed generation; told after the [`Change::ReloadFinished`] with the same outcome.
    Undone {
        /// The generation that was undone.
        generation: u64,
        /// The generation for which the release that serves again was read.
        release: u64,
        /// The reason as text.
        reason: Arc<str>,
    },
}

/// The error of a call to a master whose loop has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the master is ending")
    }
}

/// A front end's handle to the loop. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    summary: watch::Receiver<Summary>,
    changes: ChangeFeed,
    requesters: Arc<AtomicU64>,
    readers: Arc<Readers>,
    announces: bool,
    by: Arc<str>,
}

/// The loop's end of the channels: commands come in, the summary and the changes go out.
pub struct Backend {
    /// Commands from the front ends.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// The channel on which the loop publishes the summary.
    pub summary: watch::Sender<Summary>,
    /// The feed on which the loop publishes changes. A slow listener loses the oldest changes and is told that it did.
    pub changes: ChangeFeed,
}

/// Start time of this program of the master. After an upgrade in place it differs from that of the instance.
pub static PROGRAM_STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// Makes both ends of the channels: a front end's handle and the loop's backend.
pub fn channel(first: Summary) -> (Handle, Backend) {
    LazyLock::force(&PROGRAM_STARTED);
    let (command_in, commands) = mpsc::unbounded_channel();
    let (summary_in, summary) = watch::channel(first);
    let changes = ChangeFeed::default();
    let handle = Handle {
        commands: command_in,
        summary,
        changes: changes.clone(),
        requesters: Arc::default(),
        readers: Arc::default(),
        announces: false,
        by: Arc::default(),
    };
    (handle, Backend { commands, summary: summary_in, changes })
}

impl Handle {
    /// The rules on what readers may see. The loop sets them, the front ends read them.
    pub fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    /// A handle for a front end whose reloads are announced to systemd.
    pub fn announcing(&self) -> Handle {
        Handle { announces: true, ..self.clone() }
    }

    /// A handle for a requester that is called so in the history: `user 0 on the control socket`.
    pub fn by(&self, requester: impl Into<Arc<str>>) -> Handle {
        Handle { by: requester.into(), ..self.clone() }
    }

    /// Sends a request and waits for the answer. Dropping the future before that tells the loop that the requester went away.
    ///
    /// # Errors
    /// [`Closed`] when the master ends before it answers.
    pub async fn ask(&self, request: Request) -> Result<Reply, Closed> {
        let requester = self.next_requester();
        let (reply, answer) = oneshot::channel();
        let command = Command::Request { requester, request, reply: Some(reply), announce: self.announces, by: self.by.clone() };
        self.commands.send(command).map_err(|_| Closed)?;
        let mut guard = Guard { requester, commands: &self.commands, armed: true };
        let answer = answer.await;
        guard.armed = false;
        answer.map_err(|_| Closed)
    }

    /// The last number that was given to a requester.
    pub fn last_requester(&self) -> RequesterId {
        self.requesters.load(Ordering::Relaxed)
    }

    /// Gives later requesters numbers above `last`: an earlier program of this master has used those up to it.
    pub fn number_requesters_after(&self, last: RequesterId) {
        self.requesters.fetch_max(last, Ordering::Relaxed);
    }

    /// Sends a request and does not wait for the answer. A reload that was requested so runs to its end.
    pub fn ask_unattended(&self, request: Request) {
        let _ = self.commands.send(Command::Request {
            requester: self.next_requester(),
            request,
            reply: None,
            announce: true,
            by: self.by.clone(),
        });
    }

    /// The whole status document.
    ///
    /// # Errors
    /// [`Closed`] when the master ends before it answers.
    pub async fn document(&self) -> Result<Arc<RenderedStatus>, Closed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Document(reply)).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// The committed releases that are kept, newest first.
    ///
    /// # Errors
    /// [`Closed`] when the master ends before it answers.
    pub async fn history(&self) -> Result<Vec<Release>, Closed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::History(reply)).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// The workers as the loop knows them.
    ///
    /// # Errors
    /// [`Closed`] when the master ends before it answers.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, Closed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Workers(reply)).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// A receiver of the summary, which can be read at once or awaited.
    pub fn summary(&self) -> watch::Receiver<Summary> {
        self.summary.clone()
    }

    /// The feed of changes: later ones, and those before that are still kept.
    pub fn changes(&self) -> &ChangeFeed {
        &self.changes
    }

    /// A number for one requester; never given twice.
    fn next_requester(&self) -> RequesterId {
        self.requesters.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Tells the loop when a requester's future is dropped before the answer.
struct Guard<'a> {
    requester: RequesterId,
    commands: &'a mpsc::UnboundedSender<Command>,
    armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.armed {
            let _ = self.commands.send(Command::Gone(self.requester));
        }
    }
}
