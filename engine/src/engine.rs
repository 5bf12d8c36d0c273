//! The engine on real cores: one executor and shard per core, store threads, and the way in from other threads. The
//! only place where shards meet the runtimes bound in `io`.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};

use crate::cache::{CacheConfig, CacheError, CacheLayout, CacheStats, Deal, Loader, ShardCache};
use crate::catalog::Cpu;
use crate::check::{self, CheckConfig, CheckReport, Inspector};
use crate::ingest::{self, Ingest, IngestConfig, IngestError};
use crate::io::clock::Spawner;
use crate::io::executor::{CoreConfig, CoreError, CoreHandle, allowed_cpus, start_core};
use crate::io::glommio_clock::{GlommioClock, GlommioSpawner};
use crate::io::ring_disk::RingDisk;
use crate::io::tokio_clock::TokioClock;
use crate::redo::Redo;
use crate::shard::{
    LatencyHistograms, MeshEnd, Platform, Shard, ShardConfig, ShardCounters, ShardCounts,
    ShardParts, SharedBranches,
};
use crate::store::StoreClient;
use crate::store::stats::StoreStatsSnapshot;
use crate::types::{BranchId, Id, KeySpace, Partition, TenantId};

/// What the engine runs on in production.
pub struct Cores;

impl Platform for Cores {
    type Disk = RingDisk;
    type Clock = GlommioClock;
    type Spawner = GlommioSpawner;
}

/// A core's handle, for code that runs on that core.
pub type Core = Shard<Cores>;
/// A window of reads on a core.
pub type Reads = crate::shard::Reads<Cores>;

/// Settings of the whole engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Where cache files and their index are. The caller makes sure that no other engine uses it.
    pub data_dir: PathBuf,
    /// Cores to use, each with a shard. Range 1..=256. Default: those the process may run on.
    pub cores: usize,
    /// Pin each core's thread to a CPU. Default true.
    pub pin: bool,
    /// Limits of each shard.
    pub shard: ShardConfig,
    /// The cache on disk.
    pub cache: CacheConfig,
    /// How long a core whose device is at work spins before it sleeps, where its last wait was as short. Range 0..=1 ms.
    /// Default 0.
    pub spin: Duration,
}

impl EngineConfig {
    /// Production defaults, with everything local below `data_dir`.
    pub fn new(data_dir: PathBuf) -> EngineConfig {
        EngineConfig {
            data_dir,
            cores: allowed_cpus().map_or(1, |cpus| cpus.len()),
            pin: true,
            shard: ShardConfig::default(),
            cache: CacheConfig::default(),
            spin: Duration::ZERO,
        }
    }

    /// All problems at once: field, value, range. Empty if there are none.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.shard.problems();
        problems.extend(self.cache.validate());
        if !(1..=256).contains(&self.cores) {
            problems.push(format!("cores: {} is not in 1..=256", self.cores));
        }
        if self.spin > Duration::from_millis(1) {
            problems.push(format!("spin: {:?} is not in 0ns..=1ms", self.spin));
        }
        problems
    }
}

/// What the engine is made of, besides numbers.
pub struct EngineParts {
    /// The way to the object store; see [`crate::io::store_thread::StoreThreads`].
    pub store: StoreClient,
    /// Which partition owns a key.
    pub key_space: Arc<dyn KeySpace>,
    /// How deltas are applied.
    pub redo: Arc<dyn Redo>,
    /// Opens branches: names, manifests, keys.
    pub branches: Arc<SharedBranches>,
    /// Identifies this server: a cache of another one is not taken over.
    pub server: Id,
    /// When the process started: the origin of all its clocks.
    pub origin: Instant,
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings out of range, all of them.
    #[error("configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// A core could not be set up.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The cache could not be opened.
    #[error("cache: {0}")]
    Cache(#[from] CacheError),
    /// Another core did not start; its own error says why.
    #[error("another core did not start")]
    Stopped,
    /// Which CPUs there are is not known.
    #[error("affinity of this process: {0}")]
    Affinity(std::io::Error),
}

/// What all cores did.
#[derive(Clone)]
pub struct EngineStats {
    /// Sums over the cores.
    pub counts: ShardCounts,
    /// Latencies of all cores.
    pub latency: LatencyHistograms,
    /// The caches of all cores together.
    pub cache: CacheStats,
    /// The cache of each core that answered, by the core's number.
    pub core_caches: Vec<(usize, CacheStats)>,
    /// The store threads.
    pub store: StoreStatsSnapshot,
}

/// Something to run on a core.
type CoreTask = Box<dyn FnOnce(Core) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The running engine. `Send` and `Sync`; dropping it stops the cores without waiting for them.
pub struct Engine {
    cores: Vec<CoreEnd>,
    store: StoreClient,
    branches: Arc<SharedBranches>,
    clock: TokioClock,
    joins: Mutex<Vec<CoreHandle<()>>>,
}

struct CoreEnd {
    tasks: Sender<CoreTask>,
    counters: Arc<ShardCounters>,
}

impl Engine {
    /// Starts one pinned executor per core and its shard. Returns when all of them serve; cached extents come back
    /// while they do.
    /// # Errors
    /// [`StartError`]; what had started is stopped again.
    pub fn start(config: &EngineConfig, parts: EngineParts) -> Result<Engine, StartError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }
        let cpus = allowed_cpus().map_err(StartError::Affinity)?;
        let mut engine = Engine {
            cores: Vec::new(),
            store: parts.store.clone(),
            branches: Arc::clone(&parts.branches),
            clock: TokioClock::since(parts.origin),
            joins: Mutex::default(),
        };
        let mut ready = Vec::new();
        // The first core prepares the cache's files; the others, and the starter, wait to hear of them.
        let (layout_out, layout_in) = async_channel::bounded(config.cores);
        let (deals_out, deals_in): (Vec<_>, Vec<_>) = (0..config.cores)
            .map(|_| async_channel::bounded(DEALS_MAX))
            .unzip();
        let ends = MeshEnd::mesh(config.cores, MESH_MESSAGES);
        for (core, (mesh, deals)) in ends.into_iter().zip(deals_in).enumerate() {
            let (tasks, inbox) = async_channel::bounded(TASKS_MAX);
            let (report, reported) = std::sync::mpsc::sync_channel(1);
            let counters = Arc::<ShardCounters>::default();
            let start = CoreStart {
                config: config.clone(),
                server: parts.server,
                mesh,
                counters: Arc::clone(&counters),
                store: parts.store.clone(),
                key_space: Arc::clone(&parts.key_space),
                redo: Arc::clone(&parts.redo),
                branches: Arc::clone(&parts.branches),
                origin: parts.origin,
                layout_out: layout_out.clone(),
                layout_in: layout_in.clone(),
                deals_out: deals_out.clone(),
                deals,
            };
            let core_config = CoreConfig {
                name: format!("core-{core}"),
                cpu: config.pin.then(|| cpus[core % cpus.len()]),
                spin: config.spin,
                read_buffers: config.shard.readers,
            };
            let join = start_core(core_config, async move || {
                run_core(start, inbox, report).await
            })?;
            engine
                .joins
                .get_mut()
                .expect("nobody else has it yet")
                .push(join);
            engine.cores.push(CoreEnd { tasks, counters });
            ready.push(reported);
        }
        drop((layout_out, layout_in, deals_out));
        for reported in ready {
            match reported.recv() {
                Ok(outcome) => outcome?,
                // The core ended before it could report: joining it tells why.
                Err(std::sync::mpsc::RecvError) => {
                    engine.stop()?;
                    return Err(StartError::Stopped);
                }
            }
        }
        Ok(engine)
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// Runs `task` on a core, with that core's handle; returns once it is queued. The task runs until it ends or the
    /// engine stops.
    pub async fn run_on_core<F>(&self, core: usize, task: F)
    where
        F: AsyncFnOnce(Core) + Send + 'static,
    {
        let task: CoreTask = Box::new(move |core| Box::pin(async move { task(core).await }));
        // A stopped core runs nothing; whoever waits for the task sees its channels close.
        let _ = self.cores[core].tasks.send(task).await;
    }

    /// Claims a branch for writing, while it is read; see [`ingest::open`]. To be called on a thread with a tokio runtime that
    /// is no core's.
    ///
    /// # Errors
    /// As [`ingest::open`].
    pub async fn ingest(
        self: &Arc<Self>,
        place: (TenantId, BranchId),
        config: IngestConfig,
    ) -> Result<Ingest<Arc<Engine>>, IngestError> {
        ingest::open(&self.branches, Arc::clone(self), &self.clock, place, config).await
    }

    /// Checks a branch as it is stored; `progress` hears of what was seen so far. Reads behind all else and works on `cpu`; has
    /// [`CheckConfig::step_bytes`] of layers in memory at once, opened. To be called as [`Engine::ingest`] is.
    ///
    /// # Errors
    /// What keeps the check from going on: the store is away, keys are refused, the manifest does not open. All else that is
    /// damaged or missing is in the report.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn check_branch(
        self: &Arc<Self>,
        place: (TenantId, BranchId),
        config: &CheckConfig,
        inspector: &Arc<dyn Inspector>,
        cpu: &impl Cpu,
        progress: impl FnMut(&CheckReport),
    ) -> Result<CheckReport, IngestError> {
        let branch = check::CheckedBranch {
            branches: &self.branches,
            place,
        };
        check::check_branch(
            branch,
            self,
            &self.clock,
            (config, inspector),
            cpu,
            progress,
        )
        .await
    }

    /// Counters and histograms of all cores. Costs one message to each.
    pub async fn stats(&self) -> EngineStats {
        let mut stats = EngineStats {
            counts: ShardCounts::default(),
            latency: LatencyHistograms::default(),
            cache: CacheStats::default(),
            core_caches: Vec::new(),
            store: self.store.stats(),
        };
        for (number, end) in self.cores.iter().enumerate() {
            let (reply, answer) = async_channel::bounded(1);
            self.run_on_core(number, async move |core: Core| {
                core.refresh_gauges();
                // Whoever asked may have gone.
                let _ = reply.send((core.latency(), core.cache_stats())).await;
            })
            .await;
            if let Ok((latency, cache)) = answer.recv().await {
                stats.latency.merge(&latency);
                stats.cache.merge(&cache);
                stats.core_caches.push((number, cache));
            }
            stats.counts.merge(&end.counters.snapshot());
        }
        stats
    }

    /// Whether a core or a store thread has ended though nobody stopped it: a panic took it down, and what it owned is
    /// served no more. The process is better ended than kept.
    pub fn has_lost_thread(&self) -> bool {
        if self.store.has_lost_thread() {
            return true;
        }
        let joins = self.joins.lock().unwrap_or_else(|e| e.into_inner());
        joins.iter().any(CoreHandle::is_finished)
    }

    /// Stops the cores: tasks still at work on them get no further, the cache's index is saved. Blocks until they have ended.
    /// # Errors
    /// The first core that panicked.
    pub fn stop(&self) -> Result<(), CoreError> {
        for end in &self.cores {
            end.tasks.close();
        }
        let joins = std::mem::take(&mut *self.joins.lock().unwrap_or_else(|e| e.into_inner()));
        joins.into_iter().try_for_each(CoreHandle::join)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for end in &self.cores {
            end.tasks.close();
        }
    }
}

/// What a core's thread starts from.
struct CoreStart {
    config: EngineConfig,
    server: Id,
    mesh: MeshEnd,
    counters: Arc<ShardCounters>,
    store: StoreClient,
    key_space: Arc<dyn KeySpace>,
    redo: Arc<dyn Redo>,
    branches: Arc<SharedBranches>,
    origin: Instant,
    layout_out: Sender<CacheLayout>,
    layout_in: Receiver<CacheLayout>,
    deals_out: Vec<Sender<Deal>>,
    deals: Receiver<Deal>,
}

async fn run_core(
    start: CoreStart,
    inbox: Receiver<CoreTask>,
    report: std::sync::mpsc::SyncSender<Result<(), StartError>>,
) {
    let spawner = GlommioSpawner;
    // The starter waits until it hears from every core, so what is reported is always received.
    match serve_core(start, &spawner).await {
        Ok(core) => {
            let _ = report.send(Ok(()));
            while let Ok(task) = inbox.recv().await {
                spawner.spawn(task(core.clone()));
            }
            core.save_cache_index().await;
        }
        Err(error) => {
            let _ = report.send(Err(error));
        }
    }
}

/// Starts the shard of this core; its share of the cache comes while it serves.
async fn serve_core(start: CoreStart, spawner: &GlommioSpawner) -> Result<Core, StartError> {
    let CoreStart {
        config,
        mesh,
        layout_out,
        layout_in,
        deals_out,
        deals,
        ..
    } = start;
    let disk = RingDisk::new(config.shard.readers);
    let cores = mesh.cores();
    let layout = if mesh.core() == 0 {
        let prepared =
            CacheLayout::prepare(&disk, &config.data_dir, &config.cache, start.server, cores)
                .await?;
        let (layout, loader) = prepared;
        for _ in 1..cores {
            layout_out
                .send(layout.clone())
                .await
                .map_err(|_| StartError::Stopped)?;
        }
        GlommioSpawner.spawn(load_cache(loader, deals_out, cores));
        layout
    } else {
        // If the first core fails it drops its end, and this one hears of it.
        drop((layout_out, deals_out));
        layout_in.recv().await.map_err(|_| StartError::Stopped)?
    };
    let core = Shard::<Cores>::start(ShardParts {
        cache: ShardCache::open(&disk, &layout).await,
        config: config.shard,
        mesh,
        cache_layout: layout,
        clock: GlommioClock::since(start.origin),
        spawner: *spawner,
        store: start.store,
        key_space: start.key_space,
        redo: start.redo,
        branches: start.branches,
        counters: start.counters,
    });
    let taker = core.clone();
    GlommioSpawner.spawn(async move {
        while let Ok(deal) = deals.recv().await {
            taker.accept(deal);
        }
    });
    Ok(core)
}

/// Deals what earlier runs left in the cache to the cores that own it now.
async fn load_cache(mut loader: Loader<RingDisk>, deals: Vec<Sender<Deal>>, cores: usize) {
    let owner = |partition: Partition| usize::from(partition.number()) % cores;
    while let Some((core, deal)) = loader.next(owner).await {
        if deals[core].send(deal).await.is_err() {
            return;
        }
    }
}

/// Messages in each ring between two cores.
const MESH_MESSAGES: usize = 256;
/// Tasks that wait to be started on a core.
const TASKS_MAX: usize = 64;
/// Pieces of the cache's index that wait for a core to take them.
const DEALS_MAX: usize = 4;
