//! Placement of tuples, against pages laid out by hand and against a model that knows only contents.

use engine::types::{Lsn, PAGE_BYTES};

use super::*;

fn empty_page() -> Box<[u8; PAGE_BYTES]> {
    let mut bytes = Box::new([0xee; PAGE_BYTES]);
    PageMut::new(&mut bytes).init(16).expect("16 bytes fit");
    bytes
}

fn tuple(tag: u8, bytes: usize) -> Vec<u8> {
    vec![tag; bytes]
}

/// Where each line pointer points, and the length it says.
fn layout(page: &PageMut<'_>) -> Vec<(u16, u16)> {
    (1..=page.item_count())
        .map(|offset| page.item_id(offset).expect("counted"))
        .map(|id| (id.at(), id.length()))
        .collect()
}

fn contents(page: &PageMut<'_>) -> Vec<Vec<u8>> {
    (1..=page.item_count())
        .map(|offset| page.item(offset).expect("a tuple").to_vec())
        .collect()
}

#[test]
fn an_initialised_page_is_empty() {
    let mut bytes = empty_page();
    let mut page = PageMut::new(&mut bytes);
    page.set_lsn(Lsn(0x1_016b_3748));
    page.set_prune_xid(7);
    page.add_flags(PD_ALL_VISIBLE | PD_PAGE_FULL);
    page.clear_flags(PD_PAGE_FULL);
    assert_eq!(page.lsn(), Lsn(0x1_016b_3748));
    assert_eq!(page.item_count(), 0);
    assert_eq!(page.special_space(16), Ok(&[0; 16][..]));
    assert!(page.special_space(24).is_err());
    let header = PageHeader::decode(page.bytes().as_slice()).expect("a good header");
    assert_eq!(
        header.to_string(),
        "lsn 1/16B3748 checksum 0000 flags 0004 all-visible lower 24 upper 8176 special 8176 \
         size 8192 version 4 prune_xid 7"
    );
    assert!(page.init(PAGE_BYTES).is_err());
}

#[test]
fn tuples_are_placed_downwards_and_line_pointers_make_room() {
    let mut bytes = empty_page();
    let mut page = PageMut::new(&mut bytes);
    assert_eq!(page.add_item(&tuple(1, 20), Place::Free), Ok(1));
    assert_eq!(page.add_item(&tuple(2, 8), Place::Insert(1)), Ok(1));
    assert_eq!(page.add_item(&tuple(3, 1), Place::Insert(2)), Ok(2));
    assert_eq!(layout(&page), [(8144, 8), (8136, 1), (8152, 20)]);
    assert_eq!(contents(&page), [tuple(2, 8), tuple(3, 1), tuple(1, 20)]);
    assert_eq!((page.lower(), page.upper()), (36, 8136));
    assert_eq!(
        page.add_item(&[0], Place::Insert(5)),
        Err(PageError::Offset {
            offset: 5,
            count: 3
        })
    );
    assert_eq!(
        page.add_item(&[0], Place::Unused(2)),
        Err(PageError::Used { offset: 2 })
    );
    // 8,136 - 36 bytes are free, 4 of them for the line pointer: 8,096 is the next multiple of 8.
    assert!(page.add_item(&tuple(4, 8097), Place::Free).is_err());
    assert_eq!(page.add_item(&tuple(4, 8096), Place::Free), Ok(4));
    assert!(page.add_item(&[], Place::Free).is_err());
}

#[test]
fn free_line_pointers_are_found_by_the_hint_only() {
    let mut bytes = empty_page();
    let mut page = PageMut::new(&mut bytes);
    for tag in 1..=3 {
        page.add_item(&tuple(tag, 8), Place::Free).expect("fits");
    }
    page.set_item_id(2, ItemId::UNUSED).expect("exists");
    assert_eq!(page.add_item(&tuple(4, 8), Place::Free), Ok(4));
    page.add_flags(PD_HAS_FREE_LINES);
    assert_eq!(page.add_item(&tuple(5, 8), Place::Free), Ok(2));
    assert_eq!(page.add_item(&tuple(6, 8), Place::Free), Ok(5));
    assert_eq!(page.flags() & PD_HAS_FREE_LINES, 0);
}

#[test]
fn a_heap_page_has_at_most_291_line_pointers() {
    let mut bytes = empty_page();
    let mut page = PageMut::new(&mut bytes);
    for offset in 1..=291 {
        let place = Place::Unused(offset);
        assert!(page.reserve_heap_item(8, place).is_ok(), "{offset}");
    }
    assert_eq!(
        page.reserve_heap_item(8, Place::Free).err(),
        Some(PageError::Offset {
            offset: 292,
            count: 291
        })
    );
}

#[test]
fn repair_packs_tuples_and_cuts_free_line_pointers() {
    let mut bytes = empty_page();
    let mut page = PageMut::new(&mut bytes);
    for tag in 1..=6 {
        page.add_item(&tuple(tag, 16), Place::Free).expect("fits");
    }
    page.set_item_id(1, ItemId::redirect(4)).expect("exists");
    page.set_item_id(2, ItemId::UNUSED).expect("exists");
    page.set_item_id(3, ItemId::DEAD).expect("exists");
    page.set_item_id(6, ItemId::UNUSED).expect("exists");
    page.repair_fragmentation().expect("a good page");
    assert_eq!(
        layout(&page),
        [(4, 0), (0, 0), (0, 0), (8160, 16), (8144, 16)]
    );
    assert_eq!(page.item(4), Ok(&tuple(4, 16)[..]));
    assert_eq!(page.item(5), Ok(&tuple(5, 16)[..]));
    assert_eq!(page.item_id(1).map(ItemId::state), Ok(ItemState::Redirect));
    assert_eq!(page.flags(), PD_HAS_FREE_LINES);
    assert_eq!((page.lower(), page.upper()), (44, 8144));

    page.set_item_id(5, ItemId::UNUSED).expect("exists");
    page.truncate_line_pointers().expect("a good page");
    assert_eq!(page.item_count(), 4);
    assert_eq!(page.flags(), PD_HAS_FREE_LINES);
    for offset in 1..=4 {
        page.set_item_id(offset, ItemId::UNUSED).expect("exists");
    }
    page.truncate_line_pointers().expect("a good page");
    assert_eq!(page.item_count(), 1);
    page.repair_fragmentation().expect("a good page");
    assert_eq!((page.lower(), page.upper(), page.flags()), (24, 8176, 0));
}

#[test]
fn repair_puts_tuples_in_the_reverse_order_of_line_pointers() {
    let mut bytes = empty_page();
    let mut page = PageMut::new(&mut bytes);
    for tag in 1..=5 {
        page.add_item(&tuple(tag, 8 * usize::from(tag)), Place::Insert(1))
            .expect("fits");
    }
    page.repair_fragmentation().expect("a good page");
    assert_eq!(
        layout(&page),
        [(8136, 40), (8104, 32), (8080, 24), (8064, 16), (8056, 8)]
    );
    assert_eq!(contents(&page)[3], tuple(2, 16));
}

#[test]
fn an_index_delete_keeps_the_order_of_the_others() {
    let mut bytes = empty_page();
    let mut page = PageMut::new(&mut bytes);
    for tag in 1..=4 {
        page.add_item(&tuple(tag, 16), Place::Insert(1))
            .expect("fits");
    }
    page.index_tuple_delete(2).expect("exists");
    assert_eq!(layout(&page), [(8128, 16), (8144, 16), (8160, 16)]);
    assert_eq!(contents(&page), [tuple(4, 16), tuple(2, 16), tuple(1, 16)]);
    page.index_tuple_delete_no_compact(2).expect("exists");
    assert_eq!(layout(&page), [(8144, 16), (0, 0), (8160, 16)]);
    page.index_tuple_delete_no_compact(3).expect("exists");
    assert_eq!(layout(&page), [(8160, 16), (0, 0)]);
    assert!(page.index_tuple_delete(0).is_err());
    assert!(page.index_tuple_delete(3).is_err());
}

#[test]
fn an_overwritten_tuple_stays_at_its_end() {
    let mut bytes = empty_page();
    let mut page = PageMut::new(&mut bytes);
    for tag in 1..=3 {
        page.add_item(&tuple(tag, 16), Place::Free).expect("fits");
    }
    page.index_tuple_overwrite(2, &tuple(9, 25)).expect("fits");
    assert_eq!(layout(&page), [(8160, 16), (8128, 25), (8112, 16)]);
    assert_eq!(contents(&page), [tuple(1, 16), tuple(9, 25), tuple(3, 16)]);
    page.index_tuple_overwrite(2, &tuple(8, 3)).expect("fits");
    assert_eq!(layout(&page), [(8160, 16), (8152, 3), (8136, 16)]);
    assert_eq!(page.upper(), 8136);
    assert!(page.index_tuple_overwrite(2, &[0; 8144]).is_err());
}

#[test]
fn a_multi_delete_is_as_many_deletes_but_packs_in_order() {
    let mut bytes = empty_page();
    let mut page = PageMut::new(&mut bytes);
    for tag in 1..=8 {
        page.add_item(&tuple(tag, 16), Place::Insert(1))
            .expect("fits");
    }
    page.index_multi_delete([2, 3, 8].into_iter())
        .expect("ascending");
    let tags: Vec<u8> = contents(&page).iter().map(|tuple| tuple[0]).collect();
    assert_eq!(tags, [8, 5, 4, 3, 2]);
    let places: Vec<u16> = layout(&page).iter().map(|(at, _)| *at).collect();
    assert_eq!(places, [8160, 8144, 8128, 8112, 8096]);
    for wrong in [[1, 3, 2], [0, 1, 2], [1, 2, 6]] {
        let mut copy = *page.bytes();
        assert_eq!(
            PageMut::new(&mut copy).index_multi_delete(wrong.into_iter()),
            Err(PageError::DeleteOrder { count: 5 })
        );
    }
    page.index_multi_delete(1..=5).expect("ascending");
    assert_eq!((page.lower(), page.upper()), (24, 8176));
}

/// A small generator: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("a byte")
    }

    fn offset(&mut self, page: &PageMut<'_>) -> u16 {
        u16::try_from(self.below(usize::from(page.item_count()) + 2)).expect("small")
    }
}

/// One random change; the model is changed alike if the page could be.
fn change(numbers: &mut Numbers, page: &mut PageMut<'_>, model: &mut Vec<Vec<u8>>) {
    let offset = numbers.offset(page);
    let index = usize::from(offset).wrapping_sub(1);
    match numbers.below(5) {
        0 | 1 => {
            let item = tuple(numbers.byte(), 1 + numbers.below(300));
            if page.add_item(&item, Place::Insert(offset)).is_ok() {
                model.insert(index, item);
            }
        }
        2 => {
            if page.index_tuple_delete(offset).is_ok() {
                model.remove(index);
            }
        }
        3 => {
            let item = tuple(numbers.byte(), 1 + numbers.below(300));
            if page.index_tuple_overwrite(offset, &item).is_ok() {
                model[index] = item;
            }
        }
        _ => {
            let step = 1 + numbers.below(7);
            let offsets: Vec<u16> = (1..=page.item_count()).step_by(step * 3).collect();
            if page.index_multi_delete(offsets.iter().copied()).is_ok() {
                for offset in offsets.iter().rev() {
                    model.remove(usize::from(*offset) - 1);
                }
            }
        }
    }
}

#[test]
fn contents_survive_any_sequence_of_changes() {
    for seed in 0..20 {
        let mut numbers = Numbers(seed);
        let mut bytes = empty_page();
        let mut page = PageMut::new(&mut bytes);
        let mut model = Vec::new();
        for _ in 0..300 {
            change(&mut numbers, &mut page, &mut model);
            assert_eq!(contents(&page), model, "seed {seed}");
            let packed: usize = model.iter().map(|item| max_align(item.len())).sum();
            assert_eq!(usize::from(page.upper()), 8176 - packed, "seed {seed}");
        }
    }
}

#[test]
fn any_bytes_are_changed_or_refused_without_a_panic() {
    let mut numbers = Numbers(1);
    for _ in 0..2000 {
        let mut bytes = empty_page();
        for _ in 0..numbers.below(30) {
            PageMut::new(&mut bytes)
                .add_item(&tuple(7, 1 + numbers.below(200)), Place::Free)
                .expect("fits");
        }
        for _ in 0..numbers.below(6) {
            bytes[10 + numbers.below(120)] = numbers.byte();
        }
        let mut page = PageMut::new(&mut bytes);
        let mut model = vec![Vec::new(); 3000];
        for _ in 0..10 {
            change(&mut numbers, &mut page, &mut model);
            model.resize(3000, Vec::new());
            let offset = numbers.offset(&page);
            let _ = page.index_tuple_delete_no_compact(offset);
            let _ = page.repair_fragmentation();
            let _ = page.truncate_line_pointers();
            let _ = page.item_mut(offset).map(|item| item.fill(1));
        }
    }
}
