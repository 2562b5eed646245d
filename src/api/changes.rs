//! Changes with numbers, and the last of them: a listener that was away for a moment gets what it missed.
//!
//! Law: the loop never waits for a listener. The lock is held for a push here, and for a copy of at most `KEPT` changes there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::SendError;

use super::Change;

/// Changes that a listener which comes back can still get.
const KEPT: usize = 256;
/// Changes that wait for a slow listener.
const WAITING: usize = 1024;

/// A change and its number; the first of a master has number 1.
#[derive(Clone, Debug)]
pub struct Numbered {
    /// Counts from 1.
    pub number: u64,
    /// What is told.
    pub change: Change,
}

/// Where the loop tells changes. Cheap to clone.
#[derive(Clone)]
pub struct ChangeFeed(Arc<Inner>);

struct Inner {
    /// Tells the numbers of this master from those of another: an upgrade or a restart begins anew.
    master: u64,
    sender: broadcast::Sender<Numbered>,
    kept: Mutex<Kept>,
}

struct Kept {
    last: u64,
    changes: VecDeque<Numbered>,
}

/// What a listener begins with.
pub struct Listening {
    /// The changes from now on.
    pub receiver: broadcast::Receiver<Numbered>,
    /// The number of the last change before those.
    pub last: u64,
    /// Changes since the one that the listener saw last, as far as they are kept.
    pub missed: Vec<Numbered>,
    /// How many of those since then are not kept any more.
    pub lost: u64,
}

impl Default for ChangeFeed {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let kept = Kept { last: 0, changes: VecDeque::with_capacity(KEPT) };
        ChangeFeed(Arc::new(Inner {
            master: u64::try_from(since.as_micros()).unwrap_or_default(),
            sender: broadcast::channel(WAITING).0,
            kept: Mutex::new(kept),
        }))
    }
}

impl ChangeFeed {
    /// Tells a change to all listeners, and keeps it for those that come back.
    ///
    /// # Errors
    /// Nobody listens; it is kept all the same.
    pub fn send(&self, change: Change) -> Result<usize, SendError<Numbered>> {
        let mut kept = self.kept();
        kept.last += 1;
        let numbered = Numbered { number: kept.last, change };
        if kept.changes.len() == KEPT {
            kept.changes.pop_front();
        }
        kept.changes.push_back(numbered.clone());
        // Within the lock, so that all listeners see the numbers in their order.
        self.0.sender.send(numbered)
    }

    /// The changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Numbered> {
        self.0.sender.subscribe()
    }

    /// The changes behind the one with this id, and those from now on. An id of another master is as none.
    pub fn subscribe_after(&self, id: Option<&str>) -> Listening {
        let kept = self.kept();
        let receiver = self.0.sender.subscribe();
        let last = kept.last;
        let seen = id.and_then(|id| self.number(id)).filter(|seen| *seen <= last).unwrap_or(last);
        let missed: Vec<_> = kept.changes.iter().filter(|numbered| numbered.number > seen).cloned().collect();
        Listening { receiver, last, lost: last - seen - missed.len() as u64, missed }
    }

    /// How a listener names the change with this number: `HEX-NUMBER`.
    pub fn id(&self, number: u64) -> String {
        format!("{:x}-{number}", self.0.master)
    }

    fn number(&self, id: &str) -> Option<u64> {
        let (master, number) = id.trim().split_once('-')?;
        (master == format!("{:x}", self.0.master)).then(|| number.parse().ok())?
    }

    /// How many listen.
    pub fn receiver_count(&self) -> usize {
        self.0.sender.receiver_count()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(missed: &[Numbered]) -> Vec<u64> {
        missed.iter().map(|numbered| numbered.number).collect()
    }

    #[test]
    fn listener_that_comes_back_gets_what_it_missed() {
        let changes = ChangeFeed::default();
        assert_eq!(changes.subscribe_after(None).last, 0);
        (1..=5).for_each(|generation| drop(changes.send(Change::ReloadStarted { generation })));
        let again = changes.subscribe_after(Some(&changes.id(3)));
        assert_eq!((numbers(&again.missed), again.last, again.lost), (vec![4, 5], 5, 0));
        assert!(matches!(again.missed[0].change, Change::ReloadStarted { generation: 4 }));
        // Nothing is missed by a listener that has all, that names none, or that heard another master.
        let other = format!("{:x}-2", changes.0.master + 1);
        for id in
            [Some(changes.id(5)), None, Some(other), Some(changes.id(6)), Some("".into()), Some("x-1".into()), Some("-".into())]
        {
            let again = changes.subscribe_after(id.as_deref());
            assert_eq!((numbers(&again.missed), again.lost), (vec![], 0), "{id:?}");
        }
    }

    #[test]
    fn notices_that_are_not_kept_are_counted_as_lost() {
        let changes = ChangeFeed::default();
        (1..=KEPT as u64 + 10).for_each(|generation| drop(changes.send(Change::ReloadStarted { generation })));
        let again = changes.subscribe_after(Some(&changes.id(4)));
        assert_eq!((again.missed.len(), again.lost, again.missed[0].number), (KEPT, 6, 11));
    }

    #[test]
    fn numbers_go_on_without_a_gap_from_missed_to_received() {
        let changes = ChangeFeed::default();
        let _ = changes.send(Change::ReloadStarted { generation: 1 });
        let mut again = changes.subscribe_after(Some(&changes.id(0)));
        let _ = changes.send(Change::ReloadStarted { generation: 2 });
        assert_eq!(numbers(&again.missed), [1]);
        assert_eq!(again.receiver.try_recv().expect("the next").number, 2);
    }
}
