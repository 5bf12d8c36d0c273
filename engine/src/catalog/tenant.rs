//! A tenant, opened: its name and its keys.

use std::fmt;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::error::CatalogError;
use super::records::TenantRecord;
use crate::crypto::entropy::Entropy;
use crate::crypto::kek::{Kek, KekRecord};
use crate::crypto::key_provider::{EncryptionContext, KeyProvider};
use crate::crypto::sealed_record::RecordProblem;
use crate::manifest::{KeyTables, ManifestError, PutOnce, TenantKeks, names, put_once};
use crate::store::objects::{Objects, StoreError};
use crate::types::TenantId;

/// One customer, with its keys open. Shared by all threads; the keys are wiped when the last one lets go.
pub struct Tenant {
    id: TenantId,
    name: String,
    keys: Arc<KeyTables>,
    name_key: Kek,
    old_names: bool,
}

impl Tenant {
    /// Its id.
    pub fn id(&self) -> TenantId {
        self.id
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key tables of its branches.
    pub fn keys(&self) -> &Arc<KeyTables> {
        &self.keys
    }

    /// The key of its names.
    pub(crate) fn name_key(&self) -> &Kek {
        &self.name_key
    }

    /// Whether names of it may lie where version 1 put them.
    pub(crate) fn has_old_names(&self) -> bool {
        self.old_names
    }

    /// Stores a new tenant: first its wrapped KEK, then the record that makes it visible.
    pub(crate) async fn create<O: Objects>(
        objects: &O,
        provider: &dyn KeyProvider,
        entropy: &Entropy,
        id: TenantId,
        name: &str,
    ) -> Result<Tenant, CatalogError> {
        let kek = Kek::draw(entropy);
        let context = EncryptionContext {
            tenant: id,
            branch: None,
        };
        let wrapped = provider
            .wrap(&kek, &context)
            .await
            .map_err(|source| ManifestError::Provider { tenant: id, source })?;
        let record = KekRecord {
            context,
            kek_epoch: FIRST_KEK_EPOCH,
            provider: provider.name().to_owned(),
            wrapped,
            key_check: kek.key_check_value(),
        };
        store(objects, names::kek(id, FIRST_KEK_EPOCH), record.encode()).await?;
        let record = TenantRecord {
            name: name.to_owned(),
            name_key: Kek::draw(entropy),
            old_names: false,
        };
        let sealed = record.seal(id, (FIRST_KEK_EPOCH, &kek), entropy);
        store(objects, names::tenant_record(id, FIRST_KEK_EPOCH), sealed).await?;
        Ok(Tenant::new(id, vec![(FIRST_KEK_EPOCH, kek)], record))
    }

    /// Opens a tenant: two round trips and one call to the provider per KEK (one, until KEKs rotate).
    pub(crate) async fn open<O: Objects>(
        objects: &O,
        provider: &dyn KeyProvider,
        id: TenantId,
    ) -> Result<Tenant, CatalogError> {
        let epochs: Vec<u32> = objects
            .list(&names::keks(id), None)
            .await?
            .iter()
            .filter_map(|object| names::number_at_end(&object.path, 8))
            .filter_map(|epoch| u32::try_from(epoch).ok())
            .collect();
        let fetched = try_join_all(epochs.iter().map(|epoch| fetch(objects, id, *epoch))).await?;
        let mut keks = Vec::with_capacity(fetched.len());
        let mut newest_record = None;
        for (kek_record, tenant_record) in fetched {
            let epoch = kek_record.kek_epoch;
            let kek = unwrap(provider, id, &kek_record).await?;
            if let Some((path, bytes)) = tenant_record {
                let record = TenantRecord::open(&path, &bytes, id, (epoch, &kek))?;
                newest_record = Some(record);
            }
            keks.push((epoch, kek));
        }
        let record = newest_record.ok_or_else(|| CatalogError::NoSuchTenant(id.to_string()))?;
        Ok(Tenant::new(id, keks, record))
    }

    fn new(id: TenantId, keks: Vec<(u32, Kek)>, record: TenantRecord) -> Tenant {
        Tenant {
            id,
            name: record.name,
            keys: Arc::new(KeyTables::new(Arc::new(TenantKeks::new(id, keks)))),
            name_key: record.name_key,
            old_names: record.old_names,
        }
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tenant({})", self.id)
    }
}

/// The KEK record of an epoch, and the tenant's record that is sealed under it, if there is one.
async fn fetch<O: Objects>(
    objects: &O,
    id: TenantId,
    epoch: u32,
) -> Result<(KekRecord, Option<(String, bytes::Bytes)>), CatalogError> {
    let kek_path = names::kek(id, epoch);
    let record_path = names::tenant_record(id, epoch);
    let (kek, record) =
        futures_util::join!(objects.get_all(&kek_path), objects.get_all(&record_path));
    let kek = KekRecord::decode(&kek_path, &kek?)?;
    let in_place = kek.context.tenant == id && kek.context.branch.is_none();
    if !in_place || kek.kek_epoch != epoch {
        return Err(RecordProblem::Misplaced.at(&kek_path).into());
    }
    match record {
        Ok(bytes) => Ok((kek, Some((record_path, bytes)))),
        Err(StoreError::NotFound { .. }) => Ok((kek, None)),
        Err(other) => Err(other.into()),
    }
}

async fn unwrap(
    provider: &dyn KeyProvider,
    id: TenantId,
    record: &KekRecord,
) -> Result<Kek, CatalogError> {
    if record.provider != provider.name() {
        return Err(CatalogError::OtherProvider {
            tenant: id,
            found: record.provider.clone(),
            configured: provider.name(),
        });
    }
    let kek = provider
        .unwrap(&record.wrapped, &record.context)
        .await
        .map_err(|source| ManifestError::Provider { tenant: id, source })?;
    if kek.key_check_value() == record.key_check {
        Ok(kek)
    } else {
        Err(RecordProblem::WrongKey
            .at(&names::kek(id, record.kek_epoch))
            .into())
    }
}

/// Puts an object under a name that nobody else uses.
async fn store<O: Objects>(
    objects: &O,
    path: String,
    bytes: bytes::Bytes,
) -> Result<(), CatalogError> {
    match put_once(objects, &path, bytes).await? {
        PutOnce::Ours => Ok(()),
        PutOnce::Taken => Err(StoreError::AlreadyExists { path }.into()),
    }
}

const FIRST_KEK_EPOCH: u32 = 1;
