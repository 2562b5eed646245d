//! The relay: a pipe (or two) for each worker, and one thread that copies their lines to our stdout and stderr.
//!
//! Law: a turn takes a bounded piece from each pipe that has something, so no worker starves another; what cannot be
//! written stays in the pipes, so memory is bounded; whoever asks for a worker's lines is answered although the
//! reader of our stderr has stopped.

mod copy;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::oneshot;

use super::tail::Tail;
use super::{Streams, inherited};
use crate::sys::thread;

/// How long the relay may take to read what a dead worker has left in its pipe.
const DRAINED_WITHIN: Duration = Duration::from_secs(1);

/// How long a pipe that others keep open is read after its worker was closed.
const GRACE: Duration = Duration::from_secs(5);

/// The relay, seen from outside. The thread ends when this is dropped.
pub(super) struct Relay {
    shared: Arc<Shared>,
    started: AtomicBool,
    /// Our stdout and stderr; the second is missing when both are the same file.
    sinks: Mutex<Option<Sinks>>,
    two: bool,
    grace: Duration,
}

type Sinks = (OwnedFd, Option<OwnedFd>);

/// What the thread and the others share.
struct Shared {
    commands: Mutex<Vec<Command>>,
    wake: OwnedFd,
    tails: Mutex<HashMap<u64, Tail>>,
}

enum Command {
    Open { worker: u64, label: String, out: OwnedFd, err: Option<OwnedFd> },
    Drain { worker: u64, done: oneshot::Sender<()> },
    Flush { done: std::sync::mpsc::Sender<()> },
    Close { worker: u64 },
    End,
}

impl Shared {
    fn tails(&self) -> MutexGuard<'_, HashMap<u64, Tail>> {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        // Fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Relay {
    /// A relay to these two; its thread starts with the first worker.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new(stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<Relay> {
        Relay::with_grace(stdout, stderr, GRACE)
    }

    fn with_grace(stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>, grace: Duration) -> io::Result<Relay> {
        let same = match (rustix::fs::fstat(stdout), rustix::fs::fstat(stderr)) {
            (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
            // One is closed: all goes to the other.
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
            shared: Arc::new(Shared {
                commands: Mutex::default(),
                wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                tails: Mutex::default(),
            }),
            started: AtomicBool::new(false),
            two: sinks.1.is_some(),
            sinks: Mutex::new(Some(sinks)),
            grace,
        })
    }

    /// A worker's pipes; our own stderr when the kernel has no room for the thread or the pipes.
    pub fn open(&self, worker: u64, label: &str) -> io::Result<Streams> {
        if !self.run() {
            return inherited();
        }
        let (out, stdout) = pipe()?;
        let (err, stderr) = if self.two {
            let (err, stderr) = pipe()?;
            (Some(err), stderr)
        } else {
            // Both into one: so the order of what a worker says on both is kept.
            (None, stdout.try_clone()?)
        };
        self.shared.send(Command::Open { worker, label: label.to_owned(), out, err });
        Ok(Streams { stdout, stderr, journal_stream: None })
    }

    /// What the worker said last, after the relay has read what is left in its pipes.
    pub async fn tail(&self, worker: u64) -> Vec<String> {
        let (done, drained) = oneshot::channel();
        self.shared.send(Command::Drain { worker, done });
        // Too late or not running: what is known is better than nothing.
        let _ = tokio::time::timeout(DRAINED_WITHIN, drained).await;
        self.shared.tails().get(&worker).map(Tail::lines).unwrap_or_default()
    }

    pub fn close(&self, worker: u64) {
        self.shared.send(Command::Close { worker });
    }

    /// Waits until all that was written is passed on.
    pub fn flush(&self, at_most: Duration) -> bool {
        if !self.started.load(Ordering::Acquire) {
            return true;
        }
        let (done, flushed) = std::sync::mpsc::channel();
        self.shared.send(Command::Flush { done });
        flushed.recv_timeout(at_most).is_ok()
    }

    /// Starts the thread if it does not run; `false` when that is not possible now.
    fn run(&self) -> bool {
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((out, err)) = &*sinks else { return true };
        let begin = || -> io::Result<()> {
            let (out, err) = (out.try_clone()?, err.as_ref().map(OwnedFd::try_clone).transpose()?);
            let copier = copy::Copier::new(Arc::clone(&self.shared), out, err, self.grace)?;
            thread::spawn("ratoon-output", 256 * 1024, move || copier.run())?;
            Ok(())
        };
        if begin().is_err() {
            return false;
        }
        *sinks = None;
        self.started.store(true, Ordering::Release);
        true
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.send(Command::End);
    }
}

/// A pipe whose read end does not block; the write end does, as programs expect.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(read.as_fd(), true)?;
    Ok((read, write))
}

#[cfg(test)]
mod tests;
