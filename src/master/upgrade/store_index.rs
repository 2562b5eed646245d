//! StoreIndex of systemd's descriptor store: the names that it holds for this unit, and the messages still to be sent.
//!
//! Law: a name counts as held once systemd was told of it, not once that was decided. The held names are passed over an exec, and
//! the next program compares them with the names that it needs, so a decision that was not sent yet is not lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::master::state::Name;

/// The names in the descriptor store, and the pending changes.
#[derive(Default)]
pub struct StoreIndex {
    /// Names that systemd was told to keep and not told to drop.
    held: BTreeSet<Name>,
    /// Names that systemd holds once all of `pending` is sent.
    planned: BTreeSet<Name>,
    /// Changes to send, in this order: `Some`: keep this descriptor under the name; `None`: drop the name.
    pending: VecDeque<(Name, Option<OwnedFd>)>,
}

impl StoreIndex {
    /// Makes the index of a store that holds these names.
    pub fn of(held: BTreeSet<Name>) -> StoreIndex {
        StoreIndex { planned: held.clone(), held, pending: VecDeque::new() }
    }

    /// The names that systemd holds according to the messages sent so far.
    pub fn held(&self) -> &BTreeSet<Name> {
        &self.held
    }

    /// Whether the store holds this name, or will hold it once all changes are sent.
    pub fn has(&self, name: &str) -> bool {
        self.planned.contains(name)
    }

    /// Puts a descriptor under a name, and first drops the descriptor that the store has there.
    pub fn replace(&mut self, name: Name, fd: OwnedFd) {
        self.pending.push_back((name.clone(), None));
        self.planned.insert(name.clone());
        self.pending.push_back((name, Some(fd)));
    }

    /// Drops the descriptor under this name, so that another descriptor can take the name.
    pub fn give_up(&mut self, name: &Name) {
        if self.planned.remove(name) {
            self.pending.push_back((name.clone(), None));
        }
    }

    /// Makes the store hold these entries, the names of `always`, and no others. `make` makes the descriptor that systemd gets; an
    /// entry for which it fails is tried again at the next call. A name that begins with `replaced` is dropped only after the others
    /// are kept, and not while one of them is missing: they have its content, too.
    pub fn want<T>(
        &mut self,
        wanted: &BTreeMap<Name, T>,
        always: &[&str],
        replaced: &str,
        make: impl Fn(&Name, &T) -> io::Result<OwnedFd>,
    ) {
        let unwanted = |name: &Name| !wanted.contains_key(name) && !always.contains(&name.as_str());
        for name in self.planned.extract_if(.., |name| unwanted(name) && !name.starts_with(replaced)) {
            self.pending.push_back((name, None));
        }
        let mut complete = true;
        for (name, entry) in wanted {
            if self.planned.contains(name) {
                continue;
            }
            match make(name, entry) {
                Ok(fd) => {
                    self.planned.insert(name.clone());
                    self.pending.push_back((name.clone(), Some(fd)));
                }
                Err(_) => complete = false,
            }
        }
        for name in self.planned.extract_if(.., |name| complete && unwanted(name)) {
            self.pending.push_back((name, None));
        }
    }

    /// Sends pending changes until `tell` returns `false`, because systemd takes no more now. Returns `true` when all are sent.
    pub fn tell(&mut self, mut tell: impl FnMut(&Name, Option<BorrowedFd<'_>>) -> bool) -> bool {
        while let Some((name, fd)) = self.pending.pop_front() {
            if !tell(&name, fd.as_ref().map(AsFd::as_fd)) {
                self.pending.push_front((name, fd));
                return false;
            }
            match fd {
                Some(_) => self.held.insert(name),
                None => self.held.remove(&name),
            };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<Name> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Asks for these names; each gets an open descriptor.
    fn want(index: &mut StoreIndex, wanted: &[&str]) {
        let file = std::fs::File::open("/dev/null").unwrap();
        let wanted = names(wanted).into_iter().map(|name| (name, ())).collect();
        index.want(&wanted, &["state"], "bundle-", |_, ()| Ok(file.try_clone()?.into()));
    }

    /// Sends at most `at_most` changes, and returns them.
    fn tell(index: &mut StoreIndex, at_most: usize) -> Vec<String> {
        let mut told = Vec::new();
        index.tell(|name, fd| {
            let fits = told.len() < at_most;
            if fits {
                told.push(format!("{}{name}", if fd.is_some() { "+" } else { "-" }));
            }
            fits
        });
        told
    }

    #[test]
    fn index_tells_the_difference_once() {
        let mut index = StoreIndex::of(names(&["state", "page-1", "page-2"]));
        want(&mut index, &["page-2", "page-3"]);
        assert_eq!(tell(&mut index, 9), ["-page-1", "+page-3"]);
        want(&mut index, &["page-2", "page-3"]);
        assert_eq!(tell(&mut index, 9), [""; 0]);
        assert_eq!(index.held(), &names(&["state", "page-2", "page-3"]));
    }

    #[test]
    fn index_holds_only_what_was_told() {
        let mut index = StoreIndex::of(names(&["page-1", "page-2"]));
        want(&mut index, &["page-3", "page-4"]);
        assert_eq!(tell(&mut index, 3), ["-page-1", "-page-2", "+page-3"]);
        assert_eq!(index.held(), &names(&["page-3"]));
        // The next program begins with the held names, and sends the remaining changes.
        let mut next = StoreIndex::of(index.held().clone());
        want(&mut next, &["page-4"]);
        assert_eq!(tell(&mut next, 9), ["-page-3", "+page-4"]);
    }

    #[test]
    fn index_drops_before_it_keeps_a_replacement() {
        let mut index = StoreIndex::of(names(&["state"]));
        index.replace("state".to_owned(), std::fs::File::open("/dev/null").unwrap().into());
        assert_eq!(tell(&mut index, 1), ["-state"]);
        // The name is not held, so the next program must send it again.
        assert!(index.held().is_empty() && index.has("state"));
        assert_eq!(tell(&mut index, 9), ["+state"]);
    }

    #[test]
    fn index_tries_a_failed_copy_again() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let wanted = BTreeMap::from([("bundle-2".to_owned(), ())]);
        let mut index = StoreIndex::of(names(&["bundle-1"]));
        index.want(&wanted, &[], "bundle-", |_, ()| Err(io::ErrorKind::OutOfMemory.into()));
        assert_eq!(tell(&mut index, 9), [""; 0], "the earlier one stays");
        index.want(&wanted, &[], "bundle-", |_, ()| Ok(file.try_clone()?.into()));
        assert_eq!(tell(&mut index, 9), ["+bundle-2", "-bundle-1"]);
    }

    #[test]
    fn index_keeps_the_next_bundle_before_it_drops_the_earlier_one() {
        let mut index = StoreIndex::of(names(&["bundle-1", "process-1"]));
        want(&mut index, &["bundle-2", "process-2"]);
        assert_eq!(tell(&mut index, 9), ["-process-1", "+bundle-2", "+process-2", "-bundle-1"]);
    }
}
