//! Why an ingest stopped.

use crate::catalog::CatalogError;
use crate::crypto::sealed_record::RecordError;
use crate::error::ReadError;
use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::store::objects::StoreError;
use crate::types::{BranchId, Lsn};

/// Why an ingest stopped. Nothing that was durable is lost by any of them.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Somebody else claimed the branch: this writer may not go on, and must not acknowledge anything more.
    #[error("branch {branch}: another server writes it now")]
    Fenced {
        /// The branch.
        branch: BranchId,
    },
    /// Catalog, manifest, store or keys.
    #[error(transparent)]
    Catalog(CatalogError),
    /// The branch can't be opened for reading.
    #[error(transparent)]
    Open(#[from] ReadError),
    /// A core has stopped: the engine ends.
    #[error("a core has stopped")]
    CoreStopped,
    /// A layer that was just sealed does not open.
    #[error("a layer that was just written: {0}")]
    Layer(#[from] LayerError),
    /// Versions come in ascending order of LSN.
    #[error("branch {branch}: versions up to {lsn} come after those up to {last}")]
    Backwards {
        /// The branch.
        branch: BranchId,
        /// Where they end.
        lsn: Lsn,
        /// What was there before.
        last: Lsn,
    },
    /// The stored WAL has a hole.
    #[error(
        "branch {branch}: piece {piece} of its WAL begins at {found}, the one before ends at {wanted}"
    )]
    WalGap {
        /// The branch.
        branch: BranchId,
        /// Number of the piece.
        piece: u64,
        /// Where it begins.
        found: Lsn,
        /// Where it should.
        wanted: Lsn,
    },
    /// An earlier call failed or was dropped halfway.
    #[error("branch {branch}: its ingest failed before and is of no more use")]
    Broken {
        /// The branch.
        branch: BranchId,
    },
}

impl From<CatalogError> for IngestError {
    fn from(error: CatalogError) -> IngestError {
        match error {
            CatalogError::Manifest(ManifestError::Fenced { branch, .. }) => {
                IngestError::Fenced { branch }
            }
            other => IngestError::Catalog(other),
        }
    }
}

impl From<ManifestError> for IngestError {
    fn from(error: ManifestError) -> IngestError {
        CatalogError::Manifest(error).into()
    }
}

impl From<StoreError> for IngestError {
    fn from(error: StoreError) -> IngestError {
        CatalogError::from(error).into()
    }
}

impl From<RecordError> for IngestError {
    fn from(error: RecordError) -> IngestError {
        CatalogError::from(error).into()
    }
}
