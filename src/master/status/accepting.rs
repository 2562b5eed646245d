//! The result of a look at the ready workers: whether they accept connections.

use std::collections::BTreeMap;

use crate::pool::WorkerId;

/// The workers that do not accept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::master) enum Verdict {
    /// None is known.
    #[default]
    Fine,
    /// No ready worker accepts.
    Nobody,
    /// These ready workers do not accept while connections wait.
    Some(Vec<WorkerId>),
}

impl Verdict {
    /// The sentence for the administrator, without a full stop; `None` if there is nothing to tell.
    pub fn sentence(&self, instance: &str) -> Option<String> {
        match self {
            Verdict::Fine => None,
            Verdict::Nobody => Some(format!("no ready worker accepts connections; ratoon recycle {instance} replaces them")),
            Verdict::Some(workers) => {
                let list = workers.iter().map(|worker| format!("{worker}")).collect::<Vec<_>>().join(", ");
                let noun = if workers.len() == 1 { "worker" } else { "workers" };
                let first = workers.first().copied().unwrap_or_default();
                Some(format!(
                    "{noun} {list}: ready without accepting, while connections wait; ratoon recycle {instance} {first} replaces one"
                ))
            }
        }
    }
}

/// The result of a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::master) struct Accepting {
    /// Whether each worker accepts, where that could be seen.
    pub workers: BTreeMap<WorkerId, bool>,
    pub verdict: Verdict,
}
