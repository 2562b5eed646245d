//! The text of a failed start of a worker's process, with the path and the user where these are the cause.

use std::os::fd::AsRawFd;

use crate::master::releases::prepare::Release;
use crate::sys::spawn::{SpawnError, Stage, describe};

/// The text, such as `chdir to /srv/web as user web: Permission denied`. For all stages but chdir(2) it is the error's own text.
pub fn in_words(error: &SpawnError, release: &Release) -> String {
    if error.stage != Stage::Chdir {
        return error.to_string();
    }
    let link = format!("/proc/self/fd/{}", release.plan.directory.as_raw_fd());
    let path = std::fs::read_link(link).map_or_else(|_| "worker.directory".to_owned(), |path| path.display().to_string());
    let user = release.config.worker.user.as_ref().map_or_else(String::new, |user| format!(" as user {user}"));
    format!("chdir to {path}{user}: {}", describe(error.errno))
}
