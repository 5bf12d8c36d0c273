//! The simulated computer with the engine on it: starts the engine's own parts on the simulated platform, as
//! `engine.rs` does on real cores, and stops or kills them.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use engine::cache::{CacheConfig, CacheError, CacheLayout, ShardCache};
use engine::catalog::{Catalog, CatalogParts};
use engine::crypto::entropy::Entropy;
use engine::shard::{
    MeshEnd, Platform, Shard, ShardConfig, ShardCounters, ShardParts, SharedBranches,
};
use engine::store::client::queues;
use engine::store::worker::{self, WorkerParts};
use engine::store::{StoreClient, StoreConfig};
use engine::types::{Id, Partition};

use crate::coverage::Coverage;
use crate::disk::SimDisk;
use crate::executor::{Process, Simulator};
use crate::key_source::SimKeys;
use crate::model::SimKeySpace;
use crate::redo::PatternRedo;
use crate::rng::Rng;
use crate::store::SimStore;

/// What the engine runs on here.
pub struct SimPlatform;

impl Platform for SimPlatform {
    type Disk = SimDisk;
    type Clock = Simulator;
    type Spawner = Process;
}

/// Everything that outlives a process: disk, object store, key service, and the seed.
#[derive(Clone)]
pub struct Computer {
    /// Tasks and time.
    pub simulator: Simulator,
    /// The local disk.
    pub disk: SimDisk,
    /// The object store.
    pub store: SimStore,
    /// The key service.
    pub keys: Arc<SimKeys>,
    /// What faults met which phase.
    pub coverage: Coverage,
    entropy: Entropy,
    seed: u64,
    starts: Rc<std::cell::Cell<u64>>,
}

/// How a process is started.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Shards.
    pub cores: usize,
    /// The extent cache.
    pub cache: CacheConfig,
    /// Each shard.
    pub shard: ShardConfig,
    /// The store threads.
    pub store: StoreConfig,
    /// How many of them.
    pub store_threads: usize,
}

/// A running process of the engine.
pub struct Server {
    /// Its tasks.
    pub process: Process,
    /// One for each core.
    pub shards: Vec<Shard<SimPlatform>>,
    /// Tenants and branches.
    pub catalog: Catalog<StoreClient>,
    /// The branches that are open.
    pub branches: Arc<SharedBranches>,
    /// What each shard counted.
    pub counters: Vec<Arc<ShardCounters>>,
}

impl Computer {
    /// A computer with nothing on its disk and in its store.
    pub fn new(simulator: &Simulator, seed: u64, sector_bytes: usize) -> Computer {
        let coverage = Coverage::default();
        Computer {
            disk: SimDisk::new(
                simulator,
                Rng::split(seed, "disk"),
                coverage.clone(),
                sector_bytes,
            ),
            store: SimStore::new(simulator, Rng::split(seed, "store"), coverage.clone()),
            keys: Arc::new(SimKeys::new(Rng::split(seed, "keys"), coverage.clone())),
            coverage,
            entropy: Entropy::seeded(seed),
            simulator: simulator.clone(),
            seed,
            starts: Rc::default(),
        }
    }

    /// Starts the engine in a process; it serves when this returns. What is in the cache comes back while it does.
    /// # Errors
    /// What [`CacheLayout::prepare`] says.
    /// # Cancellation
    /// Dropping the future leaves tasks in the process, which has to be killed.
    pub async fn start(
        &self,
        process: Process,
        config: ServerConfig,
    ) -> Result<Server, CacheError> {
        let number = self.starts.get();
        self.starts.set(number + 1);
        let (client, jobs) = queues(&config.store);
        for thread in 0..config.store_threads {
            let parts = WorkerParts {
                objects: self.store.clone(),
                clock: self.simulator.clone(),
                spawner: process.clone(),
                disk: self.disk.clone(),
                random: Rng::split(self.seed, &format!("jitter {number} {thread}")).into_core(),
            };
            process.spawn(worker::run(jobs.clone(), parts, config.store.clone()));
        }
        drop(jobs);
        let parts = CatalogParts {
            provider: Arc::clone(&self.keys) as _,
            entropy: self.entropy.clone(),
            key_space: Arc::new(SimKeySpace),
            key_space_tag: *b"simulatd",
        };
        let catalog = Catalog::new(client.clone(), parts);
        let branches = Arc::new(SharedBranches::new(catalog.clone()));
        let (layout, mut loader) = CacheLayout::prepare(
            &self.disk,
            Path::new("cache"),
            &config.cache,
            Id([7; 16]),
            config.cores,
        )
        .await?;
        let mut shards = Vec::new();
        let mut counters = Vec::new();
        for mesh in MeshEnd::mesh(config.cores, MESH_MESSAGES) {
            let counter = Arc::<ShardCounters>::default();
            counters.push(Arc::clone(&counter));
            shards.push(Shard::<SimPlatform>::start(ShardParts {
                cache: ShardCache::open(&self.disk, &layout).await,
                config: config.shard.clone(),
                mesh,
                cache_layout: layout.clone(),
                clock: self.simulator.clone(),
                spawner: process.clone(),
                store: client.clone(),
                key_space: Arc::new(SimKeySpace),
                redo: Arc::new(PatternRedo),
                branches: Arc::clone(&branches),
                counters: counter,
            }));
        }
        let cores = shards.clone();
        process.spawn(async move {
            let owner = |partition: Partition| usize::from(partition.number()) % cores.len();
            while let Some((core, deal)) = loader.next(owner).await {
                cores[core].accept(deal);
            }
        });
        self.simulator
            .event(format_args!("server {number} with {} cores", config.cores));
        Ok(Server {
            process,
            shards,
            catalog,
            branches,
            counters,
        })
    }

    /// Ends a process.
    pub fn end(&self, process: &Process, how: End) {
        process.kill();
        match how {
            End::Exit => self.disk.process_killed(),
            End::Kill => {
                self.coverage.count("process kill");
                self.disk.process_killed();
            }
            End::PowerLoss => self.disk.power_lost(),
        }
    }
}

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// By itself, when it has done all it wanted.
    Exit,
    /// By `kill -9`.
    Kill,
    /// With its computer.
    PowerLoss,
}

/// Messages in each ring between two cores: so few that rings fill up.
const MESH_MESSAGES: usize = 4;
