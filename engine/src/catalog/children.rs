//! Branches of branches. A child is one record, put if absent: its name, whose child it is, and since when. Nothing of
//! the parent is copied, looked through or counted, so it costs the same at any size, and beside any number of branches.
//!
//! **A parent that goes.** The record is also what keeps the parent (see `name_record.rs`): whoever collects garbage has
//! to look at all names after it has said what it is going to delete, and as long after that as anybody may take to make
//! a child of a branch that was there when he looked. Whoever deletes a *name* looks for children before; a child that
//! is made at that very moment lives, and keeps what its parent was. So that this stays rare, who makes a child looks
//! whether its parent's name was changed, beside the put: if so, the child loses its name again and nobody hears of it.

use std::sync::Arc;

use futures_util::future;

use super::catalog::{Catalog, FoundBranch};
use super::error::CatalogError;
use super::name_record::{Meaning, NameRecord};
use super::name_table::{NameTable, SeenName};
use super::names::check_name;
use super::tenant::Tenant;
use crate::manifest::{Branch, BranchStart, Creation};
use crate::store::objects::Objects;
use crate::types::{BranchId, Lsn, NameHash};

/// A branch that others can leave. Making a child of it asks the store for nothing that is in here.
#[derive(Clone, Debug)]
pub struct Parent {
    branch: Arc<Branch>,
    last_lsn: Lsn,
    seen: Option<SeenName>,
}

/// A branch that has just been made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Child {
    /// Its id.
    pub id: BranchId,
    /// The branch that it left.
    pub parent: BranchId,
    /// Where it did.
    pub left_at: Lsn,
    /// From where on it can be read.
    pub readable_from: Lsn,
}

/// A name that means a new child of the same parent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResetBranch {
    /// The name.
    pub name: String,
    /// What it means now.
    pub child: Child,
    /// What it meant before, and nothing means any more.
    pub was: BranchId,
}

/// A name that means an earlier state of what it meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoredBranch {
    /// The name.
    pub name: String,
    /// What it means now: a child of what it meant before.
    pub child: Child,
    /// The name that means that.
    pub kept_as: String,
}

impl Parent {
    /// A branch as its manifest says: it can be left up to its last durable LSN.
    pub fn new(branch: Arc<Branch>) -> Parent {
        Parent {
            last_lsn: branch.last_lsn(),
            branch,
            seen: None,
        }
    }

    /// The same, found by a name: no child of it is made if the name was changed by then, since it may mean another
    /// branch.
    ///
    /// # Panics
    /// If another branch was found.
    pub fn found_by(self, found: &FoundBranch) -> Parent {
        assert_eq!(found.id(), self.branch.id(), "the branch that was found");
        Parent {
            seen: found.seen.clone(),
            ..self
        }
    }

    /// The same as who writes to it knows it: everything up to `last_lsn` is durable, though the manifest does not say
    /// so yet.
    pub fn durable_to(self, last_lsn: Lsn) -> Parent {
        Parent {
            last_lsn: last_lsn.max(self.last_lsn),
            ..self
        }
    }

    /// Its id.
    pub fn id(&self) -> BranchId {
        self.branch.id()
    }

    /// The last LSN that a child can leave it at.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// How a child begins that leaves it at `at`, or at its last LSN.
    fn start(
        &self,
        tenant: &Tenant,
        name_hash: [u8; 16],
        at: Option<Lsn>,
    ) -> Result<BranchStart, CatalogError> {
        let id = self.branch.id();
        let no_such_branch = CatalogError::NoSuchBranch {
            tenant: tenant.id(),
            branch: id.to_string(),
        };
        let readable_from = self.branch.readable_from();
        let ours = self.branch.tenant() == tenant.id();
        let readable_from = readable_from.filter(|_| ours).ok_or(no_such_branch)?;
        let at = at.unwrap_or(self.last_lsn);
        if at < readable_from || at > self.last_lsn {
            return Err(CatalogError::OutsideParent {
                parent: id,
                at,
                readable_from,
                last_lsn: self.last_lsn,
            });
        }
        let creation = &self.branch.facts().creation;
        Ok(BranchStart {
            creation: Creation {
                name_hash,
                parent: Some((id, at)),
                ..creation.clone()
            },
            readable_from,
        })
    }

    async fn is_unchanged<O: Objects>(
        &self,
        names: &NameTable<'_, O>,
    ) -> Result<bool, CatalogError> {
        match &self.seen {
            Some(seen) => names.is_unchanged(seen).await,
            None => Ok(true),
        }
    }
}

impl Child {
    fn of(id: BranchId, start: &BranchStart) -> Child {
        let (parent, left_at) = start.creation.parent.expect("a start has a parent");
        Child {
            id,
            parent,
            left_at,
            readable_from: start.readable_from,
        }
    }
}

impl<O: Objects> Catalog<O> {
    /// What a child of the branch with this name or id can be made of: looks up the name and opens the branch.
    pub async fn find_parent(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
    ) -> Result<Parent, CatalogError> {
        let found = self.find(tenant, name_or_id).await?;
        let branch = self.open_branch(tenant.id(), found.id()).await?;
        Ok(Parent::new(branch).found_by(&found))
    }

    /// Makes a branch that continues `parent` from `at` on, or from its last LSN: visible and durable when this returns.
    /// One put, with one small read beside it if the parent was found by its name; a list and two puts more if the name
    /// was used before.
    ///
    /// # Errors
    /// `BadName`; `BranchExists`; `OutsideParent`, with what would do; `NameChanged`: the parent's name was changed since
    /// it was looked up; look again. After an error of the store the branch may be there or not: look.
    ///
    /// # Cancellation
    /// Dropping the future leaves the branch visible or not, never in between.
    pub async fn create_child(
        &self,
        tenant: &Tenant,
        name: &str,
        parent: &Parent,
        at: Option<Lsn>,
    ) -> Result<Child, CatalogError> {
        check_name(name)?;
        let names = self.names(tenant);
        let start = parent.start(tenant, names.whole_hash(name), at)?;
        let hash = NameHash::of(&start.creation.name_hash);
        let meaning = |n| Meaning::Start(hash.branch(n), start.clone());
        let take = names.take(name, false, meaning);
        let (taken, is_unchanged) = future::join(take, parent.is_unchanged(&names)).await;
        let n = taken?;
        let child = Child::of(hash.branch(n), &start);
        match &parent.seen {
            Some(seen) if !is_unchanged? => {
                let record = NameRecord {
                    name: name.to_owned(),
                    is_protected: false,
                    meaning: meaning(n),
                };
                let made = SeenName { hash, n, record };
                let withdrawn = Meaning::Nothing { was: child.id };
                names.change(&made, false, withdrawn).await?;
                Err(CatalogError::NameChanged {
                    tenant: tenant.id(),
                    name: seen.record.name.clone(),
                })
            }
            _ => Ok(child),
        }
    }

    /// Makes a name mean a new child of the parent of what it means now, which leaves it at `to` or at its last LSN. What
    /// was written to the branch can no longer be found by a name; children of it keep what they read. One put.
    ///
    /// # Errors
    /// `Protected`; `NoParent`; `OutsideParent`; `NameChanged`: somebody else was faster.
    pub async fn reset(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
        to: Option<Lsn>,
    ) -> Result<ResetBranch, CatalogError> {
        let (seen, was) = self.see_branch(tenant, name_or_id).await?;
        let name = || seen.record.name.clone();
        if seen.record.is_protected {
            return Err(CatalogError::Protected { name: name() });
        }
        let branch = self.open_branch(tenant.id(), was).await?;
        let parent = branch.facts().creation.parent;
        let (parent, _) = parent.ok_or_else(|| CatalogError::NoParent { name: name() })?;
        let parent = Parent::new(self.open_branch(tenant.id(), parent).await?);
        let child = self.move_to_child(tenant, &seen, &parent, to).await?;
        let name = name();
        Ok(ResetBranch { name, child, was })
    }

    /// Makes a name mean a new child of what it means now, which leaves that at `to`: the branch as it was then. What it
    /// means now gets the name `keep_as`, or one that says before what it was. A put for each name; whoever is cut off
    /// between them finds the branch under both, and can do it again.
    ///
    /// # Errors
    /// `BadName` or `BranchExists` for `keep_as`; `OutsideParent`; `NameChanged`: somebody else was faster.
    pub async fn restore(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
        to: Lsn,
        keep_as: Option<&str>,
    ) -> Result<RestoredBranch, CatalogError> {
        let (seen, was) = self.see_branch(tenant, name_or_id).await?;
        let parent = Parent::new(self.open_branch(tenant.id(), was).await?);
        // Before anything is put: an LSN that can't be restored leaves no name behind.
        parent.start(tenant, [0; 16], Some(to))?;
        let kept_as = match keep_as {
            Some(name) => {
                self.give_name(tenant, name, was, false).await?;
                name.to_owned()
            }
            None => self.keep_former(tenant, &seen.record.name, was, to).await?,
        };
        let child = self.move_to_child(tenant, &seen, &parent, Some(to)).await?;
        Ok(RestoredBranch {
            name: seen.record.name,
            child,
            kept_as,
        })
    }

    /// Gives a branch a name that says what it comes before; one more if others have that.
    async fn keep_former(
        &self,
        tenant: &Tenant,
        name: &str,
        branch: BranchId,
        restored_to: Lsn,
    ) -> Result<String, CatalogError> {
        let base = format!("{name}-before-{restored_to}").replace('/', "-");
        let mut kept_as = base.clone();
        for more in 2..=KEPT_MAX {
            match self.give_name(tenant, &kept_as, branch, false).await {
                Ok(()) => return Ok(kept_as),
                Err(CatalogError::BranchExists { .. }) => kept_as = format!("{base}-{more}"),
                Err(other) => return Err(other),
            }
        }
        self.give_name(tenant, &kept_as, branch, false).await?;
        Ok(kept_as)
    }

    /// Moves a name to a new child of `parent`, which begins with that change of the name.
    async fn move_to_child(
        &self,
        tenant: &Tenant,
        seen: &SeenName,
        parent: &Parent,
        at: Option<Lsn>,
    ) -> Result<Child, CatalogError> {
        let names = self.names(tenant);
        let start = parent.start(tenant, names.whole_hash(&seen.record.name), at)?;
        let id = seen.hash.branch(seen.n.saturating_add(1));
        let child = Child::of(id, &start);
        let meaning = Meaning::Start(id, start);
        names
            .change(seen, seen.record.is_protected, meaning)
            .await?;
        Ok(child)
    }
}

/// Names that are tried for what a restored branch was before.
const KEPT_MAX: u32 = 100;
