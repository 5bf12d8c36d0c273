//! A read that hits allocates nothing: not from the RAM tier, not from the device.
//!
//! What is counted is all that the core's thread allocates. A few times a second that is not nothing: a timer of another
//! task, and glommio's own round. One allocation for every sixty-fourth page would be too much already.

use std::time::Duration;

use engine::Core;
use engine::io::counting_allocator::{Allocations, CountingAllocator};
use engine::types::{BranchId, Key, Lsn, TenantId};
use harness::engine::{RunningEngine, Site, block_key};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const LSN: Lsn = Lsn(100);
const PAGES: u32 = 1024;
/// What is counted is the round that allocated least.
const ROUNDS: usize = 5;
/// Allocations of a round that are nobody's page.
const OF_THE_CLOCK: u64 = PAGES as u64 / 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_read_from_ram_allocates_nothing() {
    let site = Site::new().await;
    let (place, keys) = written(&site).await;
    let running = site.start(1, |config| config.shard.ram_bytes_max = 16 << 20);
    // The first time from the store, the second from memory, a page pool warmed by both.
    for _ in 0..2 {
        counted_reads(&running, place, keys.clone(), 64).await;
    }
    let before = running.engine.stats().await.counts.reads_ram;
    let allocations = counted_reads(&running, place, keys, 64).await;
    let from_ram = running.engine.stats().await.counts.reads_ram - before;
    assert_eq!(from_ram, u64::from(PAGES), "all were in memory");
    assert_eq!(allocations.count, 0, "{allocations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_read_from_the_device_allocates_nothing() {
    let site = Site::new().await;
    let (place, keys) = written(&site).await;
    let running = site.start(1, |_| {});
    counted_reads(&running, place, keys.clone(), 64).await;
    // Fills end behind the answers.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for depth in [1, 128] {
        counted_reads(&running, place, keys.clone(), depth).await;
        let before = running.engine.stats().await.counts.reads_cache;
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            rounds.push(counted_reads(&running, place, keys.clone(), depth).await);
        }
        let from_cache = running.engine.stats().await.counts.reads_cache - before;
        assert_eq!(
            from_cache,
            u64::from(PAGES) * ROUNDS as u64,
            "all were in the cache"
        );
        let allocations = fewest(rounds);
        assert!(
            allocations.count <= OF_THE_CLOCK,
            "depth {depth}: {allocations:?}"
        );
    }
}

/// The round that allocated least.
fn fewest(rounds: Vec<Allocations>) -> Allocations {
    rounds
        .into_iter()
        .min_by_key(|round| round.count)
        .expect("at least one round")
}

async fn written(site: &Site) -> ((TenantId, BranchId), Vec<Key>) {
    let versions: Vec<(Key, Lsn)> = (0..PAGES).map(|block| (block_key(1, block), LSN)).collect();
    let branch = site.write_branch("main", &versions).await;
    let keys = versions.into_iter().map(|(key, _)| key).collect();
    ((site.tenant, branch), keys)
}

/// Reads all `keys`, `depth` at a time; what the core's thread allocated from the first push to the last answer.
async fn counted_reads(
    running: &RunningEngine,
    (tenant, branch): (TenantId, BranchId),
    keys: Vec<Key>,
    depth: usize,
) -> Allocations {
    running
        .on_core(0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await.expect("opens");
            let mut reads = core.reads(depth);
            CountingAllocator::start();
            let mut keys = keys.iter();
            loop {
                while reads.has_room()
                    && let Some(key) = keys.next()
                {
                    reads.push(&branch, *key, LSN);
                }
                match reads.next().await {
                    Some(answer) => assert!(answer.value().is_some(), "{:?}", answer.result),
                    None => return CountingAllocator::counted(),
                }
            }
        })
        .await
}
