//! The moment itself: execve(2) on this side, and what is found on the other.
//!
//! Law: the state's descriptor, the control socket and the listening sockets are told in the environment too, so that a
//! program that cannot read the state still has what it needs to serve.

use std::ffi::{CString, OsString};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fds::{Incoming, Outgoing};
use super::state::{Document, State};
use crate::master::listeners::sockets::is_masters_own;
use crate::master::output::{RelayState, Settled};
use crate::master::turn::Master;
use crate::sys::fd::{RESERVED_FD_BASE, dup_high, inherited, open_numbers};
use crate::sys::{exec, map};

/// What tells a program that it goes on where another was: `PID:FD:C6:K7:L5=http:L8=admin`, the process, the state, the
/// control socket, its lock, the listening sockets with their names.
const VARIABLE: &str = "RATOON_STATE";
/// So long the log may take before.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// More than any state has, bytes.
const STATE_MAX: u64 = 256 << 20;
/// Names of descriptors that are told in the environment too.
pub const CONTROL: &str = "control";
/// See [`CONTROL`].
pub const LOCK: &str = "lock";

/// Where the program of this process is found, also after a package has replaced it: as it was started, else where it is.
pub fn program() -> PathBuf {
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| PathBuf::from("/usr/bin/ratoon"));
    let identity = |path: &Path| {
        std::fs::metadata(path).map(|it| (std::os::unix::fs::MetadataExt::dev(&it), std::os::unix::fs::MetadataExt::ino(&it)))
    };
    let named =
        std::env::args_os().next().filter(|name| name.as_bytes().contains(&b'/')).and_then(|name| std::path::absolute(name).ok());
    // A name that somebody made up leads elsewhere.
    named
        .filter(|named| identity(named).is_ok_and(|it| identity(Path::new("/proc/self/exe")).is_ok_and(|own| own == it)))
        .unwrap_or(own)
}

/// What stood behind `ratoon run`.
///
/// # Errors
/// The master was not started so.
pub fn arguments_of_run() -> Result<Vec<OsString>, String> {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(verb) if verb == "run" => Ok(args.collect()),
        verb => Err(format!("the master was not started as `ratoon run …` but with {verb:?}")),
    }
}

/// The state as a file in memory that nobody can change.
pub fn document(state: State, fds: &Outgoing<'_>) -> Result<OwnedFd, String> {
    let document = Document::new(state, fds.numbers());
    map::document("ratoon-state", &document.write()?).map_err(|error| format!("no memory for the state: {error}"))
}

impl Master {
    /// Lets the program that is installed go on in this process. Returns only when that fails, and why; then all is as
    /// before. `settled`: see [`Master::prepare_to_go`].
    pub(in crate::master) async fn replace(&mut self, settled: Settled) -> String {
        self.last_turns().await;
        for error in self.errors.drain() {
            self.spawn_errors.insert(error.tag, error);
        }
        for (_, error) in self.spawn_errors.drain() {
            self.errors.put_back(&error);
        }
        self.journal.flush(FLUSH_TIMEOUT);
        let handed = match self.outputs.handed(settled) {
            Ok(handed) => handed,
            Err(error) => return format!("no descriptor is left: {error}"),
        };
        let why = self.execute(&handed);
        self.outputs.take_over(handed);
        why
    }

    fn execute(&self, handed: &RelayState) -> String {
        let mut fds = Outgoing::default();
        let mut made = || -> Result<String, String> {
            let state = self.save(Some(handed), &mut fds).map_err(|error| error.to_string())?;
            let names: Vec<String> = state.listeners.iter().map(|listener| listener.name.clone()).collect();
            let document = document(state, &fds)?;
            let variable = variable(document.as_raw_fd(), &fds, &names);
            fds.give("state".to_owned(), document);
            Ok(variable)
        };
        let variable = match made() {
            Ok(variable) => variable,
            Err(why) => return why,
        };
        let text = |text: &std::ffi::OsStr| CString::new(text.as_bytes()).ok();
        let Some(path) = text(self.program.as_os_str()) else { return "the program's path holds a NUL".to_owned() };
        let argv: Vec<CString> = std::env::args_os().filter_map(|argument| text(&argument)).collect();
        let env = std::env::vars_os().filter(|(name, _)| !is_of_the_start(name));
        let env = env.filter_map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(&name)
        });
        let env: Vec<CString> = env.chain(CString::new(format!("{VARIABLE}={variable}")).ok()).collect();
        let error = exec::replace(&path, &argv, &env, &fds.all());
        format!(
            "{}: {}",
            self.program.display(),
            error.raw_os_error().map_or_else(|| error.to_string(), crate::sys::spawn::describe)
        )
    }
}

/// What was true at the first start only. What systemd says to a master holds on: where it listens, the watchdog.
fn is_of_the_start(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| is_masters_own(name) && (name.starts_with("LISTEN_") || name == VARIABLE))
}

fn variable(state: RawFd, fds: &Outgoing<'_>, names: &[String]) -> String {
    let numbers = fds.numbers();
    let mut variable = format!("{}:{state}", std::process::id());
    for (letter, name) in [('C', CONTROL), ('K', LOCK)] {
        if let Some(number) = numbers.get(name) {
            variable.push_str(&format!(":{letter}{number}"));
        }
    }
    for (index, name) in names.iter().enumerate() {
        if let Some(number) = numbers.get(&format!("listener-{index}")) {
            variable.push_str(&format!(":L{number}={}", name.replace(':', "_")));
        }
    }
    variable
}

/// What another program of this process has left.
pub struct Left {
    /// The state, or why it can't be read.
    pub state: Result<(State, String), String>,
    /// The descriptors: all of them, or those that the environment names.
    pub fds: Incoming,
    /// The listening sockets' names, as the environment has them.
    pub names: Vec<String>,
}

/// Takes it, if there is something. Before any descriptor is opened.
pub fn left() -> Option<Left> {
    let variable = std::env::var(VARIABLE).ok()?;
    let mut parts = variable.split(':');
    if parts.next()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let number: RawFd = parts.next()?.parse().ok()?;
    let mut essentials = std::collections::BTreeMap::new();
    let mut names = Vec::new();
    for part in parts {
        let (Some(letter), Some(rest)) = (part.get(..1), part.get(1..)) else { continue };
        let (fd, name) = rest.split_once('=').unwrap_or((rest, ""));
        let Ok(fd) = fd.parse::<RawFd>() else { continue };
        match letter {
            "C" => drop(essentials.insert(CONTROL.to_owned(), fd)),
            "K" => drop(essentials.insert(LOCK.to_owned(), fd)),
            "L" => {
                essentials.insert(format!("listener-{}", names.len()), fd);
                names.push(name.to_owned());
            }
            _ => {}
        }
    }
    let state =
        inherited(number).map_err(|error| format!("the state's descriptor {number}: {error}")).and_then(|fd| read(fd.into()));
    let numbers = state.as_ref().map_or(&essentials, |document| &document.descriptors);
    let fds = Incoming::by_number(numbers);
    if state.is_err() {
        // What is not known by name is still somebody's: a pipe that nobody has open any more kills who writes to it.
        keep_the_unknown();
    }
    Some(Left { state: state.map(|document| (document.state, document.version)), fds, names })
}

fn read(file: std::fs::File) -> Result<Document, String> {
    let mut bytes = Vec::new();
    let mut file =
        std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|error| error.to_string())?.take(STATE_MAX);
    file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Document::read(&bytes)
}

fn keep_the_unknown() {
    for fd in open_numbers().into_iter().filter_map(|number| inherited(number).ok()) {
        std::mem::forget(dup_high(fd, RESERVED_FD_BASE));
    }
}
