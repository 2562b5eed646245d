//! Conditions: what an operator must know of a configuration that is not wholly applied. They do not degrade the instance; what
//! does is in `troubles.rs`.
//!
//! Law: a condition stands in STATUS, in the status document and on D-Bus alike, for all three show the one summary.

use std::time::{Duration, Instant};

use crate::pool::GenerationId;

/// The time between two looks at a release for changed files.
const LOOK: Duration = Duration::from_secs(5);

/// The conditions of this moment.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Warnings of the reload that was prepared last.
    reload: Option<(GenerationId, Vec<String>)>,
    /// What the committed configuration asks for and is not done; each a sentence.
    unapplied: Vec<String>,
    /// When a release was last looked at for changed files.
    looked_at: Option<Instant>,
}

impl Conditions {
    /// A reload was prepared, with these warnings.
    pub fn prepared(&mut self, number: GenerationId, warnings: Vec<String>) {
        self.reload = Some((number, warnings));
    }

    /// The warnings of this reload.
    pub fn warnings(&self, number: GenerationId) -> &[String] {
        self.reload.as_ref().filter(|(of, _)| *of == number).map_or(&[], |(_, warnings)| warnings)
    }

    /// A generation was committed, and these parts of its configuration are not applied.
    pub fn committed(&mut self, unapplied: Vec<String>) {
        self.unapplied = unapplied;
    }

    /// Whether a release may be looked at for changed files now; not again for a while then, however many workers fail.
    pub fn may_look_for_changes(&mut self, now: Instant) -> bool {
        let may = self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK);
        if may {
            self.looked_at = Some(now);
        }
        may
    }

    /// The pool's line with the conditions behind it.
    pub fn line(&self, mut line: String) -> String {
        for sentence in &self.unapplied {
            line += "; ";
            line += sentence;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_stand_behind_the_line_of_the_pool() {
        let mut conditions = Conditions::default();
        let line = |conditions: &Conditions| conditions.line("generation 1: 2/2 ready".to_owned());
        assert_eq!(line(&conditions), "generation 1: 2/2 ready");
        conditions.committed(vec!["status.listen is not served".to_owned()]);
        assert_eq!(line(&conditions), "generation 1: 2/2 ready; status.listen is not served");
        conditions.committed(Vec::new());
        assert_eq!(line(&conditions), "generation 1: 2/2 ready");
    }

    #[test]
    fn changes_are_not_looked_for_at_every_failure() {
        let (mut conditions, now) = (Conditions::default(), Instant::now());
        assert!(conditions.may_look_for_changes(now));
        assert!(!conditions.may_look_for_changes(now + LOOK / 2));
        assert!(conditions.may_look_for_changes(now + LOOK));
    }

    #[test]
    fn warnings_belong_to_one_reload() {
        let mut conditions = Conditions::default();
        conditions.prepared(7, vec!["memory".to_owned()]);
        assert_eq!(conditions.warnings(7), ["memory"]);
        assert!(conditions.warnings(6).is_empty());
        conditions.prepared(8, Vec::new());
        assert!(conditions.warnings(7).is_empty() && conditions.warnings(8).is_empty());
    }
}
