//! The page: what every Postgres page has in its first 24 bytes, the data checksum over it, and the changes that
//! access methods make to its items.
//!
//! - [`PageHeader`], [`page_checksum`]: reading and verifying;
//! - [`PageMut`], [`ItemId`]: changing, with Postgres's placement of every tuple. The primitives are the same in
//!   versions 15 to 18.

mod checksum;
mod compact;
mod error;
mod header;
mod index_items;
mod item_id;
mod items;
mod page_mut;

pub use checksum::page_checksum;
pub use error::PageError;
pub use header::{PageHeader, PageHeaderError};
pub use item_id::{ItemId, ItemState};
pub use items::Place;
pub use page_mut::{
    PAGE_HEADER_BYTES, PD_ALL_VISIBLE, PD_HAS_FREE_LINES, PD_PAGE_FULL, PageMut, max_align,
};

#[cfg(test)]
mod tests;

/// Whether a page is all zeros: a page that was added to a relation and never written. Legal everywhere, and
/// without a checksum.
pub fn is_zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}
