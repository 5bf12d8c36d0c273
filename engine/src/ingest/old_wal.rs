//! WAL of which all history was given up: its pieces are deleted, oldest first, from the first that is there.
//!
//! Nobody reads below the position that the manifest names: whoever opens the branch begins there. WAL between the kept
//! history's begin and that position stays, as part of the history. Empty pieces stay for ever: a writer that was away for
//! long finds its next number taken by the one with which its successor began, however little is left around it. One that was
//! away before it had read all of the WAL looks at the manifest before it begins to write ([`super::WalReplay::next`]).

use std::collections::VecDeque;
use std::sync::Arc;

use super::compaction::Deleted;
use super::error::IngestError;
use super::wal_replay::{is_absent, read_piece};
use crate::catalog::may_be_fence;
use crate::manifest::{KeyTables, names};
use crate::shard::SharedBranch;
use crate::store::StoreClient;
use crate::store::objects::{ListedObject, Objects};
use crate::types::{BranchId, Lsn, TenantId};

/// The old WAL of one branch, as its writer finds it.
pub(super) struct OldWal {
    pub(super) place: (TenantId, BranchId),
    pub(super) shared: Arc<SharedBranch>,
    pub(super) store: StoreClient,
    pub(super) keys: Arc<KeyTables>,
    /// Nothing below is left.
    pub(super) clean_below: Lsn,
    /// Up to here the listing was looked at.
    pub(super) cursor: Option<String>,
    /// To be deleted, oldest first.
    pub(super) due: VecDeque<ListedObject>,
}

impl OldWal {
    /// Deletes what is due, as long as `deleted` has fewer than `objects_max`. One listing of at most [`PAGE`] names and some
    /// ten GETs for every so many; nothing while no more history is given up.
    ///
    /// # Errors
    /// Of store and keys: what was not deleted stays due.
    ///
    /// # Cancellation
    /// Safe: what was deleted is deleted once more.
    pub(super) async fn delete_due(
        &mut self,
        deleted: &mut Deleted,
        objects_max: u64,
    ) -> Result<(), IngestError> {
        if self.due.is_empty() {
            self.find().await?;
        }
        while deleted.objects < objects_max
            && let Some(piece) = self.due.front()
        {
            self.store.delete(&piece.path).await?;
            deleted.objects += 1;
            deleted.bytes += piece.size_bytes;
            self.due.pop_front();
        }
        Ok(())
    }

    /// Finds pieces that end where kept history begins, or before.
    async fn find(&mut self) -> Result<(), IngestError> {
        let (tenant, branch) = self.place;
        let manifest = self.shared.manifest();
        let facts = manifest.facts();
        let Some(needed) = facts.wal else {
            return Ok(());
        };
        let below = facts.kept.from.min(needed.lsn);
        let directory = names::all_wal(tenant, branch);
        while self.due.is_empty() && self.clean_below < below {
            let after = self.cursor.as_deref();
            let page = self.store.list_first(&directory, after, PAGE).await?;
            let numbered = page.iter().map_while(|object| {
                let number = names::number_at_end(&object.path, 16)?;
                (number < needed.piece).then_some((number, object))
            });
            let looked_at: Vec<(u64, &ListedObject)> = numbered.collect();
            let pieces = looked_at.iter().copied();
            let pieces: Vec<(u64, &ListedObject)> = pieces
                .filter(|(_, object)| !may_be_fence(object.size_bytes))
                .collect();
            let old = self.count_old(&pieces, below).await?;
            let is_all_old = old == pieces.len();
            let last = if is_all_old {
                looked_at.last()
            } else {
                pieces[..old].last()
            };
            if let Some((_, last)) = last {
                self.cursor = Some(last.path.clone());
            }
            let due = pieces[..old].iter().map(|(_, object)| *object);
            self.due.extend(due.cloned());
            if !is_all_old || looked_at.len() < PAGE {
                self.clean_below = below;
            }
        }
        Ok(())
    }

    /// How many of these pieces, which follow each other, end at or below an LSN.
    async fn count_old(
        &self,
        pieces: &[(u64, &ListedObject)],
        below: Lsn,
    ) -> Result<usize, IngestError> {
        let (mut old, mut end) = (0, pieces.len());
        while old < end {
            let middle = old + (end - old) / 2;
            let number = pieces[middle].0;
            let is_old = match read_piece(&self.store, &self.keys, self.place, number).await {
                Ok(piece) => piece.end() <= below,
                // A writer before us, who knew less of what was given up, is deleting as well.
                Err(IngestError::Catalog(error)) if is_absent(&error) => true,
                Err(error) => return Err(error),
            };
            if is_old {
                old = middle + 1;
            } else {
                end = middle;
            }
        }
        Ok(old)
    }
}

/// Names that are listed at once.
const PAGE: usize = 1000;
