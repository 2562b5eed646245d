//! Users and groups by name: getpwnam_r(3), getpwuid_r(3), getgrnam_r(3), getgrouplist(3), through the C library, so that every
//! source that the machine knows (LDAP, systemd's own) is asked.
//!
//! Law: may block (a directory server), so never on the loop.

use std::ffi::{CStr, CString};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    /// All groups that it is in.
    pub groups: Vec<u32>,
}

/// Buffers grow to at most this.
const BUFFER_MAX: usize = 1 << 20;
/// The kernel's own limit of groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// A user by name or number; `None` when there is none of that name.
pub fn user(name: &str) -> Option<User> {
    let name = CString::new(name).ok()?;
    let by_name = |entry: *mut libc::passwd, buffer: &mut [u8], found: *mut *mut libc::passwd| {
        // SAFETY: the name is a C string; entry, buffer (with its length) and found are valid for writing during the call.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
    };
    let found = entry(by_name, |passwd: &libc::passwd| {
        // SAFETY: a found entry's name points into the buffer, which lives as long as this closure runs.
        (passwd.pw_uid, passwd.pw_gid, unsafe { CStr::from_ptr(passwd.pw_name) }.to_owned())
    });
    match found {
        Some((uid, gid, name)) => Some(User { uid, gid, groups: groups(&name, gid) }),
        None => name.to_str().ok()?.parse().ok().map(|uid| User { uid, gid: uid, groups: Vec::new() }),
    }
}

/// A user's name by number.
pub fn name(uid: u32) -> Option<String> {
    let by_number = |entry: *mut libc::passwd, buffer: &mut [u8], found: *mut *mut libc::passwd| {
        // SAFETY: entry, buffer (with its length) and found are valid for writing during the call.
        unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
    };
    entry(by_number, |passwd: &libc::passwd| {
        // SAFETY: a found entry's name points into the buffer, which lives as long as this closure runs.
        unsafe { CStr::from_ptr(passwd.pw_name) }.to_str().ok().map(str::to_owned)
    })
    .flatten()
}

/// A group's number by name or number.
pub fn group(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let by_name = |entry: *mut libc::group, buffer: &mut [u8], found: *mut *mut libc::group| {
        // SAFETY: as in `user`.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
    };
    entry(by_name, |group: &libc::group| group.gr_gid).or_else(|| name.to_str().ok()?.parse().ok())
}

/// Calls one of the `_r` functions with a buffer that is large enough.
fn entry<E, T>(call: impl Fn(*mut E, &mut [u8], *mut *mut E) -> i32, take: impl Fn(&E) -> T) -> Option<T> {
    let mut buffer = vec![0_u8; 4096];
    loop {
        let mut entry = std::mem::MaybeUninit::<E>::uninit();
        let mut found: *mut E = std::ptr::null_mut();
        match call(entry.as_mut_ptr(), &mut buffer, &mut found) {
            libc::ERANGE if buffer.len() < BUFFER_MAX => buffer.resize(buffer.len() * 2, 0),
            // SAFETY: not null means that it points to `entry`, which was filled in.
            0 => return unsafe { found.as_ref() }.map(take),
            _ => return None,
        }
    }
}

fn groups(name: &CStr, gid: u32) -> Vec<u32> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut count = groups.len() as i32;
        // SAFETY: the name is a C string; `groups` has room for `count` numbers and `count` is written back.
        let fits = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) } >= 0;
        if fits {
            groups.truncate(count.max(0) as usize);
            return groups;
        }
        if groups.len() >= GROUPS_MAX {
            return vec![gid];
        }
        groups.resize(groups.len() * 2, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_there_and_nobody_else_is_made_up() {
        let root = user("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(group("root"), Some(0));
        assert_eq!(user("no such user at all"), None);
        assert_eq!(group("no such group at all"), None);
        assert_eq!(name(0).as_deref(), Some("root"));
        assert_eq!(name(4_000_000_001), None);
        assert_eq!(user("12345").map(|user| user.uid), Some(12_345));
    }
}
