//! D-Bus: an instance owns `org.ratoon1.NAME`, queues for `org.ratoon1`, and is read and asked there (docs/contract.md §5).
//!
//! Law: the bus is optional. Its absence, its restart, its refusal and whatever a caller sends are said and survived;
//! nothing here blocks the master's loop, and nothing wakes it while the bus is quiet.
//!
//! zbus is the transport and the wire format. Its object server is not used, and the reasons are figures: with it a
//! worker object costs 1.1 KiB of memory (measured with 1,000), all that the master may spend on a worker; a client
//! that lists the objects makes it ask for the status document once for each property; and it accepts surplus
//! arguments. Here a worker is a row of what was last said of it, and one table of methods (`call`) says what may be
//! called with which arguments; the introspection text is the shipped file itself (`introspect`).
//!
//! | file | owns |
//! |---|---|
//! | `link` | being connected: the first time, and again after a restart of the bus |
//! | `wire` | the socket |
//! | `address`, `appear` | which bus; waiting for its socket without looking again and again |
//! | `names` | the two names, and the hint when they are refused |
//! | `serve` | one connection: calls, notices, changes of the summary |
//! | `call`, `answer` | what a call is; who answers it |
//! | `introspect` | what the objects say of themselves |
//! | `manager`, `worker`, `log` | the interfaces |
//! | `access` | who may change something |
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use zbus::Variant;

use crate::api::Handle;

mod access;
mod address;
mod answer;
mod appear;
mod call;
mod introspect;
mod link;
mod log;
mod manager;
mod names;
mod serve;
mod wire;
mod worker;

pub use address::Bus;
pub use log::LogControl;
pub use names::{BASE_NAME, encode};

/// How much a line for the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something does not work as the administrator meant it.
    Warning,
    /// Worth a line in normal times.
    Info,
}

/// Where lines for the log go; must not block.
pub type Log = Arc<dyn Fn(Level, String) + Send + Sync>;

/// What the D-Bus front end has to be told.
pub struct Options {
    /// The instance's name.
    pub instance: String,
    /// The instance's unit (`ratoon@web.service`), for polkit's rules; `None` when systemd did not start it.
    pub unit: Option<String>,
    /// The master's own user, who may change things beside root.
    pub own_uid: u32,
    /// Which bus; see [`Bus::choose`].
    pub bus: Bus,
    /// Where lines for the log go.
    pub log: Log,
    /// What `org.freedesktop.LogControl1` reads and sets.
    pub log_control: Arc<dyn LogControl>,
}

/// The running front end.
pub struct Service {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Service {
    /// Ends it: whoever is owed an answer that the loop has already given gets it (for up to a second), then the
    /// connection is closed. The same happens by itself when the loop's end of `handle` goes away.
    pub async fn stop(self) {
        self.shared.stop.notify_one();
        let _ = self.task.await;
    }
}

/// Starts the front end as a task of the current runtime. It connects by itself, again and again, for as long as the
/// master lives, whether or not the [`Service`] is kept.
pub fn spawn(handle: Handle, options: Options) -> Service {
    let (documents, stop) = (Semaphore::new(DOCUMENTS), Notify::new());
    let shared = Arc::new(Shared { handle, options, documents, stop, said: Mutex::new(None) });
    Service { task: tokio::spawn(link::run(shared.clone())), shared }
}

/// How many callers' status documents are made at once; the others wait. A client that asks and asks then takes a
/// share of the loop, not all of it.
const DOCUMENTS: usize = 2;

/// What all parts of the front end need.
struct Shared {
    handle: Handle,
    options: Options,
    documents: Semaphore,
    stop: Notify,
    /// The last time that a line of [`Shared::say_sometimes`] was said.
    said: Mutex<Option<Instant>>,
}

impl Shared {
    fn say(&self, level: Level, text: String) {
        (self.options.log)(level, text);
    }

    /// For what strangers can cause as often as they like: the log gets one such line a minute.
    fn say_sometimes(&self, text: String) {
        let mut last = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= Duration::from_secs(60)) {
            *last = Some(Instant::now());
            self.say(Level::Warning, text);
        }
    }

    /// Returns when the master ends or no longer wants the bus.
    async fn ending(&self) {
        let mut summary = self.handle.summary();
        let closed = async { while summary.changed().await.is_ok() {} };
        tokio::select! {
            () = closed => {}
            () = self.stop.notified() => {}
        }
    }
}

/// Properties of an object by name, as D-Bus's `a{sv}`.
type Properties<'a> = BTreeMap<&'static str, Variant<'a>>;

/// A text as D-Bus can carry it. A NUL in one would be sent, and the bus would end the connection for it.
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// Microseconds since 1970, as D-Bus clients of systemd expect times.
fn microseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The path of the Manager.
const MANAGER_PATH: &str = "/org/ratoon1";
/// Where the workers' objects are.
const WORKERS_PATH: &str = "/org/ratoon1/worker";
/// The path of LogControl1.
const LOG_PATH: &str = "/org/freedesktop/LogControl1";

const MANAGER: &str = "org.ratoon1.Manager";
const WORKER: &str = "org.ratoon1.Worker";
const LOG_CONTROL: &str = "org.freedesktop.LogControl1";
const OBJECT_MANAGER: &str = "org.freedesktop.DBus.ObjectManager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
const PEER: &str = "org.freedesktop.DBus.Peer";
