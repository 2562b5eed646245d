//! The controlling terminal of the master, which decides what a SIGHUP means.
//!
//! The kernel sends SIGHUP when a terminal closes; administrators send it for a reload. Only a master that was started on a terminal
//! can lose one. `nohup` starts it with SIGHUP ignored, and then the loss changes nothing.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What a SIGHUP asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HangUp {
    /// A reload.
    Reload,
    /// The terminal has closed: drain and end.
    Stop,
    /// The terminal has closed, and the master was started to outlive it.
    Ignore,
}

/// State of the controlling terminal; kept over an upgrade in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Terminal {
    /// The master has a controlling terminal, as far as it knows.
    has: bool,
    /// SIGHUP was ignored when the master was started.
    nohup: bool,
}

impl Terminal {
    /// The state of a master that starts now.
    pub fn at_start(nohup: bool) -> Terminal {
        Terminal { has: is_open(), nohup }
    }

    /// What a SIGHUP means now.
    pub fn hang_up(&mut self) -> HangUp {
        self.judge(is_open())
    }

    fn judge(&mut self, open: bool) -> HangUp {
        if !self.has || open {
            return HangUp::Reload;
        }
        // A terminal closes once; a later SIGHUP is a request for a reload.
        self.has = false;
        if self.nohup { HangUp::Ignore } else { HangUp::Stop }
    }
}

/// Whether `/dev/tty` opens. Only an error that means "no terminal" counts, not a lack of descriptors.
fn is_open() -> bool {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match open("/dev/tty", flags, Mode::empty()) {
        Ok(_) => true,
        Err(error) => !matches!(error, Errno::NXIO | Errno::IO | Errno::NOENT | Errno::NODEV),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hang_up_stops_only_after_the_loss_of_a_terminal() {
        let mut terminal = Terminal { has: true, nohup: false };
        assert_eq!(
            [terminal.judge(true), terminal.judge(false), terminal.judge(false)],
            [HangUp::Reload, HangUp::Stop, HangUp::Reload]
        );
        let mut without = Terminal { has: false, nohup: false };
        assert_eq!(without.judge(false), HangUp::Reload);
    }

    #[test]
    fn nohup_ignores_the_loss_and_reloads_later() {
        let mut terminal = Terminal { has: true, nohup: true };
        assert_eq!(
            [terminal.judge(true), terminal.judge(false), terminal.judge(false)],
            [HangUp::Reload, HangUp::Ignore, HangUp::Reload]
        );
    }
}
