//! What is said of servers that can't be followed, and what the ones that can would do without us.

use std::fs;
use std::time::Duration;

use engine::types::Lsn;
use harness::postgres::TestCluster;
use postgres::local_cluster::StopMode;
use postgres::replication::{
    Connection, FollowRequest, Primary, PrimaryCheckError, PrimaryProblem, SlotName, WalFacts,
    check_primary, stop_consequences,
};

use crate::follower::{MAJORS, cluster, flushed, follow, from, run, settings, until_free};

const SLOT: &str = "branch";

fn slot() -> SlotName {
    SLOT.parse().expect("a name")
}

/// What a branch that has everything of the server would ask for.
fn request(cluster: &TestCluster) -> FollowRequest {
    let mut connection = Connection::open(&cluster.connection_settings()).expect("connects");
    let wal = WalFacts::read(&mut connection).expect("facts");
    drop(connection);
    until_free(cluster);
    FollowRequest {
        system_identifier: wal.stream.system_identifier,
        timeline: 1,
        at: wal.flushed,
        slot: Some(slot()),
    }
}

fn problems(cluster: &TestCluster, role: &str, request: &FollowRequest) -> Vec<PrimaryProblem> {
    let port = cluster.port();
    let settings = settings(&format!("host=127.0.0.1 port={port} user={role}"));
    match check_primary(&settings, request) {
        Err(PrimaryCheckError::Problems(problems)) => problems,
        other => panic!("{other:?}"),
    }
}

fn sql(cluster: &TestCluster, sql: &str) -> String {
    cluster.sql("postgres", sql).expect(sql)
}

#[test]
fn every_version_can_be_followed_and_says_what_it_would_do_without_us() {
    for major in MAJORS {
        let mut settings = vec![
            "max_slot_wal_keep_size = '2GB'",
            "synchronous_commit = local",
            "synchronous_standby_names = 'FIRST 1 (other, \"PageServer\")'",
        ];
        if major == 18 {
            settings.push("idle_replication_slot_timeout = '2d'");
        }
        let cluster = cluster(major, &settings);
        sql(&cluster, "create role r login replication");
        let port = cluster.port();
        let as_r = crate::follower::settings(&format!("host=127.0.0.1 port={port} user=r"));
        let request = request(&cluster);
        let Primary { facts, wal } = check_primary(&as_r, &request).expect("it can be followed");
        assert_eq!(u32::from(wal.stream.version.postgres_major()), major);
        assert_eq!(wal.stream.segment_bytes, 1 << 20);
        assert!(facts.flushed >= request.at);
        assert_eq!(
            (facts.wal_level.as_str(), facts.role.as_str()),
            ("replica", "r")
        );
        assert_eq!((facts.senders, facts.senders_max), (0, 10));
        assert_eq!((facts.slots, facts.slots_max, &facts.slot), (0, 10, &None));
        assert_eq!(facts.slot_wal_bytes_max, Some(2 << 30));
        assert_eq!(facts.sender_timeout, Some(Duration::from_secs(60)));
        let lines = stop_consequences(&facts, Some(&slot()), "pageserver").join("\n");
        for part in [
            "WAL of up to 2GB",
            "pg_drop_replication_slot('branch')",
            "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (\"other\")'; SELECT pg_reload_conf();",
        ] {
            assert!(lines.contains(part), "{part}: {lines}");
        }
        assert_eq!(
            lines.contains("longer than 172800 s"),
            major == 18,
            "{lines}"
        );
        // The statement is one that the server takes.
        let begin = lines.find("ALTER SYSTEM").expect("a statement");
        let statement = lines[begin..].split(';').next().expect("its text");
        sql(&cluster, statement);
    }
}

#[test]
fn a_server_with_minimal_wal_is_refused() {
    let cluster = cluster(15, &["wal_level = minimal", "max_wal_senders = 0"]);
    let request = FollowRequest {
        system_identifier: 1,
        timeline: 1,
        at: Lsn(1),
        slot: None,
    };
    let found = problems(&cluster, "postgres", &request);
    let [problem @ PrimaryProblem::WalLevel { .. }] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert!(
        problem.to_string().contains("wal_level = 'replica'"),
        "{problem}"
    );
}

#[test]
fn a_role_without_replication_and_a_server_without_room_are_told_at_once() {
    for major in [15, 18] {
        let cluster = cluster(major, &["max_wal_senders = 1", "max_replication_slots = 1"]);
        sql(&cluster, "create role \"no one\" login");
        sql(
            &cluster,
            "select pg_create_physical_replication_slot('other')",
        );
        let request = request(&cluster);
        run(async {
            let start = from(1, flushed(&cluster));
            let settings = cluster.connection_settings();
            let receiver = follow(&settings, &start).await.expect("a stream");
            let port = cluster.port();
            let text = format!("host=127.0.0.1 port={port} user='no one'");
            let error = check_primary(&crate::follower::settings(&text), &request)
                .expect_err("it can't be followed")
                .to_string();
            for part in [
                "ALTER ROLE \"no one\" REPLICATION",
                "ALTER SYSTEM SET max_wal_senders = 3",
                "ALTER SYSTEM SET max_replication_slots = 3",
            ] {
                assert!(error.contains(part), "{major}: {part}: {error}");
            }
            receiver.close("the test is over").await;
        });
        until_free(&cluster);
        // With its own slot there it needs no other.
        let own = FollowRequest {
            slot: Some("other".parse().expect("a name")),
            ..request
        };
        check_primary(&cluster.connection_settings(), &own).expect("it can be followed");
    }
}

#[test]
fn a_slot_that_is_of_no_use_is_told() {
    let cluster = cluster(
        15,
        &[
            "wal_level = logical",
            "wal_keep_size = 0",
            "max_slot_wal_keep_size = 1",
            "max_wal_size = 2",
            "min_wal_size = 2",
        ],
    );
    let request = request(&cluster);
    sql(
        &cluster,
        "select pg_create_logical_replication_slot('branch', 'pgoutput')",
    );
    let found = problems(&cluster, "postgres", &request);
    assert_eq!(found, [PrimaryProblem::SlotLogical { slot: slot() }]);

    sql(&cluster, "select pg_drop_replication_slot('branch')");
    sql(
        &cluster,
        "select pg_create_physical_replication_slot('branch', true)",
    );
    run(async {
        let start = postgres::replication::ReplicationStart {
            slot: Some(slot()),
            timeline: 1,
            at: request.at,
        };
        let settings = cluster.connection_settings();
        let receiver = follow(&settings, &start).await.expect("a stream");
        let found = problems(&cluster, "postgres", &request);
        let [PrimaryProblem::SlotInUse { pid, .. }] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert!(
            found[0]
                .to_string()
                .contains(&format!("pg_terminate_backend({pid})"))
        );
        receiver.close("the test is over").await;
    });

    sql(
        &cluster,
        "create table t as select md5(i::text) from generate_series(1, 100000) i",
    );
    sql(&cluster, "select pg_switch_wal()");
    sql(&cluster, "checkpoint");
    let found = problems(&cluster, "postgres", &request);
    assert_eq!(found, [PrimaryProblem::SlotLost { slot: slot() }]);
}

#[test]
fn another_cluster_another_timeline_and_an_older_copy_are_told() {
    let mut cluster = cluster(15, &[]);
    let own = request(&cluster);
    let end = own.at;
    let other = FollowRequest {
        system_identifier: own.system_identifier ^ 1,
        ..own.clone()
    };
    let found = problems(&cluster, "postgres", &other);
    assert!(
        matches!(found[..], [PrimaryProblem::SystemIdentifier { .. }]),
        "{found:?}"
    );
    let ahead = FollowRequest {
        at: Lsn(end.0 + (1 << 30)),
        ..own.clone()
    };
    let found = problems(&cluster, "postgres", &ahead);
    assert!(
        matches!(found[..], [PrimaryProblem::Behind { .. }]),
        "{found:?}"
    );
    let newer = FollowRequest {
        timeline: 3,
        ..own.clone()
    };
    let found = problems(&cluster, "postgres", &newer);
    let expected = PrimaryProblem::Timeline {
        timeline: 3,
        found: 1,
    };
    assert_eq!(found, [expected]);

    cluster.stop(StopMode::Fast).expect("it stops");
    fs::write(cluster.data_directory().join("standby.signal"), "").expect("a file");
    cluster.start().expect("it starts as a standby");
    let found = problems(&cluster, "postgres", &own);
    assert_eq!(found, [PrimaryProblem::InRecovery]);

    assert_eq!(sql(&cluster, "select pg_promote()"), "t");
    // The branch has no more than the new timeline has of the old one.
    let settings = cluster.connection_settings();
    let primary = check_primary(&settings, &own).expect("it can be followed");
    assert_eq!(primary.wal.stream.timeline, 2);
    let found = problems(&cluster, "postgres", &ahead);
    let [
        PrimaryProblem::Forked {
            timeline: 1,
            end: fork,
            ..
        },
    ] = found[..]
    else {
        panic!("{found:?}");
    };
    assert!(fork >= end, "{fork}");
}

#[test]
fn a_missing_line_of_access_is_told() {
    let cluster = cluster(15, &[]);
    sql(&cluster, "create role r login replication");
    let request = request(&cluster);
    let set_access = |line: &str| {
        let path = cluster.data_directory().join("pg_hba.conf");
        let rules = format!("host all postgres 127.0.0.1/32 trust\n{line}\n");
        fs::write(path, rules).expect("pg_hba.conf");
        sql(&cluster, "select pg_reload_conf(), pg_sleep(0.3)");
    };
    for (line, missing) in [
        ("host postgres r 127.0.0.1/32 trust", "replication"),
        ("host replication r 127.0.0.1/32 trust", "postgres"),
    ] {
        set_access(line);
        let found = problems(&cluster, "r", &request);
        let [problem @ PrimaryProblem::NoConnection { .. }] = found.as_slice() else {
            panic!("{found:?}");
        };
        let wanted = format!("\"host {missing} r ");
        assert!(problem.to_string().contains(&wanted), "{problem}");
    }
}
