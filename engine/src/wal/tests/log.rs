//! What is committed is found; what is trimmed is gone; what is full says so.

use super::*;

#[test]
fn what_was_committed_is_found_by_the_next_start_and_what_was_not_is_not() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    let mut end = START;
    // Of one frame, of several, of more than a segment.
    for len in [1, 4040, 4041, 30_000, 90_000, 7] {
        end = Lsn(end.0 + len as u64);
        assert_eq!(commit(&mut wal, len), end);
    }
    assert_eq!(append(&mut wal, 1000), Appended::Buffered);
    assert_eq!(wal.buffered_bytes(), 1000);
    assert_eq!((wal.durable_lsn(), wal.end().1), (end, Lsn(end.0 + 1000)));

    let (wal, recovered) = open(&disk, &keys, 2).expect("sound");
    assert_eq!(wal.end(), (1, end));
    assert_eq!(read(&recovered).expect("sound"), [range(1, START, end)]);
    for from in [START.0 + 1, START.0 + 4041, START.0 + 60_000, end.0 - 1] {
        let rest = read_from(&recovered, Lsn(from)).expect("sound");
        assert_eq!(rest, [range(1, Lsn(from), end)]);
    }
    assert_eq!(read_from(&recovered, end).expect("sound"), []);
}

#[test]
fn a_commit_is_one_write() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    commit(&mut wal, 1);
    let before = disk.writes.get();
    append(&mut wal, 10_000);
    append(&mut wal, 10_000);
    now(wal.commit()).expect("fine");
    assert_eq!(disk.writes.get(), before + 1);
    now(wal.commit()).expect("nothing to do");
    assert_eq!(disk.writes.get(), before + 1);
}

#[test]
fn nothing_that_was_written_is_written_again() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    let mut before = files(&disk);
    for (len, epoch) in [(10, 2), (5000, 3), (70_000, 4), (9, 5), (40_000, 6)] {
        commit(&mut wal, len);
        let after = files(&disk);
        for (path, old) in &before {
            let blocks = old.chunks(4096).zip(after[path].chunks(4096));
            for (at, (old, new)) in blocks.enumerate() {
                let untouched = old.iter().all(|byte| *byte == 0);
                assert!(untouched || old == new, "block {at} of {}", path.display());
            }
        }
        before = after;
        if len < 100 {
            wal = open(&disk, &keys, epoch).expect("sound").0;
        }
    }
    assert_eq!(before.len(), 4, "a segment for each start, one was full");
}

#[test]
fn every_start_keeps_everything_and_begins_a_segment_under_a_key_of_its_own() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut end = commit(&mut begin(&disk, &keys), 10);
    let config = WalConfig {
        bytes_max: 64 << 20,
        ..WalConfig::tiny()
    };
    for epoch in 2..40 {
        let (mut wal, recovered) = open_with(&disk, &keys, epoch, config.clone()).expect("sound");
        assert_eq!(read(&recovered).expect("sound"), [range(1, START, end)]);
        // A start that writes nothing leaves nothing.
        if epoch % 3 > 0 {
            end = commit(&mut wal, 3000 * epoch as usize % 7001 + 1);
        }
    }
    let segments = disk.files.borrow().len();
    assert_eq!(segments, 1 + 38 - 13);
    assert_eq!(keys.drawn.borrow().len(), segments);
}

#[test]
fn an_epoch_may_be_opened_again_and_an_older_one_not() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let first = commit(&mut begin(&disk, &keys), 10);
    let (mut wal, _) = open(&disk, &keys, 5).expect("sound");
    let end = commit(&mut wal, 10);
    let (mut again, recovered) = open(&disk, &keys, 5).expect("sound");
    assert_eq!(read(&recovered).expect("sound"), [range(1, START, end)]);
    assert!(end > first);
    let end = commit(&mut again, 10);
    let behind = open(&disk, &keys, 4).map(drop);
    assert!(
        matches!(&behind, Err(WalError::EpochBehind { epoch: 4, .. })),
        "{behind:?}"
    );
    let (_, recovered) = open(&disk, &keys, 6).expect("sound");
    assert_eq!(read(&recovered).expect("sound"), [range(1, START, end)]);
}

#[test]
fn wal_goes_on_where_it_ends_or_begins_anew() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let (mut wal, _) = open(&disk, &keys, 1).expect("empty");
    let unbegun = wal.append(0, Lsn(0), b"x");
    assert!(matches!(unbegun, Err(WalError::NotContiguous { .. })));
    wal.restart_at(1, START);
    let first_end = commit(&mut wal, 5000);
    for (timeline, start) in [(1, START), (1, Lsn(first_end.0 + 1)), (2, first_end)] {
        let refused = wal.append(timeline, start, b"x");
        assert!(matches!(refused, Err(WalError::NotContiguous { .. })));
    }
    assert_eq!(wal.end(), (1, first_end), "nothing was taken");
    wal.restart_at(1, first_end);
    let first_end = commit(&mut wal, 10);
    assert_eq!(disk.files.borrow().len(), 1, "it was no restart");

    // Another timeline that leaves the first one below its end; then a gap.
    let fork = Lsn(START.0 + 100);
    wal.restart_at(2, fork);
    let second_end = commit(&mut wal, 8000);
    wal.restart_at(2, Lsn(second_end.0 + 50));
    let third = range(2, Lsn(second_end.0 + 50), commit(&mut wal, 8000));
    let both = [
        range(1, START, first_end),
        range(2, fork, second_end),
        third,
    ];
    let (mut wal, recovered) = open(&disk, &keys, 2).expect("sound");
    assert_eq!(read(&recovered).expect("sound"), both);
    assert_eq!(wal.end(), (2, third.end));
    let low = Lsn(START.0 + 4000);
    let rest = read_from(&recovered, low).expect("sound");
    assert_eq!(
        rest,
        [range(1, low, first_end), range(2, low, second_end), third]
    );

    // And over a start.
    wal.restart_at(3, Lsn(0x5000));
    let end = commit(&mut wal, 1);
    let (_, recovered) = open(&disk, &keys, 3).expect("sound");
    let ranges = read(&recovered).expect("sound");
    assert_eq!(ranges[..3], both);
    assert_eq!(ranges[3..], [range(3, Lsn(0x5000), end)]);
}

#[test]
#[should_panic(expected = "committed first")]
fn a_restart_does_not_lose_what_was_appended() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    append(&mut wal, 1);
    wal.restart_at(2, START);
}

#[test]
fn segments_below_the_trim_are_removed_oldest_first_and_the_rest_is_found() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    let mut ends = Vec::new();
    for _ in 0..40 {
        ends.push(commit(&mut wal, 6000));
    }
    let used = wal.usage().bytes_used;
    now(wal.trim(START)).expect("nothing is below");
    assert_eq!(wal.usage().bytes_used, used);
    now(wal.trim(ends[20])).expect("removed");
    let trimmed_bytes = used - wal.usage().bytes_used;
    assert!(trimmed_bytes > 0 && trimmed_bytes.is_multiple_of(64 << 10));

    let (mut wal, recovered) = open(&disk, &keys, 2).expect("sound");
    let ranges = read(&recovered).expect("sound");
    assert_eq!(ranges.len(), 1);
    assert!(ranges[0].start > START && ranges[0].start <= ends[20]);
    assert_eq!(ranges[0].end, ends[39]);
    // After a start nothing is being written: all of it can go, and the log goes on.
    now(wal.trim(ends[39])).expect("removed");
    assert_eq!((disk.files.borrow().len(), wal.usage().bytes_used), (0, 0));
    let end = commit(&mut wal, 10);
    let (_, recovered) = open(&disk, &keys, 3).expect("sound");
    assert_eq!(read(&recovered).expect("sound"), [range(1, ends[39], end)]);
}

#[test]
fn a_full_log_says_so_commits_what_it_took_and_goes_on_after_a_trim() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    let config = WalConfig::tiny();
    let mut free = wal.usage().bytes_free;
    loop {
        match append(&mut wal, 7777) {
            Appended::Buffered => {
                let now_free = wal.usage().bytes_free;
                assert_eq!(free - now_free, 7777);
                free = now_free;
            }
            Appended::BufferFull => {
                now(wal.commit()).expect("there is room");
                let usage = wal.usage();
                assert!(usage.bytes_free <= free && usage.bytes_used <= config.bytes_max);
                free = usage.bytes_free;
            }
            Appended::Full => break,
        }
    }
    assert!(free < 7777);
    let rest = usize::try_from(free).expect("small");
    assert_eq!(append(&mut wal, rest + 1), Appended::Full);
    assert_eq!(append(&mut wal, rest), Appended::Buffered);
    let end = now(wal.commit()).expect("what was taken has room");
    assert_eq!(disk.size_bytes(), config.bytes_max);
    assert_eq!(wal.usage().bytes_free, 0);
    assert_eq!(append(&mut wal, 1), Appended::Full);

    let (mut wal, recovered) = open(&disk, &keys, 2).expect("sound");
    assert_eq!(read(&recovered).expect("sound"), [range(1, START, end)]);
    assert_eq!(append(&mut wal, 1), Appended::Full);
    now(wal.trim(Lsn(START.0 + 70_000))).expect("removed");
    let end = commit(&mut wal, 1);
    let (_, recovered) = open(&disk, &keys, 3).expect("sound");
    assert_eq!(
        read(&recovered).expect("sound").last().map(|r| r.end),
        Some(end)
    );
}

#[test]
fn the_buffer_has_a_bound() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    let max = WalConfig::tiny().buffer_bytes_max;
    assert_eq!(append(&mut wal, max - 10), Appended::Buffered);
    assert_eq!(append(&mut wal, 11), Appended::BufferFull);
    assert_eq!(append(&mut wal, 10), Appended::Buffered);
    now(wal.commit()).expect("fine");
    let (timeline, start) = wal.end();
    let refused = wal.append(timeline, start, &vec![0; max + 1]);
    assert!(matches!(refused, Err(WalError::TooLarge { .. })));
    wal.restart_at(1, Lsn(u64::MAX - 5));
    let refused = wal.append(1, Lsn(u64::MAX - 5), &[0; 6]);
    assert!(matches!(refused, Err(WalError::TooLarge { .. })));
}
