//! Manifest entries, versions 1 and 2: sealed records (see `crypto/sealed_record.rs`) named by their number, each under a
//! DEK of its own. Body: kind (u32), then the kind's fields:
//!
//! | kind | name     | fields                                                                     |
//! |-----:|----------|----------------------------------------------------------------------------|
//! |    1 | create   | name hash (16), key-space tag (8), parent (0, or 1 with branch and LSN), timelines (count; number (4), from, to) |
//! |    2 | claim    | epoch (4)                                                                  |
//! |    3 | edit     | epoch (4), last LSN, readable-from LSN (0: unchanged), base backup (0, or 1 with timeline (4), start, stop, WAL objects (8)), added sections (count; see `section.rs`), removed layers (count; object, object bytes (8), partitions (count; 2 each)) |
//! |    4 | snapshot | the root of the tree; see `snapshot.rs`                                    |
//! |    5 | start    | as create, with a parent; readable-from LSN                                |
//! |    6 | flush    | as edit, and behind it the WAL position: number of a piece (8), LSN        |
//! |    7 | snapshot of a branch with a WAL position | as snapshot, and behind it the WAL position |
//! |    8 | history  | epoch (4), kept history: from LSN, LSNs below it (count, ascending)        |
//! |    9 | snapshot of a branch that gave up history | as snapshot, WAL position (0, or 1 with it), kept history |
//!
//! LSNs have 8 bytes, counts and flags 4. Entry 0 is the branch's creation or start; entries with a number divisible by
//! [`ENTRIES_PER_SNAPSHOT`](super::ENTRIES_PER_SNAPSHOT) are snapshots, and no others are.
//!
//! A branch that begins by a creation is readable from the first edit that says so. One that begins by a start was
//! visible before it had a manifest (its name's record said the same, see `catalog/name_record.rs`) and is readable
//! at once: its last LSN is where it left its parent. Kinds 5 to 9 are written in version 2; what
//! has none of them can be read by programs that know version 1 only.
//!
//! A history entry is there before the first edit whose layers lack what it gives up. What was given up does not come back.

use std::collections::HashSet;

use super::codec::{Decoder, Encoder};
use super::section::{LayerSection, SECTION_BYTES, decode_partition};
use super::snapshot::SnapshotRoot;
use crate::crypto::page_seal::{BlockKind, FormatTag};
use crate::crypto::sealed_record::{RecordFormat, RecordProblem};
use crate::types::{BranchId, Lsn, ObjectId, Partition};

/// One step in the life of a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Create(Creation),
    Start(BranchStart),
    /// From here on only the writer of this epoch may add entries.
    Claim {
        epoch: u32,
    },
    Edit {
        /// The writer's.
        epoch: u32,
        edit: Edit,
    },
    Snapshot(SnapshotRoot),
    /// From here on layers may lack history.
    History {
        /// The writer's.
        epoch: u32,
        kept: KeptHistory,
    },
}

/// Which history of a branch is there still: what its own readers see, and what branches see that left it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeptHistory {
    /// Every LSN from here on,
    pub from: Lsn,
    /// and these ones below it, in ascending order; at most [`KEPT_LSNS_MAX`].
    pub at: Vec<Lsn>,
}

impl KeptHistory {
    /// Every LSN from `from` on, and those of `at` that lie below it. Where these are too many, all is kept from an earlier
    /// LSN on.
    pub fn new(from: Lsn, at: impl IntoIterator<Item = Lsn>) -> KeptHistory {
        let mut at: Vec<Lsn> = at.into_iter().filter(|lsn| *lsn < from).collect();
        at.sort_unstable();
        at.dedup();
        let from = match at.get(KEPT_LSNS_MAX) {
            Some(first_too_many) => *first_too_many,
            None => from,
        };
        at.truncate(KEPT_LSNS_MAX);
        KeptHistory { from, at }
    }

    /// Whether what was seen at `lsn` is there.
    pub fn has(&self, lsn: Lsn) -> bool {
        lsn >= self.from || self.at.binary_search(&lsn).is_ok()
    }

    /// Whether all that `later` has is there.
    pub(super) fn covers(&self, later: &KeptHistory) -> bool {
        self.from <= later.from && later.at.iter().all(|lsn| self.has(*lsn))
    }

    fn encode(&self, out: &mut Encoder) {
        assert!(
            self.at.len() <= KEPT_LSNS_MAX,
            "the root of a snapshot has room for {KEPT_LSNS_MAX} of them"
        );
        out.lsn(self.from).count(self.at.len());
        for lsn in &self.at {
            out.lsn(*lsn);
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<KeptHistory, RecordProblem> {
        let lsn = from.lsn()?;
        let count = from.count(size_of::<Lsn>())?;
        let at: Vec<Lsn> = (0..count).map(|_| from.lsn()).collect::<Result<_, _>>()?;
        let ascending = at.windows(2).all(|pair| pair[0] < pair[1]);
        let sound = lsn.is_valid()
            && ascending
            && at.len() <= KEPT_LSNS_MAX
            && at.iter().all(|at| *at < lsn);
        sound
            .then_some(KeptHistory { from: lsn, at })
            .ok_or(RecordProblem::Damaged("kept history"))
    }
}

/// What never changes about a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Creation {
    /// Keyed hash of the name it was begun under.
    pub name_hash: [u8; 16],
    /// Which key layout its keys have: the opener's business, compared at open.
    pub key_space: [u8; 8],
    /// Where it left another branch, if it did.
    pub parent: Option<(BranchId, Lsn)>,
    /// The Postgres timelines that make up its history, oldest first; at most [`TIMELINES_MAX`].
    pub timelines: Vec<TimelineSpan>,
}

/// How a branch begins that is all its parent's until somebody writes to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchStart {
    /// What never changes about it; has a parent.
    pub creation: Creation,
    /// From where on it can be read: not above where it left its parent.
    pub readable_from: Lsn,
}

/// A part of a branch's history on one Postgres timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimelineSpan {
    /// Postgres's number of it.
    pub timeline: u32,
    /// First LSN.
    pub from: Lsn,
    /// The LSN it ends before; [`Lsn::MAX`] while it goes on.
    pub to: Lsn,
}

/// The base backup that an imported branch began with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BaseBackup {
    /// Timeline it was taken on.
    pub timeline: u32,
    /// Where its WAL begins.
    pub start: Lsn,
    /// Where it became consistent.
    pub stop: Lsn,
    /// Sealed pieces of WAL kept with it: numbers `0..wal_objects`.
    pub wal_objects: u64,
}

/// From where on the branch's stored WAL is needed to go on behind its last LSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalPosition {
    /// Number of the first piece that is needed; it may not be there yet.
    pub piece: u64,
    /// Where that piece begins.
    pub lsn: Lsn,
}

/// A change of the set of layers, and of how far the branch goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Edit {
    /// The last LSN of the branch; never below what it was.
    pub last_lsn: Lsn,
    /// From where on it can be read, if that changes.
    pub readable_from: Option<Lsn>,
    /// The base backup, if this edit completes one.
    pub base_backup: Option<BaseBackup>,
    /// Where the WAL goes on behind the last LSN, if that changes.
    pub wal: Option<WalPosition>,
    /// All sections of the layers that come in.
    pub added: Vec<LayerSection>,
    /// The layers that go out.
    pub removed: Vec<RemovedLayer>,
}

/// A layer that goes out: all its sections at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemovedLayer {
    /// The layer.
    pub object: ObjectId,
    /// Its size.
    pub object_bytes: u64,
    /// The partitions it has sections in.
    pub partitions: Vec<Partition>,
}

impl Edit {
    /// Number and size of the layers that come in.
    pub(crate) fn added_layers(&self) -> (u64, u64) {
        let mut seen = HashSet::new();
        self.added
            .iter()
            .filter(|section| seen.insert(section.object))
            .fold((0, 0), |(layers, bytes): (u64, u64), section| {
                (layers + 1, bytes.saturating_add(section.object_bytes))
            })
    }
}

impl Entry {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        match self {
            Entry::Create(creation) => {
                out.u32(KIND_CREATE);
                creation.encode(&mut out);
            }
            Entry::Start(start) => {
                out.u32(KIND_START);
                start.encode(&mut out);
            }
            Entry::Claim { epoch } => {
                out.u32(KIND_CLAIM).u32(*epoch);
            }
            Entry::Edit { epoch, edit } => {
                let kind = edit.wal.map_or(KIND_EDIT, |_| KIND_FLUSH);
                out.u32(kind).u32(*epoch);
                edit.encode(&mut out);
                WalPosition::encode(edit.wal, &mut out);
            }
            Entry::Snapshot(root) => {
                let (wal, kept) = (root.facts.wal, &root.facts.kept);
                let kind = snapshot_kind(root);
                out.u32(kind);
                root.encode(&mut out);
                if kind == KIND_SNAPSHOT_WITH_HISTORY {
                    out.present(wal.as_ref());
                }
                WalPosition::encode(wal, &mut out);
                if kind == KIND_SNAPSHOT_WITH_HISTORY {
                    kept.encode(&mut out);
                }
            }
            Entry::History { epoch, kept } => {
                out.u32(KIND_HISTORY).u32(*epoch);
                kept.encode(&mut out);
            }
        }
        out.finish()
    }

    /// The entry in a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Entry, RecordProblem> {
        let mut from = Decoder::new(body);
        let kind = from.u32()?;
        let entry = match kind {
            KIND_CREATE => Entry::Create(Creation::decode(&mut from)?),
            KIND_START => Entry::Start(BranchStart::decode(&mut from)?),
            KIND_CLAIM => Entry::Claim { epoch: from.u32()? },
            KIND_EDIT | KIND_FLUSH => {
                let epoch = from.u32()?;
                let mut edit = Edit::decode(&mut from)?;
                if kind == KIND_FLUSH {
                    edit.wal = Some(WalPosition::decode(&mut from)?);
                }
                Entry::Edit { epoch, edit }
            }
            KIND_SNAPSHOT | KIND_SNAPSHOT_WITH_WAL | KIND_SNAPSHOT_WITH_HISTORY => {
                let mut root = SnapshotRoot::decode(&mut from)?;
                let has_history = kind == KIND_SNAPSHOT_WITH_HISTORY;
                if kind == KIND_SNAPSHOT_WITH_WAL || (has_history && from.present()?) {
                    root.facts.wal = Some(WalPosition::decode(&mut from)?);
                }
                if has_history {
                    root.facts.kept = KeptHistory::decode(&mut from)?;
                }
                Entry::Snapshot(root)
            }
            KIND_HISTORY => Entry::History {
                epoch: from.u32()?,
                kept: KeptHistory::decode(&mut from)?,
            },
            _ => return Err(RecordProblem::Damaged("entry kind")),
        };
        from.finish()?;
        Ok(entry)
    }

    /// The envelope it is written in: the oldest version that has its kind.
    pub(crate) fn format(&self) -> RecordFormat {
        let version = match self {
            Entry::Start(_) | Entry::History { .. } => FORMAT.tag.version,
            Entry::Edit { edit, .. } if edit.wal.is_some() => FORMAT.tag.version,
            Entry::Snapshot(root) if snapshot_kind(root) != KIND_SNAPSHOT => FORMAT.tag.version,
            Entry::Create(_) | Entry::Claim { .. } | Entry::Edit { .. } | Entry::Snapshot(_) => 1,
        };
        RecordFormat {
            tag: FormatTag {
                version,
                ..FORMAT.tag
            },
            ..FORMAT
        }
    }
}

/// The oldest kind that says all of it.
fn snapshot_kind(root: &SnapshotRoot) -> u32 {
    match (root.facts.wal, root.facts.kept.from.is_valid()) {
        (_, true) => KIND_SNAPSHOT_WITH_HISTORY,
        (Some(_), false) => KIND_SNAPSHOT_WITH_WAL,
        (None, false) => KIND_SNAPSHOT,
    }
}

impl BranchStart {
    pub(crate) fn encode(&self, out: &mut Encoder) {
        self.creation.encode(out);
        out.lsn(self.readable_from);
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<BranchStart, RecordProblem> {
        let start = BranchStart {
            creation: Creation::decode(from)?,
            readable_from: from.lsn()?,
        };
        let in_order = start.readable_from.is_valid() && start.readable_from <= start.left_at();
        if in_order {
            Ok(start)
        } else {
            Err(RecordProblem::Damaged("start"))
        }
    }

    /// Where it left its parent, which is its last LSN until somebody writes to it.
    pub(crate) fn left_at(&self) -> Lsn {
        self.creation.parent.map_or(Lsn::INVALID, |(_, at)| at)
    }
}

impl Creation {
    pub(super) fn encode(&self, out: &mut Encoder) {
        assert!(
            self.timelines.len() <= TIMELINES_MAX,
            "the root of a snapshot has room for {TIMELINES_MAX} timelines"
        );
        out.bytes(&self.name_hash).bytes(&self.key_space);
        out.present(self.parent.as_ref());
        if let Some((branch, lsn)) = self.parent {
            out.branch(branch).lsn(lsn);
        }
        out.count(self.timelines.len());
        for span in &self.timelines {
            out.u32(span.timeline).lsn(span.from).lsn(span.to);
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Creation, RecordProblem> {
        let name_hash = from.array()?;
        let key_space = from.array()?;
        let parent = if from.present()? {
            Some((from.branch()?, from.lsn()?))
        } else {
            None
        };
        let spans = from.count(TIMELINE_BYTES)?;
        if spans > TIMELINES_MAX {
            return Err(RecordProblem::Damaged("number of timelines"));
        }
        let timelines = (0..spans)
            .map(|_| {
                Ok(TimelineSpan {
                    timeline: from.u32()?,
                    from: from.lsn()?,
                    to: from.lsn()?,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Creation {
            name_hash,
            key_space,
            parent,
            timelines,
        })
    }
}

impl BaseBackup {
    pub(super) fn encode(this: Option<&BaseBackup>, out: &mut Encoder) {
        out.present(this);
        if let Some(backup) = this {
            out.u32(backup.timeline)
                .lsn(backup.start)
                .lsn(backup.stop)
                .u64(backup.wal_objects);
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Option<BaseBackup>, RecordProblem> {
        if !from.present()? {
            return Ok(None);
        }
        Ok(Some(BaseBackup {
            timeline: from.u32()?,
            start: from.lsn()?,
            stop: from.lsn()?,
            wal_objects: from.u64()?,
        }))
    }
}

impl WalPosition {
    fn encode(this: Option<WalPosition>, out: &mut Encoder) {
        if let Some(position) = this {
            out.u64(position.piece).lsn(position.lsn);
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<WalPosition, RecordProblem> {
        let position = WalPosition {
            piece: from.u64()?,
            lsn: from.lsn()?,
        };
        let is_one = position.lsn.is_valid();
        is_one
            .then_some(position)
            .ok_or(RecordProblem::Damaged("WAL position"))
    }
}

impl Edit {
    fn encode(&self, out: &mut Encoder) {
        out.lsn(self.last_lsn)
            .lsn(self.readable_from.unwrap_or(Lsn::INVALID));
        BaseBackup::encode(self.base_backup.as_ref(), out);
        out.count(self.added.len());
        self.added.iter().for_each(|section| section.encode(out));
        out.count(self.removed.len());
        for layer in &self.removed {
            out.object(layer.object)
                .u64(layer.object_bytes)
                .count(layer.partitions.len());
            for partition in &layer.partitions {
                out.u16(partition.number());
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Edit, RecordProblem> {
        let last_lsn = from.lsn()?;
        let readable_from = Some(from.lsn()?).filter(|lsn| lsn.is_valid());
        let base_backup = BaseBackup::decode(from)?;
        let added = from.count(SECTION_BYTES)?;
        let added = (0..added)
            .map(|_| LayerSection::decode(from))
            .collect::<Result<_, _>>()?;
        let removed = from.count(REMOVED_BYTES_MIN)?;
        let removed = (0..removed)
            .map(|_| RemovedLayer::decode(from))
            .collect::<Result<_, _>>()?;
        Ok(Edit {
            last_lsn,
            readable_from,
            base_backup,
            wal: None,
            added,
            removed,
        })
    }
}

impl RemovedLayer {
    fn decode(from: &mut Decoder<'_>) -> Result<RemovedLayer, RecordProblem> {
        let object = from.object()?;
        let object_bytes = from.u64()?;
        let partitions = from.count(2)?;
        let partitions = (0..partitions)
            .map(|_| decode_partition(u32::from(from.u16()?)))
            .collect::<Result<_, _>>()?;
        Ok(RemovedLayer {
            object,
            object_bytes,
            partitions,
        })
    }
}

/// The envelope of entries in the newest version.
pub(crate) const FORMAT: RecordFormat = RecordFormat {
    magic: b"PSMANIFE",
    tag: FormatTag::new(b"MENT", 2),
    kind: BlockKind::ManifestEntry,
};

/// Most single LSNs that are kept of a branch's history.
pub const KEPT_LSNS_MAX: usize = 800;

/// Bytes of an encoded kept history at most.
pub(super) const KEPT_BYTES_MAX: usize = 8 + 4 + KEPT_LSNS_MAX * 8;
/// Most timelines of one branch.
pub const TIMELINES_MAX: usize = 256;

const KIND_CREATE: u32 = 1;
const KIND_CLAIM: u32 = 2;
const KIND_EDIT: u32 = 3;
const KIND_SNAPSHOT: u32 = 4;
const KIND_START: u32 = 5;
const KIND_FLUSH: u32 = 6;
const KIND_SNAPSHOT_WITH_WAL: u32 = 7;
const KIND_HISTORY: u32 = 8;
const KIND_SNAPSHOT_WITH_HISTORY: u32 = 9;

/// Bytes of an encoded WAL position.
pub(super) const WAL_POSITION_BYTES: usize = 8 + 8;
/// Bytes of an encoded timeline span.
pub(super) const TIMELINE_BYTES: usize = 4 + 8 + 8;
const REMOVED_BYTES_MIN: usize = 28 + 8 + 4;
