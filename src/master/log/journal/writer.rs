//! The thread that writes the log: to journald through `tracing-journald`, or to stderr as lines.
//!
//! Law: every call here may hang (journald stopped, terminal stopped, pipe full), so no other thread waits for this one; they use
//! the queue.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tracing::Dispatch;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;

use super::queue::Next;
use super::{Level, Record, Shared};
use crate::master::log::text::one_line;

/// `SYSLOG_IDENTIFIER=` of the master's own entries.
pub(super) const IDENTIFIER: &str = "ratoon";
/// The socket of journald, to which tracing-journald sends, too.
const JOURNALD: &str = "/run/systemd/journal/socket";
/// The longest line on stderr, bytes.
const LINE_MAX: usize = 4096;

/// The value of `JOURNAL_STREAM` if the master's stderr is the stream that systemd made for it (`dev:inode`, systemd.exec(5)).
pub(super) fn stream_of_stderr() -> Option<String> {
    let stated = std::env::var("JOURNAL_STREAM").ok()?;
    let stat = rustix::fs::fstat(io::stderr().as_fd()).ok()?;
    (stated == format!("{}:{}", stat.st_dev, stat.st_ino)).then_some(stated)
}

/// The thread's main function: writes until the queue is closed.
pub(super) fn run(shared: &Shared) {
    let mut journald = Journald::default();
    let mut lines = Lines::new();
    while let Some(next) = shared.queue.next() {
        let record = match next {
            Next::Record(record) => record,
            Next::Lost(1) => Record::new(Level::Warning, "1 entry of this log was lost: its reader was too slow"),
            Next::Lost(many) => {
                Record::new(Level::Warning, format!("{many} entries of this log were lost: its reader was too slow"))
            }
        };
        let native = shared.to_journal.load(Ordering::Relaxed);
        if !(native && journald.write(&shared.instance, &record)) {
            lines.write(&shared.instance, &record);
        }
    }
}

/// Writes entries to journald by its native protocol.
#[derive(Default)]
struct Journald {
    dispatch: Option<Dispatch>,
}

impl Journald {
    /// Writes an entry. Returns `false` when there is no journald.
    fn write(&mut self, instance: &str, record: &Record) -> bool {
        // The tracing layer ignores errors, so try to connect first. The layer sends to the path each time, so a restarted journald
        // gets the next entries.
        if UnixDatagram::unbound().and_then(|probe| probe.connect(JOURNALD)).is_err() {
            return false;
        }
        if self.dispatch.is_none() {
            self.dispatch = tracing_journald::layer().ok().map(|layer| {
                let priorities =
                    PriorityMappings { info: Priority::Informational, debug: Priority::Debug, ..PriorityMappings::new() };
                let layer = layer.with_field_prefix(None).with_syslog_identifier(IDENTIFIER.to_owned());
                Dispatch::new(tracing_subscriber::registry().with(layer.with_priority_mappings(priorities)))
            });
        }
        let Some(dispatch) = &self.dispatch else { return false };
        // The dispatcher is set for this thread only: traces of libraries on other threads are dropped, as before.
        tracing::dispatcher::with_default(dispatch, || emit(instance, record));
        true
    }
}

/// Passes the record to tracing. `None` fields are left out. journald gets the field names in upper case.
fn emit(instance: &str, record: &Record) {
    // tracing needs the level at compile time, so there is one event for each level.
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(
                target: "ratoon",
                tracing::Level::$level,
                message = record.message.as_str(),
                message_id = record.id,
                ratoon_instance = instance,
                ratoon_generation = record.generation,
                ratoon_worker = record.worker,
                ratoon_slot = record.slot,
                ratoon_pid = record.pid,
                object_pid = record.pid,
                ratoon_how = record.how.as_deref(),
                ratoon_reason = record.reason.as_deref(),
            )
        };
    }
    match record.level {
        Level::Error => event!(ERROR),
        Level::Warning => event!(WARN),
        Level::Info => event!(INFO),
        Level::Debug => event!(DEBUG),
    }
}

/// The format of a line on stderr.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// A terminal: the time of day, and colour if wanted.
    Terminal {
        /// Colour the level.
        colour: bool,
    },
    /// A file: the date and time, because the file may be read days later.
    File,
    /// A pipe or a socket: no time, because the reader adds its own.
    Pipe,
    /// A stream to journald: the prefix `<N>` gives the level.
    Stream,
}

struct Lines {
    stderr: Option<File>,
    look: Look,
}

impl Lines {
    fn new() -> Lines {
        // Use a copy of the descriptor: std's stderr has a lock, and a thread that hangs with it would block each `eprintln!`.
        let stderr = io::stderr().as_fd().try_clone_to_owned().ok().map(File::from);
        let kind = stderr.as_ref().and_then(|file| file.metadata().ok());
        let look = if stream_of_stderr().is_some() {
            Look::Stream
        } else if io::stderr().is_terminal() {
            let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
                || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
            Look::Terminal { colour: !plain }
        } else if kind.is_some_and(|data| !data.file_type().is_fifo() && !data.file_type().is_socket() && data.st_nlink() > 0) {
            Look::File
        } else {
            Look::Pipe
        };
        Lines { stderr, look }
    }

    fn write(&mut self, instance: &str, record: &Record) {
        let Some(stderr) = &mut self.stderr else { return };
        let text = line(self.look, instance, record, SystemTime::now());
        // One write for each record, so that lines of several processes do not mix. An error is ignored, because it could be
        // reported only on stderr.
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match stderr.write(rest) {
                Ok(0) => return,
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process (a shell, a worker) has made the open file description non-blocking: wait here, on this thread.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [rustix::event::PollFd::new(stderr, rustix::event::PollFlags::OUT)];
                    if rustix::event::poll(&mut fds, None).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// The record as text with a line feed at its end. Further lines of a message are indented.
pub(super) fn line(look: Look, instance: &str, record: &Record, now: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(now).ok();
    let mut out = match look {
        Look::Stream => format!("<{}>", record.level as u8),
        Look::Pipe => String::new(),
        Look::File => time.map_or_else(String::new, |time| format!("{time:.3} ")),
        Look::Terminal { .. } => {
            time.map_or_else(String::new, |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S ").to_string())
        }
    };
    if look != Look::Stream {
        let (on, off) = match (look, record.level) {
            (Look::Terminal { colour: true }, Level::Error) => ("\x1b[1;31m", "\x1b[0m"),
            (Look::Terminal { colour: true }, Level::Warning) => ("\x1b[33m", "\x1b[0m"),
            (Look::Terminal { colour: true }, Level::Debug) => ("\x1b[2m", "\x1b[0m"),
            _ => ("", ""),
        };
        let word = match record.level {
            Level::Error => " error",
            Level::Warning => " warning",
            Level::Info => "",
            Level::Debug => " debug",
        };
        out.push_str(&format!("{on}{instance}{word}:{off} "));
    }
    for (n, text) in record.message.split('\n').filter(|text| !text.trim().is_empty()).enumerate() {
        if n > 0 {
            // journald makes an entry of each line, and needs the level in each.
            out.push('\n');
            out.push_str(&if look == Look::Stream { format!("<{}>  ", record.level as u8) } else { "  ".to_owned() });
        }
        out.push_str(&one_line(text.as_bytes(), LINE_MAX));
    }
    out.push('\n');
    out
}
