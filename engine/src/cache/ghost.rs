//! The names of extents that were evicted a short while ago, as hashes: one that comes back is worth keeping.
//!
//! A ring of the newest hashes and a table to find them. Both keep their size between calls of [`Ghost::grow`]; remembering
//! one more forgets the oldest. Two extents of one hash are taken for one another, which costs nothing but a
//! place in the main queue.

use hashbrown::HashTable;

#[derive(Debug, Default)]
pub(super) struct Ghost {
    /// Hashes in the order of eviction, from `oldest` on; one that was recalled stays until it is overwritten.
    ring: Vec<u64>,
    oldest: usize,
    len: usize,
    /// Positions in `ring` of the hashes that are remembered.
    table: HashTable<u32>,
}

impl Ghost {
    /// Remembers at least `capacity` hashes from now on; never fewer than before, and when it grows by little, twice as
    /// many, so that growing step by step stays cheap. The only call that allocates.
    pub(super) fn grow(&mut self, capacity: usize) {
        if capacity <= self.ring.len() {
            return;
        }
        let capacity = capacity.max(2 * self.ring.len());
        let mut kept = Vec::with_capacity(capacity);
        kept.extend((0..self.len).map(|n| self.ring[(self.oldest + n) % self.ring.len()]));
        let alive: Vec<bool> = (0..self.len)
            .map(|n| {
                let at = (self.oldest + n) % self.ring.len();
                self.table
                    .find(self.ring[at], |&p| p as usize == at)
                    .is_some()
            })
            .collect();
        kept.resize(capacity, 0);
        self.ring = kept;
        self.oldest = 0;
        self.table.clear();
        let ring = &self.ring;
        // Twice the size spares rehashing in place, which hash tables do when deletions pile up.
        self.table.reserve(2 * capacity, |&p| ring[p as usize]);
        for (at, _) in alive.iter().enumerate().filter(|(_, alive)| **alive) {
            let position = u32::try_from(at).expect("as many hashes as slots");
            self.table
                .insert_unique(ring[at], position, |&p| ring[p as usize]);
        }
    }

    /// Remembers `hash` as the newest.
    pub(super) fn remember(&mut self, hash: u64) {
        if self.ring.is_empty() {
            return;
        }
        let at = (self.oldest + self.len) % self.ring.len();
        if self.len == self.ring.len() {
            let oldest = self.oldest;
            if let Ok(entry) = self
                .table
                .find_entry(self.ring[oldest], |&p| p as usize == oldest)
            {
                entry.remove();
            }
            self.oldest = (oldest + 1) % self.ring.len();
        } else {
            self.len += 1;
        }
        self.recall(hash);
        self.ring[at] = hash;
        let ring = &self.ring;
        let position = u32::try_from(at).expect("as many hashes as slots");
        self.table
            .insert_unique(hash, position, |&p| ring[p as usize]);
    }

    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.ring.capacity() * size_of::<u64>() + self.table.allocation_size()
    }

    /// Whether `hash` is remembered; it is forgotten with that.
    pub(super) fn recall(&mut self, hash: u64) -> bool {
        let ring = &self.ring;
        match self.table.find_entry(hash, |&p| ring[p as usize] == hash) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_and_recalled_once() {
        let mut ghost = Ghost::default();
        ghost.remember(1);
        assert!(!ghost.recall(1), "no room, no memory");
        ghost.grow(3);
        for hash in 1..=5 {
            ghost.remember(hash);
        }
        assert!(!ghost.recall(1) && !ghost.recall(2));
        assert!(ghost.recall(4));
        assert!(!ghost.recall(4), "once");
        ghost.grow(5);
        assert!(!ghost.recall(4), "also after growing, to six");
        for hash in 6..=8 {
            ghost.remember(hash);
        }
        ghost.remember(7);
        let left: Vec<u64> = (1..=8).filter(|&h| ghost.recall(h)).collect();
        assert_eq!(left, [5, 6, 7, 8]);
    }
}
