//! The layer: an immutable object of sealed blocks sorted by (partition, key, LSN), and its index. Knows bytes,
//! keys and seals; not files, stores, caches, or which layers there are.
//!
//! ```text
//! header │ extent 0 │ extent 1 │ … │ sealed index │ footer
//!            │
//!            └─ extent header │ sealed directory │ block 0 │ block 1 │ …
//! ```
//!
//! Every part has one file, which describes its bytes: [`LayerHeader`] and [`LayerFooter`] (`header.rs`),
//! [`ExtentHeader`] (`extent.rs`), [`ExtentDirectory`] (`directory.rs`), blocks (`block.rs`, `pack.rs`),
//! [`LayerIndex`] (`index.rs`). What they share is in `format.rs`. [`LayerWriter`] writes them; [`scrub_object`]
//! checks them without a key.
//!
//! **How a read goes.** The index, in memory, gives the extent ([`LayerIndex::candidates`]); the extent's
//! directory gives the block ([`ExtentDirectory::find`]); [`open_image`] or [`open_pack`] opens it. A missing
//! extent streams in, and [`ExtentAssembler`] says when its directory and each block are there.
//!
//! **What is in the clear**: sizes, the numbers of extents and blocks, who wrote the object (tenant, branch, epoch,
//! sequence) and the id of its key. Keys, LSNs and partitions are sealed.
//!
//! **What holds an object together.** Every seal is bound to tenant, branch, epoch, sequence, and to the block's
//! ordinal. A whole object in another's place, an extent in another's, or a block in another's does not open, and
//! [`LayerHeader::check`] says which object it was. CRC-32C covers every byte outside the header and footer's own
//! sums, so that a scrubber finds damage with no key.

mod block;
mod config;
mod directory;
mod directory_builder;
mod error;
mod extent;
mod extent_builder;
mod format;
mod header;
mod index;
mod pack;
mod scrub;
mod writer;

#[cfg(test)]
mod tests;

pub use block::{
    BlockContents, BlockPlace, BlockScratch, FRAME_BYTES, ValueKind, open_block, open_image,
};
pub use config::{LayerConfig, LayerConfigError};
pub use directory::ExtentDirectory;
pub use error::{LayerError, LayerErrorKind, Part};
pub use extent::{Arrival, EXTENT_HEADER_BYTES, ExtentAssembler, ExtentHeader};
pub use format::{EXTENT_BYTES, EXTENTS_MAX, LayerId, OBJECT_BYTES_MAX};
pub use header::{FOOTER_BYTES, HEADER_BYTES, LayerFooter, LayerHeader};
pub use index::{LayerIndex, PartitionSection};
pub use pack::{Pack, PackEntry, open_pack};
pub(crate) use scrub::LayerScrubber;
pub use scrub::{ScrubReport, scrub_extent, scrub_object};
pub use writer::{LayerFull, LayerParams, LayerSummary, LayerWriter, SealedLayer, Value};
