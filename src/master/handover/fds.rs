//! The descriptors that go from one master to the next, by name.
//!
//! Law: the saved state holds names, never numbers, so the same state can be carried by an exec and by systemd's store.
//! What comes in is owned at once and close-on-exec; what nobody takes is closed.

use std::collections::BTreeMap;
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
pub struct Incoming(BTreeMap<Name, OwnedFd>);

impl Incoming {
    /// By the numbers under which they came over an exec. A number that is not open is left out: whoever needs it says so.
    pub fn by_number(numbers: &BTreeMap<Name, RawFd>) -> Incoming {
        Incoming(
            numbers.iter().filter_map(|(name, number)| Some((name.clone(), stash(inherited(*number).ok()?, STASH)))).collect(),
        )
    }

    /// The one with this name.
    ///
    /// # Errors
    /// It did not come, or somebody has taken it.
    pub fn take(&mut self, name: &str) -> io::Result<OwnedFd> {
        self.0.remove(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the descriptor {name} did not come")))
    }
    /// Closes those whose name begins so.
    pub fn close(&mut self, prefix: &str) {
        self.0.retain(|name, _| !name.starts_with(prefix));
    }
}
