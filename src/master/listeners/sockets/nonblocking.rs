//! `O_NONBLOCK` of the listening sockets (`worker.nonblocking`).
//!
//! Law: the flag belongs to the open file that all generations share. It is set for a generation that asks for it, and cleared again
//! only if that generation was never committed: a worker of a committed generation may rely on the flag.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io;

/// The sockets on which the flag was set for a generation that is not committed.
#[derive(Debug, Default)]
pub struct Nonblocking {
    unconfirmed: Vec<Arc<OwnedFd>>,
}

impl Nonblocking {
    /// Makes sockets non-blocking for a worker, of a committed generation or of a candidate.
    ///
    /// # Errors
    /// fcntl(2) cannot read or set the flags of a descriptor.
    pub fn set(&mut self, sockets: &[Arc<OwnedFd>], is_committed: bool) -> io::Result<()> {
        for socket in sockets {
            let flags = fcntl_getfl(socket)?;
            if !flags.contains(OFlags::NONBLOCK) {
                fcntl_setfl(socket, flags | OFlags::NONBLOCK)?;
                if !is_committed {
                    self.unconfirmed.push(socket.clone());
                }
            }
        }
        Ok(())
    }

    /// Keeps the flag: the generation for which it was set is committed.
    pub fn confirm(&mut self) {
        self.unconfirmed.clear();
    }

    /// Clears the flag that was set for an uncommitted generation. Call this after the last worker of that generation is gone.
    pub fn take_back(&mut self) {
        for socket in self.unconfirmed.drain(..) {
            if let Ok(flags) = fcntl_getfl(&socket) {
                // The kernel has accepted a change of this flag on the same socket before, so an error is not expected.
                let _ = fcntl_setfl(&socket, flags - OFlags::NONBLOCK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(is_set: bool) -> Arc<OwnedFd> {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(is_set).unwrap();
        Arc::new(socket.into())
    }

    fn are_set(sockets: &[Arc<OwnedFd>]) -> Vec<bool> {
        sockets.iter().map(|socket| fcntl_getfl(socket).unwrap().contains(OFlags::NONBLOCK)).collect()
    }

    #[test]
    fn flag_is_taken_back_where_it_was_set_for_a_candidate() {
        let sockets = [socket(false), socket(true)];
        let mut nonblocking = Nonblocking::default();
        nonblocking.set(&sockets, false).unwrap();
        assert_eq!(are_set(&sockets), [true, true]);
        nonblocking.take_back();
        assert_eq!(are_set(&sockets), [false, true], "the second one had the flag before");
    }

    #[test]
    fn flag_stays_after_the_commit() {
        let sockets = [socket(false), socket(false)];
        let mut nonblocking = Nonblocking::default();
        nonblocking.set(&sockets[..1], false).unwrap();
        nonblocking.confirm();
        nonblocking.set(&sockets[1..], true).unwrap();
        nonblocking.take_back();
        assert_eq!(are_set(&sockets), [true, true]);
    }
}
