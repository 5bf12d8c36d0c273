//! Compaction: layers of a branch are merged into fewer, history that nobody can read any more is left out, and values that
//! were changed often get an image, so that a read opens few blocks.
//!
//! ```text
//!  plan      which layers: per partition, runs of about the same size that follow each other in time
//!  merge     their keys (`crate::merge`) in stretches, so that what is in memory is bounded
//!  review    per key: which versions stay, and whether the newest wants an image
//!  Compactor reads, merges, seals and stores; the Flusher commits what came of it and shows it to the readers
//!  Garbage   the layers that went out, and those that never came in: deleted after a while
//! ```
//!
//! Runs are chosen as in universal compaction (RocksDB's name for it; size-tiered elsewhere): newest first, as long as the
//! next is not larger than all before it together. So the number of runs grows with the logarithm of the history, and a
//! version is written once per doubling.
//!
//! Invariants: every version that stays is in exactly the layers that the commit names; readers of the layers before and after
//! see the same values at every LSN that is kept; nothing is deleted that a manifest may still name, nor that a reader of
//! an older one may need within [`CompactionConfig::delete_after`].

mod compactor;
mod config;
mod garbage;
mod plan;
mod review;

pub use compactor::{Compacted, Compaction, Compactor};
pub use config::CompactionConfig;
pub use garbage::{Deleted, Garbage};
