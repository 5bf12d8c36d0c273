//! A standby is promoted: its WAL goes on with a new timeline, and so do we, at the exact byte.

use std::fs;
use std::time::Duration;

use engine::types::Lsn;
use harness::sql::Session;
use postgres::local_cluster::StopMode;
use postgres::replication::{
    Connection, ConnectionSettings, TimelineHistory, TimelineSwitch, WalEvent, WalReceiver,
};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::follower::{MAJORS, Received, all, cluster, flushed, follow, from, run, settings};

/// Receives to the end of the timeline.
async fn switch(receiver: &mut WalReceiver, received: &mut Received) -> TimelineSwitch {
    loop {
        match receiver.next().await.expect("the server is there") {
            WalEvent::Wal(data) => received.take(&data),
            WalEvent::Keepalive(_) => {}
            WalEvent::EndOfTimeline(switch) => {
                assert_eq!(receiver.position(), switch.at, "all of it");
                return switch;
            }
            WalEvent::Shutdown => panic!("shut down"),
        }
        receiver.report(all(received.end())).await.expect("reports");
    }
}

async fn history(settings: &ConnectionSettings, timeline: u32) -> TimelineHistory {
    let settings = settings.clone();
    let asked = spawn_blocking(move || {
        let mut connection = Connection::open(&settings).expect("connects");
        TimelineHistory::read(&mut connection, timeline)
    });
    asked.await.expect("no panic").expect("a history")
}

/// From the end of timeline 1 on, with what a test then writes.
async fn goes_on(
    settings: &ConnectionSettings,
    end: TimelineSwitch,
    received: &mut Received,
    write: impl FnOnce() -> Lsn,
) {
    assert_eq!(end.timeline, 2);
    let history = history(settings, 2).await;
    let first = history.span_of(1).expect("it came from there");
    assert_eq!((first.begin, first.end), (Lsn(0), Some(end.at)));
    assert_eq!(history.timeline_at(end.at), 2);
    // Once more, for one who stands there already.
    let again = from(1, end.at);
    let mut receiver = follow(settings, &again).await.expect("an answer");
    let event = receiver.next().await.expect("an answer");
    assert_eq!(event, WalEvent::EndOfTimeline(end));
    receiver.close("nothing comes").await;

    let start = from(2, end.at);
    let mut receiver = follow(settings, &start).await.expect("a stream");
    let until = write();
    received.receive_until(&mut receiver, until).await;
    receiver.close("the test is over").await;
}

/// The server that we follow becomes a standby, which we follow as well, and is promoted meanwhile.
fn promoted_while_we_follow(major: u32) {
    let mut cluster = cluster(major, &[]);
    let settings = cluster.connection_settings();
    run(async {
        let begin = flushed(&cluster);
        let mut received = Received::new(begin);
        cluster
            .sql(
                "postgres",
                "create table before as select generate_series(1, 1000)",
            )
            .expect("a table");
        cluster.stop(StopMode::Fast).expect("it stops");
        fs::write(cluster.data_directory().join("standby.signal"), "").expect("a file");
        cluster.start().expect("it starts as a standby");
        let mut receiver = follow(&settings, &from(1, begin)).await.expect("a stream");
        let port = cluster.port();
        let promotion = spawn_blocking(move || {
            std::thread::sleep(Duration::from_secs(1));
            Session::open(port, "postgres").value("select pg_promote()")
        });
        let end = switch(&mut receiver, &mut received).await;
        assert_eq!(promotion.await.expect("no panic"), "t");
        goes_on(&settings, end, &mut received, || {
            let sql = "create table behind as select generate_series(1, 10000)";
            cluster.sql("postgres", sql).expect("a table");
            flushed(&cluster)
        })
        .await;
        received.assert_is_that_of(&cluster.data_directory(), 100_000);
    });
}

#[test]
fn a_promotion_is_followed_while_it_happens() {
    for major in MAJORS {
        promoted_while_we_follow(major);
    }
}

#[test]
fn a_failover_to_a_standby_is_followed() {
    let mut primary = cluster(15, &[]);
    let mut standby = primary.standby();
    standby.start().expect("it starts");
    let lsn_of_standby = |sql: &str| -> Lsn {
        let text = Session::open(standby.port(), "postgres").value(sql);
        text.parse().expect("a position")
    };
    let begin = flushed(&primary);
    run(async {
        let mut received = Received::new(begin);
        let settings_of_primary = primary.connection_settings();
        let start = from(1, begin);
        let mut receiver = follow(&settings_of_primary, &start)
            .await
            .expect("a stream");
        primary
            .sql(
                "postgres",
                "create table a as select generate_series(1, 10000)",
            )
            .expect("a table");
        received
            .receive_until(&mut receiver, flushed(&primary))
            .await;
        receiver.close("failover").await;
        primary
            .sql(
                "postgres",
                "create table b as select generate_series(1, 10000)",
            )
            .expect("a table");
        // The standby has at least what we have, and perhaps more.
        let replayed = "select pg_last_wal_replay_lsn()";
        while lsn_of_standby(replayed) < received.end() {
            sleep(Duration::from_millis(50)).await;
        }
        primary.stop(StopMode::Immediate).expect("it is killed");
        standby.promote().expect("it is promoted");
        let port = standby.port();
        let settings = settings(&format!("host=127.0.0.1 port={port} user=postgres"));
        let start = from(1, received.end());
        let mut receiver = follow(&settings, &start).await.expect("a stream");
        let end = switch(&mut receiver, &mut received).await;
        goes_on(&settings, end, &mut received, || {
            let sql = "create table c as select generate_series(1, 10000)";
            Session::open(port, "postgres").run(sql);
            lsn_of_standby("select pg_current_wal_flush_lsn()")
        })
        .await;
        received.assert_is_that_of(&standby.data_directory(), 1 << 20);
    });
}
