//! Runs a hook or a check to its end, and keeps its output as the explanation of a failure.
//!
//! Law: never on the loop; limited in time and in output; no process of the command is left behind.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::master::output::Tail;
use crate::master::releases::account::{Account, VARIABLES};
use crate::master::releases::release::Pinned;
use crate::pool::{ExitCause, Reason, Span};
use crate::status::error_line::error_line;
use crate::sys::awaited::{spawn_awaited, with_no_signal_blocked};
use crate::sys::process::PidFd;
use crate::sys::spawn::become_user;

/// Bytes that are kept of the beginning of the output, and bytes that are kept of its end; the output in between is read and
/// dropped.
const OUTPUT_MAX: usize = 4096;

/// Ends a command that runs on another thread.
#[derive(Clone, Debug)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
}

impl Cancel {
    /// Makes a new handle.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> std::io::Result<Cancel> {
        Ok(Cancel { flag: Arc::default(), wake: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?) })
    }

    /// Ends the running command, and those that would run next.
    pub fn cancel(&self) {
        if !self.flag.swap(true, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command could not be started.
    Start(String),
    /// The command failed; how it exited, and its output.
    Ended(ExitCause, String),
    /// The command ran for longer than this limit; its output.
    TimedOut(Duration, String),
    /// The result is not needed any more.
    Cancelled,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Start(why) => f.write_str(why),
            Failure::Ended(how, said) => write!(f, "{how}{}", CommandOutput(said)),
            Failure::TimedOut(after, said) => write!(f, "not finished after {}{}", Span(*after), CommandOutput(said)),
            Failure::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl Failure {
    /// The exit status, if the command has ended with one.
    pub fn status(&self) -> Option<i32> {
        match self {
            Failure::Ended(ExitCause::Exit(status), _) => Some(*status),
            _ => None,
        }
    }

    /// The reason why the reload is refused. `what` has failed: the key, the program and the user.
    pub fn reason(self, what: &str) -> Reason {
        let (why, said) = match self {
            Failure::Ended(how, said) => (how.to_string(), said),
            Failure::TimedOut(after, said) => (format!("not finished after {}", Span(after)), said),
            Failure::Start(_) | Failure::Cancelled => (self.to_string(), String::new()),
        };
        let mut printed = Tail::default();
        said.lines().for_each(|line| printed.push(line.as_bytes()));
        let output = printed.printed().lines();
        Reason { cause: format!("{what}: {why}"), detail: error_line(&output), output, worker: None }
    }
}

/// The output of a command, in a message behind how the command ended.
struct CommandOutput<'a>(&'a str);

impl fmt::Display for CommandOutput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim() {
            "" => Ok(()),
            text => write!(f, ": {text}"),
        }
    }
}

/// Runs a command to its end in the pinned directory, as this account. It reads `input` from standard input, or nothing.
///
/// # Errors
/// The program was not found, exited with a status other than 0, or took too long; the error has its output.
pub fn run(
    argv: &[String],
    pinned: &Pinned,
    account: &Account,
    env: &[(String, String)],
    input: Option<&str>,
    limit: Duration,
    cancel: &Cancel,
) -> Result<(), Failure> {
    if cancel.flag.load(Ordering::SeqCst) {
        return Err(Failure::Cancelled);
    }
    let mut command = Command::new(pinned.program.path());
    command.args(&argv[1..]).current_dir(&pinned.directory_path).stdin(match input {
        Some(input) => readable(input).map_err(|error| Failure::Start(error.to_string()))?,
        None => Stdio::null(),
    });
    for name in VARIABLES.into_iter().filter(|name| account.hides(name)) {
        command.env_remove(name);
    }
    command.envs(account.variables());
    if let Some(identity) = account.identity() {
        become_user(&mut command, identity);
    }
    with_no_signal_blocked(&mut command);
    finish(command, env, limit, cancel).map(drop)
}

/// A file in memory with this text, to be read from its beginning.
fn readable(text: &str) -> std::io::Result<Stdio> {
    let mut file = File::from(memfd_create("ratoon-input", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

/// Runs a command, whose stdin is set, to its end, and returns its output.
///
/// # Errors
/// As [`run`].
pub fn finish(mut command: Command, env: &[(String, String)], limit: Duration, cancel: &Cancel) -> Result<String, Failure> {
    let (mut output, writer) = std::io::pipe().map_err(|error| Failure::Start(error.to_string()))?;
    let other = writer.try_clone().map_err(|error| Failure::Start(error.to_string()))?;
    command.stdout(writer).stderr(other);
    for name in crate::master::listeners::sockets::MASTERS_OWN {
        command.env_remove(name);
    }
    command.envs(env.iter().map(|(name, value)| (name, value))).process_group(0);
    let (mut child, _awaited) = spawn_awaited(&mut command)
        .map_err(|error| Failure::Start(error.raw_os_error().map_or_else(|| error.to_string(), crate::sys::spawn::describe)))?;
    drop(command);
    let result = watch(&mut child, &mut output, limit, cancel);
    end(&mut child);
    let said = |kept: Vec<u8>| String::from_utf8_lossy(&kept).into_owned();
    match result {
        (Verdict::Ended(status), kept) if status.success() => Ok(said(kept)),
        (Verdict::Ended(status), kept) => Err(Failure::Ended(how(status), said(kept))),
        (Verdict::TimedOut, kept) => Err(Failure::TimedOut(limit, said(kept))),
        (Verdict::Cancelled, _) => Err(Failure::Cancelled),
    }
}

enum Verdict {
    Ended(ExitStatus),
    TimedOut,
    Cancelled,
}

/// Reads the command's output until the command ends.
fn watch(child: &mut Child, output: &mut std::io::PipeReader, limit: Duration, cancel: &Cancel) -> (Verdict, Vec<u8>) {
    let until = Instant::now() + limit;
    let mut kept = Vec::new();
    let mut open = true;
    let Ok(pidfd) = PidFd::open(child.id()) else { return (child.wait().map_or(Verdict::TimedOut, Verdict::Ended), kept) };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (Verdict::TimedOut, kept);
        }
        let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let reader = if open { output.as_fd() } else { cancel.wake.as_fd() };
        let mut fds = [
            PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(cancel.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(reader, PollFlags::IN),
        ];
        if poll(&mut fds, Some(&wait)).is_err() {
            continue;
        }
        let [ended, cancelled, printed] = fds.map(|fd| !fd.revents().is_empty());
        if cancelled && cancel.flag.load(Ordering::SeqCst) {
            return (Verdict::Cancelled, kept);
        }
        if printed && open {
            open = read_some(output, &mut kept);
        } else if ended {
            // The output of the command itself is read; output that its children still write is not waited for.
            return (child.wait().map_or(Verdict::TimedOut, Verdict::Ended), kept);
        }
    }
}

/// Reads a piece of the output. Returns `false` at the end.
fn read_some(output: &mut std::io::PipeReader, kept: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match output.read(&mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(length) => {
            kept.extend_from_slice(&buffer[..length]);
            if kept.len() > 2 * OUTPUT_MAX {
                let surplus = kept.len() - 2 * OUTPUT_MAX;
                kept.drain(OUTPUT_MAX..OUTPUT_MAX + surplus);
            }
            true
        }
    }
}

/// Kills the command's process group if the command still runs.
fn end(child: &mut Child) {
    let running = child.try_wait().is_ok_and(|status| status.is_none());
    // Until the child is reaped, its pid and so its process group's id cannot be reused.
    if running && let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = child.wait();
    }
}

fn how(status: ExitStatus) -> ExitCause {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCause::Exit(code),
        (None, Some(signal)) => ExitCause::Signal { signal, core: status.core_dumped() },
        (None, None) => ExitCause::Unknown,
    }
}
