//! Whether the configured paths still lead to the release that runs: a deployment moves a symlink before it reloads.
//!
//! Law: the file system may not answer. The look has a thread of its own, which may be lost, and the document waits a moment for it.

use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sys::thread;

/// How long a status document waits for the look.
const WAIT: Duration = Duration::from_millis(200);

/// The paths of a release, and what they led to when it was pinned.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `worker.directory` as it is configured.
    pub directory: PathBuf,
    /// The pinned directory, symlinks resolved.
    pub pinned_directory: PathBuf,
    /// The program's path, symlinks resolved, and its device and inode.
    pub program: (PathBuf, u64, u64),
}

/// Looks at the paths; at most one look at a time.
#[derive(Clone, Debug, Default)]
pub struct PathLook {
    under_way: Arc<AtomicBool>,
}

impl PathLook {
    /// Whether the paths lead to another release now. `None`: the file system did not answer in time.
    pub fn leads_elsewhere(&self, paths: Paths) -> Option<bool> {
        if self.under_way.swap(true, Ordering::SeqCst) {
            return None;
        }
        let under_way = self.under_way.clone();
        let look = move || {
            let elsewhere = look(&paths);
            under_way.store(false, Ordering::SeqCst);
            elsewhere
        };
        thread::bounded("ratoon-paths", WAIT, look).unwrap_or_else(|_| {
            self.under_way.store(false, Ordering::SeqCst);
            None
        })
    }
}

fn look(paths: &Paths) -> bool {
    let directory = std::fs::canonicalize(&paths.directory);
    let (program, device, inode) = &paths.program;
    directory.is_ok_and(|directory| directory != paths.pinned_directory)
        || identity(program).is_some_and(|found| found != (*device, *inode))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.st_dev(), found.st_ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn moved_symlink_and_replaced_program_lead_elsewhere() {
        let place = tempfile::tempdir().expect("a directory");
        let root = std::fs::canonicalize(place.path()).expect("a path");
        for release in ["v1", "v2"] {
            std::fs::create_dir(root.join(release)).expect("a release");
            std::fs::write(root.join(release).join("app"), release).expect("a program");
        }
        symlink("v1", root.join("current")).expect("a symlink");
        let program = root.join("v1/app");
        let (device, inode) = identity(&program).expect("a program");
        let paths = Paths {
            directory: root.join("current"),
            pinned_directory: root.join("v1"),
            program: (program.clone(), device, inode),
        };
        let look = PathLook::default();
        assert_eq!(look.leads_elsewhere(paths.clone()), Some(false));
        std::fs::remove_file(root.join("current")).expect("removed");
        symlink("v2", root.join("current")).expect("a symlink");
        assert!(super::look(&paths), "the symlink has moved");
        let paths = Paths { directory: root.join("v1"), ..paths };
        assert!(!super::look(&paths));
        std::fs::rename(root.join("v2/app"), &program).expect("replaced");
        assert!(super::look(&paths), "the program was replaced");
    }
}
