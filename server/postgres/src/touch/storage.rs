//! Records of the storage manager: forks made and cut off.
//!
//! - 0x10 create: relation (12), fork (4)
//! - 0x20 truncate: blocks (4), relation (12), flags (4): 1 main fork, 2 visibility map, 4 free space map

use engine::types::Lsn;

use super::{ClusterState, Out, put_delta};
use crate::key::{BlockTag, Fork, Relation};
use crate::redo::{Delta, FSM_LEAVES, Fields, Implied, MAP_BLOCKS_PER_PAGE, RedoError};
use crate::wal::Record;

pub(super) fn storage(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", record.main);
    match record.operation() {
        CREATE => {
            let relation = relation(&mut main)?;
            let number = main.u32()?;
            let fork = u8::try_from(number).ok().and_then(Fork::from_number);
            let fork = fork.ok_or(RedoError::Record {
                what: "fork",
                value: number.into(),
            })?;
            state.forks.create(relation, fork, record.end, out);
        }
        TRUNCATE => {
            let blocks = main.u32()?;
            let relation = relation(&mut main)?;
            let flags = main.u32()?;
            state.forks.create(relation, Fork::Main, record.end, out);
            if flags & TRUNCATE_MAIN != 0 {
                let forks = &mut state.forks;
                forks.truncate(relation, Fork::Main, blocks, record.end);
            }
            if flags & TRUNCATE_FREE_SPACE_MAP != 0 {
                truncate_free_space_map(relation, blocks, record.end, state, out);
            }
            if flags & TRUNCATE_VISIBILITY_MAP != 0 {
                truncate_visibility_map(relation, blocks, record.end, state, out);
            }
        }
        operation => return Err(RedoError::Operation(operation)),
    }
    Ok(())
}

/// A relation as records have it.
pub(super) fn relation(fields: &mut Fields<'_>) -> Result<Relation, RedoError> {
    Ok(Relation {
        tablespace: fields.u32()?,
        database: fields.u32()?,
        number: fields.u32()?,
    })
}

/// The bits of blocks from `heap_blocks` on are cleared, and the pages that have no others cut off.
fn truncate_visibility_map(
    relation: Relation,
    heap_blocks: u32,
    end: Lsn,
    state: &mut ClusterState,
    out: Out<'_>,
) {
    let on_page = heap_blocks % MAP_BLOCKS_PER_PAGE;
    let rest = (on_page != 0).then(|| Implied::VisibilityTruncate {
        byte: u16::try_from(on_page / 4).expect("a page has 8,168 bytes of map"),
        keep: (1 << (on_page % 4 * 2)) - 1,
    });
    let place = BlockTag {
        relation,
        fork: Fork::VisibilityMap,
        block: heap_blocks / MAP_BLOCKS_PER_PAGE,
    };
    truncate_map(place, rest, end, state, out);
}

/// The leaves of blocks from `heap_blocks` on are cleared, and the pages that have no others cut off. The upper levels,
/// which redo corrects as well, are not logged: they go on naming space that is not there, as hints do.
fn truncate_free_space_map(
    relation: Relation,
    heap_blocks: u32,
    end: Lsn,
    state: &mut ClusterState,
    out: Out<'_>,
) {
    let leaves = u32::try_from(FSM_LEAVES).expect("fewer than bytes on a page");
    let (page, slot) = (heap_blocks / leaves, heap_blocks % leaves);
    let rest = (slot != 0).then(|| Implied::FreeSpaceTruncate {
        leaves: u16::try_from(slot).expect("fewer than bytes on a page"),
    });
    let place = BlockTag {
        relation,
        fork: Fork::FreeSpaceMap,
        block: free_space_block(page, leaves),
    };
    truncate_map(place, rest, end, state, out);
}

/// Cuts a map off at a page, or behind it if a part of the page stays: `rest` then clears the other part.
fn truncate_map(
    place: BlockTag,
    rest: Option<Implied>,
    end: Lsn,
    state: &mut ClusterState,
    out: Out<'_>,
) {
    let Some(blocks) = state.forks.blocks(place.relation, place.fork) else {
        return;
    };
    let mut keep = place.block;
    if let Some(rest) = rest {
        if keep >= blocks {
            return;
        }
        put_delta(place.key(), Delta::Implied(rest), out);
        keep += 1;
    }
    state.forks.truncate(place.relation, place.fork, keep, end);
}

/// Where leaf page `page` of a free space map is: before it come the leaf pages before it and, at every level above, the
/// pages up to the one that is over it.
fn free_space_block(page: u32, leaves: u32) -> u32 {
    let levels = [page, page / leaves, page / leaves / leaves];
    levels
        .into_iter()
        .fold(0u32, |sum, pages| sum.saturating_add(pages + 1))
        - 1
}

const CREATE: u8 = 0x10;
const TRUNCATE: u8 = 0x20;
const TRUNCATE_MAIN: u32 = 1;
const TRUNCATE_VISIBILITY_MAP: u32 = 2;
const TRUNCATE_FREE_SPACE_MAP: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaf_pages_of_a_free_space_map_come_behind_the_pages_above_them() {
        let leaves = u32::try_from(FSM_LEAVES).expect("small");
        assert_eq!(leaves, 4069);
        assert_eq!(free_space_block(0, leaves), 2);
        assert_eq!(free_space_block(1, leaves), 3);
        assert_eq!(free_space_block(4068, leaves), 4070);
        // Behind a second page of the level above.
        assert_eq!(free_space_block(4069, leaves), 4072);
    }
}
