//! Tenants, branches and their names.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::{self, Either, select};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::CONCURRENT_MAX;
use super::branch_writer::{BranchWriter, LayerUploads, ParentLink, WriterConfig};
use super::error::CatalogError;
use super::name_record::{Meaning, NameRecord};
use super::name_table::{NameTable, SeenName};
use super::names::check_name;
use super::tenant::Tenant;
use super::wal_record::{WalPiece, open_wal, parse_wal};
use crate::crypto::entropy::Entropy;
use crate::crypto::key_provider::KeyProvider;
use crate::manifest::{Branch, FetchedLog, ManifestError, ManifestLog, TimelineSpan, names};
use crate::store::objects::{Objects, StoreError};
use crate::types::{BranchId, Id, KeySpace, Lsn, NameHash, TenantId};

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

/// A branch that was looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundBranch {
    id: BranchId,
    /// The name it was found by.
    pub(super) seen: Option<SeenName>,
}

impl FoundBranch {
    /// Its id.
    pub fn id(&self) -> BranchId {
        self.id
    }
}

/// What there is of a branch, fetched without a key.
enum Stored {
    /// Somebody has written to it.
    Log(FetchedLog),
    /// Nobody has: the record that it began with, or that its id would have begun with.
    Record(Bytes),
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

    /// The branch with this name or id. Two round trips, or none for an id: whether there is such a branch,
    /// [`Catalog::open_branch`] says.
    pub async fn find(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
    ) -> Result<FoundBranch, CatalogError> {
        if let Ok(id) = name_or_id.parse() {
            return Ok(FoundBranch { id, seen: None });
        }
        let (seen, id) = self.see_branch(tenant, name_or_id).await?;
        let seen = Some(seen);
        Ok(FoundBranch { id, seen })
    }

    /// The id of the branch that [`Catalog::find`] finds.
    pub async fn find_branch(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
    ) -> Result<BranchId, CatalogError> {
        Ok(self.find(tenant, name_or_id).await?.id)
    }

    /// Opens a branch for reading, by ids. From nothing: three dependent round trips and one call to the key
    /// provider, since the log is fetched while the tenant's keys are opened; two if nobody has written to it.
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
        let stored = self.fetch_branch(tenant, id);
        let (opened, stored) = future::join(opened, stored).await;
        let branch = self.open_fetched(&*opened?, id, stored).await?;
        self.check_key_space(&branch)?;
        Ok(branch)
    }

    /// Claims a branch for a writer of its manifest: whoever wrote before is fenced from the moment this returns. The
    /// first writer of a branch that is all its parent's begins its manifest.
    ///
    /// # Errors
    /// As [`Catalog::open_branch`].
    pub async fn claim_branch(
        &self,
        tenant: &Tenant,
        id: BranchId,
    ) -> Result<ManifestLog<O>, CatalogError> {
        let branch = self.open_stored(tenant, id).await?;
        self.check_key_space(&branch)?;
        let (objects, keys) = (self.objects.clone(), Arc::clone(tenant.keys()));
        let entropy = self.parts.entropy.clone();
        Ok(match branch.unwritten_start() {
            Some(start) => ManifestLog::claim_unwritten(objects, keys, id, start, entropy).await?,
            None => ManifestLog::claim(objects, keys, id, entropy).await?,
        })
    }

    /// Opens a branch of whatever layout of keys.
    pub(super) async fn open_stored(
        &self,
        tenant: &Tenant,
        id: BranchId,
    ) -> Result<Arc<Branch>, CatalogError> {
        let stored = self.fetch_branch(tenant.id(), id).await;
        self.open_fetched(tenant, id, stored).await
    }

    /// The log of a branch, or else the record it began with, which is asked for beside it: it lies where the id says.
    async fn fetch_branch(&self, tenant: TenantId, id: BranchId) -> Result<Stored, ManifestError> {
        let (hash, n) = NameHash::of_branch(id);
        let path = names::name(tenant, hash, n);
        let log = pin!(FetchedLog::fetch(&self.objects, tenant, id));
        let record = pin!(self.objects.get_all(&path));
        let (log, record) = match select(log, record).await {
            Either::Left((Err(ManifestError::NoSuchBranch { branch }), record)) => {
                (Err(ManifestError::NoSuchBranch { branch }), record.await)
            }
            Either::Left((log, _)) => return log.map(Stored::Log),
            Either::Right((record, log)) => (log.await, record),
        };
        match (log, record) {
            (Err(ManifestError::NoSuchBranch { .. }), Ok(bytes)) => Ok(Stored::Record(bytes)),
            (Err(no_log @ ManifestError::NoSuchBranch { .. }), Err(error)) => match error {
                StoreError::NotFound { .. } => Err(no_log),
                other => Err(other.into()),
            },
            (log, _) => log.map(Stored::Log),
        }
    }

    async fn open_fetched(
        &self,
        tenant: &Tenant,
        id: BranchId,
        stored: Result<Stored, ManifestError>,
    ) -> Result<Arc<Branch>, CatalogError> {
        let no_such_branch = || CatalogError::NoSuchBranch {
            tenant: tenant.id(),
            branch: id.to_string(),
        };
        let keys = Arc::clone(tenant.keys());
        let stored = stored.map_err(|error| match error {
            ManifestError::NoSuchBranch { .. } => no_such_branch(),
            other => other.into(),
        })?;
        let branch = match stored {
            Stored::Log(log) => Branch::open_fetched(&self.objects, keys, id, &log).await?,
            Stored::Record(bytes) => {
                let place = NameHash::of_branch(id);
                let path = names::name(tenant.id(), place.0, place.1);
                let name_key = tenant.name_key();
                let record = NameRecord::open(&path, &bytes, tenant.id(), place, name_key)?;
                match record.meaning {
                    Meaning::Start(_, start) => Branch::unwritten(keys, id, start),
                    Meaning::Branch(_) | Meaning::Nothing { .. } => return Err(no_such_branch()),
                }
            }
        };
        if branch.readable_from().is_none() {
            return Err(no_such_branch());
        }
        Ok(Arc::new(branch))
    }

    fn check_key_space(&self, branch: &Branch) -> Result<(), CatalogError> {
        let (found, known) = (branch.facts().creation.key_space, self.parts.key_space_tag);
        if found == known {
            return Ok(());
        }
        Err(CatalogError::OtherKeySpace {
            branch: branch.id(),
            found,
            known,
        })
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
        let horizon = parent.readable_from();
        let horizon = horizon.filter(|_| parent.tenant() == tenant.id());
        let readable_from = horizon.ok_or_else(|| CatalogError::NoSuchBranch {
            tenant: tenant.id(),
            branch: parent.id().to_string(),
        })?;
        if at < readable_from || at > parent.last_lsn() {
            return Err(CatalogError::OutsideParent {
                parent: parent.id(),
                at,
                readable_from,
                last_lsn: parent.last_lsn(),
            });
        }
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
        let seen = self.names(tenant).see(name).await?;
        if seen.is_some_and(|seen| seen.record.branch().is_some()) {
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

    /// Piece `number` of the WAL that was kept with a branch; see `BaseBackup::wal_objects`.
    pub async fn read_wal(&self, branch: &Branch, number: u64) -> Result<WalPiece, CatalogError> {
        let owner = (branch.tenant(), branch.id());
        let path = names::wal(owner.0, owner.1, number);
        let bytes = self.objects.get_all(&path).await?;
        let record = parse_wal(&path, &bytes, owner, number)?;
        let dek = branch.own_dek(&self.objects, record.dek_id()?).await?;
        Ok(open_wal(&record, number, &dek)?)
    }

    /// The names of a tenant.
    pub(super) fn names<'a>(&'a self, tenant: &'a Tenant) -> NameTable<'a, O> {
        NameTable {
            objects: &self.objects,
            tenant,
            entropy: &self.parts.entropy,
        }
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

/// Tenants whose keys are kept open.
const TENANTS_OPEN_MAX: usize = 1024;
