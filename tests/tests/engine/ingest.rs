//! A branch that is written while it is read, on real cores: versions in memory, in frozen memory and in layers, across
//! restarts and other writers.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::catalog::InlineCpu;
use engine::ingest::{Flusher, IngestConfig, IngestError, VersionWriter, WalReplay, WalStore};
use engine::layer::Value;
use engine::types::{BranchId, Key, Lsn, TenantId};
use engine::{Core, Engine, ReadError};
use harness::engine::{RunningEngine, Site, block_key};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use simulation::redo::{DeltaFlag, apply_to, delta};

/// What was put of each key: an image, or else a delta.
type Versions = BTreeMap<(Key, Lsn), (bool, Vec<u8>)>;

const BLOCKS: u32 = 60;

fn value_at(versions: &Versions, key: Key, at: Lsn) -> Option<Vec<u8>> {
    let mut value: Option<Vec<u8>> = None;
    for (_, (is_image, bytes)) in versions.range((key, Lsn(0))..=(key, at)) {
        match is_image {
            true => value = Some(bytes.clone()),
            false => apply_to(value.get_or_insert_default(), bytes),
        }
    }
    value
}

/// Some versions at each LSN: what comes first of a key is an image.
fn draw(random: &mut ChaCha8Rng, lsns: std::ops::Range<u64>, known: &mut Versions) -> Versions {
    let mut fresh = Versions::new();
    for lsn in lsns {
        for _ in 0..3 {
            let key = block_key(1, random.next_u32() % BLOCKS);
            let is_new = known.range((key, Lsn(0))..=(key, Lsn::MAX)).count() == 0;
            let mut bytes = vec![0; 1 + (random.next_u32() % 300) as usize];
            random.fill_bytes(&mut bytes);
            let is_image = is_new || random.next_u32().is_multiple_of(16);
            if !is_image {
                bytes = delta(DeltaFlag::Changes, &bytes);
            }
            known.insert((key, Lsn(lsn)), (is_image, bytes.clone()));
            fresh.insert((key, Lsn(lsn)), (is_image, bytes));
        }
    }
    fresh
}

fn put_all(writer: &mut Writer, versions: &Versions) {
    for ((key, lsn), (is_image, bytes)) in versions {
        let value = match is_image {
            true => Value::Image(bytes),
            false => Value::Delta(bytes),
        };
        writer.versions.put(*key, *lsn, value);
    }
}

/// Every key at some LSNs, asked on every core, is what the model says.
async fn judge(
    running: &RunningEngine,
    place: (TenantId, BranchId),
    versions: &Versions,
    lsns: &[u64],
) {
    for core in 0..running.engine.cores() {
        let (versions, lsns) = (versions.clone(), lsns.to_vec());
        running
            .on_core(core, async move |core: Core| {
                let branch = core.open_branch(place.0, place.1).await.expect("opens");
                for at in lsns.into_iter().map(Lsn) {
                    for key in (0..BLOCKS).map(|block| block_key(1, block)) {
                        let wanted = value_at(&versions, key, at);
                        match core.read(&branch, key, at).await {
                            Ok(found) => assert!(Some(found) == wanted, "{key:?} at {at}"),
                            Err(ReadError::NotFound { .. }) if wanted.is_none() => {}
                            Err(error) => panic!("{key:?} at {at}: {error}"),
                        }
                    }
                    let (from, to) = (block_key(1, 0), block_key(1, BLOCKS));
                    for (key, found) in core.scan(&branch, from, to, at).await.expect("a scan") {
                        assert!(
                            Some(found) == value_at(&versions, key, at),
                            "{key:?} at {at}"
                        );
                    }
                }
            })
            .await;
    }
}

/// The stored WAL that is not empty, and the writer of what comes behind it.
async fn drain(mut replay: WalReplay) -> (Vec<(u64, Vec<u8>)>, WalStore) {
    let mut pieces = Vec::new();
    while let Some(piece) = replay.next().await.expect("a piece") {
        if !piece.bytes.is_empty() {
            pieces.push((piece.start.0, piece.bytes));
        }
    }
    (pieces, replay.into_store(Lsn(96)))
}

/// All of an ingest that the tests use.
struct Writer {
    versions: VersionWriter<Arc<Engine>>,
    flusher: Flusher<Arc<Engine>>,
    wal: WalStore,
    pieces: Vec<(u64, Vec<u8>)>,
    durable: Lsn,
}

async fn open(running: &RunningEngine, place: (TenantId, BranchId)) -> Writer {
    let ingest = running.engine.ingest(place, IngestConfig::default()).await;
    let ingest = ingest.expect("a claim");
    let (pieces, wal) = drain(ingest.replay).await;
    Writer {
        versions: ingest.versions,
        flusher: ingest.flusher,
        wal,
        pieces,
        durable: ingest.facts.last_lsn,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_is_read_at_every_lsn_from_memory_and_from_layers() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let site = Site::new().await;
    let mut known = Versions::new();
    let first = draw(&mut random, 100..101, &mut known);
    let values: Vec<_> = first
        .iter()
        .map(|((key, lsn), (_, bytes))| (*key, *lsn, Value::Image(bytes)))
        .collect();
    let branch = site.write_values("main", None, &values).await;
    let place = (site.tenant, branch);
    let mut running = site.start(2, |_| {});
    let mut last = 100;
    for restart in 0..3 {
        let mut writer = open(&running, place).await;
        assert_eq!(writer.durable, Lsn(last), "all of it was flushed");
        for round in 0..4 {
            let from = last + 1;
            last = from + 20;
            let fresh = draw(&mut random, from..last + 1, &mut known);
            put_all(&mut writer, &fresh);
            judge(&running, place, &known, &[from - 1]).await;
            writer.versions.advance(Lsn(last)).await.expect("cores");
            judge(&running, place, &known, &[101, from, last - 3, last]).await;
            let frozen = writer.versions.freeze().await.expect("cores");
            assert_eq!((frozen.lsn(), frozen.bytes() > 0), (Lsn(last), true));
            judge(&running, place, &known, &[from - 1, last]).await;
            if round % 2 == 0 {
                // More comes in while it is flushed.
                let fresh = draw(&mut random, last + 1..last + 4, &mut known);
                last += 3;
                put_all(&mut writer, &fresh);
                writer.versions.advance(Lsn(last)).await.expect("cores");
            }
            let (durable, wal) = (frozen.lsn(), writer.wal.position(frozen.lsn()));
            let flushed = writer.flusher.flush(frozen, wal, &InlineCpu).await;
            let flushed = flushed.expect("a flush");
            assert_eq!((flushed.durable_lsn, flushed.layers), (durable, 1));
            judge(&running, place, &known, &[101, from, last - 1, last]).await;
        }
        assert_eq!(writer.versions.last_lsn(), Lsn(last));
        // Another ingest of the same process goes on finding what is in memory only.
        let fresh = draw(&mut random, last + 1..last + 9, &mut known);
        last += 8;
        put_all(&mut writer, &fresh);
        writer.versions.advance(Lsn(last)).await.expect("cores");
        let mut again = open(&running, place).await;
        judge(&running, place, &known, &[101, last]).await;
        // It comes again from the WAL, as the same versions.
        let mut rest = known.clone();
        rest.retain(|(_, lsn), _| *lsn > again.durable);
        assert!(!rest.is_empty());
        put_all(&mut again, &rest);
        again.versions.advance(Lsn(last)).await.expect("cores");
        let frozen = again.versions.freeze().await.expect("cores");
        let wal = again.wal.position(frozen.lsn());
        let flushed = again.flusher.flush(frozen, wal, &InlineCpu).await;
        assert_eq!(flushed.expect("a flush").durable_lsn, Lsn(last));
        running.stop();
        running = site.start(1 + restart, |_| {});
        judge(&running, place, &known, &[101, last - 7, last]).await;
    }
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_wal_comes_back_to_the_next_writer_and_the_one_before_is_fenced() {
    let site = Site::new().await;
    let branch = site
        .write_branch("main", &[(block_key(1, 0), Lsn(100))])
        .await;
    let place = (site.tenant, branch);
    let running = site.start(1, |_| {});

    let mut first = open(&running, place).await;
    assert_eq!(first.pieces, []);
    first
        .wal
        .put(Lsn(96), b"first piece")
        .await
        .expect("stored");
    first.wal.put(Lsn(107), b"second").await.expect("stored");
    let gap = first.wal.put(Lsn(200), b"no").await;
    assert!(matches!(gap, Err(IngestError::WalGap { .. })), "{gap:?}");
    let begins = |lsn| first.wal.position(Lsn(lsn)).lsn.0;
    let wanted = [96, 96, 96, 107, 107, 113, 113];
    assert_eq!([90, 96, 106, 107, 112, 113, 200].map(begins), wanted);

    let mut second = open(&running, place).await;
    let wanted = [(96, b"first piece".to_vec()), (107, b"second".to_vec())];
    assert_eq!(second.pieces, wanted);
    let fenced = first.wal.put(Lsn(113), b"too late").await;
    assert!(
        matches!(fenced, Err(IngestError::Fenced { .. })),
        "{fenced:?}"
    );
    let frozen = first.versions.freeze().await.expect("cores");
    let position = first.wal.position(Lsn(107));
    let fenced = first.flusher.flush(frozen, position, &InlineCpu).await;
    assert!(
        matches!(fenced, Err(IngestError::Fenced { .. })),
        "{fenced:?}"
    );

    // A flush says from where on WAL is needed.
    second.wal.put(Lsn(113), b"third").await.expect("stored");
    second.versions.advance(Lsn(110)).await.expect("cores");
    let frozen = second.versions.freeze().await.expect("cores");
    let position = second.wal.position(Lsn(110));
    let flushed = second.flusher.flush(frozen, position, &InlineCpu).await;
    assert_eq!(flushed.expect("a flush").durable_lsn, Lsn(110));
    let third = open(&running, place).await;
    assert_eq!(third.durable, Lsn(110));
    let starts: Vec<_> = third.pieces.iter().map(|(start, _)| *start).collect();
    assert_eq!(starts, [107, 113]);
    running.stop();
}
