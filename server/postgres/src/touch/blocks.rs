//! The pages of a record's blocks, and of visibility maps that heap records clear.

use super::{ClusterState, Out, put_delta};
use crate::key::Fork;
use crate::redo::{Delta, RedoError, cleared_by};
use crate::wal::{RECORD_BLOCKS_MAX, Record};

pub(super) fn blocks(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let forks = &mut state.forks;
    let end = record.end;
    // A map's page that does not exist yet is made, and has no bits to clear.
    cleared_by(record, |tag, implied| {
        match forks.blocks(tag.relation, tag.fork) {
            Some(blocks) if tag.block < blocks => {
                put_delta(tag.key(), Delta::Implied(implied), out)
            }
            _ => forks.extend(tag, end, |_| false, out),
        }
    })?;
    // Which blocks are behind the end of their fork, as it was before any of them made it longer.
    let mut behind_end = [false; RECORD_BLOCKS_MAX];
    for (is_behind, block) in behind_end.iter_mut().zip(record.blocks()) {
        *is_behind = match forks.blocks(block.tag.relation, block.tag.fork) {
            Some(blocks) => block.tag.block >= blocks,
            None => true,
        };
    }
    for (is_behind, block) in behind_end.into_iter().zip(record.blocks()) {
        let Some(mut delta) = Delta::of_block(
            record,
            &block,
            state.hint_bits_logged,
            &mut state.delta_scratch,
        ) else {
            continue;
        };
        let tag = block.tag;
        if is_behind {
            let is_map = matches!(tag.fork, Fork::VisibilityMap | Fork::FreeSpaceMap);
            if !delta.begins_page() && !is_map {
                // As in Postgres: a later record of the same stretch drops or truncates the relation.
                continue;
            }
            if let Delta::Record(change) = &mut delta
                && forks.is_former(tag)
            {
                // The page before belongs to the time before the truncation.
                change.change.will_init = true;
            }
            let comes = |page| record.blocks().any(|block| block.tag == page);
            forks.extend(tag, end, comes, out);
        }
        put_delta(tag.key(), delta, out);
    }
    Ok(())
}
