//! Slots: made, read, moved by reports and by hand, never too far, and dropped.

use engine::types::Lsn;
use harness::postgres::TestCluster;
use postgres::replication::{
    Connection, ConnectionSettings, ReplicationStart, SlotCreation, SlotError, SlotName, SlotWal,
    advance_slot, create_slot, drop_slot, read_slot, slot_facts,
};
use tokio::time::{Duration, timeout};

use crate::follower::{MAJORS, Received, all, cluster, flushed, follow, run, settings};

fn name(text: &str) -> SlotName {
    text.parse().expect("a name")
}

fn restart_lsn(replication: &mut Connection, slot: &SlotName) -> Lsn {
    let position = read_slot(replication, slot).expect("reads");
    let position = position.expect("it is there");
    assert_eq!(position.restart_timeline, Some(1));
    position.restart_lsn.expect("it keeps WAL")
}

fn write(cluster: &TestCluster) -> Lsn {
    let sql = "drop table if exists t; create table t as select generate_series(1, 1000)";
    cluster.sql("postgres", sql).expect("a table");
    flushed(cluster)
}

fn by_hand(cluster: &TestCluster, settings: &ConnectionSettings) {
    let mut replication = Connection::open(settings).expect("connects");
    let mut sql = Connection::open_database(settings).expect("connects");
    let slot = name("by_hand");
    assert_eq!(read_slot(&mut replication, &slot).expect("reads"), None);
    assert_eq!(slot_facts(&mut sql, &slot).expect("reads"), None);
    let SlotCreation::Created(made) = create_slot(&mut replication, &slot).expect("makes") else {
        panic!("it was there");
    };
    let begin = made.restart_lsn.expect("it keeps WAL at once");
    assert!(begin <= flushed(cluster));
    let again = create_slot(&mut replication, &slot).expect("is there");
    assert_eq!(again, SlotCreation::Existed(made));

    let middle = write(cluster);
    let end = write(cluster);
    assert!(begin < middle && middle < end);
    assert_eq!(
        advance_slot(&mut sql, &slot, middle).expect("moves"),
        middle
    );
    assert_eq!(restart_lsn(&mut replication, &slot), middle);
    assert_eq!(
        advance_slot(&mut sql, &slot, middle).expect("stays"),
        middle
    );
    match advance_slot(&mut sql, &slot, begin) {
        Err(SlotError::Ahead { at, wanted, .. }) => assert_eq!((at, wanted), (middle, begin)),
        other => panic!("{other:?}"),
    }
    // Not beyond the server's own WAL.
    let all = advance_slot(&mut sql, &slot, Lsn(end.0 + (1 << 40))).expect("moves");
    assert!((end..=flushed(cluster)).contains(&all), "{all}");
    assert_eq!(restart_lsn(&mut replication, &slot), all);
    let facts = slot_facts(&mut sql, &slot)
        .expect("reads")
        .expect("is there");
    assert!(facts.is_physical);
    assert_eq!((facts.active_pid, facts.restart_lsn), (None, Some(all)));
    assert_eq!(
        (facts.wal, facts.safe_wal_bytes),
        (Some(SlotWal::Reserved), None)
    );

    assert!(drop_slot(&mut replication, &slot).expect("drops"));
    assert!(!drop_slot(&mut replication, &slot).expect("was gone"));
    let gone = advance_slot(&mut sql, &slot, end).expect_err("gone");
    assert!(matches!(gone, SlotError::Missing(_)), "{gone}");
}

async fn by_reports(cluster: &TestCluster, settings: &ConnectionSettings) {
    let slot = name("by_reports");
    let mut replication = Connection::open(settings).expect("connects");
    create_slot(&mut replication, &slot).expect("makes");
    let begin = restart_lsn(&mut replication, &slot);
    let start = ReplicationStart {
        slot: Some(slot.clone()),
        timeline: 1,
        at: begin,
    };
    let mut receiver = follow(settings, &start).await.expect("a stream");
    let second = follow(settings, &start).await.err().expect("it is in use");
    assert_eq!(second.code(), Some("55006"), "{second}");
    let dropped = drop_slot(&mut replication, &slot).expect_err("it is in use");
    assert!(matches!(dropped, SlotError::InUse { .. }), "{dropped}");
    let mut received = Received::new(begin);
    received.receive_until(&mut receiver, write(cluster)).await;
    let reported = received.end();
    receiver.report(all(reported)).await.expect("reports");
    // More comes, and is not reported: the slot stays.
    let moved = timeout(Duration::from_secs(20), async {
        while restart_lsn(&mut replication, &slot) < reported {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    moved.await.expect("the slot follows the report");
    write(cluster);
    assert_eq!(restart_lsn(&mut replication, &slot), reported);
    receiver.close("the test is over").await;
    assert!(drop_slot(&mut replication, &slot).expect("nobody uses it any more"));
}

#[test]
fn slots_are_where_they_were_told_to_be() {
    for major in MAJORS {
        let cluster = cluster(major, &[]);
        // No superuser: REPLICATION is all that it takes.
        let roles = "create role r login replication; create role nobody login";
        cluster.sql("postgres", roles).expect("roles");
        let as_role = |role| {
            let port = cluster.port();
            settings(&format!("host=127.0.0.1 port={port} user={role}"))
        };
        by_hand(&cluster, &as_role("r"));
        run(by_reports(&cluster, &as_role("r")));

        let mut nobody = Connection::open_database(&as_role("nobody")).expect("connects");
        let refused = advance_slot(&mut nobody, &name("s"), Lsn(1)).expect_err("no right");
        assert!(
            refused
                .to_string()
                .contains("ALTER ROLE \"nobody\" REPLICATION"),
            "{major}: {refused}"
        );
        // It can look, and its connection still works.
        assert_eq!(slot_facts(&mut nobody, &name("s")).expect("reads"), None);
    }
}

#[test]
fn logical_slots_and_too_many_are_named() {
    let cluster = cluster(15, &["wal_level = logical", "max_replication_slots = 2"]);
    let settings = cluster.connection_settings();
    let mut replication = Connection::open(&settings).expect("connects");
    let mut sql = Connection::open_database(&settings).expect("connects");
    let logical = "select pg_create_logical_replication_slot('logical', 'pgoutput')";
    cluster.sql("postgres", logical).expect("a slot");
    for result in [
        create_slot(&mut replication, &name("logical")).map(|_| ()),
        read_slot(&mut replication, &name("logical")).map(|_| ()),
    ] {
        assert!(matches!(result, Err(SlotError::Logical(_))), "{result:?}");
    }
    let unreserved = "select pg_create_physical_replication_slot('unreserved')";
    cluster.sql("postgres", unreserved).expect("a slot");
    match create_slot(&mut replication, &name("unreserved")).expect("is there") {
        SlotCreation::Existed(position) => assert_eq!(position.restart_lsn, None),
        other @ SlotCreation::Created(_) => panic!("{other:?}"),
    }
    let nothing = advance_slot(&mut sql, &name("unreserved"), flushed(&cluster));
    assert!(
        matches!(nothing, Err(SlotError::KeepsNothing(_))),
        "{nothing:?}"
    );
    let full = create_slot(&mut replication, &name("third"));
    assert!(matches!(full, Err(SlotError::NoneFree(_))), "{full:?}");
}
