//! `ratoon logs [NAME] [SLOT] [-f]`: what the master and the workers have written to the journal, each apart.
//!
//! The lines of the master and those of the workers are separate queries, so that the access log of a busy worker does not push the
//! master's lines out of the last ones. journalctl(1) prints them.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};

use super::remote;
use super::screen::{clean, complain, say};
use super::target::{Control, client};
use crate::control::client::Client;
use crate::sys::credentials::own_uid;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The instance; a single number is a SLOT
    name: Option<String>,
    /// Only the workers of this slot
    #[arg(value_name = "SLOT", value_hint = clap::ValueHint::Other)]
    slot: Option<u32>,
    /// Go on with new lines as they come
    #[arg(long, short)]
    follow: bool,
    /// Number of lines of the master, and as many of the workers
    #[arg(long, short = 'n', value_name = "N", value_hint = clap::ValueHint::Other, default_value_t = 30)]
    lines: u32,
    #[command(flatten)]
    control: Control,
}

/// Exit status 0, also without lines; 1 if journalctl fails, 2 if the instance is not known.
pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let (name, slot) = match (options.name.as_deref().map(str::parse), options.slot) {
        (Some(Ok(number)), None) => (None, Some(number)),
        _ => (options.name.clone(), options.slot),
    };
    let instance = instance(name.as_deref(), &options.control).await?;
    let scope = if own_uid() == 0 || !is_user_instance(&instance) { Scope::System } else { Scope::User };
    let workers = match slot {
        Some(slot) => vec![identifier(&instance, slot)],
        None => worker_identifiers(&instance, &values(scope, "SYSLOG_IDENTIFIER")?),
    };
    // The last lines end here, and those that follow begin.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let last = ["--lines".to_owned(), options.lines.to_string(), format!("--until={}", timestamp(now))];
    let mut failed = false;
    if slot.is_none() {
        say(&format!("master of {}:", clean(&instance)));
        failed |= !print(scope, &last, &master_entries(&instance))?;
        say("\nworkers:");
    }
    match workers.is_empty() {
        true => say("-- No entries --"),
        false => failed |= !print(scope, &last, &worker_entries(&workers))?,
    }
    if !options.follow {
        return Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    let master = if slot.is_some() { Vec::new() } else { master_entries(&instance) };
    let next = [format!("--since={}", timestamp(now + Duration::from_micros(1))), "--follow".to_owned(), "--no-tail".to_owned()];
    let mut command = journalctl(scope, &next, &either(master, worker_entries(&workers)));
    if remote::ends_with_input() {
        return follow(command).await;
    }
    Err(cannot_run(&command.exec()))
}

/// Runs journalctl until it ends, and ends it with this process.
async fn follow(mut command: Command) -> Result<ExitCode, String> {
    let mut terminated = signal(SignalKind::terminate()).map_err(|error| format!("cannot watch for signals: {error}"))?;
    command.stdin(Stdio::null());
    let mut command = tokio::process::Command::from(command);
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| cannot_run(&error))?;
    tokio::select! {
        ended = child.wait() => Ok(if ended.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        _ = terminated.recv() => Ok(ExitCode::FAILURE),
    }
}

/// The journal that has the lines: the system's, or the user's.
#[derive(Clone, Copy)]
enum Scope {
    System,
    User,
}

/// The instance's name: as given, else that of the one that runs.
async fn instance(name: Option<&str>, control: &Control) -> Result<String, String> {
    // The journal has the lines of an instance that does not run any more, too.
    if let (Some(name), false) = (name, control.is_named()) {
        return crate::control::paths::instance_of(name).map(str::to_owned);
    }
    let client: Client = client(name, control).await?;
    Ok(client.summary().await.map_err(|error| error.to_string())?.instance)
}

/// Whether the control socket of this instance is one of the user's own.
fn is_user_instance(instance: &str) -> bool {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(std::path::PathBuf::from);
    own.is_some_and(|own| own.join("ratoon").join(instance).exists())
}

/// The journal's identifier of a slot's workers.
fn identifier(instance: &str, slot: u32) -> String {
    format!("{instance}/{slot}")
}

/// The identifiers of the instance's workers among those that the journal has.
fn worker_identifiers(instance: &str, known: &[String]) -> Vec<String> {
    let is_worker = |identifier: &&String| {
        let slot = identifier.strip_prefix(instance).and_then(|rest| rest.strip_prefix('/'));
        slot.is_some_and(|slot| !slot.is_empty() && slot.bytes().all(|byte| byte.is_ascii_digit()))
    };
    known.iter().filter(is_worker).cloned().collect()
}

/// The matches of the master's own entries.
fn master_entries(instance: &str) -> Vec<String> {
    vec!["SYSLOG_IDENTIFIER=ratoon".to_owned(), format!("RATOON_INSTANCE={instance}")]
}

/// The matches of the entries with one of these identifiers.
fn worker_entries(identifiers: &[String]) -> Vec<String> {
    identifiers.iter().map(|identifier| format!("SYSLOG_IDENTIFIER={identifier}")).collect()
}

/// The matches of entries that fit the one list or the other.
fn either(mut one: Vec<String>, other: Vec<String>) -> Vec<String> {
    if !one.is_empty() && !other.is_empty() {
        one.push("+".to_owned());
    }
    one.extend(other);
    one
}

/// A time since 1970 as systemd.time(7) has it, in microseconds.
fn timestamp(since_1970: Duration) -> String {
    format!("@{}.{:06}", since_1970.as_secs(), since_1970.subsec_micros())
}

fn journalctl(scope: Scope, options: &[String], matches: &[String]) -> Command {
    let mut command = Command::new("journalctl");
    if let Scope::User = scope {
        command.arg("--user");
    }
    command.args(options).args(matches);
    command
}

/// Prints the last lines of these matches; `false` if journalctl failed, which it has said.
fn print(scope: Scope, options: &[String], matches: &[String]) -> Result<bool, String> {
    let status = journalctl(scope, options, matches).arg("--no-pager").stdin(Stdio::null()).status();
    Ok(status.map_err(|error| cannot_run(&error))?.success())
}

/// All values of a field in the journal.
fn values(scope: Scope, field: &str) -> Result<Vec<String>, String> {
    let output = journalctl(scope, &["--field".to_owned(), field.to_owned()], &[])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| cannot_run(&error))?;
    if !output.status.success() {
        complain(&clean(String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn cannot_run(error: &std::io::Error) -> String {
    format!("journalctl cannot be run: {error}; without a journal the lines are where the master's stderr leads to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_known_by_their_identifiers() {
        let known = ["web", "web/0", "web/12", "web/x", "web/", "webshop/0", "api/0"].map(str::to_owned);
        assert_eq!(worker_identifiers("web", &known), ["web/0", "web/12"]);
    }

    #[test]
    fn query_is_of_the_master_and_of_each_identifier() {
        let matches = either(master_entries("web"), worker_entries(&[identifier("web", 0), identifier("web", 3)]));
        let options = ["--follow".to_owned(), format!("--since={}", timestamp(Duration::from_micros(1_700_000_000_000_042)))];
        let command = journalctl(Scope::User, &options, &matches);
        let words: Vec<_> = command.get_args().map(|word| word.to_str().expect("text")).collect();
        assert_eq!(words[..3], ["--user", "--follow", "--since=@1700000000.000042"]);
        let text = "SYSLOG_IDENTIFIER=ratoon RATOON_INSTANCE=web + SYSLOG_IDENTIFIER=web/0 SYSLOG_IDENTIFIER=web/3";
        assert_eq!(words[3..].join(" "), text);
        assert_eq!(either(Vec::new(), worker_entries(&[identifier("web", 3)])), ["SYSLOG_IDENTIFIER=web/3"]);
    }
}
