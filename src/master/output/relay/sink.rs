//! Where the lines of workers go: our stdout or stderr.
//!
//! Law: its reader may be slow, or gone. What waits for it is bounded, and what was lost is told as soon as there is room.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

use super::PIECE;

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
    /// It cannot be written any more; pipes are read all the same, or the workers would hang.
    pub dead: bool,
}

impl Sink {
    pub fn new(fd: OwnedFd) -> io::Result<Sink> {
        let labelled = std::io::IsTerminal::is_terminal(&fd);
        Ok(Sink { fd, epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, pending: Vec::new(), lost: 0, labelled, dead: false })
    }

    pub fn has_room(&self) -> bool {
        self.pending.len() < PENDING_MAX
    }

    /// Writes what can be written now. The descriptor is shared with others and stays blocking, so ask before each piece.
    pub fn write(&mut self) {
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
            let said = format!("ratoon: {} lines of workers were lost: their reader was too slow\n", self.lost);
            self.pending.extend_from_slice(said.as_bytes());
            self.lost = 0;
        }
        if self.pending.is_empty() {
            self.pending.shrink_to(PIECE);
        }
    }
}
