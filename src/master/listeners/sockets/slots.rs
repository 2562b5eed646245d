//! A socket for each queue of a slot (`worker.balance = "per-slot"`). Each TCP address has as many sockets as there are queues: one for each
//! slot, and a second one for each slot in which a canary was. The master holds all of them, and passes a worker those of its queue.
//!
//! Law: none of these sockets is closed while the instance lives. The kernel numbers the sockets of an address in the order of their
//! listen(2), and gives the number of a closed socket to the last one; the order of `Group::sockets` is the kernel's. A queue keeps its
//! place in that order. A removed slot keeps its socket for its return; no connection is steered to it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{ipproto, sockopt};

use super::slot_group::Group;
use super::steer::{Place, Targets};
use super::{Error, Kind, Listener};
use crate::pool::{CanaryPart, Queue};
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

/// The sockets of all queues.
#[derive(Debug, Default)]
pub struct Slots {
    groups: Vec<Group>,
    /// The place of each queue, the same at every address.
    places: BTreeMap<Queue, Place>,
    /// The places that are to get new connections; [`Group`] knows those that do.
    wanted: Targets,
}

impl Slots {
    /// Makes the missing sockets, so that each of these queues has one at every address.
    ///
    /// # Errors
    /// A socket cannot be made or steered to; the text says why, and what to do. Existing sockets stay.
    pub fn ensure(&mut self, listeners: &[Listener], queues: impl IntoIterator<Item = Queue>) -> Result<(), Error> {
        self.begin(listeners);
        let before = self.places.len();
        let missing: BTreeSet<Queue> = queues.into_iter().filter(|queue| !self.places.contains_key(queue)).collect();
        let needed = before + missing.len();
        for queue in missing {
            let place = self.places.len();
            for group in &mut self.groups {
                let listener = &listeners[group.listener];
                // An address may have more sockets than queues: those that systemd opened, or that were made before another one failed.
                while group.sockets.len() <= place {
                    let slot = queue.slot;
                    let whose = if queue.second { format!("the canary in slot {slot}") } else { format!("slot {slot}") };
                    group.add(listener, needed).map_err(|why| {
                        Error(format!("worker.balance = \"per-slot\": no socket for {whose} at {}: {why}", listener.address))
                    })?;
                }
            }
            self.places.insert(queue, place as Place);
        }
        if self.places.len() > before { self.steer_all() } else { Ok(()) }
    }

    /// Takes over the sockets of an earlier master. Each is named `LISTENER-PLACE`, two indexes. `queues`: the queues by their places; an older
    /// master, which has none to tell, had one queue for each slot, in their order.
    ///
    /// # Errors
    /// A socket is missing or its address is not known: then the kernel's order of the sockets is not known.
    pub fn resume(listeners: &[Listener], came: Vec<(String, OwnedFd)>, queues: &[Queue]) -> Result<Slots, String> {
        let mut slots = Slots::default();
        if came.is_empty() {
            return Ok(slots);
        }
        slots.begin(listeners);
        let number = |(name, fd): (String, OwnedFd)| {
            let (listener, place) = name.split_once('-')?;
            Some((listener.parse::<usize>().ok()?, place.parse::<usize>().ok()?, fd))
        };
        let mut came: Vec<_> = came.into_iter().filter_map(number).collect();
        came.sort_by_key(|(listener, place, _)| (*listener, *place));
        for (at, place, fd) in came {
            let group = slots.groups.iter_mut().find(|group| group.listener == at);
            let group = group.ok_or_else(|| format!("the address of the socket {at} of place {place} is not known"))?;
            if group.sockets.len() != place {
                return Err(format!("the socket of place {} did not come", group.sockets.len()));
            }
            group.sockets.push(Arc::new(fd));
        }
        let most = slots.groups.iter().map(|group| group.sockets.len()).max().unwrap_or(0) as Place;
        slots.places = match queues.is_empty() {
            true => (0..most).map(|place| (Queue::of_slot(place), place)).collect(),
            false => queues.iter().copied().zip(0..most).collect(),
        };
        Ok(slots)
    }

    fn begin(&mut self, listeners: &[Listener]) {
        if !self.groups.is_empty() {
            return;
        }
        (self.wanted, self.places) = (Targets::equal(vec![0]), BTreeMap::from([(Queue::FIRST, 0)]));
        for (at, listener) in one_each(listeners).filter(|(_, it)| can_have_slots(it)) {
            let same = listeners.iter().filter(|it| can_have_slots(it) && it.address == listener.address);
            let sockets: Vec<_> = same.map(|it| it.fd.clone()).collect();
            self.groups.push(Group::new(at, sockets));
        }
        // Until now the kernel's hash spread connections over all sockets that systemd had opened. A refusal is told by the next call.
        let _ = self.steer_all();
    }

    /// The sockets that a worker of this queue gets as descriptors 3, 4, …
    pub fn of(&self, listeners: &[Listener], queue: Queue) -> Vec<Arc<OwnedFd>> {
        let of_queue = |at: usize| {
            let group = self.groups.iter().find(|group| group.listener == at)?;
            group.sockets.get(*self.places.get(&queue)? as usize)
        };
        one_each(listeners).map(|(at, listener)| of_queue(at).unwrap_or(&listener.fd).clone()).collect()
    }

    /// Steers new connections to these queues only, and their part of them to a canary.
    ///
    /// # Errors
    /// The kernel refuses the BPF program at an address; new connections of that address go to the same queues as before, and the next
    /// call tries again. The other addresses are steered.
    pub fn steer(&mut self, queues: &BTreeSet<Queue>, canary: Option<&CanaryPart>) -> Result<(), Error> {
        let places = |queues: &mut dyn Iterator<Item = &Queue>| {
            let mut places: Vec<Place> = queues.filter_map(|queue| self.places.get(queue).copied()).collect();
            places.sort_unstable();
            places
        };
        let is_canary = |queue: &&Queue| canary.is_some_and(|canary| canary.queues.contains(queue));
        self.wanted = Targets {
            places: places(&mut queues.iter().filter(|queue| !is_canary(queue))),
            canary: places(&mut queues.iter().filter(is_canary)),
            part: canary.map_or(0, |canary| canary.part),
            of: canary.map_or(0, |canary| canary.of),
        };
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

    /// The number of connections that wait in the accept queue, over all addresses.
    pub fn waiting(&self, queue: Queue) -> u32 {
        let Some(place) = self.places.get(&queue) else { return 0 };
        let sockets = self.groups.iter().filter_map(|group| group.sockets.get(*place as usize));
        sockets.map(|socket| reuseport::accept_queue(socket).map_or(0, |(waiting, _)| waiting)).sum()
    }

    /// The sockets that were made for queues, each with the index of its listener and its place.
    pub fn made(&self) -> impl Iterator<Item = (usize, usize, &Arc<OwnedFd>)> {
        let of = |group: &'_ Group| group.came;
        self.groups.iter().flat_map(move |group| {
            group.sockets.iter().enumerate().skip(of(group)).map(|(place, socket)| (group.listener, place, socket))
        })
    }

    /// The sockets at the places of these queues.
    pub fn at(&self, queues: &BTreeSet<Queue>) -> Vec<&Arc<OwnedFd>> {
        let places: Vec<usize> = queues.iter().filter_map(|queue| self.place(*queue)).collect();
        self.groups.iter().flat_map(|group| places.iter().filter_map(|place| group.sockets.get(*place))).collect()
    }

    /// The queues by their places.
    pub fn queues(&self) -> Vec<Queue> {
        let mut queues: Vec<(Place, Queue)> = self.places.iter().map(|(queue, place)| (*place, *queue)).collect();
        queues.sort_unstable();
        queues.into_iter().map(|(_, queue)| queue).collect()
    }

    /// The place of a queue in the sockets that [`Self::shown`] lists of an address.
    pub fn place(&self, queue: Queue) -> Option<usize> {
        self.places.get(&queue).map(|place| *place as usize)
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
    use crate::pool::Slot;

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
        slots.steer(&first_queues(live), None).expect("steered");
    }

    fn first_queues(slots: &[Slot]) -> BTreeSet<Queue> {
        slots.iter().copied().map(Queue::of_slot).collect()
    }

    fn up_to(count: u32) -> impl Iterator<Item = Queue> {
        (0..count).map(Queue::of_slot)
    }

    fn waiting_in(slots: &Slots, slot: Slot) -> u32 {
        slots.waiting(Queue::of_slot(slot))
    }

    #[test]
    fn connections_go_to_the_slots_that_are_named() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listeners = listener(address);
            let mut slots = Slots::default();
            slots.ensure(&listeners, up_to(4)).expect("four");
            assert_eq!(spread(&slots, &listeners, 20), [20, 0, 0, 0], "none is ready yet");
            live(&mut slots, &[0, 1, 2, 3]);
            let all = spread(&slots, &listeners, 400);
            assert!(all.iter().all(|it| (60..140).contains(it)), "{all:?}");
            live(&mut slots, &[1, 3]);
            let two = spread(&slots, &listeners, 200);
            assert!(two[0] == 0 && two[2] == 0 && two[1] > 60 && two[3] > 60, "{two:?}");
            // One more slot, whose queue no worker serves yet.
            slots.ensure(&listeners, up_to(5)).expect("five");
            let three = spread(&slots, &listeners, 50);
            assert_eq!((three[0], three[2], three[4], three.iter().sum()), (0, 0, 0, 50), "{three:?}");
            live(&mut slots, &[4]);
            assert_eq!(spread(&slots, &listeners, 20), [0, 0, 0, 0, 20]);
            assert_eq!(waiting_in(&slots, 4), 0);
            let waiting = TcpStream::connect(&listeners[0].address).expect("a connection");
            assert_eq!((waiting_in(&slots, 4), waiting_in(&slots, 0)), (1, 0));
            drop(waiting);
        }
    }

    #[test]
    fn steer_goes_on_after_an_address_that_the_kernel_refuses() {
        let listeners = [listener("127.0.0.1:0"), listener("127.0.0.1:0")].concat();
        let mut slots = Slots::default();
        slots.ensure(&listeners, up_to(3)).expect("three");
        live(&mut slots, &[1]);
        // From now on the kernel refuses each change of the program at the first address (EPERM).
        reuseport::lock_filter(&listeners[0].fd).expect("an option");
        let wanted = first_queues(&[2]);
        for _ in 0..2 {
            assert!(slots.steer(&wanted, None).expect_err("refused").to_string().contains("Operation not permitted"));
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
        slots.ensure(&listeners, up_to(3)).expect("three");
        assert_eq!((waiting_in(&slots, 0), waiting_in(&slots, 1), waiting_in(&slots, 2)), (1, 0, 0));
    }

    #[test]
    fn nobody_else_gets_at_the_address_of_one_slot() {
        let listeners = listener("127.0.0.1:0");
        let mut slots = Slots::default();
        slots.ensure(&listeners, up_to(1)).expect("one");
        assert!(!sockopt::socket_reuseport(&listeners[0].fd).expect("an option"));
        assert_eq!(slots.of(&listeners, Queue::of_slot(0)).len(), 1);
        // A second instance cannot bind the address either, whatever the number of slots.
        let second = || super::super::bind(&listeners[0].address).expect_err("taken").to_string();
        assert!(second().contains("another process has this port"));
        slots.ensure(&listeners, up_to(3)).expect("three");
        assert!(second().contains("another process has this port"));
    }

    #[test]
    fn a_socket_of_systemd_must_have_been_opened_for_it() {
        let mut slots = Slots::default();
        let why = slots.ensure(&[inherited(false)], up_to(2)).expect_err("no ReusePort=yes").to_string();
        assert!(why.contains("slot 1") && why.contains("ReusePort=yes") && why.contains("127.0.0.1:"), "{why}");
        let mut slots = Slots::default();
        let listeners = [inherited(true)];
        slots.ensure(&listeners, up_to(3)).expect("three");
        live(&mut slots, &[2]);
        assert_eq!(spread(&slots, &listeners, 10), [0, 0, 10]);
        assert_eq!(reuseport::accept_queue(&slots.groups[0].sockets[2]).expect("TCP").1, 100, "the backlog is that of systemd");
    }

    #[test]
    fn several_sockets_of_systemd_at_one_address_are_those_of_the_slots() {
        let mut slots = Slots::default();
        let one = inherited(true);
        let mut made = Slots::default();
        made.ensure(std::slice::from_ref(&one), up_to(3)).expect("three");
        let others = made.made().map(|(_, _, fd)| Listener::of("web".to_owned(), fd.try_clone().expect("a copy"), true));
        let unix = super::super::bind("@ratoon-slots").expect("a name");
        let listeners: Vec<Listener> = std::iter::once(one.clone()).chain(others).chain([unix]).collect();
        slots.ensure(&listeners, up_to(3)).expect("they are there");
        assert_eq!(slots.made().count(), 0);
        live(&mut slots, &[1]);
        assert_eq!(spread(&slots, &listeners, 5), [0, 5, 0]);
        // The slot's own socket, and the Unix socket that all slots share.
        let of = slots.of(&listeners, Queue::of_slot(1));
        assert_eq!(of.len(), 2);
        assert!(Arc::ptr_eq(&of[0], &listeners[1].fd) && Arc::ptr_eq(&of[1], &listeners[3].fd));
    }

    #[test]
    fn the_next_master_goes_on_with_them() {
        let listeners = listener("127.0.0.1:0");
        let mut slots = Slots::default();
        slots.ensure(&listeners, up_to(3)).expect("three");
        live(&mut slots, &[2]);
        let copies = || -> Vec<(String, OwnedFd)> {
            slots.made().map(|(at, slot, fd)| (format!("{at}-{slot}"), fd.try_clone().expect("a copy"))).collect()
        };
        let mut next = Slots::resume(&listeners, copies(), &[]).expect("all are there");
        assert_eq!(next.made().count(), 2);
        live(&mut next, &[1]);
        assert_eq!(spread(&next, &listeners, 5), [0, 5, 0]);
        next.ensure(&listeners, up_to(4)).expect("one more");
        live(&mut next, &[3]);
        assert_eq!(spread(&next, &listeners, 5), [0, 0, 0, 5]);
        let part = copies().into_iter().skip(1).collect();
        assert_eq!(Slots::resume(&listeners, part, &[]).expect_err("a hole"), "the socket of place 1 did not come");
        assert!(Slots::resume(&[], copies(), &[]).is_err());
        assert_eq!(Slots::resume(&listeners, Vec::new(), &[]).expect("none").made().count(), 0);
    }
}
