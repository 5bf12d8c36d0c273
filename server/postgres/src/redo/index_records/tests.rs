//! What holds for all index access methods: any bytes are an answer or an error, and versions differ only where said.

use engine::types::{Lsn, PAGE_BYTES};

use super::*;
use crate::key::{BlockTag, Fork, Relation};
use crate::page::PageMut;
use crate::redo::{Delta, Outcome, PageChange, redo};
use crate::wal::{Image, ResourceManager};

pub(in crate::redo) fn tag(block: u32) -> BlockTag {
    BlockTag {
        relation: Relation {
            tablespace: 1663,
            database: 5,
            number: 16384,
        },
        fork: Fork::Main,
        block,
    }
}

/// A change of block 7 for a version of which nothing special is asked.
pub(in crate::redo) fn change<'a>(
    manager: ResourceManager,
    info: u8,
    block_id: u8,
    main: &'a [u8],
    data: &'a [u8],
    others: &'a [(u8, BlockTag)],
) -> Change<'a> {
    Change {
        version: WalVersion::V18,
        end: Lsn(0x2_0000_0100),
        xid: 700,
        manager,
        info,
        block_id,
        tag: tag(7),
        others,
        data,
        main,
        hint_bits_logged: false,
        will_init: false,
    }
}

/// Applies a change as the frame does it, to a page that is older.
pub(in crate::redo) fn run(
    change: Change<'_>,
    page: &mut [u8; PAGE_BYTES],
) -> Result<Outcome, RedoError> {
    PageMut::new(page).set_lsn(Lsn(1));
    let delta = Delta::Record(PageChange {
        image: None,
        change,
    });
    redo(&delta, page).map_err(|failure| failure.reason)
}

#[test]
fn item_pointers_have_the_upper_half_of_the_block_first() {
    assert_eq!(item_pointer(0x0001_0203, 0x0405), [1, 0, 3, 2, 5, 4]);
    assert_eq!(split_block([1, 0, 3, 2]), 0x0001_0203);
    assert_eq!(NO_ITEM, [0xff, 0xff, 0xff, 0xff, 0, 0]);
}

#[test]
fn an_index_tuple_is_as_long_as_it_says_and_never_shorter_than_its_header() {
    let mut bytes = [0; 40];
    bytes[6..8].copy_from_slice(&(0xe000u16 | 24).to_le_bytes());
    let mut fields = Fields::new("test", &bytes);
    assert_eq!(take_index_tuple(&mut fields).map(<[u8]>::len), Ok(24));
    // What follows says length 0: an endless row of tuples, if it were accepted.
    let error = take_index_tuple(&mut fields).expect_err("no tuple");
    assert_eq!(
        error.to_string(),
        "length of an index tuple 0 in the record"
    );
    bytes[6] = 41;
    let mut fields = Fields::new("test", &bytes);
    assert!(
        take_index_tuple(&mut fields).is_err(),
        "longer than the data"
    );
}

/// A GiST page with tuples 1 to 3, of 16 bytes.
fn gist_page() -> Box<[u8; PAGE_BYTES]> {
    let mut bytes = Box::new([0; PAGE_BYTES]);
    let mut page = PageMut::new(&mut bytes);
    page.init(16).expect("fits");
    for number in 1..=3 {
        let mut tuple = [number; 16];
        tuple[6..8].copy_from_slice(&16u16.to_le_bytes());
        page.add_item(&tuple, crate::page::Place::Free)
            .expect("fits");
    }
    bytes
}

#[test]
fn the_offsets_of_a_gist_delete_begin_where_the_version_has_them() {
    // Snapshot horizon, count, and in 16 and later whether it is a catalog.
    let in_15 = [9, 0, 0, 0, 1, 0, 2, 0];
    let in_16 = [9, 0, 0, 0, 1, 0, 1, 0, 2, 0];
    for version in WalVersion::ALL {
        let main: &[u8] = match version {
            WalVersion::V15 => &in_15,
            _ => &in_16,
        };
        let mut page = gist_page();
        let mut change = change(ResourceManager::GIST, 0x10, 0, main, &[], &[]);
        change.version = version;
        run(change, &mut page).expect("redo");
        let page = PageMut::new(&mut page);
        assert_eq!(page.item_count(), 2, "{version:?}");
        assert_eq!(page.item(2).expect("a tuple")[0], 3, "{version:?}");
        let flags = page.special_space(16).expect("GiST")[12];
        assert_eq!(flags, 1 << 2, "tuples deleted, no garbage: {version:?}");
    }
}

/// Puts `image` in place of the page, then what the record does to it.
fn restored(change: Change<'_>, image: &[u8; PAGE_BYTES]) -> Box<[u8; PAGE_BYTES]> {
    const APPLY: u8 = 2;
    let mut page = Box::new([0x55; PAGE_BYTES]);
    let image = Some(Image::new(APPLY, 0, 0, image));
    let delta = Delta::Record(PageChange { image, change });
    assert_eq!(redo(&delta, &mut page), Ok(Outcome::Applied));
    page
}

#[test]
fn the_left_half_of_a_gist_split_is_finished_on_its_image_too() {
    let mut image = gist_page();
    image[PAGE_BYTES - 4] = 0x09; // a leaf, follow right
    for (info, block_id) in [(0x00, 1), (0x30, 0)] {
        let change = change(ResourceManager::GIST, info, block_id, &[], &[], &[]);
        let mut page = restored(change, &image);
        let page = PageMut::new(&mut page);
        assert_eq!(page.lsn(), change.end);
        let special = page.special_space(16).expect("GiST");
        assert_eq!(
            special[..8],
            [2, 0, 0, 0, 0, 1, 0, 0],
            "its number is the LSN"
        );
        assert_eq!(special[12], 1, "only a leaf any more");
    }
    // Other pages stay as their image is.
    let update = change(ResourceManager::GIST, 0x00, 0, &[], &[], &[]);
    assert_eq!(restored(update, &image)[8..], image[8..]);
}

#[test]
fn the_buckets_of_a_split_get_their_state_on_their_images_too() {
    let mut image = gist_page();
    image[PAGE_BYTES - 4] = 0x02;
    let bucket_9 = [9, 0, 0, 0, 0x22, 0, 0x12, 0, 0];
    for (info, main, flags) in [
        (0x40, &bucket_9[..], 0x22),
        (0x60, &[0x42, 0, 0x02, 0], 0x42),
    ] {
        let old = change(ResourceManager::HASH, info, 0, main, &[], &[]);
        let mut page = restored(old, &image);
        assert_eq!(page[PAGE_BYTES - 4], flags, "{info:#04x}");
        assert_eq!(PageMut::new(&mut page).lsn(), old.end);
        assert_eq!(PageMut::new(&mut page).item_count(), 3);
    }
    // The new bucket begins empty.
    let new = change(ResourceManager::HASH, 0x40, 1, &bucket_9, &[], &[]);
    let mut page = restored(new, &image);
    assert_eq!(page[PAGE_BYTES - 4], 0x12);
    assert_eq!(PageMut::new(&mut page).lsn(), new.end);
    assert_eq!(PageMut::new(&mut page).item_count(), 0);
}

/// Random records on random pages. A panic, an overflow or a page that is read past its end fails the test.
#[test]
fn any_record_on_any_page_is_an_answer_or_an_error() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let managers = [
        ResourceManager::HASH,
        ResourceManager::GIN,
        ResourceManager::GIST,
        ResourceManager::SPGIST,
        ResourceManager::BRIN,
    ];
    let mut applied = 0;
    for round in 0..40_000 {
        let mut page = match round % 4 {
            0 => gist_page(),
            _ => {
                let mut page = gist_page();
                PageMut::new(&mut page)
                    .init(8 << random.below(2))
                    .expect("fits");
                for _ in 0..random.below(40) {
                    let mut tuple = [0; 64];
                    random.fill(&mut tuple);
                    let length = 8 + random.byte() % 8 * 8;
                    tuple[0] = tuple[0] & 3 | length << 2;
                    tuple[1..4].fill(0);
                    let place = crate::page::Place::Free;
                    let _full =
                        PageMut::new(&mut page).add_item(&tuple[..usize::from(length)], place);
                }
                page
            }
        };
        // Now and then nonsense in header, line pointers, special space.
        for _ in 0..random.below(4) {
            let at = match random.below(3) {
                0 => 8 + random.below(16),
                1 => 24 + random.below(200),
                _ => PAGE_BYTES - 1 - random.below(200),
            };
            page[at] = random.byte();
        }
        let (mut main, mut data) = ([0; 200], [0; 300]);
        random.fill_small(&mut main);
        random.fill_small(&mut data);
        let main = &main[..random.below(main.len())];
        let data = &data[..random.below(data.len())];
        let others = [(0, tag(3)), (1, tag(0)), (2, tag(9)), (3, tag(4))];
        let others = &others[..random.below(5)];
        let manager = managers[random.below(managers.len())];
        let info = random.byte() << 4;
        let mut change = change(manager, info, random.byte() % 7, main, data, others);
        change.version = WalVersion::ALL[random.below(4)];
        change.will_init = random.below(2) == 0;
        applied += u32::from(run(change, &mut page).is_ok());
    }
    assert!(applied > 1000, "only {applied} records fitted");
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % limit
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.byte());
    }

    /// Mostly small numbers: counts and offset numbers that get somewhere.
    fn fill_small(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| match self.byte() % 8 {
            0 => self.byte(),
            1..=3 => self.byte() % 4,
            4 => 16,
            _ => 0,
        });
    }
}
