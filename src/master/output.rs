//! The output of workers: a stream to journald for each worker, or pipes that one relay thread copies.
//!
//! Law: the loop neither reads nor writes a byte of the output. A worker that prints without end waits for the reader, as it would
//! without Ratoon; it does not grow the master's memory and does not delay other workers.

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

/// The number of a worker's first lines that are kept or read from the journal.
pub const HEAD_LINES: usize = 10;
/// The number of a worker's last lines that are kept or read from the journal.
pub const TAIL_LINES: usize = 20;
/// The longest of these lines, bytes.
pub const TAIL_LINE_MAX: usize = 1024;

/// The destination of the workers' output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Workers write to journald directly, each by a stream of its own.
    Journal,
    /// The master sends the lines to journald, as entries that name the worker.
    Native,
    /// The master copies the lines to its own stdout and stderr.
    Relay,
}

impl Mode {
    /// The mode for a master with this log target and this user id. Only root and members of the group systemd-journal can read the
    /// system's journal, so any other master keeps the last lines of its workers itself.
    pub fn of(target: Target, uid: u32) -> Mode {
        match target {
            Target::Journal if uid == 0 => Mode::Journal,
            Target::Journal => Mode::Native,
            Target::Stderr => Mode::Relay,
        }
    }
}

/// The descriptors of a new worker's stdout and stderr. Both are close-on-exec and blocking; drop them after the fork.
#[derive(Debug)]
pub struct Streams {
    /// The worker's stdout.
    pub stdout: OwnedFd,
    /// The worker's stderr.
    pub stderr: OwnedFd,
    /// Copies of the reading ends of the worker's pipes, if workers outlive the master. They go to systemd's descriptor store: a
    /// worker that prints while there is no master would otherwise be killed by SIGPIPE.
    pub reading: Vec<OwnedFd>,
    /// The value of `JOURNAL_STREAM` in the worker's environment; unset it when `None`.
    pub journal_stream: Option<String>,
}

/// The output of all workers. Cheap to clone.
#[derive(Clone)]
pub struct Outputs {
    inner: Arc<Inner>,
}

struct Inner {
    instance: String,
    transport: Transport,
}

enum Transport {
    Journal(stream::Streams),
    Relay(Relay),
    /// The relay could not be made: workers write to the master's own stderr.
    Inherit,
}

impl Outputs {
    /// The output of an instance's workers. `outlived`: whether the workers may outlive the master.
    pub fn new(mode: Mode, instance: &str, outlived: bool) -> Outputs {
        let relay = || Relay::new(io::stdout().as_fd(), io::stderr().as_fd()).map_or(Transport::Inherit, Transport::Relay);
        let transport = match mode {
            Mode::Journal => Transport::Journal(stream::Streams::new(stream::JOURNALD.into())),
            Mode::Native => {
                Relay::to_journal(relay::native::JOURNALD.as_ref(), instance).map_or_else(|_| relay(), Transport::Relay)
            }
            Mode::Relay => relay(),
        };
        let transport = match transport {
            Transport::Relay(relay) if outlived => Transport::Relay(relay.outlived()),
            transport => transport,
        };
        Outputs { inner: Arc::new(Inner { instance: instance.to_owned(), transport }) }
    }

    /// Makes a worker's streams. Never waits: if journald accepts no stream now, or there is no relay, the worker gets the master's
    /// own stderr.
    ///
    /// # Errors
    /// No descriptor is left, or the master's own stderr is closed.
    pub fn open(&self, worker: u64, slot: u32) -> io::Result<Streams> {
        // The worker's `SYSLOG_IDENTIFIER`, and the prefix of its lines on a terminal.
        let label = format!("{}/{slot}", self.inner.instance);
        match &self.inner.transport {
            Transport::Journal(streams) => streams.open(worker, &label),
            Transport::Relay(relay) => relay.open(worker, &label),
            Transport::Inherit => inherited(),
        }
    }

    /// Wakes the relay for new and closed pipes; does nothing when there are none.
    pub fn wake(&self) {
        if let Transport::Relay(relay) = &self.inner.transport {
            relay.wake();
        }
    }

    /// The first and the last lines of a worker, safe for a terminal; empty when they are not available in about two seconds. Call
    /// after the worker has exited and before [`Self::close`]. Runs on tokio, off the loop.
    ///
    /// From the journal, only root or a member of the group systemd-journal can read them. A line is the worker's by `pid`, its
    /// main process, or by `group`, the directory of its control group.
    pub async fn tail(&self, worker: u64, pid: u32, group: Option<PathBuf>, since: SystemTime) -> Printed {
        match &self.inner.transport {
            Transport::Journal(streams) => streams.tail(worker, pid, group, since).await,
            Transport::Relay(relay) => relay.tail(worker).await,
            Transport::Inherit => Printed::default(),
        }
    }

    /// Closes the output of a worker that has exited, once its tail is not needed any more. A pipe that other processes keep open
    /// is read for some seconds more, then closed. The relay learns of it at [`Self::wake`], as for [`Self::open`].
    pub fn close(&self, worker: u64) {
        match &self.inner.transport {
            Transport::Journal(streams) => streams.close(worker),
            Transport::Relay(relay) => relay.close(worker),
            Transport::Inherit => {}
        }
    }

    /// Waits until all output of the workers is passed on; returns `false` when that takes longer than `at_most`. For the end of
    /// the process.
    pub fn flush(&self, at_most: Duration) -> bool {
        match &self.inner.transport {
            Transport::Journal(_) | Transport::Inherit => true,
            Transport::Relay(relay) => relay.flush(at_most),
        }
    }
}

/// The master's own stderr twice, for a worker that can get no stream of its own. If that stderr has no reader any more,
/// `/dev/null`, so that a worker that writes is not killed by SIGPIPE.
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
