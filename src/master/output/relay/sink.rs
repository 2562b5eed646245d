//! Sinks for the lines of workers: the master's stdout or stderr, or the journal.
//!
//! Law: the reader of a sink may be slow, or gone. Pending lines are bounded, and the number of lost lines is written as soon as
//! there is room.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

use super::PIECE;
use super::native::{Native, Source};

/// Pending bytes for the reader of the master's stdout or stderr above which pipes are not read.
pub(super) const PENDING_MAX: usize = 64 * 1024;
/// Pending bytes above which the last lines of dead workers are kept for their failure records only, and not written.
pub(super) const PENDING_LAST: usize = 1024 * 1024;
/// Bytes that a pipe takes whole, without blocking, when poll(2) says that it can be written (PIPE_BUF).
const WRITE_MAX: usize = 4096;

/// The master's stdout or stderr, and the pipes that are copied to it.
pub(super) struct Sink {
    pub fd: OwnedFd,
    pub epoll: OwnedFd,
    pub pending: Vec<u8>,
    /// The number of lines that found no room.
    pub lost: u64,
    /// Whether the sink is a terminal: then each line gets its worker's label.
    pub labelled: bool,
    /// `Some` when `fd` is a socket to journald, and `pending` has entries for it.
    native: Option<Native>,
    /// Whether the sink cannot be written any more. Its pipes are still read, or the workers would hang.
    pub dead: bool,
}

impl Sink {
    pub fn new(fd: OwnedFd, native: Option<Native>) -> io::Result<Sink> {
        let labelled = std::io::IsTerminal::is_terminal(&fd);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Sink { fd, epoll, pending: Vec::new(), lost: 0, labelled, native, dead: false })
    }

    /// Adds a line of a worker to the pending lines.
    pub fn push(&mut self, source: Source, label: impl FnOnce() -> String, line: &[u8]) {
        match &self.native {
            Some(native) => native.push(&mut self.pending, Some(source), line),
            None => {
                if self.labelled {
                    self.pending.extend_from_slice(label().as_bytes());
                    self.pending.extend_from_slice(b": ");
                }
                self.pending.extend_from_slice(line);
                self.pending.push(b'\n');
            }
        }
    }

    /// The part of a line that is kept in its worker's tail. In the journal, the priority is not part of the message.
    pub fn message<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        if self.native.is_some() { super::native::split(line).1 } else { line }
    }

    /// Takes the pending lines, for another program to go on with.
    pub fn take_lines(&mut self) -> Vec<u8> {
        let pending = std::mem::take(&mut self.pending);
        if self.native.is_some() { super::native::lines(&pending) } else { pending }
    }

    /// Puts lines that another program could not write before the pending lines.
    pub fn prepend(&mut self, lines: Vec<u8>) {
        let Some(native) = &self.native else {
            self.pending.splice(..0, lines);
            return;
        };
        let mut entries = Vec::new();
        lines.split(|byte| *byte == b'\n').for_each(|line| native.push(&mut entries, None, line));
        self.pending.splice(..0, entries);
    }

    /// Sends the entries that journald takes now.
    fn send(&mut self, native: &Native) {
        let sent = native.send(&self.fd, &mut self.pending);
        self.lost += sent.lost;
        // Report losses only when some entries got through: otherwise the report itself would be lost, again and again.
        if self.lost > 0 && sent.taken > 0 && self.has_room() {
            native.push(&mut self.pending, None, format!("<4>{}", lost(self.lost)).as_bytes());
            self.lost = 0;
        }
        if self.pending.is_empty() {
            self.pending.shrink_to(PIECE);
        }
    }

    pub fn has_room(&self) -> bool {
        self.pending.len() < PENDING_MAX
    }

    /// Writes what can be written now. The open file description is shared with other processes and stays blocking, so poll before
    /// each piece.
    pub fn write(&mut self) {
        if let Some(native) = self.native.take() {
            self.send(&native);
            self.native = Some(native);
            return;
        }
        let mut done = 0;
        while done < self.pending.len() {
            let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
            match poll(&mut fds, Some(&Timespec::default())) {
                Ok(1) => {}
                Ok(_) | Err(Errno::INTR) => break,
                Err(_) => {}
            }
            let rest = &self.pending[done..];
            let piece = &rest[..rest.len().min(WRITE_MAX)];
            // Write whole lines, if there is one, because other processes write to the same file.
            let piece = piece.iter().rposition(|byte| *byte == b'\n').map_or(piece, |end| &piece[..=end]);
            match rustix::io::write(self.fd.as_fd(), piece) {
                Ok(bytes) => done += bytes,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => {
                    self.dead = true;
                    done = self.pending.len();
                }
            }
        }
        self.pending.drain(..done);
        if self.lost > 0 && self.has_room() {
            self.pending.extend_from_slice(format!("ratoon: {}\n", lost(self.lost)).as_bytes());
            self.lost = 0;
        }
        if self.pending.is_empty() {
            self.pending.shrink_to(PIECE);
        }
    }
}

fn lost(lines: u64) -> String {
    format!("{lines} lines of workers were lost: their reader was too slow, or gone")
}
