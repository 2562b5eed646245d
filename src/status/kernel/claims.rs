//! Which peers the workers' status pages name: cheaper than to look through their descriptors.
//!
//! Law: a page may lie. It can only claim a connection that the kernel knows, that nobody was seen to hold, and that no other page
//! names: else the descriptors decide. So a lie changes the figures of nobody else. Memory of this kind is keyed by the kernel's own
//! numbers, which nobody outside can choose.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

/// What the workers claim, by their ids.
#[derive(Debug, Default)]
pub struct Claims {
    peers: HashMap<u64, Vec<SocketAddr>, Quick>,
    leaving: HashSet<u64, Quick>,
    /// A sum that differs when the claims do.
    mark: u64,
}

impl Claims {
    /// A worker that shows all its connections, and their peers.
    pub fn add(&mut self, worker: u64, peers: Vec<SocketAddr>) {
        let mut hasher = DefaultHasher::new();
        (worker, &peers).hash(&mut hasher);
        // Whichever came first.
        self.mark = self.mark.wrapping_add(hasher.finish());
        self.peers.insert(worker, peers);
    }

    /// A worker that drains.
    pub fn leaves(&mut self, worker: u64) {
        self.leaving.insert(worker);
    }

    /// Other claims have another.
    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    /// Whether the worker drains.
    pub(super) fn is_leaving(&self, worker: u64) -> bool {
        self.leaving.contains(&worker)
    }

    /// Whether the worker shows its connections.
    pub(super) fn tells(&self, worker: u64) -> bool {
        self.peers.contains_key(&worker)
    }

    /// Whether it shows them and does not drain: it has no reason to give up its listening socket.
    pub(super) fn stays(&self, worker: u64) -> bool {
        self.tells(worker) && !self.is_leaving(worker)
    }

    /// How many show their connections.
    pub(super) fn count(&self) -> usize {
        self.peers.len()
    }

    /// Whether a page names more connections than its worker has by `of`.
    pub(super) fn exceed(&self, of: impl Fn(u64) -> u64) -> bool {
        self.peers.iter().any(|(worker, peers)| peers.len() as u64 > of(*worker))
    }

    /// Every peer that is named, and the worker that alone names it, once; `None` where there are several.
    pub(super) fn named(&self) -> HashMap<SocketAddr, Option<u64>> {
        let mut named = HashMap::with_capacity(self.peers.values().map(Vec::len).sum());
        for (worker, peers) in &self.peers {
            for peer in peers {
                named.entry(*peer).and_modify(|by| *by = None).or_insert(Some(*worker));
            }
        }
        named
    }
}

/// Hashes numbers that nobody outside can choose.
pub(super) type Quick = BuildHasherDefault<Mixer>;

/// See [`Quick`].
#[derive(Debug, Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // A large odd number; then the well mixed upper bits to where the table looks first.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}
