//! The branches and layers open in this process. Opening one asks the store and the key provider, once for all cores and
//! all who wait for it, who share the outcome; from then on it has a number, and cores know it by that.
//!
//! What can't be opened leaves nothing behind: the tables grow with what there is, not with what is asked for.
//!
//! Nothing here is touched by a read that hits: cores keep handles of their own (`layers.rs`).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::catalog::{Catalog, CatalogError, Tenant};
use crate::error::ReadError;
use crate::io::clock::{Clock, Moment, within};
use crate::layer::{LayerId, LayerIndex};
use crate::manifest::{Branch, Later, LayerSection, ManifestError, names};
use crate::store::StoreClient;
use crate::store::objects::StoreError;
use crate::types::{BranchId, Lsn, ObjectId, TenantId};

use super::open_layer::{LayerKey, OpenLayer};
use super::request::BranchNumber;
use super::shared_branch::SharedBranch;
use super::shared_load::{Outcome, SharedLoad};

/// All branches and layers open in this process, and what opens them.
pub struct SharedBranches(Arc<Shared>);

struct Shared {
    catalog: Catalog<StoreClient>,
    tables: Mutex<Tables>,
    tenants: SharedLoad<TenantId, Arc<Tenant>>,
    branches: SharedLoad<(TenantId, BranchId), BranchNumber>,
    layers: SharedLoad<ObjectId, Arc<OpenLayer>>,
    refreshes: SharedLoad<BranchNumber, ()>,
}

#[derive(Default)]
struct Tables {
    numbers: HashMap<(TenantId, BranchId), BranchNumber>,
    branches: Vec<Arc<SharedBranch>>,
    layers: HashMap<ObjectId, Arc<OpenLayer>>,
}

impl SharedBranches {
    /// None open yet; `catalog` opens those that will be.
    pub fn new(catalog: Catalog<StoreClient>) -> SharedBranches {
        SharedBranches(Arc::new(Shared {
            catalog,
            tables: Mutex::default(),
            tenants: SharedLoad::default(),
            branches: SharedLoad::default(),
            layers: SharedLoad::default(),
            refreshes: SharedLoad::default(),
        }))
    }

    /// The number of a branch; opens it and its ancestors if they are not open. All who ask for it while it is being
    /// opened get the same answer, at most `wait_max` after the first of them asked.
    pub(crate) async fn open(
        &self,
        (tenant, branch): (TenantId, BranchId),
        clock: &impl Clock,
        wait_max: Duration,
    ) -> Result<BranchNumber, ReadError> {
        if let Some(number) = self.0.number_of(tenant, branch) {
            return Ok(number);
        }
        let now = clock.now();
        let opened = self.0.branches.join((tenant, branch), now, || {
            Arc::clone(&self.0).open(tenant, branch)
        });
        let left = wait_max.saturating_sub(now.since(opened.began()));
        let number = within(clock, left, opened).await.unwrap_or_else(|| {
            Err(ReadError::unavailable(format_args!(
                "branch {branch}: not opened within {wait_max:?}"
            )))
        })?;
        self.get(number).set_refreshed(now.0);
        Ok(number)
    }

    /// Compares a branch and its ancestors with the object store, and shows what other processes have written. A GET each, of the
    /// entry behind the last one known, and one for each that is there; nothing for those that this process writes. All who ask
    /// at once share the answer.
    ///
    /// # Errors
    /// Of store and keys: what was known stays known.
    pub(crate) async fn refresh(
        &self,
        number: BranchNumber,
        clock: &impl Clock,
    ) -> Result<(), ReadError> {
        for number in self.lineage(number) {
            self.refresh_one(number, clock).await?;
        }
        Ok(())
    }

    /// The same of a branch without its ancestors.
    pub(crate) async fn refresh_one(
        &self,
        number: BranchNumber,
        clock: &impl Clock,
    ) -> Result<(), ReadError> {
        let branch = self.get(number);
        // Those who come meanwhile need not look.
        branch.set_refreshed(clock.now().0);
        self.0.refresh(&branch).await
    }

    /// A branch and its ancestors.
    fn lineage(&self, number: BranchNumber) -> Vec<BranchNumber> {
        let tables = self.0.tables();
        let parent = |number: &BranchNumber| {
            let parent = tables.branches[*number as usize].parent;
            parent.map(|(parent, _)| parent)
        };
        std::iter::successors(Some(number), parent).collect()
    }

    /// The branches that somebody asked for since the last call, with their ancestors.
    pub(crate) fn wanted(&self) -> BTreeSet<BranchNumber> {
        let branches = self.0.tables().branches.clone();
        let wanted = branches.iter().filter(|branch| branch.was_wanted());
        wanted
            .flat_map(|branch| self.lineage(branch.number))
            .collect()
    }

    /// A branch by its number.
    ///
    /// # Panics
    /// If no branch has it.
    pub(crate) fn get(&self, number: BranchNumber) -> Arc<SharedBranch> {
        Arc::clone(&self.0.tables().branches[number as usize])
    }

    /// The open layer of a section; fetches its index and its key, at once, the first time. Bounded by the deadlines
    /// of the store and the key provider.
    pub(crate) async fn layer(
        &self,
        branch: &SharedBranch,
        section: &LayerSection,
    ) -> Result<Arc<OpenLayer>, ReadError> {
        let known = |shared: &Shared| shared.tables().layers.get(&section.object).cloned();
        if let Some(layer) = known(&self.0) {
            return Ok(layer);
        }
        let opened = self.0.layers.join(section.object, Moment::default(), || {
            let shared = Arc::clone(&self.0);
            let (branch, section) = (branch.manifest(), *section);
            async move {
                let layer = open_layer(&branch, &section, shared.catalog.objects()).await?;
                let mut tables = shared.tables();
                // One that ended just before this began, if there was one.
                Ok(Arc::clone(
                    tables.layers.entry(section.object).or_insert(layer),
                ))
            }
        });
        opened.await
    }

    /// Takes over layers that were written in this process, and forgets those that went out of the manifest.
    pub(crate) fn exchange_layers(&self, added: &[Arc<OpenLayer>], removed: &[ObjectId]) {
        let mut tables = self.0.tables();
        for layer in added {
            tables.layers.insert(layer.object(), Arc::clone(layer));
        }
        for object in removed {
            tables.layers.remove(object);
        }
    }

    /// Up to where open branches see this one, which they left, or their ancestors did.
    pub(crate) fn branch_points(&self, branch: BranchNumber) -> Vec<Lsn> {
        let tables = self.0.tables();
        let left_at = |open: &Arc<SharedBranch>| {
            let mut at = Lsn::MAX;
            let mut next = open.parent;
            while let Some((parent, left_at)) = next {
                at = at.min(left_at);
                if parent == branch {
                    return Some(at);
                }
                next = tables.branches[parent as usize].parent;
            }
            None
        };
        tables.branches.iter().filter_map(left_at).collect()
    }

    /// The tenants and branches it opens from.
    pub(crate) fn catalog(&self) -> &Catalog<StoreClient> {
        &self.0.catalog
    }
}

impl Shared {
    /// Opened from the branch upwards, numbered from the root downwards.
    async fn open(
        self: Arc<Self>,
        tenant: TenantId,
        branch: BranchId,
    ) -> Result<BranchNumber, ReadError> {
        let mut opened = Vec::new();
        let mut next = Some(branch);
        let mut number = None;
        while let Some(id) = next {
            number = self.number_of(tenant, id);
            if number.is_some() {
                break;
            }
            let keys = self.tenant(tenant);
            let state = self.catalog.open_branch_of(tenant, id, keys).await?;
            next = state.facts().creation.parent.map(|(parent, _)| parent);
            opened.push(state);
        }
        for state in opened.into_iter().rev() {
            if let (Some(parent), Some((_, left_at))) = (number, state.facts().creation.parent) {
                let parent = Arc::clone(&self.tables().branches[parent as usize]);
                self.make_new_enough(&parent, left_at).await?;
            }
            number = Some(self.register(state, number)?);
        }
        Ok(number.expect("the branch was known or has been opened"))
    }

    /// Makes sure that what is known of a parent goes as far as a branch sees of it: it may have been opened before another process
    /// wrote that.
    async fn make_new_enough(
        self: &Arc<Self>,
        parent: &Arc<SharedBranch>,
        left_at: Lsn,
    ) -> Result<(), ReadError> {
        for _ in 0..PARENT_LOOKS_MAX {
            if parent.manifest().last_lsn() >= left_at {
                return Ok(());
            }
            self.refresh(parent).await?;
        }
        if parent.manifest().last_lsn() >= left_at {
            return Ok(());
        }
        Err(ReadError::unavailable(format_args!(
            "branch {}: its manifest ends before {left_at}, where a branch left it",
            parent.manifest().id()
        )))
    }

    /// Compares one branch with the object store.
    async fn refresh(self: &Arc<Self>, branch: &Arc<SharedBranch>) -> Outcome<()> {
        if branch.is_written_here() {
            return Ok(());
        }
        let refreshed = self.refreshes.join(branch.number, Moment::default(), || {
            let (shared, branch) = (Arc::clone(self), Arc::clone(branch));
            async move {
                let before = branch.manifest();
                let later = before.later(shared.catalog.objects()).await;
                let Some(Later {
                    branch: later,
                    removed,
                }) = later.map_err(manifest_error)?
                else {
                    return Ok(());
                };
                let id = later.id();
                if branch.take_over(later) {
                    let stays = |object: &ObjectId| match &removed {
                        Some(removed) => !removed.contains(object),
                        None => object.branch != id,
                    };
                    shared.tables().layers.retain(|object, _| stays(object));
                }
                Ok(())
            }
        });
        refreshed.await
    }

    /// A tenant with its keys: one call to the key provider for all of its branches that are opened at once.
    async fn tenant(&self, tenant: TenantId) -> Outcome<Arc<Tenant>> {
        let opened = self.tenants.join(tenant, Moment::default(), || {
            let catalog = self.catalog.clone();
            async move { Ok(catalog.tenant(tenant).await?) }
        });
        opened.await
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
        let own_horizon = branch.readable_from().ok_or_else(|| {
            ReadError::unavailable(format_args!(
                "branch {}: its import is not complete",
                branch.id()
            ))
        })?;
        let id = (branch.tenant(), branch.id());
        let mut tables = self.tables();
        if let Some(&number) = tables.numbers.get(&id) {
            // An ancestor of two branches that were opened at once.
            return Ok(number);
        }
        let number = BranchNumber::try_from(tables.branches.len()).expect("branches are few");
        tables.numbers.insert(id, number);
        let parent = parent.zip(left_at);
        // Below its parent's horizon the parent's part of its history is not whole; where it left its parent it is.
        let horizon = parent.map_or(own_horizon, |(parent, left_at)| {
            let parents = tables.branches[parent as usize].readable_from();
            own_horizon.max(parents.min(left_at))
        });
        tables
            .branches
            .push(Arc::new(SharedBranch::new(number, branch, parent, horizon)));
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
        StoreError::NotFound { .. } | StoreError::Truncated { .. } => corrupt(error.to_string()),
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
        ManifestError::Store(StoreError::NotFound { .. } | StoreError::Truncated { .. }) => {
            ReadError::Metadata {
                reason: error.to_string().into(),
            }
        }
        ManifestError::Store(_) | ManifestError::Provider { .. } => ReadError::unavailable(error),
        other => ReadError::Metadata {
            reason: other.to_string().into(),
        },
    }
}

impl From<CatalogError> for ReadError {
    fn from(error: CatalogError) -> ReadError {
        match error {
            CatalogError::NoSuchTenant(_)
            | CatalogError::NoSuchBranch { .. }
            | CatalogError::Manifest(ManifestError::NoSuchBranch { .. }) => {
                ReadError::NoSuchBranch {
                    reason: error.to_string().into(),
                }
            }
            CatalogError::Manifest(error) => manifest_error(error),
            other => ReadError::Metadata {
                reason: other.to_string().into(),
            },
        }
    }
}

/// Looks at a parent that is older than what a branch sees of it: one may have begun before that was written.
const PARENT_LOOKS_MAX: u32 = 2;

#[cfg(test)]
mod tests;
