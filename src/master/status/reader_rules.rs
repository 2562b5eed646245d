//! What the committed configuration says of readers, handed to the front ends when it changes.
//!
//! Law: a failed reload changes nothing: the rules are those of the committed generation. Workers of every living generation
//! see details, since they serve until they have drained.

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::readers::Rules;
use crate::master::releases::prepare::Release;
use crate::master::turn::Master;
use crate::pool::GenerationId;

impl Master {
    /// Lets the rules of the committed generation hold, if they are not those that hold already.
    pub(in crate::master) fn keep_reader_rules(&self) {
        let readers = self.runtime_dir.handle().readers();
        let rules = rules(&self.releases, self.pool.generation());
        if *readers.rules() != rules {
            readers.set(rules);
        }
    }
}

/// Before the first commit the newest release stands for the committed one.
fn rules(releases: &HashMap<GenerationId, Arc<Release>>, committed: GenerationId) -> Rules {
    let newest = releases.keys().max().copied().unwrap_or_default();
    let status = releases.get(&committed).or_else(|| releases.get(&newest)).map(|release| release.config.status.clone());
    let status = status.unwrap_or_default();
    let mut worker_uids: Vec<u32> = releases.values().filter_map(|release| Some(release.plan.identity.as_ref()?.uid)).collect();
    worker_uids.sort_unstable();
    worker_uids.dedup();
    Rules { details: status.details, hosts: status.hosts, worker_uids }
}
