//! The relay: one or two pipes for each worker, and one thread that copies their lines to the master's stdout and stderr.
//!
//! Law: each iteration takes a bounded piece from each readable pipe, so no worker starves another. Lines that cannot be written
//! stay in the pipes, so memory is bounded. A request for a worker's lines is answered even when the reader of the master's stderr
//! has stopped.

mod copy;
pub(super) mod native;
mod sink;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::oneshot;

use self::native::Native;
use super::tail::{Printed, Tail};
use super::{Streams, inherited};
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::thread;

/// The most that one iteration reads from a pipe, bytes.
const PIECE: usize = 8 * 1024;
/// How long the relay may take to read the rest of a dead worker's pipe.
const DRAINED_WITHIN: Duration = Duration::from_secs(1);
/// How long the relay may take to hand over and end.
const HANDED_WITHIN: Duration = Duration::from_secs(2);

/// How long a pipe that other processes keep open is read after its worker was closed.
const GRACE: Duration = Duration::from_secs(5);

/// A handle to the relay. The thread ends when the handle is dropped.
pub(super) struct Relay {
    shared: Arc<Shared>,
    thread: Mutex<Thread>,
    /// The master's stdout and stderr; the second is missing when both are the same file.
    sinks: Sinks,
    two: bool,
    /// `Some` when the lines go to the journal as entries.
    native: Option<Native>,
    /// Whether workers may outlive the master.
    outlived: bool,
    grace: Duration,
}

/// The state of the relay's thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// Not started: it starts with the first worker.
    None,
    Runs,
    /// Ended after a hand-over: new commands wait for the next thread or program.
    Left,
}

type Sinks = (OwnedFd, Option<OwnedFd>);

/// Data that the thread shares with its callers.
struct Shared {
    commands: Mutex<Vec<Command>>,
    /// Whether the thread was not woken since the last command.
    needs_wake: AtomicBool,
    wake: OwnedFd,
    tails: Mutex<HashMap<u64, Tail>>,
}

enum Command {
    Open { worker: u64, label: String, out: OwnedFd, err: Option<OwnedFd> },
    Drain { worker: u64, done: oneshot::Sender<()> },
    Flush { done: std::sync::mpsc::Sender<()> },
    Close { worker: u64 },
    HandOver { done: oneshot::Sender<RelayState> },
    TakeOver(RelayState),
    End,
}

/// The pipes and lines of a relay, for another thread or program to go on with.
#[derive(Debug, Default)]
pub(super) struct RelayState {
    pub pipes: Vec<HandedPipe>,
    /// Lines that are not written yet, for the master's stdout and stderr.
    pub pending: Vec<Vec<u8>>,
}

/// A pipe of a worker.
#[derive(Debug)]
pub struct HandedPipe {
    /// The worker that writes to the pipe.
    pub worker: u64,
    /// 0: the lines go to the master's stdout; 1: to its stderr.
    pub sink: usize,
    /// The reading end.
    pub fd: OwnedFd,
    /// The prefix of the lines on a terminal.
    pub label: String,
    /// The line that has no line feed yet.
    pub line: Vec<u8>,
    /// Whether the worker was closed: the rest in the pipe is read for a while.
    pub closing: bool,
}

impl Shared {
    fn new(wake: OwnedFd) -> Shared {
        Shared { commands: Mutex::default(), needs_wake: AtomicBool::new(false), wake, tails: Mutex::default() }
    }

    fn tails(&self) -> MutexGuard<'_, HashMap<u64, Tail>> {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, command: Command) {
        self.put(command);
        self.wake();
    }

    /// Adds a command, and leaves the thread asleep until [`Self::wake`].
    fn put(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        self.needs_wake.store(true, Ordering::Release);
    }

    fn wake(&self) {
        if self.needs_wake.swap(false, Ordering::AcqRel) {
            // The write fails only when the counter is full, and then the thread is awake.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

impl Relay {
    /// Makes a relay to these two descriptors. The thread starts with the first worker.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<Relay> {
        Relay::with_grace(stdout, stderr, GRACE)
    }

    /// Makes a relay to the journal.
    ///
    /// # Errors
    /// No descriptor is left, or there is no journald.
    pub fn to_journal(journald: &Path, instance: &str) -> io::Result<Relay> {
        let socket = native::connect(journald)?;
        let native = Native { journald: journald.to_owned(), instance: instance.to_owned() };
        let mut relay = Relay::new(io::stdout().as_fd(), io::stderr().as_fd())?;
        // One pipe for each worker, which keeps the order of its lines on stdout and stderr.
        (relay.sinks, relay.two, relay.native) = ((socket, None), false, Some(native));
        Ok(relay)
    }

    /// Makes it a relay whose workers may outlive the master.
    pub fn outlived(mut self) -> Relay {
        self.outlived = true;
        self
    }

    /// Whether the lines go to the journal as entries.
    pub fn is_native(&self) -> bool {
        self.native.is_some()
    }

    fn with_grace(stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>, grace: Duration) -> io::Result<Relay> {
        let same = match (rustix::fs::fstat(stdout), rustix::fs::fstat(stderr)) {
            (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
            // One of the two is closed: all lines go to the other.
            _ => true,
        };
        let stderr = stderr.try_clone_to_owned().ok();
        let stdout = stdout.try_clone_to_owned().ok();
        let sinks = match (stdout, stderr) {
            (Some(out), Some(err)) if !same => (out, Some(err)),
            (Some(one), _) | (None, Some(one)) => (one, None),
            (None, None) => (std::fs::File::options().write(true).open("/dev/null")?.into(), None),
        };
        Ok(Relay {
            shared: Arc::new(Shared::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)),
            thread: Mutex::new(Thread::None),
            two: sinks.1.is_some(),
            sinks,
            native: None,
            outlived: false,
            grace,
        })
    }

    /// Makes a worker's pipes; or returns the master's own stderr when the thread cannot be started. The relay reads the pipes
    /// after [`Self::wake`].
    pub fn open(&self, worker: u64, label: &str) -> io::Result<Streams> {
        if !self.run() {
            return inherited();
        }
        let (out, stdout) = pipe()?;
        let (err, stderr) = if self.two {
            let (err, stderr) = pipe()?;
            (Some(err), stderr)
        } else {
            // One pipe for both keeps the order of the worker's lines on stdout and stderr.
            (None, stdout.try_clone()?)
        };
        let copy = |fd: &OwnedFd| Ok::<_, io::Error>(dup_high(fd.try_clone()?, RESERVED_FD_BASE));
        let reading = std::iter::once(&out).chain(&err).filter(|_| self.outlived).map(copy).collect::<io::Result<_>>()?;
        self.shared.put(Command::Open { worker, label: label.to_owned(), out, err });
        Ok(Streams { stdout, stderr, reading, journal_stream: None })
    }

    /// Wakes the thread for the pipes that were opened.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// The first and the last lines of the worker, after the relay has read the rest of its pipes.
    pub async fn tail(&self, worker: u64) -> Printed {
        let (done, drained) = oneshot::channel();
        self.shared.send(Command::Drain { worker, done });
        // On a timeout, or without a thread, return the lines that are known.
        let _ = tokio::time::timeout(DRAINED_WITHIN, drained).await;
        self.shared.tails().get(&worker).map(Tail::printed).unwrap_or_default()
    }

    pub fn close(&self, worker: u64) {
        self.shared.put(Command::Close { worker });
    }

    /// Waits until all lines that were written are passed on; returns `false` when that takes longer than `at_most`.
    pub fn flush(&self, at_most: Duration) -> bool {
        if *self.thread() != Thread::Runs {
            return true;
        }
        let (done, flushed) = std::sync::mpsc::channel();
        self.shared.send(Command::Flush { done });
        flushed.recv_timeout(at_most).is_ok()
    }

    /// Ends the thread and returns its pipes and lines; none when it was not started. `None`: the thread hangs.
    pub async fn hand_over(&self) -> Option<RelayState> {
        if *self.thread() == Thread::None {
            *self.thread() = Thread::Left;
            return Some(RelayState::default());
        }
        let (done, handed) = oneshot::channel();
        self.shared.send(Command::HandOver { done });
        let handed = tokio::time::timeout(HANDED_WITHIN, handed).await.ok()?.ok()?;
        *self.thread() = Thread::Left;
        Some(handed)
    }

    /// Adds the commands that came after the thread had ended; call just before another program goes on.
    pub fn late(&self, handed: &mut RelayState) {
        let commands = std::mem::take(&mut *self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner));
        for command in commands {
            match command {
                Command::Open { worker, label, out, err } => {
                    for (sink, fd) in std::iter::once(out).chain(err).enumerate() {
                        let label = label.clone();
                        handed.pipes.push(HandedPipe { worker, sink, fd, label, line: Vec::new(), closing: false });
                    }
                }
                Command::Close { worker } => {
                    self.shared.tails().remove(&worker);
                    handed.pipes.iter_mut().filter(|pipe| pipe.worker == worker).for_each(|pipe| pipe.closing = true);
                }
                // The callers of these go on with what there is when their time is up.
                Command::Drain { .. } | Command::Flush { .. } | Command::HandOver { .. } => {}
                Command::TakeOver(more) => handed.pipes.extend(more.pipes),
                Command::End => {}
            }
        }
    }

    /// The first and the last lines of all workers.
    pub fn tails(&self) -> Vec<(u64, Vec<Vec<u8>>)> {
        self.shared.tails().iter().map(|(worker, tail)| (*worker, tail.raw())).collect()
    }

    /// Goes on with the pipes and lines of another thread or program.
    pub fn take_over(&self, handed: RelayState, tails: Vec<(u64, Vec<Vec<u8>>)>) {
        for (worker, lines) in tails {
            let mut shared = self.shared.tails();
            let tail = shared.entry(worker).or_default();
            lines.iter().for_each(|line| tail.push(line));
        }
        let waiting = {
            let mut commands = self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner);
            if !(handed.pipes.is_empty() && handed.pending.iter().all(Vec::is_empty)) {
                // Put it first: later commands depend on it.
                commands.insert(0, Command::TakeOver(handed));
            }
            !commands.is_empty()
        };
        {
            let mut thread = self.thread();
            if *thread == Thread::Left {
                *thread = Thread::None;
            }
        }
        if waiting {
            let _ = self.run();
            let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        }
    }

    fn thread(&self) -> MutexGuard<'_, Thread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread if it was not started; returns `false` when that is not possible now.
    fn run(&self) -> bool {
        let mut thread = self.thread();
        if *thread != Thread::None {
            return true;
        }
        let (out, err) = &self.sinks;
        let begin = || -> io::Result<()> {
            let (out, err) = (out.try_clone()?, err.as_ref().map(OwnedFd::try_clone).transpose()?);
            let copier = copy::Copier::new(Arc::clone(&self.shared), (out, err), self.native.as_ref(), self.grace)?;
            thread::spawn("ratoon-output", move || copier.run())?;
            Ok(())
        };
        if begin().is_err() {
            return false;
        }
        *thread = Thread::Runs;
        true
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.send(Command::End);
    }
}

/// A pipe with a non-blocking reading end; the writing end blocks, as programs expect.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(read.as_fd(), true)?;
    // Move the reading end, of which there is one for each pipe, above the low numbers, which are copied for each child.
    Ok((dup_high(read, RESERVED_FD_BASE), write))
}

#[cfg(test)]
mod tests;
