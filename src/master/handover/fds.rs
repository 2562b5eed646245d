//! The descriptors that go from one master to the next, by name.
//!
//! Law: the saved state holds names, never numbers, so the same state can be carried by an exec and by systemd's store.
//! What comes in is owned at once and close-on-exec; what nobody takes is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::sys::fd::{RESERVED_FD_BASE, dup_high, inherited};

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
    /// Names that systemd's store holds.
    held: BTreeSet<Name>,
    /// Names under which that store holds a descriptor that another takes the place of.
    given_up: BTreeSet<Name>,
}

impl Incoming {
    /// By the numbers under which they came over an exec. A number that is not open is left out: whoever needs it says so.
    pub fn by_number(numbers: &BTreeMap<Name, RawFd>) -> Incoming {
        let left = numbers
            .iter()
            .filter_map(|(name, number)| Some((name.clone(), dup_high(inherited(*number).ok()?, RESERVED_FD_BASE))))
            .collect();
        Incoming { left, ..Incoming::default() }
    }

    /// By the names under which systemd had them, without our prefix.
    pub fn by_name(stored: Vec<(String, OwnedFd)>, prefix: &str) -> Incoming {
        let name = |name: String| name.strip_prefix(prefix).map(str::to_owned);
        let left: BTreeMap<_, _> = stored.into_iter().filter_map(|(full, fd)| Some((name(full)?, fd))).collect();
        let held = left.keys().cloned().collect();
        Incoming { left, held, ..Incoming::default() }
    }

    /// The names that systemd's store holds, as far as is known.
    pub fn held(&self) -> &BTreeSet<Name> {
        &self.held
    }

    /// The program before has said what systemd's store holds.
    pub fn now_held(&mut self, held: impl IntoIterator<Item = Name>) {
        self.held = held.into_iter().collect();
    }

    /// What systemd's store holds under this name is not needed any more; another descriptor takes its place.
    pub fn give_up(&mut self, name: Name) {
        self.given_up.insert(name);
    }

    /// See [`Incoming::give_up`].
    pub fn given_up(&self) -> &BTreeSet<Name> {
        &self.given_up
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
        self.left.remove(name).ok_or_else(missing)
    }

    /// Takes those whose name begins so, with the rest of their names.
    pub fn take_all(&mut self, prefix: &str) -> Vec<(Name, OwnedFd)> {
        self.left
            .extract_if(.., |name, _| name.starts_with(prefix))
            .map(|(name, fd)| (name[prefix.len()..].to_owned(), fd))
            .collect()
    }
}
