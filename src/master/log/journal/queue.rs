//! The bounded queue between whoever logs and the thread that writes.
//!
//! Law: the lock is held for a few instructions only, never over a system call that can wait.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Record;

/// How many entries may wait.
pub(super) const ENTRIES_MAX: usize = 1024;
/// How many bytes of text may wait.
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
    /// The thread has taken something and not yet come back.
    writing: bool,
    closed: bool,
}

/// What the thread is to write next.
pub(super) enum Next {
    /// An entry.
    Record(Record),
    /// So many entries found no room since this was said last.
    Lost(u64),
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can panic half way; a poisoned state is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the entry, or counts it as lost; [`Self::wake`] says so to who writes it.
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

    /// There is something to write.
    pub fn wake(&self) {
        self.filled.notify_one();
    }

    /// Waits for the next thing to write; `None` when closed and empty. Asking again says that the last one is written.
    pub fn next(&self) -> Option<Next> {
        let mut state = self.lock();
        state.writing = false;
        loop {
            if let Some((record, size)) = state.entries.pop_front() {
                state.bytes -= size;
                state.writing = true;
                return Some(Next::Record(record));
            }
            // The count comes after what was queued before the loss.
            if state.lost > 0 {
                state.writing = true;
                return Some(Next::Lost(std::mem::take(&mut state.lost)));
            }
            self.written.notify_all();
            if state.closed {
                return None;
            }
            // A burst may have made the queue large; an idle master is small.
            state.entries.shrink_to(16);
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until nothing is left to write; `false` when it took longer than `at_most`.
    pub fn wait_until_written(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        let mut state = self.lock();
        while state.writing || !state.entries.is_empty() || state.lost > 0 {
            let Some(left) = end.checked_duration_since(Instant::now()) else { return false };
            state = self.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Takes nothing more; [`Self::next`] ends when the rest is written.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}
