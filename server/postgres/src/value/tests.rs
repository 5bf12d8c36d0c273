use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn checkpoint() -> CheckpointState {
    CheckpointState {
        redo: Lsn(0x0102_0304_0506_0708),
        timeline: 1,
        previous_timeline: 2,
        next_xid: 3,
        next_oid: 4,
        next_multixact: 5,
        next_multixact_offset: 6,
        oldest_xid: 7,
        oldest_xid_database: 8,
        oldest_multixact: 9,
        oldest_multixact_database: 10,
        time: 11,
        oldest_commit_timestamp_xid: 12,
        newest_commit_timestamp_xid: 13,
        oldest_active_xid: 14,
        full_page_writes: 1,
    }
}

fn facts() -> BackupFacts {
    BackupFacts {
        system_identifier: 0x0102_0304_0506_0708,
        postgres_major: 15,
        timeline: 2,
        start_lsn: Lsn(3),
        stop_lsn: Lsn(4),
        wal_segment_bytes: 16 << 20,
        data_checksum_version: 1,
    }
}

fn beginning(copied_from: Option<(u32, u32)>) -> DatabaseBeginning {
    DatabaseBeginning {
        generation: Lsn(0x0102_0304_0506_0708),
        copied_from,
    }
}

fn parameters() -> ClusterParameters {
    ClusterParameters {
        max_connections: 1,
        max_worker_processes: 2,
        max_wal_senders: 3,
        max_prepared_transactions: 4,
        max_locks_per_transaction: 5,
        wal_level: 6,
        wal_log_hints: true,
        track_commit_timestamp: false,
    }
}

fn origin() -> ReplicationOrigin {
    ReplicationOrigin {
        remote_lsn: Lsn(7),
        local_lsn: Lsn(8),
    }
}

fn latest_end() -> LatestEnd {
    LatestEnd {
        time: -0x0102_0304,
        begins_at: Lsn(9),
    }
}

fn encoded() -> Vec<(&'static str, Vec<u8>)> {
    let size = RelationSize {
        blocks: 0x0102_0304,
        generation: Lsn(0x1112_1314_1516_1718),
    };
    let file = PlainFile {
        length: 0x0102,
        mode: 0o600,
        path: "pg_hba.conf".to_owned(),
    };
    let path = "/srv/ts".to_owned();
    let own = DatabaseDirectory {
        is_own_tablespace: true,
    };
    vec![
        ("relation_size", size.encode()),
        ("database_directory", own.encode()),
        ("tablespace", Tablespace { path }.encode()),
        ("slru_segment", SlruSegment { pages: 32 }.encode()),
        ("checkpoint_state", checkpoint().encode()),
        ("plain_file", file.encode()),
        ("backup_facts", facts().encode()),
        (
            "former_blocks",
            FormerBlocks {
                blocks: 0x0102_0304,
            }
            .encode(),
        ),
        ("database_beginning", beginning(Some((3, 4))).encode()),
        ("cluster_parameters", parameters().encode()),
        ("replication_origin", origin().encode()),
        ("latest_end", latest_end().encode().to_vec()),
    ]
}

#[test]
fn values_have_the_bytes_of_the_stored_file() {
    let stored = include_str!("../../../../tests/golden/postgres_values.txt");
    let lines: Vec<&str> = stored
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let written: Vec<String> = encoded()
        .into_iter()
        .map(|(name, bytes)| format!("{name} {}", hex(&bytes)))
        .collect();
    assert_eq!(lines, written);
}

#[test]
fn values_decode_to_what_was_encoded() {
    assert_eq!(
        CheckpointState::decode(&checkpoint().encode()),
        Ok(checkpoint())
    );
    assert_eq!(BackupFacts::decode(&facts().encode()), Ok(facts()));
    let size = RelationSize {
        blocks: 9,
        generation: Lsn(7),
    };
    assert_eq!(RelationSize::decode(&size.encode()), Ok(size));
    let file = PlainFile {
        length: 1,
        mode: 0o640,
        path: "ä".to_owned(),
    };
    assert_eq!(PlainFile::decode(&file.encode()), Ok(file));
    let former = FormerBlocks { blocks: 9 };
    assert_eq!(FormerBlocks::decode(&former.encode()), Ok(former));
    for copied_from in [None, Some((3, 4))] {
        let beginning = beginning(copied_from);
        let decoded = DatabaseBeginning::decode(&beginning.encode());
        assert_eq!(decoded, Ok(beginning));
    }
    let decoded = ClusterParameters::decode(&parameters().encode());
    assert_eq!(decoded, Ok(parameters()));
    let decoded = ReplicationOrigin::decode(&origin().encode());
    assert_eq!(decoded, Ok(origin()));
    let decoded = LatestEnd::decode(&latest_end().encode());
    assert_eq!(decoded, Ok(latest_end()));
}

#[test]
fn other_versions_lengths_and_flags_are_refused() {
    let bytes = RelationSize {
        blocks: 9,
        generation: Lsn(7),
    }
    .encode();
    for cut in 0..bytes.len() {
        assert!(RelationSize::decode(&bytes[..cut]).is_err(), "{cut} bytes");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(RelationSize::decode(&longer).is_err());
    let mut newer = bytes;
    newer[0] = 2;
    assert_eq!(
        RelationSize::decode(&newer),
        Err(ValueError::Version {
            what: "relation size",
            version: 2
        })
    );
    assert!(DatabaseDirectory::decode(&[1, 2]).is_err());
}
