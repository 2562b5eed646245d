//! Bundles: descriptors of many workers that systemd's store holds as one, a socket in whose queue they wait (`SCM_RIGHTS`).
//!
//! Law: a bundle is read with `MSG_PEEK` and never emptied, so each master that follows finds the same in it. The descriptors of the
//! store count for the limit of open files of the next master, because systemd passes all of them; those in a queue do not.
//!
//! The name of a bundle depends on the names in it: a changed bundle is another one, and is in the store before the earlier one goes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::Name;
use crate::pool::Slot;
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};

/// Prefix of the name of a bundle in the store; two numbers follow.
pub const PREFIX: &str = "bundle-";
/// Upper bound of the descriptors in a bundle; the kernel's own is 253 (`SCM_MAX_FD`).
const MEMBERS_MAX: usize = 240;
/// Upper bound of the sum of their names, bytes.
const NAMES_MAX: usize = 16 << 10;
/// Slots whose workers share a bundle: a change of one worker makes the bundle of these slots anew, and no other.
const SLOTS: u32 = 32;

/// Descriptors by name.
pub type Members<'a> = Vec<(&'a Name, BorrowedFd<'a>)>;

/// Divides the descriptors of workers into bundles, each with its name. `workers`: the slot and the descriptors of each worker.
pub fn divide<'a>(workers: impl IntoIterator<Item = (Slot, Members<'a>)>) -> Vec<(Name, Members<'a>)> {
    let mut groups: BTreeMap<u32, Members<'a>> = BTreeMap::new();
    for (slot, members) in workers {
        groups.entry(slot / SLOTS).or_default().extend(members);
    }
    let parts = groups.iter().flat_map(|(group, members)| members.chunks(MEMBERS_MAX).map(move |part| (*group, part.to_vec())));
    parts.map(|(group, members)| (name(group, &members), members)).collect()
}

fn name(group: u32, members: &Members<'_>) -> Name {
    let mut hasher = DefaultHasher::new();
    members.iter().for_each(|(name, _)| name.hash(&mut hasher));
    format!("{PREFIX}{group}-{}", hasher.finish())
}

/// Makes a bundle of these descriptors.
///
/// # Errors
/// No descriptor is left, or as many descriptors wait in queues as this user may have there (`RLIMIT_NOFILE`; root is not limited).
pub fn pack(members: &[(&Name, BorrowedFd<'_>)]) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (inside, outside) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let names = members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("\n");
    let fds: Vec<BorrowedFd<'_>> = members.iter().map(|(_, fd)| *fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MEMBERS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = names.len() <= NAMES_MAX && fds.len() <= MEMBERS_MAX && control.push(SendAncillaryMessage::ScmRights(&fds));
    if !fits {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(&outside, &[IoSlice::new(names.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(dup_high(inside, RESERVED_FD_BASE))
}

/// Copies of the descriptors of a bundle, by name. The bundle stays as it is.
///
/// # Errors
/// The descriptor is no bundle, or there is no room for the copies.
pub fn unpack(bundle: &OwnedFd) -> io::Result<Vec<(Name, OwnedFd)>> {
    let (mut bytes, mut space) = ([0; NAMES_MAX], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MEMBERS_MAX))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(bundle, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights.map(|fd| dup_high(fd, RESERVED_FD_BASE)));
        }
    }
    let no_bundle = |_| io::Error::from(io::ErrorKind::InvalidData);
    let names = std::str::from_utf8(&bytes[..received.bytes]).map_err(no_bundle)?;
    let names: Vec<Name> = names.lines().map(str::to_owned).collect();
    // The kernel leaves out the descriptors for which the table of this process has no room.
    if names.len() != fds.len() || received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(names.into_iter().zip(fds).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::fs::fstat;

    use super::*;

    fn inode(fd: impl AsFd) -> u64 {
        fstat(fd).unwrap().st_ino
    }

    #[test]
    fn unpack_gives_the_same_descriptors_each_time() {
        let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let names = ["page-7".to_owned(), "notify-7".to_owned()];
        let members: Vec<_> = names.iter().zip(files.iter().map(AsFd::as_fd)).collect();
        let bundle = pack(&members).unwrap();
        let expected = files.each_ref().map(inode);
        drop(files);
        for _ in 0..3 {
            let members = unpack(&bundle).unwrap();
            assert_eq!(members.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
            assert_eq!(members.iter().map(|(_, fd)| inode(fd)).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn pack_refuses_too_many_descriptors() {
        let file = tempfile::tempfile().unwrap();
        let name = "page-18446744073709551615".to_owned();
        assert!(pack(&[(&name, file.as_fd()); MEMBERS_MAX + 1]).is_err());
        assert_eq!(unpack(&pack(&[(&name, file.as_fd()); MEMBERS_MAX]).unwrap()).unwrap().len(), MEMBERS_MAX);
    }

    #[test]
    fn unpack_refuses_what_is_no_bundle() {
        let (silent, _other) = UnixStream::pair().unwrap();
        assert!(unpack(&silent.into()).is_err());
        let (talks, other) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &other, b"page-7\nnotify-7").unwrap();
        assert!(unpack(&talks.into()).is_err());
        assert!(unpack(&tempfile::tempfile().unwrap().into()).is_err());
    }

    /// The bundles of workers, one a slot, each with two descriptors: names, and the number of descriptors in each.
    fn divided(ids: &[u64]) -> Vec<(Name, usize)> {
        let file = tempfile::tempfile().unwrap();
        let names: Vec<[Name; 2]> = ids.iter().map(|id| [format!("notify-{id}"), format!("page-{id}")]).collect();
        let workers = names.iter().map(|names| names.iter().map(|name| (name, file.as_fd())).collect());
        let bundles = divide((0..).zip(workers));
        bundles.into_iter().map(|(name, members)| (name, members.len())).collect()
    }

    #[test]
    fn divide_keeps_the_bundles_without_the_changed_worker() {
        let before = divided(&(1..=100).collect::<Vec<_>>());
        assert_eq!(before.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [64, 64, 64, 8]);
        assert!(before.iter().all(|(name, _)| crate::stored_name::is_stored(&format!("ratoon-{name}"))), "{before:?}");
        assert_eq!(before, divided(&(1..=100).collect::<Vec<_>>()));
        // Another worker in slot 40.
        let after = divided(&(1..=100).map(|id| if id == 41 { 101 } else { id }).collect::<Vec<_>>());
        assert_ne!(before[1], after[1]);
        assert_eq!((&before[0], &before[2..]), (&after[0], &after[2..]));
    }

    #[test]
    fn divide_makes_bundles_that_can_be_packed() {
        let file = tempfile::tempfile().unwrap();
        let names: Vec<Name> = (0..1000).map(|id| format!("page-{id}")).collect();
        // Many generations that drain have workers in one slot.
        let bundles = divide(names.iter().map(|name| (0, vec![(name, file.as_fd())])));
        assert_eq!(bundles.iter().map(|(_, members)| members.len()).sum::<usize>(), 1000);
        assert!(bundles.iter().all(|(_, members)| pack(members).is_ok()));
    }
}
