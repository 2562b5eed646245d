//! Listening sockets: inherited or bound, one for all workers or one for each slot.
//!
//! | module | owns |
//! |---|---|
//! | `sockets` | inherits and binds sockets; the sockets of the slots |
//! | `bound` | closes the master's own sockets when the instance ends |
//! | `accept_queue_drain` | accept queues of workers that are to stop, until they are empty |
//! | `hang_watch` | workers that hang, where each slot has its own queue |
//! | `idle_watch` | activity, and the first connection, where `worker.min` is 0 |
//! | `queue_watch` | the accept queues while no worker serves them |
//! | `socket_unit` | finds addresses of the socket unit for which systemd passed no socket |

pub(in crate::master) mod accept_queue_drain;
mod bound;
pub(in crate::master) mod hang_watch;
pub(in crate::master) mod idle_watch;
pub(in crate::master) mod queue_watch;
pub(in crate::master) mod socket_unit;
pub mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use self::accept_queue_drain::AcceptQueueDrain;
use self::bound::BoundSockets;
use self::sockets::{Kind, Listener, Nonblocking, Slots};
use crate::config::{Balance, Config};
use crate::master::event_queue::EventQueue;
use crate::master::log::Log;
use crate::master::releases::prepare::Release;
use crate::master::state::fds::{Incoming, Outgoing};
use crate::master::state::{self, LISTENER_PREFIX, SLOT_PREFIX};
use crate::pool::{Event, Pool, Queue, Slot, Surge, WorkerId};
use crate::status::kernel::Watched;

/// The listening sockets, and with `worker.balance = "per-slot"` a socket for each queue.
///
/// Law: new connections are steered away from a worker before it is stopped. With one queue for all slots nothing is steered.
pub(in crate::master) struct ListenerSet {
    listeners: Arc<[Listener]>,
    slots: Slots,
    nonblocking: Nonblocking,
    /// Workers that are to stop once their accept queue is empty.
    drain: AcceptQueueDrain,
    bound: BoundSockets,
    log: Log,
}

impl ListenerSet {
    /// These sockets, which all slots share.
    pub fn new(listeners: Arc<[Listener]>, log: Log) -> ListenerSet {
        let (slots, nonblocking, drain) = (Slots::default(), Nonblocking::default(), AcceptQueueDrain::default());
        ListenerSet { listeners, slots, nonblocking, drain, bound: BoundSockets::default(), log }
    }

    /// The addresses of the listening sockets.
    pub fn addresses(&self) -> Vec<&str> {
        self.listeners.iter().map(|listener| listener.address.as_str()).collect()
    }

    /// The address of the first TCP socket.
    pub fn tcp_address(&self) -> Option<&str> {
        self.listeners.iter().find(|listener| listener.kind == Kind::TcpStream).map(|listener| listener.address.as_str())
    }

    /// The listeners as the status shows them, each with the sockets of all its queues.
    pub fn shown(&self) -> Vec<(Listener, Vec<Arc<OwnedFd>>)> {
        self.slots.shown(&self.listeners)
    }

    /// Whether there is no listening socket.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// All sockets on which workers accept, in the order of [`Self::shown`].
    pub fn watched(&self) -> Vec<Watched> {
        self.shown().into_iter().flat_map(|(_, sockets)| sockets).map(|socket| self.bound.watched(socket)).collect()
    }

    /// Makes the missing sockets for a generation of this configuration: for its number of workers, and at least for `least`.
    ///
    /// # Errors
    /// A socket cannot be made; the text says why, and what to do.
    pub fn make_slots(&mut self, config: &Config, least: u32) -> Result<(), sockets::Error> {
        match config.worker.balance {
            Balance::Shared => Ok(()),
            Balance::PerSlot => {
                let slots = (0..least.max(config.worker.workers())).map(Queue::of_slot);
                self.slots.ensure(&self.listeners, slots)
            }
        }
    }

    /// Makes the missing sockets of the canary of a generation with these steps and so many workers: without them the canary could not get
    /// its exact part of the connections.
    ///
    /// # Errors
    /// As [`Self::make_slots`].
    pub fn make_canary(&mut self, config: &Config, steps: &[Surge], workers: u32) -> Result<(), sockets::Error> {
        if config.worker.balance == Balance::Shared {
            return Ok(());
        }
        let canary = steps.iter().map(|step| step.of(workers)).filter(|size| *size < workers).max().unwrap_or(0);
        let both = |slot| [Queue::of_slot(slot), Queue { slot, second: true }];
        self.slots.ensure(&self.listeners, (0..canary).flat_map(both))
    }

    /// The listening sockets of a worker of this queue; `None` when all workers share the release's sockets.
    ///
    /// # Errors
    /// As [`Self::make_slots`].
    pub fn of_queue(&mut self, queue: Queue, release: &Release) -> Result<Option<Vec<Arc<OwnedFd>>>, String> {
        match release.config.worker.balance {
            Balance::Shared => Ok(None),
            Balance::PerSlot => {
                self.slots.ensure(&self.listeners, [queue]).map_err(|error| format!("not started: {error}"))?;
                Ok(Some(self.slots.of(&self.listeners, queue)))
            }
        }
    }

    /// The sockets for a worker that starts, of a committed generation or of a candidate: those of [`Self::of_queue`], non-blocking if
    /// its release wants that.
    ///
    /// # Errors
    /// As [`Self::make_slots`]; or the flag cannot be set.
    pub fn for_start(
        &mut self,
        queue: Queue,
        release: &Release,
        is_committed: bool,
    ) -> Result<Option<Vec<Arc<OwnedFd>>>, String> {
        let sockets = self.of_queue(queue, release)?;
        if release.config.worker.nonblocking {
            let set = self.nonblocking.set(sockets.as_deref().unwrap_or(&release.plan.listeners), is_committed);
            set.map_err(|error| format!("worker.nonblocking: {error}"))?;
        }
        Ok(sockets)
    }

    /// The sockets of this queue alone, one for each address; none where all workers share theirs.
    pub fn own(&self, queue: Queue) -> Vec<Arc<OwnedFd>> {
        self.slots.at(&BTreeSet::from([queue])).into_iter().cloned().collect()
    }

    /// Whether there are sockets of slots.
    pub fn have_slots(&self) -> bool {
        self.slots.are_there()
    }

    /// The sockets of all queues of slots.
    pub fn of_slots(&self) -> Vec<Arc<OwnedFd>> {
        self.slots.at(&self.slots.queues().into_iter().collect()).into_iter().cloned().collect()
    }

    /// The index of a queue's socket in the sockets of an address that [`Self::shown`] lists.
    pub fn place(&self, queue: Queue) -> Option<usize> {
        self.slots.place(queue)
    }

    /// The slot of each socket of an address that [`Self::shown`] lists, where each slot has its own; empty otherwise.
    pub fn slots_of_sockets(&self) -> Vec<Slot> {
        self.slots.queues().into_iter().map(|queue| queue.slot).collect()
    }

    /// A generation is committed: if it wants non-blocking sockets, they stay so.
    pub fn committed(&mut self, release: &Release) {
        if release.config.worker.nonblocking {
            self.nonblocking.confirm();
        }
    }

    /// No generation is left that wants non-blocking sockets.
    pub fn no_longer_nonblocking(&mut self) {
        self.nonblocking.take_back();
    }

    /// Steers new connections to the queues that the pool names, and their part of them to a canary.
    pub fn steer(&mut self, pool: &Pool) {
        if self.slots.are_there()
            && let Err(error) = self.slots.steer(&pool.serving(), pool.canary_part().as_ref())
        {
            self.log.warn_once(&error.to_string());
        }
    }

    /// Closes the sockets that the master bound itself: the instance ends. Those whose queue a worker empties first stay until a later call.
    pub fn close_bound(&mut self, pool: &Pool) {
        let queue = |id| pool.worker(id).map(|worker| pool.queue(worker));
        self.bound.close(&self.listeners, &self.slots, &pool.draining_queues().filter_map(queue).collect());
    }

    /// Starts to drain the worker's accept queue. [`Event::QueueDrained`] follows when it is empty.
    pub fn drain(&mut self, worker: WorkerId, now: Instant) {
        self.drain.begin(worker, now);
    }

    /// When [`Self::on_deadline`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.drain.deadline()
    }

    /// Checks the draining queues when it is time.
    pub fn on_deadline(&mut self, now: Instant, pool: &Pool, events: &mut EventQueue) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        // Again, where the kernel has refused it.
        self.steer(pool);
        let waiting = |id| Some((id, self.slots.waiting(pool.queue(pool.worker(id)?))));
        let waiting: BTreeMap<WorkerId, u32> = pool.draining_queues().filter_map(waiting).collect();
        self.drain.check(now, &waiting).into_iter().for_each(|worker| events.push(Event::QueueDrained(worker)));
    }

    /// Adds the listeners to the state. The sockets are lent: this master may have to go on.
    pub fn save<'a>(&'a self, state: &mut state::State, fds: &mut Outgoing<'a>) {
        for (listener, place, socket) in self.slots.made() {
            fds.lend(format!("{SLOT_PREFIX}{listener}-{place}"), socket.as_fd());
        }
        state.queues = self.slots.queues();
        let listeners = self.listeners.iter().enumerate().map(|(index, listener)| state::Listener {
            name: listener.name.clone(),
            address: listener.address.clone(),
            fd: fds.lend(format!("{}{index}", LISTENER_PREFIX), listener.fd.as_fd()),
            inherited: listener.inherited,
        });
        state.listeners = listeners.collect();
    }

    /// Takes over the sockets of an earlier master, and its draining queues. `queues`: the queues by the places of their sockets; empty if the
    /// earlier master did not tell them.
    pub fn resume(&mut self, fds: &mut Incoming, queues: &[Queue], pool: &Pool, now: Instant) {
        let came = fds.take_all(SLOT_PREFIX);
        if came.is_empty() {
            return;
        }
        match Slots::resume(&self.listeners, came, queues) {
            Ok(slots) => self.slots = slots,
            Err(why) => self.log.warn(format!("sockets of slots are lost, and what waits in them: {why}")),
        }
        self.steer(pool);
        for worker in pool.draining_queues() {
            self.drain(worker, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::log::journal;
    use crate::master::testing::release;
    use crate::pool::Time;

    fn listeners() -> ListenerSet {
        let listeners = sockets::bind_all(&["127.0.0.1:0".to_owned()]).expect("a socket");
        ListenerSet::new(listeners.into(), Log::new(journal::start("web")))
    }

    #[test]
    fn slots_share_the_sockets_unless_each_has_its_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut listeners = listeners();
        let shared = release(directory.path(), "[worker]\ncommand = [\"true\"]\n");
        assert!(
            listeners.make_slots(&shared.config, 9).is_ok() && matches!(listeners.of_queue(Queue::of_slot(1), &shared), Ok(None))
        );
        assert_eq!(listeners.watched().len(), 1);
        let own = release(directory.path(), "[worker]\ncommand = [\"true\"]\ncount = 2\nbalance = \"per-slot\"\n");
        listeners.make_slots(&own.config, 3).expect("sockets");
        assert_eq!(listeners.watched().len(), 3);
        let of_slots = [0, 1].map(|slot| listeners.of_queue(Queue::of_slot(slot), &own).expect("sockets").expect("its own"));
        assert!(!Arc::ptr_eq(&of_slots[0][0], &of_slots[1][0]));
        assert_eq!(listeners.addresses(), [listeners.tcp_address().expect("TCP")]);
        // A canary in slot 0 has a socket beside that of the old worker, which keeps its own.
        listeners.make_canary(&own.config, &[Surge::Count(1), Surge::Percent(100)], 3).expect("a socket");
        assert_eq!((listeners.watched().len(), listeners.slots_of_sockets()), (4, vec![0, 1, 2, 0]));
        let second = listeners.of_queue(Queue { slot: 0, second: true }, &own).expect("sockets").expect("its own");
        assert!(!Arc::ptr_eq(&second[0], &of_slots[0][0]));
        listeners.make_slots(&own.config, 4).expect("one more");
        assert_eq!(listeners.slots_of_sockets(), [0, 1, 2, 0, 3]);
        listeners.make_canary(&shared.config, &[Surge::Count(1)], 3).expect("nothing to make");
        assert_eq!(listeners.watched().len(), 5);
    }

    #[test]
    fn listeners_have_no_deadline_while_no_queue_drains() {
        let (mut listeners, mut events, now) = (listeners(), EventQueue::default(), Instant::now());
        let pool = Pool::new(Time::since_boot(std::time::Duration::ZERO), 1);
        listeners.on_deadline(now, &pool, &mut events);
        assert_eq!(listeners.deadline(), None);
        listeners.drain(7, now);
        let at = listeners.deadline().expect("a check");
        listeners.on_deadline(at, &pool, &mut events);
        assert!(events.is_empty() && listeners.deadline().is_none(), "the pool does not wait for worker 7");
    }
}
