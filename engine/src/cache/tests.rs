//! The cache as a server uses it: several cores, restarts, kills, damage. The disk is in memory, except in the last test.

mod damage;
mod real_files;
mod restart;

use std::path::Path;
use std::rc::Rc;

use futures_util::FutureExt;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;
use crate::io::memory_disk::MemoryDisk;
use crate::types::{BranchId, Id, ObjectId, Partition, TenantId};

const DIR: &str = "/cache";

/// The answer of a future that never waits: nothing does on a disk in memory.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing waits here")
}

fn server_id() -> Id {
    Id(*b"this very server")
}

fn id(number: u32) -> ExtentId {
    ExtentId {
        tenant: TenantId(Id([1; 16])),
        object: ObjectId {
            branch: BranchId(Id([2; 16])),
            epoch: 1,
            sequence: u64::from(number / 16),
        },
        extent_no: number % 16,
    }
}

/// Four neighbouring extents are of one partition.
fn partition(number: u32) -> Partition {
    Partition::of_hash((number / 4).wrapping_mul(2_654_435_761) >> 7)
}

/// The first bytes of an extent say which it is: they stand for the seals.
fn content(number: u32) -> [u8; 8] {
    (u64::from(number) << 16 | 0xabcd).to_le_bytes()
}

/// A running server: one cache per core.
struct Server {
    disk: MemoryDisk,
    layout: CacheLayout,
    cores: Vec<ShardCache<MemoryDisk>>,
}

impl Server {
    fn start(disk: &MemoryDisk, config: &CacheConfig, cores: usize) -> Server {
        let (server, mut loader) = Self::start_unloaded(disk, config, cores);
        while server.load_step(&mut loader) {}
        server.check();
        assert!(server.cores.iter().all(ShardCache::is_loaded));
        server
    }

    fn start_unloaded(
        disk: &MemoryDisk,
        config: &CacheConfig,
        cores: usize,
    ) -> (Server, Loader<MemoryDisk>) {
        let dir = Path::new(DIR);
        let prepared = now(CacheLayout::prepare(disk, dir, config, server_id(), cores));
        let (layout, loader) = prepared.expect("no newer index");
        let cores = (0..cores).map(|_| now(ShardCache::open(disk, &layout)));
        let server = Server {
            disk: disk.clone(),
            cores: cores.collect(),
            layout,
        };
        (server, loader)
    }

    fn load_step(&self, loader: &mut Loader<MemoryDisk>) -> bool {
        let cores = self.cores.len();
        match now(loader.next(|p| usize::from(p.number()) % cores)) {
            Some((core, deal)) => {
                self.cores[core].accept(deal);
                true
            }
            None => false,
        }
    }

    fn core(&self, number: u32) -> &ShardCache<MemoryDisk> {
        &self.cores[usize::from(partition(number).number()) % self.cores.len()]
    }

    /// Reads an extent as a shard does: from the cache if it is there and opens, else from the store, and then fills.
    /// Whether it was a hit.
    fn read(&self, number: u32) -> bool {
        let cache = self.core(number);
        if let Some(slot) = cache.lookup(&id(number)) {
            let read = now(slot.read(0..8));
            if read.is_ok_and(|bytes| bytes[..] == content(number)) {
                return true;
            }
            cache.drop_doubtful(&id(number), &"a test");
        }
        if let Some(ticket) = cache.reserve(id(number), partition(number), 1000) {
            self.write(&ticket, number);
            cache.filled(ticket, number);
        }
        false
    }

    fn write(&self, ticket: &FillTicket<MemoryDisk>, number: u32) {
        let path = self.layout.slot_file_path(ticket.file_number());
        let at = usize::try_from(ticket.at()).expect("small");
        let file = self.disk.bytes(&path);
        file.borrow_mut()[at..at + 8].copy_from_slice(&content(number));
    }

    fn hits(&self, numbers: impl Iterator<Item = u32>) -> usize {
        numbers.filter(|&n| self.read(n)).count()
    }

    fn present(&self, numbers: impl Iterator<Item = u32>) -> Vec<u32> {
        numbers.filter(|&n| self.core(n).contains(&id(n))).collect()
    }

    fn doubtful(&self) -> u64 {
        self.cores.iter().map(|c| c.stats().doubtful).sum()
    }

    fn slots(&self) -> u32 {
        self.cores.iter().map(|c| c.stats().slots).sum()
    }

    fn flush(&self) -> bool {
        self.cores.iter().all(|c| now(c.flush()))
    }

    fn check(&self) {
        self.cores.iter().for_each(ShardCache::check_invariants);
    }

    /// A clean shutdown.
    fn stop(self) {
        assert!(self.flush());
        self.check();
    }
}

/// A skewed load over `universe` extents.
fn skewed(universe: u32, requests: usize, seed: u64) -> impl Iterator<Item = u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..requests).map(move |_| {
        let low = random.next_u32() % universe;
        low.min(random.next_u32() % universe)
            .min(random.next_u32() % universe)
    })
}

#[test]
fn a_slot_is_read_as_it_was_filled_while_it_is_pinned() {
    let disk = MemoryDisk::default();
    let server = Server::start(&disk, &CacheConfig::tiny(), 1);
    let cache = &server.cores[0];
    let ticket = cache.reserve(id(1), partition(1), 5000).expect("empty");
    let path = server.layout.slot_file_path(ticket.file_number());
    let at = usize::try_from(ticket.at()).expect("small");
    for byte in 0..5000usize {
        disk.bytes(&path).borrow_mut()[at + byte] = u8::try_from(byte % 251).expect("small");
    }
    assert!(cache.lookup(&id(1)).is_none(), "not filled yet");
    cache.filled(ticket, 42);

    let slot = cache.lookup(&id(1)).expect("filled");
    assert_eq!((slot.extent_bytes(), slot.crc32c()), (5000, 42));
    for (range, device_bytes) in [(0..1, 512), (511..513, 1024), (4096..5000, 1024)] {
        let read = now(slot.read(range.clone())).expect("read");
        let want: Vec<u8> = range
            .map(|b| u8::try_from(b % 251).expect("small"))
            .collect();
        assert_eq!((&read[..], read.device_bytes()), (&want[..], device_bytes));
    }
    // All other slots are used and used again; this one stays.
    assert_eq!(server.hits(1000..2000), 0);
    assert!(cache.stats().evictions > 500);
    assert_eq!(&now(slot.read(0..2)).expect("read")[..], [0, 1]);
    drop(slot);
    server.check();
}

#[test]
fn the_files_never_take_more_than_the_limit() {
    for (slots, cores) in [(1, 1), (63, 1), (64, 2), (150, 7), (1000, 96)] {
        for spare in [0, 4096, 8192, 100_000] {
            let disk = MemoryDisk::default();
            let config = CacheConfig {
                cache_bytes: slots * SLOT_BYTES + spare,
                ..CacheConfig::tiny()
            };
            let server = Server::start(&disk, &config, cores);
            assert_eq!(server.slots(), server.layout.slot_count());
            assert!(server.flush());
            assert!(disk.size_bytes() <= config.cache_bytes);
            let unused = config.cache_bytes - disk.size_bytes();
            let index_max = 4096 * (slots / 63 + cores as u64 + 3);
            assert!(unused < SLOT_BYTES + index_max, "{unused} bytes lie idle");
        }
    }
    let nothing = CacheConfig {
        cache_bytes: 0,
        ..CacheConfig::tiny()
    };
    let server = Server::start(&MemoryDisk::default(), &nothing, 2);
    assert_eq!(
        server.hits([1, 1, 2].into_iter()),
        0,
        "no cache, no hits, no trouble"
    );
}

#[test]
fn cores_get_equal_shares_of_an_empty_cache() {
    let server = Server::start(&MemoryDisk::default(), &CacheConfig::tiny(), 7);
    let shares: Vec<u32> = server.cores.iter().map(|c| c.stats().slots).collect();
    let (least, most) = (shares.iter().min(), shares.iter().max());
    assert!(
        most.zip(least).is_some_and(|(m, l)| m - l <= 7),
        "{shares:?}"
    );
    assert_eq!(shares.iter().sum::<u32>(), server.layout.slot_count());
    let formula = u64::from(server.layout.slot_count()) * 150 + 7 * 4096;
    assert_eq!(server.layout.memory_bytes(), formula);
}

#[test]
fn a_cleared_cache_is_empty_and_a_scrubber_walks_over_every_extent() {
    let server = Server::start(&MemoryDisk::default(), &CacheConfig::tiny(), 1);
    server.hits(0..100);
    let cache = &server.cores[0];
    let (mut at, mut seen) = (0, Vec::new());
    while let Some((extent, slot, next)) = cache.scrub_from(at) {
        let number = u32::try_from(extent.object.sequence).expect("small") * 16 + extent.extent_no;
        assert_eq!(slot.crc32c(), number);
        seen.push(number);
        at = next;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<u32>>());
    assert_eq!(cache.clear(), 100);
    assert!(server.present(0..100).is_empty());
    server.check();
}
