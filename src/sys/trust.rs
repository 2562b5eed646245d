//! Checks whether a user other than root may change the file at a path. Law 11: a root master executes and changes no file that
//! another user may write or rename.
//!
//! The check walks the path as the kernel does and inspects every directory, symlink and file on the way. When all of
//! them belong to root, the result stays true, since only root can change them.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::accounts;

/// The most symlinks on one path, as in path_resolution(7).
const SYMLINKS_MAX: u32 = 40;
/// Bytes of a script's first line that execve(2) reads (`BINPRM_BUF_SIZE`).
const FIRST_LINE_MAX: usize = 256;
/// The most interpreters that are scripts themselves; the kernel's limit is five.
const INTERPRETERS_MAX: usize = 5;

/// The first file or directory on a path that another user may change.
#[derive(Debug)]
pub struct Untrusted {
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Owner(u32),
    Group(u32),
    AccessList,
    Everyone,
    Unknown(io::Error),
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |name: Option<String>| name.map_or_else(String::new, |name| format!(" ({name})"));
        write!(f, "{} ", self.path.display())?;
        match &self.why {
            Why::Owner(uid) => write!(f, "belongs to user {uid}{}", named(accounts::name(*uid))),
            Why::Group(gid) => write!(f, "may be written to by group {gid}{}", named(accounts::group_name(*gid))),
            Why::AccessList => f.write_str("may be written to by those in its access control list (`getfacl` shows it)"),
            Why::Everyone => f.write_str("may be written to by everyone"),
            Why::Unknown(error) => write!(f, "cannot be looked at: {error}"),
        }
    }
}

/// Checks a program: its path, and the path of each interpreter that a script's first line names in turn. The path must be absolute.
///
/// # Errors
/// The first file or directory that another user may change.
pub fn check_program(path: &Path) -> Result<(), Untrusted> {
    let mut next = Some(path.to_path_buf());
    for _ in 0..=INTERPRETERS_MAX {
        let Some(program) = next else { break };
        next = interpreter(&check(&program)?);
    }
    Ok(())
}

/// Checks a path, which must be absolute, and returns it with all symlinks resolved.
///
/// # Errors
/// The first file or directory that another user may change.
pub fn check(path: &Path) -> Result<PathBuf, Untrusted> {
    let mut walked = PathBuf::from("/");
    inspect(&walked, &look_at(&walked)?)?;
    let mut left = parts(path);
    let mut symlinks = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            walked.pop();
            continue;
        }
        let next = walked.join(&name);
        let metadata = look_at(&next)?;
        inspect(&next, &metadata)?;
        if !metadata.is_symlink() {
            walked = next;
            continue;
        }
        symlinks += 1;
        if symlinks > SYMLINKS_MAX {
            return Err(Untrusted { path: next, why: Why::Unknown(io::Error::from_raw_os_error(libc::ELOOP)) });
        }
        let target = fs::read_link(&next).map_err(|error| Untrusted { path: next, why: Why::Unknown(error) })?;
        if target.is_absolute() {
            walked = PathBuf::from("/");
        }
        left.extend(parts(&target));
    }
    Ok(walked)
}

/// The components of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let named = |component: Component<'_>| matches!(component, Component::Normal(_) | Component::ParentDir);
    path.components().rev().filter(|it| named(*it)).map(|it| it.as_os_str().to_owned()).collect()
}

fn look_at(path: &Path) -> Result<Metadata, Untrusted> {
    fs::symlink_metadata(path).map_err(|error| Untrusted { path: path.to_owned(), why: Why::Unknown(error) })
}

fn inspect(path: &Path, metadata: &Metadata) -> Result<(), Untrusted> {
    let access_list = || rustix::fs::lgetxattr(path, c"system.posix_acl_access", &mut [0_u8; 0]).is_ok();
    let why = match untrusted(metadata.uid(), metadata.gid(), metadata.mode()) {
        // With an access control list, the group bits are its mask: the most that it grants to any user or group in it.
        None if !metadata.is_symlink() && metadata.mode() & 0o020 != 0 && access_list() => Some(Why::AccessList),
        why => why,
    };
    why.map_or(Ok(()), |why| Err(Untrusted { path: path.to_owned(), why }))
}

/// Decides by owner, group and mode whether another user may change a file; `None` if not.
fn untrusted(uid: u32, gid: u32, mode: u32) -> Option<Why> {
    let is = |kind: u32| mode & libc::S_IFMT == kind;
    if uid != 0 && !is_outside(uid) {
        return Some(Why::Owner(uid));
    }
    // The mode of a symlink has no meaning.
    if is(libc::S_IFLNK) {
        return None;
    }
    if mode & 0o020 != 0 && gid != 0 {
        return Some(Why::Group(gid));
    }
    let sticky = is(libc::S_IFDIR) && mode & libc::S_ISVTX != 0;
    (mode & 0o002 != 0 && !sticky).then_some(Why::Everyone)
}

/// Whether this number stands for the users outside of this user namespace (user_namespaces(7)). In such a namespace even `/`
/// may belong to this number, and no process in the namespace can have it.
fn is_outside(uid: u32) -> bool {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let overflow = || fs::read_to_string("/proc/sys/kernel/overflowuid").ok().as_deref().and_then(number);
    let is_mapped = |map: &str| {
        map.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().map(number);
            let (first, count) = (fields.next().flatten(), fields.nth(1).flatten());
            first.zip(count).is_none_or(|(first, count)| uid.checked_sub(first).is_some_and(|offset| offset < count))
        })
    };
    overflow() == Some(uid) && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_mapped(&map))
}

/// The interpreter that a script's first line names.
pub fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    File::open(path).ok()?.take(FIRST_LINE_MAX as u64).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsString::from_vec(word.to_vec()))).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_follows_owner_group_and_mode() {
        let of = |uid, gid, mode| untrusted(uid, gid, mode).map(|why| Untrusted { path: "/x".into(), why }.to_string());
        let (file, directory, link) = (libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK);
        for (uid, gid, mode) in
            [(0, 0, file | 0o755), (0, 0, file | 0o775), (0, 50, file | 0o755), (0, 0, directory | 0o1777), (0, 0, link | 0o777)]
        {
            assert_eq!(of(uid, gid, mode), None, "{uid} {gid} {mode:o}");
        }
        for (uid, gid, mode, expected) in [
            (4_000_001, 0, file | 0o755, "/x belongs to user 4000001"),
            (4_000_001, 0, link | 0o777, "/x belongs to user 4000001"),
            (0, 4_000_001, file | 0o775, "/x may be written to by group 4000001"),
            (0, 4_000_001, directory | 0o1775, "/x may be written to by group 4000001"),
            (0, 0, file | 0o1757, "/x may be written to by everyone"),
            (0, 0, directory | 0o757, "/x may be written to by everyone"),
        ] {
            assert_eq!(of(uid, gid, mode).as_deref(), Some(expected), "{uid} {gid} {mode:o}");
        }
    }

    #[test]
    fn check_follows_symlinks_and_names_what_is_missing() {
        assert_eq!(
            check(Path::new("/proc/../dev/./null")).map_err(|it| it.to_string()).unwrap_err(),
            "/dev/null may be written to by everyone"
        );
        let missing = check(Path::new("/usr/none/x")).unwrap_err().to_string();
        assert!(missing.starts_with("/usr/none cannot be looked at: No such file"), "{missing}");
        let shell = fs::canonicalize("/bin/sh").unwrap();
        assert_eq!(check(Path::new("/bin/sh")).unwrap(), shell);
        assert!(check_program(Path::new("/bin/sh")).is_ok());
    }

    #[test]
    fn interpreter_is_the_first_word_behind_the_mark() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("script");
        for (text, expected) in [
            ("#!/bin/sh\n", Some("/bin/sh")),
            ("#! \t/usr/bin/env python3\nx", Some("/usr/bin/env")),
            ("#!sh\n", None),
            ("#!", None),
            ("\x7fELF", None),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(interpreter(&file).as_deref(), expected.map(Path::new), "{text:?}");
        }
    }
}
