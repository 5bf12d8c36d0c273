//! Bits of visibility maps that a logged page lacks before the record that clears them.
//!
//! Whoever changes a row clears its page's bits in the map first and writes the record then, with no lock on the map
//! held between. A vacuum that sets the bits of another heap page meanwhile logs the map as it is: without bits that
//! redo still has. That is sound only if a record that clears them follows, and nothing sets them again before it.

use std::collections::HashMap;

use engine::types::Lsn;

use super::compare::Page;
use crate::key::BlockTag;
use crate::page::PAGE_HEADER_BYTES;

/// The bits that were missing in an image and that no record has cleared yet.
#[derive(Debug, Default)]
pub(super) struct EarlyClears {
    /// By page of the map and byte on the page: the bits, and the record whose image lacked them first.
    pending: HashMap<(BlockTag, usize), (u8, Lsn)>,
}

impl EarlyClears {
    /// Takes from `ours`, a page of a map, the bits that `logged` (by the record at `lsn`) lacks, and remembers them;
    /// answers whether one that was missing before is set again.
    pub(super) fn take(&mut self, tag: BlockTag, lsn: Lsn, ours: &mut Page, logged: &Page) -> bool {
        let mut is_set_again = false;
        for at in PAGE_HEADER_BYTES..ours.len() {
            let missing = ours[at] & !logged[at];
            ours[at] &= logged[at];
            if missing != 0 {
                let (bits, _) = self.pending.entry((tag, at)).or_insert((0, lsn));
                is_set_again |= *bits & logged[at] != 0;
                *bits |= missing;
            } else if let Some((bits, _)) = self.pending.get(&(tag, at)) {
                is_set_again |= *bits & logged[at] != 0;
            }
        }
        is_set_again
    }

    /// A record clears the bits of `mask` in the map's byte number `byte`.
    pub(super) fn clear(&mut self, tag: BlockTag, byte: u16, mask: u8) {
        let key = (tag, PAGE_HEADER_BYTES + usize::from(byte));
        if let Some((bits, _)) = self.pending.get_mut(&key) {
            *bits &= !mask;
            if *bits == 0 {
                self.pending.remove(&key);
            }
        }
    }

    /// Forgets maps that are cut off or dropped: their bits are gone without a record of their own.
    pub(super) fn forget(&mut self, is_gone: impl Fn(&BlockTag) -> bool) {
        self.pending.retain(|(tag, _), _| !is_gone(tag));
    }

    /// Pages of which bits are still missing, with the record whose image lacked them.
    pub(super) fn outstanding(&self) -> impl Iterator<Item = (BlockTag, Lsn)> {
        self.pending.iter().map(|((tag, _), (_, lsn))| (*tag, *lsn))
    }
}

#[cfg(test)]
mod tests {
    use engine::types::PAGE_BYTES;

    use super::*;
    use crate::key::{Fork, Relation};

    #[test]
    fn a_missing_bit_has_to_be_cleared_before_it_is_set_again() {
        let tag = BlockTag {
            relation: Relation {
                tablespace: 1663,
                database: 5,
                number: 16384,
            },
            fork: Fork::VisibilityMap,
            block: 0,
        };
        let before: Page = [0xff; PAGE_BYTES];
        let mut logged = before;
        logged[30] = 0xf3;
        let mut early = EarlyClears::default();
        let mut ours = before;
        assert!(!early.take(tag, Lsn(1), &mut ours, &logged));
        assert_eq!(ours, logged);
        assert_eq!(early.outstanding().collect::<Vec<_>>(), [(tag, Lsn(1))]);
        assert!(early.take(tag, Lsn(2), &mut ours, &before));

        early.clear(tag, 6, 0x0c);
        assert_eq!(early.outstanding().count(), 0);
        assert!(!early.take(tag, Lsn(3), &mut ours, &before));
    }
}
