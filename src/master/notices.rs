//! The notices of one turn of the loop.
//!
//! Law: first the state, then the event: a listener that hears of a change finds it in the summary and in the status document.

use crate::control::Notice;
use crate::control::backlog::Notices;

/// Notices for which memory is kept from turn to turn.
const KEPT: usize = 16;

/// Notices that wait for the summary of this turn.
#[derive(Default)]
pub struct PendingNotices(Vec<Notice>);

impl PendingNotices {
    /// Something has changed.
    pub fn push(&mut self, notice: Notice) {
        self.0.push(notice);
    }

    /// Tells all of them, in their order. Call after the summary is told.
    pub fn tell(&mut self, notices: &Notices) {
        for notice in self.0.drain(..) {
            // Without a listener it is kept for one that comes back.
            let _ = notices.send(notice);
        }
        self.0.shrink_to(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_wait_until_they_are_told_and_keep_their_order() {
        let (notices, mut pending) = (Notices::default(), PendingNotices::default());
        let mut listener = notices.subscribe();
        (1..=40).for_each(|generation| pending.push(Notice::ReloadStarted { generation }));
        assert!(listener.try_recv().is_err(), "told before the summary");
        pending.tell(&notices);
        let heard: Vec<u64> = std::iter::from_fn(|| match listener.try_recv().ok()?.notice {
            Notice::ReloadStarted { generation } => Some(generation),
            other => panic!("{other:?}"),
        })
        .collect();
        assert_eq!(heard, (1..=40).collect::<Vec<_>>());
        assert!(pending.0.capacity() <= KEPT);
    }
}
