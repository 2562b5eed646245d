//! The command line (docs/contract.md §2): the parser, and one file for each verb.
//!
//! Law: the exit status is 2 for a usage error and for a master that could not be asked, and 1 for a request that was refused. Text
//! from a worker or a master is made safe before it goes to a terminal. A reader that closes the pipe is no error.
#![forbid(unsafe_code)]

mod abort;
mod after_commit;
mod canary_progress;
mod check;
mod comparison;
mod completions;
mod history;
mod init;
mod leftovers;
mod list;
mod logs;
mod pause;
mod probe;
mod progress;
mod promote;
mod recycle;
mod reload;
mod remote;
mod run;
mod scale;
mod schema;
mod screen;
mod status;
mod status_view;
mod table;
mod target;
mod top;
mod undo;
mod upgrade;

use std::process::ExitCode;

pub use completions::{Shell, completions};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use crate::sys::thread::STACK;

/// Exit status when the master could not be asked, and of a usage error.
const COULD_NOT_ASK: u8 = 2;

#[derive(Parser)]
#[command(name = "ratoon", version, about, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Where NAME may be left out, the instance of the unit or worker that runs the command is meant, \
                        else the only one that runs.\n\n\
                        To try it:       ratoon run --workers 2 --listen 127.0.0.1:8080 -- ./server\n\
                        For a service:   ratoon init web -- ./server\n\
                        To deploy:       systemctl reload ratoon@web\n\
                        All of it:       man ratoon, man ratoon.toml, man ratoon-worker")]
struct Cli {
    /// Run the verb on this machine, by ssh; several times for status, list and top
    #[arg(short = 'H', long = "host", value_name = "[USER@]HOST", value_hint = clap::ValueHint::Hostname)]
    hosts: Vec<String>,
    /// The command comes from `ratoon -H` on another machine: end with standard input
    #[arg(long, hide = true)]
    remote: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Be the master of a pool of workers
    #[command(
        after_help = "A worker finds the sockets as its descriptors 3, 4 and so on (LISTEN_FDS), and says READY=1 to NOTIFY_SOCKET when it \
     serves; one that does not is taken with --ready=running. At SIGTERM it finishes what it has accepted.\n\n\
     Signals: HUP reload, TERM drain and exit, TERM again after a second end at once, USR2 upgrade, TTIN and TTOU a worker more or fewer.\n\
     Exit status: 0 after SIGTERM, 1 could not start or gave up, 2 wrong usage."
    )]
    Run(Box<run::Options>),
    /// Bring a new generation of workers; wait for the end and say how it went
    #[command(
        after_help = "Interrupted or killed it withdraws the reload, which is then rolled back unless somebody else waits for it.\n\
     Exit status: 0 committed, 1 refused, rolled back or aborted, 2 could not ask."
    )]
    Reload(reload::Options),
    /// Go back to an earlier release: a reload with the program, environment and configuration that it had
    #[command(
        after_help = "Without GENERATION to the committed one before the current one. `ratoon history` shows which are kept.\n\
     The next reload reads the disk again. Exit status: 0 committed, 1 refused, rolled back or aborted, 2 could not ask."
    )]
    Undo(undo::Options),
    /// Show the committed releases that can be gone back to, newest first
    #[command(after_help = "Exit status: 0, 2 could not ask.")]
    History(history::Options),
    /// Roll back the reload that is under way
    #[command(after_help = "Exit status: 0 rolled back, 1 no reload was under way, 2 could not ask.")]
    Abort(abort::Options),
    /// End the step of the canary that waits, so that the reload goes on
    #[command(after_help = "Exit status: 0 it goes on, 1 no canary waits, 2 could not ask.")]
    Promote(promote::Options),
    /// Show the pool and its workers
    #[command(after_help = "Exit status: 0 a worker is ready, 1 none is, 2 could not ask.")]
    Status(status::Options),
    /// Show the instances of this machine
    #[command(after_help = "Exit status: 0.")]
    List(list::Options),
    /// Show the lines of the master and of its workers in the journal, apart
    #[command(after_help = "Exit status: 0, 1 journalctl failed, 2 could not ask.")]
    Logs(logs::Options),
    /// Change the number of workers
    #[command(
        after_help = "The number is kept over reloads, whatever the load is, until `ratoon scale auto`, or worker.count, worker.min or\n\
     worker.max changes in the configuration.\n\
     Exit status: 0 done, 1 refused, 2 could not ask."
    )]
    Scale(scale::Options),
    /// Replace one worker, or all, within the generation: the new one is ready before the old one drains
    #[command(after_help = "Exit status: 0 begun, 1 refused, 2 could not ask.")]
    Recycle(recycle::Options),
    /// Drain all workers and keep the sockets: connections wait until the instance resumes
    #[command(after_help = "It waits until the last worker is gone. Interrupted meanwhile it leaves the pause as it is.\n\
     The kernel's queue holds the connections, as many as the socket's backlog has room for; `ratoon status` shows both.\n\
     Exit status: 0 paused, 1 refused, or resumed before, 2 could not ask.")]
    Pause(pause::Options),
    /// Serve again after a pause, with the release that ran before
    #[command(after_help = "Exit status: 0 begun, 1 the instance is not paused, 2 could not ask.")]
    Resume(pause::ResumeOptions),
    /// Replace the master's own program in place; the workers go on
    #[command(after_help = "Exit status: 0 done, 1 refused and the old program goes on, 2 could not ask.")]
    Upgrade(upgrade::Options),
    /// Be asked by a master whether this program could go on from its state (on standard input)
    #[command(name = crate::master::UPGRADE_CHECK, hide = true)]
    UpgradeCheck(Box<run::Options>),
    /// Drop descriptors that workers send to the master (over standard input)
    #[command(name = crate::sys::discard::VERB, hide = true)]
    DiscardDescriptors,
    /// End what a unit with `survive.conf` has left (for its ExecStopPost=, and for ratoon-leftovers@.service)
    #[command(hide = true)]
    Leftovers(leftovers::Options),
    /// Watch the pool live in the terminal
    #[command(after_help = "Keys: h lists them, q leaves.\nExit status: 0, 2 could not ask.")]
    Top(top::Options),
    /// Write what a new instance needs: its configuration, and drop-ins for its units
    #[command(
        after_help = "It overwrites nothing. As a user who is not root it writes for systemctl --user, below ~/.config.\n\n\
     For example:   ratoon init web --listen 8080 --directory /srv/web/current -- ./server\n\
     Exit status: 0 written, 1 nothing was written, 2 wrong usage."
    )]
    Init(init::Options),
    /// Print the JSON Schema of the configuration, for editors of TOML
    #[command(after_help = "For example:   ratoon schema >ratoon.schema.json\n\
     and as the first line of the configuration:   #:schema ./ratoon.schema.json\n\
     Exit status: 0.")]
    Schema,
    /// Read a configuration and say what is wrong with it, with line and column, and with what it names on this machine
    #[command(after_help = "Run by root it checks as the users who will need users, directories, programs and files.\n\
     With --probe a NAME may stand for FILE: its master probes the release that a reload would start, and touches nothing else.\n\
     Exit status: 0 fine, 1 not.")]
    Check(check::Options),
    /// Print the completion script of a shell
    #[command(after_help = "For example:   ratoon completions bash >~/.local/share/bash-completion/completions/ratoon\n\
     Packages install them. Exit status: 0.")]
    Completions(completions::Options),
}

/// The parser's description of the command line, for completions, without the verbs that only programs call.
fn command() -> clap::Command {
    let all = <Cli as clap::CommandFactory>::command();
    let verbs: Vec<_> = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect();
    let options: Vec<_> = all.get_arguments().filter(|option| !option.is_hide_set()).cloned().collect();
    let command = clap::Command::new("ratoon").version(env!("CARGO_PKG_VERSION")).propagate_version(true);
    command.disable_help_subcommand(true).args(options).subcommands(verbs)
}

/// Reads the command line and runs its verb.
pub fn main() -> ExitCode {
    // With SIGCHLD ignored by the parent, wait(2) would not report the exit of the programs that are run here.
    crate::sys::signals::reset_ignored([libc::SIGCHLD]);
    let cli = Cli::try_parse().unwrap_or_else(|error| usage(&error));
    if !cli.hosts.is_empty() {
        return remote::run(&cli.hosts, &cli.verb);
    }
    if cli.remote {
        remote::end_with_input();
    }
    match cli.verb {
        Verb::Run(options) => run::run(*options),
        Verb::Reload(options) => ask(reload::run(options)),
        Verb::Undo(options) => ask(undo::run(options)),
        Verb::History(options) => ask(history::run(options)),
        Verb::Abort(options) => ask(abort::run(options)),
        Verb::Promote(options) => ask(promote::run(options)),
        Verb::Status(options) => ask(status::run(options)),
        Verb::List(options) => ask(list::run(options)),
        Verb::Logs(options) => ask(logs::run(options)),
        Verb::Scale(options) => ask(scale::run(options)),
        Verb::Recycle(options) => ask(recycle::run(options)),
        Verb::Pause(options) => ask(pause::run(options)),
        Verb::Resume(options) => ask(pause::resume(options)),
        Verb::Upgrade(options) => ask(upgrade::run(options)),
        Verb::Top(options) => ask(top::run(options)),
        Verb::Init(options) => init::run(options),
        // The options are not used, but that they can be parsed is part of the check.
        Verb::UpgradeCheck(_) => crate::master::upgrade_check(),
        Verb::DiscardDescriptors => crate::sys::discard::main().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        Verb::Leftovers(options) => leftovers::run(&options),
        Verb::Schema => schema::run(),
        Verb::Check(options) if options.probes_instance() => ask(probe::ask(options)),
        Verb::Check(options) => check::run(&options),
        Verb::Completions(options) => completions::run(&options),
    }
}

/// Prints the usage error and exits 2; for help and version prints them and exits 0.
fn usage(error: &clap::Error) -> ! {
    let words: Vec<String> = std::env::args().collect();
    let invalid = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::UnknownArgument => Some(word.as_str()),
        _ => None,
    };
    match invalid.and_then(|word| with_dashes(&words, word)) {
        Some(line) => {
            screen::complain(&format!(
                "error: the command of the workers stands after --; write\n\n    {}",
                screen::clean(&line)
            ));
            std::process::exit(i32::from(COULD_NOT_ASK))
        }
        None => error.exit(),
    }
}

/// The command line with `--` before `word`, if `word` is probably the beginning of the workers' command.
fn with_dashes(words: &[String], word: &str) -> Option<String> {
    let takes_command = words.get(1).is_some_and(|verb| matches!(verb.as_str(), "run" | "init"));
    if !takes_command || word.starts_with('-') || words.iter().any(|word| word == "--") {
        return None;
    }
    let at = words.iter().rposition(|it| it == word).filter(|at| *at > 1)?;
    let shown = |words: &[String]| words.iter().map(|word| check::shown(word)).collect::<Vec<_>>().join(" ");
    Some(format!("ratoon {} -- {}", shown(&words[1..at]), shown(&words[at..])))
}

/// Runs a verb of the client; returns its exit status, or prints why the master could not be asked.
fn ask(verb: impl Future<Output = Result<ExitCode, String>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().thread_stack_size(STACK).build() {
        Ok(runtime) => runtime,
        Err(error) => return could_not_ask(&format!("cannot set up input and output: {error}")),
    };
    match runtime.block_on(verb) {
        Ok(status) => status,
        Err(sentence) => could_not_ask(&sentence),
    }
}

fn could_not_ask(sentence: &str) -> ExitCode {
    screen::complain(&format!("ratoon: {sentence}"));
    ExitCode::from(COULD_NOT_ASK)
}

/// Prints the outcome of a change that is answered with `done` or `failed`; returns the exit status.
fn changed(outcome: crate::control::messages::ChangeMessage, done: &str) -> ExitCode {
    if outcome.result == "done" {
        screen::say(done);
        return ExitCode::SUCCESS;
    }
    screen::complain(&format!("ratoon: {}", screen::clean(&outcome.reason)));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_dashes_puts_them_before_the_command() {
        let line = |text: &str, word: &str| with_dashes(&text.split(' ').map(str::to_owned).collect::<Vec<_>>(), word);
        let run = "ratoon run --workers 2 ./server --port 80";
        assert_eq!(line(run, "./server").as_deref(), Some("ratoon run --workers 2 -- ./server --port 80"));
        assert_eq!(line("ratoon init web ./server", "./server").as_deref(), Some("ratoon init web -- ./server"));
        assert_eq!(line("ratoon run --wrokers 2", "--wrokers"), None);
        assert_eq!(line("ratoon status web api", "api"), None);
        assert_eq!(line("ratoon run web -- ./server", "web"), None);
    }

    #[test]
    fn completions_offer_no_hidden_verb() {
        assert!(command().get_subcommands().all(|verb| !verb.is_hide_set()));
        assert!(command().find_subcommand("status").is_some() && command().find_subcommand("leftovers").is_none());
    }
}
