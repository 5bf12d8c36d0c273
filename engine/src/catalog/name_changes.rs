//! Changes of names that make no branch: rename, protect, delete.

use super::catalog::Catalog;
use super::error::CatalogError;
use super::name_record::Meaning;
use super::name_table::SeenName;
use super::names::check_name;
use super::tenant::Tenant;
use crate::store::objects::Objects;
use crate::types::BranchId;

impl<O: Objects> Catalog<O> {
    /// Gives a branch another name; whether it is protected goes along. A put for each of the two names: whoever is cut
    /// off between them finds the branch under both, and can do it again.
    ///
    /// # Errors
    /// `BadName`; `BranchExists`: the new name means another branch; `NameChanged`: somebody else was faster.
    pub async fn rename(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
        new_name: &str,
    ) -> Result<BranchId, CatalogError> {
        let (seen, branch) = self.see_branch(tenant, name_or_id).await?;
        if seen.record.name == new_name {
            return Ok(branch);
        }
        let is_protected = seen.record.is_protected;
        self.give_name(tenant, new_name, branch, is_protected)
            .await?;
        let gone = Meaning::Nothing { was: branch };
        self.names(tenant).change(&seen, false, gone).await?;
        Ok(branch)
    }

    /// Protects a branch from being deleted and reset, or no longer. One put, if that changes anything.
    ///
    /// # Errors
    /// `NameChanged`: somebody else was faster.
    pub async fn protect(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
        is_protected: bool,
    ) -> Result<BranchId, CatalogError> {
        let (seen, branch) = self.see_branch(tenant, name_or_id).await?;
        if seen.record.is_protected != is_protected {
            let same = Meaning::Branch(branch);
            self.names(tenant).change(&seen, is_protected, same).await?;
        }
        Ok(branch)
    }

    /// Takes a branch's name away: one put, after a look at all other names. Its objects stay until garbage is collected.
    /// The name can be used again.
    ///
    /// # Errors
    /// `Protected`; `HasChildren`; `NameChanged`: somebody else was faster.
    pub async fn delete(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
    ) -> Result<BranchId, CatalogError> {
        let (seen, branch) = self.see_branch(tenant, name_or_id).await?;
        let name = seen.record.name.clone();
        if seen.record.is_protected {
            return Err(CatalogError::Protected { name });
        }
        let children = self.names_of_descendants(tenant, branch).await?;
        if !children.is_empty() {
            return Err(CatalogError::HasChildren { name, children });
        }
        let gone = Meaning::Nothing { was: branch };
        self.names(tenant).change(&seen, false, gone).await?;
        Ok(branch)
    }

    /// What a name means, or which name means the branch with this id: the latter looks through all names.
    pub(super) async fn see_branch(
        &self,
        tenant: &Tenant,
        name_or_id: &str,
    ) -> Result<(SeenName, BranchId), CatalogError> {
        let names = self.names(tenant);
        let seen = match name_or_id.parse::<BranchId>() {
            Ok(id) => {
                let mut all = names.see_all().await?.into_iter();
                all.find(|seen| seen.record.branch() == Some(id))
            }
            Err(_) => names.see(name_or_id).await?,
        };
        seen.and_then(|seen| {
            let branch = seen.record.branch()?;
            Some((seen, branch))
        })
        .ok_or_else(|| CatalogError::NoSuchBranch {
            tenant: tenant.id(),
            branch: name_or_id.to_owned(),
        })
    }

    /// Makes a name that means nothing mean this branch. One that means it already, by an earlier call that was cut off,
    /// will do.
    pub(super) async fn give_name(
        &self,
        tenant: &Tenant,
        name: &str,
        branch: BranchId,
        is_protected: bool,
    ) -> Result<(), CatalogError> {
        check_name(name)?;
        let names = self.names(tenant);
        let meaning = |_| Meaning::Branch(branch);
        match names.take(name, is_protected, meaning).await {
            Ok(_) => Ok(()),
            Err(taken @ CatalogError::BranchExists { .. }) => {
                let there = names.see(name).await?;
                if there.and_then(|seen| seen.record.branch()) == Some(branch) {
                    Ok(())
                } else {
                    Err(taken)
                }
            }
            Err(other) => Err(other),
        }
    }
}
