//! First-in-first-out queues over one slab, so that an entry can be taken out of the middle and can
//! change queue without changing its token.

/// Names an entry of a policy, from its insert to its removal or eviction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(u32);

impl Token {
    /// A token that names nothing.
    pub const NONE: Token = Token(u32::MAX);

    /// From [`Token::to_raw`].
    #[must_use]
    pub fn from_raw(raw: u32) -> Token {
        Token(raw)
    }

    /// As a number, to be kept in an atomic.
    #[must_use]
    pub fn to_raw(self) -> u32 {
        self.0
    }
}

const NIL: u32 = u32::MAX;

struct Node<E> {
    entry: Option<E>,
    /// Towards the head (older). In the free list: unused.
    prev: u32,
    /// Towards the tail (newer). In the free list: the next free node.
    next: u32,
    queue: u8,
}

#[derive(Clone, Copy)]
struct Ends {
    head: u32,
    tail: u32,
    len: usize,
    weight: u64,
}

const EMPTY: Ends = Ends { head: NIL, tail: NIL, len: 0, weight: 0 };

/// `N` queues. The head is the oldest entry.
pub(super) struct Queues<E, const N: usize> {
    nodes: Vec<Node<E>>,
    free: u32,
    ends: [Ends; N],
}

impl<E, const N: usize> Queues<E, N> {
    pub(super) fn new() -> Self {
        Queues { nodes: Vec::new(), free: NIL, ends: [EMPTY; N] }
    }

    pub(super) fn len(&self, queue: usize) -> usize {
        self.ends[queue].len
    }

    pub(super) fn weight(&self, queue: usize) -> u64 {
        self.ends[queue].weight
    }

    /// The oldest entry of a queue.
    pub(super) fn head(&self, queue: usize) -> Option<(Token, &E)> {
        let at = self.ends[queue].head;
        let node = self.nodes.get(at as usize)?;
        node.entry.as_ref().map(|e| (Token(at), e))
    }

    /// Appends an entry of that weight to a queue.
    pub(super) fn push(&mut self, queue: usize, entry: E, weight: u64) -> Token {
        let at = self.free;
        let at = if at == NIL {
            let fresh = u32::try_from(self.nodes.len()).ok().filter(|n| *n != NIL);
            let fresh = fresh.expect("2^32 folios are 16 TiB of memory");
            self.nodes.push(Node { entry: Some(entry), prev: NIL, next: NIL, queue: 0 });
            fresh
        } else {
            let node = &mut self.nodes[at as usize];
            self.free = node.next;
            node.entry = Some(entry);
            at
        };
        self.link(queue, at, weight);
        Token(at)
    }

    /// Moves an entry to the tail of a queue.
    pub(super) fn move_to_tail(&mut self, token: Token, queue: usize, weight: u64) {
        self.unlink(token.0, weight);
        self.link(queue, token.0, weight);
    }

    /// Takes an entry out; `weight` tells what its entry weighs.
    pub(super) fn remove(&mut self, token: Token, weight: impl Fn(&E) -> u64) -> Option<E> {
        let node = self.nodes.get_mut(token.0 as usize)?;
        let entry = node.entry.take()?;
        self.unlink(token.0, weight(&entry));
        self.nodes[token.0 as usize].next = self.free;
        self.free = token.0;
        Some(entry)
    }

    fn link(&mut self, queue: usize, at: u32, weight: u64) {
        let ends = &mut self.ends[queue];
        let tail = ends.tail;
        ends.tail = at;
        ends.len += 1;
        ends.weight += weight;
        if tail == NIL {
            ends.head = at;
        } else {
            self.nodes[tail as usize].next = at;
        }
        let node = &mut self.nodes[at as usize];
        (node.prev, node.next, node.queue) = (tail, NIL, queue as u8);
    }

    fn unlink(&mut self, at: u32, weight: u64) {
        let Node { prev, next, queue, .. } = self.nodes[at as usize];
        let ends = &mut self.ends[usize::from(queue)];
        ends.len -= 1;
        ends.weight -= weight;
        if prev == NIL {
            ends.head = next;
        }
        if next == NIL {
            ends.tail = prev;
        }
        if let Some(node) = self.nodes.get_mut(prev as usize) {
            node.next = next;
        }
        if let Some(node) = self.nodes.get_mut(next as usize) {
            node.prev = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn equals_plain_deques(ops in proptest::collection::vec((0usize..4, 0usize..2, any::<prop::sample::Index>()), 1..200)) {
            let mut queues: Queues<u64, 2> = Queues::new();
            let mut model: [VecDeque<(Token, u64)>; 2] = Default::default();
            for (i, (op, queue, which)) in ops.into_iter().enumerate() {
                let value = i as u64;
                let other = &mut model[1 - queue];
                match op {
                    0 | 1 => {
                        let token = queues.push(queue, value, value);
                        model[queue].push_back((token, value));
                    }
                    2 if !other.is_empty() => {
                        let (token, v) = other.remove(which.index(other.len())).expect("in range");
                        queues.move_to_tail(token, queue, v);
                        model[queue].push_back((token, v));
                    }
                    3 if !other.is_empty() => {
                        let (token, v) = other.remove(which.index(other.len())).expect("in range");
                        prop_assert_eq!(queues.remove(token, |v| *v), Some(v));
                        prop_assert_eq!(queues.remove(token, |v| *v), None);
                    }
                    _ => {}
                }
                for (q, model) in model.iter().enumerate() {
                    prop_assert_eq!(queues.len(q), model.len());
                    prop_assert_eq!(queues.weight(q), model.iter().map(|(_, v)| v).sum::<u64>());
                    prop_assert_eq!(queues.head(q).map(|(t, v)| (t, *v)), model.front().copied());
                }
            }
        }
    }
}
