//! A branch that is written while it is read, on real cores: versions in memory, in frozen memory and in layers, across
//! restarts and other writers.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::catalog::InlineCpu;
use engine::ingest::{Ingest, IngestConfig, IngestError};
use engine::layer::Value;
use engine::types::{BranchId, Key, Lsn, TenantId};
use engine::{Core, Engine, ReadError};
use harness::engine::{RunningEngine, Site, block_key};
use harness::redo::{DeltaFlag, apply_to, delta};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

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

fn put_all(ingest: &mut Ingest<Arc<Engine>>, versions: &Versions) {
    for ((key, lsn), (is_image, bytes)) in versions {
        let value = match is_image {
            true => Value::Image(bytes),
            false => Value::Delta(bytes),
        };
        ingest.versions.put(*key, *lsn, value);
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

async fn drain(ingest: &mut Ingest<Arc<Engine>>) -> Vec<(Lsn, Vec<u8>)> {
    let mut pieces = Vec::new();
    while let Some(piece) = ingest.replay.next().await.expect("a piece") {
        pieces.push((piece.start, piece.bytes));
    }
    pieces
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
        let config = IngestConfig::default();
        let mut ingest = running.engine.ingest(place, config).await.expect("a claim");
        assert_eq!(ingest.facts.last_lsn, Lsn(last), "all of it was flushed");
        drain(&mut ingest).await;
        for round in 0..4 {
            let from = last + 1;
            last = from + 20;
            let fresh = draw(&mut random, from..last + 1, &mut known);
            put_all(&mut ingest, &fresh);
            judge(&running, place, &known, &[from - 1]).await;
            ingest.versions.advance(Lsn(last)).await.expect("cores");
            judge(&running, place, &known, &[101, from, last - 3, last]).await;
            let frozen = ingest.versions.freeze().await.expect("cores");
            assert_eq!((frozen.lsn(), frozen.bytes() > 0), (Lsn(last), true));
            judge(&running, place, &known, &[from - 1, last]).await;
            if round % 2 == 0 {
                // More comes in while it is flushed.
                let fresh = draw(&mut random, last + 1..last + 4, &mut known);
                last += 3;
                put_all(&mut ingest, &fresh);
                ingest.versions.advance(Lsn(last)).await.expect("cores");
            }
            let wal = engine::manifest::WalPosition {
                piece: 0,
                lsn: frozen.lsn(),
            };
            let durable = frozen.lsn();
            let flushed = ingest.flusher.flush(frozen, wal, &InlineCpu).await;
            let flushed = flushed.expect("a flush");
            assert_eq!((flushed.durable_lsn, flushed.layers), (durable, 1));
            judge(&running, place, &known, &[101, from, last - 1, last]).await;
        }
        assert_eq!(ingest.versions.last_lsn(), Lsn(last));
        // Another ingest of the same process finds what is in memory only.
        let config = IngestConfig::default();
        let again = running.engine.ingest(place, config).await;
        let mut again = again.expect("a claim");
        drain(&mut again).await;
        judge(&running, place, &known, &[101, last]).await;
        if restart == 2 {
            break;
        }
        let wal = engine::manifest::WalPosition {
            piece: 0,
            lsn: Lsn(last),
        };
        // What is above the manifest's last LSN comes again from the WAL, as the same versions.
        let after = again.facts.last_lsn;
        let mut rest = known.clone();
        rest.retain(|(_, lsn), _| *lsn > after);
        put_all(&mut again, &rest);
        again.versions.advance(Lsn(last)).await.expect("cores");
        let frozen = again.versions.freeze().await.expect("cores");
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
    let open = || running.engine.ingest(place, IngestConfig::default());

    let mut first = open().await.expect("a claim");
    assert_eq!(drain(&mut first).await, []);
    let mut wal = first.replay.into_store(Lsn(96));
    wal.put(Lsn(96), b"first piece").await.expect("stored");
    wal.put(Lsn(107), b"second").await.expect("stored");
    let gap = wal.put(Lsn(200), b"no").await;
    assert!(matches!(gap, Err(IngestError::WalGap { .. })), "{gap:?}");
    assert_eq!(wal.position(Lsn(96)).piece, 0);
    assert_eq!(
        wal.position(Lsn(106)).piece + 1,
        wal.position(Lsn(107)).piece
    );
    assert_eq!(
        wal.position(Lsn(113)).piece,
        wal.position(Lsn(107)).piece + 1
    );

    let mut second = open().await.expect("a claim");
    let pieces = drain(&mut second).await;
    let wanted = [
        (Lsn(96), b"first piece".to_vec()),
        (Lsn(107), b"second".to_vec()),
    ];
    let pieces: Vec<_> = pieces
        .into_iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    assert_eq!(pieces, wanted);
    let fenced = wal.put(Lsn(113), b"too late").await;
    assert!(
        matches!(fenced, Err(IngestError::Fenced { .. })),
        "{fenced:?}"
    );
    let frozen = first.versions.freeze().await.expect("cores");
    let position = wal.position(Lsn(107));
    let fenced = first.flusher.flush(frozen, position, &InlineCpu).await;
    assert!(
        matches!(fenced, Err(IngestError::Fenced { .. })),
        "{fenced:?}"
    );

    // A flush says from where on WAL is needed.
    let mut wal = second.replay.into_store(Lsn(96));
    wal.put(Lsn(113), b"third").await.expect("stored");
    second.versions.advance(Lsn(110)).await.expect("cores");
    let frozen = second.versions.freeze().await.expect("cores");
    let position = wal.position(Lsn(110));
    second
        .flusher
        .flush(frozen, position, &InlineCpu)
        .await
        .expect("a flush");
    let mut third = open().await.expect("a claim");
    assert_eq!(third.facts.last_lsn, Lsn(110));
    let pieces = drain(&mut third).await;
    let starts: Vec<_> = pieces
        .iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|(start, _)| start.0)
        .collect();
    assert_eq!(starts, [107, 113]);
    running.stop();
}
