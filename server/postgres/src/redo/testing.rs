//! What the tests of resource managers share: changes made by hand, and damage done to them.

use engine::types::{Lsn, PAGE_BYTES};

use super::{Change, Delta, Outcome, PageChange, RedoError, redo};
use crate::key::{BlockTag, Fork, Relation};
use crate::page::PageMut;
use crate::wal::{ResourceManager, WalVersion};

/// A block of the relation that all tests use.
pub(super) fn tag(fork: Fork, block: u32) -> BlockTag {
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

/// A change of block 7 by a record that ends at 0x1000, of transaction 700, as block 0.
pub(super) fn change<'a>(
    manager: ResourceManager,
    info: u8,
    main: &'a [u8],
    data: &'a [u8],
) -> Change<'a> {
    Change {
        version: WalVersion::V17,
        end: Lsn(0x1000),
        xid: 700,
        manager,
        info,
        block_id: 0,
        tag: tag(Fork::Main, 7),
        others: &[],
        data,
        main,
        hint_bits_logged: false,
        will_init: false,
    }
}

/// A page to change.
pub(super) struct TestPage(pub(super) Box<[u8; PAGE_BYTES]>);

impl TestPage {
    /// An empty one.
    pub(super) fn empty(special_bytes: usize) -> TestPage {
        let mut page = TestPage(Box::new([0; PAGE_BYTES]));
        page.page().init(special_bytes).expect("it fits");
        page
    }

    /// To read or change it by hand.
    pub(super) fn page(&mut self) -> PageMut<'_> {
        PageMut::new(&mut self.0)
    }

    /// Redo that has to succeed and to be applied.
    pub(super) fn apply(&mut self, change: Change<'_>) {
        let image = None;
        let outcome = redo(&Delta::Record(PageChange { image, change }), &mut self.0);
        assert_eq!(
            outcome.map_err(|failure| failure.reason),
            Ok(Outcome::Applied)
        );
    }

    /// Redo that has to fail; the page is as it was afterwards.
    pub(super) fn refuse(&mut self, change: Change<'_>) -> RedoError {
        let image = None;
        let mut copy = self.0.clone();
        redo(&Delta::Record(PageChange { image, change }), &mut copy)
            .expect_err("not a change of this page")
            .reason
    }

    /// The tuple of line pointer `offset`.
    pub(super) fn item(&mut self, offset: u16) -> Vec<u8> {
        self.page().item(offset).expect("a tuple").to_vec()
    }
}

/// A small generator: the same numbers in every run.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("a byte")
    }
}

/// Applies `change` to `page` again and again, each time with some bytes of both damaged or cut off, as any block
/// and of any version: the page or an error comes out, never a panic.
pub(super) fn damage(numbers: &mut Numbers, change: &Change<'_>, page: &TestPage, rounds: usize) {
    for _ in 0..rounds {
        let mut bytes = page.0.clone();
        let mut main = change.main.to_vec();
        let mut data = change.data.to_vec();
        for _ in 0..numbers.below(3) {
            let near_header = 12 + numbers.below(60);
            let anywhere = numbers.below(PAGE_BYTES);
            bytes[if numbers.below(2) == 0 {
                near_header
            } else {
                anywhere
            }] = numbers.byte();
        }
        for part in [&mut main, &mut data] {
            if numbers.below(3) == 0 {
                part.truncate(numbers.below(part.len() + 1));
            }
            if numbers.below(2) == 0 && !part.is_empty() {
                let at = numbers.below(part.len());
                part[at] = numbers.byte();
            }
        }
        let change = Change {
            main: &main,
            data: &data,
            version: WalVersion::ALL[numbers.below(4)],
            block_id: if numbers.below(4) == 0 {
                u8::try_from(numbers.below(5)).expect("small")
            } else {
                change.block_id
            },
            ..*change
        };
        let image = None;
        let _ = redo(&Delta::Record(PageChange { image, change }), &mut bytes);
    }
}
