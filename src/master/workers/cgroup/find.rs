//! Finds the master's control group, and whether systemd delegated it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The directory of this process's cgroup v2 group, from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo` (proc(5)).
pub(super) fn own_group(cgroup: &str, mountinfo: &str) -> Option<PathBuf> {
    // "0::/system.slice/x.service"; a process outside of the cgroup namespace's root shows "/..".
    let group = Path::new(cgroup.lines().find_map(|line| line.strip_prefix("0::"))?);
    if !group.is_absolute() || group.components().any(|part| part.as_os_str() == "..") {
        return None;
    }
    let mounts = mountinfo.lines().rev().filter_map(|line| {
        // "36 35 98:0 ROOT MOUNTPOINT OPTIONS [OPTIONAL…] - TYPE SOURCE OPTIONS"
        let (front, back) = line.split_once(" - ")?;
        if back.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = front.split(' ').skip(3);
        Some((unescape(fields.next()?), unescape(fields.next()?)))
    });
    // A mount may show only a part of the hierarchy. The last mount that shows this group covers the earlier ones.
    let mut seen = mounts.filter_map(|(root, point)| Some(point.join(group.strip_prefix(&root).ok()?)));
    let found = seen.next()?;
    // `join` of an empty path leaves a slash at the end; collecting the components removes it.
    Some(found.components().collect())
}

/// Replaces octal escapes such as `\040`: blank, tab, newline and backslash are escaped in mountinfo.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) if bytes[at] == b'\\' => {
                out.push(digits.iter().fold(0u8, |value, digit| (value << 3) | (digit - b'0')));
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&out))
}

/// Whether systemd delegated this group to its processes. systemd sets an extended attribute (`user.delegate` since 251,
/// `trusted.delegate` before, which only root can read). Older versions only make the unit's user the owner of the directory.
pub(super) fn is_delegated(group: &Path) -> bool {
    let said = |name: &str| {
        let mut value = [0u8; 8];
        rustix::fs::getxattr(group, name, &mut value[..]).is_ok_and(|length| value.get(..length) == Some(b"1"))
    };
    if said("user.delegate") || said("trusted.delegate") {
        return true;
    }
    // A user's systemd owns all groups below its own, so ownership proves delegation only where the parent's owner is another user.
    let me = rustix::process::geteuid().as_raw();
    let owner = |path: &Path| path.metadata().ok().map(|data| data.uid());
    me != 0 && owner(group) == Some(me) && group.parent().and_then(owner).is_some_and(|above| above != me)
}

/// Whether this process's effective user owns the group's directory.
pub(super) fn is_ours(group: &Path) -> bool {
    group.metadata().is_ok_and(|data| data.uid() == rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 0:21 / /proc rw,nosuid - proc proc rw\n\
        30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn a_unit_on_a_pure_v2_machine() {
        let own = own_group("0::/system.slice/ratoon@web.service/master\n", MOUNTS);
        assert_eq!(own.as_deref(), Some(Path::new("/sys/fs/cgroup/system.slice/ratoon@web.service/master")));
    }

    #[test]
    fn the_root_group_has_no_slash_at_the_end() {
        assert_eq!(own_group("0::/\n", MOUNTS).expect("a path").as_os_str(), "/sys/fs/cgroup");
    }

    #[test]
    fn a_hybrid_machine_and_one_with_v1_only() {
        let hybrid = "40 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n41 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_group("4:memory:/a\n0::/b\n", hybrid).as_deref(), Some(Path::new("/sys/fs/cgroup/unified/b")));
        assert_eq!(own_group("4:memory:/a\n", hybrid), None);
        assert_eq!(own_group("0::/b\n", "40 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"), None);
    }

    #[test]
    fn a_mount_that_shows_a_part_only() {
        let part = "30 22 0:26 /payload /sys/fs/cg\\040roup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_group("0::/payload/x.service\n", part).as_deref(), Some(Path::new("/sys/fs/cg roup/x.service")));
        assert_eq!(own_group("0::/payloads\n", part), None);
    }

    #[test]
    fn outside_of_the_namespace_and_nonsense() {
        assert_eq!(own_group("0::/../other\n", MOUNTS), None);
        assert_eq!(own_group("0::\n", MOUNTS), None);
        assert_eq!(own_group("", ""), None);
        assert_eq!(own_group("0::/x", "- cgroup2\n1 2 - cgroup2\n1 2 3 / - cgroup2"), None);
        assert_eq!(unescape("a\\134b\\9\\04"), Path::new("a\\b\\9\\04"));
        assert_eq!(unescape("\\777").as_os_str().len(), 1);
    }
}
