//! The manifest of a branch: a numbered, sealed log of its layers, and the commit point of everything.
//!
//! **Log.** Entries are objects put if absent under consecutive numbers; a claim of an epoch takes a number like
//! everything else, so a writer that lost its epoch fails its next put. See `entry.rs`, `log.rs`.
//!
//! **Snapshots.** Every [`ENTRIES_PER_SNAPSHOT`]th entry holds the root of a tree of two levels over all sections;
//! see `snapshot.rs`. So the newest snapshot needs no search: list the newest names (they come first, see
//! `names.rs`), round the newest number down.
//!
//! **A cold start**, in dependent round trips: 1. the newest names of the log (beside it: the names of the tenant's
//! KEKs); 2. the entries since the snapshot, all at once (beside them: the KEKs, which the key provider unwraps in
//! one call); 3. the key tables of the entries; 4. the snapshot node of the partition, and its key table; 5. the
//! layer's index, and its key table; 6. the extent with the page. The same at 1 GiB and at 100 TiB.
//!
//! **A branch without a manifest** is one that nobody has written to since it left its parent: the record of its name
//! says how it begins (`catalog/name_record.rs`), and lies where its id says, so it is fetched in the first round trip
//! beside the names of a log that is not there. Then come the six of its parent.

mod branch;
pub(crate) mod codec;
mod dek_allocator;
mod entry;
mod error;
#[cfg(test)]
pub(crate) mod golden;
mod key_tables;
mod log;
pub mod names;
mod nodes;
mod section;
mod snapshot;
mod snapshot_scrub;
mod state;
mod tenant_keys;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use branch::Later;
pub use branch::{Branch, NODES_MAX};
pub(crate) use entry::Entry;
pub use entry::{
    BaseBackup, BranchStart, Creation, Edit, KEPT_LSNS_MAX, KeptHistory, RemovedLayer,
    TIMELINES_MAX, TimelineSpan, WalPosition,
};
pub use error::ManifestError;
pub use key_tables::{KeyTables, TABLES_MAX};
pub use log::{EDIT_BYTES_MAX, ManifestLog};
pub(crate) use log::{PutOnce, WriterNames, put_once};
pub use section::LayerSection;
pub use snapshot::BranchFacts;
pub(crate) use snapshot::{decode_node_sections, encode_node_sections};
pub(crate) use snapshot_scrub::SnapshotScrubber;
pub(crate) use state::FetchedLog;
pub use tenant_keys::TenantKeks;

/// Entries with a number divisible by this are snapshots: so many entries at most are read at a cold start.
pub const ENTRIES_PER_SNAPSHOT: u64 = 64;
