//! Where the lines of workers go: our stdout or stderr.
//!
//! Law: its reader may be slow, or gone. What waits for it is bounded, and what was lost is told as soon as there is room.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

use super::PIECE;
use super::native::{Native, Source};

/// Lines that wait for the reader of our stdout or stderr; with more, pipes are not read, bytes.
pub(super) const PENDING_MAX: usize = 64 * 1024;
/// With this much waiting, the last lines of the dead are kept for their records only, bytes.
pub(super) const PENDING_LAST: usize = 1024 * 1024;
/// What a pipe takes whole without blocking when poll(2) says that it can be written (PIPE_BUF).
const WRITE_MAX: usize = 4096;

/// Our stdout or stderr, and the pipes that are copied to it.
pub(super) struct Sink {
    pub fd: OwnedFd,
    pub epoll: OwnedFd,
    pub pending: Vec<u8>,
    /// Lines that found no room.
    pub lost: u64,
    /// A person watches: say whose line it is.
    pub labelled: bool,
    /// `fd` is a socket to journald, and `pending` has entries for it.
    native: Option<Native>,
    /// It cannot be written any more; pipes are read all the same, or the workers would hang.
    pub dead: bool,
}

impl Sink {
    pub fn new(fd: OwnedFd, native: Option<Native>) -> io::Result<Sink> {
        let labelled = std::io::IsTerminal::is_terminal(&fd);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Sink { fd, epoll, pending: Vec::new(), lost: 0, labelled, native, dead: false })
    }

    /// A line of a worker, to be written.
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

    /// What of a line is kept as one of its worker's last: in the journal a priority is no part of the message.
    pub fn message<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        if self.native.is_some() { super::native::split(line).1 } else { line }
    }

    /// The lines that wait, for another program to go on with.
    pub fn take_lines(&mut self) -> Vec<u8> {
        let pending = std::mem::take(&mut self.pending);
        if self.native.is_some() { super::native::lines(&pending) } else { pending }
    }

    /// Lines that another program could not write any more; they come first.
    pub fn prepend(&mut self, lines: Vec<u8>) {
        let Some(native) = &self.native else {
            self.pending.splice(..0, lines);
            return;
        };
        let mut entries = Vec::new();
        lines.split(|byte| *byte == b'\n').for_each(|line| native.push(&mut entries, None, line));
        self.pending.splice(..0, entries);
    }

    /// Sends what journald takes now.
    fn send(&mut self, native: &Native) {
        let sent = native.send(&self.fd, &mut self.pending);
        self.lost += sent.lost;
        // Said only when something gets through, else this line would be the next to be lost, without end.
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

    /// Writes what can be written now. The descriptor is shared with others and stays blocking, so ask before each piece.
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
            // Whole lines, if there is one: others write to the same file.
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
