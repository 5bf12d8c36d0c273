//! The stored WAL behind the manifest's last LSN, read back by the next writer.

use std::collections::VecDeque;
use std::sync::Arc;

use super::error::IngestError;
use super::wal_store::WalStore;
use crate::catalog::{CatalogError, WalPiece, open_wal, parse_wal, seal_wal};
use crate::manifest::{KeyTables, ManifestError, PutOnce, WriterNames, names, put_once};
use crate::store::StoreClient;
use crate::store::objects::{Objects, StoreError};
use crate::types::{BranchId, Lsn, TenantId};

/// Reads pieces until there is none, and takes the number behind the last.
pub struct WalReplay {
    pub(super) objects: StoreClient,
    pub(super) keys: Arc<KeyTables>,
    pub(super) owner: (TenantId, BranchId),
    pub(super) epoch: u32,
    pub(super) names: Arc<WriterNames<StoreClient>>,
    pub(super) next: u64,
    /// Where the next piece has to begin, once that is known.
    pub(super) end: Option<Lsn>,
    pub(super) pieces: VecDeque<(u64, Lsn)>,
    pub(super) is_claimed: bool,
    /// Number of the manifest entry behind our claim: who claims the branch after us puts it.
    pub(super) next_entry: u64,
}

impl WalReplay {
    /// The next piece; `None` behind the last, whose successor is ours then: whoever wrote before can add none. A GET each,
    /// and one PUT and one GET at the end. Nothing is flushed before that.
    ///
    /// # Errors
    /// Of store and keys; `WalGap`; a piece that is damaged.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn next(&mut self) -> Result<Option<WalPiece>, IngestError> {
        if self.is_claimed {
            return Ok(None);
        }
        loop {
            let read = read_piece(&self.objects, &self.keys, self.owner, self.next);
            match read.await {
                Ok(piece) => return self.accept(piece).map(Some),
                Err(IngestError::Catalog(error)) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
            if self.claim().await? {
                return Ok(None);
            }
        }
    }

    /// The writer of the pieces that come next. On a branch that never had one the first begins at `begin`.
    ///
    /// # Panics
    /// If [`WalReplay::next`] has not come to the end.
    pub fn into_store(self, begin: Lsn) -> WalStore {
        assert!(
            self.is_claimed,
            "all stored WAL is read before more is stored"
        );
        WalStore {
            objects: self.objects,
            owner: self.owner,
            epoch: self.epoch,
            names: self.names,
            next: self.next,
            end: self.end.unwrap_or(begin),
            pieces: self.pieces,
            broken: false,
        }
    }

    fn accept(&mut self, piece: WalPiece) -> Result<WalPiece, IngestError> {
        if piece.epoch > self.epoch {
            // Somebody claimed the branch after us.
            let branch = self.owner.1;
            return Err(IngestError::Fenced { branch });
        }
        if let Some(wanted) = self.end.filter(|end| *end != piece.start) {
            return Err(IngestError::WalGap {
                branch: self.owner.1,
                piece: self.next,
                found: piece.start,
                wanted,
            });
        }
        self.pieces.push_back((self.next, piece.start));
        self.next += 1;
        // An empty one on a branch without WAL says nothing of where it will begin.
        if !piece.bytes.is_empty() || self.end.is_some() {
            self.end = Some(piece.end());
        }
        Ok(piece)
    }

    /// Puts the empty piece with which a writer begins; whether it is ours.
    async fn claim(&mut self) -> Result<bool, IngestError> {
        let (id, dek) = self.names.next_dek().await?;
        let at = (self.epoch, self.end.unwrap_or(Lsn::INVALID));
        let sealed = seal_wal(self.owner, self.next, at, (id, &dek), &[]);
        let path = names::wal(self.owner.0, self.owner.1, self.next);
        if put_once(&self.objects, &path, sealed).await? == PutOnce::Taken {
            return Ok(false);
        }
        // A successor may have deleted pieces that we had not come to, so that this place was free.
        let (tenant, branch) = self.owner;
        let entry = names::manifest_entry(tenant, branch, self.next_entry);
        match self.objects.get_all(&entry).await {
            Err(StoreError::NotFound { .. }) => {}
            Ok(_) => return Err(IngestError::Fenced { branch }),
            Err(error) => return Err(error.into()),
        }
        self.next += 1;
        self.is_claimed = true;
        Ok(true)
    }
}

/// A stored piece, opened. One GET.
pub(crate) async fn read_piece(
    objects: &StoreClient,
    keys: &KeyTables,
    owner: (TenantId, BranchId),
    number: u64,
) -> Result<WalPiece, IngestError> {
    let path = names::wal(owner.0, owner.1, number);
    let bytes = objects.get_all(&path).await?;
    let record = parse_wal(&path, &bytes, owner, number)?;
    let dek = keys.dek(objects, owner.1, record.dek_id()?).await?;
    Ok(open_wal(&record, number, &dek)?)
}

/// Whether there is no such object.
pub(super) fn is_absent(error: &CatalogError) -> bool {
    matches!(
        error,
        CatalogError::Manifest(ManifestError::Store(StoreError::NotFound { .. }))
    )
}
