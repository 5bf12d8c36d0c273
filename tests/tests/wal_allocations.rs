//! Decoding of WAL, and redo of what it says, allocate nothing once their buffers are there: not for a record, not for a
//! block, not where a record goes on in another chunk.

use std::collections::HashMap;
use std::fs;

use engine::io::counting_allocator::{Allocations, CountingAllocator};
use harness::postgres::TestCluster;
use postgres::key::BlockTag;
use postgres::local_cluster::{ClusterOptions, StopMode};
use postgres::redo::{Delta, DeltaScratch, Outcome, redo};
use postgres::wal::{Record, SegmentFiles, WalDecoder};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// No multiple of a page, so that records are cut in all ways.
const CHUNK_BYTES: usize = 10_007;
/// Records until all buffers are as long as they get.
const WARM_UP_RECORDS: u64 = 5_000;

#[test]
fn decoding_and_redo_allocate_nothing() {
    let mut cluster = TestCluster::start_new(ClusterOptions::default());
    let pgbench = |arguments: &[&str]| {
        let done = cluster.run("pgbench", arguments);
        done.expect("pgbench runs");
    };
    pgbench(&["--initialize", "--quiet", "--scale=2", "postgres"]);
    pgbench(&["--no-vacuum", "--transactions=3000", "postgres"]);
    cluster.stop(StopMode::Fast).expect("stops");
    let directory = cluster.data_directory().join("pg_wal");
    let files = SegmentFiles::open(&directory, None).expect("WAL");
    let mut bytes = Vec::new();
    for number in 0.. {
        match fs::read(directory.join(files.segment_name(number))) {
            Ok(segment) => bytes.extend(segment),
            Err(_) => break,
        }
    }

    let mut replay = Replay::default();
    let decoder = || WalDecoder::new(files.stream(), files.start());
    // The first time pages and buffers are made.
    replay.run(decoder(), &bytes);
    for page in replay.pages.values_mut() {
        page.fill(0);
    }
    let first = std::mem::take(&mut replay.counts);
    let allocations = replay.run(decoder(), &bytes);
    let counts = replay.counts;
    assert_eq!(counts, first, "both times the same");
    assert!(
        counts.records > 3 * WARM_UP_RECORDS && counts.applied > counts.records / 2,
        "{counts:?}"
    );
    assert_eq!(allocations.count, 0, "{counts:?}: {allocations:?}");
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Counts {
    records: u64,
    applied: u64,
}

#[derive(Default)]
struct Replay {
    pages: HashMap<BlockTag, Box<[u8; 8192]>>,
    stored: Vec<u8>,
    counts: Counts,
}

impl Replay {
    /// Replays to the end; what was allocated since the buffers were there.
    fn run(&mut self, mut decoder: WalDecoder, bytes: &[u8]) -> Allocations {
        for mut chunk in bytes.chunks(CHUNK_BYTES) {
            while !chunk.is_empty() {
                let Ok(found) = decoder.decode(chunk) else {
                    return CountingAllocator::counted();
                };
                if let Some(record) = &found.record {
                    self.take(record);
                }
                chunk = &chunk[found.consumed..];
            }
        }
        CountingAllocator::counted()
    }

    /// Makes each block's delta, stores it, and applies what was stored.
    fn take(&mut self, record: &Record<'_>) {
        if self.counts.records == WARM_UP_RECORDS {
            CountingAllocator::start();
        }
        self.counts.records += 1;
        for block in record.blocks() {
            let mut scratch = DeltaScratch::new();
            self.stored.clear();
            match Delta::of_block(record, &block, false, &mut scratch) {
                Some(delta) => delta.encode(&mut self.stored),
                None => continue,
            }
            let page = self.pages.entry(block.tag);
            let page = page.or_insert_with(|| Box::new([0; 8192]));
            let mut scratch = DeltaScratch::new();
            let delta = Delta::decode(block.tag.key(), record.end, &self.stored, &mut scratch);
            if redo(&delta.expect("was stored just now"), page) == Ok(Outcome::Applied) {
                self.counts.applied += 1;
            }
        }
    }
}
