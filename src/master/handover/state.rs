//! The state of a master as a document: what one program writes and the next one reads.
//!
//! Law: a state is read by programs that know its format, and refused by others before anything depends on it. What a reader does
//! not know it ignores, and what is missing outside the pool has a default; a change beyond that raises [`FORMAT`].

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fds::Name;
use crate::config::Config;
use crate::master::terminal::Terminal;
use crate::pool::{GenerationId, Pool, Slot, WorkerId};
use crate::status::scoreboard::Totals;
use crate::status::tree::{Failure, Reloads};

/// The format that this program writes, and the only one that it reads. Masters before 3 wrote 1 or 2, with a pool of other types.
pub const FORMAT: u32 = 3;

/// The whole document.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    /// The writer's [`FORMAT`].
    pub format: u32,
    /// The same, for programs that know a format before 3: they go by this.
    pub least: u32,
    /// The writer's version, for the log.
    pub version: String,
    /// The numbers that the descriptors have over an exec.
    pub descriptors: BTreeMap<Name, i32>,
    /// What it knows.
    pub state: State,
}

/// What a master knows.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The instance's name.
    pub instance: String,
    /// Where the program is found.
    pub program: Bytes,
    /// When the instance began.
    pub started_at: Option<SystemTime>,
    /// Workers, generations, deadlines, who waits for what; `None` in no state that a master wrote.
    pub pool: Option<Pool>,
    /// The listening sockets, in their order.
    pub listeners: Vec<Listener>,
    /// The control socket.
    pub control: Control,
    /// The socket of `status.listen`.
    pub status: Option<Name>,
    /// The address of that, as the configuration calls it.
    pub status_address: Option<String>,
    /// Where `worker.directory` begins when it is not set.
    pub directory: Bytes,
    /// The limit of open files that the master was started with.
    pub nofile: (u64, u64),
    /// Orphaned processes that have got the stop signal of their worker: number and start, in ticks since boot.
    pub signalled: BTreeMap<WorkerId, Vec<(u32, u64)>>,
    /// The controlling terminal.
    pub terminal: Option<Terminal>,
    /// What workers get when the master ends.
    pub die_with_parent: Option<i32>,
    /// SIGPIPE was ignored when the master was started.
    pub sigpipe_ignored: bool,
    /// What the generations are started from.
    pub releases: BTreeMap<GenerationId, Release>,
    /// The workers' processes.
    pub workers: BTreeMap<WorkerId, Process>,
    /// Workers that are still to be started.
    #[serde(rename = "births")]
    pub spawns: Vec<(WorkerId, Slot, GenerationId)>,
    /// Both ends of the pipe by which starts that fail are told.
    pub errors: Option<(Name, Name)>,
    /// What workers print.
    pub output: Output,
    /// The master's own log.
    pub log: Log,
    /// What systemd is still to be told.
    pub unsaid: Vec<String>,
    /// Failures of workers, oldest first.
    pub failures: Vec<Failure>,
    /// How many there were by cause.
    pub causes: BTreeMap<String, u64>,
    /// Reloads by result.
    pub reloads: BTreeMap<String, Reloads>,
    /// Recycled workers by reason.
    pub recycled: BTreeMap<String, u64>,
    /// When the present generation was committed.
    pub committed_at: Option<SystemTime>,
    /// What ended workers did.
    pub past: Totals,
    /// How the last reload ended.
    pub last_reload: Option<LastReload>,
    /// The last number that was given to a requester.
    pub last_requester: u64,
    /// Requesters that wait for an answer; none over an exec.
    pub waiting: Vec<u64>,
    /// A reload that was asked for in the last moment before an exec, and waits for the next program: whether systemd is told.
    pub reload_asked: Option<bool>,
    /// The names that systemd's store of descriptors holds, over an exec; empty when not known.
    pub stored: Vec<Name>,
    /// What degrades the instance although its workers are well, by kind.
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
    /// Its address in words.
    pub address: String,
    /// It came from outside.
    pub inherited: bool,
}

/// The control socket.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// The runtime directory.
    pub directory: Bytes,
    /// We made it.
    pub made: bool,
    /// The listening socket.
    pub listener: Name,
    /// The lock.
    pub lock: Name,
    /// Device and inode of the socket's file.
    pub identity: (u64, u64),
}

/// What a generation is started from.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Release {
    /// Its configuration.
    pub config: Config,
    /// Where its program was found.
    pub path: Bytes,
    /// The program itself.
    pub program: Name,
    /// The copy of a script's text.
    pub script: Option<Name>,
    /// The ways in which it is started: path, whether that must be the pinned file, what is executed, first arguments.
    pub starts: Vec<(Bytes, bool, Bytes, Option<Vec<Bytes>>)>,
    /// The directory of the copy of a script.
    pub script_copy: Option<Bytes>,
    /// When it was pinned.
    pub pinned_at: Option<SystemTime>,
    /// Device, inode, size, modification time (seconds, nanoseconds).
    pub identity: (u64, u64, i64, i64, i64),
    /// Arguments.
    pub argv: Vec<Bytes>,
    /// Environment.
    pub env: Vec<Bytes>,
    /// Working directory.
    pub directory: Name,
    /// User, group, supplementary groups.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Limit of open files.
    pub nofile: Option<(u64, u64)>,
}

/// A worker's process.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its generation.
    pub generation: GenerationId,
    /// Its main process: number and descriptor.
    pub pid: u32,
    /// See `pid`.
    pub pidfd: Name,
    /// Main processes that it had before.
    pub former: Vec<(u32, Name)>,
    /// Where it speaks.
    pub notify: Name,
    /// The second such socket, if the first one's path was removed.
    pub notify_again: Option<Name>,
    /// It has a control group of its own.
    pub group: bool,
    /// Its status page.
    pub scoreboard: Option<Name>,
    /// When it was started.
    pub started_at: Option<SystemTime>,
    /// Copies of the reading ends of its output, if workers outlive the master.
    pub output: Vec<Name>,
    /// What it says of itself.
    pub info: Map<String, Value>,
    /// Its own running totals.
    pub counters: BTreeMap<String, f64>,
    /// How many more `ERRNO=` are worth a line.
    pub errnos_left: u8,
    /// Its main process is gone, others are left.
    pub left_behind: bool,
}

/// What workers print.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Output {
    /// Straight to journald.
    pub journal: bool,
    /// To journald, through the master.
    pub native: bool,
    /// Streams to journald: worker, identifier, copy.
    pub streams: Vec<(WorkerId, String, Option<Name>)>,
    /// Pipes that the master reads.
    pub pipes: Vec<Pipe>,
    /// Read and not written yet, for our stdout and our stderr.
    pub pending: Vec<Bytes>,
    /// The last lines of each worker.
    pub tails: Vec<(WorkerId, Vec<Bytes>)>,
}

/// A pipe that the master reads.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pipe {
    /// Whose.
    pub worker: WorkerId,
    /// 0 for our stdout, 1 for our stderr.
    pub sink: usize,
    /// Its reading end.
    pub fd: Name,
    /// What stands before its lines.
    pub label: String,
    /// The line that has not ended yet.
    pub line: Bytes,
    /// The worker is gone.
    pub closing: bool,
}

/// The master's own log.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// The least important level that is kept, as syslog(3) calls it.
    pub level: String,
    /// To journald.
    pub journal: bool,
}

/// How the last reload ended.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LastReload {
    /// The generation that it wanted to bring.
    pub generation: u64,
    /// The contract's word.
    pub result: String,
    /// Why, for everyone.
    pub reason: String,
    /// What a program said that explains it.
    pub detail: Option<String>,
    /// What it printed.
    pub output: Vec<String>,
    /// When it began.
    pub began: Option<SystemTime>,
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// How long it took.
    pub took: Duration,
}

/// Bytes that are mostly text: a text in the document where they are one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Raw(Vec<u8>),
}

impl Default for Bytes {
    fn default() -> Self {
        Bytes::Text(String::new())
    }
}

impl Bytes {
    /// The bytes.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Raw(bytes) => bytes,
        }
    }

    /// As a path.
    pub fn into_path(self) -> PathBuf {
        OsString::from_vec(self.into_vec()).into()
    }

    /// For execve(2).
    ///
    /// # Errors
    /// There is a NUL in it.
    pub fn into_c_string(self) -> Result<CString, String> {
        CString::new(self.into_vec()).map_err(|error| format!("a NUL in {:?}", String::from_utf8_lossy(&error.into_vec())))
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        std::str::from_utf8(bytes).map_or_else(|_| Bytes::Raw(bytes.to_vec()), |text| Bytes::Text(text.to_owned()))
    }
}

impl From<&OsStr> for Bytes {
    fn from(text: &OsStr) -> Bytes {
        text.as_bytes().into()
    }
}

impl From<&Path> for Bytes {
    fn from(path: &Path) -> Bytes {
        path.as_os_str().into()
    }
}

impl Document {
    /// Of this program.
    pub fn new(state: State, descriptors: BTreeMap<Name, i32>) -> Document {
        Document { format: FORMAT, least: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), descriptors, state }
    }

    /// Reads one.
    ///
    /// # Errors
    /// A sentence that says why this program cannot go on from it.
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

    /// As bytes.
    ///
    /// # Errors
    /// A path that is no UTF-8 where the configuration has one.
    pub fn write(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|error| format!("the state cannot be written: {error}"))
    }
}
