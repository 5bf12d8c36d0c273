//! Posting lists by themselves, every change of them, and leaves of before Postgres 9.4, which no workload makes.

use engine::types::PAGE_BYTES;

use super::super::index_records::tests::{change, run};
use super::posting_list::{decode, encode, list_bytes, merge, plain};
use super::*;
use crate::wal::ResourceManager;

fn pointers(items: &[(u32, u16)]) -> Vec<u8> {
    let bytes = items.iter();
    bytes
        .flat_map(|(block, offset)| item_pointer(*block, *offset))
        .collect()
}

fn list(items: &[(u32, u16)]) -> Vec<u8> {
    let mut into = [0xee; 200];
    let bytes = encode(plain(&pointers(items)), &mut into).expect("fits");
    into[..bytes].to_vec()
}

/// Back to pointers one after the other.
fn items(list: &[u8]) -> Vec<u8> {
    let items = decode(list).expect("a list");
    items
        .flat_map(|item| item.expect("an item").to_bytes())
        .collect()
}

fn leaf(lists: &[Vec<u8>]) -> Box<[u8; PAGE_BYTES]> {
    let lists = lists.concat();
    let mut main = u32::try_from(lists.len())
        .expect("short")
        .to_le_bytes()
        .to_vec();
    main.extend(lists);
    let mut page = Box::new([0; PAGE_BYTES]);
    let mut create = change(
        ResourceManager::GIN,
        CREATE_POSTING_TREE,
        0,
        &main,
        &[],
        &[],
    );
    create.will_init = true;
    run(create, &mut page).expect("redo");
    page
}

fn content(page: &mut [u8; PAGE_BYTES]) -> Vec<u8> {
    let lower = usize::from(PageMut::new(page).lower());
    page[32..lower].to_vec()
}

fn recompressed(page: &mut [u8; PAGE_BYTES], actions: &[&[u8]]) -> Result<Vec<u8>, RedoError> {
    let mut data = u16::try_from(actions.len())
        .expect("few")
        .to_le_bytes()
        .to_vec();
    data.extend(actions.concat());
    run(
        change(ResourceManager::GIN, VACUUM_DATA_LEAF, 0, &[], &data, &[]),
        page,
    )?;
    Ok(content(page))
}

#[test]
fn a_posting_list_has_differences_in_bytes_of_seven_bits() {
    let some = [(1, 1), (1, 3), (1, 200), (2, 1), (u32::MAX - 1, 2047)];
    let list = list(&some);
    assert_eq!(list[..6], [0, 0, 1, 0, 1, 0]);
    // 2; 197 = 1 * 128 + 69; 2049 - 200 = 1849 = 14 * 128 + 57; then a difference of 43 bits.
    assert_eq!(list[8..13], [2, 0x80 | 69, 1, 0x80 | 57, 14]);
    let unpadded = usize::from(list[6]);
    assert_eq!(unpadded, 5 + 7);
    assert_eq!(list_bytes(&list), Some(8 + unpadded.next_multiple_of(2)));
    assert_eq!(items(&list), pointers(&some));
    assert_eq!(items(&self::list(&[(9, 9)])), pointers(&[(9, 9)]));
}

#[test]
fn odd_lists_are_padded_with_a_zero() {
    let list = list(&[(1, 1), (1, 2)]);
    assert_eq!(list[6..], [1, 0, 1, 0]);
}

#[test]
fn merging_keeps_the_order_and_one_of_each() {
    let (left, right) = (
        pointers(&[(1, 1), (1, 5), (7, 1)]),
        pointers(&[(1, 5), (2, 2)]),
    );
    let both: Vec<u8> = merge(plain(&left), plain(&right))
        .flat_map(|item| item.expect("an item").to_bytes())
        .collect();
    assert_eq!(both, pointers(&[(1, 1), (1, 5), (2, 2), (7, 1)]));
}

#[test]
fn lists_that_contradict_themselves_are_refused() {
    let unsorted = pointers(&[(2, 1), (1, 1)]);
    assert!(encode(plain(&unsorted), &mut [0; 64]).is_err());
    let wide_offset = pointers(&[(2, 2048)]);
    assert!(encode(plain(&wide_offset), &mut [0; 64]).is_err());
    assert!(encode(plain(&pointers(&[(1, 1), (1, 2)])), &mut [0; 9]).is_err());
    for bytes in [
        // Ends within a difference; too long a difference; past the last block.
        vec![0, 0, 1, 0, 1, 0, 1, 0, 0x80],
        vec![
            0, 0, 1, 0, 1, 0, 8, 0, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0,
        ],
        vec![0xff, 0xff, 0xff, 0xff, 1, 0, 2, 0, 0x80, 0x10],
    ] {
        assert!(decode(&bytes).expect("a header").any(|item| item.is_err()));
    }
    assert_eq!(list_bytes(&[0, 0, 1, 0, 1, 0, 2, 0, 1]), None, "cut short");
}

#[test]
fn every_change_of_a_leaf_leaves_the_other_lists_as_they_are() {
    let [a, b, c] = [
        list(&[(1, 1), (1, 2)]),
        list(&[(2, 1), (2, 9)]),
        list(&[(3, 1), (3, 2), (3, 4)]),
    ];
    let new = list(&[(2, 5), (2, 6), (2, 7)]);
    let page = || leaf(&[a.clone(), b.clone(), c.clone()]);

    let with_list = |number: u8, action: u8| [&[number, action][..], &new].concat();
    assert_eq!(
        recompressed(&mut page(), &[&with_list(1, 2)]),
        Ok([&a[..], &new, &b, &c].concat())
    );
    assert_eq!(
        recompressed(&mut page(), &[&with_list(3, 2)]),
        Ok([&a[..], &b, &c, &new].concat())
    );
    assert_eq!(
        recompressed(&mut page(), &[&with_list(1, 3), &[2, 1]]),
        Ok([&a[..], &new].concat())
    );
    let add = [&[0, 4, 2, 0][..], &pointers(&[(1, 4), (1, 2)])].concat();
    assert!(recompressed(&mut page(), &[&add]).is_err(), "not in order");
    let add = [&[0, 4, 2, 0][..], &pointers(&[(0, 4), (1, 3)])].concat();
    assert_eq!(
        recompressed(&mut page(), &[&add]),
        Ok([&list(&[(0, 4), (1, 1), (1, 2), (1, 3)])[..], &b, &c].concat())
    );

    // Back to a list passed already; past the last one; an action that does not exist.
    for actions in [
        [&with_list(1, 3)[..], &[0, 1]],
        [&with_list(2, 3)[..], &[3, 1]],
        [&with_list(0, 3)[..], &[1, 5]],
    ] {
        assert!(recompressed(&mut page(), &actions).is_err());
    }
}

#[test]
fn a_leaf_with_more_lists_than_a_record_can_number_keeps_those_behind() {
    let lists: Vec<_> = (1..=300).map(|block| list(&[(block, 1)])).collect();
    let mut rest = lists.clone();
    rest.remove(255);
    assert_eq!(
        recompressed(&mut leaf(&lists), &[&[255, 1]]),
        Ok(rest.concat())
    );
    assert!(recompressed(&mut leaf(&lists), &[&[255, 1], &[255, 1]]).is_err());
}

#[test]
fn a_leaf_without_compression_is_compressed_first() {
    let old = [(1, 1), (1, 7), (4, 2)];
    let mut page = Box::new([0; PAGE_BYTES]);
    let mut view = PageMut::new(&mut page);
    init_page(&mut view, DATA | LEAF).expect("fits");
    set_count(&mut view, 3).expect("GIN");
    page[32..32 + 18].copy_from_slice(&pointers(&old));
    let add = [&[0, 4, 1, 0][..], &pointers(&[(2, 3)])].concat();
    let lists = recompressed(&mut page, &[&add]).expect("redo");
    assert_eq!(lists, list(&[(1, 1), (1, 7), (2, 3), (4, 2)]));
    let view = PageMut::new(&mut page);
    assert_eq!(flags(&view), Ok(DATA | LEAF | COMPRESSED));
    assert_eq!(count(&view), Ok(0));

    // An empty one, of which a deletion of pages left the first and the last.
    let mut view = PageMut::new(&mut page);
    init_page(&mut view, DATA | LEAF).expect("fits");
    let new = [&[0, 2][..], &list(&[(5, 5)])].concat();
    assert_eq!(recompressed(&mut page, &[&new]), Ok(list(&[(5, 5)])));
}
