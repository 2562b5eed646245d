//! The changes of one turn of the loop, until its summary is published.
//!
//! Law: the state is published before the event: a listener that gets a change finds it in the summary and in the status document.

use crate::api::Change;
use crate::api::changes::ChangeFeed;

/// Changes for which memory is kept between turns.
const KEPT: usize = 16;

/// Changes that wait for the summary of this turn.
#[derive(Default)]
pub struct PendingChanges(Vec<Change>);

impl PendingChanges {
    /// Adds a change.
    pub fn push(&mut self, change: Change) {
        self.0.push(change);
    }

    /// Sends all changes to the listeners, in order. Call it after the summary is published.
    pub fn tell(&mut self, changes: &ChangeFeed) {
        for change in self.0.drain(..) {
            // Without a listener the feed keeps the change for one that comes back.
            let _ = changes.send(change);
        }
        self.0.shrink_to(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_wait_until_they_are_told_and_keep_their_order() {
        let (changes, mut pending) = (ChangeFeed::default(), PendingChanges::default());
        let mut listener = changes.subscribe();
        (1..=40).for_each(|generation| pending.push(Change::ReloadStarted { generation }));
        assert!(listener.try_recv().is_err(), "told before the summary");
        pending.tell(&changes);
        let heard: Vec<u64> = std::iter::from_fn(|| match listener.try_recv().ok()?.change {
            Change::ReloadStarted { generation } => Some(generation),
            other => panic!("{other:?}"),
        })
        .collect();
        assert_eq!(heard, (1..=40).collect::<Vec<_>>());
        assert!(pending.0.capacity() <= KEPT);
    }
}
