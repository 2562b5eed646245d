//! Why a worker or a reload failed: the cause, which is public, and separately the text and output of programs.
//!
//! Law: a cause contains no text from a worker, a hook or a check. STATUS, the properties and signals on the bus, `/events` and
//! readers without details get the cause alone; the requester, the log and readers with details get the whole reason.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::exit_cause::ExitCause;
use super::ids::WorkerId;
use super::worker::Phase;

/// How a worker failed, and in which phase: `exit 1 before it was ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// How the worker's main process ended.
    pub how: ExitCause,
    /// The worker's phase when its main process ended.
    pub phase: Phase,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match (&self.how, self.phase) {
            // These texts name the phase themselves, there was no process, or the worker served.
            (ExitCause::StartTimeout(_) | ExitCause::StopTimeout(_) | ExitCause::Left | ExitCause::NotStarted(_), _)
            | (_, Phase::Ready) => "",
            (_, Phase::Starting) => " before it was ready",
            (_, Phase::Draining) => " while it drained",
        };
        write!(f, "{}{when}", self.how)
    }
}

/// Why a reload, or a worker, failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// The cause; every reader may see it.
    pub cause: String,
    /// Text from a program that explains the failure, such as the worker's last status; only for readers with details.
    pub detail: Option<String>,
    /// Lines that a program printed; only for readers with details.
    pub output: Vec<String>,
    /// The worker that failed.
    pub worker: Option<WorkerId>,
}

impl Reason {
    /// The cause, the detail unless it is a line of the output, and the output in one text, for the log.
    pub fn in_full(&self) -> String {
        let detail = self.detail.as_ref().filter(|detail| !self.output.iter().any(|line| line.contains(detail.as_str())));
        let mut text = self.cause.clone();
        if let Some(detail) = detail {
            text += &format!(" ({detail})");
        }
        if !self.output.is_empty() {
            text += &format!(": {}", self.output.join("\n"));
        }
        text
    }
}

impl From<String> for Reason {
    fn from(cause: String) -> Reason {
        Reason { cause, ..Reason::default() }
    }
}

impl From<&str> for Reason {
    fn from(cause: &str) -> Reason {
        cause.to_owned().into()
    }
}

/// Why a worker is recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecycleReason {
    /// A requester asked for it.
    Request,
    /// `recycle.max_age`
    Age,
    /// `recycle.max_memory`
    Memory,
    /// `recycle.max_requests`
    Requests,
    /// Clients no longer reach the worker's listening socket: its address was bound anew for the present master.
    Socket,
}

impl RecycleReason {
    /// Every reason.
    pub const ALL: [RecycleReason; 5] = [Self::Request, Self::Age, Self::Memory, Self::Requests, Self::Socket];

    /// The name in the status document and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Age => "age",
            Self::Memory => "memory",
            Self::Requests => "requests",
            Self::Socket => "socket",
        }
    }

    /// The text for the log.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Request => "on request",
            Self::Age => "recycle.max_age",
            Self::Memory => "recycle.max_memory",
            Self::Requests => "recycle.max_requests",
            Self::Socket => "its listening socket was bound anew",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn cause_says_when_in_a_life_it_was() {
        let said = |how, phase| Cause { how, phase }.to_string();
        assert_eq!(said(ExitCause::Exit(1), Phase::Starting), "exit 1 before it was ready");
        assert_eq!(said(ExitCause::Exit(1), Phase::Ready), "exit 1");
        assert_eq!(said(ExitCause::Signal { signal: 11, core: false }, Phase::Draining), "signal SIGSEGV while it drained");
        assert_eq!(said(ExitCause::StartTimeout(Duration::from_secs(10)), Phase::Starting), "start timeout after 10s");
        let how = ExitCause::NotStarted("not forked: preload process 3: exit 3 before it was ready".to_owned());
        assert_eq!(said(how.clone(), Phase::Starting), how.to_string());
    }

    #[test]
    fn reason_in_full_has_what_a_program_said() {
        let mut reason = Reason::from("reload.check: exit 1");
        assert_eq!(reason.in_full(), "reload.check: exit 1");
        reason.detail = Some("KeyError: 'PORT'".to_owned());
        assert_eq!(reason.in_full(), "reload.check: exit 1 (KeyError: 'PORT')");
        reason.output = vec!["Traceback".to_owned(), "KeyError: 'PORT'".to_owned()];
        assert_eq!(reason.in_full(), "reload.check: exit 1: Traceback\nKeyError: 'PORT'");
    }
}
