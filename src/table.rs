//! A map in a sorted vector, for keys that are mostly inserted in ascending order, as ids of workers and processes are.
//!
//! Law: an entry takes its own size and at most as much again, in one allocation. (A hash table, and the nodes of a tree that grows
//! at its end, are half empty.) A removal moves all later entries, so store small values or boxes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Entries in the order of their keys.
#[derive(Clone, Debug)]
pub struct Table<K, V>(Vec<(K, V)>);

impl<K: Copy + Ord, V> Table<K, V> {
    /// An empty table.
    pub const fn new() -> Self {
        Table(Vec::new())
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        // Fast path: most insertions are of a key above the last one.
        match self.0.last() {
            Some((last, _)) if last < key => Err(self.0.len()),
            _ => self.0.binary_search_by_key(key, |(key, _)| *key),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    /// The value of a key, mutable.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).ok().map(|at| &mut self.0[at].1)
    }

    /// Whether there is an entry for the key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    /// Inserts an entry; returns the previous value of the key.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Removes an entry; returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (_, value) = self.0.remove(self.find(key).ok()?);
        if self.0.capacity() > 4 * (self.0.len() + 16) {
            self.0.shrink_to(2 * self.0.len());
        }
        Some(value)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the table has no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// All keys, in ascending order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// Removes all entries and returns them, in the order of their keys.
    pub fn take(&mut self) -> impl ExactSizeIterator<Item = (K, V)> + use<K, V> {
        std::mem::take(&mut self.0).into_iter()
    }
}

impl<K: Copy + Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Table::new()
    }
}

impl<K: Copy + Ord, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut table = Table::new();
        entries.into_iter().for_each(|(key, value)| drop(table.insert(key, value)));
        table
    }
}

impl<K: Copy + Ord + Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, K: Copy + Ord + Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Table<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|entries| entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(deeds in prop::collection::vec((any::<bool>(), 0u8..40, any::<u16>()), 0..200)) {
            let (mut table, mut map) = (Table::new(), BTreeMap::new());
            for (puts, key, value) in deeds {
                if puts {
                    prop_assert_eq!(table.insert(key, value), map.insert(key, value));
                } else {
                    prop_assert_eq!(table.remove(&key), map.remove(&key));
                }
                prop_assert_eq!(table.get(&key), map.get(&key));
                prop_assert_eq!(table.contains_key(&key), map.contains_key(&key));
                prop_assert_eq!((table.len(), table.is_empty()), (map.len(), map.is_empty()));
                prop_assert!(table.iter().eq(map.iter()) && table.keys().eq(map.keys()) && table.values().eq(map.values()));
            }
            prop_assert!(table.take().eq(map));
            prop_assert!(table.is_empty());
        }
    }

    #[test]
    fn who_has_gone_leaves_no_room_behind() {
        let mut table: Table<u64, u64> = (0..1000).map(|key| (key, key)).collect();
        assert!(table.0.capacity() <= 1024);
        (0..1000).for_each(|key| assert_eq!(table.remove(&key), Some(key)));
        assert!(table.0.capacity() <= 64, "{}", table.0.capacity());
    }
}
