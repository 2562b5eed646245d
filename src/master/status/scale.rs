//! The number of workers in the status document: what changed it, and the load that decides on it.

use std::time::SystemTime;

use crate::master::status::history::time;
use crate::pool::{Elastic, Load, Scaled, Surge};
use crate::status::tree;

/// Whether the number of workers is fixed, the last sample of the load that decides on it, and its bounds with their settings.
#[derive(Clone, Copy, Default)]
pub(in crate::master) struct ScaleFacts {
    pub is_fixed: bool,
    pub load: Option<Load>,
    pub elastic: Option<Elastic>,
}

/// The part of the status document.
pub(super) fn shown(scale: ScaleFacts, last: Option<(Scaled, SystemTime)>) -> tree::Scale {
    let busy = scale.load.and_then(|load| load.busy);
    tree::Scale {
        fixed: scale.is_fixed,
        busy_percent: busy.map(|busy| (busy.share * 100.0).round() as u32),
        measured_by: busy.map(|busy| busy.by.as_str().to_owned()),
        connections_waiting: scale.load.and_then(|load| load.waiting),
        target_percent: scale.elastic.map(|elastic| elastic.target),
        up_after_ms: scale.elastic.map(|elastic| elastic.up_after.as_millis() as u64),
        down_after_ms: scale.elastic.map(|elastic| elastic.down_after.as_millis() as u64),
        step: scale.elastic.map(|elastic| match elastic.step {
            Surge::Percent(percent) => format!("{percent}%"),
            Surge::Count(count) => count.to_string(),
        }),
        last_change: last.map(|(scaled, at)| tree::Scaled {
            generation: scaled.generation,
            from: scaled.from,
            to: scaled.to,
            reason: scaled.reason,
            time: time(at),
        }),
    }
}
