//! `ratoon check FILE`: reads a configuration and says what is wrong with it, or what it would run.
//!
//! Beyond the file, it checks what the file names on this machine, as the users who will need it: the service's user reads files
//! and runs hooks, the worker's user enters the directory and executes the program.

mod machine;
mod service;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::probe;
use super::screen::complain;
use super::target::{self, Control};
use crate::config::{self, Config};
use crate::control::client::Client;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The configuration; with --probe also an instance
    #[arg(required_unless_present = "probe")]
    file: Option<PathBuf>,
    /// User as whom the service runs [default: User= of the unit for /etc/ratoon/NAME.toml, else the user who checks]
    #[arg(long, value_hint = clap::ValueHint::Username)]
    user: Option<String>,
    /// Read the file alone, for another machine: no users, directories, programs, environment files
    #[arg(long)]
    file_only: bool,
    /// Start one worker on private sockets and ask it what reload.probe says; with a NAME in place of FILE its master does this
    #[arg(long, conflicts_with = "file_only")]
    probe: bool,
    /// With FILE and --probe: an address that the worker expects to be given, 127.0.0.1:8080 or /run/x.sock
    #[arg(long, value_name = "ADDR", requires = "probe")]
    listen: Vec<String>,
    #[command(flatten)]
    control: Control,
}

impl Options {
    /// Whether the probe of an instance is meant: `ratoon check NAME --probe`.
    pub(super) fn probes_instance(&self) -> bool {
        self.probe
            && self.file.as_ref().is_none_or(|file| {
                let text = file.to_string_lossy();
                !text.contains('/') && !text.ends_with(".toml") && !file.exists()
            })
    }

    /// The client for the instance whose probe is meant.
    pub(super) async fn client(&self) -> Result<Client, String> {
        target::client(self.file.as_deref().and_then(Path::to_str), &self.control).await
    }
}

/// The findings of a check.
#[derive(Default)]
struct Findings {
    /// Faults with which the configuration cannot run.
    errors: Vec<String>,
    /// Dangerous settings, and parts that could not be checked.
    warnings: Vec<String>,
}

/// Prints the errors on stderr (exit 1), or on stdout one line with the command that would run (exit 0).
pub(super) fn run(options: &Options) -> ExitCode {
    let Some(path) = &options.file else { return ExitCode::FAILURE };
    if options.control.is_named() {
        complain("--control names an instance, and only its probe can be asked for: ratoon check --probe --control PATH");
        return ExitCode::from(super::COULD_NOT_ASK);
    }
    let checked = || {
        let user = if options.file_only { None } else { service::user(path, options.user.as_deref())? };
        let found = if options.file_only { file_alone(path) } else { service::check(path, user.as_ref()) };
        found.map(|(line, found)| (user, line, found))
    };
    let (user, line, found) = match checked() {
        Ok(checked) => checked,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let file = path.display();
    found.errors.iter().for_each(|error| complain(&format!("{file}: {error}")));
    found.warnings.iter().for_each(|warning| complain(&format!("{file}: warning: {warning}")));
    if !found.errors.is_empty() {
        return ExitCode::FAILURE;
    }
    // With a closed standard output the line is lost, but the exit status stays.
    let _ = writeln!(std::io::stdout(), "{file}: fine; it would run {line}");
    if !options.probe {
        return ExitCode::SUCCESS;
    }
    let user = user.and_then(|user| Some((service::identity(&user)?, user)));
    probe::run_here(path, &options.listen, user)
}

impl Findings {
    /// The value; an error is added to `errors`.
    fn keep<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.errors.push(error.to_string())).ok()
    }
}

fn file_alone(file: &Path) -> Result<(String, Findings), String> {
    let config = config::load(file).map_err(|error| error.to_string())?;
    Ok((summary(&config), Findings { warnings: warning_of_canary(&config).into_iter().collect(), ..Findings::default() }))
}

/// A warning about a canary on sockets that all workers share.
fn warning_of_canary(config: &Config) -> Option<String> {
    let shared = !config.reload.steps.is_empty() && config.worker.balance == config::Balance::Shared;
    shared.then(|| {
        "reload.steps: with worker.balance = \"shared\" the kernel decides which part of the connections a canary gets, often a small or a large one; \
         the status shows the counted part. It is exact with worker.balance = \"per-slot\""
            .to_owned()
    })
}

/// A summary in one line: `4 workers (one per CPU) of /usr/bin/web --port 80, in /srv/web`.
fn summary(config: &Config) -> String {
    let worker = &config.worker;
    let count = match (worker.workers(), worker.count) {
        (1, Some(_)) => "1 worker".to_owned(),
        (count, Some(_)) => format!("{count} workers"),
        (1, None) => "1 worker (one per CPU)".to_owned(),
        (count, None) => format!("{count} workers (one per CPU)"),
    };
    let command = worker.command.iter().map(|word| shown(word)).collect::<Vec<_>>().join(" ");
    let directory = worker.directory.as_ref().map_or_else(String::new, |directory| format!(", in {}", directory.display()));
    format!("{count} of {command}{directory}")
}

/// A word, in quotes unless all its characters are plain ones for a shell.
pub(super) fn shown(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("{word:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_example() {
        let (said, _) = file_alone(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/web.toml")).unwrap();
        assert!(said.ends_with(" (one per CPU) of /usr/bin/my-server --listen-fd 3"), "{said}");
    }

    #[test]
    fn one_line_of_what_would_run() {
        let summary = |text: &str| summary(&config::parse(text, Path::new("web.toml")).unwrap());
        assert_eq!(
            summary("worker = { command = ['web', 'a b', '', \"c\\nd\"], count = 4, directory = '/srv' }"),
            r#"4 workers of web "a b" "" "c\nd", in /srv"#
        );
        assert_eq!(summary("worker = { command = ['web'], count = 1 }"), "1 worker of web");
    }

    #[test]
    fn canary_on_shared_sockets_is_warned_of() {
        let warning = |text: &str| warning_of_canary(&config::parse(text, Path::new("web.toml")).unwrap());
        let steps = "reload = { steps = ['1'] }\nworker = { command = ['web']";
        assert!(warning(&format!("{steps} }}")).is_some_and(|text| text.contains("per-slot")));
        assert_eq!(warning(&format!("{steps}, balance = 'per-slot' }}")), None);
        assert_eq!(warning("worker = { command = ['web'] }"), None);
    }

    #[test]
    fn an_environment_file_is_read_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("web.toml");
        let text =
            format!("[worker]\ncommand = ['/bin/sh']\ndirectory = '{}'\nenvironment_file = '.env'", directory.path().display());
        std::fs::write(&file, text).unwrap();
        let errors = || service::check(&file, None).unwrap().1.errors.join("\n");
        assert!(errors().contains("/.env: there is no such file"));
        std::fs::write(directory.path().join(".env"), "A=1\nB").unwrap();
        assert!(errors().contains("/.env:2: this line has no"));
        std::fs::write(directory.path().join(".env"), "A=1\nB=2").unwrap();
        assert_eq!(errors(), "");
    }
}
