//! The listening sockets of a master that starts after another one died: the sockets from systemd's socket unit, and the copies in
//! the descriptor store.
//!
//! Law: the pool keeps every socket that it had. A socket unit that was restarted or changed meanwhile passes other sockets or
//! none; the workers serve the stored ones.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::fstat;

use crate::master::listeners::sockets::Listener;
use crate::master::state::fds::Incoming;
use crate::master::state::{self, LISTENER_PREFIX};

/// The listening sockets that were found.
#[derive(Debug, Default)]
pub struct Found {
    /// The sockets, in the order that the workers know.
    pub listeners: Arc<[Listener]>,
    /// Addresses of sockets that systemd did not pass: only the store has them.
    pub detached: Vec<String>,
    /// Addresses of sockets that systemd did not pass and the store does not have: only the workers have them.
    pub missing: Vec<String>,
    /// Addresses of sockets that systemd passes and no worker has.
    pub unserved: Vec<String>,
    /// Addresses that systemd has bound anew: the workers' old sockets there get no connections.
    pub bound_anew: Vec<String>,
}

/// Finds the sockets of the state among those that systemd passed (`came`) and in the store.
pub fn find(known: &[state::Listener], came: &[Listener], fds: &mut Incoming) -> Found {
    let mut came: Vec<&Listener> = came.iter().collect();
    let mut found = Found::default();
    let mut listeners = Vec::new();
    for wanted in known {
        let stored = fds.take(&wanted.fd).ok();
        let same = |it: &&Listener| stored.as_ref().is_some_and(|stored| is_same(stored, &it.fd));
        let alike = |it: &&Listener| it.name == wanted.name && it.address == wanted.address;
        let at = came.iter().position(same).or_else(|| came.iter().position(alike)).filter(|_| wanted.inherited);
        match (at.map(|at| came.swap_remove(at)), stored) {
            (Some(it), Some(stored)) if !is_same(&stored, &it.fd) => {
                fds.give_up(wanted.fd.clone());
                found.bound_anew.push(it.address.clone());
                listeners.push(it.clone());
            }
            (Some(it), _) => listeners.push(it.clone()),
            (None, Some(stored)) => {
                let listener = Listener::of(wanted.name.clone(), stored, wanted.inherited);
                if wanted.inherited {
                    found.detached.push(listener.address.clone());
                }
                listeners.push(listener);
            }
            (None, None) => found.missing.push(wanted.address.clone()),
        }
    }
    found.unserved.extend(came.iter().map(|it| it.address.clone()));
    found.listeners = listeners.into();
    found
}

/// The sockets when the state cannot be read: those that systemd passed, else the stored ones, each named after the instance.
pub fn without_state(came: Vec<Listener>, instance: &str, fds: &mut Incoming) -> Found {
    let stored = fds.take_all(LISTENER_PREFIX);
    if !came.is_empty() || stored.is_empty() {
        return Found { listeners: came.into(), ..Found::default() };
    }
    let listeners: Arc<[Listener]> = stored.into_iter().map(|(_, fd)| Listener::of(instance.to_owned(), fd, true)).collect();
    let detached = listeners.iter().map(|it| it.address.clone()).collect();
    Found { listeners, detached, ..Found::default() }
}

impl Found {
    /// A sentence about sockets that only the pool, or only the socket unit, has, with the command to type.
    pub fn detached_sentence(&self, instance: &str) -> Option<String> {
        let hint = hint(instance);
        let here = |what: &BTreeSet<&String>| what.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
        let (detached, unserved) = (self.detached.iter().collect::<BTreeSet<_>>(), self.unserved.iter().collect::<BTreeSet<_>>());
        match (detached.is_empty(), unserved.is_empty()) {
            (true, true) => None,
            (false, true) => {
                Some(format!("ratoon@{instance}.socket does not hold {}, only this pool does: {hint}", here(&detached)))
            }
            (true, false) => {
                Some(format!("ratoon@{instance}.socket also holds {}, which no worker has: {hint}", here(&unserved)))
            }
            (false, false) => Some(format!(
                "ratoon@{instance}.socket holds {}, but the workers have {}: {hint}",
                here(&unserved),
                here(&detached)
            )),
        }
    }

    /// A sentence about sockets that only the workers have.
    pub fn missing_sentence(&self, instance: &str) -> Option<String> {
        let missing = self.missing.join(", ");
        (!missing.is_empty()).then(|| format!("only the present workers hold {missing}: {}", hint(instance)))
    }
}

/// The commands that start an instance anew with the sockets of its socket unit. Not `start`: a socket unit that was changed while it was
/// active stays active without a socket.
pub fn hint(instance: &str) -> String {
    format!("`systemctl stop ratoon@{instance}`, then `systemctl restart ratoon@{instance}.socket ratoon@{instance}`")
}

/// Whether both descriptors are the same socket: each socket has an inode number of its own.
fn is_same(one: &OwnedFd, other: &Arc<OwnedFd>) -> bool {
    let identity = |fd: std::os::fd::BorrowedFd<'_>| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    identity(one.as_fd()).is_some_and(|own| identity(other.as_fd()) == Some(own))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listener(name: &str, fd: impl Into<OwnedFd>) -> Listener {
        Listener::of(name.to_owned(), fd.into(), true)
    }

    fn known(all: &[&Listener]) -> Vec<state::Listener> {
        let save = |(index, it): (usize, &&Listener)| state::Listener {
            name: it.name.clone(),
            fd: format!("{LISTENER_PREFIX}{index}"),
            address: it.address.clone(),
            inherited: it.inherited,
        };
        all.iter().enumerate().map(save).collect()
    }

    fn stored(all: &[&Listener]) -> Incoming {
        let copy = |(index, it): (usize, &&Listener)| (format!("{LISTENER_PREFIX}{index}"), it.fd.try_clone().unwrap());
        Incoming::by_name(all.iter().enumerate().map(copy).collect(), "")
    }

    fn tcp(name: &str) -> Listener {
        listener(name, TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn addresses(found: &Found) -> Vec<&str> {
        found.listeners.iter().map(|it| it.address.as_str()).collect()
    }

    #[test]
    fn sockets_that_came_back_are_in_the_old_order() {
        let (http, admin) = (tcp("http"), tcp("admin"));
        let found = find(&known(&[&http, &admin]), &[admin.clone(), http.clone()], &mut stored(&[&http, &admin]));
        assert_eq!(addresses(&found), [http.address.as_str(), admin.address.as_str()]);
        assert_eq!((found.detached_sentence("web"), found.missing_sentence("web")), (None, None));
        // An earlier version did not store the sockets.
        let found = find(&known(&[&http, &admin]), &[admin, http.clone()], &mut Incoming::default());
        assert_eq!(found.listeners.len(), 2);
        assert!(found.bound_anew.is_empty() && found.missing.is_empty());
    }

    #[test]
    fn a_socket_that_no_unit_holds_comes_from_the_store() {
        let http = tcp("http");
        let found = find(&known(&[&http]), &[], &mut stored(&[&http]));
        assert_eq!(addresses(&found), [http.address.as_str()]);
        let said = found.detached_sentence("web").unwrap();
        assert!(
            said.contains(&format!("does not hold {}", http.address)) && said.contains("`systemctl stop ratoon@web`"),
            "{said}"
        );
        // The unit has another address now; the workers keep the old one.
        let other = tcp("http");
        let found = find(&known(&[&http]), std::slice::from_ref(&other), &mut stored(&[&http]));
        assert_eq!(addresses(&found), [http.address.as_str()]);
        let said = found.detached_sentence("web").unwrap();
        assert!(said.contains(&format!("holds {}, but the workers have {}", other.address, http.address)), "{said}");
    }

    #[test]
    fn a_socket_bound_anew_takes_the_place_of_the_stored_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let old = listener("http", UnixListener::bind(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        let new = listener("http", UnixListener::bind(&path).unwrap());
        let mut fds = stored(&[&old]);
        let found = find(&known(&[&old]), std::slice::from_ref(&new), &mut fds);
        assert_eq!(found.bound_anew, std::slice::from_ref(&new.address));
        assert!(is_same(&new.fd.try_clone().unwrap(), &found.listeners[0].fd));
        assert!(fds.given_up().contains("listener-0"));
    }

    #[test]
    fn a_socket_that_is_nowhere_is_told() {
        let (http, admin) = (tcp("http"), tcp("admin"));
        let found = find(&known(&[&http, &admin]), std::slice::from_ref(&admin), &mut Incoming::default());
        assert_eq!((addresses(&found), &found.missing), (vec![admin.address.as_str()], &vec![http.address.clone()]));
        assert!(found.missing_sentence("web").unwrap().contains(&http.address));
    }

    #[test]
    fn without_a_state_the_stored_sockets_are_better_than_none() {
        let http = tcp("http");
        let found = without_state(Vec::new(), "web", &mut stored(&[&http]));
        assert_eq!((addresses(&found), found.listeners[0].name.as_str()), (vec![http.address.as_str()], "web"));
        assert!(found.detached_sentence("web").is_some());
        let found = without_state(vec![http.clone()], "web", &mut stored(&[&tcp("http")]));
        assert_eq!(addresses(&found), [http.address.as_str()]);
        assert_eq!(found.detached_sentence("web"), None);
    }
}
