//! Which worker holds which connection, and whether it still holds a listening socket.
//!
//! Law: to look through a process's descriptors is dear (two to four microseconds each), so what was learned once is
//! remembered: a connection stays with the worker that accepted it. A new one belongs to the worker whose page alone names its
//! peer. A worker is looked through only as long as there are connections that nobody is known to hold, or when it does not
//! hold the listening socket where it held it before.

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
    /// Who holds it.
    owners: HashMap<Cookie, u64, Quick>,
    /// Held by nobody whom we could see, and how often that was so.
    foreign: HashMap<Cookie, u8, Quick>,
    /// On no page the last time, and not looked for.
    passed_over: HashSet<Cookie, Quick>,
    /// At which number a worker's main process held a listening socket.
    listening: HashMap<u64, u32, Quick>,
    /// Surveys so far.
    surveys: u64,
}

#[cfg(test)]
impl Memory {
    pub fn owners_and_foreign(&self) -> (usize, usize) {
        (self.owners.len(), self.foreign.len())
    }
}

/// One survey's look at who holds what.
pub(super) struct Holders<'a> {
    memory: &'a mut Memory,
    listeners: HashSet<Inode>,
    /// Connections whose holder is not known yet.
    open: HashMap<Inode, Cookie, Quick>,
    claims: &'a Claims,
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
        connections: &[Connection],
        workers: &HashSet<u64, Quick>,
        claims: &'a Claims,
        end: Instant,
    ) -> Holders<'a> {
        let before = std::mem::take(memory);
        memory.surveys = before.surveys.wrapping_add(1);
        memory.listening = before.listening;
        memory.listening.retain(|id, _| workers.contains(id));
        memory.owners.reserve(connections.len());
        let mut unknown = Vec::new();
        for connection in connections {
            let cookie = &connection.cookie;
            if let Some(id) = before.owners.get(cookie).filter(|id| workers.contains(id)) {
                memory.owners.insert(*cookie, *id);
                continue;
            }
            let tries = before.foreign.get(cookie).copied();
            memory.foreign.extend(tries.map(|tries| (*cookie, tries)));
            if tries.is_none_or(|tries| tries < TRIES) {
                unknown.push(connection);
            }
        }
        claimed(&mut unknown, &mut memory.owners, claims);
        let few = FEW.0 + connections.len() / FEW.1;
        let again = unknown.iter().any(|connection| before.passed_over.contains(&connection.cookie));
        let trusting = claims.count() > MANY && unknown.len() <= few && !again;
        let open = unknown.iter().map(|connection| (connection.inode, connection.cookie)).collect();
        Holders { memory, listeners, open, claims, trusting, end, hidden: false }
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
    fn wants(&self, id: u64) -> bool {
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
        let mut counts = HashMap::default();
        for id in self.memory.owners.values() {
            *counts.entry(*id).or_default() += 1;
        }
        (counts, !self.open.is_empty() || !self.memory.foreign.is_empty())
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

/// Gives connections to the workers whose pages name their peers, where one page names it and one connection has it.
fn claimed(unknown: &mut Vec<&Connection>, owners: &mut HashMap<Cookie, u64, Quick>, claims: &Claims) {
    if unknown.is_empty() || claims.count() == 0 {
        return;
    }
    let undisputed = claims.undisputed();
    // With several listening sockets, connections of one peer can be several.
    let mut times = HashMap::with_capacity(unknown.len());
    unknown.iter().filter_map(|connection| connection.peer).for_each(|peer| *times.entry(peer).or_insert(0) += 1);
    unknown.retain(|connection| {
        let one = |peer: &std::net::SocketAddr| times.get(peer) == Some(&1);
        let owner = connection.peer.filter(one).and_then(|peer| undisputed.get(&peer));
        owners.extend(owner.map(|id| (connection.cookie, *id)));
        owner.is_none()
    });
}
