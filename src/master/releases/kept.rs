//! The releases that are kept, as front ends show them.

use std::collections::VecDeque;

use crate::master::releases::prepare::Release;
use crate::master::releases::preparing::ReleaseStore;
use crate::master::status::history::time;
use crate::master::status::release_path::Paths;
use crate::pool::Committed;
use crate::status::tree;

impl ReleaseStore {
    /// The releases that are kept, as the status document shows them, newest first.
    pub fn history(&self, history: &VecDeque<Committed>) -> Vec<tree::Release> {
        history.iter().rev().map(|committed| self.entry(committed)).collect()
    }

    /// The paths from which a reload would read this release, and what they led to.
    pub fn paths(&self, release: &Release) -> Paths {
        let (program, identity) = (&release.plan.program, release.plan.program.identity());
        Paths {
            directory: release.config.worker.directory.clone().unwrap_or_else(|| self.source().directory.clone()),
            pinned_directory: release.plan.directory_path(),
            program: (program.path().to_owned(), identity.device, identity.inode),
        }
    }

    fn entry(&self, committed: &Committed) -> tree::Release {
        let (release, commit) = (self.get(committed.generation), self.commits().get(committed.generation));
        tree::Release {
            generation: committed.generation,
            release: committed.release,
            program: release.map(|release| shown_program(release)).unwrap_or_default(),
            directory: release.map(|release| shown_directory(release)).unwrap_or_default(),
            committed_at: commit.map(|commit| time(commit.at)),
            asked_by: commit.map(|commit| commit.asked_by.to_string()),
            ended: committed.ended.map(|ended| ended.as_str().to_owned()),
        }
    }
}

/// The path of a release's program.
pub fn shown_program(release: &Release) -> String {
    release.plan.program.path().display().to_string()
}

/// The path of a release's directory, symlinks resolved.
pub fn shown_directory(release: &Release) -> String {
    release.plan.directory_path().display().to_string()
}
