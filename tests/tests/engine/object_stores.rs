//! Every object store, bare and wrapped, keeps one contract; put-if-absent is probed on each; and the store threads
//! stream extents from a real one into a cache file.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::io::store_thread::StoreThreads;
use engine::io::tokio_clock::TokioClock;
use engine::store::faulty::{FaultPlan, Faulty};
use engine::store::memory::MemoryObjects;
use engine::store::objects::{Objects, StoreError};
use engine::store::probe::probe_put_if_absent;
use engine::store::reliable::Reliable;
use engine::store::store_url::StoreUrl;
use engine::store::{FetchEvent, FetchRequest, Fill, FillTarget, Priority, StoreConfig};
use futures_util::future::{Either, select};
use harness::object_contract::check_contract;
use harness::stores::{StoreServer, store};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}

#[expect(clippy::disallowed_methods, reason = "tests run on the system's clock")]
fn clock() -> TokioClock {
    TokioClock::since(Instant::now())
}

/// The bare store, the store with deadlines and retries, and the probe.
fn check(name: &str, url: &StoreUrl) {
    run(async {
        let bare = url.connect().expect("settings are complete");
        check_contract(name, &bare).await;
        let mut random = ChaCha8Rng::seed_from_u64(1);
        probe_put_if_absent(&bare, &mut random)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let config = StoreConfig::default();
        let reliable = Reliable::new(bare.clone(), clock(), random, config, Arc::default());
        check_contract(&format!("{name}, with deadlines"), &reliable).await;
        let left = bare.list("", None).await.expect("listed");
        assert_eq!(left, [], "{name}: nothing is left behind");
    });
}

#[test]
fn a_local_directory_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("objects");
    let path = path.to_str().expect("UTF-8");
    check("plain path", &store(path, &[]));
    check("file URL", &store(&format!("file://{path}"), &[]));
}

#[test]
fn memory_keeps_the_contract() {
    check("memory URL", &store("memory://", &[]));
    run(check_contract(
        "memory of tests",
        &MemoryObjects::new(10_000),
    ));
    let faultless = Faulty::new(MemoryObjects::new(10_000), clock(), FaultPlan::none(), 1);
    run(check_contract("faulty without faults", &faultless));
}

#[test]
fn s3_keeps_the_contract() {
    check("S3 (moto)", StoreServer::s3().store());
}

#[test]
fn azure_keeps_the_contract() {
    check("Azure (Azurite)", StoreServer::azure().store());
}

#[test]
fn google_keeps_the_contract_as_far_as_a_stub_can_tell() {
    check("Google (stub)", StoreServer::google().store());
}

#[test]
fn a_store_that_is_not_there_is_unavailable_and_a_bucket_that_is_not_there_is_refused() {
    let nobody = harness::stores::free_port();
    let environment = |endpoint: &str| {
        store(
            "s3://no-such-bucket/x",
            &[
                ("AWS_ENDPOINT_URL", endpoint),
                ("AWS_REGION", "us-east-1"),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ],
        )
    };
    run(async {
        let away = environment(&format!("http://127.0.0.1:{nobody}"));
        let objects = away.connect().expect("settings are complete");
        let error = objects.get_all("x").await.expect_err("nobody listens");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    });
    let server = StoreServer::s3();
    let endpoint = server.endpoint();
    run(async {
        let objects = environment(endpoint)
            .connect()
            .expect("settings are complete");
        let put = objects.put_if_absent("x", Bytes::from("x")).await;
        assert!(matches!(put, Err(StoreError::Refused { .. })), "{put:?}");
        let get = objects.get_all("x").await;
        assert!(matches!(get, Err(StoreError::Refused { .. })), "{get:?}");
        let list = objects.list("", None).await;
        assert!(matches!(list, Err(StoreError::Refused { .. })), "{list:?}");
    });
}

/// 0.0.0.0 reaches this machine and is no loopback address, so nothing else is asked even if the refusal fails.
#[test]
fn plain_http_past_loopback_is_refused_unless_asked_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("bound").port();
    let endpoint = format!("http://0.0.0.0:{port}");
    let connect = |allow_http: &str| {
        let variables = [
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", allow_http),
        ];
        store("s3://bucket/x", &variables)
            .connect()
            .expect("settings are complete")
    };
    run(async {
        let objects = connect("false");
        let refused = objects.get_all("x").await;
        assert!(refused.is_err(), "{refused:?}");
        let nobody = listener.accept().expect_err("nothing was sent");
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);

        let objects = connect("true");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        match select(pin!(objects.get_all("x")), pin!(listener.accept())).await {
            Either::Left((answer, _)) => panic!("nobody answered: {answer:?}"),
            Either::Right((connection, _)) => assert!(connection.is_ok(), "{connection:?}"),
        }
    });
}

/// Starts two store threads on `url`.
fn threads(url: &StoreUrl) -> StoreThreads {
    let url = url.clone();
    let config = StoreConfig::default();
    StoreThreads::start(2, move || url.connect(), &config, clock(), 1).expect("rings and a store")
}

#[test]
fn store_threads_keep_the_contract() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let url = store(dir.path().to_str().expect("UTF-8"), &[]);
    let threads = threads(&url);
    run(check_contract("store threads", &threads.client()));
    assert!(
        threads.shutdown(Duration::from_secs(10)),
        "idle threads end at once"
    );
}

#[test]
fn store_threads_stream_extents_from_s3_into_a_cache_file() {
    let server = StoreServer::s3();
    let threads = threads(server.store());
    let client = threads.client();
    let dir = tempfile::tempdir().expect("temporary directory");
    let cache = dir.path().join("cache");
    std::fs::write(&cache, vec![0xee; 1 << 20]).expect("a cache file");
    let body: Bytes = (0..600_000_u32)
        .map(|n| (n % 251).to_le_bytes()[0])
        .collect();
    let extents = [0..262_144, 262_144..524_288, 524_288..600_000];
    run(async {
        client
            .put_if_absent("layer", body.clone())
            .await
            .expect("put");
        let (events, receiver) = async_channel::bounded(16);
        let file: Arc<Path> = cache.as_path().into();
        let fills = extents.iter().enumerate().map(|(slot, extent)| Fill {
            extent: extent.clone(),
            target: FillTarget {
                file: Arc::clone(&file),
                at: slot as u64 * 262_144,
            },
        });
        let request = FetchRequest {
            path: "layer".into(),
            range: 0..600_000,
            fills: fills.collect(),
            verify: |extent| Some(crc32c::crc32c(extent)),
            events,
            priority: Priority::Demand,
        };
        client.fetch(request).await.expect("queued");
        let (mut got, mut filled) = (Vec::new(), 0);
        loop {
            match receiver.recv().await.expect("an end is announced") {
                FetchEvent::Chunk { at, bytes } => {
                    assert_eq!(at, got.len() as u64);
                    got.extend_from_slice(&bytes);
                }
                FetchEvent::Filled { .. } => filled += 1,
                FetchEvent::Done => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(got == body, "the bytes of the object");
        assert_eq!(filled, 3);
    });
    let written = std::fs::read(&cache).expect("the cache file");
    assert!(
        written[..600_000] == body,
        "the cache has them byte for byte"
    );
    let padding_end = 600_000_usize.next_multiple_of(4096);
    assert!(written[600_000..padding_end].iter().all(|b| *b == 0));
    assert!(written[padding_end..].iter().all(|b| *b == 0xee));
    let stats = client.stats();
    assert_eq!((stats.counters.fills, stats.in_flight), (3, 0));
    assert!(threads.shutdown(Duration::from_secs(10)));
}

#[test]
fn store_threads_do_not_start_with_a_store_that_cannot_be_set_up() {
    let config = StoreConfig::default();
    let refused = StoreThreads::start(
        1,
        || {
            Err::<MemoryObjects, _>(StoreError::Refused {
                path: "s3://bucket".to_owned(),
                reason: "no credentials".to_owned(),
            })
        },
        &config,
        clock(),
        1,
    );
    let error = refused.expect_err("no store, no threads");
    assert!(error.to_string().contains("no credentials"), "{error}");
}
