//! Which peers the workers' status pages name: cheaper than to look through their descriptors.
//!
//! Law: a page may lie. It can only claim a connection that the kernel knows, that nobody was seen to hold, and that no other page
//! names: else the descriptors decide. So a lie changes the figures of nobody else. Memory of this kind is keyed by the kernel's own numbers, which nobody outside can choose.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;

/// What the workers claim, by their ids.
#[derive(Debug, Default)]
pub struct Claims(HashMap<u64, Claim, Quick>);

#[derive(Debug)]
struct Claim {
    peers: Vec<SocketAddr>,
    leaves: bool,
}

impl Claims {
    /// A worker that shows all its connections, their peers, and whether it drains.
    pub fn add(&mut self, worker: u64, peers: Vec<SocketAddr>, leaves: bool) {
        self.0.insert(worker, Claim { peers, leaves });
    }

    /// Whether the worker shows its connections.
    pub(super) fn tells(&self, worker: u64) -> bool {
        self.0.contains_key(&worker)
    }

    /// Whether it shows them and does not drain: it has no reason to give up its listening socket.
    pub(super) fn stays(&self, worker: u64) -> bool {
        self.0.get(&worker).is_some_and(|claim| !claim.leaves)
    }

    /// How many do.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether a page names more connections than its worker has by `of`.
    pub(super) fn exceed(&self, of: impl Fn(u64) -> u64) -> bool {
        self.0.iter().any(|(worker, claim)| claim.peers.len() as u64 > of(*worker))
    }

    /// Every peer that is named, and the worker that alone names it, once; `None` where there are several.
    pub(super) fn named(&self) -> HashMap<SocketAddr, Option<u64>> {
        let mut named = HashMap::with_capacity(self.0.values().map(|claim| claim.peers.len()).sum());
        for (worker, claim) in &self.0 {
            for peer in &claim.peers {
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
