//! What one core knows of its slots: which extent each holds, who reads or fills it, which goes next.
//!
//! Pure memory: no files, no time. A slot is in one state:
//!
//! ```text
//!            reserve              filled
//!   Free ──────────────► Filling ─────────► Filled ──► evicted: Free
//!    ▲                      │ abandon         │ dropped while it is read
//!    └──────────────────────┴───────◄─────── Doomed (until the last reader is gone)
//! ```
//!
//! Only `Free` and unread `Filled` slots are ever reused, so a buffer in the kernel's hands never meets
//! another extent. A slot found by `lookup` is `Filled`; `Doomed` and `Filling` ones are not found.
//!
//! A slot's position here is its position in this core's part of the index: `position / ENTRIES_PER_BLOCK` is
//! the block. Changes mark the block dirty; the index writer takes dirty blocks in turn.
//!
//! Only [`SlotTable::add`] and [`SlotTable::adopt`] allocate, when slots are dealt to the core after a start. Slots that were
//! never used are not listed one by one, so that a large empty cache costs neither time nor memory that is touched.

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::types::{BranchId, Id, ObjectId, Partition, TenantId};

use super::config::SLOT_BYTES;
use super::eviction::S3Fifo;
use super::extent_id::{ExtentId, stable_hash};
use super::index_format::{ENTRIES_PER_BLOCK, Entry};

#[derive(Debug, Default)]
pub(super) struct SlotTable {
    slots: Vec<Slot>,
    /// Runs of slots that have no position yet: first number and count.
    unused: VecDeque<(u32, u32)>,
    unused_count: u32,
    /// Positions of `Filling` and `Filled` slots by extent.
    by_extent: HashTable<u32>,
    eviction: S3Fifo,
    free: Vec<u32>,
    /// Blocks to be written, each at most once.
    dirty: VecDeque<u32>,
    is_dirty: Vec<bool>,
    /// Lookups that found an extent, that did not, extents that made room for others.
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) evictions: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    id: ExtentId,
    number: u32,
    extent_bytes: u32,
    crc32c: u32,
    readers: u32,
    partition: Partition,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Filling,
    Filled,
    Doomed,
}

/// Bytes of memory per slot: the slot itself, its links, its place in the free list and in the table of extents, and its
/// ghost; hash tables are counted at their emptiest.
pub(super) const SLOT_MEMORY_BYTES: usize =
    size_of::<Slot>() + 12 + 4 + 8 + 2 * TABLE_BYTES_PER_ITEM;
/// Tables have room for twice their items and a power of two of buckets, each of four bytes and one of control: at
/// most 32/7 buckets per item.
const TABLE_BYTES_PER_ITEM: usize = 5 * 32 / 7 + 1;

impl SlotTable {
    /// Takes over empty slots `first..first + count`. They are used from the lowest up: a cache that shrinks
    /// loses the highest.
    pub(super) fn add(&mut self, first: u32, count: u32) {
        self.unused.push_back((first, count));
        self.unused_count += count;
        self.make_room(0);
    }

    /// Takes over slots as an earlier run left them. Where an extent is here already, the slot is merely a free one.
    pub(super) fn adopt(&mut self, entries: impl ExactSizeIterator<Item = Entry>) {
        self.make_room(entries.len());
        entries.for_each(|entry| self.adopt_one(&entry));
    }

    fn adopt_one(&mut self, entry: &Entry) {
        let position = self.push(entry.slot);
        if self.find(&entry.id).is_some() {
            self.free.push(position);
            return;
        }
        *self.slot_mut(position) = Slot {
            id: entry.id,
            number: entry.slot,
            extent_bytes: entry.extent_bytes,
            crc32c: entry.crc32c,
            readers: 0,
            partition: entry.partition,
            state: State::Filled,
        };
        self.insert_extent(position);
        self.eviction.restore(position, entry.main, entry.hit);
        self.mark_dirty(position);
    }

    /// Finds an extent and notes the hit, or the miss.
    pub(super) fn lookup(&mut self, id: &ExtentId) -> Option<u32> {
        let found = self
            .find(id)
            .filter(|&position| self.slot(position).state == State::Filled);
        match found {
            Some(position) => {
                self.hits += 1;
                self.eviction.touch(position);
            }
            None => self.misses += 1,
        }
        found
    }

    /// Whether an extent is here or on its way, without a note of it.
    pub(super) fn contains(&self, id: &ExtentId) -> bool {
        self.find(id).is_some()
    }

    /// Makes room for an extent: a free slot, or the next victim's. `None` if it is here or on its way already, or
    /// if every slot tried is in use.
    pub(super) fn reserve(
        &mut self,
        id: ExtentId,
        partition: Partition,
        extent_bytes: u32,
    ) -> Option<u32> {
        assert!(
            (1..=SLOT_BYTES).contains(&u64::from(extent_bytes)),
            "an extent fits its slot"
        );
        if self.contains(&id) {
            return None;
        }
        let position = match self.free.pop().or_else(|| self.take_unused()) {
            Some(position) => position,
            None => self.evict()?,
        };
        let slot = self.slot_mut(position);
        assert_eq!(
            (slot.state, slot.readers),
            (State::Free, 0),
            "only free slots are filled"
        );
        slot.id = id;
        slot.partition = partition;
        slot.extent_bytes = extent_bytes;
        slot.state = State::Filling;
        self.insert_extent(position);
        self.eviction.insert(position, stable_hash(&id));
        Some(position)
    }

    /// The slot's data is written: it may be found from now on.
    pub(super) fn filled(&mut self, position: u32, crc32c: u32) {
        let slot = self.slot_mut(position);
        assert_eq!(slot.state, State::Filling, "a fill ends once");
        slot.state = State::Filled;
        slot.crc32c = crc32c;
        self.mark_dirty(position);
    }

    /// The fill came to nothing and nobody writes to the slot any more.
    pub(super) fn abandon(&mut self, position: u32) {
        assert_eq!(
            self.slot(position).state,
            State::Filling,
            "a fill ends once"
        );
        self.take_out(position);
        self.set_free(position);
    }

    /// Forgets an extent; its slot is free as soon as nobody reads it. Whether it was here.
    pub(super) fn drop_extent(&mut self, id: &ExtentId) -> bool {
        match self.find(id) {
            Some(position) if self.slot(position).state == State::Filled => {
                self.take_out(position);
                if self.slot(position).readers == 0 {
                    self.set_free(position);
                } else {
                    self.slot_mut(position).state = State::Doomed;
                }
                self.mark_dirty(position);
                true
            }
            _ => false,
        }
    }

    pub(super) fn pin(&mut self, position: u32) {
        let slot = self.slot_mut(position);
        assert_eq!(slot.state, State::Filled, "only filled slots are read");
        slot.readers += 1;
    }

    pub(super) fn unpin(&mut self, position: u32) {
        let slot = self.slot_mut(position);
        slot.readers = slot.readers.checked_sub(1).expect("a reader leaves once");
        if slot.state == State::Doomed && slot.readers == 0 {
            self.set_free(position);
        }
    }

    pub(super) fn number(&self, position: u32) -> u32 {
        self.slot(position).number
    }

    pub(super) fn extent_bytes(&self, position: u32) -> u32 {
        self.slot(position).extent_bytes
    }

    pub(super) fn crc32c(&self, position: u32) -> u32 {
        self.slot(position).crc32c
    }

    /// The extent of the first filled slot at or after `position`, and where that is: for a scrubber's walk.
    pub(super) fn filled_from(&self, position: u32) -> Option<(u32, ExtentId)> {
        let slots = self.slots.iter().enumerate().skip(position as usize);
        let (found, slot) = slots.into_iter().find(|(_, s)| s.state == State::Filled)?;
        Some((to_u32(found), slot.id))
    }

    /// Slots owned, and slots that hold an extent.
    pub(super) fn counts(&self) -> (u32, u32) {
        (to_u32(self.capacity()), to_u32(self.by_extent.len()))
    }

    /// Blocks that the slots of this core take in the index.
    pub(super) fn block_count(&self) -> u32 {
        to_u32(self.capacity().div_ceil(ENTRIES_PER_BLOCK))
    }

    /// Takes the block that has been dirty longest; what changes in it from now on makes it dirty again.
    pub(super) fn take_dirty(&mut self) -> Option<u32> {
        let block = self.dirty.pop_front()?;
        self.is_dirty[block as usize] = false;
        Some(block)
    }

    /// Puts a block back whose writing failed.
    pub(super) fn mark_block_dirty(&mut self, block: u32) {
        if !std::mem::replace(&mut self.is_dirty[block as usize], true) {
            self.dirty.push_back(block);
        }
    }

    /// What the index says of a block's slots, in order.
    pub(super) fn entries(&self, block: u32) -> impl Iterator<Item = Option<Entry>> {
        let start = block as usize * ENTRIES_PER_BLOCK;
        let end = self.slots.len().min(start + ENTRIES_PER_BLOCK);
        (start..end).map(|at| {
            let slot = &self.slots[at];
            let (main, hit) = self.eviction.standing(to_u32(at));
            (slot.state == State::Filled).then_some(Entry {
                slot: slot.number,
                id: slot.id,
                partition: slot.partition,
                extent_bytes: slot.extent_bytes,
                crc32c: slot.crc32c,
                main,
                hit,
            })
        })
    }

    /// Walks everything and asserts what must always hold.
    pub(super) fn check_invariants(&self) {
        let mut numbers: Vec<u32> = self.slots.iter().map(|s| s.number).collect();
        numbers.sort_unstable();
        assert!(
            numbers.windows(2).all(|w| w[0] < w[1]),
            "each slot is here once"
        );
        let unused: u32 = self.unused.iter().map(|(_, count)| count).sum();
        assert_eq!(unused, self.unused_count, "unused slots are counted");
        let mut listed = vec![0; self.slots.len()];
        self.free.iter().for_each(|&p| listed[p as usize] += 1);
        let mut known = 0;
        for (at, slot) in self.slots.iter().enumerate() {
            let free = slot.state == State::Free;
            assert_eq!(listed[at], i32::from(free), "free slots are listed once");
            assert!(
                slot.readers == 0 || matches!(slot.state, State::Filled | State::Doomed),
                "only slots with data are read"
            );
            if matches!(slot.state, State::Filling | State::Filled) {
                known += 1;
                assert_eq!(self.find(&slot.id), Some(to_u32(at)), "extents are found");
            }
        }
        assert_eq!(self.by_extent.len(), known, "nothing else is found");
        assert_eq!(
            self.eviction.check_invariants(),
            known,
            "all of it is queued"
        );
        let dirty = self.is_dirty.iter().filter(|d| **d).count();
        assert_eq!(dirty, self.dirty.len(), "dirty blocks are queued once");
    }

    fn evict(&mut self) -> Option<u32> {
        let slots = &self.slots;
        let position = self.eviction.evict(
            |p| {
                let slot = &slots[p as usize];
                slot.readers > 0 || slot.state != State::Filled
            },
            |p| stable_hash(&slots[p as usize].id),
        )?;
        self.remove_extent(position);
        self.slot_mut(position).state = State::Free;
        self.evictions += 1;
        self.mark_dirty(position);
        Some(position)
    }

    fn take_out(&mut self, position: u32) {
        self.remove_extent(position);
        self.eviction.remove(position);
    }

    fn set_free(&mut self, position: u32) {
        self.slot_mut(position).state = State::Free;
        self.free.push(position);
    }

    fn find(&self, id: &ExtentId) -> Option<u32> {
        self.by_extent
            .find(stable_hash(id), |&p| self.slot(p).id == *id)
            .copied()
    }

    fn insert_extent(&mut self, position: u32) {
        let slots = &self.slots;
        let hash_of = |&p: &u32| stable_hash(&slots[p as usize].id);
        let hash = hash_of(&position);
        self.by_extent.insert_unique(hash, position, hash_of);
    }

    fn remove_extent(&mut self, position: u32) {
        let hash = stable_hash(&self.slot(position).id);
        match self.by_extent.find_entry(hash, |&p| p == position) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => unreachable!("an extent in a slot is in the table"),
        }
    }

    fn push(&mut self, number: u32) -> u32 {
        let position = to_u32(self.slots.len());
        self.slots.push(empty_slot(number));
        position
    }

    /// Gives the next unused slot a position.
    fn take_unused(&mut self) -> Option<u32> {
        let (first, count) = self.unused.front_mut()?;
        let number = *first;
        *first += 1;
        *count -= 1;
        if *count == 0 {
            self.unused.pop_front();
        }
        self.unused_count -= 1;
        Some(self.push(number))
    }

    fn capacity(&self) -> usize {
        self.slots.len() + self.unused_count as usize
    }

    /// Takes the memory for all slots there are and `more` to come.
    fn make_room(&mut self, more: usize) {
        let capacity = self.capacity() + more;
        self.slots.reserve(capacity - self.slots.len());
        self.eviction.grow(to_u32(capacity));
        let blocks = capacity.div_ceil(ENTRIES_PER_BLOCK);
        self.is_dirty.resize(blocks.max(self.is_dirty.len()), false);
        self.dirty.reserve(self.is_dirty.len() - self.dirty.len());
        self.free.reserve(capacity - self.free.len());
        let slots = &self.slots;
        // Twice the size, so that what deletions leave behind is cleared without growing again.
        let more = 2 * capacity - self.by_extent.len();
        self.by_extent
            .reserve(more, |&p| stable_hash(&slots[p as usize].id));
    }

    fn mark_dirty(&mut self, position: u32) {
        self.mark_block_dirty(to_u32(position as usize / ENTRIES_PER_BLOCK));
    }

    fn slot(&self, position: u32) -> &Slot {
        &self.slots[position as usize]
    }

    fn slot_mut(&mut self, position: u32) -> &mut Slot {
        &mut self.slots[position as usize]
    }
}

/// A free slot; its name means nothing.
fn empty_slot(number: u32) -> Slot {
    let nobody = Id([0; 16]);
    Slot {
        id: ExtentId {
            tenant: TenantId(nobody),
            object: ObjectId {
                branch: BranchId(nobody),
                epoch: 0,
                sequence: 0,
            },
            extent_no: 0,
        },
        number,
        extent_bytes: 0,
        crc32c: 0,
        readers: 0,
        partition: Partition::of_hash(0),
        state: State::Free,
    }
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).expect("slots are counted in 32 bits")
}

#[cfg(test)]
mod tests;
