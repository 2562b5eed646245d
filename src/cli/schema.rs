//! `ratoon schema`: the JSON Schema of the configuration, on stdout.

use std::process::ExitCode;

use super::screen::say;
use crate::config;

/// Prints the schema of all keys, for editors of TOML.
pub(super) fn run() -> ExitCode {
    say(&format!("{:#}", config::schema()));
    ExitCode::SUCCESS
}
