//! Tenants, branches, their names, and the writer that fills a new branch.
//!
//! A tenant becomes visible by its record, a branch by its name: each the last object of a sequence, put if absent.
//! Whatever breaks off before leaves objects that nothing names, which [`Catalog::orphans`] lists.
//!
//! A branch of a branch is its name's record and nothing else, until somebody writes to it: [`Catalog::create_child`]
//! is one put. Names move by records of their own ([`Catalog::reset`], [`Catalog::rename`], [`Catalog::delete`]); ids
//! never do, and never come back.

mod branch_writer;
#[expect(
    clippy::module_inception,
    reason = "the catalog is the type one comes for"
)]
mod catalog;
mod children;
mod cpu;
mod error;
mod layer_store;
mod listing;
mod name_changes;
mod name_record;
mod name_table;
mod names;
mod records;
mod tenant;
mod wal_record;
mod window;

pub use branch_writer::{BranchWriter, CommitFacts, LayerUploads, WriterConfig};
pub use catalog::{Catalog, CatalogParts, FoundBranch};
pub use children::{Child, Parent, ResetBranch, RestoredBranch};
pub use cpu::{Cpu, InlineCpu};
pub use error::CatalogError;
pub(crate) use layer_store::{LayerStore, StoredLayer};
pub use listing::{BranchSummary, Orphan};
pub use tenant::Tenant;
pub use wal_record::{WAL_PIECE_BYTES_MAX, WalPiece};
pub(crate) use wal_record::{may_be_fence, open_wal, parse_wal, seal_wal};
pub(crate) use window::{STRETCH_BYTES, Window};

/// For fuzzing: the opened bodies of the records of tenants and of names, and of pieces of WAL.
#[doc(hidden)]
pub fn fuzz_records(body: &[u8]) {
    records::fuzz_tenant(body);
    name_record::fuzz(body);
    wal_record::fuzz(body);
}

/// Requests of one call in flight at once.
const CONCURRENT_MAX: usize = 16;

#[cfg(test)]
mod tests;
