//! Records of transactions: commits, aborts, what they drop, and what was prepared.
//!
//! Commit and abort: time (8); if info has 0x80: what follows (4), as bits: 1 database and tablespace (8),
//! 2 subtransactions (count 4, 4 each), 4 relations to drop (count 4, 12 each), 0x100 dropped statistics (count 4, 16
//! each from 18 on, else 12), 8 invalidations (count 4, 16 each), 0x10 prepared transaction (4), 0x80 its name (to a
//! zero byte), 0x20 origin (LSN 8, time 8). Abort has no invalidations.

use engine::types::Lsn;

use super::{ClusterState, Out, storage};
use crate::key::Relation;
use crate::redo::{Fields, RedoError};
use crate::wal::{Record, WalVersion};

pub(super) fn transaction(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    match record.info & OPERATION_MASK {
        operation @ (COMMIT | COMMIT_PREPARED | ABORT | ABORT_PREPARED) => {
            let is_commit = matches!(operation, COMMIT | COMMIT_PREPARED);
            let end = End::read(record, is_commit)?;
            let is_prepared = matches!(operation, COMMIT_PREPARED | ABORT_PREPARED);
            let xid = match (is_prepared, end.prepared) {
                (true, Some(xid)) => xid,
                (true, None) => {
                    return Err(RedoError::Record {
                        what: "no prepared transaction but flags",
                        value: end.parts.into(),
                    });
                }
                (false, _) => record.xid,
            };
            ended(record, &end, xid, is_commit, state, out)?;
            state.control.see_end(record, end.time.cast_signed(), out);
            if is_prepared {
                state.control.finish_prepared(record.version, xid, out);
            }
        }
        PREPARE => {
            let mut main = Fields::new("main data", record.main);
            main.take(PREPARED_XID_AT)?;
            let xid = main.u32()?;
            state.control.prepare(record, xid, out);
        }
        ASSIGNMENT | INVALIDATIONS => {}
        operation => return Err(RedoError::Operation(operation)),
    }
    Ok(())
}

/// What a commit or abort does.
fn ended(
    record: &Record<'_>,
    end: &End<'_>,
    xid: u32,
    is_commit: bool,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let subtransactions = || words(end.subtransactions);
    state.control.see_xid(xid);
    for xid in subtransactions() {
        state.control.see_xid(xid);
    }
    let xids = || std::iter::once(xid).chain(subtransactions());
    let status = if is_commit { COMMITTED } else { ABORTED };
    state.slrus.set_status(xids(), status, out);
    if is_commit && state.control.keeps_commit_timestamps() {
        let time = match end.origin {
            Some((_, time)) => time,
            None => end.time,
        };
        state
            .slrus
            .set_commit_timestamps(xids(), time, record.origin, out);
        let newest = words(end.subtransactions).last().unwrap_or(xid);
        state.control.see_commit_timestamp(newest);
    }
    if let Some((remote, _)) = end.origin {
        state
            .control
            .advance_origin(record.origin, remote, record.end, false, out);
    }
    for relation in end.relations.chunks_exact(RELATION_BYTES) {
        let relation = storage::relation(&mut Fields::new("relation", relation))?;
        state.forks.drop_relation(relation, out);
    }
    Ok(())
}

/// The parts of a commit or abort that matter.
struct End<'a> {
    time: u64,
    parts: u32,
    subtransactions: &'a [u8],
    relations: &'a [u8],
    prepared: Option<u32>,
    /// LSN and time at the origin.
    origin: Option<(Lsn, u64)>,
}

impl<'a> End<'a> {
    fn read(record: &Record<'a>, is_commit: bool) -> Result<End<'a>, RedoError> {
        let mut main = Fields::new("main data", record.main);
        let mut end = End {
            time: main.u64()?,
            parts: 0,
            subtransactions: &[],
            relations: &[],
            prepared: None,
            origin: None,
        };
        if record.info & HAS_PARTS != 0 {
            end.parts = main.u32()?;
        }
        let has = |part| end.parts & part != 0;
        if has(HAS_DATABASE) {
            main.take(8)?;
        }
        if has(HAS_SUBTRANSACTIONS) {
            end.subtransactions = list(&mut main, 4)?;
        }
        if has(HAS_RELATIONS) {
            end.relations = list(&mut main, RELATION_BYTES)?;
        }
        if has(HAS_DROPPED_STATISTICS) {
            let bytes = if record.version >= WalVersion::V18 {
                16
            } else {
                12
            };
            list(&mut main, bytes)?;
        }
        if is_commit && has(HAS_INVALIDATIONS) {
            list(&mut main, INVALIDATION_BYTES)?;
        }
        if has(HAS_PREPARED) {
            end.prepared = Some(main.u32()?);
            if has(HAS_NAME) {
                while main.u8()? != 0 {}
            }
        }
        if has(HAS_ORIGIN) {
            end.origin = Some((Lsn(main.u64()?), main.u64()?));
        }
        Ok(end)
    }
}

/// A count, and as many entries.
fn list<'a>(fields: &mut Fields<'a>, entry_bytes: usize) -> Result<&'a [u8], RedoError> {
    let count = fields.u32()?;
    let bytes = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(entry_bytes))
        .ok_or(RedoError::Record {
            what: "count",
            value: count.into(),
        })?;
    fields.take(bytes)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

const OPERATION_MASK: u8 = 0x70;
const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const ASSIGNMENT: u8 = 0x50;
const INVALIDATIONS: u8 = 0x60;
const HAS_PARTS: u8 = 0x80;

const HAS_DATABASE: u32 = 1;
const HAS_SUBTRANSACTIONS: u32 = 2;
const HAS_RELATIONS: u32 = 4;
const HAS_INVALIDATIONS: u32 = 8;
const HAS_PREPARED: u32 = 0x10;
const HAS_ORIGIN: u32 = 0x20;
const HAS_NAME: u32 = 0x80;
const HAS_DROPPED_STATISTICS: u32 = 0x100;

const RELATION_BYTES: usize = 12;
const _: () = assert!(RELATION_BYTES == size_of::<Relation>());
const INVALIDATION_BYTES: usize = 16;
/// Behind magic and length.
const PREPARED_XID_AT: usize = 8;

const COMMITTED: u8 = 1;
const ABORTED: u8 = 2;
