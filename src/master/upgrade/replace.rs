//! execve(2) into the installed program, and the takeover after it.
//!
//! Law: the environment, too, has the descriptors of the state, the control socket and the listening sockets, so that a program
//! that cannot read the state still has the sockets that it needs to serve.

use std::ffi::{CString, OsString};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::master::Master;
use crate::master::listeners::sockets::is_masters_own;
use crate::master::output::{RelayState, Settled};
use crate::master::state::fds::{Incoming, Outgoing};
use crate::master::state::{CONTROL, Document, LOCK, State};
use crate::sys::fd::{RESERVED_FD_BASE, dup_high, inherited, open_numbers};
use crate::sys::{exec, map};

/// Environment variable by which a program knows that it goes on from another one: `PID:FD:C6:K7:L5=http:L8=admin`, that is the
/// pid, then the descriptors of the state, the control socket, its lock, and the listening sockets with their names.
const VARIABLE: &str = "RATOON_STATE";
/// How long the log may take to be written before execve(2).
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Upper bound of the state's size, bytes.
const STATE_MAX: u64 = 256 << 20;

/// The path of this process's program, valid also after a package has replaced the file: `argv[0]` where it leads to this program,
/// else the path of `/proc/self/exe`.
pub fn program() -> PathBuf {
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| PathBuf::from("/usr/bin/ratoon"));
    let identity = |path: &Path| {
        std::fs::metadata(path).map(|it| (std::os::unix::fs::MetadataExt::dev(&it), std::os::unix::fs::MetadataExt::ino(&it)))
    };
    let named =
        std::env::args_os().next().filter(|name| name.as_bytes().contains(&b'/')).and_then(|name| std::path::absolute(name).ok());
    // `argv[0]` may be any text: use it only if it leads to the running program.
    named
        .filter(|named| identity(named).is_ok_and(|it| identity(Path::new("/proc/self/exe")).is_ok_and(|own| own == it)))
        .unwrap_or(own)
}

/// The arguments after `ratoon run`.
///
/// # Errors
/// The master was not started as `ratoon run`.
pub fn arguments_of_run() -> Result<Vec<OsString>, String> {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(verb) if verb == "run" => Ok(args.collect()),
        verb => Err(format!("the master was not started as `ratoon run …` but with {verb:?}")),
    }
}

/// Writes the state to a sealed memory file.
pub fn document(state: State, fds: &Outgoing<'_>) -> Result<OwnedFd, String> {
    let document = Document::new(state, fds.numbers());
    map::document("ratoon-state", &document.write()?).map_err(|error| format!("no memory for the state: {error}"))
}

impl Master {
    /// Executes the installed program in this process. Returns only on failure, with the reason; the master then goes on as before.
    /// `settled`: see [`Master::prepare_to_go`].
    pub(in crate::master) async fn replace(&mut self, settled: Settled) -> String {
        self.last_turns().await;
        self.workers.return_spawn_errors();
        self.log.journal().flush(FLUSH_TIMEOUT);
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
        let Some(path) = text(self.upgrader.program().as_os_str()) else { return "the program's path holds a NUL".to_owned() };
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
            self.upgrader.program().display(),
            error.raw_os_error().map_or_else(|| error.to_string(), crate::sys::spawn::describe)
        )
    }
}

/// Variables that hold at the first start only. Variables from systemd that hold on (`NOTIFY_SOCKET`, the watchdog) are kept.
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

/// The state and descriptors that the earlier program of this process left.
pub struct Left {
    /// The state and the earlier program's version, or why the state cannot be read.
    pub state: Result<(State, String), String>,
    /// All descriptors of the state, or, without a state, those that the environment names.
    pub fds: Incoming,
    /// The names of the listening sockets, from the environment.
    pub names: Vec<String>,
}

/// Takes the state and descriptors of the earlier program, if there was one. Call before any descriptor is opened.
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
        // Keep descriptors without a known name open: a worker that writes to a pipe without a reader is killed by SIGPIPE.
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
