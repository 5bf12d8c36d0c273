use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::*;
use crate::io::memory_disk::MemoryDisk;
use crate::io::test_runtime::TestRuntime;
use crate::store::client::{StoreClient, TryFetchError, queues};
use crate::store::faulty::{Fault, FaultPlan, Faulty};
use crate::store::memory::MemoryObjects;
use crate::store::objects::{ListedObject, Objects, StoreError};
use crate::store::requests::{Fill, FillTarget};

struct Bench {
    runtime: TestRuntime,
    disk: MemoryDisk,
    faulty: Faulty<MemoryObjects, TestRuntime>,
    client: StoreClient,
}

const CACHE: &str = "/cache";

/// A worker over a store with one object `x` of a MiB that comes in chunks of 10,000 bytes.
fn bench(config: &StoreConfig) -> Bench {
    let runtime = TestRuntime::default();
    let memory = MemoryObjects::new(10_000);
    memory.tamper("x", Some(body(0..1 << 20)));
    let faulty = Faulty::new(memory, runtime.clone(), FaultPlan::none(), 1);
    let disk = MemoryDisk::with_file(CACHE, 1 << 20);
    let (client, queues) = queues(config);
    let parts = WorkerParts {
        objects: faulty.clone(),
        clock: runtime.clone(),
        spawner: runtime.clone(),
        disk: disk.clone(),
        random: ChaCha8Rng::seed_from_u64(2),
    };
    runtime.spawn(run(queues, parts, config.clone()));
    Bench {
        runtime,
        disk,
        faulty,
        client,
    }
}

fn body(range: std::ops::Range<u64>) -> Bytes {
    range.map(|n| (n % 251).to_le_bytes()[0]).collect()
}

fn fill(extent: std::ops::Range<u64>, at: u64) -> Fill {
    Fill {
        extent,
        target: FillTarget {
            file: Arc::from(Path::new(CACHE)),
            at,
        },
    }
}

fn request(
    range: std::ops::Range<u64>,
    fills: Vec<Fill>,
    room: usize,
) -> (FetchRequest, Receiver<FetchEvent>) {
    let (events, receiver) = async_channel::bounded(room);
    let request = FetchRequest {
        path: "x".into(),
        range,
        fills,
        verify: |extent| Some(crc32c::crc32c(extent)),
        events,
        priority: Priority::Demand,
    };
    (request, receiver)
}

/// Takes all events; the chunks put together, checked for order, and the rest as text.
async fn collect(receiver: Receiver<FetchEvent>, from: u64) -> (Vec<u8>, Vec<String>) {
    let (mut bytes_got, mut others) = (Vec::new(), Vec::new());
    while let Ok(event) = receiver.recv().await {
        match event {
            FetchEvent::Chunk { at, bytes } => {
                assert_eq!(
                    at,
                    from + bytes_got.len() as u64,
                    "in order, no gap, no overlap"
                );
                assert!(!bytes.is_empty());
                bytes_got.extend_from_slice(&bytes);
            }
            other => others.push(format!("{other:?}")),
        }
    }
    (bytes_got, others)
}

#[test]
fn chunks_reach_the_receiver_and_extents_the_cache_byte_for_byte() {
    let bench = bench(&StoreConfig::default());
    // The second extent is not wanted by the cache; the third ends within a block of the disk.
    let fills = vec![fill(5_000..70_000, 131_072), fill(135_000..135_100, 0)];
    let (fetch, receiver) = request(5_000..135_100, fills, 16);
    let (bytes, others) = bench.runtime.block_on(async {
        bench.client.fetch(fetch).await.expect("queued");
        collect(receiver, 5_000).await
    });
    assert_eq!(bytes, body(5_000..135_100));
    let mut expected = vec![
        format!("Filled(0, {:08x})", crc32c::crc32c(&body(5_000..70_000))),
        format!("Filled(1, {:08x})", crc32c::crc32c(&body(135_000..135_100))),
    ];
    expected.push("Done".to_owned());
    assert_eq!(others, expected);

    let cache = bench.disk.contents(CACHE);
    assert_eq!(cache[131_072..196_072], body(5_000..70_000));
    assert!(cache[196_072..196_608].iter().all(|b| *b == 0), "padding");
    assert_eq!(cache[..100], body(135_000..135_100));
    assert!(cache[100..4096].iter().all(|b| *b == 0), "padding");
    assert!(
        cache[4096..131_072].iter().all(|b| *b == 0xee),
        "the rest is untouched"
    );
    assert!(
        cache[196_608..].iter().all(|b| *b == 0xee),
        "the rest is untouched"
    );
    assert_eq!(bench.disk.open_count.get(), 1, "a file is opened once");
}

#[test]
fn a_reused_buffer_pads_with_zeros() {
    let mut config = StoreConfig::tiny();
    config.fill_buffer_bytes_max = 4096;
    let bench = bench(&config);
    bench.runtime.block_on(async {
        for (extent, at) in [(0..4096, 0), (4096..4100, 4096)] {
            let range = extent.clone();
            let (fetch, receiver) = request(range, vec![fill(extent.clone(), at)], 16);
            bench.client.fetch(fetch).await.expect("queued");
            let (_, others) = collect(receiver, extent.start).await;
            assert_eq!(others.len(), 2, "filled and done: {others:?}");
        }
    });
    assert!(
        bench.disk.contents(CACHE)[4100..8192]
            .iter()
            .all(|b| *b == 0)
    );
}

#[test]
fn faults_of_the_store_do_not_show_in_chunks_or_cache() {
    for fault in [
        Fault::BrokenBody,
        Fault::ShortBody,
        Fault::HangingBody,
        Fault::Hang,
    ] {
        let bench = bench(&StoreConfig::tiny());
        bench.faulty.script([Some(fault)]);
        let (fetch, receiver) = request(0..262_144, vec![fill(0..262_144, 0)], 4);
        let (bytes, others) = bench.runtime.block_on(async {
            bench.client.fetch(fetch).await.expect("queued");
            collect(receiver, 0).await
        });
        assert_eq!(bytes, body(0..262_144), "{fault:?}");
        assert_eq!(others.len(), 2, "{fault:?}: {others:?}");
        assert_eq!(
            bench.disk.contents(CACHE)[..262_144],
            body(0..262_144),
            "{fault:?}"
        );
    }
}

#[test]
fn a_fetch_that_fails_half_way_says_so_last_and_fills_nothing_it_did_not_get() {
    let bench = bench(&StoreConfig::tiny());
    bench.faulty.script([Some(Fault::Error); 9]);
    let (fetch, receiver) = request(0..262_144, vec![fill(0..262_144, 0)], 4);
    let (bytes, others) = bench.runtime.block_on(async {
        bench.client.fetch(fetch).await.expect("queued");
        collect(receiver, 0).await
    });
    assert_eq!(bytes.len(), 0);
    assert_eq!(others, ["Failed(x: injected fault)"]);
    assert!(bench.disk.contents(CACHE).iter().all(|b| *b == 0xee));
}

#[test]
fn an_unacceptable_extent_is_delivered_and_not_cached() {
    let bench = bench(&StoreConfig::default());
    let (mut fetch, receiver) = request(0..8192, vec![fill(0..8192, 0)], 4);
    fetch.verify = |_| None;
    let (bytes, others) = bench.runtime.block_on(async {
        bench.client.fetch(fetch).await.expect("queued");
        collect(receiver, 0).await
    });
    assert_eq!(bytes, body(0..8192), "the receiver judges blocks by itself");
    assert!(
        others[0].starts_with("FillFailed(0, the extent at byte 0"),
        "{others:?}"
    );
    assert!(bench.disk.contents(CACHE).iter().all(|b| *b == 0xee));
    assert_eq!(bench.client.stats().counters.fills_bad_extent, 1);
}

#[test]
fn a_broken_disk_costs_the_fill_only_and_its_file_is_opened_anew() {
    let bench = bench(&StoreConfig::default());
    bench.runtime.block_on(async {
        for (is_broken, expected) in [(true, "FillFailed(0, cache file"), (false, "Filled(0")] {
            bench.disk.broken.set(is_broken);
            let (fetch, receiver) = request(0..8192, vec![fill(0..8192, 0)], 4);
            bench.client.fetch(fetch).await.expect("queued");
            let (bytes, others) = collect(receiver, 0).await;
            assert_eq!(bytes, body(0..8192));
            assert!(others[0].starts_with(expected), "{others:?}");
        }
    });
    assert_eq!(bench.disk.open_count.get(), 2);
}

#[test]
fn without_a_free_buffer_the_chunks_come_all_the_same() {
    let config = StoreConfig {
        fill_buffer_bytes_max: 8192,
        ..StoreConfig::default()
    };
    let bench = bench(&config);
    let fills = vec![fill(0..4096, 0), fill(4096..40_000, 8192)];
    let (fetch, receiver) = request(0..40_000, fills, 4);
    let (bytes, others) = bench.runtime.block_on(async {
        bench.client.fetch(fetch).await.expect("queued");
        collect(receiver, 0).await
    });
    assert_eq!(bytes, body(0..40_000));
    assert!(
        others.contains(&"FillFailed(1, no fill buffer free)".to_owned()),
        "{others:?}"
    );
    assert_eq!(bench.client.stats().counters.fills_without_buffer, 1);
}

#[test]
fn a_receiver_that_takes_nothing_is_given_up_and_holds_up_nobody() {
    let config = StoreConfig::tiny();
    let bench = bench(&config);
    let (stuck, stuck_receiver) = request(0..262_144, vec![fill(0..262_144, 0)], 1);
    bench.runtime.block_on(async {
        bench.client.fetch(stuck).await.expect("queued");
        for _ in 0..10 {
            let bytes = bench
                .client
                .read("x", 7..20_000)
                .await
                .expect("served meanwhile");
            assert_eq!(bytes, body(7..20_000));
        }
        assert_eq!(bench.runtime.now().0, 0, "nobody waited for the stuck one");
        bench.runtime.sleep(config.event_wait_max * 2).await;
        assert_eq!(stuck_receiver.len(), 1, "it got what fits");
        let (bytes, others) = collect(stuck_receiver, 0).await;
        assert!(
            bytes.len() <= 10_000 && others.is_empty(),
            "closed without an end"
        );
    });
    assert_eq!(bench.client.stats().counters.slow_receivers, 1);
    assert_eq!(bench.client.stats().in_flight, 0);
    assert!(
        bench.disk.contents(CACHE).iter().all(|b| *b == 0xee),
        "nothing is written once nobody could be told"
    );
}

/// A channel that closes tells its receiver that the slots may be used again. Closing it when the receiver was given
/// up, with a write still under way, let the next extent of the slot be written over by this one.
#[test]
fn the_channel_of_a_receiver_that_was_given_up_closes_after_the_last_write() {
    let config = StoreConfig::tiny();
    let bench = bench(&config);
    let fills = vec![fill(0..15_000, 0), fill(15_000..262_144, 65_536)];
    let (stuck, stuck_receiver) = request(0..262_144, fills, 2);
    let release = bench.disk.hold_writes();
    bench.runtime.block_on(async {
        bench.client.fetch(stuck).await.expect("queued");
        bench.runtime.sleep(config.event_wait_max * 4).await;
        assert_eq!(bench.client.stats().counters.slow_receivers, 1);
        assert_eq!(bench.disk.writing.get(), 1, "the first extent's");
        assert!(!stuck_receiver.is_closed(), "the slot is being written");
        drop(release);
        let (bytes, others) = collect(stuck_receiver, 0).await;
        assert_eq!(bytes, body(0..20_000), "what had room");
        assert_eq!(others, [""; 0], "closed without an end");
    });
    assert_eq!(bench.disk.writing.get(), 0);
    let cache = bench.disk.contents(CACHE);
    assert_eq!(cache[..15_000], body(0..15_000), "it was on its way");
    assert!(cache[65_536..].iter().all(|b| *b == 0xee), "and no other");
}

#[test]
fn a_dropped_receiver_ends_a_fetch_without_fills_and_lets_fills_finish() {
    let bench = bench(&StoreConfig::default());
    bench
        .faulty
        .set_plan(FaultPlan::distant(Duration::ZERO, Some(10_000_000)));
    bench.runtime.block_on(async {
        let (unwanted, receiver) = request(0..1 << 20, Vec::new(), 1);
        drop(receiver);
        bench.client.fetch(unwanted).await.expect("queued");
        bench.runtime.sleep(Duration::from_secs(1)).await;
        let read_bytes = bench.client.stats().counters.bytes_read;
        assert!(read_bytes <= 20_000, "{read_bytes} bytes read for nobody");

        let (wanted, receiver) = request(0..262_144, vec![fill(0..262_144, 0)], 1);
        drop(receiver);
        bench.client.fetch(wanted).await.expect("queued");
        bench.runtime.sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(bench.disk.contents(CACHE)[..262_144], body(0..262_144));
    assert_eq!(bench.client.stats().in_flight, 0);
}

#[test]
fn demand_is_served_before_read_ahead_that_came_earlier() {
    let mut config = StoreConfig::tiny();
    config.reads_in_flight_max = 1;
    config.demand_queue_max = 8;
    config.ahead_queue_max = 2;
    let bench = bench(&config);
    bench
        .faulty
        .set_plan(FaultPlan::distant(Duration::from_millis(10), None));
    let order = bench.runtime.block_on(async {
        // Occupies the only place while the others queue up.
        let (first, first_receiver) = request(0..10, Vec::new(), 4);
        bench.client.fetch(first).await.expect("queued");
        bench.runtime.sleep(Duration::from_millis(1)).await;
        let (finished, order) = async_channel::bounded(8);
        for (name, priority) in [
            ("ahead 1", Priority::Ahead),
            ("ahead 2", Priority::Ahead),
            ("demand 1", Priority::Demand),
            ("demand 2", Priority::Demand),
        ] {
            let (mut fetch, receiver) = request(0..10, Vec::new(), 4);
            fetch.priority = priority;
            bench.client.fetch(fetch).await.expect("queued");
            let finished = finished.clone();
            bench.runtime.spawn(async move {
                collect(receiver, 0).await;
                finished.send(name).await.expect("room for all");
            });
        }
        let (mut extra, _receiver) = request(0..10, Vec::new(), 4);
        extra.priority = Priority::Ahead;
        assert!(matches!(
            bench.client.try_fetch(extra),
            Err(TryFetchError::Full(_))
        ));
        drop(finished);
        collect(first_receiver, 0).await;
        order.collect::<Vec<_>>().await
    });
    assert_eq!(order, ["demand 1", "demand 2", "ahead 1", "ahead 2"]);
}

#[test]
fn close_finishes_what_is_queued_and_refuses_the_rest() {
    let config = StoreConfig::default();
    let bench = bench(&config);
    bench
        .faulty
        .set_plan(FaultPlan::distant(Duration::from_millis(10), None));
    bench.runtime.block_on(async {
        let (fetch, receiver) = request(0..10_000, Vec::new(), 4);
        bench.client.fetch(fetch).await.expect("queued");
        bench.client.close();
        assert_eq!(collect(receiver, 0).await.0, body(0..10_000));
        let refused = bench.client.get_all("x").await;
        assert!(
            matches!(refused, Err(StoreError::Unavailable { .. })),
            "{refused:?}"
        );
    });
}

/// A store of one endless listing: only its first page can be had.
#[derive(Clone)]
struct Endless;

impl Objects for Endless {
    type Body = futures_util::stream::Empty<Result<Bytes, StoreError>>;

    async fn get(&self, _: &str, _: std::ops::Range<u64>) -> Result<Self::Body, StoreError> {
        Ok(futures_util::stream::empty())
    }

    async fn get_all(&self, _: &str) -> Result<Bytes, StoreError> {
        Ok(Bytes::new())
    }

    async fn put_if_absent(&self, _: &str, _: Bytes) -> Result<(), StoreError> {
        Ok(())
    }

    async fn list(&self, _: &str, _: Option<&str>) -> Result<Vec<ListedObject>, StoreError> {
        std::future::pending().await
    }

    async fn list_first(
        &self,
        prefix: &str,
        _: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let object = |number| ListedObject {
            path: format!("{prefix}{number:03}"),
            size_bytes: 0,
        };
        Ok((0..count_max).map(object).collect())
    }

    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What looks for the newest manifest entry lists a page; the client used to list all of them and drop the rest.
#[test]
fn the_first_of_a_listing_are_asked_of_the_store_alone() {
    let runtime = TestRuntime::default();
    let config = StoreConfig::tiny();
    let (client, queues) = queues(&config);
    let parts = WorkerParts {
        objects: Endless,
        clock: runtime.clone(),
        spawner: runtime.clone(),
        disk: MemoryDisk::default(),
        random: ChaCha8Rng::seed_from_u64(2),
    };
    runtime.spawn(run(queues, parts, config));
    let listed = runtime.block_on(client.list_first("dir/", None, 64));
    let listed = listed.expect("the store's own answer");
    assert_eq!((listed.len(), &*listed[63].path), (64, "dir/063"));
    assert_eq!(runtime.now().0, 0, "nothing was waited for");
}

#[test]
fn an_object_that_is_too_short_is_told_from_a_body_that_is() {
    let config = StoreConfig::tiny();
    let bench = bench(&config);
    let read = |range| bench.runtime.block_on(bench.client.read("x", range));
    let beyond = read(0..(1 << 20) + 1);
    assert!(
        matches!(
            beyond,
            Err(StoreError::Truncated { object_bytes_max, .. }) if object_bytes_max == 1 << 20
        ),
        "{beyond:?}"
    );
    assert_eq!(bench.faulty.requests(), 1, "another try brings no more");
    bench.faulty.script([Some(Fault::ShortBody); 9]);
    let cut = read(0..1 << 20);
    assert!(
        matches!(cut, Err(StoreError::ShortBody { .. })),
        "{:?}",
        cut.map(|b| b.len())
    );
    assert_eq!(bench.faulty.requests(), 1 + u64::from(config.attempts_max));
}

#[test]
fn the_client_is_a_store_itself() {
    let bench = bench(&StoreConfig::tiny());
    bench.runtime.block_on(async {
        let client = &bench.client;
        client
            .put_if_absent("dir/a", body(0..3))
            .await
            .expect("new");
        let taken = client.put_if_absent("dir/a", body(0..3)).await;
        assert!(
            matches!(taken, Err(StoreError::AlreadyExists { .. })),
            "{taken:?}"
        );
        assert_eq!(client.get_all("dir/a").await.expect("there"), body(0..3));
        assert_eq!(client.read("dir/a", 1..3).await.expect("there"), body(1..3));
        assert_eq!(
            client.read("dir/a", 1..1).await.expect("nothing asked"),
            Bytes::new()
        );
        assert_eq!(client.list("dir", None).await.expect("listed").len(), 1);
        client.delete("dir/a").await.expect("deleted");
        let gone = client.read("dir/a", 0..3).await;
        assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
    });
}
