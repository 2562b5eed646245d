//! A socket for each slot (`worker.balance = "per-slot"`). Each TCP address has as many sockets as there are slots. The master holds
//! all of them, and passes a slot's socket to the old and the new worker of the slot.
//!
//! Law: no slot socket is closed while the instance lives. The kernel numbers the sockets of an address in the order of their
//! listen(2), and gives the number of a closed socket to the last one; the order of `Group::sockets` is the kernel's. A removed slot
//! keeps its socket for its return; no connection is steered to it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{ipproto, sockopt};

use super::slot_group::Group;
use super::{Error, Kind, Listener};
use crate::pool::Slot;
use crate::sys::reuseport;

/// Whether a listener can have a socket for each slot: only TCP can, for the reason in ratoon.toml(5).
fn can_have_slots(listener: &Listener) -> bool {
    listener.kind == Kind::TcpStream && matches!(sockopt::socket_protocol(&listener.fd), Ok(Some(ipproto::TCP)))
}

/// The listeners of which a worker with its own queue gets a socket: all, but only the first of several at one TCP address.
pub fn one_each(listeners: &[Listener]) -> impl Iterator<Item = (usize, &Listener)> {
    let again = |at: usize, it: &Listener| {
        can_have_slots(it) && listeners[..at].iter().any(|other| can_have_slots(other) && other.address == it.address)
    };
    listeners.iter().enumerate().filter(move |(at, it)| !again(*at, it))
}

/// The sockets of all slots.
#[derive(Debug, Default)]
pub struct Slots {
    groups: Vec<Group>,
    /// The slots that are to get new connections; [`Group`] knows those that do.
    wanted: Vec<Slot>,
}

impl Slots {
    /// Makes the missing sockets, so that each of `count` slots has one at every address.
    ///
    /// # Errors
    /// A socket cannot be made or steered to; the text says why, and what to do. Existing sockets stay.
    pub fn ensure(&mut self, listeners: &[Listener], count: u32) -> Result<(), Error> {
        self.begin(listeners);
        for group in self.groups.iter_mut().filter(|group| group.sockets.len() < count as usize) {
            let listener = &listeners[group.listener];
            while group.sockets.len() < count as usize {
                let slot = group.sockets.len();
                group.add(listener).map_err(|why| {
                    Error(format!("worker.balance = \"per-slot\": no socket for slot {slot} at {}: {why}", listener.address))
                })?;
            }
            group.steer(&self.wanted).map_err(not_steered)?;
        }
        Ok(())
    }

    /// Takes over the slot sockets of an earlier master. Each is named `LISTENER-SLOT`, two indexes.
    ///
    /// # Errors
    /// A socket is missing or its address is not known: then the kernel's order of the sockets is not known.
    pub fn resume(listeners: &[Listener], came: Vec<(String, OwnedFd)>) -> Result<Slots, String> {
        let mut slots = Slots::default();
        if came.is_empty() {
            return Ok(slots);
        }
        slots.begin(listeners);
        let number = |(name, fd): (String, OwnedFd)| {
            let (listener, slot) = name.split_once('-')?;
            Some((listener.parse::<usize>().ok()?, slot.parse::<usize>().ok()?, fd))
        };
        let mut came: Vec<_> = came.into_iter().filter_map(number).collect();
        came.sort_by_key(|(listener, slot, _)| (*listener, *slot));
        for (at, slot, fd) in came {
            let group = slots.groups.iter_mut().find(|group| group.listener == at);
            let group = group.ok_or_else(|| format!("the address of the socket {at} of slot {slot} is not known"))?;
            if group.sockets.len() != slot {
                return Err(format!("the socket of slot {} did not come", group.sockets.len()));
            }
            group.sockets.push(Arc::new(fd));
        }
        Ok(slots)
    }

    fn begin(&mut self, listeners: &[Listener]) {
        if !self.groups.is_empty() {
            return;
        }
        self.wanted = vec![0];
        for (at, listener) in one_each(listeners).filter(|(_, it)| can_have_slots(it)) {
            let same = listeners.iter().filter(|it| can_have_slots(it) && it.address == listener.address);
            let sockets: Vec<_> = same.map(|it| it.fd.clone()).collect();
            self.groups.push(Group::new(at, sockets));
        }
        // Until now the kernel's hash spread connections over all sockets that systemd had opened. A refusal is told by the next call.
        let _ = self.steer_all();
    }

    /// The sockets that this slot's worker gets as descriptors 3, 4, …
    pub fn of(&self, listeners: &[Listener], slot: Slot) -> Vec<Arc<OwnedFd>> {
        let of_slot = |at: usize| self.groups.iter().find(|group| group.listener == at)?.sockets.get(slot as usize);
        one_each(listeners).map(|(at, listener)| of_slot(at).unwrap_or(&listener.fd).clone()).collect()
    }

    /// Steers new connections to these slots only.
    ///
    /// # Errors
    /// The kernel refuses the BPF program at an address; new connections of that address go to the same slots as before, and the next
    /// call tries again. The other addresses are steered.
    pub fn steer(&mut self, slots: &BTreeSet<Slot>) -> Result<(), Error> {
        if !self.wanted.iter().eq(slots) {
            self.wanted = slots.iter().copied().collect();
        }
        self.steer_all()
    }

    /// Steers each address that is not steered to the wanted slots. The error is the first one.
    fn steer_all(&mut self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for group in &mut self.groups {
            outcome = outcome.and(group.steer(&self.wanted));
        }
        outcome.map_err(not_steered)
    }

    /// The listeners as the status shows them, each with the sockets of all its queues.
    pub fn shown(&self, listeners: &[Listener]) -> Vec<(Listener, Vec<Arc<OwnedFd>>)> {
        if self.groups.is_empty() {
            return listeners.iter().map(|it| (it.clone(), vec![it.fd.clone()])).collect();
        }
        let queues = |at: usize| self.groups.iter().find(|group| group.listener == at).map(|group| group.sockets.clone());
        one_each(listeners).map(|(at, it)| (it.clone(), queues(at).unwrap_or_else(|| vec![it.fd.clone()]))).collect()
    }

    /// Whether there are slot sockets.
    pub fn are_there(&self) -> bool {
        !self.groups.is_empty()
    }

    /// The number of connections that wait in the accept queues of a slot, over all addresses.
    pub fn waiting(&self, slot: Slot) -> u32 {
        let sockets = self.groups.iter().filter_map(|group| group.sockets.get(slot as usize));
        sockets.map(|socket| reuseport::accept_queue(socket).map_or(0, |(waiting, _)| waiting)).sum()
    }

    /// The sockets that were made for slots, each with the index of its listener and its slot.
    pub fn made(&self) -> impl Iterator<Item = (usize, usize, &Arc<OwnedFd>)> {
        let of = |group: &'_ Group| group.came;
        self.groups.iter().flat_map(move |group| {
            group.sockets.iter().enumerate().skip(of(group)).map(|(slot, socket)| (group.listener, slot, socket))
        })
    }
}

fn not_steered(error: std::io::Error) -> Error {
    Error(format!("connections cannot be steered: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use rustix::net::{SocketFlags, SocketType};

    use super::*;

    fn listener(address: &str) -> Vec<Listener> {
        vec![super::super::bind(address).expect("an address")]
    }

    /// A listening socket as systemd opens it.
    fn inherited(reuse_port: bool) -> Listener {
        let socket = rustix::net::socket_with(rustix::net::AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("a socket");
        sockopt::set_socket_reuseport(&socket, reuse_port).expect("an option");
        rustix::net::bind(&socket, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0)).expect("a port");
        rustix::net::listen(&socket, 100).expect("listens");
        Listener::of("web".to_owned(), socket, true)
    }

    /// The number of connections that each slot gets of `count` new ones.
    fn spread(slots: &Slots, listeners: &[Listener], count: usize) -> Vec<usize> {
        spread_at(0, slots, listeners, count)
    }

    /// As [`spread`], at the address of this listener.
    fn spread_at(at: usize, slots: &Slots, listeners: &[Listener], count: usize) -> Vec<usize> {
        let address = &listeners[at].address;
        let connections: Vec<_> = (0..count).map(|_| TcpStream::connect(address).expect("a connection")).collect();
        let sockets = &slots.groups[at].sockets;
        let accepted = |socket: &Arc<OwnedFd>| {
            let socket = TcpListener::from(socket.try_clone().expect("a copy"));
            socket.set_nonblocking(true).expect("an option");
            std::iter::repeat_with(|| socket.accept())
                .take_while(|it| !matches!(it, Err(e) if e.kind() == ErrorKind::WouldBlock))
                .count()
        };
        let all = sockets.iter().map(accepted).collect();
        drop(connections);
        all
    }

    fn live(slots: &mut Slots, live: &[Slot]) {
        slots.steer(&live.iter().copied().collect()).expect("steered");
    }

    #[test]
    fn connections_go_to_the_slots_that_are_named() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listeners = listener(address);
            let mut slots = Slots::default();
            slots.ensure(&listeners, 4).expect("four");
            assert_eq!(spread(&slots, &listeners, 20), [20, 0, 0, 0], "none is ready yet");
            live(&mut slots, &[0, 1, 2, 3]);
            let all = spread(&slots, &listeners, 400);
            assert!(all.iter().all(|it| (60..140).contains(it)), "{all:?}");
            live(&mut slots, &[1, 3]);
            let two = spread(&slots, &listeners, 200);
            assert!(two[0] == 0 && two[2] == 0 && two[1] > 60 && two[3] > 60, "{two:?}");
            // One more slot, whose queue no worker serves yet.
            slots.ensure(&listeners, 5).expect("five");
            let three = spread(&slots, &listeners, 50);
            assert_eq!((three[0], three[2], three[4], three.iter().sum()), (0, 0, 0, 50), "{three:?}");
            live(&mut slots, &[4]);
            assert_eq!(spread(&slots, &listeners, 20), [0, 0, 0, 0, 20]);
            assert_eq!(slots.waiting(4), 0);
            let waiting = TcpStream::connect(&listeners[0].address).expect("a connection");
            assert_eq!((slots.waiting(4), slots.waiting(0)), (1, 0));
            drop(waiting);
        }
    }

    #[test]
    fn steer_goes_on_after_an_address_that_the_kernel_refuses() {
        let listeners = [listener("127.0.0.1:0"), listener("127.0.0.1:0")].concat();
        let mut slots = Slots::default();
        slots.ensure(&listeners, 3).expect("three");
        live(&mut slots, &[1]);
        // From now on the kernel refuses each change of the program at the first address (EPERM).
        reuseport::lock_filter(&listeners[0].fd).expect("an option");
        let wanted: BTreeSet<Slot> = [2].into();
        for _ in 0..2 {
            assert!(slots.steer(&wanted).expect_err("refused").to_string().contains("Operation not permitted"));
            assert_eq!(spread_at(0, &slots, &listeners, 5), [0, 5, 0], "as before");
            assert_eq!(spread_at(1, &slots, &listeners, 5), [0, 0, 5]);
        }
        // The kernel has this order already, so nothing is set.
        live(&mut slots, &[1]);
        assert_eq!(spread_at(1, &slots, &listeners, 5), [0, 5, 0]);
    }

    #[test]
    fn what_waits_in_the_first_socket_stays_there() {
        let listeners = listener("127.0.0.1:0");
        let _early = TcpStream::connect(&listeners[0].address).expect("a connection");
        let mut slots = Slots::default();
        slots.ensure(&listeners, 3).expect("three");
        assert_eq!((slots.waiting(0), slots.waiting(1), slots.waiting(2)), (1, 0, 0));
    }

    #[test]
    fn nobody_else_gets_at_the_address_of_one_slot() {
        let listeners = listener("127.0.0.1:0");
        let mut slots = Slots::default();
        slots.ensure(&listeners, 1).expect("one");
        assert!(!sockopt::socket_reuseport(&listeners[0].fd).expect("an option"));
        assert_eq!(slots.of(&listeners, 0).len(), 1);
        // A second instance cannot bind the address either, whatever the number of slots.
        let second = || super::super::bind(&listeners[0].address).expect_err("taken").to_string();
        assert!(second().contains("another process has this port"));
        slots.ensure(&listeners, 3).expect("three");
        assert!(second().contains("another process has this port"));
    }

    #[test]
    fn a_socket_of_systemd_must_have_been_opened_for_it() {
        let mut slots = Slots::default();
        let why = slots.ensure(&[inherited(false)], 2).expect_err("no ReusePort=yes").to_string();
        assert!(why.contains("slot 1") && why.contains("ReusePort=yes") && why.contains("127.0.0.1:"), "{why}");
        let mut slots = Slots::default();
        let listeners = [inherited(true)];
        slots.ensure(&listeners, 3).expect("three");
        live(&mut slots, &[2]);
        assert_eq!(spread(&slots, &listeners, 10), [0, 0, 10]);
        assert_eq!(reuseport::accept_queue(&slots.groups[0].sockets[2]).expect("TCP").1, 100, "the backlog is that of systemd");
    }

    #[test]
    fn several_sockets_of_systemd_at_one_address_are_those_of_the_slots() {
        let mut slots = Slots::default();
        let one = inherited(true);
        let mut made = Slots::default();
        made.ensure(std::slice::from_ref(&one), 3).expect("three");
        let others = made.made().map(|(_, _, fd)| Listener::of("web".to_owned(), fd.try_clone().expect("a copy"), true));
        let unix = super::super::bind("@ratoon-slots").expect("a name");
        let listeners: Vec<Listener> = std::iter::once(one.clone()).chain(others).chain([unix]).collect();
        slots.ensure(&listeners, 3).expect("they are there");
        assert_eq!(slots.made().count(), 0);
        live(&mut slots, &[1]);
        assert_eq!(spread(&slots, &listeners, 5), [0, 5, 0]);
        // The slot's own socket, and the Unix socket that all slots share.
        let of = slots.of(&listeners, 1);
        assert_eq!(of.len(), 2);
        assert!(Arc::ptr_eq(&of[0], &listeners[1].fd) && Arc::ptr_eq(&of[1], &listeners[3].fd));
    }

    #[test]
    fn the_next_master_goes_on_with_them() {
        let listeners = listener("127.0.0.1:0");
        let mut slots = Slots::default();
        slots.ensure(&listeners, 3).expect("three");
        live(&mut slots, &[2]);
        let copies = || -> Vec<(String, OwnedFd)> {
            slots.made().map(|(at, slot, fd)| (format!("{at}-{slot}"), fd.try_clone().expect("a copy"))).collect()
        };
        let mut next = Slots::resume(&listeners, copies()).expect("all are there");
        assert_eq!(next.made().count(), 2);
        live(&mut next, &[1]);
        assert_eq!(spread(&next, &listeners, 5), [0, 5, 0]);
        next.ensure(&listeners, 4).expect("one more");
        live(&mut next, &[3]);
        assert_eq!(spread(&next, &listeners, 5), [0, 0, 0, 5]);
        let part = copies().into_iter().skip(1).collect();
        assert_eq!(Slots::resume(&listeners, part).expect_err("a hole"), "the socket of slot 1 did not come");
        assert!(Slots::resume(&[], copies()).is_err());
        assert_eq!(Slots::resume(&listeners, Vec::new()).expect("none").made().count(), 0);
    }
}
