//! Claims: the peers of connections that the workers' status pages name. To read them is cheaper than to read all descriptors.
//!
//! Law: a page may lie. A page can claim only a connection that the kernel knows, that no worker was seen to hold, and that no other
//! page names; otherwise the descriptors decide. So a lie changes the figures of no other worker. Maps with the `Quick` hasher are
//! keyed by numbers of the kernel or the master, which nobody outside can choose.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

/// The claims of the workers' pages, by worker id.
#[derive(Debug, Default)]
pub struct Claims {
    peers: HashMap<u64, Vec<SocketAddr>, Quick>,
    leaving: HashSet<u64, Quick>,
    /// A checksum of the claims.
    mark: u64,
}

impl Claims {
    /// Adds a worker whose page shows all its connections, with their peers.
    pub fn add(&mut self, worker: u64, peers: Vec<SocketAddr>) {
        let mut hasher = DefaultHasher::new();
        (worker, &peers).hash(&mut hasher);
        // A sum, so that the order of the workers does not matter.
        self.mark = self.mark.wrapping_add(hasher.finish());
        self.peers.insert(worker, peers);
    }

    /// Marks a worker as draining.
    pub fn leaves(&mut self, worker: u64) {
        self.leaving.insert(worker);
    }

    /// The checksum of the claims.
    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    /// Whether the worker drains.
    pub(super) fn is_leaving(&self, worker: u64) -> bool {
        self.leaving.contains(&worker)
    }

    /// Whether the worker's page shows its connections.
    pub(super) fn tells(&self, worker: u64) -> bool {
        self.peers.contains_key(&worker)
    }

    /// Whether the worker's page shows its connections and the worker does not drain. Such a worker has no reason to close its listening
    /// socket.
    pub(super) fn stays(&self, worker: u64) -> bool {
        self.tells(worker) && !self.is_leaving(worker)
    }

    /// Number of workers whose pages show their connections.
    pub(super) fn count(&self) -> usize {
        self.peers.len()
    }

    /// Whether a page names more connections than `of` gives for its worker.
    pub(super) fn exceed(&self, of: impl Fn(u64) -> u64) -> bool {
        self.peers.iter().any(|(worker, peers)| peers.len() as u64 > of(*worker))
    }

    /// Every named peer with the worker whose page names it; `None` when several pages name the peer, or one page names it twice.
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

/// A fast hasher for numbers that nobody outside can choose.
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
        // Multiplies by a large odd number, then rotates the well mixed upper bits to where the table looks first.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}
