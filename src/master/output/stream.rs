//! Streams to journald, one for each worker, so that journald records the worker's own process and identifier.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

use super::tail::Printed;
use super::{Streams as Fds, ask, inherited};
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::stream::{is_dead, unread_by_peer};

/// The socket where journald takes streams.
pub(super) const JOURNALD: &str = "/run/systemd/journal/stdout";
/// Size of the send buffer for output that journald has not read yet, bytes; the same as for services of systemd.
const SEND_BUFFER: usize = 8 * 1024 * 1024;
/// The largest number of requests for lines that wait at once; the status document keeps as many failures.
const ASKERS_MAX: usize = 20;
/// How long journald may take to read the rest of a dead worker's stream.
const READ_WITHIN: Duration = Duration::from_millis(500);

/// The streams of all workers.
pub(super) struct Streams {
    journald: PathBuf,
    known: Mutex<HashMap<u64, Known>>,
    /// Only one journalctl runs at a time, because many workers may fail at once.
    turn: Arc<tokio::sync::Semaphore>,
    requesters: Arc<AtomicUsize>,
}

/// A worker's stream.
struct Known {
    identifier: String,
    /// A copy of the stream, to learn whether journald has read all of it.
    copy: Option<OwnedFd>,
}

impl Streams {
    pub fn new(journald: PathBuf) -> Streams {
        Streams { journald, known: Mutex::default(), turn: Arc::new(tokio::sync::Semaphore::new(1)), requesters: Arc::default() }
    }

    /// Opens a stream for the worker, or returns the master's stderr when journald accepts none now.
    pub fn open(&self, worker: u64, identifier: &str) -> io::Result<Fds> {
        // A journald that exits closes the streams that it has accepted. A second try gets its successor, or waits in the accept
        // queue for it.
        let live = || connect(&self.journald, identifier).ok().filter(|stream| !is_dead(stream));
        let Some(stream) = live().or_else(live) else { return inherited() };
        let stat = rustix::fs::fstat(&stream)?;
        let known = Known { identifier: identifier.to_owned(), copy: Some(dup_high(stream.try_clone()?, RESERVED_FD_BASE)) };
        self.known().insert(worker, known);
        Ok(Fds {
            reading: Vec::new(),
            stdout: stream.try_clone()?,
            stderr: stream,
            journal_stream: Some(format!("{}:{}", stat.st_dev, stat.st_ino)),
        })
    }

    pub async fn tail(&self, worker: u64, pid: u32, group: Option<PathBuf>, since: SystemTime) -> Printed {
        // `None` when the worker printed to the master's own stderr.
        let copy = self.known().get_mut(&worker).and_then(|known| known.copy.take());
        if pid == 0 {
            // The worker was never started.
            return Printed::default();
        }
        let requester = Requester(Arc::clone(&self.requesters));
        if requester.0.fetch_add(1, Ordering::Relaxed) >= ASKERS_MAX {
            return Printed::default();
        }
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return Printed::default() };
        let asked = tokio::task::spawn_blocking(move || {
            // Keep both to the end, even when the requester is gone.
            let _held = (requester, turn);
            if let Some(copy) = copy {
                wait_until_read(&copy);
                // Dropping the last copy ends the stream: journald then writes a last line that had no line feed.
            }
            ask::journalctl("journalctl".as_ref(), pid, group.as_deref(), since)
        });
        asked.await.unwrap_or_default()
    }

    /// The known streams, for another program to go on with: worker, identifier, copy.
    pub fn handed(&self) -> io::Result<Vec<(u64, String, Option<OwnedFd>)>> {
        let copy = |known: &Known| known.copy.as_ref().map(OwnedFd::try_clone).transpose();
        self.known().iter().map(|(worker, known)| Ok((*worker, known.identifier.clone(), copy(known)?))).collect()
    }

    /// Goes on with the streams that another program has opened.
    pub fn take_over(&self, streams: Vec<(u64, String, Option<OwnedFd>)>) {
        self.known().extend(streams.into_iter().map(|(worker, identifier, copy)| (worker, Known { identifier, copy })));
    }

    pub fn close(&self, worker: u64) {
        self.known().remove(&worker);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted request for lines; dropping it lowers the count.
struct Requester(Arc<AtomicUsize>);

impl Drop for Requester {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a stream as `sd_journal_stream_fd(3)` does, but never waits for a journald that does not accept.
fn connect(journald: &std::path::Path, identifier: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(journald)?)?;
    rustix::net::shutdown(&stream, Shutdown::Read)?;
    // A buffer above `wmem_max` needs CAP_NET_ADMIN; a smaller one is no error.
    if rustix::net::sockopt::set_socket_send_buffer_size_force(&stream, SEND_BUFFER).is_err() {
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER);
    }
    // The header: identifier, unit (empty: journald finds it), priority 6, level prefixes on, and no forwarding.
    let header = format!("{}\n\n6\n1\n0\n0\n0\n", identifier.replace(char::is_control, "_"));
    if rustix::net::send(&stream, header.as_bytes(), SendFlags::NOSIGNAL)? != header.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    // Programs expect a blocking stdout.
    rustix::io::ioctl_fionbio(&stream, false)?;
    Ok(stream)
}

/// Waits until journald has read everything, up to [`READ_WITHIN`]. The kernel has no event for that, so this polls; it runs on a
/// thread of its own and only after a failure.
fn wait_until_read(stream: &OwnedFd) {
    let end = std::time::Instant::now() + READ_WITHIN;
    while unread_by_peer(stream).is_ok_and(|bytes| bytes > 0) && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
}
