//! What a small workload does not reach: tables of many buckets, a second bitmap page, and what differs between
//! versions.

use engine::types::{Lsn, PAGE_BYTES};

use super::super::Outcome;
use super::super::index_records::tests::{change, run, tag};
use super::*;
use crate::bytes_at::u32_at;
use crate::wal::{ResourceManager, WalVersion};

fn hash_page() -> Box<[u8; PAGE_BYTES]> {
    let mut bytes = Box::new([0; PAGE_BYTES]);
    init_page(&mut PageMut::new(&mut bytes), 4, 5, OVERFLOW_PAGE).expect("fits");
    bytes
}

fn meta_page(expected_tuples: f64, per_bucket: u16) -> Box<[u8; PAGE_BYTES]> {
    let mut main = expected_tuples.to_bits().to_le_bytes().to_vec();
    main.extend(450u32.to_le_bytes());
    main.extend(per_bucket.to_le_bytes());
    let mut page = Box::new([0; PAGE_BYTES]);
    let mut init = change(ResourceManager::HASH, INIT_META_PAGE, 0, &main, &[], &[]);
    init.will_init = true;
    run(init, &mut page).expect("redo");
    page
}

fn word(page: &[u8; PAGE_BYTES], at: usize) -> u32 {
    u32_at(page, at).expect("inside the page")
}

#[test]
fn a_new_table_has_as_many_buckets_as_a_split_point_allows() {
    // Doubled in one step up to 512 buckets, in four above.
    for (tuples, highest, high_mask, split_point) in [
        (0.0, 1, 3, 1),
        (f64::NAN, 0, 1, 0),
        (300.0, 3, 7, 2),
        (51_200.0, 511, 1023, 9),
        (51_300.0, 639, 1023, 10),
        (64_100.0, 767, 1023, 11),
        (102_500.0, 1279, 2047, 14),
        (1e30, 0x3fff_ffff, 0x7fff_ffff, 93),
    ] {
        let page = meta_page(tuples, 100);
        assert_eq!(word(&page, 48), highest, "highest bucket for {tuples}");
        assert_eq!(word(&page, 52), high_mask, "mask for {tuples}");
        assert_eq!(word(&page, 56), high_mask >> 1, "lower mask for {tuples}");
        assert_eq!(word(&page, 60), split_point, "split point for {tuples}");
        let spare = 76 + split_point as usize * 4;
        assert_eq!(word(&page, spare), 1, "first bitmap page for {tuples}");
    }
}

#[test]
fn an_overflow_page_that_fills_a_bitmap_brings_another() {
    let mut page = meta_page(0.0, 100);
    let main = [0x00, 0x10, 0];
    let others = [(0, tag(70)), (1, tag(2)), (3, tag(71))];
    let data = 32_769u32.to_le_bytes();
    let add = change(
        ResourceManager::HASH,
        ADD_OVERFLOW_PAGE,
        4,
        &main,
        &data,
        &others,
    );
    run(add, &mut page).expect("redo");
    assert_eq!(word(&page, 64), 32_769, "first free bit");
    assert_eq!(word(&page, 68), 1, "bitmap pages");
    assert_eq!(word(&page, 468), 71, "where it is");
    assert_eq!(word(&page, 76 + 4), 3, "overflow pages of split point 1");

    let mut bitmap = Box::new([0; PAGE_BYTES]);
    let mut init = change(ResourceManager::HASH, ADD_OVERFLOW_PAGE, 3, &main, &[], &[]);
    init.will_init = true;
    run(init, &mut bitmap).expect("redo");
    assert!(bitmap[24..24 + 4096].iter().all(|byte| *byte == 0xff));
    assert_eq!(bitmap[24 + 4096], 0);
}

#[test]
fn a_squeeze_that_changes_nothing_stamps_its_page_only_before_17() {
    for (version, stamps) in [
        (WalVersion::V15, true),
        (WalVersion::V16, true),
        (WalVersion::V17, false),
        (WalVersion::V18, false),
    ] {
        // Into the bucket's first page, which is not the one before the freed page; no tuples.
        let main = [3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 1, 0];
        let mut page = hash_page();
        let mut squeeze = change(ResourceManager::HASH, SQUEEZE_PAGE, 1, &main, &[], &[]);
        squeeze.version = version;
        assert_eq!(run(squeeze, &mut page), Ok(Outcome::Applied));
        let lsn = PageMut::new(&mut page).lsn();
        let expected = if stamps { squeeze.end } else { Lsn(1) };
        assert_eq!(lsn, expected, "{version:?}");
    }
}

#[test]
fn a_page_that_is_only_locked_keeps_its_lsn() {
    for operation in [MOVE_PAGE_CONTENTS, SQUEEZE_PAGE, DELETE] {
        let mut page = hash_page();
        PageMut::new(&mut page).set_lsn(Lsn(1));
        let before = page.clone();
        let lock = change(ResourceManager::HASH, operation, 0, &[0; 12], &[], &[]);
        run(lock, &mut page).expect("redo");
        assert_eq!(page, before, "operation {operation:#04x}");
    }
}

#[test]
fn the_count_of_dead_tuples_has_the_width_of_the_version() {
    // Two of them: 4 bytes in 15, 2 bytes and a flag later.
    for (version, main) in [
        (WalVersion::V15, [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 2, 0]),
        (WalVersion::V16, [0, 0, 0, 0, 2, 0, 1, 0, 1, 0, 2, 0]),
        (WalVersion::V18, [0, 0, 0, 0, 2, 0, 1, 0, 1, 0, 2, 0]),
    ] {
        let mut page = hash_page();
        for _ in 0..3 {
            PageMut::new(&mut page)
                .add_item(&[1; 16], Place::Free)
                .expect("fits");
        }
        let mut vacuum = change(ResourceManager::HASH, VACUUM_ONE_PAGE, 0, &main, &[], &[]);
        vacuum.version = version;
        run(vacuum, &mut page).expect("redo");
        assert_eq!(PageMut::new(&mut page).item_count(), 1, "{version:?}");

        let mut meta = meta_page(0.0, 100);
        vacuum.block_id = 1;
        run(vacuum, &mut meta).expect("redo");
        assert_eq!(meta[32..40], (-2.0f64).to_bits().to_le_bytes());
    }
}

#[test]
fn counts_and_bits_outside_the_page_are_refused() {
    let mut page = meta_page(0.0, 100);
    page[68..72].copy_from_slice(&1024u32.to_le_bytes());
    let first = change(ResourceManager::HASH, INIT_BITMAP_PAGE, 1, &[], &[], &[]);
    let error = run(first, &mut page).expect_err("no room for a bitmap page");
    assert_eq!(error.to_string(), "count of bitmap pages 1024 on the page");

    let bit = (8152u32 * 8).to_le_bytes();
    let others = [(0, tag(1))];
    let set = change(
        ResourceManager::HASH,
        ADD_OVERFLOW_PAGE,
        2,
        &[],
        &bit,
        &others,
    );
    assert!(run(set, &mut hash_page()).is_err(), "past the bits");
}
