//! Opening a branch for an ingest.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::compaction::{CompactionConfig, Compactor, Garbage};
use super::error::IngestError;
use super::flusher::Flusher;
use super::made_layers::LayerMaker;
use super::old_wal::OldWal;
use super::on_cores::OnCores;
use super::version_writer::VersionWriter;
use super::wal_replay::WalReplay;
use crate::catalog::LayerStore;
use crate::crypto::page_seal::{Dek, DekId};
use crate::io::clock::Clock;
use crate::layer::LayerConfig;
use crate::manifest::{BranchFacts, KeyTables, WriterNames};
use crate::shard::{Shard, SharedBranches, Writing};
use crate::store::StoreClient;
use crate::types::{BranchId, Lsn, TenantId};
use crate::wal::{DekError, WalDeks};

/// Settings of an ingest.
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// How layers are cut.
    pub layer: LayerConfig,
    /// When layers are merged.
    pub compaction: CompactionConfig,
    /// Longest wait for the branch to open. Default 30 s.
    pub open_deadline: Duration,
}

impl Default for IngestConfig {
    fn default() -> IngestConfig {
        IngestConfig {
            layer: LayerConfig::default(),
            compaction: CompactionConfig::default(),
            open_deadline: Duration::from_secs(30),
        }
    }
}

/// A branch that is open for writing, in parts that run side by side.
pub struct Ingest<C> {
    /// What the manifest says.
    pub facts: BranchFacts,
    /// Takes versions.
    pub versions: VersionWriter<C>,
    /// Makes layers of them, and commits what compaction makes.
    pub flusher: Flusher<C>,
    /// Merges layers.
    pub compactor: Compactor<C>,
    /// Deletes what no manifest names, and WAL of history that was given up.
    pub garbage: Garbage,
    /// The stored WAL behind the manifest's last LSN: to be decoded first.
    pub replay: WalReplay,
    /// Keys for what is kept locally.
    pub keys: IngestKeys,
}

/// Keys of the branch for what its writer keeps outside the object store. Cheap to clone.
#[derive(Clone)]
pub struct IngestKeys {
    objects: StoreClient,
    names: Arc<WriterNames<StoreClient>>,
    tables: Arc<KeyTables>,
    branch: BranchId,
}

impl IngestKeys {
    /// A key that was never handed out before; its wrapping is durable in the object store.
    ///
    /// # Errors
    /// Of store and keys.
    pub async fn next(&self) -> Result<(DekId, Arc<Dek>), IngestError> {
        Ok(self.names.next_dek().await?)
    }

    /// A key that was handed out, perhaps to another process.
    ///
    /// # Errors
    /// Of store and keys.
    pub async fn open(&self, id: DekId) -> Result<Arc<Dek>, IngestError> {
        Ok(self.tables.dek(&self.objects, self.branch, id).await?)
    }
}

impl WalDeks for IngestKeys {
    async fn next_dek(&self) -> Result<(DekId, Arc<Dek>), DekError> {
        Ok(self.next().await?)
    }

    async fn dek(&self, id: DekId) -> Result<Arc<Dek>, DekError> {
        Ok(self.open(id).await?)
    }
}

/// Claims the next epoch of a branch and opens it on all cores. Whoever wrote it before is fenced when this returns.
///
/// A former ingest of this process may have left versions in memory that are in no layer: readers go on finding them, and
/// they are flushed with what comes; unless somebody else wrote the branch in between.
///
/// # Errors
/// Of catalog, store and keys; [`IngestError::Open`] where it can't be read.
pub async fn open<C: OnCores>(
    branches: &Arc<SharedBranches>,
    cores: C,
    clock: &impl Clock,
    (tenant, branch): (TenantId, BranchId),
    config: IngestConfig,
) -> Result<Ingest<C>, IngestError> {
    let catalog = branches.catalog();
    let objects = catalog.objects().clone();
    let owner = (tenant, branch);
    let number = branches.open(owner, clock, config.open_deadline).await?;
    let shared = branches.get(number);
    let writing = Writing::begin(&shared);
    let of_tenant = catalog.tenant(tenant).await?;
    let keys = Arc::clone(of_tenant.keys());
    let log = catalog.claim_branch(&of_tenant, branch).await?;
    let facts = log.facts().clone();
    writing.claimed(facts.epoch);
    // It may have been open since before somebody else wrote it: then what is in memory is not what came of it.
    let before = shared.manifest();
    let is_ours = before.facts().epoch + 1 >= facts.epoch;
    shared.set_manifest(Arc::new(before.with_state(log.state().clone())));
    if let Some(horizon) = facts.readable_from {
        // It may have been raised by a commit whose end nobody here has seen.
        shared.raise_horizon(horizon);
    }
    let above = if is_ours { facts.last_lsn } else { Lsn::MAX };
    if !is_ours {
        shared.go_back_to(facts.last_lsn);
    }
    let reopening = (0..cores.count()).map(|core| {
        cores.on_core(core, async move |shard: Shard<C::Platform>| {
            shard.reopen(number, above);
        })
    });
    let reopened: Option<Vec<()>> = join_all(reopening).await.into_iter().collect();
    reopened.ok_or(IngestError::CoreStopped)?;
    shared.advance(facts.last_lsn);

    let names = Arc::clone(log.names());
    let imported = facts.base_backup.map_or(0, |backup| backup.wal_objects);
    let replay = WalReplay {
        objects: objects.clone(),
        keys: Arc::clone(&keys),
        owner,
        epoch: facts.epoch,
        names: Arc::clone(&names),
        next: facts.wal.map_or(imported, |wal| wal.piece),
        end: facts.wal.map(|wal| wal.lsn),
        pieces: VecDeque::new(),
        is_claimed: false,
        next_entry: log.state().next_number(),
    };
    let key_space = Arc::clone(catalog.key_space());
    let redo = cores.on_core(0, async |shard: Shard<C::Platform>| shard.redo());
    let redo = redo.await.ok_or(IngestError::CoreStopped)?;
    let layers = LayerMaker {
        store: Arc::new(LayerStore {
            objects: objects.clone(),
            key_space: Arc::clone(&key_space),
            tenant,
            names: Arc::clone(&names),
            config: config.layer,
        }),
        cores: cores.clone(),
    };
    Ok(Ingest {
        versions: VersionWriter::new(
            branch,
            Arc::clone(&shared),
            cores,
            key_space,
            facts.last_lsn,
        ),
        compactor: Compactor {
            place: owner,
            layers: layers.clone(),
            branches: Arc::clone(branches),
            shared: Arc::clone(&shared),
            store: objects.clone(),
            redo,
            config: config.compaction.clone(),
            jobs: RefCell::default(),
        },
        garbage: Garbage {
            place: owner,
            epoch: facts.epoch,
            shared: Arc::clone(&shared),
            store: objects.clone(),
            delete_after: config.compaction.delete_after,
            has_looked: false,
            waiting: VecDeque::new(),
            wal: OldWal {
                place: owner,
                shared: Arc::clone(&shared),
                store: objects.clone(),
                keys: Arc::clone(&keys),
                clean_below: Lsn::INVALID,
                cursor: None,
                due: VecDeque::new(),
            },
        },
        facts,
        flusher: Flusher {
            log,
            layers,
            branches: Arc::clone(branches),
            shared,
            _writing: writing,
            broken: false,
        },
        replay,
        keys: IngestKeys {
            objects,
            names,
            tables: keys,
            branch,
        },
    })
}
