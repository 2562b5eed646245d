//! What front ends (HTTP, D-Bus) and the master say to each other.
//!
//! Law: nobody but the loop touches the pool. A front end holds a [`Handle`], sends commands, awaits one answer to
//! each, and reads what the loop publishes. A requester that goes away (its future is dropped) is reported to the loop.
#![forbid(unsafe_code)]

pub mod changes;
pub mod readers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};

use self::changes::ChangeFeed;
use self::readers::Readers;
use crate::pool::{Outcome, Phase, PoolState};
use crate::status::rendered::RenderedStatus;

/// Who waits for an answer; never used twice.
pub type RequesterId = u64;

/// What can be asked of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Start a new generation; answered at its end.
    Reload,
    /// Roll back the reload that is under way.
    Abort,
    /// Have so many workers from now on.
    Scale(u32),
    /// Replace this worker, or all, within the generation.
    Recycle(Option<u64>),
    /// Replace the master's own program in place.
    Upgrade,
}

/// The answer to an [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Reload`].
    Reload(ReloadAnswer),
    /// Done.
    Done,
    /// Not done, and why.
    Failed(String),
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadAnswer {
    /// The generation that the reload wanted to bring.
    pub generation: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in words for everyone; empty when committed.
    pub reason: String,
    /// What a program said that explains it.
    pub detail: Option<String>,
    /// The first and the last lines that it printed.
    pub output: Vec<String>,
    /// The worker that failed.
    pub worker: Option<u64>,
    /// What the requester should know beside the outcome; each a sentence.
    pub warnings: Vec<String>,
    /// The instance is stopping: no later request for a reload can succeed.
    pub stopping: bool,
}

impl ReloadAnswer {
    /// An outcome of which no more is known than its reason.
    pub fn new(generation: u64, outcome: Outcome, reason: impl Into<String>) -> ReloadAnswer {
        let (reason, output, warnings) = (reason.into(), Vec::new(), Vec::new());
        ReloadAnswer { generation, outcome, reason, detail: None, output, worker: None, warnings, stopping: false }
    }
}

/// What the loop receives from its front ends.
#[derive(Debug)]
pub enum Command {
    /// Somebody asks; `reply` is `None` when nobody waits for the outcome.
    Request {
        /// Who.
        requester: RequesterId,
        /// What.
        request: Request,
        /// Where the answer goes.
        reply: Option<oneshot::Sender<Reply>>,
        /// systemd shall be told that a reload runs: it does not know of it from its own `ExecReload=`.
        announce: bool,
    },
    /// The requester went away before it was answered.
    Gone(RequesterId),
    /// Give the whole document.
    Document(oneshot::Sender<Arc<RenderedStatus>>),
    /// Give the workers as the loop knows them (no kernel figures).
    Workers(oneshot::Sender<Vec<WorkerView>>),
}

/// What is known of the pool at a glance; published by the loop whenever it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The instance's name.
    pub instance: Arc<str>,
    /// What the pool is doing.
    pub state: PoolState,
    /// More crashes than allowed.
    pub degraded: bool,
    /// The line that systemd shows.
    pub status_text: Arc<str>,
    /// The committed generation.
    pub generation: u64,
    /// How many workers there should be.
    pub workers_configured: u32,
    /// How many of the committed generation are ready.
    pub workers_ready: u32,
    /// Unasked ends of workers so far.
    pub crashes: u64,
    /// When the instance began.
    pub started_at: SystemTime,
    /// The last reload: generation, outcome, reason, end.
    pub last_reload: Option<(u64, Outcome, Arc<str>, SystemTime)>,
}

/// A worker as the loop knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerView {
    /// Never used twice.
    pub id: u64,
    /// Its place.
    pub slot: u32,
    /// Its generation.
    pub generation: u64,
    /// Its main process, 0 before it has one.
    pub pid: u32,
    /// Where it is in its life.
    pub state: Phase,
    /// Its last `STATUS=`.
    pub status_text: Arc<str>,
    /// When it was started.
    pub started_at: SystemTime,
}

/// One change, told to whoever listens (server-sent events, D-Bus signals, the progress of a reload).
#[derive(Clone, Debug)]
pub enum Change {
    /// A worker was started, or its state or status changed.
    Worker(WorkerView),
    /// A worker is gone; `how` as in docs/contract.md §6, `failed` when nobody had asked it to go.
    WorkerExited {
        /// Its id.
        id: u64,
        /// Its slot.
        slot: u32,
        /// Its generation.
        generation: u64,
        /// `exit 1`, `signal SIGSEGV (core dumped)` …
        how: Arc<str>,
        /// Nobody had asked it to go.
        failed: bool,
    },
    /// A reload began.
    ReloadStarted {
        /// The generation that it wants to bring.
        generation: u64,
    },
    /// A reload ended.
    ReloadFinished {
        /// The generation that it wanted to bring.
        generation: u64,
        /// How it ended.
        outcome: Outcome,
        /// Why, in words; empty when committed.
        reason: Arc<str>,
    },
}

/// The master does not turn any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the master is ending")
    }
}

/// A front end's way to the loop. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    summary: watch::Receiver<Summary>,
    changes: ChangeFeed,
    requesters: Arc<AtomicU64>,
    readers: Arc<Readers>,
    announces: bool,
}

/// The loop's end of the same: commands come in, the summary and the changes go out.
pub struct Backend {
    /// What the front ends ask.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// Where the loop publishes the summary.
    pub summary: watch::Sender<Summary>,
    /// Where the loop tells changes; slow listeners lose the oldest and learn that they did.
    pub changes: ChangeFeed,
}

/// When this program of the master began: another time after an upgrade in place.
pub static PROGRAM_STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// Makes both ends.
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
    };
    (handle, Backend { commands, summary: summary_in, changes })
}

impl Handle {
    /// What readers may see; the loop sets it, the front ends ask it.
    pub fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    /// The same way for a front end whose reloads systemd shall be told of.
    pub fn announcing(&self) -> Handle {
        Handle { announces: true, ..self.clone() }
    }

    /// Asks and waits for the answer. Dropping the future before that tells the loop that the requester went away.
    ///
    /// # Errors
    /// [`Closed`] when the master ends before it answers.
    pub async fn ask(&self, request: Request) -> Result<Reply, Closed> {
        let requester = self.next_requester();
        let (reply, answer) = oneshot::channel();
        let command = Command::Request { requester, request, reply: Some(reply), announce: self.announces };
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

    /// Numbers requesters from behind this one on: those before were a predecessor's.
    pub fn number_requesters_after(&self, last: RequesterId) {
        self.requesters.fetch_max(last, Ordering::Relaxed);
    }

    /// Asks without waiting: such a reload runs to its end whoever goes away.
    pub fn ask_unattended(&self, request: Request) {
        let _ = self.commands.send(Command::Request { requester: self.next_requester(), request, reply: None, announce: true });
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

    /// The workers as the loop knows them.
    ///
    /// # Errors
    /// [`Closed`] when the master ends before it answers.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, Closed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Workers(reply)).map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// The summary, as a value that can also be awaited.
    pub fn summary(&self) -> watch::Receiver<Summary> {
        self.summary.clone()
    }

    /// The changes from now on, and those before that can still be had.
    pub fn changes(&self) -> &ChangeFeed {
        &self.changes
    }

    /// A number for one requester; never given twice.
    fn next_requester(&self) -> RequesterId {
        self.requesters.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Tells the loop when the requester's future is dropped unanswered.
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
