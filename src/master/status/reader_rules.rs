//! Which readers may see what, by the committed configuration. The front ends get these rules when they change.
//!
//! Law: a failed reload changes no rule: the rules are those of the committed generation. The users of all live generations' workers
//! see details, since these workers serve until they have drained.

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::readers::Rules;
use crate::master::releases::prepare::Release;
use crate::master::status::StatusPublisher;
use crate::pool::GenerationId;

impl StatusPublisher {
    /// Puts the rules of the committed generation into effect, if they differ from the present ones.
    pub(in crate::master) fn keep_reader_rules(&self, releases: &HashMap<GenerationId, Arc<Release>>, committed: GenerationId) {
        let readers = self.handle.readers();
        let rules = rules(releases, committed);
        if *readers.rules() != rules {
            readers.set(rules);
        }
    }
}

/// The rules of the committed generation; before the first commit, those of the newest release.
fn rules(releases: &HashMap<GenerationId, Arc<Release>>, committed: GenerationId) -> Rules {
    let newest = releases.keys().max().copied().unwrap_or_default();
    let status = releases.get(&committed).or_else(|| releases.get(&newest)).map(|release| release.config.status.clone());
    let status = status.unwrap_or_default();
    let mut worker_uids: Vec<u32> = releases.values().filter_map(|release| Some(release.plan.identity.as_ref()?.uid)).collect();
    worker_uids.sort_unstable();
    worker_uids.dedup();
    Rules { details: status.details, hosts: status.hosts, worker_uids }
}
