//! systemd: the messages to it, and the limits of its version and of the unit.
//!
//! | module | owns |
//! |---|---|
//! | `systemd` | READY=1, STATUS=, WATCHDOG=1 and the other messages of sd_notify(3) |
//! | `systemd_version` | a warning when systemd is too old |
//! | `unit_type` | a warning when `Type=` is wrong |
//! | `start_advice` | commands to type after a start that cannot succeed |

pub(in crate::master) mod start_advice;
pub(in crate::master) mod systemd;
pub mod systemd_version;
pub(in crate::master) mod unit_type;
