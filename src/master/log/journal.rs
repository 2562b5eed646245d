//! The master's own log: a bounded queue, and a thread that writes its entries to the journal or to stderr.
//!
//! Law: [`Journal::log`] never waits for journald, a terminal or a disk. An entry that finds no room is dropped and counted, and
//! the thread later logs the count. Only the thread writes to journald or stderr, so only the thread may hang.

mod queue;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use self::queue::Queue;
pub use super::level::Level;
use crate::sys::{errno, thread};

/// The longest message that is kept, bytes.
const MESSAGE_MAX: usize = 16 * 1024;

/// The `RATOON_…` fields that an entry may have, as the journal shows them.
pub const FIELDS: [&str; 7] =
    ["RATOON_INSTANCE", "RATOON_GENERATION", "RATOON_WORKER", "RATOON_SLOT", "RATOON_PID", "RATOON_HOW", "RATOON_REASON"];

/// The destination of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// journald, by its native protocol with fields; stderr while there is no journald.
    Journal,
    /// stderr, as lines.
    Stderr,
}

impl Target {
    /// The journal if `JOURNAL_STREAM` says that the master's stderr is connected to it, else stderr.
    pub fn choose() -> Target {
        if stream_of_stderr().is_some() { Target::Journal } else { Target::Stderr }
    }
}

/// An entry of the log. Fields that are `None` are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The level.
    pub level: Level,
    /// The message for a person; complete without the fields.
    pub message: String,
    /// `RATOON_GENERATION=`.
    pub generation: Option<u64>,
    /// `RATOON_WORKER=`.
    pub worker: Option<u64>,
    /// `RATOON_SLOT=`.
    pub slot: Option<u32>,
    /// `RATOON_PID=` and `OBJECT_PID=` (journald adds that process's own fields where it trusts the master to name it).
    pub pid: Option<u32>,
    /// `MESSAGE_ID=`, one of [`crate::master::log::catalog`].
    pub id: &'static str,
    /// `RATOON_HOW=`: how a worker exited.
    pub how: Option<String>,
    /// `RATOON_REASON=`: why a reload or an upgrade failed.
    pub reason: Option<String>,
}

impl Record {
    /// Makes an entry with the message id of its level and no other fields.
    pub fn new(level: Level, message: impl Into<String>) -> Record {
        Record {
            level,
            message: errno::plain(&message.into()),
            id: crate::master::log::catalog::of_level(level),
            ..Record::default()
        }
    }

    /// Bytes of text, for the size limit of the queue.
    fn size(&self) -> usize {
        self.message.len() + self.how.as_ref().map_or(0, String::len) + self.reason.as_ref().map_or(0, String::len)
    }

    fn bound(&mut self) {
        shorten(&mut self.message);
        self.how.as_mut().map(shorten);
        self.reason.as_mut().map(shorten);
    }
}

fn shorten(text: &mut String) {
    if text.len() > MESSAGE_MAX {
        let mut end = MESSAGE_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}

/// A handle to the log. Cheap to clone; usable from every thread.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Queue,
    level: AtomicU8,
    to_journal: AtomicBool,
    instance: String,
    running: AtomicBool,
    /// Whether the thread was not woken since the last entry was put into the queue.
    needs_wake: AtomicBool,
}

/// The value of `JOURNAL_STREAM` if it names the master's own stderr, for a process that inherits this stderr.
pub fn stream_of_stderr() -> Option<String> {
    writer::stream_of_stderr()
}

/// Starts the log of an instance at level info, with the target of [`Target::choose`].
pub fn start(instance: &str) -> Journal {
    start_with(instance, Target::choose(), Level::Info)
}

/// Starts the log of an instance. If the thread cannot be started now, the next entries try again.
pub fn start_with(instance: &str, target: Target, level: Level) -> Journal {
    let journal = Journal {
        shared: Arc::new(Shared {
            queue: Queue::default(),
            level: AtomicU8::new(level as u8),
            to_journal: AtomicBool::new(target == Target::Journal),
            instance: instance.to_owned(),
            running: AtomicBool::new(false),
            needs_wake: AtomicBool::new(false),
        }),
    };
    journal.run();
    journal
}

impl Journal {
    /// Puts an entry into the queue; without room, drops and counts it. Never waits.
    pub fn log(&self, record: Record) {
        self.put(record);
        self.wake();
    }

    /// Like [`Self::log`], but does not wake the thread: [`Self::wake`] does that. For the loop, which has more urgent work than to
    /// wake a thread.
    pub fn put(&self, mut record: Record) {
        if record.level > self.level() {
            return;
        }
        record.bound();
        let size = record.size();
        self.shared.queue.push(record, size);
        self.shared.needs_wake.store(true, Ordering::Release);
    }

    /// Wakes the thread, so that it writes the entries of [`Self::put`].
    pub fn wake(&self) {
        if self.shared.needs_wake.swap(false, Ordering::AcqRel) {
            self.shared.queue.wake();
            self.run();
        }
    }

    /// Whether an entry of this level is logged; saves making debug entries that are not.
    pub fn enabled(&self, level: Level) -> bool {
        level <= self.level()
    }

    /// The least important level that is logged.
    pub fn level(&self) -> Level {
        Level::from_number(self.shared.level.load(Ordering::Relaxed))
    }

    /// Sets the least important level that is logged.
    pub fn set_level(&self, level: Level) {
        self.shared.level.store(level as u8, Ordering::Relaxed);
    }

    /// The destination of new entries.
    pub fn target(&self) -> Target {
        if self.shared.to_journal.load(Ordering::Relaxed) { Target::Journal } else { Target::Stderr }
    }

    /// Sets the destination of new entries.
    pub fn set_target(&self, target: Target) {
        self.shared.to_journal.store(target == Target::Journal, Ordering::Relaxed);
    }

    /// The value of `SYSLOG_IDENTIFIER=` of the entries: `ratoon`.
    pub fn syslog_identifier(&self) -> &'static str {
        writer::IDENTIFIER
    }

    /// Waits until every entry is written; returns `false` when that takes longer than `at_most`. For the end of the process and
    /// before an exec, never for the loop.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.wake();
        self.run();
        self.shared.queue.wait_until_written(at_most)
    }

    /// Calls [`Self::flush`], then ends the thread. Later entries are lost.
    pub fn close(&self, at_most: Duration) -> bool {
        let written = self.flush(at_most);
        self.shared.queue.close();
        written
    }

    /// Starts the thread if it does not run yet.
    fn run(&self) {
        if self.shared.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let started: io::Result<_> = thread::spawn("ratoon-log", move || writer::run(&shared));
        if started.is_err() {
            self.shared.running.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
