//! Decoding of WAL and redo of pages, on one core, in memory: nothing is read while it is measured.
//!
//! The WAL is that of a directory, such as one that `pgbench` left. Decoding: all of it, over and over. Redo of short
//! records: every run of at least [`CHAIN_RECORDS_MIN`] changes of one heap or btree page between two images, replayed
//! onto a copy of its first page; the time is per change, decoding of the stored delta and the copy included. Beside
//! them a chain of 25 generic records that carry 26 kB.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use postgres::key::{BlockTag, Fork, PostgresKey, Relation};
use postgres::redo::{Change, Delta, DeltaScratch, Outcome, PageChange, redo};
use postgres::wal::{
    Record, ResourceManager, SegmentFiles, SegmentFilesError, WalDecoder, WalVersion,
};

use engine::types::Lsn;

use crate::clock;
use crate::error::{BenchError, Doing, Result};

/// Measures decoding of the WAL in `directory`.
///
/// # Errors
/// No WAL there, or none of the kind that is measured.
pub(crate) fn decode(directory: &Path, rounds: u32) -> Result<()> {
    let files = SegmentFiles::open(directory, None).map_err(unfit)?;
    let bytes = read_run(directory, &files)?;
    let mut best = f64::INFINITY;
    let (mut records, mut blocks, mut decoded) = (0u64, 0u64, 0u64);
    for _ in 0..rounds {
        (records, blocks) = (0, 0);
        let mut decoder = WalDecoder::new(files.stream(), files.start());
        let started = clock::now_ns();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let Ok(found) = decoder.decode(rest) else {
                break; // the end of what was written
            };
            if let Some(record) = &found.record {
                records += 1;
                blocks += record.blocks().len() as u64;
            }
            rest = &rest[found.consumed..];
        }
        best = best.min((clock::now_ns() - started) as f64);
        decoded = (bytes.len() - rest.len()) as u64;
    }
    println!(
        "decode: {decoded} bytes, {records} records, {blocks} blocks: {:.0} MB/s, {:.0} ns per record (goal: at least 500 MB/s)",
        decoded as f64 * 1e3 / best,
        best / records.max(1) as f64
    );
    Ok(())
}

/// Measures redo of what the WAL in `directory` does to heap and btree pages, and of the long chain.
///
/// # Errors
/// No WAL there, or none of the kind that is measured.
pub(crate) fn replay(directory: &Path, rounds: u32) -> Result<()> {
    for (name, manager) in [
        ("heap", ResourceManager::HEAP),
        ("btree", ResourceManager::BTREE),
    ] {
        let chains = chains_of(directory, manager)?;
        let changes: usize = chains.iter().map(|chain| chain.deltas.len()).sum();
        if changes == 0 {
            println!("redo, {name}: no page of it was changed {CHAIN_RECORDS_MIN} times");
            continue;
        }
        let bytes: usize = chains.iter().map(Chain::bytes).sum();
        let ns = measure(&chains, rounds) / changes as f64;
        println!(
            "redo, {name}: {changes} changes of {} bytes mean on {} pages: {ns:.0} ns each, {:.2} M/s (goal: at most 1000 ns)",
            bytes / changes,
            chains.len(),
            1e3 / ns
        );
    }
    let chain = long_chain();
    let input = chain.bytes();
    let ns = measure(&[chain], rounds.max(1000));
    println!(
        "redo, {LONG_CHAIN_RECORDS} records with {input} bytes: {:.2} us (goal: at most 15 us)",
        ns / 1e3
    );
    Ok(())
}

/// A page and the changes that follow on it.
struct Chain {
    key: PostgresKey,
    page: Box<[u8; 8192]>,
    deltas: Vec<(Lsn, Vec<u8>)>,
}

impl Chain {
    fn bytes(&self) -> usize {
        self.deltas.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

/// Nanoseconds of one replay of all chains, of the fastest round.
fn measure(chains: &[Chain], rounds: u32) -> f64 {
    let mut page = [0; 8192];
    let mut best = u64::MAX;
    for _ in 0..rounds {
        let started = clock::now_ns();
        for chain in chains {
            page.copy_from_slice(&*chain.page);
            let mut scratch = DeltaScratch::new();
            for (end, bytes) in &chain.deltas {
                let delta = Delta::decode(chain.key, *end, bytes, &mut scratch);
                let outcome = redo(&delta.expect("was encoded here"), &mut page);
                assert_eq!(outcome, Ok(Outcome::Applied), "it did when it was taken");
            }
        }
        std::hint::black_box(&page);
        best = best.min(clock::now_ns() - started);
    }
    best as f64
}

/// Changes of short records, by page, between images.
fn chains_of(directory: &Path, manager: ResourceManager) -> Result<Vec<Chain>> {
    let mut files = SegmentFiles::open(directory, None).map_err(unfit)?;
    let mut open: HashMap<BlockTag, (Box<[u8; 8192]>, Chain)> = HashMap::new();
    let mut chains = Vec::new();
    let mut scratch = DeltaScratch::new();
    files
        .for_each(
            |record: &Record<'_>| -> std::result::Result<(), SegmentFilesError> {
                for block in record.blocks() {
                    let Some(delta) = Delta::of_block(record, &block, false, &mut scratch) else {
                        continue;
                    };
                    let mut bytes = Vec::new();
                    delta.encode(&mut bytes);
                    let is_measured = record.manager == manager && bytes.len() <= SHORT_BYTES_MAX;
                    if delta.begins_page() || !is_measured {
                        // The chain ends; the next begins with the page as it is now.
                        let mut page = match open.remove(&block.tag) {
                            Some((page, chain)) => {
                                keep(chain, &mut chains);
                                page
                            }
                            None if delta.begins_page() => Box::new([0; 8192]),
                            None => continue,
                        };
                        if redo(&delta, &mut page) == Ok(Outcome::Applied) {
                            let chain = Chain {
                                key: block.tag.key(),
                                page: page.clone(),
                                deltas: Vec::new(),
                            };
                            open.insert(block.tag, (page, chain));
                        }
                    } else if let Some((page, chain)) = open.get_mut(&block.tag)
                        && redo(&delta, page) == Ok(Outcome::Applied)
                    {
                        chain.deltas.push((record.end, bytes));
                    }
                }
                Ok(())
            },
        )
        .map_err(unfit)?;
    for (_, chain) in open.into_values() {
        keep(chain, &mut chains);
    }
    Ok(chains)
}

fn keep(chain: Chain, chains: &mut Vec<Chain>) {
    if chain.deltas.len() >= CHAIN_RECORDS_MIN && chains.len() < CHAINS_MAX {
        chains.push(chain);
    }
}

/// 25 generic records, each of one long stretch of bytes.
fn long_chain() -> Chain {
    let relation = Relation {
        tablespace: 1663,
        database: 5,
        number: 16384,
    };
    let tag = BlockTag {
        relation,
        fork: Fork::Main,
        block: 0,
    };
    let mut page = Box::new([0; 8192]);
    page[12..20].copy_from_slice(&[24, 0, 0, 32, 0, 32, 4, 32]);
    let mut data = vec![0; 4 + LONG_STRETCH_BYTES];
    data[..2].copy_from_slice(&4096u16.to_le_bytes());
    let length = u16::try_from(LONG_STRETCH_BYTES).expect("short");
    data[2..4].copy_from_slice(&length.to_le_bytes());
    let deltas = (1..=LONG_CHAIN_RECORDS).map(|number| {
        let end = Lsn(number * 0x1000);
        let delta = Delta::Record(PageChange {
            image: None,
            change: Change {
                version: WalVersion::V15,
                end,
                xid: 0,
                manager: ResourceManager::GENERIC,
                info: 0,
                block_id: 0,
                tag,
                others: &[],
                data: &data,
                main: &[],
                hint_bits_logged: false,
                will_init: false,
            },
        });
        let mut bytes = Vec::new();
        delta.encode(&mut bytes);
        (end, bytes)
    });
    Chain {
        key: tag.key(),
        deltas: deltas.collect(),
        page,
    }
}

/// The files of the run, one behind the other, from the page of its start on.
fn read_run(directory: &Path, files: &SegmentFiles) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut segment = 0;
    while bytes.len() < DECODED_BYTES_MAX {
        let path: PathBuf = directory.join(files.segment_name(segment));
        if !path.exists() {
            break;
        }
        let file = fs::read(&path).doing(|| format!("read {}", path.display()))?;
        bytes.extend(file);
        segment += 1;
    }
    Ok(bytes)
}

fn unfit(error: SegmentFilesError) -> BenchError {
    BenchError::Unfit(error.to_string())
}

const CHAIN_RECORDS_MIN: usize = 8;
const CHAINS_MAX: usize = 2000;
const SHORT_BYTES_MAX: usize = 300;
const LONG_CHAIN_RECORDS: u64 = 25;
const LONG_STRETCH_BYTES: usize = 1024;
const DECODED_BYTES_MAX: usize = 1 << 30;
