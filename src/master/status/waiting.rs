//! Connections that wait in the kernel's queues while no worker serves: how many, for how many there is room, and the warning before a
//! queue is full.

use crate::status::kernel::Queue;

/// The share of a queue, in percent, from which on it is nearly full.
const NEARLY_FULL: u64 = 80;

/// The connections that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::master) struct Waiting {
    /// Over all queues.
    connections: u64,
    room: u64,
    /// The fullest queue, if it is nearly full, with its address.
    nearly_full: Option<(String, Queue)>,
}

impl Waiting {
    /// The sum of these queues, each with its address; `None`: the kernel does not tell of that one.
    pub fn of<'a>(queues: impl Iterator<Item = (&'a str, Option<Queue>)>) -> Waiting {
        let mut all = Waiting::default();
        for (address, queue) in queues.filter_map(|(address, queue)| Some((address, queue?))) {
            all.connections = all.connections.saturating_add(queue.waiting);
            all.room = all.room.saturating_add(queue.max);
            let share = |queue: Queue| queue.waiting.saturating_mul(100) / queue.max.max(1);
            let fuller = all.nearly_full.as_ref().is_none_or(|(_, fullest)| share(queue) > share(*fullest));
            if share(queue) >= NEARLY_FULL && fuller {
                all.nearly_full = Some((address.to_owned(), queue));
            }
        }
        all
    }

    /// The part of the status line: `3 connections wait (room for 4096)`.
    pub fn text(&self) -> String {
        let wait = if self.connections == 1 { "connection waits" } else { "connections wait" };
        let nearly_full = if self.nearly_full.is_some() { ", a queue is nearly full" } else { "" };
        format!("{} {wait} (room for {}){nearly_full}", self.connections, self.room)
    }

    /// The warning of a queue that is nearly full, without a full stop.
    pub fn warning(&self, instance: &str) -> Option<String> {
        let (address, Queue { waiting, max }) = self.nearly_full.as_ref()?;
        Some(format!(
            "the queue of {address} is nearly full: {waiting} connections wait, and there is room for {max}; beyond that the kernel \
             drops handshakes; `ratoon resume {instance}` serves them"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_connections_are_summed_and_a_nearly_full_queue_is_named() {
        let queue = |waiting, max| Some(Queue { waiting, max });
        let of = |queues: &[Option<Queue>]| Waiting::of(["a", "b", "c"].into_iter().zip(queues.iter().copied()));
        let calm = of(&[queue(79, 100), None, queue(1, 4096)]);
        assert_eq!((calm.text().as_str(), calm.warning("web")), ("80 connections wait (room for 4196)", None));
        let full = of(&[queue(80, 100), queue(90, 100), queue(0, 0)]);
        assert_eq!(full.text(), "170 connections wait (room for 200), a queue is nearly full");
        let warning = full.warning("web").expect("a warning");
        assert!(
            warning.starts_with("the queue of b is nearly full: 90 connections wait, and there is room for 100; "),
            "{warning}"
        );
        assert_eq!(of(&[None]).text(), "0 connections wait (room for 0)");
    }
}
