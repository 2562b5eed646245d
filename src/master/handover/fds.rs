//! The descriptors that go from one master to the next, by name.
//!
//! Law: the saved state holds names, never numbers, so the same state can be carried by an exec and by systemd's store.
//! What comes in is owned at once and close-on-exec; what nobody takes is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::sys::fd::{STASH, inherited, stash};

/// A descriptor's name in the saved state: `process-7`, `listener-0`.
pub type Name = String;

/// What is given away.
#[derive(Default)]
pub struct Outgoing<'a>(BTreeMap<Name, Fd<'a>>);

enum Fd<'a> {
    Ours(BorrowedFd<'a>),
    Copy(OwnedFd),
}

impl<'a> Outgoing<'a> {
    /// One that stays open as long as this.
    pub fn lend(&mut self, name: Name, fd: BorrowedFd<'a>) -> Name {
        self.0.insert(name.clone(), Fd::Ours(fd));
        name
    }

    /// A copy that was made for this.
    pub fn give(&mut self, name: Name, fd: OwnedFd) -> Name {
        self.0.insert(name.clone(), Fd::Copy(fd));
        name
    }

    /// All of them, by name.
    pub fn named(&self) -> impl Iterator<Item = (&Name, BorrowedFd<'_>)> {
        self.0.iter().map(|(name, fd)| (name, fd.as_fd()))
    }

    /// All of them.
    pub fn all(&self) -> Vec<BorrowedFd<'_>> {
        self.0.values().map(Fd::as_fd).collect()
    }

    /// Which number each has in this process.
    pub fn numbers(&self) -> BTreeMap<Name, RawFd> {
        self.0.iter().map(|(name, fd)| (name.clone(), fd.as_fd().as_raw_fd())).collect()
    }
}

impl AsFd for Fd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Fd::Ours(fd) => *fd,
            Fd::Copy(fd) => fd.as_fd(),
        }
    }
}

/// What has come.
#[derive(Debug, Default)]
pub struct Incoming {
    left: BTreeMap<Name, OwnedFd>,
    taken: BTreeSet<Name>,
}

impl Incoming {
    /// By the numbers under which they came over an exec. A number that is not open is left out: whoever needs it says so.
    pub fn by_number(numbers: &BTreeMap<Name, RawFd>) -> Incoming {
        let left =
            numbers.iter().filter_map(|(name, number)| Some((name.clone(), stash(inherited(*number).ok()?, STASH)))).collect();
        Incoming { left, taken: BTreeSet::new() }
    }

    /// By the names under which systemd had them, without our prefix.
    pub fn by_name(stored: Vec<(String, OwnedFd)>, prefix: &str) -> Incoming {
        let name = |name: String| name.strip_prefix(prefix).map(str::to_owned);
        let left = stored.into_iter().filter_map(|(full, fd)| Some((name(full)?, fd))).collect();
        Incoming { left, taken: BTreeSet::new() }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.left.keys()
    }

    /// Which were taken.
    pub fn taken(&self) -> &BTreeSet<Name> {
        &self.taken
    }

    /// Looks at one without taking it.
    pub fn get(&self, name: &str) -> Option<&OwnedFd> {
        self.left.get(name)
    }

    /// The one with this name.
    ///
    /// # Errors
    /// It did not come, or somebody has taken it.
    pub fn take(&mut self, name: &str) -> io::Result<OwnedFd> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the descriptor {name} did not come"));
        let (name, fd) = self.left.remove_entry(name).ok_or_else(missing)?;
        self.taken.insert(name);
        Ok(fd)
    }

    /// Takes those whose name begins so, with the rest of their names.
    pub fn take_all(&mut self, prefix: &str) -> Vec<(Name, OwnedFd)> {
        let taken: Vec<_> = self.left.extract_if(.., |name, _| name.starts_with(prefix)).collect();
        self.taken.extend(taken.iter().map(|(name, _)| name.clone()));
        taken.into_iter().map(|(name, fd)| (name[prefix.len()..].to_owned(), fd)).collect()
    }

    /// Closes those whose name begins so.
    pub fn close(&mut self, prefix: &str) {
        self.left.retain(|name, _| !name.starts_with(prefix));
    }
}
