//! The descriptors that are passed from one master to the next, by name.
//!
//! Law: the saved state holds names, never numbers, so the same state can be passed by an exec and by systemd's descriptor store.
//! Received descriptors are owned at once and close-on-exec; those that are not taken are closed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::{Name, bundle};
use crate::sys::fd::{RESERVED_FD_BASE, dup_high, inherited};

/// Descriptors to pass on.
#[derive(Default)]
pub struct Outgoing<'a>(BTreeMap<Name, Fd<'a>>);

enum Fd<'a> {
    Ours(BorrowedFd<'a>),
    Copy(OwnedFd),
}

impl<'a> Outgoing<'a> {
    /// Adds a borrowed descriptor.
    pub fn lend(&mut self, name: Name, fd: BorrowedFd<'a>) -> Name {
        self.0.insert(name.clone(), Fd::Ours(fd));
        name
    }

    /// Adds a copy that was made for this purpose.
    pub fn give(&mut self, name: Name, fd: OwnedFd) -> Name {
        self.0.insert(name.clone(), Fd::Copy(fd));
        name
    }

    /// All descriptors with their names.
    pub fn named(&self) -> impl Iterator<Item = (&Name, BorrowedFd<'_>)> {
        self.0.iter().map(|(name, fd)| (name, fd.as_fd()))
    }

    /// All descriptors.
    pub fn all(&self) -> Vec<BorrowedFd<'_>> {
        self.0.values().map(Fd::as_fd).collect()
    }

    /// The number of each descriptor in this process.
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

/// Received descriptors.
#[derive(Debug, Default)]
pub struct Incoming {
    left: BTreeMap<Name, OwnedFd>,
    /// Names that systemd's descriptor store holds.
    held: BTreeSet<Name>,
    /// Names in the store whose descriptor is to be replaced by another one.
    given_up: BTreeSet<Name>,
}

impl Incoming {
    /// Takes descriptors by their numbers after an exec. A number that is not open is left out: the code that needs it reports that.
    pub fn by_number(numbers: &BTreeMap<Name, RawFd>) -> Incoming {
        let left = numbers
            .iter()
            .filter_map(|(name, number)| Some((name.clone(), dup_high(inherited(*number).ok()?, RESERVED_FD_BASE))))
            .collect();
        Incoming { left, ..Incoming::default() }
    }

    /// Takes descriptors by the names that they had in systemd's store; `prefix` is removed from the names. The descriptors in bundles
    /// have names of their own.
    pub fn by_name(stored: Vec<(String, OwnedFd)>, prefix: &str) -> Incoming {
        let name = |name: String| name.strip_prefix(prefix).map(str::to_owned);
        let mut left: BTreeMap<_, _> = stored.into_iter().filter_map(|(full, fd)| Some((name(full)?, fd))).collect();
        let held = left.keys().cloned().collect();
        let mut given_up = BTreeSet::new();
        for (name, fd) in left.extract_if(.., |name, _| name.starts_with(bundle::PREFIX)).collect::<Vec<_>>() {
            match bundle::unpack(&fd) {
                Ok(members) => left.extend(members),
                // The master makes a missing descriptor anew or does without it, and stores a new bundle in place of this one.
                Err(_) => drop(given_up.insert(name)),
            }
        }
        Incoming { left, held, given_up }
    }

    /// The names that systemd's store holds, as far as is known.
    pub fn held(&self) -> &BTreeSet<Name> {
        &self.held
    }

    /// Sets the names that systemd's store holds, as the earlier program reported them.
    pub fn now_held(&mut self, held: impl IntoIterator<Item = Name>) {
        self.held = held.into_iter().collect();
    }

    /// Marks the stored descriptor under this name as replaced by another one.
    pub fn give_up(&mut self, name: Name) {
        self.given_up.insert(name);
    }

    /// The names whose stored descriptor is replaced; see [`Incoming::give_up`].
    pub fn given_up(&self) -> &BTreeSet<Name> {
        &self.given_up
    }

    /// Returns a descriptor without taking it.
    pub fn get(&self, name: &str) -> Option<&OwnedFd> {
        self.left.get(name)
    }

    /// Takes the descriptor with this name.
    ///
    /// # Errors
    /// The descriptor was not received, or is taken already.
    pub fn take(&mut self, name: &str) -> io::Result<OwnedFd> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the descriptor {name} did not come"));
        self.left.remove(name).ok_or_else(missing)
    }

    /// Takes the descriptors whose names begin with `prefix`, with the rest of their names.
    pub fn take_all(&mut self, prefix: &str) -> Vec<(Name, OwnedFd)> {
        self.left
            .extract_if(.., |name, _| name.starts_with(prefix))
            .map(|(name, fd)| (name[prefix.len()..].to_owned(), fd))
            .collect()
    }
}
