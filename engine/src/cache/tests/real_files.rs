//! The same cache over the ring and real files: alignment, preallocation, several cores at once.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::*;
use crate::io::clock::{Clock, Spawner};
use crate::io::executor::{CoreConfig, start_core};
use crate::io::glommio_clock::{GlommioClock, GlommioSpawner};
use crate::io::ring_disk::RingDisk;

/// Starts with `cores` executors, reads `numbers` on each its own, waits for the index writer, and returns the hits.
fn run(dir: &Path, cores: usize, numbers: std::ops::Range<u32>) -> usize {
    let config = CacheConfig {
        cache_bytes: 40 * SLOT_BYTES,
        slots_per_file: 16,
        ..CacheConfig::tiny()
    };
    let own_dir = dir.to_owned();
    let (layout, deals) = start_core(CoreConfig::default(), async move || {
        let disk = RingDisk::new(16);
        let prepared = CacheLayout::prepare(&disk, &own_dir, &config, server_id(), cores).await;
        let (layout, mut loader) = prepared.expect("not newer");
        let mut deals: Vec<Vec<Deal>> = (0..cores).map(|_| Vec::new()).collect();
        while let Some((core, deal)) = loader.next(|p| usize::from(p.number()) % cores).await {
            deals[core].push(deal);
        }
        (layout, deals)
    })
    .expect("starts")
    .join()
    .expect("no panic");

    let running = deals.into_iter().enumerate().map(|(core, deals)| {
        let (layout, numbers) = (layout.clone(), numbers.clone());
        start_core(CoreConfig::default(), async move || {
            let disk = RingDisk::new(16);
            let cache = ShardCache::open(&disk, &layout).await;
            deals.into_iter().for_each(|deal| cache.accept(deal));
            #[expect(clippy::disallowed_methods, reason = "the origin of a clock")]
            let clock = GlommioClock::since(Instant::now());
            GlommioSpawner.spawn(cache.clone().run_index_writer(clock));
            let mut hits = 0;
            for number in numbers {
                if usize::from(partition(number).number()) % cores == core {
                    hits += usize::from(read(&cache, &layout, number).await);
                }
            }
            clock.sleep(Duration::from_millis(5)).await;
            assert!(cache.flush().await);
            cache.check_invariants();
            assert_eq!(cache.stats().doubtful, 0);
            hits
        })
        .expect("starts")
    });
    let running: Vec<_> = running.collect();
    running
        .into_iter()
        .map(|core| core.join().expect("no panic"))
        .sum()
}

async fn read(cache: &ShardCache<RingDisk>, layout: &CacheLayout, number: u32) -> bool {
    if let Some(slot) = cache.lookup(&id(number)) {
        let bytes = slot.read(200_000..200_008).await.expect("read");
        assert_eq!(bytes[..], content(number));
        return true;
    }
    if let Some(ticket) = cache.reserve(id(number), partition(number), 262_144) {
        let path = layout.slot_file_path(ticket.file_number());
        let file = std::fs::File::options()
            .write(true)
            .open(path)
            .expect("made");
        file.write_all_at(&content(number), ticket.at() + 200_000)
            .expect("written");
        cache.filled(ticket, 0);
    }
    false
}

#[test]
fn a_cache_on_real_files_survives_restarts_with_other_numbers_of_cores() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    assert_eq!(run(dir.path(), 1, 0..30), 0);
    assert_eq!(run(dir.path(), 2, 0..30), 30);
    assert_eq!(run(dir.path(), 1, 0..30), 30);
    let disk_bytes: u64 = std::fs::read_dir(dir.path())
        .expect("there")
        .map(|entry| entry.and_then(|e| e.metadata()).expect("there").len())
        .sum();
    assert!(disk_bytes <= 40 * SLOT_BYTES, "{disk_bytes} bytes");
}
