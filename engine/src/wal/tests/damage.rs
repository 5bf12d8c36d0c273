//! Files that were torn, cut, flipped, lost: a start gives back everything acknowledged, or names the damage. Never wrong
//! bytes: `read` compares each.

use super::*;

/// A log with commits of all kinds, several starts and two timelines.
struct Sample {
    keys: Rc<Keys>,
    /// All files before and after the last commit.
    before: BTreeMap<PathBuf, Vec<u8>>,
    after: BTreeMap<PathBuf, Vec<u8>>,
    /// What was acknowledged before the last commit, and by it.
    ranges_before: Vec<WalRange>,
    ranges: Vec<WalRange>,
}

/// The log of this seed; its last commit has `last` bytes.
fn sample(seed: u64, last: usize) -> Sample {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut random = Random::new(seed);
    let mut wal = begin(&disk, &keys);
    for epoch in 2..5 {
        for _ in 0..1 + random.below(4) {
            commit(&mut wal, 1 + random.below(12_000));
        }
        wal = open(&disk, &keys, epoch).expect("sound").0;
        if epoch == 3 {
            let at = Lsn(wal.durable_lsn().0 + random.below(3) as u64);
            wal.restart_at(2, at);
        }
    }
    for _ in 0..random.below(3) {
        commit(&mut wal, 1 + random.below(6000));
    }
    let ranges = |wal: &TestWal, disk: &MemoryDisk| {
        let (_, recovered) = open(&disk_with(&files(disk)), &keys, 9).expect("sound");
        let ranges = read(&recovered).expect("sound");
        assert_eq!(ranges.last().map(|r| r.end), Some(wal.durable_lsn()));
        ranges
    };
    // The last commit goes to a segment that is there.
    commit(&mut wal, 10);
    let (before, ranges_before) = (files(&disk), ranges(&wal, &disk));
    commit(&mut wal, last);
    let (after, ranges) = (files(&disk), ranges(&wal, &disk));
    assert_eq!(before.len(), after.len());
    Sample {
        keys,
        before,
        after,
        ranges_before,
        ranges,
    }
}

/// What a start makes of these files.
fn start(files: &BTreeMap<PathBuf, Vec<u8>>, keys: &Rc<Keys>) -> Result<Vec<WalRange>, WalError> {
    let (mut wal, recovered) = open(&disk_with(files), keys, 9)?;
    let ranges = read(&recovered)?;
    if let Some(last) = ranges.last() {
        assert_eq!(wal.durable_lsn(), last.end);
        commit(&mut wal, 10);
    }
    Ok(ranges)
}

/// Whether `found` ends within the last commit, and is the same up to there.
fn within_last_commit(sample: &Sample, found: &[WalRange]) -> bool {
    let (Some(last), Some(least), Some(most)) = (
        found.last(),
        sample.ranges_before.last(),
        sample.ranges.last(),
    ) else {
        return false;
    };
    let others = found.len() - 1;
    found[..others] == sample.ranges[..sample.ranges.len() - 1]
        && (last.timeline, last.start) == (most.timeline, most.start)
        && (least.end..=most.end).contains(&last.end)
}

#[test]
fn a_torn_commit_costs_nothing_that_was_acknowledged() {
    let mut kept_some = 0;
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let sample = sample(seed % 10, 1 + random.below(20_000));
        // Any sectors of the last commit came through, alone or in runs, and others not.
        let mut torn = sample.before.clone();
        let (chance, run_bytes) = (random.below(5), 512 << random.below(6));
        let mut whole = true;
        for (path, bytes) in &mut torn {
            let after = &sample.after[path];
            for (old, new) in bytes.chunks_mut(run_bytes).zip(after.chunks(run_bytes)) {
                if old != new && random.below(4) < chance {
                    old.copy_from_slice(new);
                }
                whole &= old == new;
            }
        }
        let found = start(&torn, &sample.keys).expect("a torn commit is no damage");
        assert!(
            within_last_commit(&sample, &found),
            "seed {seed}: {found:?}"
        );
        assert!(!whole || found == sample.ranges, "seed {seed}: {found:?}");
        let ends = [&sample.ranges_before, &sample.ranges].map(|r| r.last().map(|r| r.end));
        kept_some += usize::from(!ends.contains(&found.last().map(|r| r.end)));
    }
    assert!(
        kept_some > 5,
        "{kept_some} kept the first frames of several"
    );
}

#[test]
fn a_flipped_bit_costs_nothing_or_is_named() {
    let (mut named, mut harmless) = (0, 0);
    let samples: Vec<Sample> = (0..10).map(|seed| sample(seed, 9000)).collect();
    for seed in 0..1000 {
        let mut random = Random::new(seed);
        let sample = &samples[random.below(samples.len())];
        let mut files = sample.after.clone();
        let index = random.below(files.len());
        let (path, bytes) = files.iter_mut().nth(index).expect("below the count");
        let path = path.clone();
        // Mostly where something was written.
        let end = if random.below(8) > 0 {
            bytes.iter().rposition(|b| *b != 0).expect("written") + 1
        } else {
            bytes.len()
        };
        let bit = random.below(end * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        match start(&files, &sample.keys) {
            Ok(found) => {
                assert_eq!(found, sample.ranges, "seed {seed}");
                harmless += 1;
            }
            Err(
                WalError::Frame {
                    path: named_path, ..
                }
                | WalError::Segment {
                    path: named_path, ..
                },
            ) => {
                assert_eq!(named_path, path, "seed {seed}");
                named += 1;
            }
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(
        named > 600 && harmless > 40,
        "{named} named, {harmless} harmless"
    );
}

#[test]
fn every_flipped_bit_of_the_last_commit_is_named() {
    let sample = sample(1, 3000);
    let path = sample.after.keys().last().expect("there").clone();
    let (before, after) = (&sample.before[&path], &sample.after[&path]);
    let changed = |at: &usize| before[*at] != after[*at];
    let first = (0..after.len()).find(changed).expect("a commit");
    let block = first / 4096 * 4096;
    for at in (block..block + 48).chain((block + 48..block + 4096).step_by(37)) {
        for bit in 0..8 {
            let mut files = sample.after.clone();
            files.get_mut(&path).expect("there")[at] ^= 1 << bit;
            let named = start(&files, &sample.keys);
            let Err(WalError::Frame {
                at: named_at,
                evidence,
                ..
            }) = named
            else {
                panic!("byte {at}, bit {bit}: {named:?}");
            };
            assert_eq!((named_at, evidence), (block as u64, Evidence::Whole));
        }
    }
}

#[test]
fn a_file_that_was_cut_is_named_wherever_it_ends() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let sample = sample(seed % 10, 9000);
        let mut files = sample.after.clone();
        let index = random.below(files.len());
        let (path, bytes) = files.iter_mut().nth(index).expect("below the count");
        let path = path.clone();
        let len = match random.below(3) {
            0 => random.below(bytes.len() / 512) * 512,
            1 => random.below(5000),
            _ => random.below(bytes.len()),
        };
        bytes.truncate(len);
        let named = start(&files, &sample.keys);
        assert!(
            matches!(&named, Err(WalError::Segment { path: p, .. }) if *p == path),
            "seed {seed}: {named:?}"
        );
    }
}

#[test]
fn a_commit_that_is_lost_in_front_of_another_is_named() {
    for seed in 0..50 {
        let mut sample = sample(seed, 9000);
        // The disk kept the last commit and not the one before it.
        let path = sample.after.keys().last().expect("there").clone();
        let after = sample.after.get_mut(&path).expect("there");
        let blocks: Vec<usize> = (4096..after.len())
            .step_by(4096)
            .filter(|at| after[*at..*at + 4] == *b"PSWF")
            .collect();
        let last_commit = blocks.len() - 2;
        let lost = Random::new(seed).below(last_commit);
        after[blocks[lost]..blocks[lost + 1]].fill(0);
        let named = start(&sample.after, &sample.keys);
        let Err(WalError::Frame { at, evidence, .. }) = named else {
            panic!("seed {seed}: {named:?}");
        };
        assert_eq!(at, blocks[lost] as u64);
        let Evidence::DurableBehind { at, durable } = evidence else {
            panic!("seed {seed}: {evidence:?}");
        };
        assert!(at > blocks[lost] as u64 && durable > START);
    }
}

#[test]
fn a_lost_file_between_others_is_named() {
    let sample = sample(3, 9000);
    let paths: Vec<PathBuf> = sample.after.keys().cloned().collect();
    assert!(paths.len() > 3);
    for missing in 1..paths.len() - 1 {
        let mut files = sample.after.clone();
        files.remove(&paths[missing]);
        let named = start(&files, &sample.keys);
        let Err(WalError::Missing { path, successor }) = named else {
            panic!("{named:?}");
        };
        assert_eq!((&path, &successor), (&paths[missing], &paths[missing + 1]));
    }
    // The oldest may have been trimmed.
    let mut files = sample.after.clone();
    files.remove(&paths[0]);
    let found = start(&files, &sample.keys).expect("as after a trim");
    assert_eq!(found.last(), sample.ranges.last());
}

#[test]
fn frames_of_another_place_or_another_life_do_not_open() {
    let sample = sample(2, 9000);
    let path = sample.after.keys().last().expect("there").clone();
    let whole = &sample.after[&path];
    // A frame of the same segment in the place of the next one.
    let mut moved = sample.after.clone();
    moved
        .get_mut(&path)
        .expect("there")
        .copy_within(4096..8192, 8192);
    assert!(start(&moved, &sample.keys).is_err());
    // A header with the frames of an older segment behind it.
    let older = sample.after.values().next().expect("there");
    let mut mixed = sample.after.clone();
    mixed.insert(path, [&whole[..4096], &older[4096..]].concat());
    let named = start(&mixed, &sample.keys);
    assert!(
        matches!(named, Err(WalError::Frame { at: 4096, .. })),
        "{named:?}"
    );
}
