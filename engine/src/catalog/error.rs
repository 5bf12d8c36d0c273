//! Why the catalog did not do what it was asked.

use crate::crypto::sealed_record::RecordError;
use crate::manifest::ManifestError;
use crate::store::objects::StoreError;
use crate::types::{BranchId, Lsn, TenantId};

/// Why the catalog did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A branch can leave its parent only where the parent can be read.
    #[error(
        "no branch can start at {at}: its parent {parent} can be read from {readable_from} to {last_lsn}"
    )]
    OutsideParent {
        /// The parent.
        parent: BranchId,
        /// Where the branch was to start.
        at: Lsn,
        /// The first LSN that the parent can show.
        readable_from: Lsn,
        /// The last one.
        last_lsn: Lsn,
    },
    /// A branch that others read, so that it can't be deleted.
    #[error("branch {name} has children: {}", listed(children))]
    HasChildren {
        /// Its name.
        name: String,
        /// The names of its children and their children.
        children: Vec<String>,
    },
    /// A branch that is protected from what was asked.
    #[error("branch {name} is protected")]
    Protected {
        /// Its name.
        name: String,
    },
    /// A branch that is nobody's child.
    #[error("branch {name} has no parent that it could be reset to")]
    NoParent {
        /// Its name.
        name: String,
    },
    /// Somebody changed what the name means while it was being changed, or a child of it was being made.
    #[error("tenant {tenant}: what the name {name} means has just been changed by somebody else")]
    NameChanged {
        /// Whose name.
        tenant: TenantId,
        /// The name.
        name: String,
    },
    /// Store, keys, or a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// No tenant has this name or id.
    #[error("no such tenant: {0}")]
    NoSuchTenant(String),
    /// No visible branch has this name or id.
    #[error("tenant {tenant}: no such branch: {branch}")]
    NoSuchBranch {
        /// Whose branch.
        tenant: TenantId,
        /// As it was asked for.
        branch: String,
    },
    /// The name is taken.
    #[error("tenant {0} exists already")]
    TenantExists(String),
    /// The name is taken.
    #[error("tenant {tenant}: branch {name} exists already")]
    BranchExists {
        /// Whose branch.
        tenant: TenantId,
        /// The name.
        name: String,
    },
    /// Two tenants were created at once under one name: say which by id.
    #[error("more than one tenant is called {0}: use the id")]
    Ambiguous(String),
    /// Not fit to be a name.
    #[error("not a name: {name:?} ({rule})")]
    BadName {
        /// The text.
        name: String,
        /// Which rule it breaks.
        rule: &'static str,
    },
    /// The KEK is held by another provider than the one at hand.
    #[error("tenant {tenant}: its keys are with the provider {found}, not with {configured}")]
    OtherProvider {
        /// Whose keys.
        tenant: TenantId,
        /// Where they are.
        found: String,
        /// The provider at hand.
        configured: &'static str,
    },
    /// The branch was written with another layout of keys than this program was built for.
    #[error("branch {branch}: keys of layout {found:?}, this program knows {known:?}")]
    OtherKeySpace {
        /// The branch.
        branch: BranchId,
        /// Its layout's tag.
        found: [u8; 8],
        /// Ours.
        known: [u8; 8],
    },
    /// The task that builds and uploads layers ended before its writer did.
    #[error("branch {branch}: layers are no longer uploaded")]
    UploaderStopped {
        /// The branch.
        branch: BranchId,
    },
    /// An earlier call of this writer failed or was dropped halfway, so it no longer knows what it has written.
    #[error("branch {branch}: its writer failed before and is of no more use")]
    WriterBroken {
        /// The branch.
        branch: BranchId,
    },
    /// A piece of WAL is larger than one object may be.
    #[error("a piece of WAL of {wal_bytes} bytes, at most {bytes_max}")]
    WalTooLarge {
        /// Its size.
        wal_bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

impl From<StoreError> for CatalogError {
    fn from(error: StoreError) -> Self {
        CatalogError::Manifest(error.into())
    }
}

impl From<RecordError> for CatalogError {
    fn from(error: RecordError) -> Self {
        CatalogError::Manifest(error.into())
    }
}

/// The first few of many names.
fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED_MAX)].join(", ");
    match names.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

const LISTED_MAX: usize = 5;
