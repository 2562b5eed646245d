//! D-Bus: an instance owns `org.ratoon1.NAME`, queues for `org.ratoon1`, and answers reads and changes there (docs/contract.md §5).
//!
//! Law: the bus is optional. The front end logs and survives an absent bus, a restart of the bus, a refused name, and every message of
//! a caller. It never blocks the master's loop, and never wakes the process while the bus is quiet.
//!
//! zbus is the transport and the wire format. Its object server is not used, for three reasons. With it a worker object costs 1.1 KiB
//! of memory (measured with 1,000), which is all that the master may spend on a worker. A client that lists the objects makes it
//! request the status document once for each property. And it accepts surplus arguments. Here a worker is a row with its last
//! published state, and one table (`call`) has the methods with the types of their arguments. The introspection text is the shipped
//! file itself (`introspect`).
//!
//! | file | owns |
//! |---|---|
//! | `link` | the connection: the first one, and a new one after a restart of the bus |
//! | `wire` | the socket |
//! | `address`, `appear` | the choice of the bus; the wait for its socket without polling |
//! | `names` | the two names, and the hint when they are refused |
//! | `serve` | one connection: calls, changes of workers and reloads, changes of the summary |
//! | `call`, `answer` | reading a call; answering it |
//! | `introspect` | the introspection data of the objects |
//! | `manager`, `worker`, `log` | the interfaces |
//! | `access` | the check whether a caller may change something |
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

/// The priority of a line for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something does not work as the administrator meant it.
    Warning,
    /// Worth a line in normal times.
    Info,
}

/// The function that takes lines for the log; must not block.
pub type Log = Arc<dyn Fn(Level, String) + Send + Sync>;

/// The options of the D-Bus front end.
pub struct Options {
    /// The instance's name.
    pub instance: String,
    /// The instance's unit (`ratoon@web.service`), for polkit's rules; `None` when systemd did not start it.
    pub unit: Option<String>,
    /// The master's own user id. This user and root may change the pool.
    pub own_uid: u32,
    /// The bus, see [`Bus::choose`].
    pub bus: Bus,
    /// Whether a missing bus is worth a line in the log: systemd started the master. Elsewhere it is normal.
    pub bus_is_expected: bool,
    /// The function that takes lines for the log.
    pub log: Log,
    /// The settings that `org.freedesktop.LogControl1` reads and sets.
    pub log_control: Arc<dyn LogControl>,
}

/// The running front end.
pub struct Service {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Service {
    /// Ends the front end: answers that the loop has already given are sent (for up to a second), then the connection is closed. The same
    /// happens by itself when the loop's end of `handle` is dropped.
    pub async fn stop(self) {
        self.shared.stop.notify_one();
        let _ = self.task.await;
    }
}

/// Starts the front end as a task of the current runtime. It connects, and connects again, as long as the master lives, even after
/// the [`Service`] is dropped.
pub fn spawn(handle: Handle, options: Options) -> Service {
    let (documents, stop) = (Semaphore::new(DOCUMENTS), Notify::new());
    let shared = Arc::new(Shared { handle, options, documents, stop, said: Mutex::new(None) });
    Service { task: tokio::spawn(link::run(shared.clone())), shared }
}

/// A connection to the bus for the questions of another front end.
///
/// # Errors
/// The reason why there is none.
pub(in crate::control) async fn connect(bus: &Bus) -> Result<zbus::Connection, String> {
    link::connect(&bus.address).await.map_err(|absence| absence.why)
}

/// Number of status documents that are made for callers at once; other calls wait. A client that calls without pause thus takes a
/// share of the loop's time, not all of it.
const DOCUMENTS: usize = 2;

/// The state that all parts of the front end share.
struct Shared {
    handle: Handle,
    options: Options,
    documents: Semaphore,
    stop: Notify,
    /// Time of the last line that [`Shared::say_sometimes`] logged.
    said: Mutex<Option<Instant>>,
}

impl Shared {
    fn say(&self, level: Level, text: String) {
        (self.options.log)(level, text);
    }

    /// Logs at most one such line a minute. For lines that any user of the bus can cause at will.
    fn say_sometimes(&self, text: String) {
        let mut last = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= Duration::from_secs(60)) {
            *last = Some(Instant::now());
            self.say(Level::Warning, text);
        }
    }

    /// Returns when the master ends, or when [`Service::stop`] is called.
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

/// A text without NUL, which D-Bus does not allow. zbus would send a NUL, and the bus would then close the connection.
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// Microseconds since 1970, as D-Bus clients of systemd expect times.
fn microseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The path of the Manager.
const MANAGER_PATH: &str = "/org/ratoon1";
/// The parent path of the workers' objects.
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
