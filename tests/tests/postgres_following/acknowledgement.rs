//! A commit of a server that is told to wait for us returns when we say that it is durable, and not before.

use std::time::Duration;

use harness::sql::Session;
use postgres::replication::{Report, WalEvent};
use tokio::time::{Instant, timeout};

use crate::follower::{Received, all, cluster, flushed, follow, from, run, settings};

fn commit_waits_for_flush(major: u32) {
    let cluster = cluster(major, &["synchronous_standby_names = '\"the branch\"'"]);
    let unwatched = "set synchronous_commit = local; create table t (i int)";
    cluster.sql("postgres", unwatched).expect("a table");
    let text = format!(
        "{} application_name='the branch'",
        cluster.connection_string()
    );
    run(async {
        let begin = flushed(&cluster);
        let mut receiver = follow(&settings(&text), &from(1, begin))
            .await
            .expect("a stream");
        let mut received = Received::new(begin);
        // Only who reports a position is a standby that counts.
        receiver.report(all(begin)).await.expect("reports");
        let port = cluster.port();
        let mut commit = tokio::task::spawn_blocking(move || {
            Session::open(port, "postgres").run("insert into t values (1)")
        });
        // Everything is received and written, nothing is flushed: until a while after the server says that it waits.
        let mut waits_since: Option<Instant> = None;
        while waits_since.is_none_or(|since| since.elapsed() < Duration::from_secs(1)) {
            let event = timeout(Duration::from_millis(100), receiver.next()).await;
            if let Ok(Ok(WalEvent::Wal(data))) = event {
                received.take(&data);
            }
            let report = Report {
                write: received.end(),
                flush: begin,
                apply: begin,
                reply_requested: false,
            };
            receiver.report(report).await.expect("reports");
            assert!(!commit.is_finished(), "{major}: it returned before");
            let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
            if waits_since.is_none() && cluster.sql("postgres", waiting).expect("a count") == "1" {
                waits_since = Some(Instant::now());
            }
        }
        assert!(received.end() > begin, "its WAL is here");
        let state = cluster.sql(
            "postgres",
            "select application_name, sync_state, write_lsn > flush_lsn, reply_time > now() - interval '1 minute'
             from pg_stat_replication",
        );
        assert_eq!(state.expect("one standby"), "the branch|sync|t|t");
        receiver.report(all(received.end())).await.expect("reports");
        let answered = timeout(Duration::from_secs(20), async {
            loop {
                tokio::select! {
                    done = &mut commit => return done.expect("it commits"),
                    event = received.receive(&mut receiver) => event.expect("the server is there"),
                }
            }
        });
        answered.await.expect("it returns once all is flushed");
        receiver.close("the test is over").await;
    });
}

#[test]
fn a_commit_returns_only_when_it_is_flushed_here() {
    for major in [15, 18] {
        commit_waits_for_flush(major);
    }
}

#[test]
#[should_panic(expected = "not received")]
fn a_report_of_more_than_was_received_is_a_mistake_of_ours() {
    let cluster = cluster(15, &[]);
    run(async {
        let begin = flushed(&cluster);
        let start = from(1, begin);
        let mut receiver = follow(&cluster.connection_settings(), &start)
            .await
            .expect("a stream");
        let beyond = engine::types::Lsn(begin.0 + (1 << 40));
        receiver.report(all(beyond)).await.expect("never sent");
    });
}
