//! A map that remembers the order of use, for descriptors, watches and observations. What it drops
//! is the caller's business: an entry pushed out may need a close, a system call or an event.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// A map in order of last use. Not bounded by itself: callers pop while it is too long.
pub(crate) struct Lru<K, V> {
    map: HashMap<K, (V, u64)>,
    order: BTreeMap<u64, K>,
    tick: u64,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    pub(crate) fn new() -> Self {
        Lru { map: HashMap::new(), order: BTreeMap::new(), tick: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The value, now the most recently used.
    pub(crate) fn get(&mut self, key: &K) -> Option<&mut V> {
        let (value, tick) = self.map.get_mut(key)?;
        self.order.remove(tick);
        self.tick += 1;
        *tick = self.tick;
        self.order.insert(self.tick, key.clone());
        Some(value)
    }

    /// Inserts as the most recently used; returns the value it replaces.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.remove(&key);
        self.tick += 1;
        self.order.insert(self.tick, key.clone());
        self.map.insert(key, (value, self.tick));
        old
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (value, tick) = self.map.remove(key)?;
        self.order.remove(&tick);
        Some(value)
    }

    /// Takes out the entry that was used longest ago.
    pub(crate) fn pop(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let (value, _) = self.map.remove(&key)?;
        Some((key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_used_longest_ago_goes_first() {
        let mut lru = Lru::new();
        for k in 0..3 {
            assert_eq!(lru.insert(k, k * 10), None);
        }
        assert_eq!(lru.get(&0), Some(&mut 0));
        assert_eq!(lru.insert(1, 11), Some(10));
        assert_eq!(lru.pop(), Some((2, 20)));
        assert_eq!(lru.pop(), Some((0, 0)));
        assert_eq!(lru.remove(&1), Some(11));
        assert_eq!((lru.pop(), lru.len()), (None, 0));
    }
}
