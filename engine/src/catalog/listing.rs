//! All branches of a tenant: what can be seen, what others keep though no name means it any more, and what never became
//! visible.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::CONCURRENT_MAX;
use super::catalog::Catalog;
use super::error::CatalogError;
use super::name_record::Meaning;
use super::name_table::SeenName;
use super::records::open_begun;
use super::tenant::Tenant;
use crate::manifest::{Branch, names};
use crate::store::objects::Objects;
use crate::types::{BranchId, Lsn};

/// A branch that can be read: it has a name, or one that has a name continues it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchSummary {
    /// What it is called; `None` if it has lost its name (it was reset, or deleted while a child of it was made) and
    /// is there for its children only.
    pub name: Option<String>,
    /// Its id.
    pub id: BranchId,
    /// The branch that it left, and where.
    pub parent: Option<(BranchId, Lsn)>,
    /// Whether it is protected.
    pub is_protected: bool,
    /// From where on it can be read.
    pub readable_from: Option<Lsn>,
    /// Its last LSN.
    pub last_lsn: Lsn,
    /// Number of its own layers.
    pub layers: u64,
    /// Bytes of its own layers in the store.
    pub layer_bytes: u64,
    /// Bytes of all layers of the branches that it continues: what it can read of them is at most that.
    pub shared_bytes: u64,
}

/// A branch that was begun and never became visible: an import that broke off, or one that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orphan {
    /// The name it was to have.
    pub name: String,
    /// Its id.
    pub id: BranchId,
}

/// Branches by their ids.
type OpenBranches = BTreeMap<BranchId, Arc<Branch>>;

impl<O: Objects> Catalog<O> {
    /// The branches of a tenant by name, then those without one. Opens all of them.
    pub async fn branches(&self, tenant: &Tenant) -> Result<Vec<BranchSummary>, CatalogError> {
        let named = self.named(tenant).await?;
        let mut open = OpenBranches::new();
        let ids: BTreeSet<BranchId> = named.iter().filter_map(|s| s.record.branch()).collect();
        for branch in self.open_all(tenant, ids).await? {
            open.insert(branch.id(), branch);
        }
        let ancestors = self.open_ancestors(tenant, &mut open).await?;
        let mut branches: Vec<BranchSummary> = named
            .iter()
            .filter_map(|seen| {
                let branch = open.get(&seen.record.branch()?)?;
                let name = Some(seen.record.name.clone());
                Some(summary(branch, name, seen.record.is_protected, &open))
            })
            .collect();
        branches.sort_by(|a, b| a.name.cmp(&b.name));
        let unnamed = ancestors.iter().filter_map(|id| open.get(id));
        branches.extend(unnamed.map(|branch| summary(branch, None, false, &open)));
        Ok(branches)
    }

    /// The names of all branches that read `branch` besides itself: its children, theirs, and so on.
    pub(super) async fn names_of_descendants(
        &self,
        tenant: &Tenant,
        branch: BranchId,
    ) -> Result<Vec<String>, CatalogError> {
        let family = self.family(tenant).await?;
        let mut names: Vec<String> = family
            .named
            .iter()
            .filter(|(_, id)| family.left_at(*id, branch).is_some())
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The LSNs at which branches that have a name see `branch`, which they left, or their ancestors did; in ascending order, each
    /// once. A few requests for each branch that has a manifest, one for each that has not.
    pub async fn branch_points(
        &self,
        tenant: &Tenant,
        branch: BranchId,
    ) -> Result<Vec<Lsn>, CatalogError> {
        let family = self.family(tenant).await?;
        let points = family.named.iter();
        let points = points.filter_map(|(_, id)| family.left_at(*id, branch));
        Ok(points.collect::<BTreeSet<Lsn>>().into_iter().collect())
    }

    /// Who left whom, of all branches that have a name and those above them.
    async fn family(&self, tenant: &Tenant) -> Result<Family, CatalogError> {
        let named = self.named(tenant).await?;
        // Most tell their parent in the record of their name; the others are opened.
        let mut parents: BTreeMap<BranchId, Option<(BranchId, Lsn)>> = BTreeMap::new();
        for seen in &named {
            if let Meaning::Start(id, start) = &seen.record.meaning {
                parents.insert(*id, start.creation.parent);
            }
        }
        let named: Vec<(String, BranchId)> = named
            .into_iter()
            .filter_map(|seen| Some((seen.record.name.clone(), seen.record.branch()?)))
            .collect();
        let untold = |parents: &BTreeMap<BranchId, _>, ids: Vec<BranchId>| -> BTreeSet<BranchId> {
            ids.into_iter()
                .filter(|id| !parents.contains_key(id))
                .collect()
        };
        let above = |parents: &BTreeMap<BranchId, Option<(BranchId, Lsn)>>| -> Vec<BranchId> {
            parents.values().flatten().map(|(id, _)| *id).collect()
        };
        let mut first = above(&parents);
        first.extend(named.iter().map(|(_, id)| *id));
        let mut wanted = untold(&parents, first);
        while !wanted.is_empty() {
            for id in &wanted {
                parents.insert(*id, None);
            }
            for opened in self.open_all_there_are(tenant, wanted).await? {
                parents.insert(opened.id(), opened.facts().creation.parent);
            }
            wanted = untold(&parents, above(&parents));
        }
        Ok(Family { named, parents })
    }

    /// Branches that were begun and never became visible, by id. Those under way are among them.
    pub async fn orphans(&self, tenant: &Tenant) -> Result<Vec<Orphan>, CatalogError> {
        // Names last: what becomes visible in between is not taken for an orphan.
        let directory = names::all_begun(tenant.id());
        let begun = self.objects().list(&directory, None).await?;
        let visible: BTreeSet<BranchId> = self
            .named(tenant)
            .await?
            .into_iter()
            .filter_map(|seen| seen.record.branch())
            .collect();
        let mut begun: Vec<BranchId> = begun
            .iter()
            .filter_map(|object| object.path.strip_prefix(&directory)?.parse().ok())
            .collect();
        begun.retain(|id| !visible.contains(id));
        let orphans: Vec<Option<Orphan>> = stream::iter(begun)
            .map(|id| self.orphan(tenant, id))
            .buffered(CONCURRENT_MAX)
            .try_collect()
            .await?;
        Ok(orphans.into_iter().flatten().collect())
    }

    /// A branch that was begun and that no name means, unless its name has meant it before.
    async fn orphan(&self, tenant: &Tenant, id: BranchId) -> Result<Option<Orphan>, CatalogError> {
        let path = names::begun(tenant.id(), id);
        let bytes = self.objects().get_all(&path).await?;
        let name = open_begun(&path, &bytes, (tenant.id(), id), tenant.name_key())?;
        let was_visible = self.names(tenant).ever_meant(&name, id).await?;
        Ok((!was_visible).then_some(Orphan { name, id }))
    }

    /// The names that mean a branch.
    async fn named(&self, tenant: &Tenant) -> Result<Vec<SeenName>, CatalogError> {
        let mut seen = self.names(tenant).see_all().await?;
        seen.retain(|seen| seen.record.branch().is_some());
        Ok(seen)
    }

    /// Opens what the open ones continue, as far as that is there; the ids of those.
    async fn open_ancestors(
        &self,
        tenant: &Tenant,
        open: &mut OpenBranches,
    ) -> Result<BTreeSet<BranchId>, CatalogError> {
        let mut asked: BTreeSet<BranchId> = BTreeSet::new();
        loop {
            let parents = open.values().filter_map(|branch| parent_of(branch));
            let unknown: BTreeSet<BranchId> = parents
                .filter(|id| !open.contains_key(id) && !asked.contains(id))
                .collect();
            if unknown.is_empty() {
                asked.retain(|id| open.contains_key(id));
                return Ok(asked);
            }
            asked.extend(&unknown);
            for branch in self.open_all_there_are(tenant, unknown).await? {
                open.insert(branch.id(), branch);
            }
        }
    }

    async fn open_all(
        &self,
        tenant: &Tenant,
        ids: BTreeSet<BranchId>,
    ) -> Result<Vec<Arc<Branch>>, CatalogError> {
        stream::iter(ids)
            .map(|id| self.open_stored(tenant, id))
            .buffer_unordered(CONCURRENT_MAX)
            .try_collect()
            .await
    }

    /// The same, without those that are not there.
    async fn open_all_there_are(
        &self,
        tenant: &Tenant,
        ids: BTreeSet<BranchId>,
    ) -> Result<Vec<Arc<Branch>>, CatalogError> {
        let opened: Vec<Option<Arc<Branch>>> = stream::iter(ids)
            .map(|id| async move {
                match self.open_stored(tenant, id).await {
                    Ok(branch) => Ok(Some(branch)),
                    Err(CatalogError::NoSuchBranch { .. }) => Ok(None),
                    Err(other) => Err(other),
                }
            })
            .buffer_unordered(CONCURRENT_MAX)
            .try_collect()
            .await?;
        Ok(opened.into_iter().flatten().collect())
    }
}

/// The branches of a tenant that have a name, and their ancestors.
struct Family {
    named: Vec<(String, BranchId)>,
    parents: BTreeMap<BranchId, Option<(BranchId, Lsn)>>,
}

impl Family {
    /// Up to where `branch` sees `ancestor`; `None` if that is none of its ancestors.
    fn left_at(&self, mut branch: BranchId, ancestor: BranchId) -> Option<Lsn> {
        let mut at = Lsn::MAX;
        loop {
            let (parent, left_at) = (*self.parents.get(&branch)?)?;
            at = at.min(left_at);
            if parent == ancestor {
                return Some(at);
            }
            branch = parent;
        }
    }
}

fn summary(
    branch: &Branch,
    name: Option<String>,
    is_protected: bool,
    open: &OpenBranches,
) -> BranchSummary {
    let facts = branch.facts();
    let ancestors = std::iter::successors(parent_of(branch), |id| parent_of(open.get(id)?));
    let shared = ancestors.filter_map(|id| Some(open.get(&id)?.facts().layer_bytes));
    BranchSummary {
        name,
        id: branch.id(),
        parent: facts.creation.parent,
        is_protected,
        readable_from: facts.readable_from,
        last_lsn: facts.last_lsn,
        layers: facts.layers,
        layer_bytes: facts.layer_bytes,
        shared_bytes: shared.fold(0, u64::saturating_add),
    }
}

fn parent_of(branch: &Branch) -> Option<BranchId> {
    branch.facts().creation.parent.map(|(parent, _)| parent)
}
