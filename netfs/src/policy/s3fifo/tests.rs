use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    rc::Rc,
};

use proptest::prelude::*;

use super::*;
use crate::policy::FREQUENCY_MAX;

/// An entry as a single-threaded user (the simulator) would make it.
#[derive(Clone)]
struct Item(Rc<ItemState>);

struct ItemState {
    key: u64,
    weight: u64,
    frequency: Cell<u8>,
    evictable: Cell<bool>,
}

impl Item {
    fn new(key: u64, weight: u64) -> Item {
        let (frequency, evictable) = (Cell::new(0), Cell::new(true));
        Item(Rc::new(ItemState { key, weight, frequency, evictable }))
    }

    fn hit(&self) {
        self.0.frequency.set((self.0.frequency.get() + 1).min(FREQUENCY_MAX));
    }
}

impl Entry for Item {
    fn key(&self) -> u64 {
        // A multiplication by an odd number mixes enough for a test and keeps keys distinct.
        self.0.key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
    fn weight(&self) -> u64 {
        self.0.weight
    }
    fn frequency(&self) -> u8 {
        self.0.frequency.get()
    }
    fn set_frequency(&self, frequency: u8) {
        self.0.frequency.set(frequency);
    }
    fn evictable(&self) -> bool {
        self.0.evictable.get()
    }
}

/// A cache of unit-weight items of at most `capacity`.
struct Cache {
    policy: S3Fifo<Item>,
    items: HashMap<u64, (Item, Token)>,
    capacity: u64,
}

impl Cache {
    fn new(capacity: u64) -> Cache {
        Cache { policy: S3Fifo::new(capacity, 1), items: HashMap::new(), capacity }
    }

    /// Looks `key` up, inserting it on a miss; true = hit.
    fn access(&mut self, key: u64) -> bool {
        if let Some((item, _)) = self.items.get(&key) {
            item.hit();
            return true;
        }
        while self.policy.weight() >= self.capacity {
            let victim = self.policy.evict().expect("everything is evictable");
            self.items.remove(&victim.0.key);
        }
        let item = Item::new(key, 1);
        let token = self.policy.insert(item.clone());
        self.items.insert(key, (item, token));
        false
    }

    fn touch(&mut self, key: u64) {
        self.access(key);
    }
}

#[test]
fn a_one_pass_scan_of_ten_times_the_capacity_does_not_evict_the_hot_set() {
    let mut cache = Cache::new(1000);
    for _ in 0..4 {
        (0..500).for_each(|k| cache.touch(k));
    }
    (10_000..20_000).for_each(|k| assert!(!cache.access(k)));
    let kept = (0..500).filter(|k| cache.items.contains_key(k)).count();
    assert_eq!(kept, 500);
}

#[test]
fn what_returns_while_the_ghost_knows_it_is_kept_through_a_scan() {
    let mut cache = Cache::new(100);
    (0..300).for_each(|k| cache.touch(k));
    assert!(!cache.access(190), "evicted not long ago");
    // Used once since, so a plain FIFO of this capacity would have lost it.
    (1000..1095).for_each(|k| cache.touch(k));
    (2000..2095).for_each(|k| cache.touch(k));
    assert!(cache.access(190), "it went to main");
}

#[test]
fn the_small_queue_holds_one_entry_however_small_the_capacity() {
    let mut cache = Cache::new(3);
    [1, 2, 3, 1, 2, 1, 2].into_iter().for_each(|k| cache.touch(k));
    cache.touch(4); // promotes 1 and 2, evicts 3
    cache.touch(5); // 4 is all of the small queue: an old entry of main makes room
    assert!(cache.items.contains_key(&4) && !cache.items.contains_key(&1));
    let mut zero = S3Fifo::new(0, 1);
    zero.insert(Item::new(1, 1));
    assert!(zero.evict().is_some(), "the only entry can always be evicted");
    assert!(zero.evict().is_none());
}

#[test]
fn what_cannot_be_evicted_is_passed_over_and_ends_the_search_if_nothing_else_is_there() {
    let mut policy = S3Fifo::new(100, 1);
    let items: Vec<Item> = (0..50).map(|k| Item::new(k, 1)).collect();
    for item in &items {
        policy.insert(item.clone());
        item.0.evictable.set(item.0.key == 30);
        (0..item.0.key % 4).for_each(|_| item.hit());
    }
    assert_eq!(policy.evict().map(|i| i.0.key), Some(30));
    assert!(policy.evict().is_none());
    assert_eq!(policy.len(), 49);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens, the policy holds exactly what was inserted and neither removed nor evicted,
    /// weighs what that weighs, always finds a victim if there is one, and its ghost stays bounded.
    #[test]
    fn holds_exactly_what_was_not_taken_out(
        ops in proptest::collection::vec((0u8..8, 0u64..40, 1u64..64), 1..400),
        capacity in 0u64..500,
    ) {
        let mut policy: S3Fifo<Item> = S3Fifo::new(capacity, 64);
        let mut model: HashMap<u64, (Item, Token)> = HashMap::new();
        for (op, key, weight) in ops {
            match op {
                0..=2 => {
                    model.entry(key).or_insert_with(|| {
                        let item = Item::new(key, weight);
                        let token = policy.insert(item.clone());
                        (item, token)
                    });
                }
                3 => if let Some((item, _)) = model.get(&key) { item.hit() },
                4 => if let Some((item, _)) = model.get(&key) {
                    item.0.evictable.set(weight % 4 != 0);
                },
                5 => if let Some((_, token)) = model.remove(&key) {
                    prop_assert_eq!(policy.remove(token).map(|i| i.0.key), Some(key));
                    prop_assert!(policy.remove(token).is_none());
                },
                _ => {
                    let can = model.values().any(|(item, _)| item.evictable());
                    let victim = policy.evict();
                    prop_assert_eq!(victim.is_some(), can);
                    if let Some(victim) = victim {
                        prop_assert!(victim.evictable());
                        prop_assert!(model.remove(&victim.0.key).is_some());
                    }
                }
            }
            prop_assert_eq!(policy.len(), model.len());
            prop_assert_eq!(policy.weight(), model.values().map(|(i, _)| i.0.weight).sum::<u64>());
            let ghosts: HashSet<u64> = policy.ghost.live.keys().copied().collect();
            prop_assert!(ghosts.len() <= policy.ghost_len());
            prop_assert!(policy.ghost.weight <= policy.ghost.weight_max);
        }
    }
}
