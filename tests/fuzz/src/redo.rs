//! Redo of any change on any page. The input is a change of any resource manager and the two ends of a page, so that a
//! seed is a real record with its page and the hole left out:
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     1 | version: 0 to 3 for 15 to 18 |
//! |  1 |     3 | resource manager, info, block id |
//! |  4 |     1 | bit 0: the page is made anew; 1: hint bits are logged; 2: a page of the visibility map; 3 to 7: the record's other block ids 0 to 4 |
//! |  5 |     6 | lengths of main data, block data and the page's start |
//! | 11 |       | main data, block data, start of the page; the rest is its end |
//!
//! Whatever comes out, the stored bytes of the change have to do the same.
#![no_main]

use engine::types::{Lsn, PAGE_BYTES};
use libfuzzer_sys::fuzz_target;
use postgres::key::{BlockTag, Fork, Relation};
use postgres::redo::{Change, Delta, DeltaScratch, PageChange, redo};
use postgres::wal::{ResourceManager, WalVersion};

fuzz_target!(|input: &[u8]| {
    // Any bytes as stored ones, first.
    let any_tag = tag(Fork::Main, 7);
    let _decoded = Delta::decode(any_tag.key(), END, input, &mut DeltaScratch::new())
        .map(|delta| redo(&delta, &mut [0; PAGE_BYTES]).is_ok());

    let Some((head, rest)) = input.split_first_chunk::<HEAD_BYTES>() else {
        return;
    };
    let [version, manager, info, block_id, flags, lengths @ ..] = *head;
    let mut rest = rest;
    let mut take = |low: u8, high: u8| {
        let bytes = usize::from(u16::from_le_bytes([low, high]));
        let (taken, after) = rest.split_at(bytes.min(rest.len()));
        rest = after;
        taken
    };
    let [m0, m1, d0, d1, p0, p1] = lengths;
    let (main, data, start) = (take(m0, m1), take(d0, d1), take(p0, p1));
    let mut page = [0; PAGE_BYTES];
    let start = &start[..start.len().min(PAGE_BYTES)];
    page[..start.len()].copy_from_slice(start);
    let end = &rest[..rest.len().min(PAGE_BYTES - start.len())];
    page[PAGE_BYTES - end.len()..].copy_from_slice(end);

    let is_map = flags & 4 != 0;
    let fork = if is_map {
        Fork::VisibilityMap
    } else {
        Fork::Main
    };
    let others: Vec<(u8, BlockTag)> = (0..5)
        .filter(|id| flags >> (3 + id) & 1 != 0 && *id != block_id)
        .map(|id| (id, tag(Fork::Main, 100 + u32::from(id))))
        .collect();
    let change = Change {
        version: WalVersion::ALL[usize::from(version % 4)],
        end: END,
        xid: 700,
        manager: ResourceManager(manager),
        info,
        block_id,
        tag: tag(fork, 7),
        others: &others,
        data,
        main,
        hint_bits_logged: flags & 2 != 0,
        will_init: flags & 1 != 0,
    };
    let delta = Delta::Record(PageChange {
        image: None,
        change,
    });
    let mut stored = Vec::new();
    delta.encode(&mut stored);
    let mut page_from_stored = page;
    let outcome = redo(&delta, &mut page);
    let mut scratch = DeltaScratch::new();
    if let Ok(delta) = Delta::decode(tag(fork, 7).key(), END, &stored, &mut scratch) {
        let from_stored = redo(&delta, &mut page_from_stored);
        assert!(from_stored == outcome, "the stored change is the change");
        assert!(outcome.is_err() || page_from_stored == page);
    }
});

fn tag(fork: Fork, block: u32) -> BlockTag {
    BlockTag {
        relation: Relation {
            tablespace: 1663,
            database: 5,
            number: 16384,
        },
        fork,
        block,
    }
}

const HEAD_BYTES: usize = 11;
const END: Lsn = Lsn(1 << 60);
