//! The names of a tenant in the store: looked up, taken, moved. What a name means is its record with the highest number;
//! each change is one put of the next number, if absent, so of two that change a name at once one learns that it lost.
//!
//! A name that nobody has used is taken without looking: its first record is number 0, and if that is there the put says
//! so. So taking a name costs one put, however many names there are.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};

use super::CONCURRENT_MAX;
use super::error::CatalogError;
use super::name_record::{Meaning, NameRecord};
use super::tenant::Tenant;
use crate::crypto::entropy::Entropy;
use crate::manifest::{ManifestError, PutOnce, names, put_once};
use crate::store::objects::{Objects, StoreError};
use crate::types::{BranchId, NameHash};

/// A name as it was when somebody looked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SeenName {
    pub(super) hash: NameHash,
    /// Number of its last change.
    pub(super) n: u32,
    pub(super) record: NameRecord,
}

/// The names of one tenant.
#[derive(Clone, Copy)]
pub(super) struct NameTable<'a, O> {
    pub(super) objects: &'a O,
    pub(super) tenant: &'a Tenant,
    pub(super) entropy: &'a Entropy,
}

/// Where a record is: in the directory that its hash names, or in the one of version 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Version1([u8; 16]),
    Number(u32),
}

impl<O: Objects> NameTable<'_, O> {
    /// The whole keyed hash of a name.
    pub(super) fn whole_hash(&self, name: &str) -> [u8; 16] {
        self.tenant.name_key().keyed_hash(name.as_bytes())
    }

    /// What a name meant last, if it was ever used: two round trips.
    pub(super) async fn see(&self, name: &str) -> Result<Option<SeenName>, CatalogError> {
        let whole = self.whole_hash(name);
        let hash = NameHash::of(&whole);
        let directory = names::name_history(self.tenant.id(), hash);
        let listing = self.objects.list(&directory, None);
        let (listed, old) = future::join(listing, self.see_old(&whole)).await;
        let newest = listed?
            .iter()
            .filter_map(|object| names::number_at_end(&object.path, 8))
            .filter_map(|n| u32::try_from(n).ok())
            .max();
        match newest {
            Some(n) => Ok(Some(self.open(hash, Place::Number(n)).await?)),
            None => old,
        }
    }

    /// The record that version 1 wrote of a name, where there may be one.
    async fn see_old(&self, whole: &[u8; 16]) -> Result<Option<SeenName>, CatalogError> {
        if !self.tenant.has_old_names() {
            return Ok(None);
        }
        let place = Place::Version1(*whole);
        match self.open(NameHash::of(whole), place).await {
            Ok(seen) => Ok(Some(seen)),
            Err(CatalogError::Manifest(ManifestError::Store(StoreError::NotFound { .. }))) => {
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// All names that were ever used, as they are now: one listing, and then all records at once.
    pub(super) async fn see_all(&self) -> Result<Vec<SeenName>, CatalogError> {
        let directory = names::names(self.tenant.id());
        let listed = self.objects.list(&directory, None).await?;
        let mut newest: BTreeMap<NameHash, Place> = BTreeMap::new();
        for object in &listed {
            let Some((hash, place)) = place_of(&directory, &object.path) else {
                continue;
            };
            let known = newest.entry(hash).or_insert(place);
            *known = place.max(*known);
        }
        stream::iter(newest)
            .map(|(hash, place)| self.open(hash, place))
            .buffered(CONCURRENT_MAX)
            .try_collect()
            .await
    }

    /// Whether a name ever meant this branch, whatever it means now.
    pub(super) async fn ever_meant(
        &self,
        name: &str,
        branch: BranchId,
    ) -> Result<bool, CatalogError> {
        let whole = self.whole_hash(name);
        let hash = NameHash::of(&whole);
        let old = self.see_old(&whole).await?;
        if old.is_some_and(|seen| seen.record.branch() == Some(branch)) {
            return Ok(true);
        }
        let directory = names::name_history(self.tenant.id(), hash);
        for object in self.objects.list(&directory, None).await? {
            let n = names::number_at_end(&object.path, 8).and_then(|n| u32::try_from(n).ok());
            let Some(n) = n else { continue };
            let seen = self.open(hash, Place::Number(n)).await?;
            if seen.record.branch() == Some(branch) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether nothing was changed about a name since it was seen; one round trip.
    pub(super) async fn is_unchanged(&self, seen: &SeenName) -> Result<bool, CatalogError> {
        let next = names::name(self.tenant.id(), seen.hash, seen.n.saturating_add(1));
        match self.objects.get_all(&next).await {
            Ok(_) => Ok(false),
            Err(StoreError::NotFound { .. }) => Ok(true),
            Err(other) => Err(other.into()),
        }
    }

    /// Gives a name that means nothing a meaning, which may depend on the number of the change; the number. One put, if
    /// nobody has ever used the name.
    ///
    /// # Errors
    /// `BranchExists`: the name means a branch.
    pub(super) async fn take(
        &self,
        name: &str,
        is_protected: bool,
        meaning: impl Fn(u32) -> Meaning,
    ) -> Result<u32, CatalogError> {
        let mut n = if self.tenant.has_old_names() {
            self.free_number(name).await?
        } else {
            0
        };
        for _ in 0..ATTEMPTS_MAX {
            let record = NameRecord {
                name: name.to_owned(),
                is_protected,
                meaning: meaning(n),
            };
            if self.put(&record, n).await? == PutOnce::Ours {
                return Ok(n);
            }
            n = self.free_number(name).await?;
        }
        Err(self.changed(name))
    }

    /// Gives a name another meaning than the one it was seen with.
    ///
    /// # Errors
    /// `NameChanged`: somebody else has.
    pub(super) async fn change(
        &self,
        seen: &SeenName,
        is_protected: bool,
        meaning: Meaning,
    ) -> Result<(), CatalogError> {
        let record = NameRecord {
            name: seen.record.name.clone(),
            is_protected,
            meaning,
        };
        match self.put(&record, seen.n.saturating_add(1)).await? {
            PutOnce::Ours => Ok(()),
            PutOnce::Taken => Err(self.changed(&record.name)),
        }
    }

    /// The number of the next change of a name that means nothing.
    async fn free_number(&self, name: &str) -> Result<u32, CatalogError> {
        match self.see(name).await? {
            None => Ok(0),
            Some(seen) if seen.record.branch().is_none() => Ok(seen.n.saturating_add(1)),
            Some(_) => Err(CatalogError::BranchExists {
                tenant: self.tenant.id(),
                name: name.to_owned(),
            }),
        }
    }

    async fn put(&self, record: &NameRecord, n: u32) -> Result<PutOnce, CatalogError> {
        let hash = NameHash::of(&self.whole_hash(&record.name));
        let tenant = self.tenant.id();
        let sealed = record.seal(tenant, n, self.tenant.name_key(), self.entropy);
        let path = names::name(tenant, hash, n);
        match put_once(self.objects, &path, sealed.clone()).await? {
            PutOnce::Ours => Ok(PutOnce::Ours),
            // What was compared may have been spoilt on its way: what opens was not.
            PutOnce::Taken => {
                let (_, there) = self.fetch(hash, Place::Number(n)).await?;
                Ok(if there == sealed {
                    PutOnce::Ours
                } else {
                    PutOnce::Taken
                })
            }
        }
    }

    async fn open(&self, hash: NameHash, place: Place) -> Result<SeenName, CatalogError> {
        Ok(self.fetch(hash, place).await?.0)
    }

    /// A record, and its bytes.
    async fn fetch(&self, hash: NameHash, place: Place) -> Result<(SeenName, Bytes), CatalogError> {
        let tenant = self.tenant.id();
        let (path, n) = match place {
            Place::Number(n) => (names::name(tenant, hash, n), n),
            Place::Version1(whole) => (names::name_of_version_1(tenant, &whole), 0),
        };
        let bytes = self.objects.get_all(&path).await?;
        let name_key = self.tenant.name_key();
        let record = NameRecord::open(&path, &bytes, tenant, (hash, n), name_key)?;
        Ok((SeenName { hash, n, record }, bytes))
    }

    fn changed(&self, name: &str) -> CatalogError {
        CatalogError::NameChanged {
            tenant: self.tenant.id(),
            name: name.to_owned(),
        }
    }
}

/// Which record of which name is at `path`.
fn place_of(directory: &str, path: &str) -> Option<(NameHash, Place)> {
    let (digits, _) = path.strip_prefix(directory)?.split_once('/')?;
    let n = u32::try_from(names::number_at_end(path, 8)?).ok()?;
    if let Some(hash) = NameHash::parse(digits) {
        return Some((hash, Place::Number(n)));
    }
    let whole = digits.parse::<BranchId>().ok()?.0.0;
    (n == 0).then_some((NameHash::of(&whole), Place::Version1(whole)))
}

/// Others that may take and leave a name again before we give up.
const ATTEMPTS_MAX: u32 = 16;
