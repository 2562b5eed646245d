//! Conditions: parts of the configuration that are not applied, which an operator must know of. They do not degrade the instance;
//! see `troubles.rs` for what does.
//!
//! Law: STATUS=, the status document and D-Bus show the same conditions, because all three show the one summary.

use crate::pool::GenerationId;

/// The present conditions.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Warnings of the reload that was prepared last.
    reload: Option<(GenerationId, Vec<String>)>,
    /// Parts of the committed configuration that are not applied; each a sentence.
    unapplied: Vec<String>,
}

impl Conditions {
    /// Keeps the warnings of a reload that was prepared.
    pub fn prepared(&mut self, number: GenerationId, warnings: Vec<String>) {
        self.reload = Some((number, warnings));
    }

    /// The warnings of this reload.
    pub fn warnings(&self, number: GenerationId) -> &[String] {
        self.reload.as_ref().filter(|(of, _)| *of == number).map_or(&[], |(_, warnings)| warnings)
    }

    /// Keeps the parts of a committed generation's configuration that are not applied.
    pub fn committed(&mut self, unapplied: Vec<String>) {
        self.unapplied = unapplied;
    }

    /// The pool's status line, followed by the conditions.
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
    fn warnings_belong_to_one_reload() {
        let mut conditions = Conditions::default();
        conditions.prepared(7, vec!["memory".to_owned()]);
        assert_eq!(conditions.warnings(7), ["memory"]);
        assert!(conditions.warnings(6).is_empty());
        conditions.prepared(8, Vec::new());
        assert!(conditions.warnings(7).is_empty() && conditions.warnings(8).is_empty());
    }
}
