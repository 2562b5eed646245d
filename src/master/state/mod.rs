//! The state of a master as a document: the old program writes it, and the new one reads it.
//!
//! Law: a program that does not know the format of a state refuses it before anything depends on it. A reader ignores unknown
//! fields, and gives missing fields outside the pool a default; any other change raises [`FORMAT`].
//!
//! | module | owns |
//! |---|---|
//! | `fds` | the descriptors of a state, by name |
//! | `bytes` | bytes of the operating system in JSON |
//! | `bundle` | one descriptor of systemd's descriptor store for those of many workers |

pub(in crate::master) mod bundle;
mod bytes;
pub(in crate::master) mod fds;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::bytes::Bytes;
use crate::config::Config;
use crate::master::releases::commits::Commits;
use crate::master::terminal::Terminal;
use crate::pool::{GenerationId, Pool, Queue, Slot, WorkerId};
use crate::status::scoreboard::Totals;
use crate::status::tree::{Failure, Reloads};

/// The format that this program writes, and the only one that it reads. Formats 1 and 2 have a pool of other types.
pub const FORMAT: u32 = 3;

/// A descriptor's name in the saved state: `process-7`, `listener-0`.
pub type Name = String;

/// Name of the control socket's descriptor, which the environment has, too.
pub const CONTROL: &str = "control";
/// Name of the lock's descriptor; see [`CONTROL`].
pub const LOCK: &str = "lock";
/// Name of the descriptor of varlink's socket.
pub const VARLINK: &str = "varlink";
/// Prefix of the name of a listening socket; its index among the sockets follows.
pub const LISTENER_PREFIX: &str = "listener-";
/// Prefix of the name of a slot's socket; the index of the listener and the slot follow: `slot-0-3`.
pub const SLOT_PREFIX: &str = "slot-";
/// Prefix of the name of an output pipe's reading end; the worker and the index of the pipe follow: `output-7-0`.
pub const READING_PREFIX: &str = "output-";

/// The whole document.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    /// The writer's [`FORMAT`].
    pub format: u32,
    /// The same as `format`: programs that know only formats before 3 go by this field.
    pub least: u32,
    /// The writer's version, for the log.
    pub version: String,
    /// The number of each descriptor after an exec, by name.
    pub descriptors: BTreeMap<Name, i32>,
    /// The state of the master.
    pub state: State,
}

/// The state of a master.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The instance's name.
    pub instance: String,
    /// The path of the program.
    pub program: Bytes,
    /// When the instance was started.
    pub started_at: Option<SystemTime>,
    /// Workers, generations, deadlines, requesters; `None` in no state that a master wrote.
    pub pool: Option<Pool>,
    /// The listening sockets, in the order of the master.
    pub listeners: Vec<Listener>,
    /// The accept queues by the places of their sockets; empty without `worker.balance = "per-slot"`.
    #[serde(default)]
    pub queues: Vec<Queue>,
    /// The control socket.
    pub control: Control,
    /// The socket of `status.listen`.
    pub status: Option<Name>,
    /// The address of the `status.listen` socket, as written in the configuration.
    pub status_address: Option<String>,
    /// The default of `worker.directory`.
    pub directory: Bytes,
    /// The limit of open files (soft, hard) with which the master was started.
    pub nofile: (u64, u64),
    /// Orphaned processes that have received their worker's stop signal: pid, and start time in ticks since boot.
    pub signalled: BTreeMap<WorkerId, Vec<(u32, u64)>>,
    /// The controlling terminal.
    pub terminal: Option<Terminal>,
    /// The signal that workers get when the master ends.
    pub die_with_parent: Option<i32>,
    /// Whether SIGPIPE was ignored when the master was started.
    pub sigpipe_ignored: bool,
    /// The release of each generation.
    pub releases: BTreeMap<GenerationId, Release>,
    /// The workers' processes.
    pub workers: BTreeMap<WorkerId, Process>,
    /// Workers that are still to be started.
    #[serde(rename = "births")]
    pub spawns: Vec<(WorkerId, Slot, GenerationId)>,
    /// Reading and writing end of the pipe that reports failed starts.
    pub errors: Option<(Name, Name)>,
    /// The output of the workers.
    pub output: Output,
    /// The master's own log.
    pub log: Log,
    /// Messages to systemd that are not sent yet.
    pub unsaid: Vec<String>,
    /// Failures of workers, oldest first.
    pub failures: Vec<Failure>,
    /// The number of failures by cause.
    pub causes: BTreeMap<String, u64>,
    /// Reloads by result.
    pub reloads: BTreeMap<String, Reloads>,
    /// Recycled workers by reason.
    pub recycled: BTreeMap<String, u64>,
    /// When the present generation was committed.
    pub committed_at: Option<SystemTime>,
    /// The commits of the releases that are kept.
    pub commits: Commits,
    /// Totals of the workers that have ended.
    pub past: Totals,
    /// How the last reload ended.
    pub last_reload: Option<LastReload>,
    /// The last requester id that was given out.
    pub last_requester: u64,
    /// Requesters that wait for an answer; empty when the state is passed over an exec.
    pub waiting: Vec<u64>,
    /// A reload without a requester that came just before the exec; the next program begins it. The value: whether to tell systemd.
    pub reload_asked: Option<bool>,
    /// The names that systemd's descriptor store holds, for an exec; empty when not known.
    pub stored: Vec<Name>,
    /// Reasons, by kind, for which the instance is degraded although its workers are well.
    pub troubles: BTreeMap<String, String>,
}

/// A listening socket.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// As in `LISTEN_FDNAMES`.
    pub name: String,
    /// The socket.
    pub fd: Name,
    /// The address as text.
    pub address: String,
    /// Whether the master inherited the socket.
    pub inherited: bool,
}

/// The control socket.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// The runtime directory.
    pub directory: Bytes,
    /// Whether the master created the directory.
    pub made: bool,
    /// The listening socket.
    pub listener: Name,
    /// The lock.
    pub lock: Name,
    /// Device and inode of the socket's file.
    pub identity: (u64, u64),
    /// The listening socket of varlink, with device and inode of its file.
    pub varlink: Option<(Name, (u64, u64))>,
}

/// The release of a generation.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Release {
    /// The configuration.
    pub config: Config,
    /// The path of the program.
    pub path: Bytes,
    /// The opened program.
    pub program: Name,
    /// The copy of the script's text.
    pub script: Option<Name>,
    /// The preload process.
    pub preload: Option<Preload>,
    /// The ways to start the program: its path, whether the path must lead to the pinned file, the file to execute, the first
    /// arguments.
    pub starts: Vec<(Bytes, bool, Bytes, Option<Vec<Bytes>>)>,
    /// The directory of the script's copy.
    pub script_copy: Option<Bytes>,
    /// When the release was pinned.
    pub pinned_at: Option<SystemTime>,
    /// Device, inode, size (bytes), modification time (seconds, nanoseconds) of the program.
    pub identity: (u64, u64, i64, i64, i64),
    /// Arguments.
    pub argv: Vec<Bytes>,
    /// Environment.
    pub env: Vec<Bytes>,
    /// The configured variables, which hooks and the check get.
    pub variables: Vec<(String, String)>,
    /// Working directory.
    pub directory: Name,
    /// User id, group id, supplementary group ids.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Limit of open files (soft, hard).
    pub nofile: Option<(u64, u64)>,
}

/// The program of a preload process. What is not here is that of the workers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Preload {
    /// The path of the program.
    pub path: Bytes,
    /// The opened program.
    pub program: Name,
    /// The copy of the script's text.
    pub script: Option<Name>,
    /// As [`Release::identity`].
    pub identity: (u64, u64, i64, i64, i64),
    /// Arguments.
    pub argv: Vec<Bytes>,
}

/// A worker's process.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// The worker's generation.
    pub generation: GenerationId,
    /// The pid of the main process.
    pub pid: u32,
    /// The pidfd of the main process.
    pub pidfd: Name,
    /// Former main processes: pid and pidfd.
    pub former: Vec<(u32, Name)>,
    /// The worker's notify socket.
    pub notify: Name,
    /// A second notify socket, if the path of the first one was removed.
    pub notify_again: Option<Name>,
    /// Whether the worker has a control group of its own.
    pub group: bool,
    /// The worker's status page.
    pub scoreboard: Option<Name>,
    /// When the worker was started.
    pub started_at: Option<SystemTime>,
    /// Copies of the reading ends of the worker's output pipes, if workers outlive the master.
    pub output: Vec<Name>,
    /// The worker's `X_RATOON_INFO`.
    pub info: Map<String, Value>,
    /// The worker's `X_RATOON_COUNTERS`.
    pub counters: BTreeMap<String, f64>,
    /// The number of further `ERRNO=` messages that are logged.
    pub errnos_left: u8,
    /// The socket of a preload process.
    pub fork: Option<Name>,
    /// Whether the main process has exited while other processes of the worker live.
    pub left_behind: bool,
}

/// The output of the workers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Output {
    /// Whether workers write to journald directly.
    pub journal: bool,
    /// Whether the master writes the workers' output to journald.
    pub native: bool,
    /// Streams to journald: worker, identifier, a copy of the stream.
    pub streams: Vec<(WorkerId, String, Option<Name>)>,
    /// Pipes that the master reads.
    pub pipes: Vec<Pipe>,
    /// Output that was read and is not written yet, for the master's stdout and stderr.
    pub pending: Vec<Bytes>,
    /// The first and the last lines of each worker.
    pub tails: Vec<(WorkerId, Vec<Bytes>)>,
}

/// A pipe that the master reads.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pipe {
    /// The worker that writes to the pipe.
    pub worker: WorkerId,
    /// 0: the lines go to the master's stdout; 1: to its stderr.
    pub sink: usize,
    /// The reading end.
    pub fd: Name,
    /// The label in front of each line.
    pub label: String,
    /// The line that has no line feed yet.
    pub line: Bytes,
    /// Whether the worker has exited.
    pub closing: bool,
}

/// The master's own log.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// The least important level that is logged, as a name of syslog(3).
    pub level: String,
    /// Whether the log goes to journald.
    pub journal: bool,
}

/// The outcome of the last reload.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LastReload {
    /// The new generation of the reload.
    pub generation: u64,
    /// The result, as a word of `docs/contract.md`.
    pub result: String,
    /// The reason, for every reader.
    pub reason: String,
    /// A program's message that explains the reason.
    pub detail: Option<String>,
    /// The output of that program.
    pub output: Vec<String>,
    /// When the reload began.
    pub began: Option<SystemTime>,
    /// When the reload ended.
    pub ended: Option<SystemTime>,
    /// How long the reload took.
    pub took: Duration,
}

impl Document {
    /// Makes a document in the format of this program.
    pub fn new(state: State, descriptors: BTreeMap<Name, i32>) -> Document {
        Document { format: FORMAT, least: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), descriptors, state }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// A sentence that says why this program cannot go on from this state.
    pub fn read(bytes: &[u8]) -> Result<Document, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("the state is no JSON: {error}"))?;
        let format = value.get("format").and_then(Value::as_u64).unwrap_or(0);
        if format == 0 {
            return Err("this is no state of a master".to_owned());
        }
        if format != u64::from(FORMAT) {
            let version = env!("CARGO_PKG_VERSION");
            return Err(format!("this master's state has format {format}, and version {version} reads format {FORMAT}"));
        }
        serde_json::from_value(value).map_err(|error| format!("the state cannot be read: {error}"))
    }

    /// Writes the document as JSON.
    ///
    /// # Errors
    /// A path in the configuration is not UTF-8.
    pub fn write(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|error| format!("the state cannot be written: {error}"))
    }
}
