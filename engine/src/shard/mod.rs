//! One core's share of the engine: the partitions it owns, their cache, and the windows of those who ask here.
//!
//! A shard shares nothing with the others but messages. Everything in it is `!Send` and runs on one executor; the
//! same code runs on glommio and in the simulator, through [`Platform`].
//!
//! Invariants: a request is answered exactly once, into the window that pushed it; a read that needs the store never
//! holds a reader; what the shard holds in memory is bounded by its config and by the reads in flight.

mod branches;
mod config;
mod delta_chain;
mod extent_flight;
mod fetch;
mod images;
mod ingest;
mod layers;
mod local_event;
mod mesh;
mod open_layer;
mod page_pool;
mod read_ahead;
mod read_path;
mod reader_queue;
mod reads;
mod refresh;
mod request;
mod scan;
mod shared_branch;
mod shared_load;
mod single_load;
mod stats;
mod window;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use crate::cache::{
    CacheLayout, CacheStats, Deal, DirectoryCache, ExtentId, PageVersion, RamTier, ShardCache,
};
use crate::error::{ErrorKind, ReadError};
use crate::io::clock::{Clock, Spawner};
use crate::io::disk::Disk;
use crate::layer::{BlockScratch, ExtentDirectory};
use crate::manifest::Branch;
use crate::planted::{PlantedBug, planted};
use crate::redo::Redo;
use crate::store::StoreClient;
use crate::types::{BranchId, Key, KeySpace, Lsn, TenantId};

pub use self::branches::SharedBranches;
pub use self::config::ShardConfig;
pub(crate) use self::ingest::LayerExchange;
pub use self::mesh::MeshEnd;
pub(crate) use self::open_layer::{LayerKey, OpenLayer};
pub use self::page_pool::Page;
pub use self::reads::Reads;
pub(crate) use self::shared_branch::{SharedBranch, Writing};
pub use self::stats::{Counter, LatencyHistograms, ShardCounters, ShardCounts};
pub use self::window::{Answer, Order};

use self::extent_flight::ExtentFlight;
use self::layers::{BranchOnCore, LayerTable};
use self::page_pool::PagePool;
use self::read_ahead::ReadAhead;
use self::read_path::{Patience, Stop};
use self::reader_queue::ReaderQueue;
use self::request::{Message, ReadAnswer, ReadRequest};
use self::window::Windows;

/// What a shard runs on.
pub trait Platform: 'static {
    /// Its disk.
    type Disk: Disk;
    /// Its clock.
    type Clock: Clock;
    /// Starts its tasks.
    type Spawner: Spawner;
}

/// What a shard is made of.
pub struct ShardParts<P: Platform> {
    /// Limits.
    pub config: ShardConfig,
    /// Its end of the mesh.
    pub mesh: MeshEnd,
    /// The cache's slots that belong to this core.
    pub cache: ShardCache<P::Disk>,
    /// The files that all cores' slots are in.
    pub cache_layout: CacheLayout,
    /// Its clock.
    pub clock: P::Clock,
    /// Starts its tasks.
    pub spawner: P::Spawner,
    /// The way to the object store.
    pub store: StoreClient,
    /// Which partition owns a key.
    pub key_space: Arc<dyn KeySpace>,
    /// How deltas are applied.
    pub redo: Arc<dyn Redo>,
    /// The branches open in this process.
    pub branches: Arc<SharedBranches>,
    /// Where it counts.
    pub counters: Arc<ShardCounters>,
}

/// A handle on one core's shard. Cheap to clone; stays on its core.
pub struct Shard<P: Platform>(Rc<ShardState<P>>);

impl<P: Platform> Clone for Shard<P> {
    fn clone(&self) -> Self {
        Shard(Rc::clone(&self.0))
    }
}

/// A branch that is open on this core. Cheap to clone; stays on its core.
#[derive(Clone)]
pub struct BranchHandle(Rc<BranchOnCore>);

impl BranchHandle {
    /// The first LSN that can be read.
    pub fn readable_from(&self) -> Lsn {
        self.0.readable_from()
    }

    /// The last LSN there is.
    pub fn last_lsn(&self) -> Lsn {
        self.0.last_lsn()
    }

    /// Has it compared with the object store within [`ShardConfig::refresh_every`], if other processes may write it: for those
    /// who wait for an LSN. What is read does so anyway.
    pub fn want(&self) {
        self.0.want();
    }

    /// What its manifest says, as this process has it: up to where it is durable.
    pub fn manifest(&self) -> Arc<Branch> {
        self.0.manifest()
    }
}

/// The state behind a [`Shard`].
struct ShardState<P: Platform> {
    config: ShardConfig,
    mesh: MeshEnd,
    clock: P::Clock,
    spawner: P::Spawner,
    store: StoreClient,
    key_space: Arc<dyn KeySpace>,
    redo: Arc<dyn Redo>,
    branches: Arc<SharedBranches>,
    counters: Arc<ShardCounters>,
    cache: ShardCache<P::Disk>,
    cache_files: Vec<Arc<Path>>,
    ram: RefCell<RamTier>,
    directories: RefCell<DirectoryCache<ExtentId, Rc<ExtentDirectory>>>,
    scratch: RefCell<BlockScratch>,
    layers: LayerTable,
    flights: RefCell<HashMap<ExtentId, Rc<ExtentFlight>, ahash::RandomState>>,
    read_ahead: RefCell<ReadAhead>,
    queue: ReaderQueue,
    windows: Windows,
    pool: PagePool,
    histograms: RefCell<LatencyHistograms>,
}

impl<P: Platform> Shard<P> {
    /// Starts the shard's tasks: its readers and the pump of its mesh. They end with the executor.
    pub fn start(parts: ShardParts<P>) -> Shard<P> {
        let config = parts.config;
        let state = Rc::new(ShardState::<P> {
            mesh: parts.mesh,
            clock: parts.clock,
            spawner: parts.spawner,
            store: parts.store,
            key_space: parts.key_space,
            redo: parts.redo,
            branches: parts.branches,
            counters: parts.counters,
            cache: parts.cache,
            cache_files: (0..parts.cache_layout.slot_file_count())
                .map(|number| parts.cache_layout.slot_file_path(number).into())
                .collect(),
            scratch: RefCell::default(),
            ram: RefCell::new(RamTier::new(config.ram_bytes_max)),
            directories: RefCell::new(DirectoryCache::new(config.directory_bytes_max)),
            layers: LayerTable::default(),
            flights: RefCell::default(),
            read_ahead: RefCell::new(ReadAhead::new()),
            queue: ReaderQueue::new(config.readers),
            windows: Windows::default(),
            pool: PagePool::new(config.pooled_pages_max),
            histograms: RefCell::default(),
            config,
        });
        for number in 0..state.config.readers {
            state.spawner.spawn(Rc::clone(&state).run_reader(number));
        }
        state.spawner.spawn(Rc::clone(&state).run_mesh());
        if state.mesh.core() == 0 && state.config.refresh_every.is_some() {
            state.spawner.spawn(Rc::clone(&state).run_refresh());
        }
        state
            .spawner
            .spawn(state.cache.clone().run_index_writer(state.clock.clone()));
        Shard(state)
    }

    /// This core's number.
    pub fn core(&self) -> usize {
        self.0.mesh.core()
    }

    /// How deltas are applied.
    pub(crate) fn redo(&self) -> Arc<dyn Redo> {
        Arc::clone(&self.0.redo)
    }

    /// A window for at most `capacity` reads in flight.
    pub fn reads(&self, capacity: usize) -> Reads<P> {
        self.reads_in_order(capacity, Order::Pushed)
    }

    /// A window for at most `capacity` reads in flight, whose answers are taken in that order.
    pub fn reads_in_order(&self, capacity: usize, order: Order) -> Reads<P> {
        Reads::open(&self.0, capacity, order)
    }

    /// Opens a branch for reading on this core; the first time in a process this asks the object store and the key
    /// provider. All who ask meanwhile, on any core, share the answer.
    /// # Errors
    /// `NotFound` where there is no such branch, `Unavailable` where it took longer than
    /// [`ShardConfig::open_deadline`], else what the store or the keys say.
    pub async fn open_branch(
        &self,
        tenant: TenantId,
        branch: BranchId,
    ) -> Result<BranchHandle, ReadError> {
        let state = &self.0;
        let wait_max = state.config.open_deadline;
        let id = (tenant, branch);
        let number = state.branches.open(id, &state.clock, wait_max).await?;
        let branch = BranchHandle(state.branch(number));
        state.refresh_if_old(number).await;
        Ok(branch)
    }

    /// One value, read by itself. Allocates; for connections there is [`Shard::reads`].
    /// # Errors
    /// As [`Reads::next`].
    pub async fn read(
        &self,
        branch: &BranchHandle,
        key: Key,
        at: Lsn,
    ) -> Result<Vec<u8>, ReadError> {
        let mut reads = self.reads(1);
        reads.push(branch, key, at);
        let answer = reads.next().await.expect("one read is in flight");
        let len = *answer.result.as_ref().map_err(Clone::clone)?;
        Ok(answer[..len].to_vec())
    }

    /// All keys in `from..=to`, which must lie in one partition, with their newest values at or below `at`. Costs
    /// the extents that hold them; not for the hot path.
    /// # Errors
    /// As [`Reads::next`].
    pub async fn scan(
        &self,
        branch: &BranchHandle,
        from: Key,
        to: Key,
        at: Lsn,
    ) -> Result<Vec<(Key, Vec<u8>)>, ReadError> {
        self.0.scan_at_owner(branch.0.number(), from, to, at).await
    }

    /// A copy of the latency histograms.
    pub fn latency(&self) -> LatencyHistograms {
        self.0.histograms.borrow().clone()
    }

    /// Forgets everything in memory and on disk that could answer a read without the store.
    pub fn empty_cache(&self) {
        self.0.ram.borrow_mut().clear();
        self.0.directories.borrow_mut().clear();
        self.0.cache.clear();
    }

    /// Writes what the cache's index does not have on disk yet. Call it when nothing reads any more.
    pub async fn save_cache_index(&self) {
        self.0.cache.flush().await;
    }

    /// Takes over cache slots that the loader dealt to this core.
    pub fn accept(&self, deal: Deal) {
        self.0.cache.accept(deal);
    }

    /// What this core's cache did and holds.
    pub fn cache_stats(&self) -> CacheStats {
        self.0.cache.stats()
    }

    /// Brings the gauges among the counters up to date.
    pub fn refresh_gauges(&self) {
        let state = &self.0;
        state
            .counters
            .queue_depth
            .set((state.queue.len() + state.mesh.overflow()) as u64);
        state
            .counters
            .index_bytes
            .set(state.layers.resident_bytes() as u64);
    }
}

impl<P: Platform> ShardState<P> {
    async fn run_reader(self: Rc<Self>, number: usize) {
        loop {
            let mut request = self.queue.pop(number).await;
            let ReadRequest {
                branch, key, at, ..
            } = request;
            match self
                .read(branch, &key, at, &mut request.page, Patience::Hits)
                .await
            {
                Ok(found) => {
                    self.remember(&request, found);
                    self.counters.reads_cache.add(1);
                    self.record(Tier::Cache, &request);
                    self.answer(request, Ok(found.len));
                }
                Err(Stop::Failed(error)) => self.answer(request, Err(error)),
                Err(Stop::NeedsStore) => {
                    self.spawner
                        .spawn(Rc::clone(&self).read_from_store(request));
                }
            }
        }
    }

    async fn read_from_store(self: Rc<Self>, mut request: ReadRequest) {
        self.counters
            .waiting_for_store
            .set(self.counters.waiting_for_store.get() + 1);
        let ReadRequest {
            branch, key, at, ..
        } = request;
        let outcome = self
            .read_refreshed(branch, &key, at, &mut request.page)
            .await;
        self.counters
            .waiting_for_store
            .set(self.counters.waiting_for_store.get() - 1);
        let result = match outcome {
            Ok(found) => {
                self.remember(&request, found);
                if found.fetched {
                    self.counters.reads_store.add(1);
                } else {
                    self.counters.reads_cache_after_load.add(1);
                }
                self.record(Tier::Store, &request);
                Ok(found.len)
            }
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::NeedsStore) => unreachable!("this read has all the patience there is"),
        };
        self.answer(request, result);
    }

    async fn run_mesh(self: Rc<Self>) {
        loop {
            self.mesh.wait().await;
            self.mesh.receive(|message| match message {
                Message::Read(request) => {
                    self.counters.reads_cross_core.add(1);
                    self.accept(request);
                }
                Message::Answer(answer) => self.windows.complete(answer, &self.pool),
                Message::Scan(request) => {
                    self.spawner.spawn(Rc::clone(&self).serve_scan(request));
                }
            });
        }
    }

    /// Sends a request to the core that owns its key.
    fn submit(&self, request: ReadRequest) {
        let owner = self.owner(&request.key);
        if owner == self.mesh.core() {
            self.accept(request);
        } else {
            self.mesh.send(owner, Message::Read(request));
        }
    }

    /// Takes a request for a key that this core owns: answers it from RAM, or queues it for a reader.
    fn accept(&self, mut request: ReadRequest) {
        let branch = self.branch(request.branch);
        branch.want();
        self.look_again(&branch);
        let hit = self.ram.borrow_mut().get(
            request.branch,
            &request.key,
            request.at,
            &mut request.page[..],
        );
        // What the branch does not show, or not any more, is refused where it is read.
        let shown = |_: &usize| {
            let is_above = request.at >= branch.readable_from();
            let is_below = request.at <= branch.last_lsn();
            (is_above || planted(PlantedBug::RamBelowHorizon))
                && (is_below || planted(PlantedBug::RamAboveRead))
        };
        match hit.filter(shown) {
            Some(len) => {
                self.counters.reads_ram.add(1);
                self.record(Tier::Ram, &request);
                self.answer(request, Ok(len));
            }
            None => self.queue.push(request),
        }
    }

    fn answer(&self, request: ReadRequest, result: Result<usize, ReadError>) {
        match result.as_ref().map_err(ReadError::kind) {
            Ok(_) => {}
            Err(ErrorKind::NotFound) => self.counters.reads_not_found.add(1),
            Err(_) => self.counters.reads_failed.add(1),
        }
        let ReadRequest { origin, page, .. } = request;
        let answer = ReadAnswer {
            origin,
            result,
            page,
        };
        if usize::from(origin.core) == self.mesh.core() {
            self.windows.complete(answer, &self.pool);
        } else {
            self.mesh
                .send(usize::from(origin.core), Message::Answer(answer));
        }
    }

    fn owner(&self, key: &Key) -> usize {
        usize::from(self.key_space.partition(key).number()) % self.mesh.cores()
    }

    /// Keeps an opened page in the RAM tier, if there is one.
    fn remember(&self, request: &ReadRequest, found: read_path::Found) {
        let page = &request.page[..found.len];
        let ReadRequest {
            branch, key, at, ..
        } = *request;
        // Right from its version on, below the branch's horizon too: `accept` does not ask for it there.
        let version = PageVersion {
            branch,
            key,
            first: found.version,
            last: if planted(PlantedBug::RamAboveRead) {
                Lsn::MAX
            } else {
                at
            },
        };
        self.ram.borrow_mut().put(version, page);
    }

    fn record(&self, tier: Tier, request: &ReadRequest) {
        let elapsed = self.clock.now().since(request.started);
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let mut histograms = self.histograms.borrow_mut();
        let histogram = match tier {
            Tier::Ram => &mut histograms.ram,
            Tier::Cache => &mut histograms.cache,
            Tier::Store => &mut histograms.store,
        };
        histogram.saturating_record(nanos);
    }
}

/// Who answered.
#[derive(Clone, Copy)]
enum Tier {
    Ram,
    Cache,
    Store,
}
