//! Users and groups: getpwnam_r(3), getpwuid_r(3), getgrnam_r(3), getgrgid_r(3), getgrouplist(3), through the C library, so that every
//! source that the machine has configured (LDAP, systemd's own) is queried.
//!
//! Law: these functions may block on a directory server, so the loop must not call them.

use std::ffi::{CStr, CString};

/// A user's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The account's name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The account's primary group.
    pub gid: u32,
    /// All groups of the account, the primary group included.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: String,
    /// The login shell.
    pub shell: String,
}

/// The largest buffer for an entry, bytes.
const BUFFER_MAX: usize = 1 << 20;
/// The kernel's own limit of groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// Looks up an account by user name, else by number; `None` when there is none.
pub fn user(name: &str) -> Option<User> {
    let c_name = CString::new(name).ok()?;
    let by_name = |entry: *mut libc::passwd, buffer: &mut [u8], found: *mut *mut libc::passwd| {
        // SAFETY: the name is a C string; entry, buffer (with its length) and found are valid for writing during the call.
        unsafe { libc::getpwnam_r(c_name.as_ptr(), entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
    };
    entry(by_name, account).flatten().or_else(|| user_by_number(number(name)?))
}

/// Looks up an account by user number; `None` when there is none.
pub fn user_by_number(uid: u32) -> Option<User> {
    let by_number = |entry: *mut libc::passwd, buffer: &mut [u8], found: *mut *mut libc::passwd| {
        // SAFETY: entry, buffer (with its length) and found are valid for writing during the call.
        unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
    };
    entry(by_number, account).flatten()
}

/// Parses the number of a user or group, which consists of digits alone. 4294967295 is refused: to setresuid(2) and setresgid(2)
/// it means "leave unchanged".
pub fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}

fn account(passwd: &libc::passwd) -> Option<User> {
    let (uid, gid) = (passwd.pw_uid, passwd.pw_gid);
    // SAFETY: a found entry's texts point into the buffer, which lives as long as this function runs.
    let [name, home, shell] = [passwd.pw_name, passwd.pw_dir, passwd.pw_shell].map(|text| unsafe { text_of(text) });
    let groups = groups(&CString::new(name.as_str()).ok()?, gid);
    // See `number`.
    (uid != u32::MAX && gid != u32::MAX).then_some(User { name, uid, gid, groups, home, shell })
}

/// # Safety
/// The pointer is null, or points to a C string that lives during the call.
unsafe fn text_of(text: *const libc::c_char) -> String {
    // SAFETY: as for this function.
    if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
}

/// A user's name by number.
pub fn name(uid: u32) -> Option<String> {
    user_by_number(uid).map(|user| user.name)
}

/// A group's name by number.
pub fn group_name(gid: u32) -> Option<String> {
    let by_number = |entry: *mut libc::group, buffer: &mut [u8], found: *mut *mut libc::group| {
        // SAFETY: as in `user`.
        unsafe { libc::getgrgid_r(gid, entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
    };
    // SAFETY: as in `account`.
    entry(by_number, |group: &libc::group| unsafe { text_of(group.gr_name) })
}

/// A group's number by name or number. A number without an entry in the group database is accepted.
pub fn group(name: &str) -> Option<u32> {
    let c_name = CString::new(name).ok()?;
    let by_name = |entry: *mut libc::group, buffer: &mut [u8], found: *mut *mut libc::group| {
        // SAFETY: as in `user`.
        unsafe { libc::getgrnam_r(c_name.as_ptr(), entry, buffer.as_mut_ptr().cast(), buffer.len(), found) }
    };
    let found = entry(by_name, |group: &libc::group| group.gr_gid).filter(|gid| *gid != u32::MAX);
    found.or_else(|| number(name))
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
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
        assert!(root.groups.contains(&0));
        assert_eq!(user("0").as_ref(), Some(&root));
        assert_eq!(group("root"), Some(0));
        assert_eq!(user("no such user at all"), None);
        assert_eq!(group("no such group at all"), None);
        assert_eq!(name(0).as_deref(), Some("root"));
        assert_eq!(group_name(0).as_deref(), Some("root"));
        assert_eq!(name(4_000_000_001), None);
        assert_eq!(group_name(4_000_000_001), None);
        assert_eq!(user("4000000001"), None);
        assert_eq!(group("4000000001"), Some(4_000_000_001));
    }

    #[test]
    fn number_is_none_for_what_the_kernel_would_misread() {
        assert_eq!((number("0"), number("4294967294")), (Some(0), Some(u32::MAX - 1)));
        for text in ["", "4294967295", "4294967296", "18446744073709551615", "-1", "+1", " 1", "0x1", "1\0"] {
            assert_eq!(number(text), None, "{text:?}");
            assert_eq!((user(text), group(text)), (None, None), "{text:?}");
        }
    }

    #[test]
    fn user_by_number_has_the_accounts_groups() {
        // Includes accounts whose primary group has another number, where the machine has one (Debian: sync, 4, in nogroup).
        let table = std::fs::read_to_string("/etc/passwd").unwrap();
        for line in table.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else { continue };
            let by_number = user_by_number(uid.parse().unwrap()).unwrap();
            if by_number.name == name {
                assert_eq!(by_number.gid.to_string(), gid, "{line}");
                assert_eq!(user(uid), user(name), "{line}");
            }
        }
    }
}
