//! One directory's entries, with positions that stay valid while others change it.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::NodeId;

/// Names by position and positions by name. A position is given once and never again, so a reader who
/// continues after one neither skips nor repeats entries that stay.
#[derive(Clone, Default)]
pub(crate) struct Dir {
    by_name: HashMap<Bytes, u64>,
    by_cookie: BTreeMap<u64, (Bytes, NodeId)>,
    last_cookie: u64,
}

impl Dir {
    pub(crate) fn get(&self, name: &[u8]) -> Option<NodeId> {
        let cookie = self.by_name.get(name)?;
        self.by_cookie.get(cookie).map(|(_, id)| *id)
    }

    pub(crate) fn insert(&mut self, name: Bytes, id: NodeId) {
        self.remove(&name);
        self.last_cookie += 1;
        self.by_name.insert(name.clone(), self.last_cookie);
        self.by_cookie.insert(self.last_cookie, (name, id));
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<NodeId> {
        let cookie = self.by_name.remove(name)?;
        self.by_cookie.remove(&cookie).map(|(_, id)| id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.by_cookie.values().map(|(_, id)| *id)
    }

    /// Entries after position `cookie`, in the order they were made.
    pub(crate) fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &Bytes, NodeId)> {
        let from = cookie.saturating_add(1);
        self.by_cookie.range(from..).map(|(cookie, (name, id))| (*cookie, name, *id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_changes() {
        let mut dir = Dir::default();
        for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
            dir.insert(Bytes::from(name), i as u64);
        }
        let (at_b, _, _) = dir.after(0).nth(1).unwrap();
        dir.remove(b"b");
        dir.remove(b"a");
        dir.insert(Bytes::from("a"), 9);
        let rest: Vec<_> = dir.after(at_b).map(|(_, name, id)| (name.clone(), id)).collect();
        assert_eq!(rest, [(Bytes::from("c"), 2), (Bytes::from("a"), 9)]);
        assert_eq!(dir.after(u64::MAX).count(), 0);
    }
}
