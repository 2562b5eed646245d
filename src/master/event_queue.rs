//! The events that the pool has not taken in yet. Components add them; the loop gives them to the pool, oldest first.

use std::collections::VecDeque;

use crate::pool::Event;

/// A first-in, first-out queue of events.
#[derive(Debug, Default)]
pub(in crate::master) struct EventQueue(VecDeque<Event>);

impl EventQueue {
    /// Adds an event behind all others.
    pub fn push(&mut self, event: Event) {
        self.0.push_back(event);
    }

    /// Takes the oldest event.
    pub fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_leave_the_queue_in_their_order() {
        let mut events = EventQueue::default();
        (1..=3).for_each(|worker| events.push(Event::Cleared(worker)));
        assert_eq!(events.pop(), Some(Event::Cleared(1)));
        events.push(Event::Due);
        assert_eq!([events.pop(), events.pop()], [Some(Event::Cleared(2)), Some(Event::Cleared(3))]);
        assert_eq!((events.pop(), events.is_empty(), events.pop()), (Some(Event::Due), true, None));
    }
}
