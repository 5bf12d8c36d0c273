//! The names of extents that were evicted a short while ago, as hashes: one that comes back is worth keeping.
//!
//! A ring of the newest hashes and a table to find them. Both keep their size between calls of [`Ghost::grow`]; remembering
//! one more forgets the oldest. Two extents of one hash are taken for one another, which costs nothing but a
//! place in the main queue.

use hashbrown::HashTable;

#[derive(Debug, Default)]
pub(super) struct Ghost {
    /// Hashes; once all places are taken, in the order of eviction from `oldest` on. One that was recalled stays until it is
    /// overwritten.
    ring: Vec<u64>,
    capacity: usize,
    oldest: usize,
    /// Positions in `ring` of the hashes that are remembered.
    table: HashTable<u32>,
}

impl Ghost {
    /// Remembers `capacity` hashes from now on; never fewer than before. The only call that allocates.
    pub(super) fn grow(&mut self, capacity: usize) {
        if capacity <= self.capacity {
            return;
        }
        if self.oldest > 0 {
            let (len, shift) = (self.ring.len(), self.oldest);
            self.ring.rotate_left(shift);
            for position in &mut self.table {
                let at = (*position as usize + len - shift) % len;
                *position = to_position(at);
            }
            self.oldest = 0;
        }
        self.capacity = capacity;
        self.ring.reserve(capacity - self.ring.len());
        let ring = &self.ring;
        // Twice the size, so that what deletions leave behind is cleared without growing again.
        let more = 2 * capacity - self.table.len();
        self.table.reserve(more, |&p| ring[p as usize]);
    }

    /// Remembers `hash` as the newest.
    pub(super) fn remember(&mut self, hash: u64) {
        if self.capacity == 0 {
            return;
        }
        self.recall(hash);
        let at = if self.ring.len() < self.capacity {
            self.ring.push(hash);
            self.ring.len() - 1
        } else {
            let at = self.oldest;
            self.oldest = (at + 1) % self.capacity;
            let forgotten = std::mem::replace(&mut self.ring[at], hash);
            if let Ok(entry) = self.table.find_entry(forgotten, |&p| p as usize == at) {
                entry.remove();
            }
            at
        };
        let ring = &self.ring;
        self.table
            .insert_unique(hash, to_position(at), |&p| ring[p as usize]);
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

fn to_position(at: usize) -> u32 {
    u32::try_from(at).expect("no more ghosts than slots")
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
        assert!(!ghost.recall(4), "also after growing");
        for hash in 6..=8 {
            ghost.remember(hash);
        }
        ghost.remember(7);
        let left: Vec<u64> = (1..=8).filter(|&h| ghost.recall(h)).collect();
        assert_eq!(left, [5, 6, 7, 8]);
    }
}
