//! What systemd's store of descriptors holds of this unit, and what it is still to be told.
//!
//! Law: a name is held once systemd was told of it, not once that was decided. What is held goes along over an exec, and the
//! next program compares it with what it needs: nothing is forgotten that was decided and not told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::fds::Name;

/// The account of the store.
#[derive(Default)]
pub struct Ledger {
    /// Names that systemd was told to keep and not told to drop.
    held: BTreeSet<Name>,
    /// Names that it holds once everything in `pending` is told.
    planned: BTreeSet<Name>,
    /// What it is to be told, in this order: keep this descriptor, or drop the name.
    pending: VecDeque<(Name, Option<OwnedFd>)>,
}

impl Ledger {
    /// Of a store that holds these names.
    pub fn of(held: BTreeSet<Name>) -> Ledger {
        Ledger { planned: held.clone(), held, pending: VecDeque::new() }
    }

    /// The names that systemd holds by all that it was told.
    pub fn held(&self) -> &BTreeSet<Name> {
        &self.held
    }

    /// The store is to hold, or will hold, this name.
    pub fn has(&self, name: &str) -> bool {
        self.planned.contains(name)
    }

    /// Puts a descriptor under a name, whatever is there now.
    pub fn replace(&mut self, name: Name, fd: OwnedFd) {
        self.pending.push_back((name.clone(), None));
        self.planned.insert(name.clone());
        self.pending.push_back((name, Some(fd)));
    }

    /// What the store holds under this name is dropped, so that another descriptor can have it.
    pub fn give_up(&mut self, name: &Name) {
        if self.planned.remove(name) {
            self.pending.push_back((name.clone(), None));
        }
    }

    /// The store is to hold these descriptors, those of `always`, and no others. `copy` makes what systemd gets; a descriptor
    /// that cannot be copied is tried again the next time.
    pub fn want(
        &mut self,
        wanted: &BTreeMap<&Name, BorrowedFd<'_>>,
        always: &[&str],
        copy: impl Fn(BorrowedFd<'_>) -> std::io::Result<OwnedFd>,
    ) {
        let unwanted = |name: &Name| !wanted.contains_key(name) && !always.contains(&name.as_str());
        for name in self.planned.extract_if(.., |name| unwanted(name)) {
            self.pending.push_back((name, None));
        }
        for (name, fd) in wanted {
            if !self.planned.contains(*name)
                && let Ok(fd) = copy(*fd)
            {
                self.planned.insert((*name).clone());
                self.pending.push_back(((*name).clone(), Some(fd)));
            }
        }
    }

    /// Tells what is to be told until `tell` says that systemd takes no more now. `true`: everything is told.
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

    /// Says what is wanted; every name has some open descriptor.
    fn want(ledger: &mut Ledger, wanted: &[&str]) {
        let file = std::fs::File::open("/dev/null").unwrap();
        let wanted = names(wanted);
        let wanted = wanted.iter().map(|name| (name, file.as_fd())).collect();
        ledger.want(&wanted, &["state"], |fd| fd.try_clone_to_owned());
    }

    /// Tells at most so many; gives what was told.
    fn tell(ledger: &mut Ledger, at_most: usize) -> Vec<String> {
        let mut told = Vec::new();
        ledger.tell(|name, fd| {
            let fits = told.len() < at_most;
            if fits {
                told.push(format!("{}{name}", if fd.is_some() { "+" } else { "-" }));
            }
            fits
        });
        told
    }

    #[test]
    fn ledger_tells_the_difference_once() {
        let mut ledger = Ledger::of(names(&["state", "page-1", "page-2"]));
        want(&mut ledger, &["page-2", "page-3"]);
        assert_eq!(tell(&mut ledger, 9), ["-page-1", "+page-3"]);
        want(&mut ledger, &["page-2", "page-3"]);
        assert_eq!(tell(&mut ledger, 9), [""; 0]);
        assert_eq!(ledger.held(), &names(&["state", "page-2", "page-3"]));
    }

    #[test]
    fn ledger_holds_only_what_was_told() {
        let mut ledger = Ledger::of(names(&["page-1", "page-2"]));
        want(&mut ledger, &["page-3", "page-4"]);
        assert_eq!(tell(&mut ledger, 3), ["-page-1", "-page-2", "+page-3"]);
        assert_eq!(ledger.held(), &names(&["page-3"]));
        // The next program begins with what is held, and tells the rest.
        let mut next = Ledger::of(ledger.held().clone());
        want(&mut next, &["page-4"]);
        assert_eq!(tell(&mut next, 9), ["-page-3", "+page-4"]);
    }

    #[test]
    fn ledger_drops_before_it_keeps_a_replacement() {
        let mut ledger = Ledger::of(names(&["state"]));
        ledger.replace("state".to_owned(), std::fs::File::open("/dev/null").unwrap().into());
        assert_eq!(tell(&mut ledger, 1), ["-state"]);
        // Not held: who goes on from here must tell it anew.
        assert!(ledger.held().is_empty() && ledger.has("state"));
        assert_eq!(tell(&mut ledger, 9), ["+state"]);
    }

    #[test]
    fn ledger_tries_a_failed_copy_again() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let name = "page-1".to_owned();
        let wanted = BTreeMap::from([(&name, file.as_fd())]);
        let mut ledger = Ledger::default();
        ledger.want(&wanted, &[], |_| Err(std::io::ErrorKind::OutOfMemory.into()));
        assert_eq!(tell(&mut ledger, 9), [""; 0]);
        ledger.want(&wanted, &[], |fd| fd.try_clone_to_owned());
        assert_eq!(tell(&mut ledger, 9), ["+page-1"]);
    }
}
