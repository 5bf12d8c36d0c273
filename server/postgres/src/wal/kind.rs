//! Which kinds of records the built-in resource managers of 15 to 18 write, named as `pg_waldump` names them, and
//! what can prove that redo of each is right.
//!
//! One row per kind. A kind that a version does not have is not in [`RecordKind::all`] of that version, and a record of
//! a kind that has no row is unknown: its pages cannot be replayed.

use std::fmt;

use super::manager::ResourceManager;
use super::version::WalVersion;

/// What shows that a kind of record is replayed as Postgres does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Proof {
    /// Its blocks are registered as deltas: with `wal_consistency_checking` each record carries the page after it.
    Image,
    /// Postgres always logs its blocks whole: what it restores is what is logged.
    WholePages,
    /// It changes what no image shows (or nothing): the files of a standby that replayed it.
    Standby,
}

/// A kind of record: one row of the table below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RecordKind {
    /// Number of the resource manager.
    pub manager: u8,
    /// Which of its operations: `info` without what does not tell kinds apart.
    pub code: u8,
    /// As `pg_waldump` prints it.
    pub name: &'static str,
    /// What can prove its redo.
    pub proof: Proof,
    first: WalVersion,
    last: WalVersion,
}

impl RecordKind {
    /// The kind of a record; `None` if this version's built-in managers have no such kind.
    pub fn of(
        version: WalVersion,
        manager: ResourceManager,
        info: u8,
    ) -> Option<&'static RecordKind> {
        let code = info & if manager.0 == TRANSACTION { 0x70 } else { 0xf0 };
        // The table is in the order of managers and codes, save that two versions may share a code.
        let from = KINDS.partition_point(|kind| (kind.manager, kind.code) < (manager.0, code));
        KINDS[from..]
            .iter()
            .take_while(|kind| (kind.manager, kind.code) == (manager.0, code))
            .find(|kind| kind.is_of(version))
    }

    /// All kinds of a version, by manager and code.
    pub fn all(version: WalVersion) -> impl Iterator<Item = &'static RecordKind> {
        KINDS.iter().filter(move |kind| kind.is_of(version))
    }

    /// Its resource manager.
    pub fn resource_manager(&self) -> ResourceManager {
        ResourceManager(self.manager)
    }

    fn is_of(&self, version: WalVersion) -> bool {
        self.first <= version && version <= self.last
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource_manager(), self.name)
    }
}

const TRANSACTION: u8 = 1;

const fn kind(manager: u8, code: u8, name: &'static str, proof: Proof) -> RecordKind {
    between(manager, code, name, proof, V15, V18)
}

const fn between(
    manager: u8,
    code: u8,
    name: &'static str,
    proof: Proof,
    first: WalVersion,
    last: WalVersion,
) -> RecordKind {
    RecordKind {
        manager,
        code,
        name,
        proof,
        first,
        last,
    }
}

use Proof::{Image, Standby, WholePages};
use WalVersion::{V15, V16, V17, V18};

#[rustfmt::skip]
static KINDS: &[RecordKind] = &[
    // XLOG
    kind(0, 0x00, "CHECKPOINT_SHUTDOWN", Standby),
    kind(0, 0x10, "CHECKPOINT_ONLINE", Standby),
    kind(0, 0x20, "NOOP", Standby),
    kind(0, 0x30, "NEXTOID", Standby),
    kind(0, 0x40, "SWITCH", Standby),
    kind(0, 0x50, "BACKUP_END", Standby),
    kind(0, 0x60, "PARAMETER_CHANGE", Standby),
    kind(0, 0x70, "RESTORE_POINT", Standby),
    kind(0, 0x80, "FPW_CHANGE", Standby),
    kind(0, 0x90, "END_OF_RECOVERY", Standby),
    kind(0, 0xa0, "FPI_FOR_HINT", WholePages),
    kind(0, 0xb0, "FPI", WholePages),
    kind(0, 0xd0, "OVERWRITE_CONTRECORD", Standby),
    between(0, 0xe0, "CHECKPOINT_REDO", Standby, V17, V18),
    // Transaction
    kind(1, 0x00, "COMMIT", Standby),
    kind(1, 0x10, "PREPARE", Standby),
    kind(1, 0x20, "ABORT", Standby),
    kind(1, 0x30, "COMMIT_PREPARED", Standby),
    kind(1, 0x40, "ABORT_PREPARED", Standby),
    kind(1, 0x50, "ASSIGNMENT", Standby),
    kind(1, 0x60, "INVALIDATION", Standby),
    // Storage
    kind(2, 0x10, "CREATE", Standby),
    kind(2, 0x20, "TRUNCATE", Standby),
    // CLOG
    kind(3, 0x00, "ZEROPAGE", Standby),
    kind(3, 0x10, "TRUNCATE", Standby),
    // Database
    kind(4, 0x00, "CREATE_FILE_COPY", Standby),
    kind(4, 0x10, "CREATE_WAL_LOG", Standby),
    kind(4, 0x20, "DROP", Standby),
    // Tablespace
    kind(5, 0x00, "CREATE", Standby),
    kind(5, 0x10, "DROP", Standby),
    // MultiXact
    kind(6, 0x00, "ZERO_OFF_PAGE", Standby),
    kind(6, 0x10, "ZERO_MEM_PAGE", Standby),
    kind(6, 0x20, "CREATE_ID", Standby),
    kind(6, 0x30, "TRUNCATE_ID", Standby),
    // RelMap
    kind(7, 0x00, "UPDATE", Standby),
    // Standby
    kind(8, 0x00, "LOCK", Standby),
    kind(8, 0x10, "RUNNING_XACTS", Standby),
    kind(8, 0x20, "INVALIDATIONS", Standby),
    // Heap2
    kind(9, 0x00, "REWRITE", Standby),
    between(9, 0x10, "PRUNE", Image, V15, V16),
    between(9, 0x10, "PRUNE_ON_ACCESS", Image, V17, V18),
    between(9, 0x20, "VACUUM", Image, V15, V16),
    between(9, 0x20, "PRUNE_VACUUM_SCAN", Image, V17, V18),
    between(9, 0x30, "FREEZE_PAGE", Image, V15, V16),
    between(9, 0x30, "PRUNE_VACUUM_CLEANUP", Image, V17, V18),
    kind(9, 0x40, "VISIBLE", Image),
    kind(9, 0x50, "MULTI_INSERT", Image),
    kind(9, 0x60, "LOCK_UPDATED", Image),
    kind(9, 0x70, "NEW_CID", Standby),
    kind(9, 0xd0, "MULTI_INSERT+INIT", Image),
    // Heap
    kind(10, 0x00, "INSERT", Image),
    kind(10, 0x10, "DELETE", Image),
    kind(10, 0x20, "UPDATE", Image),
    kind(10, 0x30, "TRUNCATE", Standby),
    kind(10, 0x40, "HOT_UPDATE", Image),
    kind(10, 0x50, "HEAP_CONFIRM", Image),
    kind(10, 0x60, "LOCK", Image),
    kind(10, 0x70, "INPLACE", Image),
    kind(10, 0x80, "INSERT+INIT", Image),
    kind(10, 0xa0, "UPDATE+INIT", Image),
    kind(10, 0xc0, "HOT_UPDATE+INIT", Image),
    // Btree
    kind(11, 0x00, "INSERT_LEAF", Image),
    kind(11, 0x10, "INSERT_UPPER", Image),
    kind(11, 0x20, "INSERT_META", Image),
    kind(11, 0x30, "SPLIT_L", Image),
    kind(11, 0x40, "SPLIT_R", Image),
    kind(11, 0x50, "INSERT_POST", Image),
    kind(11, 0x60, "DEDUP", Image),
    kind(11, 0x70, "DELETE", Image),
    kind(11, 0x80, "UNLINK_PAGE", Image),
    kind(11, 0x90, "UNLINK_PAGE_META", Image),
    kind(11, 0xa0, "NEWROOT", Image),
    kind(11, 0xb0, "MARK_PAGE_HALFDEAD", Image),
    kind(11, 0xc0, "VACUUM", Image),
    kind(11, 0xd0, "REUSE_PAGE", Standby),
    kind(11, 0xe0, "META_CLEANUP", Image),
    // Hash
    kind(12, 0x00, "INIT_META_PAGE", Image),
    kind(12, 0x10, "INIT_BITMAP_PAGE", Image),
    kind(12, 0x20, "INSERT", Image),
    kind(12, 0x30, "ADD_OVFL_PAGE", Image),
    kind(12, 0x40, "SPLIT_ALLOCATE_PAGE", Image),
    kind(12, 0x50, "SPLIT_PAGE", WholePages),
    kind(12, 0x60, "SPLIT_COMPLETE", Image),
    kind(12, 0x70, "MOVE_PAGE_CONTENTS", Image),
    kind(12, 0x80, "SQUEEZE_PAGE", Image),
    kind(12, 0x90, "DELETE", Image),
    kind(12, 0xa0, "SPLIT_CLEANUP", Image),
    kind(12, 0xb0, "UPDATE_META_PAGE", Image),
    kind(12, 0xc0, "VACUUM_ONE_PAGE", Image),
    // Gin
    kind(13, 0x10, "CREATE_PTREE", Image),
    kind(13, 0x20, "INSERT", Image),
    kind(13, 0x30, "SPLIT", WholePages),
    kind(13, 0x40, "VACUUM_PAGE", WholePages),
    kind(13, 0x50, "DELETE_PAGE", Image),
    kind(13, 0x60, "UPDATE_META_PAGE", Image),
    kind(13, 0x70, "INSERT_LISTPAGE", Image),
    kind(13, 0x80, "DELETE_LISTPAGE", Image),
    kind(13, 0x90, "VACUUM_DATA_LEAF_PAGE", Image),
    // Gist
    kind(14, 0x00, "PAGE_UPDATE", Image),
    kind(14, 0x10, "DELETE", Image),
    kind(14, 0x20, "PAGE_REUSE", Standby),
    kind(14, 0x30, "PAGE_SPLIT", Image),
    kind(14, 0x60, "PAGE_DELETE", Image),
    kind(14, 0x70, "ASSIGN_LSN", Standby),
    // Sequence
    kind(15, 0x00, "LOG", Image),
    // SPGist
    kind(16, 0x10, "ADD_LEAF", Image),
    kind(16, 0x20, "MOVE_LEAFS", Image),
    kind(16, 0x30, "ADD_NODE", Image),
    kind(16, 0x40, "SPLIT_TUPLE", Image),
    kind(16, 0x50, "PICKSPLIT", Image),
    kind(16, 0x60, "VACUUM_LEAF", Image),
    kind(16, 0x70, "VACUUM_ROOT", Image),
    kind(16, 0x80, "VACUUM_REDIRECT", Image),
    // BRIN
    kind(17, 0x00, "CREATE_INDEX", Image),
    kind(17, 0x10, "INSERT", Image),
    kind(17, 0x20, "UPDATE", Image),
    kind(17, 0x30, "SAMEPAGE_UPDATE", Image),
    kind(17, 0x40, "REVMAP_EXTEND", Image),
    kind(17, 0x50, "DESUMMARIZE", Image),
    kind(17, 0x90, "INSERT+INIT", Image),
    kind(17, 0xa0, "UPDATE+INIT", Image),
    // CommitTs
    kind(18, 0x00, "ZEROPAGE", Standby),
    kind(18, 0x10, "TRUNCATE", Standby),
    // ReplicationOrigin
    kind(19, 0x00, "SET", Standby),
    kind(19, 0x10, "DROP", Standby),
    // Generic
    kind(20, 0x00, "Generic", Image),
    // LogicalMessage
    kind(21, 0x00, "MESSAGE", Standby),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_no_kind_twice() {
        for pair in KINDS.windows(2) {
            let [a, b] = pair else {
                unreachable!("windows of two")
            };
            assert!(
                (a.manager, a.code, a.first) < (b.manager, b.code, b.first),
                "{a} {b}"
            );
            let is_other_version = a.last < b.first;
            assert!(
                (a.manager, a.code) != (b.manager, b.code) || is_other_version,
                "{a} {b}"
            );
        }
    }

    #[test]
    fn versions_name_the_same_code_differently() {
        let heap2 = ResourceManager(9);
        let name = |version, info| RecordKind::of(version, heap2, info).map(|kind| kind.name);
        assert_eq!(name(V16, 0x11), Some("PRUNE"));
        assert_eq!(name(V17, 0x10), Some("PRUNE_ON_ACCESS"));
        assert_eq!(name(V15, 0xd0), Some("MULTI_INSERT+INIT"));
        assert_eq!(name(V15, 0xe0), None);
        let commit = RecordKind::of(V18, ResourceManager(1), 0x80).expect("a commit with more");
        assert_eq!(commit.to_string(), "Transaction COMMIT");
        assert_eq!(RecordKind::of(V16, ResourceManager(0), 0xe0), None);
        assert_eq!(RecordKind::of(V18, ResourceManager(128), 0), None);
    }
}
