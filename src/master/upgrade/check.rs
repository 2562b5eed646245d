//! Asks the next program whether it could go on from this state, before anything depends on it.
//!
//! Law: the next program is run as a child with its later arguments and a copy of the state; it changes nothing. The last line of
//! its output must be `YES`. A program that crashes, hangs, or prints another last line is not executed.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crate::master::log::text::one_line;
use crate::master::releases::command::{self, Cancel};
use crate::master::state::Document;

/// The verb with which the next program is run for the check. A program of the previous release runs this one by the same verb.
pub const VERB: &str = "handover-check";
/// The answer of a program that could go on.
const YES: &str = "ratoon-handover: yes";
/// How long the check may take.
pub const LIMIT: Duration = Duration::from_secs(5);
/// Upper bound of the state's size, bytes.
const STATE_MAX: u64 = 256 << 20;
/// The longest part of a refusal that is shown, bytes.
const REASON_MAX: usize = 500;

/// Asks the program. Blocks, so it never runs on the loop.
///
/// # Errors
/// A sentence that says why the program cannot go on.
pub fn ask(program: &Path, args: &[OsString], state: &OwnedFd, cancel: &Cancel) -> Result<(), String> {
    let shown = program.display();
    // A new open file description, whose offset is 0.
    let stdin = std::fs::File::open(format!("/proc/self/fd/{}", state.as_raw_fd()))
        .map_err(|error| format!("the state cannot be read: {error}"))?;
    let mut command = Command::new(program);
    command.arg(VERB).args(args).stdin(Stdio::from(stdin));
    match command::finish(command, &[], LIMIT, cancel) {
        Ok(said) if said.lines().next_back().is_some_and(|line| line.trim() == YES) => Ok(()),
        Ok(said) if said.trim().is_empty() => Err(format!("{shown} is no ratoon that could take over: it said nothing")),
        Ok(said) => Err(format!("{shown} is no ratoon that could take over: it said {}", one_line(said.as_bytes(), REASON_MAX))),
        Err(failure) => Err(format!("{shown} cannot take over: {}", one_line(failure.to_string().as_bytes(), REASON_MAX))),
    }
}

/// The asked program's side: reads the state from stdin and says whether it could go on.
pub fn answer() -> ExitCode {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(STATE_MAX).read_to_end(&mut bytes).map_err(|error| error.to_string());
    match read.and_then(|_| Document::read(&bytes)).and_then(|document| super::restore::can_restore(document.state)) {
        Ok(()) => {
            let said = writeln!(std::io::stdout(), "{YES}");
            if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{why}{}", advice(&bytes).unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

/// A hint for a state that this program cannot read. The state has its instance's name in every format; `None` when there is none.
fn advice(state: &[u8]) -> Option<String> {
    let state: serde_json::Value = serde_json::from_slice(state).ok()?;
    let instance =
        state.get("state")?.get("instance")?.as_str().filter(|name| crate::control::paths::check_name(name).is_ok())?;
    Some(format!(": restart the service once: systemctl restart ratoon@{instance}"))
}

#[cfg(test)]
mod tests {
    use super::advice;

    #[test]
    fn advice_names_the_unit_of_the_state() {
        assert!(advice(br#"{"format":1,"state":{"instance":"web"}}"#).unwrap().ends_with("systemctl restart ratoon@web"));
        for state in [&b"nonsense"[..], b"{}", br#"{"state":{"instance":"a; rm -r /"}}"#, br#"{"state":{"instance":7}}"#] {
            assert_eq!(advice(state), None);
        }
    }
}
