//! `org.freedesktop.LogControl1`: level and target of the master's log (org.freedesktop.LogControl1(5)).

use zbus::Variant;

use super::Properties;
use super::call::{Fault, error};

/// The settings of the master's log. No method may block.
pub trait LogControl: Send + Sync {
    /// The least important level that is logged: `emerg`, `alert`, `crit`, `err`, `warning`, `notice`, `info` or `debug`.
    fn level(&self) -> String;

    /// Sets the least important level that is logged.
    ///
    /// # Errors
    /// A sentence that says what is wrong with `level`.
    fn set_level(&self, level: &str) -> Result<(), String>;

    /// The target of the log: `console`, `kmsg`, `journal`, `syslog` or `null`.
    fn target(&self) -> String;

    /// Sets the target of the log.
    ///
    /// # Errors
    /// A sentence with the reason. This default is for a log whose target cannot change.
    fn set_target(&self, target: &str) -> Result<(), String> {
        let now = self.target();
        if target == now { Ok(()) } else { Err(format!("can't log to {target}: the target ({now}) is settled at the start")) }
    }

    /// The value of `SYSLOG_IDENTIFIER=` in the lines.
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

/// Whether this property can be set.
pub(super) fn writable(property: &str) -> bool {
    matches!(property, "LogLevel" | "LogTarget")
}

/// Sets a property that is [`writable`].
///
/// # Errors
/// The error for the caller.
pub(super) fn set(log: &dyn LogControl, property: &str, value: &str) -> Result<(), Fault> {
    let result = if property == "LogLevel" { log.set_level(value) } else { log.set_target(value) };
    result.map_err(|text| Fault::new(error::INVALID_ARGS, text))
}
