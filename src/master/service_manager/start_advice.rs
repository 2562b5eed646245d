//! Commands for the administrator after a failed first start. They stand at the end of the status line, because `systemctl status`
//! shows that line also while systemd waits before the next start.

use std::path::Path;
use std::sync::OnceLock;

use crate::master::fronts::own_unit;

/// Returns `; see: journalctl -eu ratoon@web.service, ratoon check /etc/ratoon/web.toml`; empty when there is neither a unit nor a
/// file.
pub fn advice(file: Option<&Path>) -> String {
    // The unit of a process does not change.
    static UNIT: OnceLock<Option<String>> = OnceLock::new();
    of(UNIT.get_or_init(own_unit).as_deref(), file)
}

fn of(unit: Option<&str>, file: Option<&Path>) -> String {
    let journal = unit.map(|unit| format!("journalctl -eu {unit}"));
    let check = file.map(|file| format!("ratoon check {}", file.display()));
    let commands: Vec<String> = journal.into_iter().chain(check).collect();
    if commands.is_empty() { String::new() } else { format!("; see: {}", commands.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_unit_and_the_file() {
        let file = Path::new("/etc/ratoon/web.toml");
        let both = "; see: journalctl -eu ratoon@web.service, ratoon check /etc/ratoon/web.toml";
        assert_eq!(of(Some("ratoon@web.service"), Some(file)), both);
        assert_eq!(of(None, Some(file)), "; see: ratoon check /etc/ratoon/web.toml");
        assert_eq!(of(None, None), "");
    }
}
