//! Layers that no manifest names any more, or never did: deleted when nobody can need them, and WAL with the history that
//! came of it.
//!
//! An object is garbage for ever if its epoch is over and the manifest does not name it, since a writer that lost its epoch
//! can't commit; or if this writer committed its removal. A paused writer that comes back may delete such an object once
//! more, and does no harm by that. What is left to wait for are readers that opened an older manifest.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::ingest::error::IngestError;
use crate::ingest::old_wal::OldWal;
use crate::io::clock::Moment;
use crate::manifest::names;
use crate::shard::SharedBranch;
use crate::store::StoreClient;
use crate::store::objects::Objects;
use crate::types::{BranchId, ObjectId, TenantId};

/// The garbage of one branch, as its writer knows it.
pub struct Garbage {
    pub(in crate::ingest) place: (TenantId, BranchId),
    pub(in crate::ingest) epoch: u32,
    pub(in crate::ingest) shared: Arc<SharedBranch>,
    pub(in crate::ingest) store: StoreClient,
    pub(in crate::ingest) delete_after: Duration,
    pub(in crate::ingest) has_looked: bool,
    /// In the order in which they come due.
    pub(in crate::ingest) waiting: VecDeque<(Moment, ObjectId, u64)>,
    pub(in crate::ingest) wal: OldWal,
}

/// What was deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deleted {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Garbage {
    /// Takes layers, each with its bytes, that were removed by a commit, or that nobody can commit any more, since a moment.
    pub fn take(&mut self, layers: &[(ObjectId, u64)], since: Moment) {
        let due = since.after(self.delete_after);
        let objects = layers.iter().map(|(object, bytes)| (due, *object, *bytes));
        self.waiting.extend(objects);
    }

    /// Finds what earlier writers of the branch left: layers that the manifest does not name; how many. One listing, and all nodes
    /// of the manifest's snapshot; nothing once it has succeeded, since what is left from then on is known.
    ///
    /// # Errors
    /// Of the store.
    pub async fn find_orphans_once(&mut self, now: Moment) -> Result<u64, IngestError> {
        if self.has_looked {
            return Ok(0);
        }
        let (tenant, branch) = self.place;
        // Listed first: what is named later was not there, or is of this epoch.
        let listed = self
            .store
            .list(&names::layers(tenant, branch), None)
            .await?;
        let manifest = self.shared.manifest();
        let sections = manifest.all_sections(&self.store).await?;
        let sections = sections.iter().flat_map(|(_, sections)| sections);
        let named: HashSet<ObjectId> = sections.map(|section| section.object).collect();
        let waiting: HashSet<ObjectId> =
            self.waiting.iter().map(|(_, object, _)| *object).collect();
        let due = now.after(self.delete_after);
        let mut found = 0;
        for object in &listed {
            let Some(id) = names::layer_at(branch, &object.path) else {
                continue;
            };
            let is_over = id.epoch < self.epoch;
            if is_over && !named.contains(&id) && !waiting.contains(&id) {
                self.waiting.push_back((due, id, object.size_bytes));
                found += 1;
            }
        }
        self.has_looked = true;
        Ok(found)
    }

    /// Deletes what is due, layers and WAL, at most a few objects at a time.
    ///
    /// # Errors
    /// Of the store: what was not deleted stays.
    ///
    /// # Cancellation
    /// Safe: what was deleted is deleted once more.
    pub async fn delete_due(&mut self, now: Moment) -> Result<Deleted, IngestError> {
        let mut deleted = Deleted::default();
        while let Some((due, object, bytes)) = self.waiting.front().copied() {
            if due > now || deleted.objects == DELETED_AT_ONCE {
                break;
            }
            self.store
                .delete(&names::layer(self.place.0, object))
                .await?;
            self.waiting.pop_front();
            deleted.objects += 1;
            deleted.bytes += bytes;
        }
        self.wal.delete_due(&mut deleted, DELETED_AT_ONCE).await?;
        Ok(deleted)
    }
}

/// Objects deleted by one call.
const DELETED_AT_ONCE: u64 = 64;
