//! The log as its writer uses it: starts, restarts, damage. The disk is in memory; power losses are the simulator's.

mod damage;
mod failures;
mod golden;
mod log;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;
use crate::crypto::page_seal::{Dek, DekId};
use crate::io::memory_disk::MemoryDisk;
use crate::types::{BranchId, Id, Lsn, TenantId};

const DIR: &str = "/wal";
const OWNER: (TenantId, BranchId) = (TenantId(Id([0x11; 16])), BranchId(Id([0x22; 16])));
const START: Lsn = Lsn(0x1_0000_0028);

type TestWal = LocalWal<MemoryDisk, Rc<Keys>>;

/// The answer of a future that never waits: nothing does on a disk in memory.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing waits here")
}

/// Keys that outlive a start.
#[derive(Default)]
struct Keys {
    drawn: RefCell<Vec<Arc<Dek>>>,
    away: Cell<bool>,
}

impl WalDeks for Keys {
    async fn next_dek(&self) -> Result<(DekId, Arc<Dek>), DekError> {
        if self.away.get() {
            return Err("the key service is away".into());
        }
        let mut drawn = self.drawn.borrow_mut();
        let slot = u32::try_from(drawn.len()).expect("few");
        let byte = u8::try_from(slot % 256).expect("below 256");
        let dek = Arc::new(Dek::from_bytes([byte; 32]));
        drawn.push(Arc::clone(&dek));
        Ok((DekId { table: 7, slot }, dek))
    }

    async fn dek(&self, id: DekId) -> Result<Arc<Dek>, DekError> {
        if self.away.get() {
            return Err("the key service is away".into());
        }
        let drawn = self.drawn.borrow();
        let dek = drawn.get(id.slot as usize).filter(|_| id.table == 7);
        dek.map(Arc::clone).ok_or_else(|| "no such key".into())
    }
}

fn open_with(
    disk: &MemoryDisk,
    keys: &Rc<Keys>,
    epoch: u32,
    config: WalConfig,
) -> Result<(TestWal, Recovered<MemoryDisk>), WalError> {
    let (disk, keys) = (disk.clone(), Rc::clone(keys));
    now(LocalWal::open(
        disk,
        Path::new(DIR),
        OWNER,
        epoch,
        keys,
        config,
    ))
}

fn open(
    disk: &MemoryDisk,
    keys: &Rc<Keys>,
    epoch: u32,
) -> Result<(TestWal, Recovered<MemoryDisk>), WalError> {
    open_with(disk, keys, epoch, WalConfig::tiny())
}

/// A log that begins at [`START`] of timeline 1.
fn begin(disk: &MemoryDisk, keys: &Rc<Keys>) -> TestWal {
    let (mut wal, recovered) = open(disk, keys, 1).expect("an empty directory");
    assert_eq!(recovered.ranges(), []);
    assert_eq!(wal.durable_lsn(), Lsn::INVALID);
    wal.restart_at(1, START);
    wal
}

/// `len` bytes of WAL as they are at `start` of this timeline: every position has bytes of its own.
fn wal_bytes(timeline: u32, start: Lsn, len: usize) -> Vec<u8> {
    (start.0..start.0 + len as u64)
        .map(|at| {
            let mixed = (at / 8 + u64::from(timeline)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed.to_be_bytes()[usize::try_from(at % 8).expect("below 8")]
        })
        .collect()
}

/// Appends `len` bytes at the end.
fn append(wal: &mut TestWal, len: usize) -> Appended {
    let (timeline, start) = wal.end();
    wal.append(timeline, start, &wal_bytes(timeline, start, len))
        .expect("it goes on where the log ends")
}

/// Appends and commits.
fn commit(wal: &mut TestWal, len: usize) -> Lsn {
    assert_eq!(append(wal, len), Appended::Buffered);
    now(wal.commit()).expect("the disk is fine")
}

/// Reads everything from `from` on and compares every byte; the ranges that came.
fn read_from(recovered: &Recovered<MemoryDisk>, from: Lsn) -> Result<Vec<WalRange>, WalError> {
    let mut ranges: Vec<WalRange> = Vec::new();
    let mut reader = recovered.reader(from);
    while let Some(chunk) = now(reader.next())? {
        let WalChunk {
            timeline,
            start,
            bytes,
        } = chunk;
        assert!(
            bytes == wal_bytes(timeline, start, bytes.len()),
            "{chunk:?}"
        );
        let end = Lsn(start.0 + bytes.len() as u64);
        match ranges.last_mut() {
            Some(last) if (last.timeline, last.end) == (timeline, start) => last.end = end,
            _ => ranges.push(WalRange {
                timeline,
                start,
                end,
            }),
        }
    }
    Ok(ranges)
}

/// Reads everything and compares it with what was promised.
fn read(recovered: &Recovered<MemoryDisk>) -> Result<Vec<WalRange>, WalError> {
    let ranges = read_from(recovered, Lsn(0))?;
    assert_eq!(ranges, recovered.ranges());
    Ok(ranges)
}

fn range(timeline: u32, start: Lsn, end: Lsn) -> WalRange {
    WalRange {
        timeline,
        start,
        end,
    }
}

/// What is in all files.
fn files(disk: &MemoryDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = disk.files.borrow();
    let copies = files
        .iter()
        .map(|(path, f)| (path.clone(), f.borrow().clone()));
    copies.collect()
}

/// A disk with these files.
fn disk_with(files: &BTreeMap<PathBuf, Vec<u8>>) -> MemoryDisk {
    let disk = MemoryDisk::default();
    for (path, bytes) in files {
        let bytes = Rc::new(RefCell::new(bytes.clone()));
        disk.files.borrow_mut().insert(path.clone(), bytes);
    }
    disk
}

struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64) -> Random {
        Random(ChaCha8Rng::seed_from_u64(seed))
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u64() % end as u64).expect("below a usize")
    }
}
