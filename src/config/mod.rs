//! The configuration: `/etc/ratoon/NAME.toml`, the flags of `ratoon run`, and the result of both.
//!
//! Law: the content of the file is untrusted until it is checked; code that has a [`Config`] need not check again.
//! Every error names the file, the line and the column, what was wrong and what to write instead.
//!
//! | file | owns |
//! |---|---|
//! | `table.rs` | the one table of keys: name, type, default, flag, doc text; a new key is a row there |
//! | `row.rs` | the fields of a row, and the macros that make structs, readers and lists from the rows |
//! | `types.rs` | the whole configuration |
//! | `read.rs` | from text to types, key by key |
//! | `keys.rs` | look-up in the table, and the key that an unknown one probably means |
//! | `schema.rs` | JSON Schema of the file |
//! | `values.rs`, `words.rs`, `lists.rs`, `units.rs` | the forms of a single value, in the file and on the command line |
//! | `canary.rs` | the values of `reload.steps`, `reload.step_time`, `reload.watch` and `reload.judge` |
//! | `probe.rs` | the values of `reload.probe*` |
//! | `contradictions.rs` | values that are valid alone and contradict each other |
//! | `flags.rs` | the same keys as flags |
//! | `file.rs` | reads a file that may be a FIFO, a directory, or 1 GB |
//! | `environment.rs` | environment files, and the merge of all sources of variables |
//! | `error.rs` | errors with their place, the line and a caret |
#![forbid(unsafe_code)]

use std::path::Path;

mod canary;
mod choices;
mod contradictions;
mod environment;
mod error;
mod file;
mod flags;
mod keys;
mod lists;
mod probe;
mod read;
mod row;
mod schema;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod units;
mod values;
mod words;

pub use choices::*;
pub use error::Error;
pub use flags::{Overrides, value_reader};
pub use probe::{Probe, StatusRange};
pub use schema::schema;
pub use table::*;
pub use types::{COUNT_MAX, Config, Surge, Watch, usable_cpus};
pub use units::pause_length;

/// Reads the file at `path`.
///
/// # Errors
/// All problems of the file, each with line and column; or why the file cannot be read.
pub fn load(path: &Path) -> Result<Config, Error> {
    load_with(path, &Overrides::default())
}

/// Reads the file at `path`; flags override it. If the flags have a command, the file need not have one.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, flags: &Overrides) -> Result<Config, Error> {
    parse_with(&file::read(path, file::Kind::Configuration)?, path, flags)
}

/// Reads a configuration from `text`; errors use `name` as the file's name.
///
/// # Errors
/// All problems of the text, each with line and column.
pub fn parse(text: &str, name: &Path) -> Result<Config, Error> {
    parse_with(text, name, &Overrides::default())
}

/// As [`parse`], but flags override the text.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(text: &str, name: &Path, flags: &Overrides) -> Result<Config, Error> {
    let mut reading = read::Reading::new(text, name);
    let mut config = reading.document(flags.has_command());
    flags.apply(&mut config);
    reading.contradictions(&config);
    reading.finish(config)
}

/// The configuration without a file: the defaults and the flags.
///
/// # Errors
/// A missing command, or flags that contradict each other.
pub fn from_flags(flags: &Overrides) -> Result<Config, Error> {
    if !flags.has_command() {
        return Err(Error::elsewhere(
            error::FLAGS,
            "there is nothing to run: name a configuration with --config FILE, or write the command after --, \
             for instance: ratoon run -- /usr/bin/my-server --flag",
        ));
    }
    let mut config = Config::for_command(Vec::new());
    flags.apply(&mut config);
    match contradictions::find(&config).into_iter().next() {
        Some(found) => Err(Error::elsewhere(error::FLAGS, found.message)),
        None => Ok(config),
    }
}
