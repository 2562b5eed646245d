//! Which worker holds which connection, and whether it still holds a listening socket.
//!
//! Law: to look through a process's descriptors is dear (two to four microseconds each), so what was learned once is
//! remembered: a connection stays with the worker that was seen to hold it. Those that nobody was seen to hold are looked for at the
//! workers whose pages do not show their connections; then they belong to the worker whose page alone names their peer, for as
//! long as no other page names it. Where pages contradict each other, the descriptors decide, once and for all. A worker is looked
//! through only as long as there are connections that nobody is known to hold, or when it does not hold the listening socket where
//! it held it before.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::claims::{Claims, Quick};
use super::diag::{Connection, Cookie, Inode};
use super::process::Process;

/// How often a connection that no worker holds is looked for. It is another program's that shares the address; but one that
/// was just being passed from process to process deserves a second look.
const TRIES: u8 = 3;
/// With more workers than this that show their connections, a few connections on no page are no reason to look through them:
/// such a connection has begun or ended between the kernel's word and the pages'. One that is still on no page the next time is.
const MANY: usize = 64;
/// See [`MANY`]: a few are so many, and one of so many connections.
const FEW: (usize, usize) = (32, 50);
/// With so many, a worker that shows its connections and does not drain is asked for its listening socket every so many
/// surveys: 3 milliseconds of a survey of a thousand, for what never changes.
const ROUND: u64 = 8;
/// Where the listening sockets of a worker begin, sd_listen_fds(3).
const LISTEN_FDS_START: u32 = 3;

/// What is remembered from one survey to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Who holds it, as was seen.
    owners: HashMap<Cookie, u64, Quick>,
    /// Who says so.
    said: HashMap<Cookie, u64, Quick>,
    /// Whose pages show their connections.
    telling: HashSet<u64, Quick>,
    /// Held by nobody whom we could see, and how often that was so.
    foreign: HashMap<Cookie, u8, Quick>,
    /// On no page, and not looked for.
    passed_over: HashSet<Cookie, Quick>,
    /// At which number a worker's main process held a listening socket.
    listening: HashMap<u64, u32, Quick>,
    /// Surveys so far.
    surveys: u64,
}

impl Memory {
    /// All workers will be looked at.
    pub fn next_survey(&mut self) {
        self.surveys = self.surveys.wrapping_add(1);
    }

    /// How many connections each worker is known to hold.
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

/// One survey's look at who holds what.
pub(super) struct Holders<'a> {
    memory: &'a mut Memory,
    listeners: HashSet<Inode>,
    /// Connections whose holder is not known yet.
    open: HashMap<Inode, Cookie, Quick>,
    claims: &'a Claims,
    connections: &'a [Connection],
    /// On no page the last time, and not looked for.
    passed_over: HashSet<Cookie, Quick>,
    /// Who shows its connections is not looked through.
    trusting: bool,
    end: Instant,
    /// Somebody could not be looked through.
    hidden: bool,
}

/// What was seen at one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Holds a listening socket; `None` when it cannot be seen.
    pub listening: Option<bool>,
    /// All of it that was looked at could be seen.
    pub visible: bool,
}

impl<'a> Holders<'a> {
    /// Begins with these sockets; forgets what is gone.
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
        // What was only said is asked again as soon as anything is new, or a page names more than its worker has.
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

    /// When those were looked at whose pages do not show their connections: what nobody of them holds belongs to whose page
    /// alone names it.
    pub fn believe(&mut self) {
        // Whoever could not be looked through may hold anything.
        if self.open.is_empty() || self.claims.count() == 0 || self.hidden {
            return;
        }
        let named = self.claims.named();
        let open = || self.connections.iter().filter(|connection| self.open.contains_key(&connection.inode));
        // With several listening sockets, connections of one peer can be several.
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

    /// Goes on with what was learned the last time: no connection is looked for.
    pub fn again(memory: &'a mut Memory, listeners: HashSet<Inode>, claims: &'a Claims, end: Instant) -> Holders<'a> {
        let (open, passed_over) = Default::default();
        Holders { memory, listeners, open, claims, connections: &[], passed_over, trusting: false, end, hidden: false }
    }

    /// Whether there is anything that a worker might hold; without listening sockets nobody needs to be looked through.
    pub fn any(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Looks at a worker's main process.
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

    /// Whether the other processes of a worker with this main process are worth a look.
    pub fn wants_others(&self, id: u64, main: Seen) -> bool {
        self.wants(id) || main.listening != Some(true)
    }

    /// Whether this worker may hold a connection that nobody is known to hold.
    pub fn wants(&self, id: u64) -> bool {
        let trusted = self.trusting && self.claims.tells(id);
        !self.open.is_empty() && !trusted
    }

    /// Looks at another process of a worker; one that has ended meanwhile holds nothing.
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

    /// When all workers were looked at: how many connections each holds. `None` in place of a number would be right where
    /// the second value is `true`: some connections are nobody's, and this worker could not be looked through.
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

    /// Tells that a worker, or a part of it, could not be looked at.
    pub fn hide(&mut self) {
        self.hidden = true;
    }

    /// One look at where it was, or where we have put it.
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

    /// Looks through all descriptors; `false` when they could not all be seen.
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
