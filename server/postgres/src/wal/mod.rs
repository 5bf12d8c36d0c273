//! Postgres's WAL of versions 15 to 18: pages, records, and whether a stretch of it changes anything.

mod decoder;
mod image;
mod kind;
mod manager;
mod page_header;
mod pglz;
mod record;
mod segment_files;
mod stats;
mod stream;
mod version;
mod wal_error;

pub use decoder::{Decoded, WalDecoder};
pub use image::{Image, ImageError};
pub use kind::{Proof, RecordKind};
pub use manager::ResourceManager;
pub use page_header::WAL_PAGE_BYTES;
pub use record::{
    BlockReference, RECORD_BLOCKS_MAX, Record, RecordError, RecordHeader, RecordScratch,
};
pub(crate) use segment_files::first_record_of_segment;
pub use segment_files::{SegmentFiles, SegmentFilesError, WalDamage};
pub use stats::{WalStats, WalVolume};
pub use stream::WalStream;
pub use version::WalVersion;
pub use wal_error::{EndReason, RecordFault, WalError};
