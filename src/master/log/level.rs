//! The levels of the log.

use std::str::FromStr;

/// The level of an entry; the numbers are those of syslog(3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// An error that an administrator has to look at.
    Error = 3,
    /// A fault that was dealt with.
    Warning = 4,
    /// The normal operation.
    #[default]
    Info = 6,
    /// Details for debugging Ratoon itself.
    Debug = 7,
}

impl Level {
    /// The name of the level in syslog(3) and `org.freedesktop.LogControl1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Error => "err",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    pub(super) fn from_number(number: u8) -> Level {
        match number {
            0..=3 => Level::Error,
            4 => Level::Warning,
            5 | 6 => Level::Info,
            _ => Level::Debug,
        }
    }
}

impl FromStr for Level {
    type Err = String;

    /// Accepts every name and number of syslog(3). A level that Ratoon does not have becomes one that it has: `emerg` to `crit`
    /// become [`Level::Error`], `notice` becomes [`Level::Info`].
    fn from_str(name: &str) -> Result<Level, String> {
        Ok(match name {
            "emerg" | "alert" | "crit" | "err" | "error" | "0" | "1" | "2" | "3" => Level::Error,
            "warning" | "warn" | "4" => Level::Warning,
            "notice" | "info" | "5" | "6" => Level::Info,
            "debug" | "7" => Level::Debug,
            _ => return Err(format!("{name:?} is no log level; give one of err, warning, info, debug")),
        })
    }
}
