//! Why a manifest was not read or not written.

use crate::crypto::key_provider::KeyProviderError;
use crate::crypto::page_seal::DekId;
use crate::crypto::sealed_record::RecordError;
use crate::store::objects::StoreError;
use crate::types::{BranchId, TenantId};

/// Why a manifest, a key table or a record of the catalog was not read or not written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The store did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is damaged, misplaced, of another format, or sealed under another key.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The key provider did not unwrap or wrap the KEK.
    #[error("tenant {tenant}: {source}")]
    Provider {
        /// Whose KEK.
        tenant: TenantId,
        /// What the provider said.
        source: KeyProviderError,
    },
    /// There is no such branch.
    #[error("branch {branch}: no such branch")]
    NoSuchBranch {
        /// The branch asked for.
        branch: BranchId,
    },
    /// The log has a hole: somebody deleted an entry, or the store's listing is wrong.
    #[error("branch {branch}: manifest entry {number} is missing")]
    Gap {
        /// The branch.
        branch: BranchId,
        /// The entry.
        number: u64,
    },
    /// An entry is valid by itself and makes no sense behind those before it.
    #[error("branch {branch}: manifest entry {number}: {problem}")]
    Inconsistent {
        /// The branch.
        branch: BranchId,
        /// The entry.
        number: u64,
        /// What does not fit.
        problem: &'static str,
    },
    /// Another writer claimed the branch: this one may write nothing any more.
    #[error("branch {branch}: another writer took manifest entry {number}")]
    Fenced {
        /// The branch.
        branch: BranchId,
        /// The entry that it took.
        number: u64,
    },
    /// An earlier write had an unknown outcome, so what follows it would be a guess. Claim the branch anew.
    #[error("branch {branch}: the outcome of an earlier write is unknown")]
    OutcomeUnknown {
        /// The branch.
        branch: BranchId,
    },
    /// An object names a key that no table has.
    #[error("branch {branch}: no data key {}/{}", dek.table, dek.slot)]
    NoSuchDek {
        /// The branch that wrote the object.
        branch: BranchId,
        /// The key.
        dek: DekId,
    },
    /// An edit is larger than one entry may be.
    #[error(
        "branch {branch}: an edit of {edit_bytes} bytes, at most {bytes_max} go into one entry"
    )]
    EditTooLarge {
        /// The branch.
        branch: BranchId,
        /// Its size.
        edit_bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}
