//! The reader's side of key tables: fetched and opened on demand, kept under a bound.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;

use super::error::ManifestError;
use super::names;
use super::tenant_keys::TenantKeks;
use crate::crypto::key_table::KeyTable;
use crate::crypto::page_seal::{Dek, DekId};
use crate::store::objects::{Objects, StoreError};
use crate::types::{BranchId, TenantId};

/// The key tables of a tenant's branches. One per tenant and process; holds at most [`TABLES_MAX`] tables of about
/// 20 KiB in memory, the oldest go first.
#[derive(Debug)]
pub struct KeyTables {
    keks: Arc<TenantKeks>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    tables: HashMap<(BranchId, u32), Arc<KeyTable>>,
    /// In order of arrival.
    arrivals: VecDeque<(BranchId, u32)>,
}

impl KeyTables {
    /// No tables yet.
    pub fn new(keks: Arc<TenantKeks>) -> KeyTables {
        KeyTables {
            keks,
            cache: Mutex::default(),
        }
    }

    /// Whose tables.
    pub fn tenant(&self) -> TenantId {
        self.keks.tenant()
    }

    /// The KEKs that open them.
    pub(crate) fn keks(&self) -> &Arc<TenantKeks> {
        &self.keks
    }

    /// The key `id` of `branch`. One round trip if its table is not in memory: a GET per KEK epoch, all at once.
    ///
    /// # Errors
    /// `NoSuchDek` for a table or slot that is not there, besides those of store and record.
    ///
    /// # Cancellation
    /// Safe: nothing is kept of a fetch that was given up.
    pub async fn dek<O: Objects>(
        &self,
        objects: &O,
        branch: BranchId,
        id: DekId,
    ) -> Result<Arc<Dek>, ManifestError> {
        let missing = ManifestError::NoSuchDek { branch, dek: id };
        let table = match self.cached(branch, id.table) {
            Some(table) => table,
            None => match self.fetch(objects, branch, id.table).await? {
                Some(table) => self.keep(branch, table),
                None => return Err(missing),
            },
        };
        table.dek(id.slot).cloned().ok_or(missing)
    }

    fn cached(&self, branch: BranchId, table: u32) -> Option<Arc<KeyTable>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.tables.get(&(branch, table)).cloned()
    }

    fn keep(&self, branch: BranchId, table: KeyTable) -> Arc<KeyTable> {
        let id = (branch, table.number());
        let table = Arc::new(table);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.tables.insert(id, Arc::clone(&table)).is_none() {
            cache.arrivals.push_back(id);
        }
        while cache.arrivals.len() > TABLES_MAX {
            if let Some(oldest) = cache.arrivals.pop_front() {
                cache.tables.remove(&oldest);
            }
        }
        table
    }

    /// The table as the newest KEK epoch that has it wrapped it; `None` if none has.
    async fn fetch<O: Objects>(
        &self,
        objects: &O,
        branch: BranchId,
        number: u32,
    ) -> Result<Option<KeyTable>, ManifestError> {
        let tenant = self.tenant();
        let gets = self.keks.newest_first().map(|(epoch, kek)| async move {
            let path = names::key_table(tenant, branch, epoch, number);
            let answer = objects.get_all(&path).await;
            (path, epoch, kek, answer)
        });
        for (path, epoch, kek, answer) in join_all(gets).await {
            match answer {
                Ok(bytes) => {
                    let table =
                        KeyTable::open(&path, &bytes, tenant, branch, number, (epoch, kek))?;
                    return Ok(Some(table));
                }
                Err(StoreError::NotFound { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(None)
    }
}

/// Most tables in memory, per tenant.
pub const TABLES_MAX: usize = 1024;
