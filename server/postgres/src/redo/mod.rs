//! Redo: one logged change onto one page. Redo of a page never needs the content of another.
//!
//! A [`Delta`] is what a record (or something it implies) does to one page, and nothing else: an image to restore,
//! an operation of a resource manager, or both; [`Delta::decode`] and [`Delta::encode`] describe its stored bytes.
//! [`redo`] decides whether it has to be applied and hands it to the resource manager's file:
//!
//! - images (those with the apply flag; others never get into a delta), blocks that are made anew, and
//!   [implied](Implied) changes are applied whatever the page is;
//! - any other only if the page's LSN is below the record's end. A page that was never initialised is passed over, as
//!   Postgres does: a later record of the same stretch dropped or truncated its relation. Visibility maps are the
//!   exception, their pages begin as zeros.
//!
//! Any bytes may be in a delta and on a page: what does not fit together is a [`RedoFailure`], never a panic, and
//! nothing outside the page is read or written. After a failure the page is in no particular state.

mod brin;
mod btree;
mod delta;
mod error;
mod fields;
mod generic;
mod gin;
mod gist;
mod hash;
mod heap;
mod heap2;
mod heap_tuple;
mod implied;
mod index_records;
mod sequence;
mod spgist;
mod stored;
mod visibility_map;
mod xlog;

#[cfg(test)]
mod testing;

pub use delta::{Delta, DeltaError, DeltaScratch, PageChange};
pub use error::{RedoError, RedoFailure};
pub(crate) use fields::Fields;
pub use implied::{
    CLOG_TRANSACTIONS_PER_PAGE, COMMIT_TIMESTAMPS_PER_PAGE, FSM_LEAVES, Implied, MAP_BYTES,
    MULTIXACT_MEMBERS_PER_PAGE, MULTIXACT_OFFSETS_PER_PAGE, MapBits,
};
pub use stored::PostgresRedo;
pub use visibility_map::{MAP_BLOCKS_PER_PAGE, cleared_by};

use engine::types::{Lsn, PAGE_BYTES};

use crate::key::{BlockTag, Fork};
use crate::page::PageMut;
use crate::wal::{ResourceManager, WalVersion};

/// What a record says of one of its blocks, and all of the record that redo of this block can need.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// How to read `data` and `main`.
    pub version: WalVersion,
    /// End of the record: the page's LSN afterwards.
    pub end: Lsn,
    /// The record's transaction id, 0 if none.
    pub xid: u32,
    /// Whose record.
    pub manager: ResourceManager,
    /// Its operation (upper four bits) and flags.
    pub info: u8,
    /// Which of the record's blocks this page is.
    pub block_id: u8,
    /// Where this page is.
    pub tag: BlockTag,
    /// Where the record's other blocks are, by their ids, ascending.
    pub others: &'a [(u8, BlockTag)],
    /// What the record has for this block.
    pub data: &'a [u8],
    /// What the record has for all of its blocks.
    pub main: &'a [u8],
    /// Whether hint bits are logged: data checksums or `wal_log_hints`.
    pub hint_bits_logged: bool,
    /// The page is made anew, whatever it was.
    pub will_init: bool,
}

impl Change<'_> {
    /// The operation, as the resource manager numbers it: the upper four bits of `info`.
    pub fn operation(&self) -> u8 {
        self.info & 0xf0
    }

    /// Where another block of the record is.
    /// # Errors
    /// The record has no such block.
    pub fn other(&self, block_id: u8) -> Result<BlockTag, RedoError> {
        self.others
            .iter()
            .find(|(id, _)| *id == block_id)
            .map(|(_, tag)| *tag)
            .ok_or(RedoError::OtherBlock(block_id))
    }

    /// The error for a block that the operation does not have.
    fn unexpected_block(&self) -> RedoError {
        RedoError::Block {
            info: self.info,
            block_id: self.block_id,
        }
    }
}

/// Never the bytes: they are rows.
impl std::fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Change({} {:#04x} that ends at {}, block id {}, {} + {} bytes)",
            self.manager,
            self.info,
            self.end,
            self.block_id,
            self.data.len(),
            self.main.len()
        )
    }
}

/// What became of a delta.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The page was changed.
    Applied,
    /// The page is of this record or a later one: nothing was to be done.
    PageAhead,
    /// The page was never initialised, and the change is not one that begins a page: nothing was done.
    PageMissing,
}

/// Whether a change is one that moves the page's LSN to the record's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stamp {
    /// It does.
    End,
    /// The page keeps its LSN.
    Keep,
}

/// Most changes do.
impl From<()> for Stamp {
    fn from((): ()) -> Stamp {
        Stamp::End
    }
}

/// Applies `delta` to `page`, if it has to be. Allocates nothing.
/// # Errors
/// The delta is of a resource manager or operation that is not known, or does not fit the page. `page` is
/// in no particular state then.
pub fn redo(delta: &Delta<'_>, page: &mut [u8; PAGE_BYTES]) -> Result<Outcome, RedoFailure> {
    match delta {
        Delta::Record(PageChange { image, change }) => {
            let failure = |reason| RedoFailure {
                end: change.end,
                manager: change.manager,
                info: change.info,
                block_id: change.block_id,
                reason,
            };
            let mut page = PageMut::new(page);
            match image {
                Some(image) => {
                    image
                        .restore(page.bytes_mut())
                        .map_err(|error| failure(error.into()))?;
                    after_image(change, &mut page).map_err(failure)?;
                    if !page.is_new() {
                        page.set_lsn(change.end);
                    }
                    Ok(Outcome::Applied)
                }
                None => redo_change(change, &mut page).map_err(failure),
            }
        }
        Delta::Implied(implied) => {
            implied.apply(page);
            Ok(Outcome::Applied)
        }
    }
}

fn redo_change(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<Outcome, RedoError> {
    if change.will_init {
        if change.tag.fork == Fork::VisibilityMap {
            // No record makes a map's page anew: it is the first of its block since the map was cut off.
            page.bytes_mut().fill(0);
        }
    } else {
        if page.lsn() >= change.end {
            return Ok(Outcome::PageAhead);
        }
        if page.is_new() && change.tag.fork != Fork::VisibilityMap {
            return Ok(Outcome::PageMissing);
        }
    }
    if apply(change, page)? == Stamp::End {
        page.set_lsn(change.end);
    }
    Ok(Outcome::Applied)
}

/// The one place that knows which file a resource manager is in.
fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<Stamp, RedoError> {
    match change.manager {
        ResourceManager::XLOG => xlog::apply(change),
        ResourceManager::HEAP2 => heap2::apply(change, page),
        ResourceManager::HEAP => heap::apply(change, page).map(Into::into),
        ResourceManager::BTREE => btree::apply(change, page).map(Into::into),
        ResourceManager::HASH => hash::apply(change, page),
        ResourceManager::GIN => gin::apply(change, page).map(Into::into),
        ResourceManager::GIST => gist::apply(change, page).map(Into::into),
        ResourceManager::SEQUENCE => sequence::apply(change, page).map(Into::into),
        ResourceManager::SPGIST => spgist::apply(change, page).map(Into::into),
        ResourceManager::BRIN => brin::apply(change, page).map(Into::into),
        ResourceManager::GENERIC => generic::apply(change, page).map(Into::into),
        _ => Err(RedoError::Manager),
    }
}

/// What redo does to a page that was restored from its image.
fn after_image(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    match change.manager {
        ResourceManager::HASH => hash::after_image(change, page),
        ResourceManager::GIST => gist::after_image(change, page),
        _ => Ok(()),
    }
}

/// Whether [`after_image`] looks at changes of this resource manager; those of others are not kept beside an
/// image.
fn changes_images(manager: ResourceManager) -> bool {
    matches!(manager, ResourceManager::HASH | ResourceManager::GIST)
}
