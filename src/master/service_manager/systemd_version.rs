//! The version of systemd: warns once when it is too old, and says what does not work.
//!
//! Law: the version is read on a thread, not on the loop; a machine that does not report one gets no warning.

use std::process::{Command, Stdio};

use crate::master::log::journal::{Journal, Level, Record};
use crate::sys::awaited::spawn_awaited;

/// The oldest systemd that Ratoon is made for and tested with.
pub const OLDEST: u32 = 252;

/// The warning, if the machine's systemd is too old.
pub fn complaint() -> Option<String> {
    let mut command = Command::new("systemctl");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let (child, _awaited) = spawn_awaited(&mut command).ok()?;
    let said = child.wait_with_output().ok()?;
    judge(&String::from_utf8_lossy(&said.stdout))
}

/// Checks the version and the unit's type on a thread, and logs the warnings.
pub(in crate::master) fn look(journal: &Journal) {
    let journal = journal.clone();
    let look = move || {
        for complaint in complaint().into_iter().chain(crate::master::service_manager::unit_type::complaint()) {
            journal.log(Record::new(Level::Warning, complaint));
        }
    };
    // A failure to start the thread is ignored: a more important error is logged then.
    let _ = crate::sys::thread::spawn("ratoon-age", look);
}

/// Parses the first line of `systemctl --version`, like `systemd 247 (247.3-7+deb11u5)`.
fn judge(said: &str) -> Option<String> {
    let line = said.lines().next()?;
    let number: String = line.strip_prefix("systemd ")?.chars().take_while(char::is_ascii_digit).collect();
    let version: u32 = number.parse().ok()?;
    (version < OLDEST).then(|| {
        format!(
            "systemd {version} is older than {OLDEST}, the oldest that Ratoon is tested with: parts of ratoon@.service may be ignored \
             (`systemd-analyze verify ratoon@.service` names them), and what `systemctl reload` answers is not promised; \
             use Debian 12, Ubuntu 24.04, Fedora 37, RHEL 9 or newer"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn only_what_is_too_old_is_said() {
        for fine in
            ["systemd 252 (252.39-1~deb12u2)\n+PAM", "systemd 260~rc1 (x)", "systemd 257.9", "", "systemctl: no", "systemd v"]
        {
            assert_eq!(judge(fine), None, "{fine}");
        }
        let said = judge("systemd 247 (247.3-7+deb11u5)\n+PAM +AUDIT").expect("too old");
        assert!(said.starts_with("systemd 247 is older than 252"), "{said}");
    }
}
