use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;

fn id(number: u32) -> ExtentId {
    let mut id = empty_slot(0).id;
    id.extent_no = number;
    id
}

fn partition() -> Partition {
    Partition::of_hash(1)
}

fn table(slots: u32) -> SlotTable {
    let mut table = SlotTable::default();
    table.add(0, slots);
    table
}

fn fill(table: &mut SlotTable, number: u32) -> Option<u32> {
    let position = table.reserve(id(number), partition(), 1000)?;
    table.filled(position, number);
    Some(position)
}

#[test]
fn an_extent_is_found_from_the_end_of_its_fill_until_it_is_dropped() {
    let mut table = table(2);
    let position = table.reserve(id(1), partition(), 1000).expect("free");
    assert_eq!(table.lookup(&id(1)), None, "it is on its way");
    assert!(table.contains(&id(1)));
    assert_eq!(table.reserve(id(1), partition(), 1000), None, "once");
    table.filled(position, 77);
    assert_eq!(table.lookup(&id(1)), Some(position));
    assert_eq!(table.crc32c(position), 77);
    assert!(table.drop_extent(&id(1)) && !table.drop_extent(&id(1)));
    assert_eq!(table.lookup(&id(1)), None);
    let position = table.reserve(id(2), partition(), 1000).expect("free");
    table.abandon(position);
    assert!(!table.contains(&id(2)));
    table.check_invariants();
    assert_eq!((table.hits, table.misses, table.evictions), (1, 2, 0));
}

#[test]
fn slots_that_are_read_or_filled_are_never_reused() {
    let mut table = table(3);
    let read = fill(&mut table, 1).expect("free");
    table.pin(read);
    let filling = table.reserve(id(2), partition(), 1000).expect("free");
    let doomed = fill(&mut table, 3).expect("free");
    table.pin(doomed);
    assert!(table.drop_extent(&id(3)));
    for number in 10..20 {
        assert_eq!(fill(&mut table, number), None, "all three are in use");
    }
    table.check_invariants();
    table.unpin(doomed);
    assert_eq!(fill(&mut table, 20), Some(doomed));
    assert_eq!(fill(&mut table, 21), Some(doomed), "evicted by the next");
    table.unpin(read);
    table.abandon(filling);
    assert_eq!(table.lookup(&id(1)), Some(read));
    table.check_invariants();
}

#[test]
fn the_index_names_filled_slots_only_and_dirty_blocks_once() {
    let mut table = table(130);
    assert_eq!(table.block_count(), 3);
    assert_eq!(table.take_dirty(), None, "empty slots need no entry");
    let position = table.reserve(id(1), partition(), 1000).expect("free");
    assert_eq!(
        table.take_dirty(),
        None,
        "nothing is written before its data"
    );
    table.filled(position, 9);
    let block = table.take_dirty().expect("one block");
    assert_eq!(table.take_dirty(), None);
    let entries: Vec<Entry> = table.entries(block).flatten().collect();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].id, entries[0].crc32c), (id(1), 9));
    assert_eq!(entries[0].slot, table.number(position));
    table.drop_extent(&id(1));
    assert_eq!(table.take_dirty(), Some(block));
    assert_eq!(table.entries(block).flatten().count(), 0);
}

#[test]
fn adopted_extents_are_found_and_doubles_become_free_slots() {
    let mut old = table(10);
    for number in 0..10 {
        fill(&mut old, number);
    }
    let entries: Vec<Entry> = old.entries(0).flatten().collect();
    let mut new = SlotTable::default();
    let double = Entry {
        slot: 99,
        ..entries[4]
    };
    new.adopt(entries.into_iter());
    new.adopt([double].into_iter());
    new.check_invariants();
    for number in 0..10 {
        let position = new.lookup(&id(number)).expect("adopted");
        assert_eq!(new.crc32c(position), number);
    }
    let position = fill(&mut new, 50).expect("the double's slot");
    assert_eq!((new.number(position), new.evictions), (99, 0));
    new.check_invariants();
}

/// Random operations against a plain map of what was filled and not dropped; what is gone must have been evicted.
#[test]
fn random_use_keeps_every_invariant_and_its_memory() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut table = table(70);
    let mut filling: Vec<(u32, u32)> = Vec::new();
    let mut pinned: Vec<(u32, u32)> = Vec::new();
    let mut filled: HashMap<u32, u32> = HashMap::new();
    let mut memory = None;
    let mut dropped = 0;
    for step in 0..60_000u32 {
        let number = random.next_u32() % 300;
        match random.next_u32() % 8 {
            0..=2 => {
                if let Some(position) = table.lookup(&id(number)) {
                    assert_eq!(filled.get(&number), Some(&table.crc32c(position)));
                    if pinned.len() < 20 {
                        table.pin(position);
                        pinned.push((position, filled[&number]));
                    }
                }
            }
            3..=4 if filling.len() < 10 => {
                let before = table.evictions;
                if let Some(position) = table.reserve(id(number), partition(), 1 + number) {
                    assert!(filling.iter().all(|f| f.0 != position));
                    assert!(pinned.iter().all(|p| p.0 != position));
                    filling.push((position, number));
                    filled.remove(&number);
                }
                assert!(table.evictions - before <= 1, "one goes for one that comes");
            }
            5 if !filling.is_empty() => {
                let (position, number) = filling.swap_remove(step as usize % filling.len());
                if step % 5 == 0 {
                    table.abandon(position);
                } else {
                    table.filled(position, step);
                    filled.insert(number, step);
                }
            }
            6 if !pinned.is_empty() => {
                let (position, crc32c) = pinned.swap_remove(step as usize % pinned.len());
                assert_eq!(table.crc32c(position), crc32c, "a pinned slot was reused");
                table.unpin(position);
            }
            7 if step % 8 == 0 => {
                if table.drop_extent(&id(number)) {
                    filled.remove(&number);
                    dropped += 1;
                }
            }
            _ => {
                table.take_dirty();
            }
        }
        if step % 100 == 0 {
            table.check_invariants();
        }
        if step == 10_000 {
            memory = Some(memory_of(&table));
        }
    }
    assert_eq!(memory, Some(memory_of(&table)), "nothing grew any more");
    assert!(table.evictions > 1_000 && dropped > 50 && table.hits > 1_000);
}

fn memory_of(table: &SlotTable) -> [usize; 5] {
    [
        table.slots.capacity(),
        table.by_extent.allocation_size(),
        table.free.capacity(),
        table.dirty.capacity(),
        table.eviction.memory_bytes(),
    ]
}

#[test]
fn memory_per_slot_is_within_the_formula() {
    for slots in [1_000, 4_096, 32_760, 57_345] {
        let table = table(slots);
        let [all_slots, by_extent, free, dirty, eviction] = memory_of(&table);
        let bytes = all_slots * size_of::<Slot>() + by_extent + free * 4 + dirty * 4 + eviction;
        let per_slot = bytes / slots as usize;
        assert!(
            per_slot <= SLOT_MEMORY_BYTES,
            "{per_slot} bytes for each of {slots} slots, {SLOT_MEMORY_BYTES} are documented"
        );
    }
    assert_eq!(
        SLOT_MEMORY_BYTES, 150,
        "the figure in the module's documentation"
    );
}
