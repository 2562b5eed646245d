//! Checks whether this user may read, enter or execute the file at a path. If not, names the obstacle and the commands that remove it.
//!
//! The check is for the effective user of the calling thread. It may block (see `accounts`), so the loop must not call it.

use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::accounts;
use super::credentials::{own_gid, own_uid};

/// The kind of access to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Read a file.
    Read,
    /// Enter a directory.
    Enter,
    /// Execute a program.
    Execute,
}

/// An access that was denied, with its cause.
#[derive(Debug)]
pub struct Denied {
    path: PathBuf,
    /// The file that denies the access: the path itself, or a directory above it.
    obstacle: PathBuf,
    want: Want,
    owner: Option<(u32, u32, u32)>,
}

/// Checks whether this user has the wanted access to a path.
///
/// # Errors
/// The user has no such access, or the file does not exist.
pub fn check(path: &Path, want: Want) -> Result<(), Denied> {
    let access = if want == Want::Read { Access::READ_OK } else { Access::EXEC_OK };
    match rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(_) => Err(denied(path, want)),
    }
}

/// Checks whether this user may enter an open directory. The directories above it are not checked.
///
/// # Errors
/// The user may not enter it.
pub fn check_directory(directory: impl AsFd, path: &Path) -> Result<(), Denied> {
    let entered = rustix::fs::accessat(directory, c".", Access::EXEC_OK, AtFlags::EACCESS);
    entered.map_err(|_| Denied { path: path.to_owned(), obstacle: path.to_owned(), want: Want::Enter, owner: facts(path) })
}

/// Finds the cause for a path to which access was denied.
pub fn denied(path: &Path, want: Want) -> Denied {
    let closed = |directory: &&Path| {
        !directory.as_os_str().is_empty() && rustix::fs::accessat(CWD, *directory, Access::EXEC_OK, AtFlags::EACCESS).is_err()
    };
    // Begin at the root, since nothing below a directory that denies access can be checked.
    let above: Vec<&Path> = path.ancestors().skip(1).collect();
    let (obstacle, want) = match above.into_iter().rev().find(closed) {
        Some(directory) => (directory, Want::Enter),
        None => (path, want),
    };
    Denied { path: path.to_owned(), obstacle: obstacle.to_owned(), want, owner: facts(obstacle) }
}

/// Owner, group and mode of a file.
fn facts(path: &Path) -> Option<(u32, u32, u32)> {
    std::fs::metadata(path).ok().map(|it| (it.uid(), it.gid(), it.mode() & 0o7777))
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = accounts::name(own_uid()).unwrap_or_else(|| own_uid().to_string());
        let group = accounts::group_name(own_gid()).unwrap_or_else(|| own_gid().to_string());
        let obstacle = self.obstacle.display();
        let what = if self.obstacle == self.path { "it".to_owned() } else { format!("the directory {obstacle}") };
        let (verb, mode) = match self.want {
            Want::Read => ("read", "640"),
            Want::Enter => ("enter", "g+x"),
            Want::Execute => ("execute", "g+rx"),
        };
        write!(f, "user {user} may not {verb} {what}")?;
        if let Some((uid, gid, bits)) = self.owner {
            let owner = accounts::name(uid).unwrap_or_else(|| uid.to_string());
            let of = accounts::group_name(gid).unwrap_or_else(|| gid.to_string());
            write!(f, ", which belongs to {owner}:{of} with mode {bits:04o}")?;
        }
        write!(f, "; give it to that user's group: chgrp {group} {obstacle} && chmod {mode} {obstacle}")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn denied_names_the_first_closed_directory() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("closed/file");
        std::fs::create_dir(place.path().join("closed")).unwrap();
        std::fs::write(&file, "").unwrap();
        assert!(check(&file, Want::Read).is_ok());
        // No user may execute a file without an execute bit, not even root.
        let words = check(&file, Want::Execute).unwrap_err().to_string();
        let user = accounts::name(own_uid()).unwrap_or_else(|| own_uid().to_string());
        assert!(words.starts_with(&format!("user {user} may not execute it, which belongs to {user}:")), "{words}");
        let missing = denied(&place.path().join("none/file"), Want::Read);
        assert_eq!((missing.want, missing.obstacle), (Want::Enter, place.path().join("none")));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
        let words = denied(&file, Want::Read).to_string();
        assert!(words.contains("with mode 0000; give it to that user's group: chgrp "), "{words}");
        assert!(words.ends_with(&format!(" && chmod 640 {}", file.display())), "{words}");
    }
}
