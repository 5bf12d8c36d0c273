//! Counters of our replay against what checkpoints of the primary say: on the way, and in the files at the end.

use postgres::control_file::{CHECKPOINT_BYTES, decode_checkpoint};
use postgres::value::CheckpointState;
use postgres::wal::{Record, ResourceManager};

use super::{State, Theirs};
use harness::cluster_state::{Comparison, Part};

impl State {
    /// What a checkpoint of the primary says, which is what the records before it have to have told.
    pub(super) fn check_counters(&mut self, record: &Record<'_>) {
        if record.manager != ResourceManager::XLOG {
            return;
        }
        match record.operation() {
            NEXT_OID => self.next_oid_at = record.start,
            operation @ (CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE) => {
                let bytes = record.main.first_chunk::<CHECKPOINT_BYTES>();
                let found = decode_checkpoint(bytes.expect("a checkpoint"));
                let known = *self.cluster.checkpoint();
                let mut wrong = |what: String| self.failures.push((Part::Counters, what));
                let at = record.start;
                if known.full_page_writes != found.full_page_writes {
                    wrong(format!("full page writes at {at}: not as before"));
                }
                if operation == CHECKPOINT_SHUTDOWN {
                    return;
                }
                // Ids up to this one were set aside by the last record of it.
                if self.next_oid_at < found.redo && known.next_oid != found.next_oid {
                    wrong(format!(
                        "next oid at {at}: {} and {}",
                        known.next_oid, found.next_oid
                    ));
                }
                // The server listed what is running after it had begun the checkpoint.
                let (known, found) = (known.oldest_active_xid, found.oldest_active_xid);
                if known.wrapping_sub(found) > u32::MAX / 2 {
                    wrong(format!("oldest running at {at}: {known} before {found}"));
                }
            }
            _ => {}
        }
    }

    pub(super) fn compare_counters(&self, theirs: &Theirs, all: &mut Comparison) {
        // The standby's file tells of the last checkpoint before the stop.
        let last = &theirs.standby.checkpoint;
        let own = self.cluster.checkpoint();
        all.field("redo", own.redo, last.redo);
        all.field("time", own.time, last.time);
        all.field(
            "parameters",
            *self.cluster.parameters(),
            theirs.standby.parameters,
        );
        self.compare_end(&theirs.primary.checkpoint, all);
    }

    /// Where it stopped, a primary wrote the counters down.
    pub(super) fn compare_end(&self, end: &CheckpointState, all: &mut Comparison) {
        let CheckpointState {
            redo: _,
            time: _,
            timeline,
            previous_timeline,
            next_xid,
            next_oid,
            next_multixact,
            next_multixact_offset,
            oldest_xid,
            oldest_xid_database,
            oldest_multixact,
            oldest_multixact_database,
            oldest_commit_timestamp_xid,
            newest_commit_timestamp_xid,
            // Between checkpoints only the memory of a standby has it: compared at each of them.
            oldest_active_xid: _,
            full_page_writes,
        } = *self.cluster.checkpoint();
        all.field("timeline", timeline, end.timeline);
        all.field("the one before", previous_timeline, end.previous_timeline);
        all.field("next transaction", next_xid, end.next_xid);
        all.field("next multixact", next_multixact, end.next_multixact);
        all.field(
            "next offset",
            next_multixact_offset,
            end.next_multixact_offset,
        );
        all.field("oldest transaction", oldest_xid, end.oldest_xid);
        all.field("oldest multixact", oldest_multixact, end.oldest_multixact);
        // Of databases that are as old as each other the primary may come to name another, and says so only with the id.
        if oldest_xid != self.begun.oldest_xid {
            all.field("its database", oldest_xid_database, end.oldest_xid_database);
        }
        if oldest_multixact != self.begun.oldest_multixact {
            all.field(
                "its database",
                oldest_multixact_database,
                end.oldest_multixact_database,
            );
        }
        all.field(
            "commit timestamps",
            (oldest_commit_timestamp_xid, newest_commit_timestamp_xid),
            (
                end.oldest_commit_timestamp_xid,
                end.newest_commit_timestamp_xid,
            ),
        );
        all.field("full page writes", full_page_writes, end.full_page_writes);
        // The primary had not used up what it had set aside, which is what a standby knows.
        let unused = next_oid.checked_sub(end.next_oid);
        all.field(
            "next oid",
            unused.is_some_and(|unused| unused <= OIDS_AT_ONCE),
            true,
        );
    }
}

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const NEXT_OID: u8 = 0x30;
/// As many as a primary sets aside.
const OIDS_AT_ONCE: u32 = 8192;
