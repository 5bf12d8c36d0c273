//! A branch that is written while it is read, on real cores: versions in memory, in frozen memory and in layers, across
//! restarts and other writers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::catalog::InlineCpu;
use engine::ingest::{
    Compacted, CompactionConfig, Compactor, Flusher, Garbage, IngestConfig, IngestError,
    VersionWriter, WalReplay, WalStore,
};
use engine::io::clock::Moment;
use engine::layer::Value;
use engine::types::{BranchId, Key, Lsn, TenantId};
use engine::{Core, Engine, ReadError};
use harness::engine::{RunningEngine, Site, block_key};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use simulation::redo::{DeltaFlag, apply_to, delta};

/// What was put of each key: an image, or else a delta.
pub(crate) type Versions = BTreeMap<(Key, Lsn), (bool, Vec<u8>)>;

const BLOCKS: u32 = 60;

pub(crate) fn value_at(versions: &Versions, key: Key, at: Lsn) -> Option<Vec<u8>> {
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
pub(crate) fn draw(
    random: &mut ChaCha8Rng,
    lsns: std::ops::Range<u64>,
    known: &mut Versions,
) -> Versions {
    let mut fresh = Versions::new();
    for lsn in lsns {
        for _ in 0..3 {
            let key = block_key(1, random.next_u32() % BLOCKS);
            if known.contains_key(&(key, Lsn(lsn))) {
                continue;
            }
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
pub(crate) struct Writer {
    versions: VersionWriter<Arc<Engine>>,
    pub(crate) flusher: Flusher<Arc<Engine>>,
    compactor: Compactor<Arc<Engine>>,
    pub(crate) garbage: Garbage,
    pub(crate) wal: WalStore,
    pieces: Vec<(u64, Vec<u8>)>,
    pub(crate) durable: Lsn,
}

impl Writer {
    /// Merges what is worth it.
    pub(crate) async fn compact(&self) -> Option<Compacted> {
        let compacting = self.compactor.compact(&InlineCpu);
        compacting.await.expect("merges")
    }

    /// Makes versions readable up to `last`, and durable.
    pub(crate) async fn flush(&mut self, versions: &Versions, last: u64) {
        put_all(self, versions);
        self.versions.advance(Lsn(last)).await.expect("cores");
        let frozen = self.versions.freeze().await.expect("cores");
        let wal = self.wal.position(Lsn(last));
        let flushed = self.flusher.flush(frozen, wal, &InlineCpu).await;
        assert_eq!(flushed.expect("a flush").durable_lsn, Lsn(last));
    }
}

pub(crate) async fn open(running: &RunningEngine, place: (TenantId, BranchId)) -> Writer {
    let config = IngestConfig {
        compaction: CompactionConfig::tiny(),
        ..IngestConfig::default()
    };
    let ingest = running.engine.ingest(place, config).await;
    let ingest = ingest.expect("a claim");
    let (pieces, wal) = drain(ingest.replay).await;
    Writer {
        versions: ingest.versions,
        flusher: ingest.flusher,
        compactor: ingest.compactor,
        garbage: ingest.garbage,
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
        .put(Lsn(96), b"first piece"[..].into(), &InlineCpu)
        .await
        .expect("stored");
    first
        .wal
        .put(Lsn(107), b"second"[..].into(), &InlineCpu)
        .await
        .expect("stored");
    let gap = first.wal.put(Lsn(200), b"no"[..].into(), &InlineCpu).await;
    assert!(matches!(gap, Err(IngestError::WalGap { .. })), "{gap:?}");
    let begins = |lsn| first.wal.position(Lsn(lsn)).lsn.0;
    let wanted = [96, 96, 96, 107, 107, 113, 113];
    assert_eq!([90, 96, 106, 107, 112, 113, 200].map(begins), wanted);

    let mut second = open(&running, place).await;
    let wanted = [(96, b"first piece".to_vec()), (107, b"second".to_vec())];
    assert_eq!(second.pieces, wanted);
    let fenced = first
        .wal
        .put(Lsn(113), b"too late"[..].into(), &InlineCpu)
        .await;
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
    second
        .wal
        .put(Lsn(113), b"third"[..].into(), &InlineCpu)
        .await
        .expect("stored");
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

/// Waits until a reader has come to an LSN.
async fn wait_for(running: &RunningEngine, place: (TenantId, BranchId), lsn: u64) {
    wait_until(running, place, |last| last >= Lsn(lsn)).await;
}

async fn wait_until(
    running: &RunningEngine,
    place: (TenantId, BranchId),
    is_meant: impl Fn(Lsn) -> bool,
) {
    for _ in 0..500 {
        let last = running.on_core(0, async move |core: Core| {
            let branch = core.open_branch(place.0, place.1).await.expect("opens");
            branch.want();
            branch.last_lsn()
        });
        if is_meant(last.await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the reader never comes to where it should");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_writes_merges_and_deletes_is_followed_by_readers() {
    let mut random = ChaCha8Rng::seed_from_u64(12);
    let site = Site::new().await;
    let mut known = Versions::new();
    let first = draw(&mut random, 100..101, &mut known);
    let values: Vec<_> = first
        .iter()
        .map(|((key, lsn), (_, bytes))| (*key, *lsn, Value::Image(bytes)))
        .collect();
    let branch = site.write_values("main", None, &values).await;
    let place = (site.tenant, branch);
    let other = |name: &str, refresh_every: Option<Duration>| {
        let data_dir = site.data_dir().join(name);
        std::fs::create_dir_all(&data_dir).expect("a folder");
        site.start(2, |config| {
            config.data_dir = data_dir;
            config.shard.refresh_every = refresh_every;
        })
    };
    let writing = other("writing", Some(Duration::from_millis(50)));
    let reading = other("reading", Some(Duration::from_millis(50)));
    // Looks at the store only where it has to.
    let opened_once = other("opened-once", None);
    for running in [&reading, &opened_once] {
        judge(running, place, &known, &[100]).await;
    }

    let mut writer = open(&writing, place).await;
    for round in 0..5 {
        let last = 120 + round * 20;
        let fresh = draw(&mut random, last - 19..last + 1, &mut known);
        writer.flush(&fresh, last).await;
        wait_for(&reading, place, last).await;
        judge(&reading, place, &known, &[101, last - 3, last]).await;
    }
    // All layers but the first go, also those that a reader knows.
    let mut merged = 0;
    while let Some(compacted) = writer.compact().await {
        let removed = compacted.removed();
        let commit = writer.flusher.commit_compaction(compacted).await;
        merged += commit.expect("committed").layers_in;
        writer.garbage.take(&removed, Moment(0));
    }
    let deleted = writer.garbage.delete_due(Moment(u64::MAX)).await;
    assert_eq!(deleted.expect("deleted").objects, merged);
    assert!(merged > 3, "{merged}");
    judge(&reading, place, &known, &[101, 150, 200]).await;

    // A branch of what this one has not seen is read as it is, and so is one that was read before.
    let child = site
        .write_child("dev", (branch, Lsn(190)), &[], Lsn(190))
        .await;
    let dev = (site.tenant, child);
    judge(&opened_once, dev, &known, &[100, 155, 190]).await;
    judge(&opened_once, place, &known, &[100, 200]).await;

    // What the writer had in memory only is not what comes of it.
    let mut lost = known.clone();
    let fresh = draw(&mut random, 201..211, &mut lost);
    put_all(&mut writer, &fresh);
    writer.versions.advance(Lsn(210)).await.expect("cores");
    judge(&writing, place, &lost, &[200, 210]).await;
    let mut next = open(&reading, place).await;
    drop(writer);
    let fresh = draw(&mut random, 201..206, &mut known);
    next.flush(&fresh, 205).await;
    wait_until(&writing, place, |last| last == Lsn(205)).await;
    let fresh = draw(&mut random, 206..221, &mut known);
    next.flush(&fresh, 220).await;
    wait_for(&writing, place, 220).await;
    judge(&writing, place, &known, &[101, 200, 205, 210, 220]).await;

    // Taken back, by cores of which one has not read anything since it was lost.
    let mut lost = known.clone();
    let fresh = draw(&mut random, 221..231, &mut lost);
    put_all(&mut next, &fresh);
    next.versions.advance(Lsn(230)).await.expect("cores");
    judge(&reading, place, &lost, &[230]).await;
    let mut back = open(&writing, place).await;
    drop(next);
    let fresh = draw(&mut random, 221..226, &mut known);
    back.flush(&fresh, 225).await;
    wait_until(&reading, place, |last| last == Lsn(225)).await;
    let mut again = open(&reading, place).await;
    drop(back);
    let fresh = draw(&mut random, 226..241, &mut known);
    put_all(&mut again, &fresh);
    again.versions.advance(Lsn(240)).await.expect("cores");
    judge(&reading, place, &known, &[220, 226, 230, 240]).await;
    again.flush(&Versions::new(), 240).await;
    wait_for(&writing, place, 240).await;
    for running in [&writing, &reading] {
        judge(running, place, &known, &[101, 220, 225, 230, 240]).await;
    }

    // It goes on by itself on a branch that nobody has written to, below what that one's parent has.
    let mut writer = open(&writing, dev).await;
    assert_eq!(writer.durable, Lsn(190));
    let mut of_dev = known.clone();
    of_dev.retain(|(_, lsn), _| *lsn <= Lsn(190));
    let fresh = draw(&mut random, 191..199, &mut of_dev);
    writer.flush(&fresh, 198).await;
    for running in [&writing, &reading, &opened_once] {
        if !std::ptr::eq(running, &opened_once) {
            wait_for(running, dev, 198).await;
            judge(running, dev, &of_dev, &[100, 190, 194, 198]).await;
        }
        judge(running, place, &known, &[190, 194]).await;
    }
    for running in [writing, reading, opened_once] {
        running.stop();
    }
}
