//! The engine's catalog as the frontends use it: over the store threads, so that cores and the admin thread ask it alike,
//! and with errors sorted by what a client can do about them.

use engine::catalog::{Catalog, CatalogError};
use engine::crypto::key_provider::KeyProviderError;
use engine::manifest::ManifestError;
use engine::store::StoreClient;
use engine::store::objects::StoreError;
use engine::types::{BranchId, TenantId};

use crate::exit::{Exit, Failure};

/// Tenants and branches of the server's object store.
pub type ServerCatalog = Catalog<StoreClient>;

/// What a client can do about an error of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogErrorKind {
    /// Ask for something else.
    NotFound,
    /// The request can't be served: another name, other keys.
    Refused,
    /// Something stored is damaged.
    Corrupt,
    /// Try again.
    Unavailable,
}

/// Sorts an error of the catalog.
pub fn kind(error: &CatalogError) -> CatalogErrorKind {
    match error {
        CatalogError::NoSuchTenant(_)
        | CatalogError::NoSuchBranch { .. }
        | CatalogError::Manifest(ManifestError::NoSuchBranch { .. }) => CatalogErrorKind::NotFound,
        CatalogError::TenantExists(_)
        | CatalogError::BranchExists { .. }
        | CatalogError::Ambiguous(_)
        | CatalogError::BadName { .. }
        | CatalogError::OutsideParent { .. }
        | CatalogError::HasChildren { .. }
        | CatalogError::Protected { .. }
        | CatalogError::NoParent { .. }
        | CatalogError::NameChanged { .. }
        | CatalogError::OtherProvider { .. }
        | CatalogError::OtherKeySpace { .. }
        | CatalogError::WalTooLarge { .. } => CatalogErrorKind::Refused,
        CatalogError::UploaderStopped { .. } | CatalogError::WriterBroken { .. } => {
            CatalogErrorKind::Unavailable
        }
        CatalogError::Manifest(error) => manifest_kind(error),
    }
}

/// The ids of a branch, each by name or id. Two ids are not looked up: opening the branch tells whether it is there.
pub async fn find(
    catalog: &ServerCatalog,
    tenant: &str,
    branch: &str,
) -> Result<(TenantId, BranchId), CatalogError> {
    if let (Ok(tenant), Ok(branch)) = (tenant.parse(), branch.parse()) {
        return Ok((tenant, branch));
    }
    let tenant = catalog.find_tenant(tenant).await?;
    let branch = catalog.find_branch(&tenant, branch).await?;
    Ok((tenant.id(), branch))
}

/// What a Postgres client is told.
pub fn sql_state(error: &CatalogError) -> &'static str {
    match kind(error) {
        CatalogErrorKind::NotFound => "3D000",
        CatalogErrorKind::Refused => "42602",
        CatalogErrorKind::Corrupt => "XX001",
        CatalogErrorKind::Unavailable => "57P03",
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Failure {
        let exit = match kind(&error) {
            CatalogErrorKind::NotFound => Exit::NotFound,
            CatalogErrorKind::Refused => Exit::Refused,
            CatalogErrorKind::Corrupt => Exit::Corrupt,
            CatalogErrorKind::Unavailable => Exit::Unavailable,
        };
        let is_keys = matches!(
            &error,
            CatalogError::Manifest(ManifestError::Provider {
                source: KeyProviderError::Refused { .. },
                ..
            })
        );
        let hint = match &error {
            _ if is_keys => Some("another keyring has it: --keyring, or `pageserver key import`"),
            CatalogError::HasChildren { .. } => Some("delete those first"),
            CatalogError::Protected { .. } => Some("`pageserver branch unprotect` lifts that"),
            CatalogError::NameChanged { .. } => Some("look at `pageserver branch list`, try again"),
            _ => None,
        };
        let failure = Failure::new(exit, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

fn manifest_kind(error: &ManifestError) -> CatalogErrorKind {
    match error {
        ManifestError::Store(StoreError::NotFound { .. }) => CatalogErrorKind::NotFound,
        ManifestError::Store(StoreError::Refused { .. } | StoreError::AlreadyExists { .. })
        | ManifestError::Provider {
            source: KeyProviderError::Refused { .. } | KeyProviderError::OurFault { .. },
            ..
        }
        | ManifestError::Fenced { .. }
        | ManifestError::EditTooLarge { .. } => CatalogErrorKind::Refused,
        ManifestError::Store(
            StoreError::Deadline { .. }
            | StoreError::ShortBody { .. }
            | StoreError::Unavailable { .. },
        )
        | ManifestError::Provider {
            source: KeyProviderError::Transient { .. },
            ..
        }
        | ManifestError::OutcomeUnknown { .. } => CatalogErrorKind::Unavailable,
        ManifestError::Store(StoreError::Truncated { .. })
        | ManifestError::Record(_)
        | ManifestError::Gap { .. }
        | ManifestError::Inconsistent { .. }
        | ManifestError::NoSuchDek { .. } => CatalogErrorKind::Corrupt,
        ManifestError::NoSuchBranch { .. } => CatalogErrorKind::NotFound,
    }
}
