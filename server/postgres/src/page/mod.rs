//! The page: what every Postgres page has in its first 24 bytes, and the data checksum over it.

mod checksum;
mod header;

pub use checksum::page_checksum;
pub use header::{PageHeader, PageHeaderError};

/// Whether a page is all zeros: a page that was added to a relation and never written. Legal everywhere, and
/// without a checksum.
pub fn is_zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}
