//! Readers of the status document: they see the whole document, or the document without details ([`crate::status::redact`]).
//!
//! Law: a reader whose user and groups are not known sees no details. Names of groups are not looked up on the loop's thread.

use std::sync::{Arc, Once, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Details;
use crate::sys::credentials::own_uid;
use crate::sys::{accounts, thread};

/// Members of these groups read the journal, and so see what workers print anyway (`systemd-journald.service(8)`).
const GROUPS: [&str; 2] = ["adm", "systemd-journal"];
/// The longest wait for the thread that looks up the groups. After it the reader sees no details.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The user and the groups of a reader, as the kernel or the bus vouches for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Effective user.
    pub uid: u32,
    /// Effective and supplementary groups.
    pub groups: Vec<u32>,
}

/// The configuration's rules for readers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `status.details`
    pub details: Details,
    /// `status.hosts`
    pub hosts: Vec<String>,
    /// User ids of workers, which read the document through the worker libraries.
    pub worker_uids: Vec<u32>,
}

/// The rules that hold now, shared by all front ends.
pub struct Readers {
    rules: RwLock<Arc<Rules>>,
    groups: watch::Sender<Option<Arc<[u32]>>>,
    lookup: Once,
}

impl Default for Readers {
    fn default() -> Self {
        Readers { rules: RwLock::default(), groups: watch::Sender::new(None), lookup: Once::new() }
    }
}

impl Readers {
    /// The rules that hold now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the rules.
    pub fn set(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Whether this reader sees details; `None` is a reader whose user is not known.
    pub async fn sees_details(&self, reader: Option<&Reader>) -> bool {
        let rules = self.rules();
        if rules.details == Details::Everyone {
            return true;
        }
        let Some(reader) = reader else { return false };
        if reader.uid == 0 || reader.uid == own_uid() || rules.worker_uids.contains(&reader.uid) {
            return true;
        }
        !reader.groups.is_empty() && self.trusted_groups().await.iter().any(|group| reader.groups.contains(group))
    }

    /// The group ids of [`GROUPS`]; empty while they can't be looked up.
    async fn trusted_groups(&self) -> Arc<[u32]> {
        let groups = self.groups.clone();
        self.lookup.call_once(|| {
            // If no thread can be started, the groups stay unknown and details stay hidden.
            let _ = thread::spawn("ratoon-groups", move || {
                let found = GROUPS.iter().filter_map(|name| accounts::group(name)).collect();
                groups.send_replace(Some(found));
            });
        });
        let mut known = self.groups.subscribe();
        match tokio::time::timeout(LOOKUP_TIMEOUT, known.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone().unwrap_or_default(),
            Ok(Err(_)) | Err(_) => Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(uid: u32, groups: &[u32]) -> Reader {
        Reader { uid, groups: groups.to_vec() }
    }

    #[tokio::test]
    async fn trusted_details_go_to_known_users_only() {
        let readers = Readers::default();
        readers.set(Rules { worker_uids: vec![4_000_000_001], ..Rules::default() });
        for uid in [0, own_uid(), 4_000_000_001] {
            assert!(readers.sees_details(Some(&reader(uid, &[]))).await, "{uid}");
        }
        assert!(!readers.sees_details(Some(&reader(4_000_000_002, &[]))).await);
        assert!(!readers.sees_details(Some(&reader(4_000_000_002, &[4_000_000_003]))).await);
        assert!(!readers.sees_details(None).await);
        readers.set(Rules { details: Details::Everyone, ..Rules::default() });
        assert!(readers.sees_details(None).await);
    }

    #[tokio::test]
    async fn members_of_the_journal_group_see_details() {
        let readers = Readers::default();
        let adm = accounts::group("adm").expect("a group of every Debian");
        assert!(readers.sees_details(Some(&reader(4_000_000_002, &[7, adm]))).await);
    }

    #[tokio::test(start_paused = true)]
    async fn lookup_that_hangs_hides_details() {
        let readers = Readers::default();
        readers.lookup.call_once(|| {});
        assert!(!readers.sees_details(Some(&reader(4_000_000_002, &[4]))).await);
    }
}
