//! The open connections of the servers: whether new ones are accepted, and how many still wait for an answer.
//!
//! Law: a connection does not outlive the program that accepted it. Before an upgrade in place no new connection is accepted (it
//! waits in the kernel's queue for the next program), and connections that wait for an answer get it first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

use super::wire::ConnState;

/// The connections of one or more servers.
pub struct ConnectionRegistry {
    open: Mutex<Vec<Weak<ConnState>>>,
    accepting: watch::Sender<bool>,
}

impl Default for ConnectionRegistry {
    fn default() -> Self {
        ConnectionRegistry { open: Mutex::default(), accepting: watch::Sender::new(true) }
    }
}

impl ConnectionRegistry {
    /// Stops or resumes accepting connections. When it stops, streams of events end; their listeners reconnect.
    pub fn accept(&self, accept: bool) {
        self.accepting.send_replace(accept);
    }

    pub(super) fn accepting(&self) -> watch::Receiver<bool> {
        self.accepting.subscribe()
    }

    /// Number of connections that wait for an answer, or have sent no request yet. Requests that wait for the loop and streams of
    /// events don't count.
    pub fn busy(&self) -> usize {
        self.open().iter().filter_map(Weak::upgrade).filter(|turn| turn.is_busy()).count()
    }

    pub(super) fn enter(&self) -> Arc<ConnState> {
        let turn = Arc::default();
        let mut open = self.open();
        open.retain(|turn| turn.strong_count() > 0);
        open.push(Arc::downgrade(&turn));
        turn
    }

    fn open(&self) -> MutexGuard<'_, Vec<Weak<ConnState>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_counts_connections_until_their_first_answer() {
        let registry = ConnectionRegistry::default();
        let turn = registry.enter();
        assert_eq!(registry.busy(), 1, "no request yet");
        let serving = turn.begin();
        assert_eq!(registry.busy(), 1);
        drop(serving);
        assert_eq!(registry.busy(), 0);
        let again = turn.begin();
        assert_eq!(registry.busy(), 1);
        let asking = turn.ask();
        assert_eq!(registry.busy(), 0, "it waits for the loop");
        drop(asking);
        assert_eq!(registry.busy(), 1);
        turn.set_endless();
        assert_eq!(registry.busy(), 0, "a stream of events");
        drop((again, turn));
        assert_eq!(registry.busy(), 0);
    }
}
