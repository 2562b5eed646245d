//! Readiness of many descriptors through one descriptor: epoll(7), level-triggered, polled without waiting.
//!
//! Law: a descriptor that is not served stays ready. To wait, watch the epoll descriptor itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A set of watched descriptors. The set's own descriptor is readable while one of them is ready.
#[derive(Debug)]
pub struct Poll {
    fd: OwnedFd,
}

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Poll> {
        Ok(Poll { fd: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches a descriptor for readability; [`Poll::ready`] reports it as `token`.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Keeps a descriptor in the set but no longer reports it, except once for an error or hang-up.
    pub fn pause(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        // Errors and hang-ups can't be disabled. Edge-triggered, they are reported at most once and can't make the loop spin.
        Ok(epoll::modify(&self.fd, fd, EventData::new_u64(token), EventFlags::ET)?)
    }

    /// Ends a pause. If the descriptor became ready meanwhile, it is reported.
    pub fn resume(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::modify(&self.fd, fd, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Watches a descriptor for readability; [`Poll::ready`] reports it as `token` once, until [`Poll::rearm`].
    pub fn add_once(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, EventData::new_u64(token), EventFlags::IN | EventFlags::ONESHOT)?)
    }

    /// Lets a descriptor of [`Poll::add_once`] be reported once more; at once if it is ready.
    pub fn rearm(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::modify(&self.fd, fd, EventData::new_u64(token), EventFlags::IN | EventFlags::ONESHOT)?)
    }

    /// Removes a descriptor from the set. A descriptor that isn't in the set is no error.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        match epoll::delete(&self.fd, fd) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends the tokens of at most `max` ready descriptors to `out` and returns their number; never waits.
    ///
    /// The kernel rotates its list: a descriptor that was not reported this time is among the first the next time. The result `max`
    /// means that there may be more, so an edge-triggered watcher (tokio's `AsyncFd`) must call again.
    pub fn ready(&self, out: &mut Vec<u64>, max: usize) -> io::Result<usize> {
        if max == 0 {
            return Ok(0);
        }
        let mut events: Vec<Event> = Vec::with_capacity(max);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&self.fd, spare_capacity(&mut events), Some(&now)) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        out.extend(events.iter().map(|event| event.data.u64()));
        Ok(count)
    }
}

impl Poll {
    /// Registers this set with the current tokio runtime.
    ///
    /// # Errors
    /// The kernel's limit of watches is reached.
    pub fn watched(self: Arc<Poll>) -> io::Result<AsyncFd<Arc<Poll>>> {
        // SAFETY: the `AsyncFd` owns a reference to the `Poll`, which owns the descriptor: so it stays open and the same as long as it
        // is registered. The master calls this once, so it is not registered with this runtime elsewhere.
        let registered = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        registered.map_err(io::Error::from)
    }
}

impl AsFd for Poll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::os::fd::AsRawFd for Poll {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn tokens(poll: &Poll, max: usize) -> Vec<u64> {
        let mut out = Vec::new();
        let count = poll.ready(&mut out, max).unwrap();
        assert_eq!(count, out.len());
        out.sort_unstable();
        out
    }

    #[test]
    fn ready_until_served_silent_while_paused() {
        let poll = Poll::new().unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        poll.add(&near, 7).unwrap();
        assert!(tokens(&poll, 8).is_empty());
        far.write_all(b"x").unwrap();
        assert_eq!(tokens(&poll, 8), [7]);
        assert_eq!(tokens(&poll, 8), [7], "level-triggered");
        poll.pause(&near, 7).unwrap();
        assert!(tokens(&poll, 8).is_empty());
        poll.resume(&near, 7).unwrap();
        assert_eq!(tokens(&poll, 8), [7]);
        near.read_exact(&mut [0]).unwrap();
        assert!(tokens(&poll, 8).is_empty());
        poll.remove(&near).unwrap();
        poll.remove(&near).unwrap();
        far.write_all(b"x").unwrap();
        assert!(tokens(&poll, 8).is_empty());
    }

    #[test]
    fn descriptor_that_is_added_once_is_reported_once() {
        let poll = Poll::new().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        poll.add_once(&near, 7).unwrap();
        far.write_all(b"x").unwrap();
        assert_eq!((tokens(&poll, 8), tokens(&poll, 8)), (vec![7], vec![]));
        far.write_all(b"y").unwrap();
        assert!(tokens(&poll, 8).is_empty());
        poll.rearm(&near, 7).unwrap();
        assert_eq!((tokens(&poll, 8), tokens(&poll, 8)), (vec![7], vec![]));
    }

    #[test]
    fn a_paused_hang_up_cannot_spin_the_loop() {
        let poll = Poll::new().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        poll.add(&near, 1).unwrap();
        poll.pause(&near, 1).unwrap();
        drop(far);
        assert!(tokens(&poll, 8).len() <= 1);
        assert!(tokens(&poll, 8).is_empty());
    }

    #[test]
    fn a_bounded_question_reaches_everyone_in_turn() {
        let poll = Poll::new().unwrap();
        let mut ends = Vec::new();
        for token in 0..10 {
            let (near, mut far) = UnixStream::pair().unwrap();
            poll.add(&near, token).unwrap();
            far.write_all(b"x").unwrap();
            ends.push((near, far));
        }
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..5 {
            let some = tokens(&poll, 3);
            assert!(some.len() <= 3);
            seen.extend(some);
        }
        assert_eq!(seen.len(), 10);
    }

    #[test]
    fn nothing_asked_nothing_given() {
        assert_eq!(Poll::new().unwrap().ready(&mut Vec::new(), 0).unwrap(), 0);
    }
}
