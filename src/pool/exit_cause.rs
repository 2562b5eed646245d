//! How a worker ended, and the text for it: `exit 1`, `signal SIGSEGV (core dumped)`, `start timeout after 10s` …

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCause {
    /// The main process exited with this status.
    Exit(i32),
    /// A signal ended the main process.
    Signal {
        /// The signal's number.
        signal: i32,
        /// The process dumped core.
        core: bool,
    },
    /// The program was never executed: the step that failed, and why (`exec: No such file or directory`).
    NotStarted(String),
    /// The kernel killed the worker because of its memory use.
    OutOfMemory,
    /// The worker was not ready within this time.
    StartTimeout(Duration),
    /// The worker did not stop within this time.
    StopTimeout(Duration),
    /// The worker's watchdog timeout expired, or the worker sent `WATCHDOG=trigger`.
    Watchdog,
    /// The worker sent `STOPPING=1` before it was ready, or less than `restart.initial` after that in a slot that had failed before; then
    /// the worker ended cleanly.
    Left,
    /// The worker ended while no master was there to see how.
    Unknown,
}

impl ExitCause {
    /// All values of [`ExitCause::cause`].
    pub const CAUSES: [&str; 9] =
        ["exit", "signal", "not-started", "out-of-memory", "start-timeout", "stop-timeout", "watchdog", "left", "unknown"];

    /// The kind of the end, for counters such as the metrics.
    pub fn cause(&self) -> &'static str {
        let number = match self {
            ExitCause::Exit(_) => 0,
            ExitCause::Signal { .. } => 1,
            ExitCause::NotStarted(_) => 2,
            ExitCause::OutOfMemory => 3,
            ExitCause::StartTimeout(_) => 4,
            ExitCause::StopTimeout(_) => 5,
            ExitCause::Watchdog => 6,
            ExitCause::Left => 7,
            ExitCause::Unknown => 8,
        };
        Self::CAUSES[number]
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitCause::Exit(status) => write!(f, "exit {status}"),
            ExitCause::Signal { signal, core } => {
                write!(f, "signal {}{}", SignalName(*signal), if *core { " (core dumped)" } else { "" })
            }
            ExitCause::NotStarted(why) => f.write_str(why),
            ExitCause::OutOfMemory => f.write_str("killed: out of memory"),
            ExitCause::StartTimeout(after) => write!(f, "start timeout after {}", Span(*after)),
            ExitCause::StopTimeout(after) => write!(f, "stop timeout after {}", Span(*after)),
            ExitCause::Watchdog => f.write_str("watchdog"),
            ExitCause::Left => f.write_str("left at once (STOPPING=1)"),
            ExitCause::Unknown => f.write_str("unknown"),
        }
    }
}

/// Formats a duration as in the configuration: `10s`, `500ms`, `1min 30s`.
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        let mut gap = "";
        for (unit, size) in [("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)] {
            let amount = rest / size;
            rest %= size;
            if amount > 0 {
                write!(f, "{gap}{amount}{unit}")?;
                gap = " ";
            }
        }
        Ok(())
    }
}

/// Formats a signal number as its name in `signal(7)` on Linux.
struct SignalName(i32);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 32] = [
            "0", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
            "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH",
            "IO", "PWR", "SYS",
        ];
        match self.0 {
            number @ 1..=31 => write!(f, "SIG{}", NAMES[number as usize]),
            number @ 34..=64 => write!(f, "SIGRTMIN+{}", number - 34),
            number => write!(f, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_said_as_the_contract_has_it() {
        let said = |how: ExitCause| how.to_string();
        assert_eq!(said(ExitCause::Exit(1)), "exit 1");
        assert_eq!(said(ExitCause::Signal { signal: 11, core: true }), "signal SIGSEGV (core dumped)");
        assert_eq!(said(ExitCause::Signal { signal: 9, core: false }), "signal SIGKILL");
        assert_eq!(said(ExitCause::Signal { signal: 36, core: false }), "signal SIGRTMIN+2");
        assert_eq!(said(ExitCause::StartTimeout(Duration::from_secs(10))), "start timeout after 10s");
        assert_eq!(said(ExitCause::StopTimeout(Duration::from_millis(90_500))), "stop timeout after 1min 30s 500ms");
        assert_eq!(said(ExitCause::NotStarted("exec: No such file or directory".into())), "exec: No such file or directory");
        assert_eq!(said(ExitCause::OutOfMemory), "killed: out of memory");
        assert_eq!(said(ExitCause::Watchdog), "watchdog");
    }
}
