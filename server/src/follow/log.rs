//! A branch's WAL made durable: on the local disk at once, in the object store piece by piece.
//!
//! What is received waits in memory until its piece is stored; so much of it may wait ([`PENDING_BYTES_MAX`]), then nothing
//! more is received. Pieces and flushes are tasks that own what they work with, so that the session can look after its
//! connection meanwhile: one piece and one flush at a time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use engine::catalog::WAL_PIECE_BYTES_MAX;
use engine::ingest::{IngestError, IngestKeys, WalReplay, WalStore};
use engine::io::tokio_uring_disk::TokioUringDisk;
use engine::manifest::WalPosition;
use engine::types::{BranchId, Lsn, TenantId};
use engine::wal::{Appended, LocalWal, Recovered, WalConfig, WalUsage};
use tokio::task::{JoinError, JoinHandle, spawn_local};

use super::attachment::Ack;
use super::error::FollowError;
use super::intake::{Intake, page_start};
use crate::cpu::BlockingThreads;

/// Stores a piece and gives the store back. A task of its own: it may hold the lock on the branch's keys, which a commit of
/// the local WAL waits for, so it has to go on while nobody waits for it.
type Storing = JoinHandle<(WalStore, Result<(), IngestError>)>;

/// A branch's WAL.
pub(super) struct BranchLog {
    local: LocalWal<TokioUringDisk, IngestKeys>,
    timeline: u32,
    ack: Ack,
    store: StoreSide,
    /// Received, and in no piece yet; begins where the last piece ends.
    pending: BytesMut,
    pending_start: Lsn,
    pending_since: Option<Instant>,
    /// End of the stored WAL.
    stored: Lsn,
    /// Local WAL below this is not needed any more.
    trimmed: Lsn,
}

enum StoreSide {
    Idle(WalStore),
    /// A piece that ends there.
    Storing(Storing, Lsn),
    /// Between the two.
    Moving,
}

impl BranchLog {
    /// Reads back what is above the branch's layers, from the object store and behind that from the local disk, and gives
    /// it to `intake`.
    pub(super) async fn recover(
        mut replay: WalReplay,
        keys: IngestKeys,
        (owner, epoch): ((TenantId, BranchId), u32),
        (dir, config): (&Path, WalConfig),
        ack: Ack,
        intake: &mut Intake,
    ) -> Result<BranchLog, FollowError> {
        make_durably(dir).map_err(FollowError::Directory)?;
        while let Some(piece) = replay.next().await? {
            if !piece.bytes.is_empty() {
                take_all(intake, piece.start, &piece.bytes).await?;
            }
        }
        let store = replay.into_store(page_start(intake.readable()));
        let (local, recovered) =
            LocalWal::open(TokioUringDisk, dir, owner, epoch, keys, config).await?;
        let stored = store.end();
        let mut log = BranchLog {
            local,
            timeline: 0,
            ack,
            store: StoreSide::Idle(store),
            pending: BytesMut::new(),
            pending_start: stored,
            pending_since: None,
            stored,
            trimmed: Lsn::INVALID,
        };
        log.take_local(&recovered, intake).await?;
        Ok(log)
    }

    /// What the local disk has behind the stored WAL.
    async fn take_local(
        &mut self,
        recovered: &Recovered<TokioUringDisk>,
        intake: &mut Intake,
    ) -> Result<(), FollowError> {
        let mut reader = recovered.reader(self.stored);
        while let Some(chunk) = reader.next().await? {
            let end = self.end();
            if chunk.start > end {
                // What lay between was stored, and is not any more: it can't be told what it was.
                return Err(FollowError::Gap {
                    found: chunk.start,
                    wanted: end,
                });
            }
            let Some(known) = end.bytes_since(chunk.start) else {
                continue;
            };
            let known = usize::try_from(known).unwrap_or(usize::MAX);
            let fresh = chunk.bytes.get(known..).unwrap_or_default();
            let known = intake.timeline().unwrap_or(chunk.timeline);
            if chunk.timeline < known {
                // Another server went on with a later timeline.
                return Err(FollowError::LocalTail {
                    timeline: known,
                    at: end,
                    end: Lsn(end.0 + fresh.len() as u64),
                });
            }
            self.pend(fresh);
            take_all(intake, end, fresh).await?;
        }
        Ok(())
    }

    /// Where the next byte goes.
    pub(super) fn end(&self) -> Lsn {
        Lsn(self.pending_start.0 + self.pending.len() as u64)
    }

    /// Goes on with WAL of this timeline.
    pub(super) async fn begin(&mut self, timeline: u32) -> Result<(), FollowError> {
        self.timeline = timeline;
        self.local.commit().await?;
        self.local.restart_at(timeline, self.end());
        Ok(())
    }

    /// Takes bytes, which have to be the next.
    pub(super) async fn append(&mut self, start: Lsn, bytes: &[u8]) -> Result<(), FollowError> {
        let wanted = self.end();
        if start != wanted {
            return Err(FollowError::Gap {
                found: start,
                wanted,
            });
        }
        loop {
            match self.local.append(self.timeline, start, bytes)? {
                Appended::Buffered => break,
                Appended::BufferFull => {
                    self.local.commit().await?;
                }
                Appended::Full => {
                    let what = "the local WAL is full, and the object store does not take it";
                    return Err(FollowError::Stalled(what.to_owned()));
                }
            }
        }
        self.pend(bytes);
        Ok(())
    }

    fn pend(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.pending_since.get_or_insert_with(now);
            self.pending.extend_from_slice(bytes);
        }
    }

    /// Makes all of it durable on the local disk.
    pub(super) async fn commit(&mut self) -> Result<(), FollowError> {
        self.local.commit().await?;
        Ok(())
    }

    /// What may be acknowledged.
    pub(super) fn acknowledged(&self) -> Lsn {
        match self.ack {
            Ack::Local => self.local.durable_lsn(),
            Ack::ObjectStore => self.stored,
        }
    }

    /// End of what the local disk has.
    pub(super) fn local_end(&self) -> Lsn {
        self.local.durable_lsn()
    }

    /// End of what the object store has.
    pub(super) fn stored_end(&self) -> Lsn {
        self.stored
    }

    /// How full the local disk's share is.
    pub(super) fn usage(&self) -> WalUsage {
        self.local.usage()
    }

    /// Whether more may wait for the object store.
    pub(super) fn has_room(&self) -> bool {
        let waiting = self.end().bytes_since(self.stored);
        waiting.is_none_or(|bytes| bytes < PENDING_BYTES_MAX)
    }

    /// Begins to store a piece, if it is time for one and none is on its way.
    pub(super) fn store_if_due(&mut self) {
        let Some(since) = self.pending_since else {
            return;
        };
        let is_due = match self.ack {
            Ack::ObjectStore => true,
            Ack::Local => self.pending.len() >= PIECE_BYTES || since.elapsed() >= PIECE_WAIT_MAX,
        };
        if is_due {
            self.store_now();
        }
    }

    /// Begins to store what waits, if none is on its way.
    pub(super) fn store_now(&mut self) {
        // Only what the local disk has: a piece is never ahead of it.
        let durable = self.local.durable_lsn().bytes_since(self.pending_start);
        let durable = durable
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(0);
        let bytes = durable.min(self.pending.len()).min(WAL_PIECE_BYTES_MAX);
        if bytes == 0 {
            return;
        }
        self.store = match std::mem::replace(&mut self.store, StoreSide::Moving) {
            StoreSide::Idle(mut store) => {
                let start = self.pending_start;
                let piece = self.pending.split_to(bytes).freeze();
                self.pending_start = Lsn(start.0 + bytes as u64);
                self.pending_since = (!self.pending.is_empty()).then(now);
                let storing = async move {
                    let outcome = store.put(start, piece, &BlockingThreads).await;
                    (store, outcome)
                };
                StoreSide::Storing(spawn_local(storing), self.pending_start)
            }
            busy => busy,
        };
    }

    /// Completes when the piece on its way is stored; never, if there is none.
    ///
    /// # Cancellation
    /// Safe: the piece goes on.
    pub(super) async fn stored(&mut self) -> Result<(), FollowError> {
        let StoreSide::Storing(storing, end) = &mut self.store else {
            return std::future::pending().await;
        };
        let end = *end;
        let (store, outcome) = joined(storing.await);
        self.store = StoreSide::Idle(store);
        outcome?;
        self.stored = end;
        Ok(())
    }

    /// Where WAL goes on behind `lsn`, if that can be told now: not while a piece is on its way.
    pub(super) fn position(&self, lsn: Lsn) -> Option<WalPosition> {
        match &self.store {
            StoreSide::Idle(store) => Some(store.position(page_start(lsn))),
            StoreSide::Storing(..) | StoreSide::Moving => None,
        }
    }

    /// Forgets pieces before `position`, which is committed; those of a piece on its way wait for the next time.
    pub(super) fn forget_before(&mut self, position: WalPosition) {
        if let StoreSide::Idle(store) = &mut self.store {
            store.forget_before(position);
        }
    }

    /// Gives up the piece under way: before the branch is opened anew.
    pub(super) async fn abandon(self) {
        if let StoreSide::Storing(storing, _) = self.store {
            abandon(storing).await;
        }
    }

    /// Gives back local WAL that the object store has.
    pub(super) async fn trim(&mut self) -> Result<(), FollowError> {
        if self.stored > self.trimmed {
            self.local.trim(self.stored).await?;
            self.trimmed = self.stored;
        }
        Ok(())
    }
}

/// Takes durable WAL, and does all the work of its records.
async fn take_all(intake: &mut Intake, start: Lsn, bytes: &[u8]) -> Result<(), FollowError> {
    intake.take(start, bytes)?;
    while intake.has_work() {
        intake.work().await?;
    }
    intake.advance().await
}

/// What a task of this thread came to; its panic goes on here.
pub(super) fn joined<T>(outcome: Result<T, JoinError>) -> T {
    outcome.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// Ends a task of this thread, and waits until it is gone.
pub(super) async fn abandon<T>(task: JoinHandle<T>) {
    task.abort();
    if let Err(error) = task.await
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Makes a directory, and those above it that are not there, so that a power loss does not take them back.
fn make_durably(dir: &Path) -> std::io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|path| !path.exists()).collect();
    fs::create_dir_all(dir)?;
    for made in missing {
        fs::File::open(made)?.sync_all()?;
        if let Some(parent) = made.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

/// WAL that waits for a piece is stored when there is so much of it,
const PIECE_BYTES: usize = 1 << 20;
/// or when it has waited so long, if acknowledgements do not wait for it.
const PIECE_WAIT_MAX: Duration = Duration::from_secs(1);
/// WAL that may wait for the object store.
const PENDING_BYTES_MAX: u64 = 64 << 20;

#[expect(clippy::disallowed_methods, reason = "since when WAL waits")]
fn now() -> Instant {
    Instant::now()
}
