//! The bounded queue between the threads that log and the thread that writes the log.
//!
//! Law: the lock is held for a few instructions only, never during a system call that can wait.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Record;

/// The largest number of entries in the queue.
pub(super) const ENTRIES_MAX: usize = 1024;
/// The largest size of the text in the queue, bytes.
const BYTES_MAX: usize = 2 * 1024 * 1024;

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct State {
    entries: VecDeque<(Record, usize)>,
    bytes: usize,
    lost: u64,
    /// Whether the thread writes an entry that it has taken.
    writing: bool,
    closed: bool,
}

/// The next thing for the thread to write.
pub(super) enum Next {
    /// An entry.
    Record(Record),
    /// The number of entries that were dropped since the last such message.
    Lost(u64),
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics in the middle of a change under this lock, so a poisoned state is still valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the entry, or counts it as lost when there is no room. The thread writes it after [`Self::wake`].
    pub fn push(&self, record: Record, size: usize) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        if state.entries.len() >= ENTRIES_MAX || state.bytes + size > BYTES_MAX {
            state.lost += 1;
            return;
        }
        state.bytes += size;
        state.entries.push_back((record, size));
    }

    /// Wakes the thread, after an entry was added.
    pub fn wake(&self) {
        self.filled.notify_one();
    }

    /// Waits for the next thing to write; `None` when the queue is closed and empty. A call also says that the one before is written.
    pub fn next(&self) -> Option<Next> {
        let mut state = self.lock();
        state.writing = false;
        loop {
            if let Some((record, size)) = state.entries.pop_front() {
                state.bytes -= size;
                state.writing = true;
                return Some(Next::Record(record));
            }
            // The count of lost entries comes after the entries that were queued before the loss.
            if state.lost > 0 {
                state.writing = true;
                return Some(Next::Lost(std::mem::take(&mut state.lost)));
            }
            self.written.notify_all();
            if state.closed {
                return None;
            }
            // A burst may have made the queue large: free the memory while it is empty.
            state.entries.shrink_to(16);
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until everything is written; returns `false` when that takes longer than `at_most`.
    pub fn wait_until_written(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        let mut state = self.lock();
        while state.writing || !state.entries.is_empty() || state.lost > 0 {
            let Some(left) = end.checked_duration_since(Instant::now()) else { return false };
            state = self.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Closes the queue to new entries. [`Self::next`] returns `None` once the others are written.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}
