//! `ratoon check FILE`: reads a configuration and says what is wrong with it, or what it would run.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::screen::complain;
use crate::config::{self, Config};

/// Says on stderr what is wrong (exit 1), or on stdout in one line what would run (exit 0).
pub fn run(file: &Path) -> ExitCode {
    match check(file) {
        Ok(line) => {
            // Whoever closed our stdout does not want the line; the exit status stands.
            let _ = writeln!(std::io::stdout(), "{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> Result<String, config::Error> {
    let config = config::load(file)?;
    config.environment(config.worker.directory.as_deref().unwrap_or(Path::new("")))?;
    Ok(format!("{}: fine; it would run {}", file.display(), summary(&config)))
}

/// `4 workers (one for each CPU) of /usr/bin/web --port 80, in /srv/web`
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

/// A word as it could be typed into a shell.
fn shown(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("{word:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_example() {
        let said = check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/web.toml")).unwrap();
        assert!(said.contains("examples/web.toml: fine; it would run "), "{said}");
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
    fn an_environment_file_is_read_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("web.toml");
        let text =
            format!("[worker]\ncommand = ['web']\ndirectory = '{}'\nenvironment_file = '.env'", directory.path().display());
        std::fs::write(&file, text).unwrap();
        assert!(check(&file).unwrap_err().to_string().contains("/.env: there is no such file"));
        std::fs::write(directory.path().join(".env"), "A=1\nB").unwrap();
        assert!(check(&file).unwrap_err().to_string().contains("/.env:2: this line has no"));
        std::fs::write(directory.path().join(".env"), "A=1\nB=2").unwrap();
        assert!(check(&file).is_ok());
    }
}
