//! Postgres's WAL of versions 15 to 18: pages, records, and whether a stretch of it changes anything.

mod decoder;
mod page_header;
mod quiet_check;
mod record;

pub use decoder::{WalDecoder, WalError, WalRecord, WalStream};
pub use page_header::{WAL_PAGE_BYTES, WalPageHeader};
pub use quiet_check::{Change, QuietCheck};
pub use record::{BlockReference, RecordError, RecordHeader, ResourceManager, block_references};
