//! Which slot goes next: S3-FIFO (Yang and others, "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! New extents are on probation in a small queue of a tenth of the slots. Those hit more than once there
//! move on to the main queue, the others leave early and are remembered as ghosts; one that comes back while it is remembered
//! goes straight to the main queue. In the main queue an extent that was hit gets another round. A scan passes
//! through the small queue and leaves the main one alone.
//!
//! Slots are numbers `0..capacity`; the queues are links in one array, so nothing here allocates except
//! [`S3Fifo::grow`]. A hit writes one byte. It does not know what the slots hold.

use super::ghost::Ghost;

/// The two queues and the ghosts.
#[derive(Debug, Default)]
pub(super) struct S3Fifo {
    /// Links of the slots that were queued at least once, and of those before them.
    links: Vec<Link>,
    capacity: usize,
    small: Queue,
    main: Queue,
    ghost: Ghost,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    newer: u32,
    older: u32,
    place: Place,
    hits: u8,
}

/// Where a slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Nowhere,
    Small,
    Main,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    newest: u32,
    oldest: u32,
    len: u32,
}

const NONE: u32 = u32::MAX;
const NOWHERE: Link = Link {
    newer: NONE,
    older: NONE,
    place: Place::Nowhere,
    hits: 0,
};
const HITS_MAX: u8 = 3;
/// Slots in use that a search for a victim passes over before it gives up.
const HELD_PASSED_MAX: u32 = 256;

impl Default for Queue {
    fn default() -> Self {
        Queue {
            newest: NONE,
            oldest: NONE,
            len: 0,
        }
    }
}

impl S3Fifo {
    /// Makes room for slots `0..capacity`; memory is touched only as they are queued.
    pub(super) fn grow(&mut self, capacity: u32) {
        let capacity = capacity as usize;
        assert!(capacity >= self.capacity, "slots are never taken away");
        self.capacity = capacity;
        self.links.reserve(capacity - self.links.len());
        self.ghost.grow(capacity - self.small_target());
    }

    /// Queues a slot that was filled anew; `hash` tells whether its content was evicted a short while ago.
    pub(super) fn insert(&mut self, slot: u32, hash: u64) {
        let place = if self.ghost.recall(hash) {
            Place::Main
        } else {
            Place::Small
        };
        self.insert_at(slot, place, 0);
    }

    /// Queues a slot as an earlier run left it.
    pub(super) fn restore(&mut self, slot: u32, main: bool, hit: bool) {
        let place = if main { Place::Main } else { Place::Small };
        self.insert_at(slot, place, u8::from(hit));
    }

    /// Notes a hit.
    pub(super) fn touch(&mut self, slot: u32) {
        let link = &mut self.links[slot as usize];
        assert!(link.place != Place::Nowhere, "only queued slots are hit");
        if link.hits < HITS_MAX {
            link.hits += 1;
        }
    }

    /// Whether the slot is in the main queue, and whether it was hit: what an index remembers.
    pub(super) fn standing(&self, slot: u32) -> (bool, bool) {
        let link = self.links.get(slot as usize).unwrap_or(&NOWHERE);
        (link.place == Place::Main, link.hits > 0)
    }

    /// Takes a slot out of its queue without remembering it.
    pub(super) fn remove(&mut self, slot: u32) {
        let Link {
            newer,
            older,
            place,
            ..
        } = self.links[slot as usize];
        let queue = match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
            Place::Nowhere => unreachable!("only queued slots are removed"),
        };
        match newer {
            NONE => queue.newest = older,
            n => self.links[n as usize].older = older,
        }
        match older {
            NONE => queue.oldest = newer,
            o => self.links[o as usize].newer = newer,
        }
        queue.len -= 1;
        self.links[slot as usize].place = Place::Nowhere;
    }

    /// Takes the next victim out of its queue. Slots that `held` names are passed over; after 256 of them it gives
    /// up. Each other step lowers a count of hits, moves a slot to the main queue, or ends the search, so that the
    /// cost is paid for by earlier hits.
    pub(super) fn evict(
        &mut self,
        held: impl Fn(u32) -> bool,
        hash: impl Fn(u32) -> u64,
    ) -> Option<u32> {
        let mut passed = 0;
        while passed < HELD_PASSED_MAX {
            let from_small = self.small.len as usize >= self.small_target() || self.main.len == 0;
            let slot = if from_small {
                self.small.oldest
            } else {
                self.main.oldest
            };
            if slot == NONE {
                return None;
            }
            let hits = self.links[slot as usize].hits;
            self.remove(slot);
            if held(slot) {
                passed += 1;
                let place = if from_small {
                    Place::Small
                } else {
                    Place::Main
                };
                self.insert_at(slot, place, hits);
            } else if from_small && hits > 1 {
                self.insert_at(slot, Place::Main, 0);
            } else if from_small {
                self.ghost.remember(hash(slot));
                return Some(slot);
            } else if hits > 0 {
                self.insert_at(slot, Place::Main, hits - 1);
            } else {
                return Some(slot);
            }
        }
        None
    }

    /// Slots of the small queue beyond which victims come from there.
    fn small_target(&self) -> usize {
        (self.capacity / 10).max(1).min(self.capacity)
    }

    fn insert_at(&mut self, slot: u32, place: Place, hits: u8) {
        assert!((slot as usize) < self.capacity, "slot {slot} has room");
        if self.links.len() <= slot as usize {
            self.links.resize(slot as usize + 1, NOWHERE);
        }
        assert!(
            self.links[slot as usize].place == Place::Nowhere,
            "a slot is queued once"
        );
        let queue = match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
            Place::Nowhere => unreachable!("nobody queues a slot nowhere"),
        };
        let older = queue.newest;
        queue.newest = slot;
        match older {
            NONE => queue.oldest = slot,
            o => self.links[o as usize].newer = slot,
        }
        queue.len += 1;
        self.links[slot as usize] = Link {
            newer: NONE,
            older,
            place,
            hits,
        };
    }

    /// Memory in use, for the test of the formula.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>() + self.ghost.memory_bytes()
    }

    /// Walks both queues and asserts that they hold together. Returns how many slots are queued.
    pub(super) fn check_invariants(&self) -> usize {
        let mut queued = 0;
        for (queue, place) in [(&self.small, Place::Small), (&self.main, Place::Main)] {
            let (mut at, mut newer, mut len) = (queue.newest, NONE, 0);
            while at != NONE {
                let link = &self.links[at as usize];
                assert_eq!(link.place, place, "slot {at} knows its queue");
                assert_eq!(link.newer, newer, "slot {at} knows its neighbour");
                assert!(len < queue.len, "the queue has an end");
                (newer, at, len) = (at, link.older, len + 1);
            }
            assert_eq!((queue.oldest, queue.len), (newer, len));
            queued += len as usize;
        }
        let placed = self.links.iter().filter(|l| l.place != Place::Nowhere);
        assert_eq!(placed.count(), queued, "a slot outside has no place");
        queued
    }
}

#[cfg(test)]
mod tests;
