//! Troubles: problems that degrade the instance although its workers are well. Each is a sentence that says what to type.
//!
//! A trouble stays until it is ended, or until the master ends; an upgrade in place keeps it.

use std::collections::BTreeMap;

/// A listening socket that only this instance holds: the next stop closes it for good.
pub const DETACHED: &str = "sockets-detached";
/// A listening socket that only the workers hold.
pub const MISSING: &str = "sockets-missing";
/// Ready workers that do not accept connections.
pub const NOT_ACCEPTING: &str = "not-accepting";
/// An address of a socket unit for which systemd passed no socket.
pub const NOT_PASSED: &str = "sockets-not-passed";

/// The troubles of an instance by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles(BTreeMap<String, String>);

impl Troubles {
    /// The troubles that an earlier program saved.
    pub fn from_saved(saved: BTreeMap<String, String>) -> Troubles {
        Troubles(saved)
    }

    /// The troubles to save for the next program.
    pub fn saved(&self) -> BTreeMap<String, String> {
        self.0.clone()
    }

    /// Adds a trouble of this kind; the sentence has no full stop.
    ///
    /// Returns whether it is another sentence than before.
    pub fn begin(&mut self, kind: &str, sentence: String) -> bool {
        let before = self.0.insert(kind.to_owned(), sentence);
        before.as_ref() != self.0.get(kind)
    }

    /// Takes the trouble of this kind back; returns whether there was one.
    pub fn end(&mut self, kind: &str) -> bool {
        self.0.remove(kind).is_some()
    }

    /// Whether there is a trouble of this kind.
    pub fn has(&self, kind: &str) -> bool {
        self.0.contains_key(kind)
    }

    /// Whether there is no trouble.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sentences of all troubles.
    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// Why no new generation may be committed; `None` if one may.
    pub fn refusal(&self) -> Option<String> {
        self.0.get(MISSING).map(|why| format!("new workers would have fewer sockets than the present ones: {why}"))
    }

    /// The status line of the pool, followed by the troubles. With `degraded` the word "degraded" is not added to the line.
    pub fn add_to(&self, mut line: String, degraded: bool) -> String {
        if self.0.is_empty() {
            return line;
        }
        line += if degraded { "; " } else { ", degraded: " };
        line + &self.sentences().collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_stand_behind_the_status_line() {
        let mut troubles = Troubles::default();
        assert_eq!(troubles.add_to("generation 1: 2/2 ready".to_owned(), false), "generation 1: 2/2 ready");
        troubles.begin(MISSING, "no socket 1".to_owned());
        troubles.begin(DETACHED, "no unit 2".to_owned());
        assert_eq!(troubles.add_to("1/2 ready".to_owned(), false), "1/2 ready, degraded: no unit 2; no socket 1");
        assert_eq!(troubles.add_to("1/2 ready, degraded".to_owned(), true), "1/2 ready, degraded; no unit 2; no socket 1");
        assert_eq!(Troubles::from_saved(troubles.saved()), troubles);
        assert!(!troubles.begin(MISSING, "no socket 1".to_owned()) && troubles.begin(MISSING, "no socket 2".to_owned()));
        assert!(troubles.end(MISSING) && !troubles.end(MISSING) && !troubles.has(MISSING));
    }

    #[test]
    fn troubles_refuse_a_reload_only_without_a_socket() {
        let mut troubles = Troubles::default();
        troubles.begin(DETACHED, "no unit 2".to_owned());
        assert_eq!(troubles.refusal(), None);
        troubles.begin(MISSING, "no socket 1".to_owned());
        assert!(troubles.refusal().is_some_and(|why| why.ends_with("no socket 1")));
    }
}
