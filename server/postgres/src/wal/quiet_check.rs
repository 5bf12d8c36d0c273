//! Whether the WAL of a backup, from its start to its stop, changes anything.
//!
//! A base backup is torn until the WAL from its start to its stop is replayed. As long as nothing replays WAL, only a
//! backup during which nothing happened is whole as it is. This is the judge of that, and it is a list of what is
//! known to be harmless; everything else counts as a change:
//!
//! - checkpoints (they write out what was logged before; the backup's own is the first record) and the marker of
//!   where redo begins, from 17 on;
//! - running transactions (they are for hot standbys). Transactions that are listed changed pages before the start, and
//!   the start's checkpoint wrote those out; at the stop they count as never committed, as they should;
//! - the end of a backup, segment switches, restore points, no-ops, and full page writes switched on or off.
//!
//! And any record with a transaction id is a change, whatever it is: the id was taken within the stretch, so the next
//! id moved. Commits and aborts always have one and set bits in the clog. A transaction that took no id logs no
//! commit.
//!
//! A page can differ without WAL: hint bits, where neither checksums nor `wal_log_hints` are on. Each of them is
//! one bit which says what the clog says as well; a page with some of them and not others is as right as either. With
//! checksums the first hint on a page after a checkpoint is logged as an image, and that is a change.

use std::fmt;

use engine::types::Lsn;

use super::manager::ResourceManager;
use super::record::Record;
use crate::bytes_at::u64_at;
use crate::key::BlockTag;

/// Where the stretch ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    /// With the record that ends the backup which started here.
    BackupEnd { start: Lsn },
    /// With the shutdown checkpoint at this position: the first record.
    ShutdownCheckpoint { at: Lsn },
}

/// Judges one record after the other.
#[derive(Debug)]
pub struct QuietCheck {
    until: Until,
}

/// The first record that changes something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Position of the record.
    pub lsn: Lsn,
    /// Whose record it is.
    pub manager: ResourceManager,
    /// Which of the resource manager's operations.
    pub operation: u8,
    /// The first block it touches, if it names one.
    pub block: Option<BlockTag>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} record ", self.manager)?;
        let known = XLOG_NAMES
            .iter()
            .find(|(operation, _)| *operation == self.operation);
        match known {
            Some((_, name)) if self.manager == ResourceManager::XLOG => f.write_str(name)?,
            _ => write!(f, "{:#04x}", self.operation)?,
        }
        write!(f, " at {}", self.lsn)?;
        if let Some(block) = self.block {
            write!(f, ", {block}")?;
        }
        Ok(())
    }
}

impl QuietCheck {
    /// For a backup of a running cluster that started at `start`.
    pub fn of_backup(start: Lsn) -> QuietCheck {
        QuietCheck {
            until: Until::BackupEnd { start },
        }
    }

    /// For a cluster that was shut down with its last checkpoint `at`.
    pub fn of_shutdown(at: Lsn) -> QuietCheck {
        QuietCheck {
            until: Until::ShutdownCheckpoint { at },
        }
    }

    /// Judges the next record; answers the stop LSN (behind the record) if it is the last one.
    /// # Errors
    /// The record changes something.
    pub fn observe(&self, record: &Record<'_>) -> Result<Option<Lsn>, Change> {
        if !is_harmless(record) {
            return Err(Change {
                lsn: record.start,
                manager: record.manager,
                operation: record.operation(),
                block: record.blocks().next().map(|block| block.tag),
            });
        }
        let is_xlog = record.manager == ResourceManager::XLOG;
        let is_last = match self.until {
            Until::BackupEnd { start } => {
                let of = u64_at(record.main, 0);
                is_xlog && record.operation() == BACKUP_END && of == Some(start.0)
            }
            Until::ShutdownCheckpoint { at } => {
                is_xlog && record.operation() == CHECKPOINT_SHUTDOWN && record.start == at
            }
        };
        Ok(is_last.then_some(record.end))
    }
}

fn is_harmless(record: &Record<'_>) -> bool {
    record.xid == 0
        && match record.manager {
            ResourceManager::XLOG => XLOG_HARMLESS.contains(&record.operation()),
            ResourceManager::STANDBY => record.operation() == RUNNING_TRANSACTIONS,
            _ => false,
        }
}

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const BACKUP_END: u8 = 0x50;
const RUNNING_TRANSACTIONS: u8 = 0x10;

const XLOG_HARMLESS: [u8; 8] = [
    CHECKPOINT_SHUTDOWN,
    0x10, // online checkpoint
    0x20, // no-op
    0x40, // segment switch
    BACKUP_END,
    0x70, // restore point
    0x80, // full page writes switched
    0xe0, // redo of a checkpoint begins here (17 and later)
];

/// What the refused ones are called.
const XLOG_NAMES: [(u8, &str); 6] = [
    (0x30, "next oid"),
    (0x60, "parameter change"),
    (0x90, "end of recovery"),
    (0xa0, "page image for a hint bit"),
    (0xb0, "page image"),
    (0xd0, "overwrite of an unfinished record"),
];

#[cfg(test)]
mod tests;
