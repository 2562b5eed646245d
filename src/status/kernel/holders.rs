//! Finds which worker holds which connection, and whether a worker still holds a listening socket.
//!
//! Law: to read the descriptors of a process is expensive (two to four microseconds each), so results are remembered: a connection
//! stays with the worker that was seen to hold it. A connection without a known holder is searched for at the workers whose pages
//! do not show their connections. After that it belongs to the worker whose page alone names its peer, as long as no other page
//! names that peer. Where pages contradict each other, the descriptors decide, once and for all. The descriptors of a worker are
//! read only while connections have no known holder, or when the listening socket is not at its former descriptor number.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::claims::{Claims, Quick};
use super::diag::{Connection, Cookie, Inode};
use super::process::Process;

/// Number of surveys that search for a connection that no worker holds. Usually another program that shares the address holds it;
/// the search is repeated because the connection may just have been passed from process to process.
const TRIES: u8 = 3;
/// With more workers than this whose pages show their connections, a few connections on no page do not cause a search at these
/// workers: they began or ended between the kernel's dump and the pages. A connection on no page in two surveys causes a search.
const MANY: usize = 64;
/// See [`MANY`]: "a few" is the first number, plus one for each second number of connections.
const FEW: (usize, usize) = (32, 50);
/// With more than [`MANY`] such workers, a worker that does not drain is checked for its listening socket only every so many
/// surveys. To check a thousand workers takes 3 milliseconds of a survey, and the result does not change.
const ROUND: u64 = 8;
/// Descriptor number of a worker's first listening socket, sd_listen_fds(3).
const LISTEN_FDS_START: u32 = 3;

/// Memory from one survey to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The worker that was seen to hold each connection.
    owners: HashMap<Cookie, u64, Quick>,
    /// The worker whose page alone claims each connection.
    said: HashMap<Cookie, u64, Quick>,
    /// Workers whose pages show their connections.
    telling: HashSet<u64, Quick>,
    /// Connections that no visible worker held, and in how many surveys.
    foreign: HashMap<Cookie, u8, Quick>,
    /// Connections on no page that were not searched for.
    passed_over: HashSet<Cookie, Quick>,
    /// Descriptor number at which the main process of each worker held a listening socket.
    listening: HashMap<u64, u32, Quick>,
    /// Surveys so far.
    surveys: u64,
}

impl Memory {
    /// Counts a survey that examines all workers.
    pub fn next_survey(&mut self) {
        self.surveys = self.surveys.wrapping_add(1);
    }

    /// Number of connections that each worker is known to hold.
    fn counts(&self) -> HashMap<u64, u64, Quick> {
        let mut counts = HashMap::default();
        self.owners.values().chain(self.said.values()).for_each(|id| *counts.entry(*id).or_default() += 1);
        counts
    }
}

#[cfg(test)]
impl Memory {
    pub fn owners_and_foreign(&self) -> (usize, usize) {
        (self.owners.len() + self.said.len(), self.foreign.len())
    }
}

/// The search of one survey for the holders of connections and listening sockets.
pub(super) struct Holders<'a> {
    memory: &'a mut Memory,
    listeners: HashSet<Inode>,
    /// Connections whose holder is not known yet.
    open: HashMap<Inode, Cookie, Quick>,
    claims: &'a Claims,
    connections: &'a [Connection],
    /// Connections on no page in the last survey that were not searched for.
    passed_over: HashSet<Cookie, Quick>,
    /// Whether workers whose pages show their connections are left out of the search.
    trusting: bool,
    end: Instant,
    /// Whether the descriptors of a worker could not be read.
    hidden: bool,
}

/// The result of the search at one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Whether the worker holds a listening socket; `None` when that cannot be seen.
    pub listening: Option<bool>,
    /// Whether all examined parts of the worker could be seen.
    pub visible: bool,
}

impl<'a> Holders<'a> {
    /// Begins a search with these sockets; forgets connections and workers that are gone.
    pub fn new(
        memory: &'a mut Memory,
        listeners: HashSet<Inode>,
        connections: &'a [Connection],
        workers: &HashSet<u64, Quick>,
        claims: &'a Claims,
        end: Instant,
    ) -> Holders<'a> {
        let before = std::mem::take(memory);
        memory.surveys = before.surveys;
        memory.listening = before.listening;
        memory.listening.retain(|id, _| workers.contains(id));
        memory.owners.reserve(before.owners.len());
        memory.said.reserve(before.said.len());
        let mut open = HashMap::default();
        for connection in connections {
            let cookie = connection.cookie;
            let living = |owners: &HashMap<Cookie, u64, Quick>| owners.get(&cookie).copied().filter(|id| workers.contains(id));
            if let Some(id) = living(&before.owners) {
                memory.owners.insert(cookie, id);
            } else if let Some(id) = living(&before.said).filter(|id| claims.tells(*id)) {
                memory.said.insert(cookie, id);
            } else {
                let tries = before.foreign.get(&cookie).copied();
                memory.foreign.extend(tries.map(|tries| (cookie, tries)));
                if tries.is_none_or(|tries| tries < TRIES) {
                    open.insert(connection.inode, cookie);
                }
            }
        }
        // Claims are checked again when a connection has no known holder, when other workers show their connections, or when a page names
        // more connections than its worker has.
        let counts = memory.counts();
        memory.telling = workers.iter().copied().filter(|id| claims.tells(*id)).collect();
        if !open.is_empty() || memory.telling != before.telling || claims.exceed(|id| counts.get(&id).copied().unwrap_or(0)) {
            let again = connections.iter().filter(|connection| memory.said.contains_key(&connection.cookie));
            open.extend(again.map(|connection| (connection.inode, connection.cookie)));
            memory.said.clear();
        }
        let passed_over = before.passed_over;
        Holders { memory, listeners, open, claims, connections, passed_over, trusting: false, end, hidden: false }
    }

    /// Gives each connection without a known holder to the worker whose page alone names its peer. Call after the workers whose pages
    /// do not show their connections were examined.
    pub fn believe(&mut self) {
        // A worker whose descriptors could not be read may hold any connection.
        if self.open.is_empty() || self.claims.count() == 0 || self.hidden {
            return;
        }
        let named = self.claims.named();
        let open = || self.connections.iter().filter(|connection| self.open.contains_key(&connection.inode));
        // With several listening sockets, one peer can have several connections.
        let mut times = HashMap::with_capacity(self.open.len());
        open().filter_map(|connection| connection.peer).for_each(|peer| *times.entry(peer).or_insert(0) += 1);
        let (mut said, mut disputed) = (Vec::new(), false);
        for connection in open() {
            match connection.peer.and_then(|peer| Some((*named.get(&peer)?, times.get(&peer) == Some(&1)))) {
                Some((Some(id), true)) => said.push((connection.inode, connection.cookie, id)),
                Some(_) => disputed = true,
                None => {}
            }
        }
        for (inode, cookie, id) in said {
            self.open.remove(&inode);
            self.memory.said.insert(cookie, id);
        }
        let few = FEW.0 + self.connections.len() / FEW.1;
        let again = self.open.values().any(|cookie| self.passed_over.contains(cookie));
        self.trusting = self.claims.count() > MANY && self.open.len() <= few && !again && !disputed;
    }

    /// Reuses the result of the last survey: no connection is searched for.
    pub fn again(memory: &'a mut Memory, listeners: HashSet<Inode>, claims: &'a Claims, end: Instant) -> Holders<'a> {
        let (open, passed_over) = Default::default();
        Holders { memory, listeners, open, claims, connections: &[], passed_over, trusting: false, end, hidden: false }
    }

    /// Whether there are listening sockets; without them no worker needs to be examined.
    pub fn any(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Examines the main process of a worker.
    pub fn main(&mut self, id: u64, process: &Process) -> Seen {
        if self.listens_as_before(id, process) {
            let visible = !self.wants(id) || self.through(id, process, None);
            return Seen { listening: Some(true), visible };
        }
        let mut held = None;
        let visible = self.through(id, process, Some(&mut held));
        if let Some(number) = held {
            self.memory.listening.insert(id, number);
        }
        Seen { listening: if visible { Some(held.is_some()) } else { held.map(|_| true) }, visible }
    }

    /// Whether the other processes of a worker need to be examined, after this result of its main process.
    pub fn wants_others(&self, id: u64, main: Seen) -> bool {
        self.wants(id) || main.listening != Some(true)
    }

    /// Whether this worker may hold a connection without a known holder.
    pub fn wants(&self, id: u64) -> bool {
        let trusted = self.trusting && self.claims.tells(id);
        !self.open.is_empty() && !trusted
    }

    /// Examines another process of a worker; a process that has ended meanwhile holds nothing.
    pub fn other(&mut self, id: u64, process: &Process, seen: &mut Seen) {
        let mut held = None;
        let visible = self.through(id, process, Some(&mut held)) || process.stat().is_none();
        seen.visible &= visible;
        seen.listening = match (seen.listening, held, visible) {
            (Some(true), ..) | (_, Some(_), _) => Some(true),
            (before, None, true) => before,
            (_, None, false) => None,
        };
    }

    /// Number of connections of each worker; call after all workers were examined. The second value tells whether some connections have
    /// no known holder: if so, the number of a worker that could not be examined is unknown.
    pub fn count(self) -> (HashMap<u64, u64, Quick>, bool) {
        if self.trusting {
            self.memory.passed_over.extend(self.open.values());
        } else if !self.hidden {
            for cookie in self.open.values() {
                *self.memory.foreign.entry(*cookie).or_default() += 1;
            }
        }
        (self.memory.counts(), !self.open.is_empty() || !self.memory.foreign.is_empty())
    }

    /// Records that a worker, or a part of it, could not be examined.
    pub fn hide(&mut self) {
        self.hidden = true;
    }

    /// Whether the process holds a listening socket at its former descriptor number, or at the numbers that the master gives the sockets.
    fn listens_as_before(&mut self, id: u64, process: &Process) -> bool {
        let holds = |number: &u32| process.socket(*number).is_some_and(|inode| self.listeners.contains(&inode));
        if let Some(number) = self.memory.listening.get(&id) {
            let due = id.wrapping_add(self.memory.surveys).is_multiple_of(ROUND);
            if (self.claims.count() > MANY && self.claims.stays(id) && !due) || holds(number) {
                return true;
            }
            self.memory.listening.remove(&id);
            return false;
        }
        let numbers = LISTEN_FDS_START..LISTEN_FDS_START.saturating_add(self.listeners.len().min(8) as u32);
        let found = numbers.into_iter().find(holds);
        if let Some(number) = found {
            self.memory.listening.insert(id, number);
        }
        found.is_some()
    }

    /// Examines all descriptors of a process; `false` when not all of them could be seen.
    fn through(&mut self, id: u64, process: &Process, mut listening: Option<&mut Option<u32>>) -> bool {
        let visible = process.sockets(self.end, |number, inode| {
            if let Some(cookie) = self.open.remove(&inode) {
                self.memory.foreign.remove(&cookie);
                self.memory.owners.insert(cookie, id);
            } else if self.listeners.contains(&inode)
                && let Some(listening) = &mut listening
            {
                **listening = Some(number);
            }
        });
        self.hidden |= !visible;
        visible
    }
}
