//! Which worker holds which connection, and whether it still holds a listening socket.
//!
//! Law: to look through a process's descriptors is dear (two to four microseconds each), so what was seen once is
//! remembered: a connection stays with the worker that accepted it. A worker is looked through only as long as there are
//! connections that nobody is known to hold, or when it does not hold the listening socket where it held it before.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::diag::{Cookie, Inode};
use super::process::Process;

/// How often a connection that no worker holds is looked for. It is another program's that shares the address; but one that
/// was just being passed from process to process deserves a second look.
const TRIES: u8 = 3;
/// Where the listening sockets of a worker begin, sd_listen_fds(3).
const LISTEN_FDS_START: u32 = 3;

/// What is remembered from one survey to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Who holds it.
    owners: HashMap<Cookie, u64>,
    /// Held by nobody whom we could see, and how often that was so.
    foreign: HashMap<Cookie, u8>,
    /// At which number a worker's main process held a listening socket.
    listening: HashMap<u64, u32>,
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
    open: HashMap<Inode, Cookie>,
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
        connections: &HashMap<Inode, Cookie>,
        workers: &HashSet<u64>,
        end: Instant,
    ) -> Holders<'a> {
        let alive: HashSet<Cookie> = connections.values().copied().collect();
        memory.owners.retain(|cookie, id| alive.contains(cookie) && workers.contains(id));
        memory.foreign.retain(|cookie, _| alive.contains(cookie));
        memory.listening.retain(|id, _| workers.contains(id));
        let known = |cookie: &Cookie| {
            memory.owners.contains_key(cookie) || memory.foreign.get(cookie).is_some_and(|tries| *tries >= TRIES)
        };
        let open = connections.iter().filter(|(_, cookie)| !known(cookie)).map(|(inode, cookie)| (*inode, *cookie)).collect();
        Holders { memory, listeners, open, end, hidden: false }
    }

    /// Whether there is anything that a worker might hold; without listening sockets nobody needs to be looked through.
    pub fn any(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Looks at a worker's main process.
    pub fn main(&mut self, id: u64, process: &Process) -> Seen {
        if self.listens_as_before(id, process) {
            let visible = self.open.is_empty() || self.through(id, process, None);
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
    pub fn wants_others(&self, main: Seen) -> bool {
        !self.open.is_empty() || main.listening != Some(true)
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
    pub fn count(self) -> (HashMap<u64, u64>, bool) {
        if !self.hidden {
            for cookie in self.open.values() {
                *self.memory.foreign.entry(*cookie).or_default() += 1;
            }
        }
        let mut counts = HashMap::new();
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
            return holds(number);
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
