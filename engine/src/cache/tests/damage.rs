//! Files that are damaged, foreign, missing, unwritable; a disk that is full.

use super::*;
use crate::cache::index_format::{BLOCK_BYTES, ENTRIES_PER_BLOCK};

/// A disk with the cleanly stopped cache of a server that had read `0..140`.
fn warm_disk() -> MemoryDisk {
    let disk = MemoryDisk::default();
    let server = Server::start(&disk, &CacheConfig::tiny(), 1);
    server.hits(0..140);
    server.stop();
    disk
}

fn hits_after(disk: &MemoryDisk) -> (usize, u64) {
    let server = Server::start(disk, &CacheConfig::tiny(), 2);
    let hits = server.hits(0..140);
    assert_eq!(server.hits(0..140), 140, "what was lost is cached again");
    let doubtful = server.doubtful();
    server.stop();
    (hits, doubtful)
}

fn index(disk: &MemoryDisk) -> Rc<std::cell::RefCell<Vec<u8>>> {
    disk.bytes(Path::new("/cache/index-0"))
}

#[test]
fn an_undamaged_cache_is_all_hits() {
    assert_eq!(hits_after(&warm_disk()), (140, 0));
}

#[test]
fn damage_in_an_index_block_costs_that_block() {
    let disk = warm_disk();
    index(&disk).borrow_mut()[BLOCK_BYTES + 100] ^= 1;
    assert_eq!(hits_after(&disk), (140 - ENTRIES_PER_BLOCK, 0));
}

#[test]
fn an_index_without_its_header_is_an_empty_one() {
    let disk = warm_disk();
    index(&disk).borrow_mut()[20] ^= 1;
    assert_eq!(hits_after(&disk), (0, 0));

    let disk = warm_disk();
    index(&disk).borrow_mut().truncate(100);
    assert_eq!(hits_after(&disk), (0, 0));

    let disk = warm_disk();
    disk.files.borrow_mut().remove(Path::new("/cache/index-0"));
    assert_eq!(hits_after(&disk), (0, 0));
}

#[test]
fn an_index_cut_short_costs_its_end() {
    let disk = warm_disk();
    index(&disk).borrow_mut().truncate(2 * BLOCK_BYTES);
    let (hits, doubtful) = hits_after(&disk);
    assert!(hits <= ENTRIES_PER_BLOCK && doubtful == 0);
}

#[test]
fn extents_that_were_swapped_flipped_or_cut_off_are_misses() {
    let disk = warm_disk();
    let first = disk.bytes(Path::new("/cache/slots-000"));
    let slot = usize::try_from(SLOT_BYTES).expect("small");
    {
        let mut bytes = first.borrow_mut();
        let (a, b) = bytes.split_at_mut(slot);
        a[..8].swap_with_slice(&mut b[..8]);
        bytes[5 * slot] ^= 4;
    }
    assert_eq!(hits_after(&disk), (137, 3));

    // Slots 128.. are in the third file; a restart gives it its length back, with zeros.
    let disk = warm_disk();
    disk.bytes(Path::new("/cache/slots-002"))
        .borrow_mut()
        .clear();
    let (hits, doubtful) = hits_after(&disk);
    assert_eq!((hits, doubtful), (140 - 12, 12));

    // Cut off while it is served.
    let disk = warm_disk();
    let server = Server::start(&disk, &CacheConfig::tiny(), 1);
    disk.bytes(Path::new("/cache/slots-001"))
        .borrow_mut()
        .truncate(512);
    let slot = server.cores[0]
        .lookup(&id(100))
        .expect("it is in the second file");
    assert!(now(slot.read(0..8)).is_err());
}

#[test]
fn the_index_of_another_server_or_of_other_files_is_not_used() {
    let disk = warm_disk();
    let config = CacheConfig::tiny();
    let prepare = |server, config: &CacheConfig| {
        let prepared = now(CacheLayout::prepare(
            &disk,
            Path::new(DIR),
            config,
            server,
            1,
        ));
        let (layout, mut loader) = prepared.expect("not newer");
        let cache = now(ShardCache::open(&disk, &layout));
        while let Some((_, deal)) = now(loader.next(|_| 0)) {
            cache.accept(deal);
        }
        cache.stats()
    };
    assert_eq!(prepare(Id([9; 16]), &config).slots_used, 0);
    let other_files = CacheConfig {
        slots_per_file: 32,
        ..config.clone()
    };
    assert_eq!(prepare(server_id(), &other_files).slots_used, 0);
}

#[test]
fn an_index_of_a_newer_version_is_refused_by_name() {
    let disk = warm_disk();
    {
        let file = index(&disk);
        let mut bytes = file.borrow_mut();
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..4092]);
        bytes[4092..4096].copy_from_slice(&checksum.to_le_bytes());
    }
    let config = CacheConfig::tiny();
    let refused = now(CacheLayout::prepare(
        &disk,
        Path::new(DIR),
        &config,
        server_id(),
        1,
    ));
    let error = refused.expect_err("newer");
    assert_eq!(
        error.to_string(),
        "cache index /cache/index-0: version 2 is newer than this server knows (1)"
    );
}

#[test]
fn files_that_cannot_be_opened_make_the_cache_smaller() {
    let disk = warm_disk();
    *disk.refused.borrow_mut() = Some("slots-001");
    let server = Server::start(&disk, &CacheConfig::tiny(), 2);
    assert_eq!(server.slots(), 64);
    let hits = server.hits(0..140);
    assert!((50..=64).contains(&hits), "{hits} hits");
    server.stop();

    // Opened by the first core, refused to the others: those go without.
    let disk = warm_disk();
    let config = CacheConfig::tiny();
    let prepared = now(CacheLayout::prepare(
        &disk,
        Path::new(DIR),
        &config,
        server_id(),
        1,
    ));
    let (layout, mut loader) = prepared.expect("not newer");
    *disk.refused.borrow_mut() = Some("slots-00");
    let cache = now(ShardCache::open(&disk, &layout));
    while let Some((_, deal)) = now(loader.next(|_| 0)) {
        cache.accept(deal);
    }
    assert!(cache.lookup(&id(1)).is_none());
    assert!(cache.reserve(id(1), partition(1), 10).is_none());
    assert!(now(cache.flush()));
}

#[test]
fn a_full_disk_means_a_smaller_cache_or_none() {
    // What is left of the disk is for the index, and a sixteenth for others.
    let sizes = [
        (1000, 0),
        (2 * SLOT_BYTES, 0),
        (40 * SLOT_BYTES, 40 - 3 - 1),
        (64 * SLOT_BYTES + (64 << 10), 64),
        (70 * SLOT_BYTES, 64 + 6 - 1 - 1),
        (u64::MAX, 150),
    ];
    for (size_max, slots) in sizes {
        let disk = MemoryDisk::default();
        disk.size_max.set(size_max);
        let server = Server::start(&disk, &CacheConfig::tiny(), 2);
        assert_eq!(server.slots(), slots, "with {size_max} bytes");
        server.hits(skewed(1000, 1000, 1));
        server.check();
        server.stop();
    }
}

#[test]
fn a_disk_that_stays_full_keeps_its_part_of_the_cache_over_restarts() {
    let disk = MemoryDisk::default();
    disk.size_max.set(110 * SLOT_BYTES);
    let server = Server::start(&disk, &CacheConfig::tiny(), 2);
    let slots = server.slots();
    assert!((100..110).contains(&slots), "{slots} slots");
    server.hits(0..60);
    server.stop();
    // Others take all that was left, then give room for everything.
    disk.size_max.set(disk.size_bytes());
    let server = Server::start(&disk, &CacheConfig::tiny(), 1);
    assert_eq!((server.slots(), server.hits(0..60)), (slots, 60));
    server.stop();
    disk.size_max.set(0);
    let server = Server::start(&disk, &CacheConfig::tiny(), 2);
    assert_eq!((server.slots(), server.hits(0..60)), (150, 60));
    server.stop();
}

#[test]
fn an_index_that_cannot_be_written_stays_dirty_until_it_can() {
    let disk = MemoryDisk::default();
    let server = Server::start(&disk, &CacheConfig::tiny(), 1);
    server.hits(0..140);
    disk.broken.set(true);
    for _ in 0..3 {
        assert!(!server.flush());
    }
    assert_eq!(server.cores[0].stats().index_errors, 3);
    assert_eq!(server.hits(0..140), 140, "hits go on");
    disk.broken.set(false);
    let writes = disk.writes.get();
    server.stop();
    assert_eq!(disk.writes.get() - writes, 3, "three blocks, once each");
    assert_eq!(hits_after(&disk), (140, 0));

    // Not to be made at all.
    *disk.refused.borrow_mut() = Some("index");
    let server = Server::start(&disk, &CacheConfig::tiny(), 1);
    assert_eq!(server.hits(0..140), 0);
    assert_eq!(server.hits(0..140), 140);
    server.stop();
}
