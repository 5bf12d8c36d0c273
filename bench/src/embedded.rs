//! The engine embedded in this process, driven through one window of reads on one of its cores: what the storage costs
//! without sockets.

use std::sync::Arc;
use std::time::Duration;

use engine::catalog::Catalog;
use engine::io::store_thread::StoreThreads;
use engine::io::tokio_clock::TokioClock;
use engine::store::StoreConfig;
use engine::store::faulty::{FaultPlan, Faulty};
use engine::types::Id;
use engine::{Core, Engine, EngineConfig, EngineParts, Order, SharedBranches};
use postgres::key_space::PostgresKeySpace;
use postgres::redo::PostgresRedo;

use crate::access::{Access, Picker};
use crate::clock::{as_ns, now_ns, origin};
use crate::counters::Counters;
use crate::dataset::{Dataset, LSN, Place};
use crate::error::{BenchError, Result};
use crate::latency::Latencies;
use crate::pages::Check;
use crate::rounds::Measured;

/// What the engine runs with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EmbeddedConfig {
    /// Size of the cache on disk.
    pub(crate) cache_bytes: u64,
    /// RAM tier of each core; zero for none.
    pub(crate) ram_bytes: usize,
    /// First-byte latency and bytes per second of the store.
    pub(crate) store: Option<(Duration, u64)>,
    /// How long the core spins before it sleeps.
    pub(crate) spin: Duration,
}

/// One round of reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineLoad {
    pub(crate) depth: u32,
    pub(crate) access: Access,
    /// Pages 0, stride, 2 x stride ... are read.
    pub(crate) stride: u32,
    /// Only so many of the pages are read; all, if there are fewer.
    pub(crate) pages: u32,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
    pub(crate) seed: u64,
    /// Whether the cache is emptied before.
    pub(crate) cold: bool,
}

/// A running engine of one shard with one branch to read.
pub(crate) struct Embedded {
    engine: Engine,
    // Dropped after the engine.
    _store: StoreThreads,
    runtime: tokio::runtime::Runtime,
    dataset: Dataset,
    counters: Counters,
}

impl Embedded {
    /// Starts the engine below `place` with one core.
    ///
    /// # Errors
    /// What the store, the cache or the rings say.
    pub(crate) fn start(place: &Place, dataset: Dataset, config: EmbeddedConfig) -> Result<Self> {
        let unfit =
            |what: &str, e: &dyn std::fmt::Display| BenchError::Unfit(format!("{what}: {e}"));
        let url = place.store_url()?;
        let origin = origin();
        let clock = TokioClock::since(origin);
        let plan = config.store.map_or_else(FaultPlan::none, |(delay, rate)| {
            FaultPlan::distant(delay, Some(rate))
        });
        let connect = move || Ok(Faulty::new(url.connect()?, clock, plan.clone(), 1));
        let store = StoreThreads::start(1, connect, &StoreConfig::default(), clock, 1)
            .map_err(|e| unfit("store threads", &e))?;
        let mut settings = EngineConfig::new(place.embedded.clone());
        settings.cores = 1;
        settings.cache.cache_bytes = config.cache_bytes;
        settings.shard.ram_bytes_max = config.ram_bytes;
        settings.spin = config.spin;
        let catalog = Catalog::new(store.client(), place.catalog_parts()?);
        let parts = EngineParts {
            store: store.client(),
            redo: Arc::new(PostgresRedo),
            key_space: Arc::new(PostgresKeySpace),
            server: Id(*b"bench, embedded."),
            origin,
            branches: Arc::new(SharedBranches::new(catalog)),
        };
        let engine = Engine::start(&settings, parts).map_err(|e| unfit("engine", &e))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|e| unfit("runtime", &e))?;
        let counters = Counters::new(Some(std::process::id()), Some(&place.embedded));
        Ok(Self {
            engine,
            _store: store,
            runtime,
            dataset,
            counters,
        })
    }

    /// Reads the first `pages` pages once, in order.
    ///
    /// # Errors
    /// The first page that could not be read or was wrong.
    pub(crate) fn warm(&self, pages: u32) -> Result<()> {
        let dataset = self.dataset;
        self.on_core(async move |core: Core| {
            let branch = open(&core, dataset).await?;
            let mut reads = core.reads(64);
            let mut next = 0;
            for block in 0..pages {
                while next < pages && reads.has_room() {
                    reads.push(&branch, Dataset::key(next), LSN);
                    next += 1;
                }
                let answer = reads.next().await.expect("a read is in flight");
                judge(&answer, block)?;
            }
            Ok(())
        })
    }

    /// One round.
    ///
    /// # Errors
    /// The first page that could not be read or was wrong.
    pub(crate) fn run(&self, load: EngineLoad) -> Result<Measured> {
        let (dataset, counters) = (self.dataset, self.counters.clone());
        self.on_core(async move |core: Core| drive(&core, dataset, load, &counters).await)
    }

    /// Runs `task` on the engine's core and waits for it.
    fn on_core<T, F>(&self, task: F) -> Result<T>
    where
        T: Send + 'static,
        F: AsyncFnOnce(Core) -> Result<T> + Send + 'static,
    {
        let (report, reported) = std::sync::mpsc::sync_channel(1);
        self.runtime
            .block_on(self.engine.run_on_core(0, async move |core: Core| {
                // The receiver waits below.
                let _ = report.send(task(core).await);
            }));
        let stopped = || BenchError::Unfit("the engine's core stopped".to_owned());
        reported.recv().map_err(|_| stopped())?
    }
}

async fn open(core: &Core, dataset: Dataset) -> Result<engine::BranchHandle> {
    core.open_branch(dataset.tenant, dataset.branch)
        .await
        .map_err(|e| BenchError::Unfit(format!("open the branch: {e}")))
}

fn judge(answer: &engine::Answer, block: u32) -> Result<()> {
    match &answer.result {
        Ok(_) => Check::Stamp.check(Dataset::page(block), answer.value().unwrap_or_default()),
        Err(e) => Err(BenchError::Protocol(format!("block {block}: {e}"))),
    }
}

async fn drive(
    core: &Core,
    dataset: Dataset,
    load: EngineLoad,
    counters: &Counters,
) -> Result<Measured> {
    let branch = open(core, dataset).await?;
    if load.cold {
        core.empty_cache();
    }
    let depth = usize::try_from(load.depth).expect("a small number");
    // As the baseline: whatever has come is taken, and another read takes its place.
    let mut reads = core.reads_in_order(depth, Order::Arrived);
    let choices = (dataset.pages.min(load.pages) / load.stride).max(1);
    let mut picker = Picker::new(load.access, choices.into(), load.seed, 0);
    // By the read's number.
    let mut sent = vec![(0u64, 0u32); depth];
    let mut latencies = Latencies::new();
    let from_ns = now_ns() + as_ns(load.warm_up);
    let to_ns = from_ns + as_ns(load.measure);
    let (mut before, mut after) = (None, None);
    loop {
        let mut now = now_ns();
        if now >= from_ns {
            before.get_or_insert_with(|| (now, counters.sample()));
        }
        if now >= to_ns {
            after.get_or_insert_with(|| (now, counters.sample()));
        }
        while now < to_ns && reads.has_room() {
            let block = u32::try_from(picker.pick()).expect("below the number of pages");
            let block = block * load.stride;
            let number = reads.push(&branch, Dataset::key(block), LSN);
            sent[usize::try_from(number).expect("below the depth")] = (now, block);
        }
        let mut answered = reads.next().await;
        now = now_ns();
        while let Some(answer) = answered {
            let number = usize::try_from(answer.number()).expect("below the depth");
            let (sent_ns, block) = sent[number];
            judge(&answer, block)?;
            if (from_ns..to_ns).contains(&now) {
                latencies.record(now - sent_ns);
            }
            answered = reads.try_next();
        }
        if reads.in_flight() == 0 && now >= to_ns && after.is_some() {
            break;
        }
        // Answers out of RAM never wait: the core's other tasks need their turn.
        glommio::yield_if_needed().await;
    }
    let (before_ns, before) = before.expect("the loop ran past both times");
    let (after_ns, after) = after.expect("the loop ran past both times");
    Ok(Measured {
        ops: latencies.count(),
        elapsed: Duration::from_nanos(after_ns - before_ns),
        latencies,
        used: after.since(&before),
        errors: 0,
    })
}
