//! systemd: what it is told, and what its version and the unit allow.
//!
//! | module | owns |
//! |---|---|
//! | `systemd` | READY=1, STATUS=, WATCHDOG=1 and the like, as sd_notify(3) has them |
//! | `systemd_version` | a systemd that is too old |
//! | `unit_type` | a `Type=` that does not fit |
//! | `start_advice` | what to type after a start that cannot succeed |

pub(in crate::master) mod start_advice;
pub(in crate::master) mod systemd;
pub mod systemd_version;
pub(in crate::master) mod unit_type;
