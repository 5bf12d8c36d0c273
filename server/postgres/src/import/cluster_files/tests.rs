use super::super::page_table::tests::Put;
use super::*;

const START: Lsn = Lsn(1000);
const STOP: Lsn = Lsn(2000);

const RELATION: Relation = Relation {
    tablespace: 1663,
    database: 5,
    number: 16384,
};

fn files(source: Source) -> ClusterFiles {
    let start = ImportStart {
        system_identifier: 1,
        postgres_major: 15,
        timeline: 1,
        start_lsn: START,
        wal_segment_bytes: 16 << 20,
        has_data_checksums: true,
        total_bytes: None,
    };
    ClusterFiles::new(start, source, 1 << 20)
}

/// Takes files of these kinds, with so many bytes of `byte` each.
fn take(
    files: &mut ClusterFiles,
    of: &[(DataFile, usize)],
    byte: u8,
    put: &mut Put,
) -> Result<(), ImportError> {
    for (kind, bytes) in of {
        let file = SourceFile {
            path: "a file",
            length: *bytes as u64,
            mode: 0o600,
        };
        let content = vec![byte; *bytes];
        files.file(kind.clone(), &file, &mut &content[..], put)?;
    }
    Ok(())
}

fn segment(segment: u32, blocks: usize) -> (DataFile, usize) {
    let kind = DataFile::Relation {
        relation: RELATION,
        fork: Fork::Main,
        segment,
    };
    (kind, blocks * PAGE_BYTES)
}

fn block(block: u32) -> engine::types::Key {
    PostgresKey::Block {
        relation: RELATION,
        fork: Fork::Main,
        block,
    }
    .encode()
}

#[test]
fn segments_of_different_moments_end_at_the_first_that_is_not_full() {
    for (of, length) in [
        // It grew past a segment, or was cut off, while it was read.
        (vec![segment(0, 5), segment(1, 3)], Some(5)),
        (vec![segment(0, 0), segment(1, 3)], Some(0)),
        // A segment in the middle, or the first, was gone when it came to it.
        (vec![segment(0, 5), segment(2, 3)], Some(5)),
        (vec![segment(1, 3)], None),
    ] {
        let mut files = files(Source::AtWork);
        let mut put = Put::default();
        take(&mut files, &of, 0, &mut put).expect("a backup's files");
        let (forks, behind) = files.put_sizes(&mut put).expect("a backup's files");
        assert_eq!(forks.get(&(RELATION, Fork::Main)).copied(), length);
        let put_behind: usize = behind.iter().map(|of| of.blocks.len()).sum();
        assert_eq!(put_behind, 3);

        // What is still behind the end at the stop is put out of sight, and nothing else.
        let first = behind[0].blocks.start;
        let lengths = Lengths {
            forks,
            segments: BTreeMap::new(),
        };
        let pages = PageTable::new(Limits::of(1 << 20));
        let state = ClusterState::new(1);
        let replay = Replay::new(state, lengths, pages, HashMap::new(), behind);
        replay.finish(STOP, &mut put).expect("no WAL");
        for number in first..first + 3 {
            let versions = [(START.0, true, PAGE_BYTES), (STOP.0, true, 0)];
            assert_eq!(put.0[&block(number)], versions, "block {number}");
        }
        if length == Some(5) {
            assert_eq!(put.0[&block(4)], [(START.0, true, PAGE_BYTES)]);
        }

        let mut stopped = self::files(Source::Stopped);
        take(&mut stopped, &of, 0, &mut put).expect("files");
        assert!(stopped.put_sizes(&mut put).is_err(), "{of:?}");
    }
}

#[test]
fn what_a_cluster_at_work_is_about_to_write_is_no_damage() {
    let slru = DataFile::Slru {
        slru: Slru::Clog,
        segment: 0,
    };
    let half_a_page_more = [(slru, 2 * PAGE_BYTES + 4096)];
    let mut put = Put::default();
    take(&mut files(Source::AtWork), &half_a_page_more, 0, &mut put).expect("it grows");
    assert!(take(&mut files(Source::Stopped), &half_a_page_more, 0, &mut put).is_err());

    // The end of a new page is there before its beginning, with the LSN and the checksum.
    let mut page = vec![0; PAGE_BYTES];
    page[4096..].fill(7);
    let file = SourceFile {
        path: "a file",
        length: PAGE_BYTES as u64,
        mode: 0o600,
    };
    let mut at_work = files(Source::AtWork);
    let new = at_work.file(segment(0, 1).0, &file, &mut &page[..], &mut put);
    new.expect("the WAL may restore it");
    assert_eq!(at_work.suspects.len(), 1);
    let mut stopped = files(Source::Stopped);
    let refused = stopped.file(segment(0, 1).0, &file, &mut &page[..], &mut put);
    assert!(matches!(refused, Err(ImportError::CorruptPage { .. })));
}
