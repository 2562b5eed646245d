//! The state of the running reload, and of its canary. Plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{GenerationId, Slot, WorkerId};
use super::requesters::Requesters;
use super::verdict::Comparison;
use super::vocabulary::Purpose;

/// The stage of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// The master reads the configuration, runs the check and the hooks, and pins the release.
    Preparing,
    /// One worker of the new release is probed on private sockets.
    Probing,
    /// The new workers start.
    Starting,
    /// The workers of a canary's step are ready, and the step waits.
    Canary,
    /// All new workers are ready; a crash still rolls back.
    Probation,
}

/// The running reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reload {
    pub number: GenerationId,
    pub stage: Stage,
    /// With [`Purpose::Probe`] no generation starts.
    pub purpose: Purpose,
    pub requesters: Requesters,
    /// The canary; `None` without one, and once its last step has passed.
    pub canary: Option<Canary>,
    /// The wanted number of workers of the new generation.
    pub target: u32,
    /// The number of slots of the new generation whose worker was started.
    pub started: u32,
    /// The number of started slots that are not `settled`: an old worker may serve there too.
    pub unsettled: u32,
    /// The configuration has another number of workers than the old one: a number that was fixed before does not hold any more.
    #[serde(default)]
    pub frees_number: bool,
    /// Old workers that drain to make room for the surge, each with its slot.
    pub draining_for_surge: BTreeMap<WorkerId, Slot>,
}

/// The canary that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Canary {
    /// The index of the step in `reload.steps`.
    pub step: usize,
    /// Figures of both generations since the step began to wait, if they are known.
    pub figures: Option<Comparison>,
    /// How often the command was asked in this step.
    #[serde(default)]
    pub asked: u32,
    /// The command is asked, and has not answered.
    #[serde(default)]
    pub is_asked: bool,
}

impl Canary {
    /// The canary at the beginning of a step.
    pub fn at(step: usize) -> Canary {
        Canary { step, figures: None, asked: 0, is_asked: false }
    }
}
