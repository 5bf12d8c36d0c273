//! The engine on real cores: hits, misses, single flight, damage, restarts.

use std::time::Duration;

use bytes::Bytes;
use engine::cache::{CacheLayout, ShardCache};
use engine::io::executor::{CoreConfig, start_core};
use engine::io::ring_disk::RingDisk;
use engine::types::{Key, KeySpace, Lsn, Partition};
use engine::{Core, ErrorKind, Order, ReadError};
use harness::engine::{BlockSpace, Nonsense, RunningEngine, SERVER, Site, block_key, page_of};

const LSN: Lsn = Lsn(100);

fn blocks(relation: u32, count: u32) -> Vec<(Key, Lsn)> {
    (0..count)
        .map(|block| (block_key(relation, block), LSN))
        .collect()
}

/// Reads every key at `at` through windows on `core` and compares with what was written at `LSN`; returns how many
/// were right.
async fn read_all(
    core: &Core,
    site: (engine::types::TenantId, engine::types::BranchId),
    keys: &[Key],
) -> usize {
    let branch = core
        .open_branch(site.0, site.1)
        .await
        .expect("the branch opens");
    let mut reads = core.reads(64);
    let mut right = 0;
    let mut expected = keys.iter();
    for key in keys {
        if !reads.has_room() {
            let answer = reads.next().await.expect("reads are in flight");
            right += usize::from(
                answer.value() == Some(&page_of(expected.next().expect("in order"), LSN)[..]),
            );
        }
        reads.push(&branch, *key, LSN);
    }
    while let Some(answer) = reads.next().await {
        right += usize::from(
            answer.value() == Some(&page_of(expected.next().expect("in order"), LSN)[..]),
        );
    }
    right
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_comes_back_from_the_store_then_from_the_cache_on_two_cores() {
    let site = Site::new().await;
    let versions = blocks(1, 3000);
    let branch = site.write_branch("main", &versions).await;
    let keys: Vec<Key> = versions.iter().map(|(key, _)| *key).collect();
    let running = site.start(2, |_| {});
    let place = (site.tenant, branch);
    for round in 0..2 {
        let keys = keys.clone();
        let right = running
            .on_core(round % 2, async move |core: Core| {
                read_all(&core, place, &keys).await
            })
            .await;
        assert_eq!(right, 3000);
    }
    let counts = running.engine.stats().await.counts;
    assert!(counts.reads_cross_core > 0, "{counts:?}");
    // Fills end behind the answers; a third round finds all of them.
    let before = site.control.reads_of("/layers/").len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let right = running
        .on_core(0, async move |core: Core| {
            read_all(&core, place, &keys).await
        })
        .await;
    assert_eq!(right, 3000);
    assert_eq!(
        site.control.reads_of("/layers/").len(),
        before,
        "a warm read asked the store"
    );
    let after = running.engine.stats().await.counts;
    assert_eq!(
        after.device_block_reads - counts.device_block_reads,
        3000,
        "one device read per warm page"
    );
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_waiters_on_one_extent_make_one_request() {
    let site = Site::new().await;
    let branch = site.write_branch("main", &blocks(1, 20)).await;
    let running = site.start(1, |_| {});
    let place = (site.tenant, branch);
    running
        .on_core(0, async move |core: Core| {
            core.open_branch(place.0, place.1).await.map(|_| ())
        })
        .await
        .expect("opens");
    site.control.set_delay(Duration::from_millis(50));
    let answers = running
        .on_core(0, async move |core: Core| {
            let branch = core
                .open_branch(place.0, place.1)
                .await
                .expect("open already");
            let mut reads = core.reads(10_000);
            for n in 0..10_000 {
                reads.push(&branch, block_key(1, n % 20), LSN);
            }
            let mut right = 0;
            let mut n = 0;
            while let Some(answer) = reads.next().await {
                right +=
                    usize::from(answer.value() == Some(&page_of(&block_key(1, n % 20), LSN)[..]));
                n += 1;
            }
            right
        })
        .await;
    assert_eq!(answers, 10_000);
    let reads = site.control.reads_of("/layers/");
    assert_eq!(
        reads.len(),
        2,
        "the index and the extent, once each: {reads:?}"
    );
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_extent_is_answered_when_its_own_block_has_arrived() {
    let site = Site::new().await;
    let branch = site
        .write_branch("main", &[blocks(1, 20), blocks(2, 1)].concat())
        .await;
    let running = site.start(1, |_| {});
    let tenant = site.tenant;
    let control = site.control.clone();
    running
        .on_core(0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await.expect("opens");
            // With it comes the layer's index.
            let other = core.read(&branch, block_key(2, 0), LSN).await;
            assert_eq!(other.expect("a page"), page_of(&block_key(2, 0), LSN));
            let release = control.hold_second_halves();
            let mut reads = core.reads_in_order(2, Order::Arrived);
            let late = reads.push(&branch, block_key(1, 19), LSN);
            let early = reads.push(&branch, block_key(1, 0), LSN);
            let answer = reads.next().await.expect("two are in flight");
            assert_eq!(answer.number(), early);
            assert_eq!(answer.value(), Some(&page_of(&block_key(1, 0), LSN)[..]));
            drop(answer);
            drop(release);
            let answer = reads.next().await.expect("one is in flight");
            assert_eq!(answer.number(), late);
            assert_eq!(answer.value(), Some(&page_of(&block_key(1, 19), LSN)[..]));
        })
        .await;
    assert_eq!(site.control.reads_of("/layers/").len(), 3);
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_reader_gets_the_rest_of_a_stripe_by_one_request_and_nothing_twice() {
    const STRIPES: u32 = 3;
    let site = Site::new().await;
    let versions = blocks(1, STRIPES * 1024);
    let branch = site.write_branch("main", &versions).await;
    let running = site.start(1, |_| {});
    let place = (site.tenant, branch);
    let keys: Vec<Key> = versions.iter().map(|(key, _)| *key).collect();
    let count = keys.len();
    let right = running
        .on_core(0, async move |core: Core| {
            read_all(&core, place, &keys).await
        })
        .await;
    assert_eq!(right, count);
    let mut reads = site.control.reads_of("/layers/");
    let lengths = reads.iter().map(|(_, range)| range.end - range.start);
    let long = lengths.filter(|&bytes| bytes > 7 << 20).count();
    assert_eq!(long, STRIPES as usize, "{reads:?}");
    // Of each layer the index; of what each has of a stripe an extent alone, and the rest.
    reads.sort_by_key(|(path, range)| (path.clone(), range.start));
    let layers = reads.chunk_by(|a, b| a.0 == b.0).count();
    let parts = layers + STRIPES as usize - 1;
    assert!(reads.len() <= layers + 2 * parts, "{reads:?}");
    for pair in reads.windows(2) {
        let apart = pair[0].0 != pair[1].0 || pair[0].1.end <= pair[1].1.start;
        assert!(apart, "fetched twice: {pair:?}");
    }
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_the_cache_warm_with_any_number_of_cores() {
    let site = Site::new().await;
    let versions = blocks(1, 1500);
    let branch = site.write_branch("main", &versions).await;
    let place = (site.tenant, branch);
    let mut fetched_cold = 0;
    let mut filled = 0;
    for cores in [1, 2, 7, 2] {
        let running = site.start(cores, |_| {});
        // The index loads behind the start.
        wait_for_cache(&running, filled).await;
        let keys: Vec<Key> = versions.iter().map(|(key, _)| *key).collect();
        let right = running
            .on_core(0, async move |core: Core| {
                read_all(&core, place, &keys).await
            })
            .await;
        assert_eq!(right, 1500);
        filled = wait_for_cache(&running, 1).await;
        let stats = running.engine.stats().await;
        assert_eq!(stats.core_caches.len(), cores);
        let hits = stats.core_caches.iter().map(|(_, cache)| cache.hits);
        assert_eq!(hits.sum::<u64>(), stats.cache.hits);
        let counts = stats.counts;
        if cores == 1 {
            fetched_cold = counts.extents_demanded + counts.extents_ahead;
        } else {
            let fetched = counts.extents_demanded + counts.extents_ahead;
            assert!(
                fetched * 20 <= fetched_cold,
                "{cores} cores, {fetched_cold} when cold: {counts:?}"
            );
            // The first reads load indexes from the store and pages from the cache: they are no misses.
            assert!(counts.reads_cache_after_load > 0, "{counts:?}");
            assert!(counts.reads_store * 20 <= 1500, "{counts:?}");
        }
        running.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_go_on_while_the_store_is_away_and_misses_fail_within_their_deadline() {
    let site = Site::new().await;
    let branch = site
        .write_branch("main", &[blocks(1, 10), blocks(2, 10)].concat())
        .await;
    let running = site.start(1, |_| {});
    let place = (site.tenant, branch);
    let warm: Vec<Key> = (0..10).map(|block| block_key(1, block)).collect();
    let first = warm.clone();
    assert_eq!(
        running
            .on_core(0, async move |core: Core| read_all(&core, place, &first)
                .await)
            .await,
        10
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    site.control.set_away(true);
    let again = warm.clone();
    assert_eq!(
        running
            .on_core(0, async move |core: Core| read_all(&core, place, &again)
                .await)
            .await,
        10
    );
    let miss = running
        .on_core(0, async move |core: Core| {
            let branch = core.open_branch(place.0, place.1).await?;
            core.read(&branch, block_key(2, 3), LSN).await
        })
        .await;
    assert_eq!(
        miss.map_err(|error| error.kind()),
        Err(ErrorKind::Unavailable)
    );
    site.control.set_away(false);
    let back = running
        .on_core(0, async move |core: Core| {
            let branch = core.open_branch(place.0, place.1).await?;
            core.read(&branch, block_key(2, 3), LSN).await
        })
        .await;
    assert_eq!(
        back.expect("the store is back"),
        page_of(&block_key(2, 3), LSN)
    );
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_answers_nonsense_costs_misses_their_answer_and_nothing_else() {
    let site = Site::new().await;
    // Of each relation the engine misses one page; the first it has.
    let versions: Vec<_> = (1..=4).flat_map(|relation| blocks(relation, 10)).collect();
    let branch = site.write_branch("main", &versions).await;
    let other = site.write_branch("other", &blocks(1, 10)).await;
    let running = site.start(1, |_| {});
    let place = (site.tenant, branch);
    let warm: Vec<Key> = (0..10).map(|block| block_key(1, block)).collect();
    let read_warm = async || {
        let warm = warm.clone();
        let task = async move |core: Core| read_all(&core, place, &warm).await;
        running.on_core(0, task).await
    };
    let read_one = async |branch, key| {
        let tenant = site.tenant;
        let task = async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            core.read(&branch, key, LSN).await
        };
        running.on_core(0, task).await
    };
    assert_eq!(read_warm().await, 10);
    wait_for_cache(&running, 1).await;
    for (relation, nonsense) in (2..).zip(Nonsense::ALL) {
        site.control.set_nonsense(Some(nonsense));
        assert_eq!(read_warm().await, 10, "{nonsense:?}");
        let key = block_key(relation, 3);
        for (branch, key) in [(branch, key), (other, warm[0])] {
            let error = read_one(branch, key).await.expect_err("not to be read");
            let kind = error.kind();
            let told = matches!(kind, ErrorKind::Unavailable | ErrorKind::Corrupt);
            assert!(told, "{nonsense:?}: {error}");
        }
        site.control.set_nonsense(None);
        let page = read_one(branch, key).await.expect("sane again");
        assert_eq!(page, page_of(&key, LSN), "{nonsense:?}");
    }
    let page = read_one(other, warm[0]).await.expect("sane again");
    assert_eq!(page, page_of(&warm[0], LSN));
    running.stop();
}

/// Reads block 3 of relation 1 through a fresh engine without a cache of earlier runs.
async fn read_cold(site: &Site, branch: engine::types::BranchId) -> Result<Vec<u8>, ReadError> {
    let _ = std::fs::remove_dir_all(site.data_dir());
    let running = site.start(1, |_| {});
    let tenant = site.tenant;
    let outcome = running
        .on_core(0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            core.read(&branch, block_key(1, 3), LSN).await
        })
        .await;
    running.stop();
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_exchanged_or_missing_object_is_an_error_that_names_it_and_never_a_wrong_page() {
    let site = Site::new().await;
    let branch = site.write_branch("main", &blocks(1, 10)).await;
    let other = site.write_branch("other", &blocks(1, 10)).await;
    assert_eq!(
        read_cold(&site, branch).await.expect("sound"),
        page_of(&block_key(1, 3), LSN)
    );
    let path_of = |branch| {
        let paths = site.control.reads_of(&format!("{branch}/layers/"));
        paths.first().map(|(path, _)| path.clone())
    };
    let _ = read_cold(&site, other).await;
    let path = path_of(branch).expect("the layer was read");
    let other_path = path_of(other).expect("the layer was read");
    let sound = site.objects.peek(&path).expect("it is there");

    for at in (0..sound.len()).step_by(977) {
        let mut damaged = sound.to_vec();
        damaged[at] ^= 0x10;
        site.objects.tamper(&path, Some(Bytes::from(damaged)));
        match read_cold(&site, branch).await {
            Ok(page) => assert_eq!(page, page_of(&block_key(1, 3), LSN), "byte {at}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
                assert!(error.to_string().contains(&branch.to_string()), "{error}");
            }
        }
    }
    site.objects.tamper(&path, site.objects.peek(&other_path));
    let exchanged = read_cold(&site, branch)
        .await
        .expect_err("another valid object");
    assert_eq!(exchanged.kind(), ErrorKind::Corrupt, "{exchanged}");
    assert!(
        exchanged
            .to_string()
            .contains("replaced by another valid object"),
        "{exchanged}"
    );

    let mut newer = sound.to_vec();
    newer[8] = 2;
    let checksum = crc32c::crc32c(&newer[..124]);
    newer[124..128].copy_from_slice(&checksum.to_le_bytes());
    site.objects.tamper(&path, Some(Bytes::from(newer)));
    // The header is not read where everything opens: the page is right whatever the header says.
    assert_eq!(
        read_cold(&site, branch).await.expect("its blocks open"),
        page_of(&block_key(1, 3), LSN)
    );

    site.objects.tamper(&path, None);
    let missing = read_cold(&site, branch).await.expect_err("no object");
    assert_eq!(missing.kind(), ErrorKind::Corrupt, "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_cache_files_cost_a_fetch_and_never_a_wrong_page() {
    let site = Site::new().await;
    let versions = blocks(1, 200);
    let branch = site.write_branch("main", &versions).await;
    let place = (site.tenant, branch);
    let keys: Vec<Key> = versions.iter().map(|(key, _)| *key).collect();
    let warm = keys.clone();
    let running = site.start(1, |_| {});
    assert_eq!(
        running
            .on_core(0, async move |core: Core| read_all(&core, place, &warm)
                .await)
            .await,
        200
    );
    let filled = wait_for_cache(&running, 1).await;
    running.stop();
    let slots: Vec<_> = std::fs::read_dir(site.data_dir())
        .expect("the data directory")
        .flat_map(|entry| walk(entry.expect("an entry").path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("slots"))
        })
        .collect();
    assert!(!slots.is_empty());
    for path in slots {
        let mut bytes = std::fs::read(&path).expect("a slot file");
        for byte in bytes.iter_mut().step_by(4000) {
            *byte ^= 1;
        }
        std::fs::write(&path, bytes).expect("a slot file");
    }
    let running = site.start(1, |_| {});
    wait_for_cache(&running, filled).await;
    assert_eq!(
        running
            .on_core(0, async move |core: Core| read_all(&core, place, &keys)
                .await)
            .await,
        200
    );
    let counts = running.engine.stats().await.counts;
    assert!(
        counts.seal_failures_cache > 0,
        "the damage was not met: {counts:?}"
    );
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_index_that_gives_extents_another_length_costs_a_fetch_each() {
    let site = Site::new().await;
    let versions = blocks(1, 200);
    let branch = site.write_branch("main", &versions).await;
    let place = (site.tenant, branch);
    let keys: Vec<Key> = versions.iter().map(|(key, _)| *key).collect();
    let read_by = async |running: &RunningEngine| {
        let keys = keys.clone();
        let task = async move |core: Core| read_all(&core, place, &keys).await;
        running.on_core(0, task).await
    };
    let running = site.start(1, |_| {});
    assert_eq!(read_by(&running).await, 200);
    let filled = wait_for_cache(&running, 1).await;
    running.stop();

    let partition = BlockSpace.partition(&versions[0].0);
    assert_eq!(shorten_cached_extents(&site, partition), filled);

    let running = site.start(1, |_| {});
    wait_for_cache(&running, filled).await;
    assert_eq!(read_by(&running).await, 200);
    let stats = running.engine.stats().await;
    assert_eq!(stats.cache.doubtful, u64::from(filled));
    // They are not even read.
    assert_eq!(stats.counts.seal_failures_cache, 0);
    assert_eq!(stats.counts.device_errors, 0);
    assert_eq!(
        stats.counts.extents_demanded + stats.counts.extents_ahead,
        u64::from(filled)
    );
    running.stop();
}

/// Enters every extent of a stopped engine's cache anew, each in some slot, as one sector shorter than it is. All are of
/// `partition`. How many there are.
fn shorten_cached_extents(site: &Site, partition: Partition) -> u32 {
    let (dir, config) = (site.data_dir(), site.cache_config());
    let core = start_core(CoreConfig::default(), async move || {
        let disk = RingDisk::new(1);
        let prepared = CacheLayout::prepare(&disk, &dir, &config, SERVER, 1).await;
        let (layout, mut loader) = prepared.expect("its own cache");
        let cache = ShardCache::open(&disk, &layout).await;
        while let Some((_, deal)) = loader.next(|_| 0).await {
            cache.accept(deal);
        }
        let mut extents = Vec::new();
        let mut position = 0;
        while let Some((id, slot, next)) = cache.scrub_from(position) {
            extents.push((id, slot.extent_bytes()));
            position = next;
        }
        for (id, extent_bytes) in &extents {
            cache.drop_doubtful(id, &"the test wants it");
            let ticket = cache.reserve(*id, partition, extent_bytes - 512);
            cache.filled(ticket.expect("a free slot"), 0);
        }
        assert!(cache.flush().await, "the index is written");
        u32::try_from(extents.len()).expect("few")
    });
    core.expect("starts").join().expect("no panic")
}

/// Waits until at least `slots` of the cache are in use, and no more become so for a while; says how many are.
async fn wait_for_cache(running: &RunningEngine, slots: u32) -> u32 {
    let mut before = 0;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let used = running.engine.stats().await.cache.slots_used;
        if used >= slots && used == before {
            return used;
        }
        before = used;
    }
    panic!("{before} slots are in use, {slots} were expected");
}

fn walk(path: std::path::PathBuf) -> Vec<std::path::PathBuf> {
    match std::fs::read_dir(&path) {
        Ok(entries) => entries
            .flat_map(|entry| walk(entry.expect("an entry").path()))
            .collect(),
        Err(_) => vec![path],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lsns_outside_the_branch_are_refused_by_name() {
    let site = Site::new().await;
    let key = block_key(1, 0);
    let branch = site
        .write_branch("main", &[(key, Lsn(100)), (key, Lsn(200))])
        .await;
    let running = site.start(1, |_| {});
    let tenant = site.tenant;
    let outcomes = running
        .on_core(0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await.expect("opens");
            let mut outcomes = Vec::new();
            for at in [99, 100, 199, 200, 201] {
                outcomes.push(
                    core.read(&branch, key, Lsn(at))
                        .await
                        .map_err(|error| error.kind()),
                );
            }
            outcomes.push(
                core.read(&branch, block_key(9, 9), Lsn(150))
                    .await
                    .map_err(|error| error.kind()),
            );
            outcomes
        })
        .await;
    let (old, new) = (page_of(&key, Lsn(100)), page_of(&key, Lsn(200)));
    let expected = [
        Err(ErrorKind::Gone),
        Ok(old.clone()),
        Ok(old),
        Ok(new),
        Err(ErrorKind::NotYet),
        Err(ErrorKind::NotFound),
    ];
    assert_eq!(outcomes, expected);
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_from_nothing_takes_six_round_trips_and_one_key_call() {
    let site = Site::new().await;
    let branch = site.write_branch("main", &blocks(1, 3000)).await;
    count_the_first_page(&site, branch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_of_100_tib_takes_no_more() {
    let site = Site::new().await;
    let branch = site.write_branch("main", &blocks(1, 3000)).await;
    site.name_layers(branch, 800_000).await;
    count_the_first_page(&site, branch).await;
}

/// Reads a page of relation 1 through an engine that has nothing yet.
async fn count_the_first_page(site: &Site, branch: engine::types::BranchId) {
    site.control.set_delay(Duration::from_millis(40));
    let running = site.start(1, |_| {});
    let (rounds, calls) = (site.control.rounds(), site.control.key_calls());
    let tenant = site.tenant;
    let page = running
        .on_core(0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            core.read(&branch, block_key(1, 2999), LSN).await
        })
        .await;
    assert_eq!(page.expect("a page"), page_of(&block_key(1, 2999), LSN));
    let rounds = site.control.rounds() - rounds;
    assert!(rounds <= 6, "{rounds} dependent round trips");
    assert_eq!(site.control.key_calls() - calls, 1);
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_shows_its_parent_up_to_where_it_left_and_its_own_versions_above() {
    let site = Site::new().await;
    let (a, b) = (block_key(1, 0), block_key(1, 1));
    let versions = [(a, Lsn(100)), (a, Lsn(200)), (b, Lsn(100)), (b, Lsn(200))];
    let main = site.write_branch("main", &versions).await;
    let dev = site
        .write_child("dev", (main, Lsn(150)), &[(a, Lsn(300))], Lsn(300))
        .await;
    let leaf = site
        .write_child("leaf", (dev, Lsn(250)), &[], Lsn(250))
        .await;
    let running = site.start(2, |_| {});
    let tenant = site.tenant;
    // Branch, key, LSN asked for, LSN of the version that is right.
    let cases = [
        (main, a, 200, 200),
        (dev, a, 150, 100),
        (dev, a, 299, 100),
        (dev, a, 300, 300),
        (dev, b, 300, 100),
        (leaf, a, 250, 100),
        (leaf, b, 250, 100),
    ];
    for (branch, key, at, version) in cases {
        let page = running
            .on_core(0, async move |core: Core| {
                let branch = core.open_branch(tenant, branch).await?;
                core.read(&branch, key, Lsn(at)).await
            })
            .await;
        assert_eq!(
            page.expect("a page"),
            page_of(&key, Lsn(version)),
            "{branch} at {at}"
        );
    }
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_thread_that_panics_is_noticed() {
    let site = Site::new().await;
    let branch = site.write_branch("main", &blocks(1, 10)).await;
    let running = site.start(1, |_| {});
    assert!(!running.engine.has_lost_thread());
    site.control.panic_at_next_request();
    let tenant = site.tenant;
    let opened = running
        .on_core(0, async move |core: Core| {
            core.open_branch(tenant, branch).await.map(|_| ())
        })
        .await;
    let kind = opened.expect_err("nobody answers").kind();
    assert_eq!(kind, ErrorKind::Unavailable);
    for _ in 0..100 {
        if running.engine.has_lost_thread() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(running.engine.has_lost_thread());
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_panics_is_noticed_and_named_at_the_stop() {
    let site = Site::new().await;
    let running = site.start(2, |_| {});
    assert!(!running.engine.has_lost_thread());
    running
        .engine
        .run_on_core(1, async |_core: Core| panic!("on purpose"))
        .await;
    for _ in 0..100 {
        if running.engine.has_lost_thread() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(running.engine.has_lost_thread());
    let error = running.engine.stop().expect_err("a core panicked");
    assert!(error.to_string().contains("on purpose"), "{error}");
}
