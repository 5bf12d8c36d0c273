//! WAL goes with the history that came of it, and a writer that was away for long finds its place taken all the same.

use std::time::Duration;

use engine::catalog::InlineCpu;
use engine::ingest::{Due, IngestConfig, IngestError, Retention};
use engine::io::clock::Moment;
use engine::store::objects::Objects;
use engine::types::{BranchId, Lsn, TenantId};
use harness::engine::{RunningEngine, Site, block_key};

use crate::ingest::{Versions, Writer, open};

/// Bytes of each piece here.
const PIECE: u64 = 10;

/// A branch that begins at LSN 100.
async fn branch() -> (Site, (TenantId, BranchId)) {
    let site = Site::new().await;
    let versions = [(block_key(1, 0), Lsn(100))];
    let branch = site.write_branch("main", &versions).await;
    let place = (site.tenant, branch);
    (site, place)
}

/// On the same store, with a cache of its own.
fn another_process(site: &Site) -> RunningEngine {
    site.start(1, |config| {
        config.data_dir = site.data_dir().join("other");
        std::fs::create_dir_all(&config.data_dir).expect("a folder");
    })
}

/// The numbers of the pieces that are stored.
async fn stored(site: &Site, (tenant, branch): (TenantId, BranchId)) -> Vec<u64> {
    let directory = format!("tenants/{tenant}/branches/{branch}/wal/");
    let listed = site.objects.list(&directory, None).await.expect("a list");
    let numbers = listed.iter().map(|object| {
        let number = object.path.rsplit('/').next().expect("a name");
        u64::from_str_radix(number, 16).expect("a number")
    });
    numbers.collect()
}

/// Stores WAL in pieces up to `end`, and says in the manifest that all of it is in layers.
async fn store(writer: &mut Writer, end: u64) {
    while writer.wal.end() < Lsn(end) {
        let start = writer.wal.end();
        let bytes = vec![b'w'; usize::try_from(PIECE).expect("a few")];
        let put = writer.wal.put(start, bytes.into(), &InlineCpu).await;
        put.expect("stored");
    }
    writer.flush(&Versions::new(), end).await;
}

/// Gives up what is below `begin`, and deletes.
async fn give_up(writer: &mut Writer, begin: u64) -> u64 {
    let mut retention = Retention::new(Duration::ZERO);
    let mut retain = async || {
        let retain = writer.flusher.retain(&mut retention, Lsn(begin), Moment(0));
        retain.await.expect("a commit")
    };
    while retain().await != Due::GiveUp(Lsn(begin)) {}
    let mut objects = 0;
    loop {
        let deleted = writer.garbage.delete_due(Moment(0)).await;
        match deleted.expect("deleted").objects {
            0 => return objects,
            some => objects += some,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_are_deleted_with_their_history_and_a_writer_from_long_ago_is_fenced_still() {
    let (site, place) = branch().await;
    let running = site.start(1, |_| {});

    // Number 0 is what the writer began with, piece n begins at 96 + 10 (n - 1).
    let mut first = open(&running, place).await;
    store(&mut first, 2096).await;
    assert_eq!(stored(&site, place).await.len(), 201);
    assert_eq!(
        first
            .garbage
            .delete_due(Moment(0))
            .await
            .expect("nothing")
            .objects,
        0
    );

    // Pieces that end at 1000 or below: the last begins at 986.
    assert_eq!(give_up(&mut first, 1000).await, 90);
    let left: Vec<u64> = [0].into_iter().chain(91..=200).collect();
    assert_eq!(stored(&site, place).await, left);

    // Another process goes on, and finds what there is to delete by itself. Its own first piece has number 201.
    let other = another_process(&site);
    let mut second = open(&other, place).await;
    assert_eq!(second.durable, Lsn(2096));
    store(&mut second, 3096).await;
    // All that ends at 2500 or below: the rest of the first writer's 200, and 40 more.
    assert_eq!(give_up(&mut second, 2500).await, 110 + 40);
    let left: Vec<u64> = [0, 201].into_iter().chain(242..=301).collect();
    assert_eq!(stored(&site, place).await, left);

    let late = first
        .wal
        .put(Lsn(2096), b"too late"[..].into(), &InlineCpu)
        .await;
    assert!(matches!(late, Err(IngestError::Fenced { .. })), "{late:?}");
    assert_eq!(stored(&site, place).await, left);

    // What is needed to go on is there.
    let third = open(&running, place).await;
    assert_eq!(third.durable, Lsn(3096));
    running.stop();
    other.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_pieces_than_a_listing_shows_at_once_are_found() {
    let (site, place) = branch().await;
    let running = site.start(1, |_| {});
    let mut writer = open(&running, place).await;
    store(&mut writer, 96 + 2500 * PIECE).await;
    assert_eq!(give_up(&mut writer, 96 + 2400 * PIECE).await, 2400);
    let left: Vec<u64> = [0].into_iter().chain(2401..=2500).collect();
    assert_eq!(stored(&site, place).await, left);
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_away_while_it_read_the_wal_does_not_take_a_gap_for_its_end() {
    let (site, place) = branch().await;
    let running = site.start(1, |_| {});
    let mut first = open(&running, place).await;
    for start in (96..196).step_by(10) {
        let put = first.wal.put(Lsn(start), vec![b'w'; 10].into(), &InlineCpu);
        put.await.expect("stored");
    }
    drop(first);
    let mut away = running
        .engine
        .ingest(place, IngestConfig::default())
        .await
        .expect("a claim");
    for start in [0, 96, 106] {
        let piece = away.replay.next().await.expect("a piece");
        assert_eq!(piece.map(|piece| piece.start), Some(Lsn(start)));
    }

    let other = another_process(&site);
    let mut second = open(&other, place).await;
    store(&mut second, 1096).await;
    give_up(&mut second, 900).await;
    // The pieces that are read next are gone; the first of the second writer has number 11.
    let left: Vec<u64> = [0, 11].into_iter().chain(82..=101).collect();
    assert_eq!(stored(&site, place).await, left);
    let next = away.replay.next().await;
    assert!(matches!(next, Err(IngestError::Fenced { .. })), "{next:?}");
    running.stop();
    other.stop();
}
