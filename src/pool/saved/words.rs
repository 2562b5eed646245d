//! The pool's vocabulary in the saved form: names that never change their meaning.
//!
//! Law: a name that this version does not know is read as the most harmless of its kind where there is one, else the
//! state cannot be read, and who was asked to take over says so.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pool::vocabulary::{GenerationId, Slot, WorkerId};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    #[default]
    Starting,
    Ready,
    Draining,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub(super) enum StopReason {
    Leaving,
    LeavingAtOnce,
    StartTimeout {
        after: Duration,
    },
    Watchdog,
    #[default]
    #[serde(other)]
    Asked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    #[default]
    Preparing,
    Starting,
    Probation,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub(super) enum ExitCause {
    Exit {
        status: i32,
    },
    Signal {
        signal: i32,
        core: bool,
    },
    NotStarted {
        why: String,
    },
    OutOfMemory,
    StartTimeout {
        after: Duration,
    },
    StopTimeout {
        after: Duration,
    },
    Watchdog,
    Left,
    #[default]
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "kebab-case")]
pub(super) enum Key {
    Start {
        worker: WorkerId,
    },
    Settle {
        worker: WorkerId,
    },
    Watchdog {
        worker: WorkerId,
    },
    Age {
        worker: WorkerId,
    },
    Stop {
        worker: WorkerId,
    },
    Orphaned {
        worker: WorkerId,
    },
    KillOrphaned {
        worker: WorkerId,
    },
    Restart {
        generation: GenerationId,
        slot: Slot,
    },
    Probation,
    GiveUp,
    Recover,
    /// Of another version; left out.
    #[default]
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Readiness {
    Notify,
    Running(Duration),
}

/// Readiness that is seen from outside; a reader that does not know it goes by [`Readiness`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outside {
    Accepting(Duration),
    Auto(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Surge {
    Percent(u32),
    Count(u32),
}

/// The defaults are the contract's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    pub count: u32,
    pub ready: Readiness,
    pub outside: Option<Outside>,
    pub start_timeout: Duration,
    pub stop_timeout: Duration,
    pub stop_signal: i32,
    pub watchdog: Option<Duration>,
    pub restart: Restart,
    pub surge: Surge,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probation: Option<Duration>,
    pub max_age: Option<Duration>,
    pub per_slot: bool,
    pub listens: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Restart {
    pub initial: Duration,
    pub max: Duration,
    pub limit: u32,
    pub interval: Duration,
    pub give_up: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            count: 1,
            ready: Readiness::Notify,
            outside: None,
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(30),
            // SIGTERM.
            stop_signal: 15,
            watchdog: None,
            restart: Restart::default(),
            surge: Surge::Percent(100),
            probation: None,
            max_age: None,
            per_slot: false,
            listens: true,
        }
    }
}

impl Default for Restart {
    fn default() -> Restart {
        Restart {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(30),
            limit: 5,
            interval: Duration::from_secs(60),
            give_up: None,
        }
    }
}
