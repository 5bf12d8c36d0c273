//! Takes versions and hands them to the cores that own their keys.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::join_all;

use super::error::IngestError;
use super::on_cores::OnCores;
use crate::layer::Value;
use crate::memory::{MemoryLayer, VersionBatch};
use crate::shard::{Shard, SharedBranch};
use crate::types::{BranchId, Key, KeySpace, Lsn};

/// The way in for the versions of one branch.
///
/// A call that failed, or a [`VersionWriter::freeze`] that was dropped before its end, may have left cores with different parts:
/// every later one is refused with [`IngestError::Broken`]. Readers see nothing of it, since the last LSN did not move.
pub struct VersionWriter<C> {
    branch: BranchId,
    shared: Arc<SharedBranch>,
    cores: C,
    key_space: Arc<dyn KeySpace>,
    /// What the next [`VersionWriter::advance`] brings to each core.
    batches: Vec<VersionBatch>,
    /// Bytes in the active memory layer of each core, as it said last.
    active_bytes: Vec<usize>,
    advancing: Option<Advancing>,
    last_lsn: Lsn,
    broken: bool,
}

/// Memory layers of all cores that change no more: every version above the last flush up to an LSN.
pub struct Frozen {
    pub(super) layers: Vec<Arc<MemoryLayer>>,
    pub(super) lsn: Lsn,
}

impl Frozen {
    /// All versions up to here are in it or were before.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Memory it takes, in bytes, until it is flushed.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.bytes()).sum()
    }
}

impl<C: OnCores> VersionWriter<C> {
    pub(super) fn new(
        branch: BranchId,
        shared: Arc<SharedBranch>,
        cores: C,
        key_space: Arc<dyn KeySpace>,
        last_lsn: Lsn,
    ) -> VersionWriter<C> {
        let count = cores.count();
        VersionWriter {
            branch,
            shared,
            key_space,
            batches: (0..count).map(|_| VersionBatch::default()).collect(),
            active_bytes: vec![0; count],
            advancing: None,
            cores,
            last_lsn,
            broken: false,
        }
    }

    /// Adds a version to what the next [`VersionWriter::advance`] makes readable. Of versions with the same key and LSN
    /// the last counts. Allocates nothing but the batch's growth.
    ///
    /// # Panics
    /// If the value is longer than a page, or the LSN is none.
    pub fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) {
        let core = usize::from(self.key_space.partition(&key).number()) % self.batches.len();
        self.batches[core].push(key, lsn, value);
    }

    /// Bytes that wait for the next [`VersionWriter::advance`], or are on their way.
    pub fn pending_bytes(&self) -> usize {
        let waiting: usize = self.batches.iter().map(VersionBatch::bytes).sum();
        waiting
            + self
                .advancing
                .as_ref()
                .map_or(0, |advancing| advancing.bytes)
    }

    /// Bytes in the active memory layers: what the next freeze takes.
    pub fn active_bytes(&self) -> usize {
        self.active_bytes.iter().sum()
    }

    /// Up to where the branch can be read.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// Hands on what was put, all of it at or below `lsn`; when this returns, readers see it. One message to each core that
    /// gets something.
    ///
    /// # Errors
    /// `Backwards`, `CoreStopped`.
    pub async fn advance(&mut self, lsn: Lsn) -> Result<(), IngestError> {
        self.advanced().await?;
        self.begin_advance(lsn)?;
        self.advanced().await
    }

    /// Begins the same; [`VersionWriter::advanced`] brings it about. What is put from now on is not part of it.
    ///
    /// # Errors
    /// `Backwards`.
    ///
    /// # Panics
    /// If another one is under way.
    pub fn begin_advance(&mut self, lsn: Lsn) -> Result<(), IngestError> {
        assert!(!self.is_advancing(), "one after the other");
        self.check_sound()?;
        if lsn < self.last_lsn {
            return Err(IngestError::Backwards {
                branch: self.branch,
                lsn,
                last: self.last_lsn,
            });
        }
        let number = self.shared.number;
        let bytes = self.pending_bytes();
        let mut taking = Vec::new();
        for (core, batch) in self.batches.iter_mut().enumerate() {
            if batch.is_empty() {
                continue;
            }
            let batch = std::mem::take(batch);
            let cores = self.cores.clone();
            taking.push(async move {
                let take =
                    async move |shard: Shard<C::Platform>| shard.take_versions(number, batch);
                (core, cores.on_core(core, take).await)
            });
        }
        self.advancing = Some(Advancing {
            lsn,
            bytes,
            taking: Box::pin(join_all(taking)),
        });
        Ok(())
    }

    /// Whether versions are on their way to the cores.
    pub fn is_advancing(&self) -> bool {
        self.advancing.is_some()
    }

    /// Completes when readers see what is on its way, if something is.
    ///
    /// # Errors
    /// `CoreStopped`.
    ///
    /// # Cancellation
    /// Safe: it goes on with the next call.
    pub async fn advanced(&mut self) -> Result<(), IngestError> {
        self.check_sound()?;
        let Some(advancing) = &mut self.advancing else {
            return Ok(());
        };
        let lsn = advancing.lsn;
        let taken = (&mut advancing.taking).await;
        self.advancing = None;
        for (core, bytes) in taken {
            let Some(bytes) = bytes else {
                self.broken = true;
                return Err(IngestError::CoreStopped);
            };
            self.active_bytes[core] = bytes;
        }
        self.last_lsn = lsn;
        self.shared.advance(lsn);
        Ok(())
    }

    /// Freezes what is in memory at the last LSN; what comes from now on goes into new memory layers. What was put and not
    /// handed on stays where it is; what is on its way is waited for. The flush of what was frozen before has to be over.
    ///
    /// # Errors
    /// `CoreStopped`.
    pub async fn freeze(&mut self) -> Result<Frozen, IngestError> {
        self.advanced().await?;
        self.broken = true;
        let number = self.shared.number;
        let cores = &self.cores;
        let freezing = (0..cores.count()).map(|core| {
            cores.on_core(core, async move |shard: Shard<C::Platform>| {
                shard.freeze(number)
            })
        });
        let layers: Option<Vec<_>> = join_all(freezing).await.into_iter().collect();
        let layers = layers.ok_or(IngestError::CoreStopped)?;
        self.active_bytes.fill(0);
        self.broken = false;
        Ok(Frozen {
            layers,
            lsn: self.last_lsn,
        })
    }

    fn check_sound(&self) -> Result<(), IngestError> {
        let branch = self.branch;
        match self.broken {
            true => Err(IngestError::Broken { branch }),
            false => Ok(()),
        }
    }
}

/// Versions on their way to the cores.
struct Advancing {
    lsn: Lsn,
    bytes: usize,
    taking: Pin<Box<dyn Future<Output = Vec<TakenBy>>>>,
}

/// A core, and the bytes it has in memory then; `None` if it has stopped.
type TakenBy = (usize, Option<usize>);
