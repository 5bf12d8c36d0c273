//! What a restart keeps: cleanly, after a kill, with other numbers of cores, with another size.

use super::*;

#[test]
fn a_clean_restart_keeps_everything() {
    let disk = MemoryDisk::default();
    let config = CacheConfig::tiny();
    let server = Server::start(&disk, &config, 2);
    server.hits(skewed(1000, 5000, 1));
    let before = server.present(0..1000);
    assert!(before.len() > 140);
    server.stop();

    let server = Server::start(&disk, &config, 2);
    assert_eq!(server.present(0..1000), before);
    assert_eq!(server.hits(before.iter().copied()), before.len());
    assert_eq!(server.doubtful(), 0);
    assert!(server.flush());
    let indexes = disk
        .files
        .borrow()
        .keys()
        .filter(|p| p.to_string_lossy().contains("index"))
        .count();
    assert_eq!(
        indexes, 1,
        "older generations are gone once all is written anew"
    );
}

#[test]
fn other_numbers_of_cores_keep_the_cache_warm() {
    let disk = MemoryDisk::default();
    let config = CacheConfig {
        cache_bytes: 400 * SLOT_BYTES,
        ..CacheConfig::tiny()
    };
    let mut before: Option<(Vec<u32>, usize)> = None;
    for cores in [1, 2, 7, 2, 1] {
        let server = Server::start(&disk, &config, cores);
        if let Some((present, hits)) = &before {
            assert_eq!(&server.present(0..2000), present, "with {cores} cores");
            let hits_now = server.hits(skewed(2000, 4000, 3));
            println!("{cores} cores: {hits_now} hits, before {hits}");
            assert!(hits_now * 100 >= hits * 95, "{hits_now} of {hits} hits");
        }
        server.hits(skewed(2000, 20_000, 2));
        let hits = server.hits(skewed(2000, 4000, 3));
        before = Some((server.present(0..2000), hits));
        assert_eq!(server.doubtful(), 0);
        server.stop();
    }
}

#[test]
fn a_kill_loses_what_was_not_written_and_what_is_stale_is_a_miss() {
    let disk = MemoryDisk::default();
    let config = CacheConfig::tiny();
    let server = Server::start(&disk, &config, 2);
    server.hits(0..100);
    assert!(server.flush());
    // Half of what the index names is replaced behind its back.
    server.hits(500..600);
    let here = server.present(0..100);
    let replaced = 100 - here.len();
    assert!((20..100).contains(&replaced), "{replaced} were replaced");
    drop(server);

    let server = Server::start(&disk, &config, 2);
    assert!(
        server.present(500..600).is_empty(),
        "they never were in the index"
    );
    assert_eq!(server.present(0..100).len(), 100);
    assert_eq!(server.hits(0..100), here.len());
    assert_eq!(server.doubtful(), u64::try_from(replaced).expect("small"));
    assert_eq!(server.hits(0..100), 100, "fetched again");
    server.check();
}

#[test]
fn kills_while_the_index_is_loaded_lose_nothing() {
    let disk = MemoryDisk::default();
    let config = CacheConfig::tiny();
    let server = Server::start(&disk, &config, 1);
    server.hits(0..120);
    server.stop();
    for (attempt, cores) in [2, 3, 1, 5, 2, 2, 4].into_iter().enumerate() {
        let (server, mut loader) = Server::start_unloaded(&disk, &config, cores);
        for _ in 0..attempt {
            server.load_step(&mut loader);
        }
        server.flush();
        drop(server);
    }
    let server = Server::start(&disk, &config, 2);
    assert_eq!(server.hits(0..120), 120);
    server.stop();
}

#[test]
fn a_cache_grows_and_shrinks_at_a_restart_and_keeps_what_fits() {
    let disk = MemoryDisk::default();
    let sized = |slots: u64| CacheConfig {
        cache_bytes: slots * SLOT_BYTES,
        ..CacheConfig::tiny()
    };
    let server = Server::start(&disk, &sized(100), 2);
    server.hits(0..99);
    let before = server.present(0..99);
    server.stop();

    let server = Server::start(&disk, &sized(300), 2);
    assert_eq!(server.present(0..99), before);
    server.hits(1000..1150);
    assert_eq!(
        server.present(0..99),
        before,
        "the new slots were used first"
    );
    server.stop();

    let server = Server::start(&disk, &sized(100), 2);
    assert!(
        disk.size_bytes() < 102 * SLOT_BYTES,
        "the space is given back"
    );
    let kept = server.present(0..1200);
    assert!(kept.len() > 90 && server.slots() == server.layout.slot_count());
    assert_eq!(server.hits(kept.iter().copied()), kept.len());
    assert_eq!(server.doubtful(), 0);
    server.stop();
}

#[test]
fn hits_are_served_while_the_index_is_loaded() {
    let disk = MemoryDisk::default();
    let config = CacheConfig::tiny();
    let server = Server::start(&disk, &config, 1);
    server.hits(0..100);
    server.stop();
    let (server, mut loader) = Server::start_unloaded(&disk, &config, 1);
    assert!(
        !server.read(1),
        "nothing is known yet, and nothing can be cached"
    );
    assert!(server.load_step(&mut loader));
    assert!(!server.cores[0].is_loaded());
    assert!(server.read(1));
}

fn index_count(disk: &MemoryDisk) -> usize {
    let files = disk.files.borrow();
    let names = files.keys().map(|path| path.to_string_lossy());
    names.filter(|name| name.contains("index")).count()
}

/// A warm disk, and a server started on it whose one core has been dealt nothing yet.
fn warm_and_unloaded() -> (MemoryDisk, Server, Loader<MemoryDisk>) {
    let disk = MemoryDisk::default();
    let config = CacheConfig::tiny();
    let server = Server::start(&disk, &config, 1);
    server.hits(0..100);
    server.stop();
    let (server, loader) = Server::start_unloaded(&disk, &config, 1);
    assert_eq!(index_count(&disk), 2);
    (disk, server, loader)
}

/// A flush that began before all was dealt used to count as having written all of it: a kill right behind it found
/// neither the old generation nor the rest of the new one.
#[test]
fn what_is_dealt_while_the_index_is_written_keeps_the_old_generation_alive() {
    let (disk, server, mut loader) = warm_and_unloaded();
    assert!(server.load_step(&mut loader));
    let release = disk.hold_writes();
    let mut flush = Box::pin(server.cores[0].flush());
    assert!(flush.as_mut().now_or_never().is_none(), "held up");
    while server.load_step(&mut loader) {}
    drop(release);
    assert_eq!(flush.now_or_never(), Some(true));
    assert_eq!(index_count(&disk), 2, "the rest is not written yet");
    assert!(server.flush());
    assert_eq!(index_count(&disk), 1);
    drop(server);
    let server = Server::start(&disk, &CacheConfig::tiny(), 1);
    assert_eq!(server.hits(0..100), 100);
}

#[test]
fn the_old_generation_stays_until_the_new_one_is_durable() {
    let (disk, server, mut loader) = warm_and_unloaded();
    while server.load_step(&mut loader) {}
    disk.sync_broken.set(true);
    assert!(!server.flush());
    assert_eq!(index_count(&disk), 2);
    assert_eq!(server.cores[0].stats().index_errors, 1);
    disk.sync_broken.set(false);
    assert!(server.flush());
    assert_eq!(index_count(&disk), 1);
}
