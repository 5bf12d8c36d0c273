//! The writer's side of key tables: hands out each DEK once.
//!
//! A table is drawn by this process, is durable in the store before its first key is handed out, and ends with the
//! allocator: the next process draws its own under the next free number. So a DEK never writes for two processes,
//! whatever crashed in between.

use std::sync::Arc;

use super::error::ManifestError;
use super::names;
use super::tenant_keys::TenantKeks;
use crate::crypto::entropy::Entropy;
use crate::crypto::key_table::{KeyTable, TABLE_SLOTS};
use crate::crypto::page_seal::{Dek, DekId};
use crate::store::objects::{Objects, StoreError};
use crate::types::BranchId;

/// Hands out the DEKs of one writer of one branch.
#[derive(Debug)]
pub(crate) struct DekAllocator<O> {
    objects: O,
    keks: Arc<TenantKeks>,
    branch: BranchId,
    entropy: Entropy,
    /// The lowest table number that may be free; unknown before the first table.
    next_table: Option<u32>,
    current: Option<KeyTable>,
    next_slot: u32,
}

impl<O: Objects> DekAllocator<O> {
    /// An allocator that has drawn nothing yet.
    pub(crate) fn new(
        objects: O,
        keks: Arc<TenantKeks>,
        branch: BranchId,
        entropy: Entropy,
    ) -> DekAllocator<O> {
        DekAllocator {
            objects,
            keks,
            branch,
            entropy,
            next_table: None,
            current: None,
            next_slot: 0,
        }
    }

    /// A key that was never handed out before. Every 256th call draws a table: one PUT, and at first one LIST.
    ///
    /// # Cancellation
    /// Safe: a table that was being stored is given up, its number with it.
    pub(crate) async fn next(&mut self) -> Result<(DekId, Arc<Dek>), ManifestError> {
        if self.current.is_none() || self.next_slot == TABLE_SLOTS {
            self.current = None;
            self.current = Some(self.draw_table().await?);
            self.next_slot = 0;
        }
        let table = self.current.as_ref().expect("drawn above");
        let slot = self.next_slot;
        self.next_slot += 1;
        let dek = table.dek(slot).expect("below the number of slots");
        Ok((table.id(slot), Arc::clone(dek)))
    }

    async fn draw_table(&mut self) -> Result<KeyTable, ManifestError> {
        let tenant = self.keks.tenant();
        let (epoch, kek) = self.keks.newest();
        let mut number = match self.next_table {
            Some(number) => number,
            None => self.first_free_table().await?,
        };
        for _ in 0..TABLE_ATTEMPTS_MAX {
            let table = KeyTable::draw(number, &self.entropy);
            let bytes = table.seal(tenant, self.branch, epoch, kek, &self.entropy);
            let path = names::key_table(tenant, self.branch, epoch, number);
            // Whatever becomes of this attempt, its number is never tried again.
            number += 1;
            self.next_table = Some(number);
            match self.objects.put_if_absent(&path, bytes).await {
                Ok(()) => return Ok(table),
                // Another writer's, or our own by a retry below us: either way the next number will do.
                Err(StoreError::AlreadyExists { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(StoreError::Unavailable {
            path: names::key_tables(tenant, self.branch, epoch),
            reason: format!("{TABLE_ATTEMPTS_MAX} numbers in a row were taken by other writers"),
        }
        .into())
    }

    /// The number behind the last table under any KEK: numbers stay when a table is wrapped anew.
    async fn first_free_table(&self) -> Result<u32, ManifestError> {
        let tenant = self.keks.tenant();
        let mut free = 0;
        for (epoch, _) in self.keks.newest_first() {
            let directory = names::key_tables(tenant, self.branch, epoch);
            let last = self
                .objects
                .list(&directory, None)
                .await?
                .iter()
                .filter_map(|object| names::number_at_end(&object.path, 8))
                .filter_map(|number| u32::try_from(number).ok())
                .max();
            free = free.max(last.map_or(0, |last| last + 1));
        }
        Ok(free)
    }
}

/// Other writers that may win the race for a table number before we give up.
const TABLE_ATTEMPTS_MAX: u32 = 16;
