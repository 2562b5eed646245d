//! The master's own log: a bounded queue, and a thread that writes it to the journal or to stderr.
//!
//! Law: [`Journal::log`] never waits, not for journald, a terminal or a disk. What finds no room is dropped and counted, and
//! the thread says later how much was lost. Only the thread touches journald or stderr; it alone may hang.

mod queue;
mod writer;

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use self::queue::Queue;
use crate::sys::{errno, thread};

/// The longest message that is kept, bytes.
const MESSAGE_MAX: usize = 16 * 1024;

/// The fields of our own that an entry may carry, as the journal shows them.
pub const FIELDS: [&str; 7] =
    ["RATOON_INSTANCE", "RATOON_GENERATION", "RATOON_WORKER", "RATOON_SLOT", "RATOON_PID", "RATOON_HOW", "RATOON_REASON"];

/// How much an entry matters; the numbers are those of syslog(3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something failed that somebody has to look at.
    Error = 3,
    /// Something is not as it should be, and was dealt with.
    Warning = 4,
    /// The ordinary course of things.
    #[default]
    Info = 6,
    /// For whoever looks for a fault in Ratoon itself.
    Debug = 7,
}

impl Level {
    /// The name that syslog(3) and `org.freedesktop.LogControl1` have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Error => "err",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    fn from_number(number: u8) -> Level {
        match number {
            0..=3 => Level::Error,
            4 => Level::Warning,
            5 | 6 => Level::Info,
            _ => Level::Debug,
        }
    }
}

impl FromStr for Level {
    type Err = String;

    /// Takes every name and number of syslog(3); what we have no level of our own for is the next more important one
    /// that we have (`notice` is [`Level::Info`], as nothing of ours lies between).
    fn from_str(name: &str) -> Result<Level, String> {
        Ok(match name {
            "emerg" | "alert" | "crit" | "err" | "error" | "0" | "1" | "2" | "3" => Level::Error,
            "warning" | "warn" | "4" => Level::Warning,
            "notice" | "info" | "5" | "6" => Level::Info,
            "debug" | "7" => Level::Debug,
            _ => return Err(format!("{name:?} is no log level; give one of err, warning, info, debug")),
        })
    }
}

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To journald by its native protocol, with fields; to stderr as long as there is no journald.
    Journal,
    /// To stderr as lines.
    Stderr,
}

impl Target {
    /// The journal when `JOURNAL_STREAM` says that our stderr is connected to it, else stderr.
    pub fn choose() -> Target {
        if stream_of_stderr().is_some() { Target::Journal } else { Target::Stderr }
    }
}

/// One entry of the log. Fields that are `None` are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// How much it matters.
    pub level: Level,
    /// What happened, for a person; whole without the fields.
    pub message: String,
    /// `RATOON_GENERATION=`
    pub generation: Option<u64>,
    /// `RATOON_WORKER=`
    pub worker: Option<u64>,
    /// `RATOON_SLOT=`
    pub slot: Option<u32>,
    /// `RATOON_PID=` and `OBJECT_PID=` (journald adds that process's own fields where it trusts us to name it).
    pub pid: Option<u32>,
    /// `MESSAGE_ID=`, one of [`crate::master::log::catalog`].
    pub id: &'static str,
    /// `RATOON_HOW=`: how a worker ended.
    pub how: Option<String>,
    /// `RATOON_REASON=`: why a reload or an upgrade did not come about.
    pub reason: Option<String>,
}

impl Record {
    /// An entry with no fields yet but the message id of its level.
    pub fn new(level: Level, message: impl Into<String>) -> Record {
        Record {
            level,
            message: errno::plain(&message.into()),
            id: crate::master::log::catalog::of_level(level),
            ..Record::default()
        }
    }

    /// Bytes of text, for the bound of the queue.
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

/// The way to the log. Cheap to clone; usable from every thread.
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
    /// The thread has not been told of what was put into the queue.
    untold: AtomicBool,
}

/// `JOURNAL_STREAM` when it names our own stderr, for whoever inherits that.
pub fn stream_of_stderr() -> Option<String> {
    writer::stream_of_stderr()
}

/// Starts the log of an instance at level info, to where [`Target::choose`] says.
pub fn start(instance: &str) -> Journal {
    start_with(instance, Target::choose(), Level::Info)
}

/// Starts the log of an instance. If the kernel has no room for the thread now, the next entries try again.
pub fn start_with(instance: &str, target: Target, level: Level) -> Journal {
    let journal = Journal {
        shared: Arc::new(Shared {
            queue: Queue::default(),
            level: AtomicU8::new(level as u8),
            to_journal: AtomicBool::new(target == Target::Journal),
            instance: instance.to_owned(),
            running: AtomicBool::new(false),
            untold: AtomicBool::new(false),
        }),
    };
    journal.run();
    journal
}

impl Journal {
    /// Puts an entry into the queue, or drops and counts it when there is no room. Never waits.
    pub fn log(&self, record: Record) {
        self.put(record);
        self.wake();
    }

    /// Like [`Self::log`], but the thread that writes it sleeps on until [`Self::wake`]: for the loop, which has more urgent
    /// things to do than to wake a thread.
    pub fn put(&self, mut record: Record) {
        if record.level > self.level() {
            return;
        }
        record.bound();
        let size = record.size();
        self.shared.queue.push(record, size);
        self.shared.untold.store(true, Ordering::Release);
    }

    /// Lets what was put be written.
    pub fn wake(&self) {
        if self.shared.untold.swap(false, Ordering::AcqRel) {
            self.shared.queue.wake();
            self.run();
        }
    }

    /// Whether an entry of this level would be kept; spares the making of debug entries.
    pub fn enabled(&self, level: Level) -> bool {
        level <= self.level()
    }

    /// The least important level that is kept.
    pub fn level(&self) -> Level {
        Level::from_number(self.shared.level.load(Ordering::Relaxed))
    }

    /// Keeps entries of this level and the more important ones from now on.
    pub fn set_level(&self, level: Level) {
        self.shared.level.store(level as u8, Ordering::Relaxed);
    }

    /// Where entries go.
    pub fn target(&self) -> Target {
        if self.shared.to_journal.load(Ordering::Relaxed) { Target::Journal } else { Target::Stderr }
    }

    /// Sends entries there from now on.
    pub fn set_target(&self, target: Target) {
        self.shared.to_journal.store(target == Target::Journal, Ordering::Relaxed);
    }

    /// The identifier under which entries appear (`SYSLOG_IDENTIFIER=`): `ratoon`.
    pub fn syslog_identifier(&self) -> &'static str {
        writer::IDENTIFIER
    }

    /// Waits at most so long until everything that was logged is written; `false` when that was not enough. For the end of
    /// the process and before an exec, never for the loop.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.wake();
        self.run();
        self.shared.queue.wait_until_written(at_most)
    }

    /// [`Self::flush`], then lets the thread end. What is logged later is lost.
    pub fn close(&self, at_most: Duration) -> bool {
        let written = self.flush(at_most);
        self.shared.queue.close();
        written
    }

    /// Starts the thread if it does not run.
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
