//! What workers print: a stream to journald for each, or a pipe for each that one relay thread copies.
//!
//! Law: the loop neither reads nor writes a byte of it. A worker that prints without end waits for its reader, as it would
//! without us; it neither grows our memory nor keeps its neighbours waiting.

mod ask;
mod relay;
mod relay_state;
mod stream;
mod tail;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::relay::Relay;
pub use self::relay_state::{Pipe, RelayState, Settled};
pub use self::tail::{Printed, Tail};
use crate::master::log::journal::Target;
use crate::sys::stream::is_dead;

/// How many of a worker's first lines are kept or asked for.
pub const HEAD_LINES: usize = 10;
/// How many of a worker's last lines are kept or asked for.
pub const TAIL_LINES: usize = 20;
/// The longest of these lines, bytes.
pub const TAIL_LINE_MAX: usize = 1024;

/// Where the output of workers goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Straight to journald, a stream for each worker.
    Journal,
    /// Through us to the journal, as entries that name the worker.
    Native,
    /// Through us to our own stdout and stderr.
    Relay,
}

impl Mode {
    /// The way for a master whose own log goes there and that runs as this user. Only root, and members of the group
    /// systemd-journal, can read back what is in the system's journal: any other master keeps the last lines of its workers itself.
    pub fn of(target: Target, uid: u32) -> Mode {
        match target {
            Target::Journal if uid == 0 => Mode::Journal,
            Target::Journal => Mode::Native,
            Target::Stderr => Mode::Relay,
        }
    }
}

/// What a new worker gets as fd 1 and 2. Both are close-on-exec and blocking; drop them after the fork.
#[derive(Debug)]
pub struct Streams {
    /// For its stdout.
    pub stdout: OwnedFd,
    /// For its stderr.
    pub stderr: OwnedFd,
    /// Copies of the reading ends of its pipes, if workers outlive the master: for systemd's store, so that a worker that prints while
    /// there is no master is not killed for it.
    pub reading: Vec<OwnedFd>,
    /// The value of `JOURNAL_STREAM` in its environment; unset it when `None`.
    pub journal_stream: Option<String>,
}

/// The output of all workers. Cheap to clone.
#[derive(Clone)]
pub struct Outputs {
    inner: Arc<Inner>,
}

struct Inner {
    instance: String,
    way: Way,
}

enum Way {
    Journal(stream::Streams),
    Relay(Relay),
    /// The relay could not be had: workers write to our own stderr.
    Inherit,
}

impl Outputs {
    /// The output of an instance's workers. `outlived`: they may outlive the master.
    pub fn new(mode: Mode, instance: &str, outlived: bool) -> Outputs {
        let relay = || Relay::new(io::stdout().as_fd(), io::stderr().as_fd()).map_or(Way::Inherit, Way::Relay);
        let way = match mode {
            Mode::Journal => Way::Journal(stream::Streams::new(stream::JOURNALD.into())),
            Mode::Native => Relay::to_journal(relay::native::JOURNALD.as_ref(), instance).map_or_else(|_| relay(), Way::Relay),
            Mode::Relay => relay(),
        };
        let way = match way {
            Way::Relay(relay) if outlived => Way::Relay(relay.outlived()),
            way => way,
        };
        Outputs { inner: Arc::new(Inner { instance: instance.to_owned(), way }) }
    }

    /// Makes a worker's streams. Never waits: if journald does not take a stream now, or the relay cannot be had, the
    /// worker gets our own stderr.
    ///
    /// # Errors
    /// Out of descriptors, or our own stderr is closed.
    pub fn open(&self, worker: u64, slot: u32) -> io::Result<Streams> {
        // `SYSLOG_IDENTIFIER` of the worker, and what stands before its lines on a terminal.
        let label = format!("{}/{slot}", self.inner.instance);
        match &self.inner.way {
            Way::Journal(streams) => streams.open(worker, &label),
            Way::Relay(relay) => relay.open(worker, &label),
            Way::Inherit => inherited(),
        }
    }

    /// What was opened is copied from now on, what was closed no more; does nothing when nothing was.
    pub fn begin(&self) {
        if let Way::Relay(relay) = &self.inner.way {
            relay.begin();
        }
    }

    /// The first and the last lines that the worker printed, fit for a terminal; empty when they cannot be had in time
    /// (about two seconds). Ask when it has ended and before [`Self::close`]. Runs on tokio, off the loop.
    ///
    /// From the journal only an administrator, or a member of the group systemd-journal, can read them back.
    /// Lines belong to it by `pid`, its main process, and by `group`, its control group's directory.
    pub async fn tail(&self, worker: u64, pid: u32, group: Option<PathBuf>, since: SystemTime) -> Printed {
        match &self.inner.way {
            Way::Journal(streams) => streams.tail(worker, pid, group, since).await,
            Way::Relay(relay) => relay.tail(worker).await,
            Way::Inherit => Printed::default(),
        }
    }

    /// The worker is gone and its tail is not needed any more. What others keep open of its pipe is read for some seconds
    /// more, then closed. Said by [`Self::begin`], like [`Self::open`].
    pub fn close(&self, worker: u64) {
        match &self.inner.way {
            Way::Journal(streams) => streams.close(worker),
            Way::Relay(relay) => relay.close(worker),
            Way::Inherit => {}
        }
    }

    /// For the end of the process: waits at most so long until everything that workers have written is passed on;
    /// `false` when that was not enough.
    pub fn flush(&self, at_most: Duration) -> bool {
        match &self.inner.way {
            Way::Journal(_) | Way::Inherit => true,
            Way::Relay(relay) => relay.flush(at_most),
        }
    }
}

/// Our own stderr twice, for a worker that can get nothing better; if nobody reads that any more, `/dev/null`, which kills no
/// worker that writes to it.
fn inherited() -> io::Result<Streams> {
    alive(io::stderr().as_fd())
}

fn alive(stderr: BorrowedFd<'_>) -> io::Result<Streams> {
    if is_dead(stderr) {
        let null = OwnedFd::from(std::fs::File::options().write(true).open("/dev/null")?);
        return Ok(Streams { stdout: null.try_clone()?, stderr: null, reading: Vec::new(), journal_stream: None });
    }
    let stderr = stderr.try_clone_to_owned()?;
    let journal_stream = crate::master::log::journal::stream_of_stderr();
    Ok(Streams { stdout: stderr.try_clone()?, stderr, reading: Vec::new(), journal_stream })
}

#[cfg(test)]
mod tests;
