//! What was decoded once and is worth keeping under a budget: the directories of extents, by extent.
//!
//! Bounded by bytes, not by entries: whoever inserts a value says how many bytes it takes. Eviction is CLOCK: a hit sets
//! a bit, the hand clears bits until it finds one that is clear. Owned by one core.
//!
//! Memory: at most `bytes_max`, in which each entry counts for its value's bytes and [`DirectoryCache::ENTRY_BYTES`].

use std::fmt;
use std::hash::Hash;

use hashbrown::HashTable;

use super::extent_id::stable_hash;

/// A bounded map from `K` to `V`. Values that are shared with running reads are best an `Rc`.
pub struct DirectoryCache<K, V> {
    places: Vec<Option<Entry<K, V>>>,
    empty: Vec<u32>,
    by_key: HashTable<u32>,
    hand: usize,
    bytes: usize,
    bytes_max: usize,
    hits: u64,
    misses: u64,
}

struct Entry<K, V> {
    key: K,
    value: V,
    value_bytes: usize,
    hit: bool,
}

impl<K: Hash + Eq, V> DirectoryCache<K, V> {
    /// What an entry takes besides its value: its place, its number in the list of empty places, its part of the table. Vectors
    /// and tables may be half empty.
    pub const ENTRY_BYTES: usize = 2 * (size_of::<Option<Entry<K, V>>>() + 4) + 5 * 32 / 7 + 1;

    /// A cache of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        DirectoryCache {
            places: Vec::new(),
            empty: Vec::new(),
            by_key: HashTable::new(),
            hand: 0,
            bytes: 0,
            bytes_max,
            hits: 0,
            misses: 0,
        }
    }

    /// The value of `key`; notes the hit or the miss. No allocation.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        match self.find(key) {
            Some(at) => {
                self.hits += 1;
                let entry = self.places[at as usize]
                    .as_mut()
                    .expect("found entries exist");
                entry.hit = true;
                Some(&entry.value)
            }
            None => {
                self.misses += 1;
                None
            }
        }
    }

    /// Keeps a value that takes `value_bytes` of memory (its own size not counted), in place of the key's old one. One that is
    /// larger than the whole budget is not kept.
    pub fn insert(&mut self, key: K, value: V, value_bytes: usize) {
        self.remove(&key);
        let cost = value_bytes.saturating_add(Self::ENTRY_BYTES);
        if cost > self.bytes_max {
            return;
        }
        while self.bytes > self.bytes_max - cost {
            self.evict_one();
        }
        self.bytes += cost;
        let hash = stable_hash(&key);
        let entry = Some(Entry {
            key,
            value,
            value_bytes,
            hit: false,
        });
        let at = match self.empty.pop() {
            Some(at) => {
                self.places[at as usize] = entry;
                at
            }
            None => {
                self.places.push(entry);
                u32::try_from(self.places.len() - 1).expect("far fewer than 2^32 entries")
            }
        };
        let places = &self.places;
        self.by_key.insert_unique(hash, at, |&p| {
            let entry = places[p as usize].as_ref().expect("listed entries exist");
            stable_hash(&entry.key)
        });
    }

    /// Forgets a key; whether it was here.
    pub fn remove(&mut self, key: &K) -> bool {
        let found = self.find(key);
        if let Some(at) = found {
            self.take(at);
        }
        found.is_some()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.places.clear();
        self.empty.clear();
        self.by_key.clear();
        (self.hand, self.bytes) = (0, 0);
    }

    /// Bytes in use, of those allowed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lookups that found their key, and those that did not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    fn find(&self, key: &K) -> Option<u32> {
        let same = |&at: &u32| {
            self.places[at as usize]
                .as_ref()
                .is_some_and(|e| e.key == *key)
        };
        self.by_key.find(stable_hash(key), same).copied()
    }

    /// Moves the hand to the next entry that was not hit, and takes it. Called with at least one entry; ends after two
    /// rounds at most.
    fn evict_one(&mut self) {
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.places.len();
            if let Some(entry) = &mut self.places[at]
                && !std::mem::replace(&mut entry.hit, false)
            {
                self.take(u32::try_from(at).expect("far fewer than 2^32 entries"));
                return;
            }
        }
    }

    fn take(&mut self, at: u32) {
        let entry = self.places[at as usize].take();
        let entry = entry.expect("only entries are taken");
        match self
            .by_key
            .find_entry(stable_hash(&entry.key), |&p| p == at)
        {
            Ok(listed) => drop(listed.remove()),
            Err(_) => unreachable!("every entry is listed"),
        }
        self.bytes -= entry.value_bytes + Self::ENTRY_BYTES;
        self.empty.push(at);
    }
}

impl<K, V> fmt::Debug for DirectoryCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DirectoryCache({} of {} bytes)",
            self.bytes, self.bytes_max
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Cache = DirectoryCache<u64, Vec<u8>>;

    #[test]
    fn the_budget_holds_and_what_is_used_stays() {
        let budget = 50 * (1000 + Cache::ENTRY_BYTES);
        let mut cache = Cache::new(budget);
        for key in 0..1000u64 {
            let len = if key % 2 == 0 { 500 } else { 1000 };
            cache.insert(key, vec![0; len], len);
            assert!(cache.bytes() <= budget);
            assert!(cache.get(&0).is_some(), "the hot entry is gone at {key}");
        }
        let kept = (0..1000).filter(|k| cache.find(k).is_some()).count();
        let in_use: usize = cache
            .places
            .iter()
            .flatten()
            .map(|e| e.value.len() + Cache::ENTRY_BYTES)
            .sum();
        assert_eq!((cache.bytes(), cache.by_key.len()), (in_use, kept));
        assert!((50..=80).contains(&kept), "{kept} entries fill the budget");
        let overhead = cache.places.capacity() * size_of::<Option<Entry<u64, Vec<u8>>>>()
            + cache.empty.capacity() * 4
            + cache.by_key.allocation_size();
        assert!(overhead <= kept * Cache::ENTRY_BYTES, "{overhead} bytes");
    }

    #[test]
    fn values_are_replaced_removed_and_refused_when_too_large() {
        let mut cache = Cache::new(10_000);
        cache.insert(1, vec![1], 1);
        cache.insert(1, vec![2], 1);
        assert_eq!(cache.get(&1), Some(&vec![2]));
        cache.insert(2, Vec::new(), 10_000);
        assert_eq!(cache.get(&2), None);
        assert!(cache.remove(&1) && !cache.remove(&1));
        assert_eq!(cache.bytes(), 0);
        assert_eq!(cache.hits_and_misses(), (1, 1));
        cache.insert(3, vec![3], 1);
        cache.clear();
        assert_eq!(cache.get(&3), None);
        assert_eq!(cache.bytes(), 0);
    }
}
