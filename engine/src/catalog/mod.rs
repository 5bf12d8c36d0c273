//! Tenants, branches, their names, and the writer that fills a new branch.
//!
//! A tenant becomes visible by its record, a branch by its name: each the last object of a sequence, put if absent.
//! Whatever breaks off before leaves objects that nothing names, which [`Catalog::orphans`] lists.

mod branch_writer;
#[expect(
    clippy::module_inception,
    reason = "the catalog is the type one comes for"
)]
mod catalog;
mod cpu;
mod error;
mod layer_store;
mod names;
mod records;
mod tenant;
mod window;

pub use branch_writer::{
    BranchWriter, CommitFacts, LayerUploads, WAL_PIECE_BYTES_MAX, WriterConfig,
};
pub use catalog::{BranchSummary, Catalog, CatalogParts, Orphan};
pub use cpu::{Cpu, InlineCpu};
pub use error::CatalogError;
pub(crate) use layer_store::{LayerStore, StoredLayer};
pub use records::WalPiece;
#[doc(hidden)]
pub use records::fuzz_records;
pub(crate) use records::{open_wal, parse_wal, seal_wal};
pub use tenant::Tenant;
pub(crate) use window::Window;

#[cfg(test)]
mod tests;
