//! A branch's WAL in the object store: numbered pieces, put if absent, without gaps, across all writers there ever were.
//!
//! A writer that lost its epoch finds the next number taken, by the empty piece with which its successor began, and may not
//! acknowledge anything from then on.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::error::IngestError;
use crate::catalog::{Cpu, WAL_PIECE_BYTES_MAX, seal_wal};
use crate::manifest::{PutOnce, WalPosition, WriterNames, names, put_once};
use crate::store::StoreClient;
use crate::types::{BranchId, Lsn, TenantId};

/// The writer of the pieces.
pub struct WalStore {
    pub(super) objects: StoreClient,
    pub(super) owner: (TenantId, BranchId),
    pub(super) epoch: u32,
    pub(super) names: Arc<WriterNames<StoreClient>>,
    /// Number of the piece that comes next.
    pub(super) next: u64,
    /// Where the last piece ends, and the next one begins.
    pub(super) end: Lsn,
    /// Number and start of the pieces that may still be needed, oldest first.
    pub(super) pieces: VecDeque<(u64, Lsn)>,
    pub(super) broken: bool,
}

impl WalStore {
    /// Where the stored WAL ends.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Stores the next piece, which begins where the last one ends: durable when this returns. At most
    /// [`WAL_PIECE_BYTES_MAX`] bytes, which are compressed and sealed on `cpu`. One PUT, and one more every 256 pieces.
    ///
    /// # Errors
    /// `Fenced`, `WalGap`. After any error of the store the outcome is unknown and the writer of no more use.
    ///
    /// # Panics
    /// If there are more bytes than a piece may have.
    pub async fn put(
        &mut self,
        start: Lsn,
        bytes: Bytes,
        cpu: &impl Cpu,
    ) -> Result<(), IngestError> {
        assert!(bytes.len() <= WAL_PIECE_BYTES_MAX, "callers cut the WAL");
        let (tenant, branch) = self.owner;
        if start != self.end {
            return Err(IngestError::WalGap {
                branch,
                piece: self.next,
                found: start,
                wanted: self.end,
            });
        }
        if std::mem::replace(&mut self.broken, true) {
            return Err(IngestError::Broken { branch });
        }
        let (id, dek) = self.names.next_dek().await?;
        let (owner, number, at) = (self.owner, self.next, (self.epoch, start));
        let end = Lsn(start.0 + bytes.len() as u64);
        let seal = move || seal_wal(owner, number, at, (id, &dek), &bytes);
        let sealed = cpu.run(seal).await;
        let path = names::wal(tenant, branch, number);
        if put_once(&self.objects, &path, sealed).await? == PutOnce::Taken {
            return Err(IngestError::Fenced { branch });
        }
        self.pieces.push_back((number, start));
        self.next += 1;
        self.end = end;
        self.broken = false;
        Ok(())
    }

    /// The piece that has, or will have, the WAL from `lsn` on; the oldest that is known, if that is before them.
    pub fn position(&self, lsn: Lsn) -> WalPosition {
        let next = (self.next, self.end);
        let known = self.pieces.iter().chain([&next]);
        let holder = known.clone().rfind(|(_, start)| *start <= lsn);
        let oldest = self.pieces.front().unwrap_or(&next);
        let (piece, lsn) = *holder.unwrap_or(oldest);
        WalPosition { piece, lsn }
    }

    /// Forgets pieces before `position`, which is committed.
    pub fn forget_before(&mut self, position: WalPosition) {
        while self
            .pieces
            .front()
            .is_some_and(|(number, _)| *number < position.piece)
        {
            self.pieces.pop_front();
        }
    }
}
