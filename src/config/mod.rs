//! The configuration: `/etc/ratoon/NAME.toml`, the flags of `ratoon run`, and what both come to.
//!
//! Law: what is written in the file is hostile until it was checked; whoever holds a [`Config`] need not check again.
//! Every error names the file, the line and the column, what was wrong and what to write instead.
//!
//! | file | owns |
//! |---|---|
//! | `types.rs` | what a configuration is, with every default |
//! | `read.rs` | from text to types, key by key |
//! | `keys.rs` | which keys there are, and which one was meant |
//! | `values.rs`, `words.rs`, `lists.rs`, `units.rs` | what a single value may look like, in the file and on the command line |
//! | `contradictions.rs` | values that are fine alone and wrong together |
//! | `flags.rs` | the same keys as flags |
//! | `file.rs` | opening what may be a fifo, a directory, or 1 GB |
//! | `environment.rs` | environment files, and the merge |
//! | `error.rs` | how all this is said |
#![forbid(unsafe_code)]

use std::path::Path;

mod contradictions;
mod environment;
mod error;
mod file;
mod flags;
mod keys;
mod lists;
mod read;
#[cfg(test)]
mod tests;
mod types;
mod units;
mod values;
mod words;

pub use error::Error;
pub use flags::Overrides;
pub use types::{Balance, Config, Details, Hooks, Limits, MemoryCheck, Ready, Recycle, Reload, Restart, Status, Surge, Worker};
pub use types::{COUNT_MAX, usable_cpus};

/// Reads the file at `path`.
///
/// # Errors
/// Everything that is wrong with it, each with line and column; or why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Error> {
    load_with(path, &Overrides::default())
}

/// Reads the file at `path`; what the flags say wins. With a command among the flags the file need not have one.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, flags: &Overrides) -> Result<Config, Error> {
    parse_with(&file::read(path, file::Kind::Configuration)?, path, flags)
}

/// Reads a configuration from `text`; `name` is what errors call it.
///
/// # Errors
/// Everything that is wrong with it, each with line and column.
pub fn parse(text: &str, name: &Path) -> Result<Config, Error> {
    parse_with(text, name, &Overrides::default())
}

/// As [`parse`], and what the flags say wins.
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

/// The configuration without a file: the defaults, and the flags.
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
