//! A disk that refuses, keys that are away, commits that are given up, files that are not ours.

use super::*;
use crate::crypto::sealed_record::RecordProblem;

/// Commits 5,000 bytes, lets `fail` spoil the commit of 9,000 more, and does it again; everything is found once.
fn commit_that_fails_first(fail: impl FnOnce(&MemoryDisk, &mut TestWal)) {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    let durable = commit(&mut wal, 5000);
    append(&mut wal, 9000);
    fail(&disk, &mut wal);
    assert_eq!(wal.durable_lsn(), durable);
    // A start in between finds what was durable, and perhaps more; all of it right.
    let (_, recovered) = open(&disk_with(&files(&disk)), &keys, 2).expect("sound");
    let found = read(&recovered).expect("sound")[0];
    assert!(found.end == durable || found.end.0 == durable.0 + 9000);

    let end = now(wal.commit()).expect("the disk is fine again");
    assert_eq!(end.0, durable.0 + 9000);
    let end = commit(&mut wal, 100);
    let segments = disk.files.borrow().len();
    assert_eq!(segments, 2, "nothing is written behind what is in doubt");
    let (_, recovered) = open(&disk, &keys, 2).expect("sound");
    assert_eq!(read(&recovered).expect("sound"), [range(1, START, end)]);
}

#[test]
fn a_write_that_fails_is_done_again_in_another_segment() {
    commit_that_fails_first(|disk, wal| {
        disk.broken.set(true);
        let failed = now(wal.commit());
        assert!(matches!(failed, Err(WalError::Disk { .. })), "{failed:?}");
        disk.broken.set(false);
    });
}

#[test]
fn a_sync_that_fails_is_done_again_in_another_segment() {
    commit_that_fails_first(|disk, wal| {
        disk.sync_broken.set(true);
        let failed = now(wal.commit());
        assert!(matches!(failed, Err(WalError::Disk { .. })), "{failed:?}");
        disk.sync_broken.set(false);
    });
}

#[test]
fn a_commit_that_is_given_up_is_done_again_in_another_segment() {
    commit_that_fails_first(|disk, wal| {
        let release = disk.hold_writes();
        assert!(wal.commit().now_or_never().is_none(), "the write is held");
        drop(release);
    });
}

#[test]
fn a_commit_in_doubt_counts_when_the_log_is_full() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    while append(&mut wal, 50_000) == Appended::Buffered {
        now(wal.commit()).expect("the disk is fine");
    }
    let rest = usize::try_from(wal.usage().bytes_free).expect("small");
    assert_eq!(append(&mut wal, rest), Appended::Buffered);
    disk.sync_broken.set(true);
    assert!(now(wal.commit()).is_err());
    disk.sync_broken.set(false);
    let full = now(wal.commit());
    assert!(matches!(full, Err(WalError::Full { .. })), "{full:?}");
    assert_eq!(wal.usage().bytes_free, 0);
    now(wal.trim(Lsn(START.0 + 70_000))).expect("removed");
    let end = now(wal.commit()).expect("there is room again");
    let (_, recovered) = open(&disk, &keys, 2).expect("sound");
    let ranges = read(&recovered).expect("sound");
    assert_eq!((ranges.len(), ranges[0].end), (1, end));
}

#[test]
fn a_segment_that_cannot_be_made_leaves_nothing_and_loses_nothing() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    append(&mut wal, 100);
    keys.away.set(true);
    let failed = now(wal.commit());
    assert!(matches!(failed, Err(WalError::NewKey { .. })), "{failed:?}");
    keys.away.set(false);
    disk.size_max.set(1000);
    let failed = now(wal.commit());
    assert!(matches!(failed, Err(WalError::Disk { .. })), "{failed:?}");
    disk.size_max.set(0);
    for _ in 0..3 {
        disk.sync_broken.set(true);
        let failed = now(wal.commit());
        assert!(matches!(failed, Err(WalError::Disk { .. })), "{failed:?}");
        disk.sync_broken.set(false);
        assert_eq!(disk.files.borrow().len(), 1, "attempts do not pile up");
    }
    let left = disk_with(&files(&disk));
    let (_, recovered) = open(&left, &keys, 2).expect("an unfinished segment is no damage");
    assert_eq!(recovered.ranges(), []);
    assert_eq!(left.files.borrow().len(), 0, "it is removed");

    let end = now(wal.commit()).expect("the disk is fine again");
    assert_eq!(disk.files.borrow().len(), 1);
    let (_, recovered) = open(&disk, &keys, 2).expect("sound");
    assert_eq!(read(&recovered).expect("sound"), [range(1, START, end)]);
}

#[test]
fn a_segment_that_was_made_and_never_used_is_passed_over() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    commit(&mut begin(&disk, &keys), 100);
    // Two that go on from the same one: of the first only the name came through.
    let other = disk_with(&files(&disk));
    commit(&mut open(&other, &keys, 2).expect("sound").0, 100);
    let end = commit(&mut open(&disk, &keys, 3).expect("sound").0, 50);
    let mut both = files(&other);
    both.extend(files(&disk));
    assert_eq!(both.len(), 3);
    let disk = disk_with(&both);
    let (_, recovered) = open(&disk, &keys, 3).expect("sound");
    assert_eq!(read(&recovered).expect("sound"), [range(1, START, end)]);
    assert_eq!(disk.files.borrow().len(), 2);
}

#[test]
fn segments_of_others_and_under_other_keys_are_refused() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    commit(&mut begin(&disk, &keys), 100);
    let name = Path::new(DIR).join("00000001-0000000000000000.wal");
    let problem = |error: Option<WalError>| match error {
        Some(WalError::Segment { path, problem }) if path == name => Some(problem),
        _ => None,
    };

    let other = (OWNER.0, BranchId(Id([0x23; 16])));
    let (config, dir) = (WalConfig::tiny(), Path::new(DIR));
    let opened = now(LocalWal::open(
        disk.clone(),
        dir,
        other,
        2,
        Rc::clone(&keys),
        config,
    ));
    assert_eq!(problem(opened.err()), Some(RecordProblem::Misplaced));

    let other_keys = Rc::new(Keys::default());
    let key = Arc::new(Dek::from_bytes([0x99; 32]));
    other_keys.drawn.borrow_mut().push(key);
    let opened = open(&disk, &other_keys, 2);
    assert_eq!(problem(opened.err()), Some(RecordProblem::WrongKey));

    keys.away.set(true);
    let away = open(&disk, &keys, 2).err();
    assert!(matches!(away, Some(WalError::Key { .. })), "{away:?}");
    keys.away.set(false);

    let mut moved = files(&disk);
    let bytes = moved.remove(&name).expect("there");
    let other_name = Path::new(DIR).join("00000001-0000000000000001.wal");
    moved.insert(other_name, bytes);
    moved.insert(Path::new(DIR).join("notes.txt"), b"nobody's".to_vec());
    let refused = open(&disk_with(&moved), &keys, 2).err();
    assert!(
        matches!(
            refused,
            Some(WalError::Segment {
                problem: RecordProblem::Misplaced,
                ..
            })
        ),
        "{refused:?}"
    );
    let config = WalConfig {
        bytes_max: 0,
        ..WalConfig::tiny()
    };
    let refused = open_with(&disk, &keys, 2, config).err();
    assert!(matches!(refused, Some(WalError::Config(_))));
}
