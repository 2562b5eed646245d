//! The feed of numbered changes. It keeps the last `KEPT` changes, so that a listener that reconnects gets what it missed.
//!
//! Law: the loop never waits for a listener. `send` holds the lock for one push, `subscribe_after` for a copy of at most `KEPT` changes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::SendError;

use super::Change;

/// Number of changes that are kept for listeners that reconnect.
const KEPT: usize = 256;
/// Capacity of the channel: the number of changes that may wait for a slow listener.
const WAITING: usize = 1024;

/// A change and its number. The first change of a master has number 1.
#[derive(Clone, Debug)]
pub struct Numbered {
    /// The number of the change, from 1.
    pub number: u64,
    /// The change itself.
    pub change: Change,
}

/// The feed to which the loop sends changes. Cheap to clone.
#[derive(Clone)]
pub struct ChangeFeed(Arc<Inner>);

struct Inner {
    /// Start of this feed, microseconds since 1970. It tells the ids of this master from those of another: after an upgrade or a
    /// restart the numbers begin anew.
    master: u64,
    sender: broadcast::Sender<Numbered>,
    kept: Mutex<Kept>,
}

struct Kept {
    last: u64,
    changes: VecDeque<Numbered>,
}

/// The state with which a listener begins.
pub struct Listening {
    /// A receiver of the changes from now on.
    pub receiver: broadcast::Receiver<Numbered>,
    /// The number of the last change before those of `receiver`.
    pub last: u64,
    /// Kept changes after the one that the listener saw last.
    pub missed: Vec<Numbered>,
    /// Number of missed changes that are no longer kept.
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
    /// Sends a change to all listeners, and keeps it for listeners that reconnect.
    ///
    /// # Errors
    /// There is no listener. The change is kept all the same.
    pub fn send(&self, change: Change) -> Result<usize, SendError<Numbered>> {
        let mut kept = self.kept();
        kept.last += 1;
        let numbered = Numbered { number: kept.last, change };
        if kept.changes.len() == KEPT {
            kept.changes.pop_front();
        }
        kept.changes.push_back(numbered.clone());
        // Sent under the lock, so that all listeners see the numbers in order.
        self.0.sender.send(numbered)
    }

    /// A receiver of the changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Numbered> {
        self.0.sender.subscribe()
    }

    /// The kept changes after the one with this id, and a receiver of later ones. An id of another master counts as no id.
    pub fn subscribe_after(&self, id: Option<&str>) -> Listening {
        let kept = self.kept();
        let receiver = self.0.sender.subscribe();
        let last = kept.last;
        let seen = id.and_then(|id| self.number(id)).filter(|seen| *seen <= last).unwrap_or(last);
        let missed: Vec<_> = kept.changes.iter().filter(|numbered| numbered.number > seen).cloned().collect();
        Listening { receiver, last, lost: last - seen - missed.len() as u64, missed }
    }

    /// The id of the change with this number, as listeners send it: `HEX-NUMBER`.
    pub fn id(&self, number: u64) -> String {
        format!("{:x}-{number}", self.0.master)
    }

    fn number(&self, id: &str) -> Option<u64> {
        let (master, number) = id.trim().split_once('-')?;
        (master == format!("{:x}", self.0.master)).then(|| number.parse().ok())?
    }

    /// Number of listeners.
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
        // A listener has missed nothing when its id is the last one, is none or malformed, is too large, or is of another master.
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
