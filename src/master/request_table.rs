//! Requesters that wait for an answer. Each gets exactly one, after the state that the answer describes is published.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::api::{Reply, RequesterId};

/// The requester of a reload for which nobody waits.
const UNATTENDED: &str = "SIGHUP, or a call that wants no reply";

/// Requesters that wait, and the answers that are still to be sent.
#[derive(Default)]
pub(super) struct RequestTable {
    /// Each with its channel and what is known of it: `user 0 on the control socket`.
    waiting: HashMap<RequesterId, (oneshot::Sender<Reply>, Arc<str>)>,
    reload_asked_by: Arc<str>,
    answers: Vec<(oneshot::Sender<Reply>, Reply)>,
}

impl RequestTable {
    /// Adds a requester, whose answer goes to `reply`.
    pub(super) fn insert(&mut self, requester: RequesterId, reply: oneshot::Sender<Reply>, by: Arc<str>) {
        self.waiting.insert(requester, (reply, by));
    }

    /// A reload began for this requester: notes who asked for it, in words. Without a waiting requester it was a signal, or a call that
    /// wants no reply; `own`: the key by which the pool itself has begun it.
    pub(super) fn reload_started(&mut self, requester: Option<RequesterId>, own: Option<&str>) {
        let waiting = requester.and_then(|requester| self.waiting.get(&requester));
        self.reload_asked_by = waiting.map_or_else(|| own.unwrap_or(UNATTENDED).into(), |(_, by)| by.clone());
    }

    /// The requester of the last reload, in words.
    pub(super) fn reload_asked_by(&self) -> Arc<str> {
        self.reload_asked_by.clone()
    }

    /// Stores the answer for a requester; [`Self::send`] sends it. `false` if the requester does not wait (any more).
    pub(super) fn answer(&mut self, requester: RequesterId, answer: Reply) -> bool {
        let Some((reply, _)) = self.waiting.remove(&requester) else { return false };
        self.answers.push((reply, answer));
        true
    }

    /// Stores an answer for a receiver that is no requester: `reload.on_rollback`, which learns the outcome of every failed reload.
    pub(super) fn add_answer(&mut self, reply: oneshot::Sender<Reply>, answer: Reply) {
        self.answers.push((reply, answer));
    }

    /// Answers at once, for a master that is about to replace its program: no turn of the loop follows.
    pub(super) fn answer_now(&mut self, requester: RequesterId, answer: Reply) {
        if let Some((reply, _)) = self.waiting.remove(&requester) {
            // A requester that went away meanwhile needs no answer.
            let _ = reply.send(answer);
        }
    }

    /// Removes a requester that went away. `false` if it was answered before.
    pub(super) fn remove(&mut self, requester: RequesterId) -> bool {
        self.waiting.remove(&requester).is_some()
    }

    /// The requesters that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = RequesterId> {
        self.waiting.keys().copied()
    }

    /// Whether answers are still to be sent.
    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Sends the stored answers, each completed by `complete`. Answers that `holds_back` selects stay for a later turn.
    pub(super) fn send(&mut self, holds_back: impl Fn(&Reply) -> bool, complete: impl Fn(&mut Reply)) {
        for (reply, mut answer) in self.answers.extract_if(.., |(_, answer)| !holds_back(answer)) {
            complete(&mut answer);
            let _ = reply.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_requester_is_answered_once_and_when_sent() {
        let mut table = RequestTable::default();
        let (reply, mut answer) = oneshot::channel();
        table.insert(1, reply, "user 0".into());
        table.reload_started(Some(1), None);
        assert_eq!(&*table.reload_asked_by(), "user 0");
        table.reload_started(None, Some("reload.watch"));
        assert_eq!(&*table.reload_asked_by(), "reload.watch");
        table.reload_started(None, None);
        assert_eq!(&*table.reload_asked_by(), UNATTENDED);
        assert!(table.answer(1, Reply::Done) && table.has_answers());
        assert!(!table.answer(1, Reply::Failed("twice".to_owned())), "it does not wait any more");
        assert!(answer.try_recv().is_err(), "told before it was sent");
        table.send(|_| false, |_| ());
        assert_eq!(answer.try_recv(), Ok(Reply::Done));
        assert!(!table.has_answers() && table.waiting().next().is_none());
    }

    #[test]
    fn held_back_answers_go_out_later() {
        let mut table = RequestTable::default();
        let (reply, mut answer) = oneshot::channel();
        table.insert(7, reply, Arc::default());
        table.answer(7, Reply::Done);
        table.send(|answer| *answer == Reply::Done, |_| ());
        assert!(answer.try_recv().is_err() && table.has_answers());
        table.send(|_| false, |_| ());
        assert_eq!(answer.try_recv(), Ok(Reply::Done));
    }

    #[test]
    fn requester_that_went_away_is_not_answered() {
        let mut table = RequestTable::default();
        let (reply, answer) = oneshot::channel();
        table.insert(3, reply, Arc::default());
        drop(answer);
        assert!(table.remove(3) && !table.remove(3));
        assert!(!table.answer(3, Reply::Done) && !table.has_answers());
        table.answer_now(3, Reply::Done);
    }
}
