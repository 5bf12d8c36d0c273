//! Redo proved against Postgres's own pages: WAL that was written under `wal_consistency_checking = 'all'` carries
//! with each record the pages as they are after it.
//!
//! [`Verifier`] keeps every page in memory, replays each record onto it as the engine would, and compares the result
//! with the logged image, byte for byte but for what the primary changes without logging it. So each record
//! is a test of its own, from the state that all records before it left; what an image without the apply flag shows
//! is never put into a page, unless the page was not known yet (the WAL begins in its middle) or came out wrong, which
//! is reported once and not again by every record behind it.
//!
//! What images cannot prove (maps of visibility cleared by heap records, commit status, sizes, drops) is outside.

mod compare;
mod early_clears;
mod report;
mod verifier;

pub use compare::Page;
pub use report::{Difference, KindCounts, MISMATCHES_MAX, Mismatch, Report, ReportRow};
pub use verifier::{Verifier, VerifyError};
