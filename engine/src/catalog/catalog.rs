//! Tenants, branches and their names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, TryStreamExt, future, stream};

use super::branch_writer::{BranchWriter, LayerUploads, ParentLink, WriterConfig};
use super::error::CatalogError;
use super::names::check_name;
use super::records::{NameRecord, WalPiece, open_begun, open_wal, parse_wal};
use super::tenant::Tenant;
use crate::crypto::entropy::Entropy;
use crate::crypto::key_provider::KeyProvider;
use crate::manifest::{Branch, FetchedLog, KeyTables, ManifestError, TimelineSpan, names};
use crate::store::objects::Objects;
use crate::types::{BranchId, Id, KeySpace, Lsn, TenantId};

/// What the catalog is made of besides a store.
#[derive(Clone)]
pub struct CatalogParts {
    /// Who holds the customers' keys.
    pub provider: Arc<dyn KeyProvider>,
    /// Where ids, keys and salts come from.
    pub entropy: Entropy,
    /// Partitions and stripes of keys.
    pub key_space: Arc<dyn KeySpace>,
    /// Names that layout of keys, for ever: branches written with another one are refused.
    pub key_space_tag: [u8; 8],
}

/// The tenants and branches in one object store. Cheap to clone; clones share the opened tenants. Nothing but these
/// is kept in memory, so every answer is as new as the store's.
#[derive(Clone)]
pub struct Catalog<O> {
    objects: O,
    parts: CatalogParts,
    opened: Arc<Mutex<VecDeque<Arc<Tenant>>>>,
}

/// A visible branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchSummary {
    /// What it is called.
    pub name: String,
    /// Its id.
    pub id: BranchId,
    /// From where on it can be read.
    pub readable_from: Option<Lsn>,
    /// Its last LSN.
    pub last_lsn: Lsn,
    /// Number of its layers.
    pub layers: u64,
    /// Bytes of its layers in the store.
    pub layer_bytes: u64,
}

/// A branch that was begun and never became visible: an import that broke off, or one that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orphan {
    /// The name it was to have.
    pub name: String,
    /// Its id.
    pub id: BranchId,
}

impl<O: Objects> Catalog<O> {
    /// The catalog of a store. Asks the store for nothing yet.
    pub fn new(objects: O, parts: CatalogParts) -> Catalog<O> {
        Catalog {
            objects,
            parts,
            opened: Arc::default(),
        }
    }

    /// The store.
    pub fn objects(&self) -> &O {
        &self.objects
    }

    /// Where random bytes come from.
    pub(crate) fn entropy(&self) -> &Entropy {
        &self.parts.entropy
    }

    /// Which partition owns a key.
    pub(crate) fn key_space(&self) -> &Arc<dyn KeySpace> {
        &self.parts.key_space
    }

    /// Creates a tenant with a KEK of its own. One call to the key provider.
    ///
    /// # Errors
    /// `BadName`, `TenantExists`. Two calls at once with the same name may both succeed: then the name is
    /// `Ambiguous` and the ids serve.
    pub async fn create_tenant(&self, name: &str) -> Result<Arc<Tenant>, CatalogError> {
        check_name(name)?;
        if self
            .tenants()
            .await?
            .iter()
            .any(|other| other.name() == name)
        {
            return Err(CatalogError::TenantExists(name.to_owned()));
        }
        let id = TenantId(Id(self.parts.entropy.draw()));
        let parts = &self.parts;
        let tenant =
            Tenant::create(&self.objects, &*parts.provider, &parts.entropy, id, name).await?;
        Ok(self.keep(tenant))
    }

    /// All tenants, by id. Opens those that are not open yet.
    pub async fn tenants(&self) -> Result<Vec<Arc<Tenant>>, CatalogError> {
        let ids: BTreeSet<TenantId> = self
            .objects
            .list(names::CATALOG, None)
            .await?
            .iter()
            .filter_map(|object| object.path.strip_prefix(names::CATALOG)?.split('/').next())
            .filter_map(|id| id.parse().ok())
            .collect();
        stream::iter(ids.into_iter().map(|id| self.tenant(id)))
            .buffered(CONCURRENT_MAX)
            .try_collect()
            .await
    }

    /// The tenant with this id. Two round trips and a call to the key provider, unless it is open already.
    pub async fn tenant(&self, id: TenantId) -> Result<Arc<Tenant>, CatalogError> {
        if let Some(tenant) = self.opened(id) {
            return Ok(tenant);
        }
        let tenant = Tenant::open(&self.objects, &*self.parts.provider, id).await?;
        Ok(self.keep(tenant))
    }

    /// The tenant with this name or id.
    pub async fn find_tenant(&self, name_or_id: &str) -> Result<Arc<Tenant>, CatalogError> {
        if let Ok(id) = name_or_id.parse() {
            return self.tenant(id).await;
        }
        let mut found = self.tenants().await?;
        found.retain(|tenant| tenant.name() == name_or_id);
        match (found.pop(), found.is_empty()) {
            (Some(tenant), true) => Ok(tenant),
            (Some(_), false) => Err(CatalogError::Ambiguous(name_or_id.to_owned())),
            (None, _) => Err(CatalogError::NoSuchTenant(name_or_id.to_owned())),
        }
    }

    /// The visible branches of a tenant, by name.
    pub async fn branches(&self, tenant: &Tenant) -> Result<Vec<BranchSummary>, CatalogError> {
        let named = self.named(tenant).await?;
        let mut branches: Vec<BranchSummary> =
            stream::iter(named.into_iter().map(|record| async move {
                let branch = Branch::open(&self.objects, Arc::clone(tenant.keys()), record.branch);
                let branch = branch.await?;
                let facts = branch.facts();
                Ok::<_, CatalogError>(BranchSummary {
                    name: record.name,
                    id: record.branch,
                    readable_from: facts.readable_from,
                    last_lsn: facts.last_lsn,
                    layers: facts.layers,
                    layer_bytes: facts.layer_bytes,
                })
            }))
            .buffer_unordered(CONCURRENT_MAX)
            .try_collect()
            .await?;
        branches.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(branches)
    }

    /// The id of the branch with this name. A text that is an id comes back as it is: whether there is such a
    /// branch, [`Catalog::open_branch`] says.
    pub async fn find_branch(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
    ) -> Result<BranchId, CatalogError> {
        if let Ok(id) = name_or_id.parse() {
            return Ok(id);
        }
        let found = self.name_record(tenant, name_or_id).await?;
        found
            .map(|record| record.branch)
            .ok_or_else(|| CatalogError::NoSuchBranch {
                tenant: tenant.id(),
                branch: name_or_id.to_owned(),
            })
    }

    /// Opens a branch for reading, by ids. From nothing: three dependent round trips and one call to the key
    /// provider, since the log is fetched while the tenant's keys are opened.
    ///
    /// # Errors
    /// `NoSuchBranch` also for an import that is not complete.
    pub async fn open_branch(
        &self,
        tenant: TenantId,
        id: BranchId,
    ) -> Result<Arc<Branch>, CatalogError> {
        self.open_branch_of(tenant, id, self.tenant(tenant)).await
    }

    /// [`Catalog::open_branch`] with the tenant as `opened` opens it.
    pub(crate) async fn open_branch_of<E: From<CatalogError>>(
        &self,
        tenant: TenantId,
        id: BranchId,
        opened: impl Future<Output = Result<Arc<Tenant>, E>>,
    ) -> Result<Arc<Branch>, E> {
        let log = FetchedLog::fetch(&self.objects, tenant, id);
        let (opened, log) = future::join(opened, log).await;
        let keys = Arc::clone(opened?.keys());
        Ok(self.branch_of_log(keys, id, log).await?)
    }

    async fn branch_of_log(
        &self,
        keys: Arc<KeyTables>,
        id: BranchId,
        log: Result<FetchedLog, ManifestError>,
    ) -> Result<Arc<Branch>, CatalogError> {
        let no_such_branch = || CatalogError::NoSuchBranch {
            tenant: keys.tenant(),
            branch: id.to_string(),
        };
        let log = log.map_err(|error| match error {
            ManifestError::NoSuchBranch { .. } => no_such_branch(),
            other => other.into(),
        })?;
        let branch = Branch::open_fetched(&self.objects, Arc::clone(&keys), id, &log).await?;
        if branch.readable_from().is_none() {
            return Err(no_such_branch());
        }
        let found = branch.facts().creation.key_space;
        if found != self.parts.key_space_tag {
            return Err(CatalogError::OtherKeySpace {
                branch: id,
                found,
                known: self.parts.key_space_tag,
            });
        }
        Ok(Arc::new(branch))
    }

    /// Begins a branch without a parent, which [`BranchWriter::commit`] makes visible under `name`. The writer
    /// takes the versions; [`LayerUploads::run`] has to run beside it and does the work.
    ///
    /// # Errors
    /// `BadName`; `BranchExists`, which `commit` checks again.
    pub async fn begin_branch(
        &self,
        tenant: &Arc<Tenant>,
        name: &str,
        timelines: Vec<TimelineSpan>,
        config: WriterConfig,
    ) -> Result<(BranchWriter<O>, LayerUploads<O>), CatalogError> {
        self.begin(tenant, name, None, timelines, config).await
    }

    /// Begins a branch that continues `parent` from `at` on: everything at or below is the parent's, nothing is
    /// copied. What the writer puts has LSNs above `at`; committing it without any makes a plain branch.
    ///
    /// # Errors
    /// As [`Catalog::begin_branch`], and `OutsideParent` if the parent can't be read at `at`.
    pub async fn begin_child(
        &self,
        tenant: &Arc<Tenant>,
        name: &str,
        parent: &Branch,
        at: Lsn,
        config: WriterConfig,
    ) -> Result<(BranchWriter<O>, LayerUploads<O>), CatalogError> {
        let horizon = parent.readable_from().filter(|horizon| *horizon <= at);
        let horizon = horizon.filter(|_| at <= parent.last_lsn() && parent.tenant() == tenant.id());
        let Some(readable_from) = horizon else {
            return Err(CatalogError::OutsideParent {
                parent: parent.id(),
                at,
            });
        };
        let link = ParentLink {
            branch: parent.id(),
            left_at: at,
            readable_from,
        };
        let timelines = parent.facts().creation.timelines.clone();
        self.begin(tenant, name, Some(link), timelines, config)
            .await
    }

    async fn begin(
        &self,
        tenant: &Arc<Tenant>,
        name: &str,
        parent: Option<ParentLink>,
        timelines: Vec<TimelineSpan>,
        config: WriterConfig,
    ) -> Result<(BranchWriter<O>, LayerUploads<O>), CatalogError> {
        check_name(name)?;
        if self.name_record(tenant, name).await?.is_some() {
            return Err(CatalogError::BranchExists {
                tenant: tenant.id(),
                name: name.to_owned(),
            });
        }
        BranchWriter::begin(
            self.objects.clone(),
            self.parts.clone(),
            Arc::clone(tenant),
            name,
            parent,
            timelines,
            config,
        )
        .await
    }

    /// Branches that were begun and are not visible, by id. Those under way are among them.
    pub async fn orphans(&self, tenant: &Tenant) -> Result<Vec<Orphan>, CatalogError> {
        // Names last: what becomes visible in between is not taken for an orphan.
        let directory = names::all_begun(tenant.id());
        let begun = self.objects.list(&directory, None).await?;
        let visible: BTreeSet<BranchId> = self
            .named(tenant)
            .await?
            .into_iter()
            .map(|record| record.branch)
            .collect();
        let mut orphaned: Vec<BranchId> = begun
            .iter()
            .filter_map(|object| object.path.strip_prefix(&directory)?.parse().ok())
            .collect();
        orphaned.retain(|id| !visible.contains(id));
        stream::iter(orphaned.into_iter().map(|id| async move {
            let path = names::begun(tenant.id(), id);
            let bytes = self.objects.get_all(&path).await?;
            let name = open_begun(&path, &bytes, (tenant.id(), id), tenant.name_key())?;
            Ok(Orphan { name, id })
        }))
        .buffered(CONCURRENT_MAX)
        .try_collect()
        .await
    }

    /// Piece `number` of the WAL that was kept with a branch; see `BaseBackup::wal_objects`.
    pub async fn read_wal(&self, branch: &Branch, number: u64) -> Result<WalPiece, CatalogError> {
        let owner = (branch.tenant(), branch.id());
        let path = names::wal(owner.0, owner.1, number);
        let bytes = self.objects.get_all(&path).await?;
        let record = parse_wal(&path, &bytes, owner, number)?;
        let dek = branch.own_dek(&self.objects, record.dek_id()?).await?;
        Ok(open_wal(&record, number, &dek)?)
    }

    /// What `name` means now.
    async fn name_record(
        &self,
        tenant: &Tenant,
        name: &str,
    ) -> Result<Option<NameRecord>, CatalogError> {
        let hash = tenant.name_key().keyed_hash(name.as_bytes());
        let directory = names::name_history(tenant.id(), &hash);
        let listed = self.objects.list(&directory, None).await?;
        let newest = listed
            .iter()
            .filter_map(|object| names::number_at_end(&object.path, 8))
            .max();
        match newest.and_then(|n| u32::try_from(n).ok()) {
            Some(n) => self.open_name(tenant, hash, n).await.map(Some),
            None => Ok(None),
        }
    }

    /// All names and what they mean now.
    async fn named(&self, tenant: &Tenant) -> Result<Vec<NameRecord>, CatalogError> {
        let directory = names::names(tenant.id());
        let listed = self.objects.list(&directory, None).await?;
        let mut newest: BTreeMap<u128, u32> = BTreeMap::new();
        for object in &listed {
            let hash = object
                .path
                .strip_prefix(&directory)
                .and_then(|rest| rest.split('/').next())
                .and_then(|hash| u128::from_str_radix(hash, 16).ok());
            let n = names::number_at_end(&object.path, 8).and_then(|n| u32::try_from(n).ok());
            if let (Some(hash), Some(n)) = (hash, n) {
                let known = newest.entry(hash).or_default();
                *known = n.max(*known);
            }
        }
        stream::iter(newest)
            .map(|(hash, n)| self.open_name(tenant, hash.to_be_bytes(), n))
            .buffered(CONCURRENT_MAX)
            .try_collect()
            .await
    }

    async fn open_name(
        &self,
        tenant: &Tenant,
        hash: [u8; 16],
        n: u32,
    ) -> Result<NameRecord, CatalogError> {
        let path = names::name(tenant.id(), &hash, n);
        let bytes = self.objects.get_all(&path).await?;
        let record = NameRecord::open(&path, &bytes, tenant.id(), (&hash, n), tenant.name_key())?;
        Ok(record)
    }

    fn opened(&self, id: TenantId) -> Option<Arc<Tenant>> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.iter().find(|tenant| tenant.id() == id).cloned()
    }

    /// Remembers an opened tenant; one that was opened at the same time wins, so that all share its tables.
    fn keep(&self, tenant: Tenant) -> Arc<Tenant> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.iter().find(|known| known.id() == tenant.id()) {
            return Arc::clone(known);
        }
        let tenant = Arc::new(tenant);
        opened.push_back(Arc::clone(&tenant));
        if opened.len() > TENANTS_OPEN_MAX {
            opened.pop_front();
        }
        tenant
    }
}

impl<O> fmt::Debug for Catalog<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Catalog")
    }
}

/// Requests of one call in flight at once.
const CONCURRENT_MAX: usize = 16;

/// Tenants whose keys are kept open.
const TENANTS_OPEN_MAX: usize = 1024;
