//! When each committed release was committed, and who asked for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::pool::{Committed, GenerationId};

/// The commit of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// When.
    pub at: SystemTime,
    /// The requester of the commit: `start`, `SIGHUP`, `user 0 on the control socket` …
    pub asked_by: Arc<str>,
}

/// The commits of the generations whose releases are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Commits(BTreeMap<GenerationId, Commit>);

impl Commits {
    /// Notes the commit of a generation, and forgets those that are not in `history`.
    pub fn note(&mut self, number: GenerationId, asked_by: Arc<str>, at: SystemTime, history: &VecDeque<Committed>) {
        self.0.insert(number, Commit { at, asked_by });
        self.0.retain(|known, _| history.iter().any(|committed| committed.generation == *known));
    }

    /// The commit of a generation.
    pub fn get(&self, number: GenerationId) -> Option<&Commit> {
        self.0.get(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_of_kept_generations_are_known() {
        let committed = |generation| Committed { generation, release: generation, ended: None };
        let (mut commits, at) = (Commits::default(), SystemTime::UNIX_EPOCH);
        commits.note(1, "start".into(), at, &VecDeque::from([committed(1)]));
        commits.note(2, "SIGHUP".into(), at, &VecDeque::from([committed(1), committed(2)]));
        assert_eq!(commits.get(1).map(|commit| &*commit.asked_by), Some("start"));
        commits.note(3, "user 0".into(), at, &VecDeque::from([committed(2), committed(3)]));
        assert_eq!((commits.get(1), commits.get(2).is_some()), (None, true));
        let saved = serde_json::to_string(&commits).expect("plain data");
        assert_eq!(serde_json::from_str::<Commits>(&saved).expect("what was just written"), commits);
    }
}
