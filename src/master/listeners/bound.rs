//! The sockets that the master bound itself, at the end of the instance: the master closes its copies, so that a socket is closed as soon as
//! the last worker closes it. A connection that comes later is refused at once, instead of waiting for an end that resets it.
//!
//! Law: a socket of systemd stays open, because the next instance serves what waits there. An accept queue that a worker still empties stays
//! until that worker is told to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::sockets::{Listener, Slots};
use crate::pool::Queue;
use crate::status::kernel::{self, Watched};
use crate::sys::fd::replace;

/// Which of the bound sockets are closed.
#[derive(Debug, Default)]
pub(super) struct BoundSockets {
    /// The closed ones by their numbers, which are those of sockets that listen nowhere since.
    closed: BTreeMap<RawFd, kernel::Listener>,
    placeholder: Option<OwnedFd>,
}

impl BoundSockets {
    /// Closes the sockets that the master bound itself, but those of the queues `draining`.
    pub fn close(&mut self, listeners: &[Listener], slots: &Slots, draining: &BTreeSet<Queue>) {
        let draining: Vec<RawFd> = slots.at(draining).into_iter().map(|socket| socket.as_raw_fd()).collect();
        let own = listeners.iter().filter(|listener| !listener.inherited).map(|listener| &listener.fd);
        for socket in own.chain(slots.made().map(|(_, _, socket)| socket)) {
            if !draining.contains(&socket.as_raw_fd()) {
                self.close_one(socket);
            }
        }
    }

    /// How the kernel knows the socket, of which the workers have copies.
    pub fn watched(&self, socket: Arc<OwnedFd>) -> Watched {
        self.closed.get(&socket.as_raw_fd()).cloned().map_or(Watched::Open(socket), Watched::Closed)
    }

    /// Without a free descriptor the socket stays open until the master exits.
    fn close_one(&mut self, socket: &Arc<OwnedFd>) {
        let Some(listener) = kernel::Listener::of(socket).filter(|_| !self.closed.contains_key(&socket.as_raw_fd())) else {
            return;
        };
        if self.placeholder.is_none() {
            self.placeholder = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok();
        }
        if let Some(placeholder) = &self.placeholder
            && replace(socket.as_fd(), placeholder.as_fd()).is_ok()
        {
            self.closed.insert(socket.as_raw_fd(), listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::master::listeners::sockets::bind;

    fn is_refused(address: &str) -> bool {
        TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }

    #[test]
    fn bound_socket_is_closed_with_the_last_copy_of_a_worker() {
        let (mut bound, listener) = (BoundSockets::default(), bind("127.0.0.1:0").expect("a socket"));
        let of_worker = TcpListener::from(listener.fd.try_clone().expect("a copy"));
        let address = listener.address.clone();
        let of_systemd = Listener::of("web".to_owned(), TcpListener::bind("127.0.0.1:0").expect("a socket").into(), true);
        let (kept, inode) = (listener.fd.clone(), rustix::fs::fstat(&listener.fd).expect("a socket").st_ino);
        let listeners = [listener, of_systemd];
        bound.close(&listeners, &Slots::default(), &BTreeSet::new());
        // A survey still knows the socket, and this process, which has the worker's copy, as its server.
        let watched = [bound.watched(kept.clone())];
        assert!(matches!(watched, [Watched::Closed(_)]));
        assert_eq!(kernel::serving(&[std::process::id()], &watched), [std::process::id()]);
        // What waits in the queue is the worker's; the socket of systemd stays.
        let _waits = TcpStream::connect(&address).expect("a connection");
        of_worker.accept().expect("the connection");
        drop(of_worker);
        assert!(is_refused(&address) && !is_refused(&listeners[1].address));
        // Every owner of the descriptor has another socket now, which a second call leaves alone.
        bound.close(&listeners, &Slots::default(), &BTreeSet::new());
        assert_ne!(rustix::fs::fstat(&kept).expect("a socket").st_ino, inode);
        assert!(matches!(bound.watched(listeners[1].fd.clone()), Watched::Open(_)));
    }

    #[test]
    fn socket_of_a_slot_stays_while_a_worker_empties_its_queue() {
        let (mut bound, mut slots) = (BoundSockets::default(), Slots::default());
        let listeners = [bind("127.0.0.1:0").expect("a socket")];
        slots.ensure(&listeners, [0, 1].map(Queue::of_slot)).expect("sockets");
        bound.close(&listeners, &slots, &BTreeSet::from([Queue::of_slot(1)]));
        let second = slots.of(&listeners, Queue::of_slot(1)).remove(0);
        let _waits = TcpStream::connect(&listeners[0].address).expect("a connection");
        assert_eq!(slots.waiting(Queue::of_slot(1)), 1);
        TcpListener::from(second.try_clone().expect("a copy")).accept().expect("the connection");
        bound.close(&listeners, &slots, &BTreeSet::new());
        assert!(is_refused(&listeners[0].address));
    }
}
