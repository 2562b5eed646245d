//! `org.freedesktop.LogControl1`: how much the master logs, and where (org.freedesktop.LogControl1(5)).

use zbus::Variant;

use super::Properties;
use super::call::{Fault, error};

/// What this interface needs of the master's log. Nothing in it may block.
pub trait LogControl: Send + Sync {
    /// The least important level that is logged: `emerg`, `alert`, `crit`, `err`, `warning`, `notice`, `info` or `debug`.
    fn level(&self) -> String;

    /// Logs from `level` on.
    ///
    /// # Errors
    /// A sentence that says what is wrong with `level`.
    fn set_level(&self, level: &str) -> Result<(), String>;

    /// Where it logs to: `console`, `kmsg`, `journal`, `syslog` or `null`.
    fn target(&self) -> String;

    /// Logs to `target`.
    ///
    /// # Errors
    /// A sentence that says why not; this is what an implementation without a choice keeps.
    fn set_target(&self, target: &str) -> Result<(), String> {
        let now = self.target();
        if target == now { Ok(()) } else { Err(format!("can't log to {target}: the target ({now}) is settled at the start")) }
    }

    /// What the lines carry as `SYSLOG_IDENTIFIER=`.
    fn identifier(&self) -> String;
}

pub(super) fn properties(log: &dyn LogControl) -> Properties<'static> {
    [
        ("LogLevel", Variant::from(log.level())),
        ("LogTarget", Variant::from(log.target())),
        ("SyslogIdentifier", Variant::from(log.identifier())),
    ]
    .into()
}

/// Whether this property can be set at all.
pub(super) fn writable(property: &str) -> bool {
    matches!(property, "LogLevel" | "LogTarget")
}

/// Sets a property that is [`writable`].
///
/// # Errors
/// What the caller is to be told.
pub(super) fn set(log: &dyn LogControl, property: &str, value: &str) -> Result<(), Fault> {
    let result = if property == "LogLevel" { log.set_level(value) } else { log.set_target(value) };
    result.map_err(|text| Fault::new(error::INVALID_ARGS, text))
}
