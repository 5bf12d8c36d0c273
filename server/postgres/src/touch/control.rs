//! State of the whole cluster: counters, parameters, two-phase files, replication origins.
//!
//! The counters change with almost every record. The next transaction id is stored in steps, rounded up: ids that are
//! skipped by it count as never committed, as those of a crash do.

use std::collections::BTreeMap;

use engine::types::Lsn;

use super::{ClusterState, Out, put, remove};
use crate::control_file::{CHECKPOINT_BYTES, decode_checkpoint};
use crate::key::{CHUNK_BYTES, PostgresKey};
use crate::redo::{Fields, RedoError};
use crate::value::{CheckpointState, ClusterParameters, LatestEnd, ReplicationOrigin};
use crate::wal::{Record, WalVersion};

/// Counters, parameters and origins as of the last record.
#[derive(Debug, Default)]
pub(super) struct Control {
    checkpoint: CheckpointState,
    parameters: ClusterParameters,
    origins: BTreeMap<u16, ReplicationOrigin>,
    /// When the latest commit or abort was.
    latest_end: Option<i64>,
    /// How far apart the stored next transaction ids are; 1 stores every one.
    xid_step: u32,
    /// What is stored as the next transaction id.
    stored_next_xid: u64,
    /// Other counters changed since they were stored.
    is_changed: bool,
}

impl Control {
    pub(super) fn new(xid_step: u32) -> Control {
        Control {
            xid_step,
            ..Control::default()
        }
    }

    pub(super) fn load_checkpoint(&mut self, checkpoint: CheckpointState) {
        self.checkpoint = checkpoint;
        self.stored_next_xid = checkpoint.next_xid;
    }

    pub(super) fn load_parameters(&mut self, parameters: ClusterParameters) {
        self.parameters = parameters;
    }

    pub(super) fn load_origin(&mut self, origin: u16, value: ReplicationOrigin) {
        self.origins.insert(origin, value);
    }

    pub(super) fn load_latest_end(&mut self, value: LatestEnd) {
        self.latest_end = Some(value.time);
    }

    /// A transaction ended: what it did is seen from the record's end on.
    pub(super) fn see_end(&mut self, record: &Record<'_>, time: i64, out: Out<'_>) {
        if self.latest_end.is_none_or(|latest| time > latest) {
            self.latest_end = Some(time);
            let begins_at = record.start;
            let value = LatestEnd { time, begins_at };
            put(PostgresKey::LatestEnd, &value.encode(), out);
        }
    }

    /// The counters as of the last record.
    pub(super) fn checkpoint(&self) -> &CheckpointState {
        &self.checkpoint
    }

    pub(super) fn parameters(&self) -> &ClusterParameters {
        &self.parameters
    }

    pub(super) fn keeps_commit_timestamps(&self) -> bool {
        self.parameters.track_commit_timestamp
    }

    /// A transaction id was used: the next one is above it.
    pub(super) fn see_xid(&mut self, xid: u32) {
        let next = low_half(self.checkpoint.next_xid);
        if xid < FIRST_NORMAL_XID || precedes(xid, next) {
            return;
        }
        let after = xid.wrapping_add(1).max(FIRST_NORMAL_XID);
        let mut epoch = self.checkpoint.next_xid >> 32;
        if after < next {
            epoch += 1;
        }
        self.checkpoint.next_xid = epoch << 32 | u64::from(after);
    }

    /// A transaction id with the epoch it has as one of the last ones.
    fn with_epoch(&self, xid: u32) -> u64 {
        let epoch = self.checkpoint.next_xid >> 32;
        let epoch = if xid > low_half(self.checkpoint.next_xid) {
            epoch.saturating_sub(1)
        } else {
            epoch
        };
        epoch << 32 | u64::from(xid)
    }

    /// A multixact was used.
    pub(super) fn see_multixact(&mut self, next: u32, next_offset: u32) {
        let checkpoint = &mut self.checkpoint;
        if precedes(checkpoint.next_multixact, next) {
            checkpoint.next_multixact = next;
            self.is_changed = true;
        }
        if precedes(checkpoint.next_multixact_offset, next_offset) {
            checkpoint.next_multixact_offset = next_offset;
            self.is_changed = true;
        }
    }

    pub(super) fn cut_multixacts(&mut self, oldest: u32, database: u32) {
        self.checkpoint.oldest_multixact = oldest;
        self.checkpoint.oldest_multixact_database = database;
        self.is_changed = true;
    }

    /// A commit's time was kept.
    pub(super) fn see_commit_timestamp(&mut self, xid: u32) {
        let newest = &mut self.checkpoint.newest_commit_timestamp_xid;
        if *newest == 0 || precedes(*newest, xid) {
            *newest = xid;
        }
    }

    /// The times of older commits are forgotten: as a record of it says, or a checkpoint. (A server writes such a record
    /// only if a segment goes with it, and otherwise moves its oldest in memory alone.)
    pub(super) fn cut_commit_timestamps(&mut self, oldest: u32) {
        let known = &mut self.checkpoint.oldest_commit_timestamp_xid;
        if *known != 0 && precedes(*known, oldest) {
            *known = oldest;
            self.is_changed = true;
        }
    }

    /// How far a subscription has come; only `backward` goes back.
    pub(super) fn advance_origin(
        &mut self,
        origin: u16,
        remote_lsn: Lsn,
        local_lsn: Lsn,
        backward: bool,
        out: Out<'_>,
    ) {
        if origin == NO_ORIGIN || origin == NOT_REPLICATED {
            return;
        }
        let known = self.origins.entry(origin).or_default();
        if backward || known.remote_lsn < remote_lsn {
            known.remote_lsn = remote_lsn;
        }
        if backward || known.local_lsn < local_lsn {
            known.local_lsn = local_lsn;
        }
        let key = PostgresKey::ReplicationOrigin { origin };
        put(key, &known.encode(), out);
    }

    /// Number of a two-phase file: with the epoch from 17 on.
    fn two_phase_number(&self, version: WalVersion, xid: u32) -> u64 {
        if version >= WalVersion::V17 {
            self.with_epoch(xid)
        } else {
            u64::from(xid)
        }
    }

    /// A transaction was prepared: its file is the record's main data and a CRC-32C of it.
    pub(super) fn prepare(&mut self, record: &Record<'_>, xid: u32, out: Out<'_>) {
        self.see_xid(xid);
        let xid = self.two_phase_number(record.version, xid);
        let mut file = record.main.to_vec();
        file.extend(crc32c::crc32c(record.main).to_le_bytes());
        let mut chunks = file.chunks(CHUNK_BYTES);
        // The last chunk is a shorter one, if need be an empty one.
        for chunk in 0..=file.len() / CHUNK_BYTES {
            let chunk = u32::try_from(chunk).expect("a record has less than 2 GiB");
            let key = PostgresKey::TwoPhase { xid, chunk };
            put(key, chunks.next().unwrap_or(&[]), out);
        }
    }

    /// A prepared transaction ended.
    pub(super) fn finish_prepared(&mut self, version: WalVersion, xid: u32, out: Out<'_>) {
        let xid = self.two_phase_number(version, xid);
        remove(PostgresKey::TwoPhase { xid, chunk: 0 }, out);
    }

    /// Stores the counters if they moved.
    pub(super) fn put(&mut self, out: Out<'_>) {
        let next_xid = self.checkpoint.next_xid;
        if !self.is_changed && next_xid <= self.stored_next_xid {
            return;
        }
        self.is_changed = false;
        if next_xid > self.stored_next_xid {
            let rounded = next_xid.next_multiple_of(u64::from(self.xid_step.max(1)));
            // Around the end of 32 bits the lowest ids are none.
            let skipped = u64::from(FIRST_NORMAL_XID.saturating_sub(low_half(rounded)));
            self.stored_next_xid = rounded + skipped;
        }
        let stored = CheckpointState {
            next_xid: self.stored_next_xid,
            ..self.checkpoint
        };
        put(PostgresKey::CheckpointState, &stored.encode(), out);
    }

    /// Takes over what a checkpoint says.
    fn see_checkpoint(&mut self, found: &CheckpointState, is_shutdown: bool) {
        let known = &mut self.checkpoint;
        known.redo = found.redo;
        known.timeline = found.timeline;
        known.previous_timeline = found.previous_timeline;
        known.time = found.time;
        known.oldest_active_xid = found.oldest_active_xid;
        known.full_page_writes = found.full_page_writes;
        known.next_xid = known.next_xid.max(found.next_xid);
        if is_shutdown {
            known.next_oid = found.next_oid;
            known.next_multixact = found.next_multixact;
            known.next_multixact_offset = found.next_multixact_offset;
        } else {
            if precedes(known.next_multixact, found.next_multixact) {
                known.next_multixact = found.next_multixact;
            }
            if precedes(known.next_multixact_offset, found.next_multixact_offset) {
                known.next_multixact_offset = found.next_multixact_offset;
            }
        }
        if is_shutdown || precedes(known.oldest_xid, found.oldest_xid) {
            known.oldest_xid = found.oldest_xid;
            known.oldest_xid_database = found.oldest_xid_database;
        }
        if precedes(known.oldest_multixact, found.oldest_multixact) {
            known.oldest_multixact = found.oldest_multixact;
            known.oldest_multixact_database = found.oldest_multixact_database;
        }
        if found.oldest_commit_timestamp_xid != 0 {
            self.cut_commit_timestamps(found.oldest_commit_timestamp_xid);
        }
        self.is_changed = true;
    }
}

/// Records of the WAL itself: checkpoints, counters, parameters. Images are blocks.
pub(super) fn xlog(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", record.main);
    let control = &mut state.control;
    match record.operation() {
        operation @ (CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE) => {
            let found = decode_checkpoint(&main.array::<CHECKPOINT_BYTES>()?);
            control.see_checkpoint(&found, operation == CHECKPOINT_SHUTDOWN);
        }
        NEXT_OID => {
            control.checkpoint.next_oid = main.u32()?;
            control.is_changed = true;
        }
        FULL_PAGE_WRITES => {
            control.checkpoint.full_page_writes = u8::from(main.u8()? != 0);
            control.is_changed = true;
        }
        END_OF_RECOVERY => {
            main.u64()?; // its time
            control.checkpoint.timeline = main.u32()?;
            control.checkpoint.previous_timeline = main.u32()?;
            control.is_changed = true;
        }
        PARAMETER_CHANGE => {
            let parameters = ClusterParameters {
                max_connections: main.u32()?,
                max_worker_processes: main.u32()?,
                max_wal_senders: main.u32()?,
                max_prepared_transactions: main.u32()?,
                max_locks_per_transaction: main.u32()?,
                wal_level: main.u32()?,
                wal_log_hints: main.u8()? != 0,
                track_commit_timestamp: main.u8()? != 0,
            };
            let kept = control.parameters.track_commit_timestamp;
            control.parameters = parameters;
            put(PostgresKey::ClusterParameters, &parameters.encode(), out);
            let checkpoint = &mut control.checkpoint;
            let keeps = parameters.track_commit_timestamp;
            if keeps && !kept {
                let next = low_half(checkpoint.next_xid);
                if checkpoint.oldest_commit_timestamp_xid == 0 {
                    checkpoint.oldest_commit_timestamp_xid = next;
                    checkpoint.newest_commit_timestamp_xid = next;
                }
                state.slrus.begin_commit_timestamps(next, out);
            } else if kept && !keeps {
                checkpoint.oldest_commit_timestamp_xid = 0;
                checkpoint.newest_commit_timestamp_xid = 0;
                state.slrus.remove_commit_timestamps(out);
            }
            control.is_changed |= keeps != kept;
            state.hint_bits_logged = state.has_data_checksums || parameters.wal_log_hints;
        }
        NO_OP | SWITCH | BACKUP_END | RESTORE_POINT | IMAGE_FOR_HINT | IMAGE | OVERWRITE
        | CHECKPOINT_REDO => {}
        operation => return Err(RedoError::Operation(operation)),
    }
    Ok(())
}

/// Records for standbys: of all of it only the oldest running transaction is kept.
pub(super) fn standby(record: &Record<'_>, state: &mut ClusterState) -> Result<(), RedoError> {
    match record.operation() {
        RUNNING => {
            let mut main = Fields::new("main data", record.main);
            main.take(RUNNING_NEXT_XID_AT)?;
            let (next, oldest) = (main.u32()?, main.u32()?);
            let control = &mut state.control;
            control.see_xid(next.wrapping_sub(1));
            if control.checkpoint.oldest_active_xid != oldest {
                control.checkpoint.oldest_active_xid = oldest;
                control.is_changed = true;
            }
            Ok(())
        }
        LOCK | INVALIDATIONS => Ok(()),
        operation => Err(RedoError::Operation(operation)),
    }
}

/// Records of replication origins: 0x00 set: remote LSN (8), origin (2), whether it may go back (1); 0x10 drop: origin.
pub(super) fn replication_origin(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", record.main);
    match record.operation() {
        ORIGIN_SET => {
            let remote_lsn = Lsn(main.u64()?);
            let origin = main.u16()?;
            let backward = main.u8()? != 0;
            let control = &mut state.control;
            control.advance_origin(origin, remote_lsn, record.end, backward, out);
            Ok(())
        }
        ORIGIN_DROP => {
            let origin = main.u16()?;
            state.control.origins.remove(&origin);
            remove(PostgresKey::ReplicationOrigin { origin }, out);
            Ok(())
        }
        operation => Err(RedoError::Operation(operation)),
    }
}

fn low_half(xid: u64) -> u32 {
    u32::try_from(xid & u64::from(u32::MAX)).expect("masked")
}

/// Whether `a` comes before `b`, where numbers go around after 32 bits.
fn precedes(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

const FIRST_NORMAL_XID: u32 = 3;
const NO_ORIGIN: u16 = 0;
/// Changes that are not to be replicated further.
const NOT_REPLICATED: u16 = u16::MAX;

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const NO_OP: u8 = 0x20;
const NEXT_OID: u8 = 0x30;
const SWITCH: u8 = 0x40;
const BACKUP_END: u8 = 0x50;
const PARAMETER_CHANGE: u8 = 0x60;
const RESTORE_POINT: u8 = 0x70;
const FULL_PAGE_WRITES: u8 = 0x80;
const END_OF_RECOVERY: u8 = 0x90;
const IMAGE_FOR_HINT: u8 = 0xa0;
const IMAGE: u8 = 0xb0;
const OVERWRITE: u8 = 0xd0;
const CHECKPOINT_REDO: u8 = 0xe0;

const LOCK: u8 = 0x00;
const RUNNING: u8 = 0x10;
const INVALIDATIONS: u8 = 0x20;
/// Behind two counts and whether not all subtransactions are listed.
const RUNNING_NEXT_XID_AT: usize = 12;

const ORIGIN_SET: u8 = 0x00;
const ORIGIN_DROP: u8 = 0x10;
