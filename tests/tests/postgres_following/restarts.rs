//! The primary goes away: shut down, killed, or cut off by us; the stream goes on at the exact byte.

use std::time::Duration;

use harness::postgres::TestCluster;
use postgres::local_cluster::StopMode;
use postgres::replication::WalEvent;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::follower::{Received, all, cluster, flushed, follow, from, run};

fn work(cluster: &TestCluster, name: &str) {
    let sql =
        format!("create table {name} as select i, md5(i::text) t from generate_series(1, 20000) i");
    cluster.sql("postgres", &sql).expect("a table");
}

fn goes_on_after(major: u32, mode: StopMode) {
    let mut cluster = cluster(major, &[]);
    let settings = cluster.connection_settings();
    let data = cluster.data_directory();
    run(async {
        let begin = flushed(&cluster);
        let mut received = Received::new(begin);
        for round in 0..3 {
            let start = from(1, received.end());
            let mut receiver = follow(&settings, &start).await.expect("a stream");
            work(&cluster, &format!("t{round}"));
            // Not all of it: what is missing comes after the restart.
            let middle = engine::types::Lsn((received.end().0 + flushed(&cluster).0) / 2);
            received.receive_until(&mut receiver, middle).await;
            let stopping = spawn_blocking(move || {
                cluster.stop(mode).expect("it stops");
                cluster
            });
            let end = loop {
                match receiver.next().await {
                    Ok(WalEvent::Wal(data)) => received.take(&data),
                    Ok(WalEvent::Keepalive(_)) => {}
                    other => break other.map(|event| event == WalEvent::Shutdown),
                }
                let told = receiver.report(all(received.end())).await;
                assert!(told.is_ok() || mode == StopMode::Immediate, "{told:?}");
            };
            match mode {
                StopMode::Fast => assert!(end.expect("a good end"), "{major}: shut down"),
                StopMode::Immediate => assert!(end.is_err(), "{major}: {end:?}"),
            }
            cluster = stopping.await.expect("no panic");
            cluster.start().expect("it starts");
        }
        let start = from(1, received.end());
        let mut receiver = follow(&settings, &start).await.expect("a stream");
        work(&cluster, "last");
        let end = flushed(&cluster);
        received.receive_until(&mut receiver, end).await;
        received.assert_is_that_of(&data, 4 << 20);
        receiver.close("the test is over").await;
    });
}

#[test]
fn after_a_shutdown_and_a_start_the_stream_goes_on() {
    for major in [15, 17] {
        goes_on_after(major, StopMode::Fast);
    }
}

#[test]
fn after_a_kill_the_stream_goes_on() {
    for major in [15, 16, 18] {
        goes_on_after(major, StopMode::Immediate);
    }
}

#[test]
fn a_shutdown_waits_for_what_is_not_flushed_until_we_close() {
    let mut cluster = cluster(15, &[]);
    let settings = cluster.connection_settings();
    run(async {
        let begin = flushed(&cluster);
        let mut receiver = follow(&settings, &from(1, begin)).await.expect("a stream");
        receiver.report(all(begin)).await.expect("reports");
        work(&cluster, "t");
        let stopping = spawn_blocking(move || cluster.stop(StopMode::Fast).expect("it stops"));
        sleep(Duration::from_secs(3)).await;
        assert!(!stopping.is_finished(), "it did not wait for us");
        receiver.close("stalled").await;
        stopping.await.expect("it stops now");
    });
}

#[test]
fn wal_that_was_removed_and_wal_that_is_not_there_yet_are_refused() {
    let cluster = cluster(15, &["wal_keep_size = 0"]);
    let settings = cluster.connection_settings();
    run(async {
        let begin = flushed(&cluster);
        for _ in 0..3 {
            work(&cluster, "t");
            let again = "drop table t; select pg_switch_wal(); checkpoint";
            cluster.sql("postgres", again).expect("a checkpoint");
        }
        for (at, code) in [(begin, "58P01"), (engine::types::Lsn(1 << 40), "XX000")] {
            let refused = match follow(&settings, &from(1, at)).await {
                Err(error) => error,
                Ok(mut receiver) => receiver.next().await.expect_err("nothing is there"),
            };
            assert_eq!(refused.code(), Some(code), "{at}: {refused}");
        }
        let unknown = follow(&settings, &from(7, begin)).await;
        let unknown = unknown.err().expect("no such timeline");
        assert_eq!(unknown.code(), Some("XX000"), "{unknown}");
    });
}
