//! The branches and layers open in this process. Opening one asks the store and the key provider, once for all cores;
//! from then on it has a number, and cores know it by that.
//!
//! Nothing here is touched by a read that hits: cores keep handles of their own (`layers.rs`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use crate::catalog::{Catalog, CatalogError};
use crate::error::ReadError;
use crate::layer::{LayerId, LayerIndex};
use crate::manifest::{Branch, LayerSection, ManifestError, names};
use crate::store::StoreClient;
use crate::store::objects::StoreError;
use crate::types::{BranchId, Lsn, ObjectId, TenantId};

use super::layers::{LayerKey, OpenLayer};
use super::request::BranchNumber;

/// All branches and layers open in this process, and what opens them.
pub struct SharedBranches {
    catalog: Catalog<StoreClient>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    /// Held by whoever opens a branch of that tenant.
    tenants: HashMap<TenantId, Arc<tokio::sync::Mutex<()>>>,
    numbers: HashMap<(TenantId, BranchId), BranchNumber>,
    branches: Vec<Arc<SharedBranch>>,
    layers: HashMap<ObjectId, Arc<OnceCell<Arc<OpenLayer>>>>,
}

/// An open branch.
pub(super) struct SharedBranch {
    pub(super) number: BranchNumber,
    pub(super) branch: Arc<Branch>,
    /// The branch it left, and where.
    pub(super) parent: Option<(BranchNumber, Lsn)>,
    pub(super) readable_from: Lsn,
}

impl SharedBranches {
    /// None open yet; `catalog` opens those that will be.
    pub fn new(catalog: Catalog<StoreClient>) -> SharedBranches {
        SharedBranches {
            catalog,
            tables: Mutex::default(),
        }
    }

    /// The number of a branch; opens it and its ancestors if they are not open.
    pub(super) async fn open(
        &self,
        tenant: TenantId,
        branch: BranchId,
    ) -> Result<BranchNumber, ReadError> {
        if let Some(number) = self.number_of(tenant, branch) {
            return Ok(number);
        }
        let turn = Arc::clone(self.tables().tenants.entry(tenant).or_default());
        let _turn = turn.lock().await;
        // Opened from the branch upwards, numbered from the root downwards.
        let mut opened = Vec::new();
        let mut next = Some(branch);
        let mut number = None;
        while let Some(id) = next {
            number = self.number_of(tenant, id);
            if number.is_some() {
                break;
            }
            let state = self
                .catalog
                .open_branch(tenant, id)
                .await
                .map_err(catalog_error)?;
            next = state.facts().creation.parent.map(|(parent, _)| parent);
            opened.push(state);
        }
        for state in opened.into_iter().rev() {
            number = Some(self.register(state, number)?);
        }
        Ok(number.expect("the branch was known or has been opened"))
    }

    /// A branch by its number.
    ///
    /// # Panics
    /// If no branch has it.
    pub(super) fn get(&self, number: BranchNumber) -> Arc<SharedBranch> {
        Arc::clone(&self.tables().branches[number as usize])
    }

    /// The open layer of a section; fetches its index and its key, at once, the first time.
    pub(super) async fn layer(
        &self,
        branch: &SharedBranch,
        section: &LayerSection,
    ) -> Result<Arc<OpenLayer>, ReadError> {
        let cell = Arc::clone(self.tables().layers.entry(section.object).or_default());
        let store = self.catalog.objects();
        let layer = cell
            .get_or_try_init(|| open_layer(&branch.branch, section, store))
            .await?;
        Ok(Arc::clone(layer))
    }

    fn number_of(&self, tenant: TenantId, branch: BranchId) -> Option<BranchNumber> {
        self.tables().numbers.get(&(tenant, branch)).copied()
    }

    fn register(
        &self,
        branch: Arc<Branch>,
        parent: Option<BranchNumber>,
    ) -> Result<BranchNumber, ReadError> {
        let left_at = branch.facts().creation.parent.map(|(_, left_at)| left_at);
        let readable_from = branch.readable_from().ok_or_else(|| {
            ReadError::unavailable(format_args!(
                "branch {}: its import is not complete",
                branch.id()
            ))
        })?;
        let mut tables = self.tables();
        let number = BranchNumber::try_from(tables.branches.len()).expect("branches are few");
        tables
            .numbers
            .insert((branch.tenant(), branch.id()), number);
        let parent = parent.zip(left_at);
        tables.branches.push(Arc::new(SharedBranch {
            number,
            branch,
            parent,
            readable_from,
        }));
        Ok(number)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open_layer(
    branch: &Branch,
    section: &LayerSection,
    store: &StoreClient,
) -> Result<Arc<OpenLayer>, ReadError> {
    let id = LayerId {
        tenant: branch.tenant(),
        object: section.object,
    };
    let path = names::layer(id.tenant, id.object);
    let range = section.index_at..section.index_at + u64::from(section.index_bytes);
    let dek = branch.dek(store, section.object, section.dek);
    let (dek, sealed) = futures_util::join!(dek, store.read(&path, range));
    let dek = dek.map_err(manifest_error)?;
    let key = LayerKey::new(section.dek, &dek);
    let corrupt = |reason: String| ReadError::Corrupt {
        object: id.object,
        reason: reason.into(),
    };
    let sealed = sealed.map_err(|error| match error {
        StoreError::NotFound { .. } | StoreError::ShortBody { .. } => corrupt(error.to_string()),
        other => ReadError::unavailable(other),
    })?;
    match LayerIndex::open(key.opener(), &id, &sealed, section.index_at) {
        Ok(index) => Ok(Arc::new(OpenLayer::new(id, path.into(), index, key))),
        Err(error) => Err(corrupt(key.diagnose(&id, &path, error, store).await)),
    }
}

/// What a reader is told of a manifest that could not be read.
pub(super) fn manifest_error(error: ManifestError) -> ReadError {
    match error {
        ManifestError::Store(StoreError::NotFound { .. }) => ReadError::Metadata {
            reason: error.to_string().into(),
        },
        ManifestError::Store(_) | ManifestError::Provider { .. } => ReadError::unavailable(error),
        other => ReadError::Metadata {
            reason: other.to_string().into(),
        },
    }
}

fn catalog_error(error: CatalogError) -> ReadError {
    match error {
        CatalogError::NoSuchTenant(_)
        | CatalogError::NoSuchBranch { .. }
        | CatalogError::Manifest(ManifestError::NoSuchBranch { .. }) => ReadError::NoSuchBranch {
            reason: error.to_string().into(),
        },
        CatalogError::Manifest(error) => manifest_error(error),
        other => ReadError::Metadata {
            reason: other.to_string().into(),
        },
    }
}
