//! Why redo of a page failed.

use engine::types::Lsn;

use crate::page::PageError;
use crate::wal::{ImageError, ResourceManager};

/// What is wrong with a change, or with the page it was to be applied to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RedoError {
    /// Not a built-in resource manager, or one that changes no pages.
    #[error("no redo of pages for this resource manager")]
    Manager,
    /// An operation that is not known in this version.
    #[error("unknown operation {0:#04x}")]
    Operation(u8),
    /// The operation has no block of this id.
    #[error("operation {info:#04x} does not touch block id {block_id}")]
    Block {
        /// The operation.
        info: u8,
        /// The block's id.
        block_id: u8,
    },
    /// The record refers to another block that is not there.
    #[error("the record has no block id {0}")]
    OtherBlock(u8),
    /// What the record carries ends too early.
    #[error("{what} of {bytes} bytes: {wanted} wanted at {at}")]
    Short {
        /// Which part of the record.
        what: &'static str,
        /// Where the missing field begins.
        at: usize,
        /// How long it is.
        wanted: usize,
        /// How long the part is.
        bytes: usize,
    },
    /// The record carries more than it should, or a field has a value that no such record has.
    #[error("{what} {value} in the record")]
    Record {
        /// Which field.
        what: &'static str,
        /// As found.
        value: u64,
    },
    /// A page is not what the change needs.
    #[error("{what} {value} on the page")]
    Page {
        /// Which field.
        what: &'static str,
        /// As found.
        value: u64,
    },
    /// Line pointers, tuples, special space.
    #[error(transparent)]
    Items(#[from] PageError),
    /// The image does not restore.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A record that could not be replayed onto a page, and why. The page is unreadable from that record on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record of {manager} {info:#04x} that ends at {end}, block id {block_id}: {reason}")]
pub struct RedoFailure {
    /// End of the record.
    pub end: Lsn,
    /// Whose record.
    pub manager: ResourceManager,
    /// Its operation and flags.
    pub info: u8,
    /// Which of its blocks.
    pub block_id: u8,
    /// What was wrong.
    pub reason: RedoError,
}
