//! Ends of transactions, and what is kept of them in SLRUs, files and counters.

use super::*;

#[test]
fn a_commit_sets_status_of_all_its_transactions_and_drops_relations() {
    let mut cluster = Cluster::new(WalVersion::V17);
    cluster.image(tag(Fork::Main, 0));
    cluster.image(tag(Fork::VisibilityMap, 0));
    // Time, parts, subtransactions 32767 and 40000, one relation.
    let commit = [
        0,
        0,
        2 | 4,
        2,
        32_767,
        40_000,
        1,
        WORDS[0],
        WORDS[1],
        WORDS[2],
    ];
    cluster.take_main(ResourceManager::TRANSACTION, 0x80, 1001, &commit);
    let status = |cluster: &Cluster, xid: usize| {
        let page = &cluster.pages[&page(Slru::Clog, (xid / 32_768) as u64)];
        page[xid % 32_768 / 4] >> (xid % 4 * 2) & 3
    };
    for (xid, expected) in [(1000, 0), (1001, 1), (1002, 0), (32_767, 1), (40_000, 1)] {
        assert_eq!(status(&cluster, xid), expected, "{xid}");
    }
    assert_eq!(cluster.checkpoint().next_xid, 1 << 32 | 40_001);
    for fork in [Fork::Main, Fork::VisibilityMap] {
        assert!(cluster.is_removed(PostgresKey::RelationSize {
            relation: RELATION,
            fork
        }));
    }
    assert_eq!(cluster.state.blocks(RELATION, Fork::Main), None);
    let segment = PostgresKey::SlruSegment {
        slru: Slru::Clog,
        segment: 0,
    };
    let pages = SlruSegment::decode(cluster.value(segment)).map(|s| s.pages);
    assert_eq!(pages, Ok(2));
    cluster.take_main(ResourceManager::TRANSACTION, 0x20, 1002, &[0, 0]);
    assert_eq!(status(&cluster, 1002), 2);
}

#[test]
fn a_prepared_transaction_has_a_file_until_it_ends() {
    for (version, number) in [(WalVersion::V16, 1005), (WalVersion::V17, 1 << 32 | 1005)] {
        let mut cluster = Cluster::new(version);
        let mut main = vec![0u32; 2048];
        main[2] = 1005;
        cluster.take_main(ResourceManager::TRANSACTION, 0x10, 0, &main);
        let chunk = |chunk| PostgresKey::TwoPhase { xid: number, chunk };
        let bytes: Vec<u8> = main.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(cluster.value(chunk(0)), bytes);
        let crc = crc32c::crc32c(&bytes).to_le_bytes();
        assert_eq!(cluster.value(chunk(1)), crc);
        let keys = cluster.take_main(ResourceManager::TRANSACTION, 0xb0, 0, &[0, 0, 0x10, 1005]);
        assert!(keys.contains(&page(Slru::Clog, 0)));
        assert!(cluster.is_removed(chunk(0)));
    }
}

#[test]
fn a_multixact_writes_its_members_its_offset_and_the_next_ones() {
    let mut cluster = Cluster::new(WalVersion::V18);
    // The last of a page of offsets, members across two pages: (2001, 1), (2002, 5).
    let create = [2047, 1635, 2, 2001, 1, 2002, 5];
    cluster.take_main(ResourceManager::MULTIXACT, 0x20, 0, &create);
    let word = |cluster: &Cluster, key: PostgresKey, at: usize| {
        crate::bytes_at::u32_at(&cluster.pages[&key], at)
    };
    assert_eq!(
        word(&cluster, page(Slru::MultixactOffsets, 0), 8188),
        Some(1635)
    );
    assert_eq!(
        word(&cluster, page(Slru::MultixactOffsets, 1), 0),
        Some(1637)
    );
    let last_group = 1632 / 4 * 20;
    let members = page(Slru::MultixactMembers, 0);
    assert_eq!(cluster.pages[&members][last_group + 3], 1);
    assert_eq!(word(&cluster, members, last_group + 4 + 12), Some(2001));
    let members = page(Slru::MultixactMembers, 1);
    assert_eq!(cluster.pages[&members][0], 5);
    assert_eq!(word(&cluster, members, 4), Some(2002));
    assert_eq!(cluster.checkpoint().next_multixact, 2048);
    assert_eq!(cluster.checkpoint().next_multixact_offset, 1637);
    assert_eq!(cluster.checkpoint().next_xid, 1 << 32 | 2003);
    // The page of offsets was made above; its own record, of an older minor version, does not undo that.
    cluster.take_main(ResourceManager::MULTIXACT, 0x00, 0, &[1, 0]);
    assert_eq!(
        word(&cluster, page(Slru::MultixactOffsets, 1), 0),
        Some(1637)
    );
    cluster.take_main(ResourceManager::MULTIXACT, 0x00, 0, &[1, 0]);
    assert_eq!(word(&cluster, page(Slru::MultixactOffsets, 1), 0), Some(0));
}

#[test]
fn segments_that_are_cut_off_are_removed() {
    let mut cluster = Cluster::new(WalVersion::V15);
    for page in [0, 31, 32, 64, 70] {
        cluster.take_main(ResourceManager::CLOG, 0x00, 0, &[page]);
    }
    let segment = |segment| PostgresKey::SlruSegment {
        slru: Slru::Clog,
        segment,
    };
    let keys = cluster.take_main(ResourceManager::CLOG, 0x10, 0, &[64, 3, 1]);
    assert_eq!(keys, [segment(0), segment(1)]);
    assert!(cluster.is_removed(segment(0)) && cluster.is_removed(segment(1)));
    assert_eq!(cluster.value(segment(2)), SlruSegment { pages: 7 }.encode());
}

#[test]
fn commit_timestamps_are_kept_while_the_parameter_is_on() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let commit = [7, 0];
    cluster.take_main(ResourceManager::TRANSACTION, 0, 1001, &commit);
    let stamps = page(Slru::CommitTimestamps, 1002 / 819);
    assert!(!cluster.pages.contains_key(&stamps));
    let on = [100, 8, 10, 0, 64, 1, 1 | 1 << 8];
    cluster.take_main(ResourceManager::XLOG, 0x60, 0, &on);
    let parameters = ClusterParameters::decode(cluster.value(PostgresKey::ClusterParameters));
    let parameters = parameters.expect("parameters");
    assert!(parameters.track_commit_timestamp && parameters.wal_log_hints);
    assert_eq!(parameters.max_locks_per_transaction, 64);
    assert_eq!(cluster.checkpoint().oldest_commit_timestamp_xid, 1002);
    cluster.take_main(ResourceManager::TRANSACTION, 0, 1002, &commit);
    let at = 1002 % 819 * 10;
    assert_eq!(cluster.pages[&stamps][at..at + 2], [7, 0]);
    assert_eq!(cluster.checkpoint().newest_commit_timestamp_xid, 1002);
    // Only a checkpoint tells that older ones are forgotten, where no segment goes with them; none goes back.
    let mut checkpoint = [0; 22];
    for oldest in [1001, 0] {
        checkpoint[18] = oldest;
        cluster.take_main(ResourceManager::XLOG, 0x10, 0, &checkpoint);
        assert_eq!(cluster.checkpoint().oldest_commit_timestamp_xid, 1002);
    }
    checkpoint[18] = 1003;
    cluster.take_main(ResourceManager::XLOG, 0x10, 0, &checkpoint);
    assert_eq!(cluster.checkpoint().oldest_commit_timestamp_xid, 1003);
    let off = [100, 8, 10, 0, 64, 1, 0];
    cluster.take_main(ResourceManager::XLOG, 0x60, 0, &off);
    assert!(cluster.is_removed(PostgresKey::SlruSegment {
        slru: Slru::CommitTimestamps,
        segment: 0
    }));
    assert_eq!(cluster.checkpoint().newest_commit_timestamp_xid, 0);
}

#[test]
fn origins_advance_with_commits_and_go_back_only_by_force() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let key = PostgresKey::ReplicationOrigin { origin: 3 };
    let remote = |cluster: &Cluster| {
        let value = ReplicationOrigin::decode(cluster.value(key));
        value.expect("an origin").remote_lsn
    };
    let set = |lsn: u32, force: u32| [lsn, 0, 3 | force << 16];
    let origins = ResourceManager::REPLICATION_ORIGIN;
    cluster.take_main(origins, 0, 0, &set(500, 0));
    cluster.take_main(origins, 0, 0, &set(400, 0));
    assert_eq!(remote(&cluster), Lsn(500));
    cluster.take_main(origins, 0, 0, &set(400, 1));
    assert_eq!(remote(&cluster), Lsn(400));
    // A commit with an origin: its number is in the record, LSN and time in the main data.
    let mut body = vec![253, 3, 0, 255, 28];
    for word in [0u32, 0, 0x20, 600, 0, 9, 0] {
        body.extend(word.to_le_bytes());
    }
    cluster.take(ResourceManager::TRANSACTION, 0x80, 1001, &body);
    assert_eq!(remote(&cluster), Lsn(600));
    cluster.take_main(origins, 0x10, 0, &[3]);
    assert!(cluster.is_removed(key));
}

#[test]
fn the_next_transaction_id_goes_on_around_the_end_of_32_bits_and_is_stored_in_steps() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let commit = ResourceManager::TRANSACTION;
    cluster.take_main(commit, 0, 0x7fff_fff0, &[0, 0]);
    cluster.take_main(commit, 0, 0xffff_0000, &[0, 0]);
    cluster.take_main(commit, 0, u32::MAX, &[0, 0]);
    assert_eq!(cluster.checkpoint().next_xid, 2 << 32 | 3);
    cluster.take_main(commit, 0, u32::MAX - 5, &[0, 0]);
    assert_eq!(cluster.checkpoint().next_xid, 2 << 32 | 3);

    let mut state = ClusterState::new(1024);
    let stored = |state: &mut ClusterState, xid: u32| {
        let mut bytes = vec![0; 24];
        bytes[4..8].copy_from_slice(&xid.to_le_bytes());
        bytes[16..18].copy_from_slice(&[0x60, 1]);
        let mut scratch = RecordScratch::new();
        let record = Record::parse(WalVersion::V15, Lsn(8), Lsn(16), &bytes, &mut scratch);
        let mut stored = None;
        touched(&record.expect("sound"), state, &mut |touched| {
            if let What::Value(value) = touched.what {
                stored = CheckpointState::decode(value).ok().map(|s| s.next_xid);
            }
        })
        .expect("known");
        stored
    };
    assert_eq!(stored(&mut state, 700), Some(1024));
    assert_eq!(stored(&mut state, 1023), None);
    assert_eq!(state.checkpoint().next_xid, 1024);
    assert_eq!(stored(&mut state, 1024), Some(2048));
}
