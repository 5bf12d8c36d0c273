//! What a verification found, by kind of record.

use std::collections::BTreeMap;
use std::fmt;

use engine::types::{Lsn, PAGE_BYTES};
use serde::Serialize;

use super::compare::Page;
use crate::key::BlockTag;
use crate::wal::{Proof, RecordKind, WalVersion};

/// Counts of one kind of record. Everything but `records` counts pages: a record may touch several, or none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct KindCounts {
    /// Records.
    pub records: u64,
    /// A delta was applied, and the result compared with the logged page.
    pub compared: u64,
    /// The logged image was restored, by rule: there is nothing to compare it with.
    pub image_only: u64,
    /// A delta was applied, and nothing was logged to compare the result with.
    pub no_image: u64,
    /// The page already had a later LSN.
    pub page_ahead: u64,
    /// The page was not known, and was taken from the image if there was one.
    pub base_unknown: u64,
    /// The result was not what was logged, or redo failed.
    pub mismatches: u64,
}

impl KindCounts {
    fn add(&mut self, more: &KindCounts) {
        self.records += more.records;
        self.compared += more.compared;
        self.image_only += more.image_only;
        self.no_image += more.no_image;
        self.page_ahead += more.page_ahead;
        self.base_unknown += more.base_unknown;
        self.mismatches += more.mismatches;
    }
}

/// A page that came out wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// Which kind of record.
    pub kind: String,
    /// Where the record begins.
    pub lsn: Lsn,
    /// Which page; `None` if the record names none.
    pub tag: Option<BlockTag>,
    /// Number of the block in the record.
    pub block_id: u8,
    /// What is wrong.
    pub what: Difference,
}

/// How a page came out wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// Redo refused, with this reason.
    Failed(String),
    /// Redo made another page.
    Page {
        /// The first byte that differs.
        at: usize,
        /// What redo made.
        ours: Box<Page>,
        /// What Postgres logged.
        logged: Box<Page>,
    },
    /// The logged page had another LSN than ours before the record: a change in between was missed, or one too
    /// many applied.
    Before {
        /// LSN of our page.
        ours: Lsn,
        /// LSN in the image.
        logged: Lsn,
    },
}

/// What was found. All of it is of one version.
#[derive(Clone, Debug)]
pub struct Report {
    version: WalVersion,
    kinds: BTreeMap<(u8, u8), KindCounts>,
    /// The first mismatches, at most [`MISMATCHES_MAX`].
    pub mismatches: Vec<Mismatch>,
    /// Records of kinds that are not known, and custom resource managers'.
    pub unknown: u64,
}

/// Mismatches kept with their pages.
pub const MISMATCHES_MAX: usize = 32;

/// Mismatches kept of each kind, so that one kind does not hide the others.
const MISMATCHES_OF_KIND_MAX: usize = 3;

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct ReportRow {
    /// Name of the resource manager.
    pub manager: String,
    /// Name of the kind of record.
    pub kind: &'static str,
    /// Whether logged images can show that redo of it is right.
    pub can_be_compared: bool,
    /// What was counted.
    #[serde(flatten)]
    pub counts: KindCounts,
}

impl Report {
    pub(super) fn new(version: WalVersion) -> Report {
        Report {
            version,
            kinds: BTreeMap::new(),
            mismatches: Vec::new(),
            unknown: 0,
        }
    }

    /// Adds to the counts of a kind.
    pub(super) fn count(&mut self, kind: &RecordKind, more: &KindCounts) {
        let counts = self.kinds.entry((kind.manager, kind.code)).or_default();
        counts.add(more);
    }

    pub(super) fn mismatch(&mut self, mismatch: Mismatch) {
        let same = |other: &&Mismatch| other.kind == mismatch.kind;
        if self.mismatches.len() < MISMATCHES_MAX
            && self.mismatches.iter().filter(same).count() < MISMATCHES_OF_KIND_MAX
        {
            self.mismatches.push(mismatch);
        }
    }

    /// Every kind of the version, seen or not.
    pub fn rows(&self) -> impl Iterator<Item = ReportRow> + '_ {
        RecordKind::all(self.version).map(|kind| ReportRow {
            manager: kind.resource_manager().to_string(),
            kind: kind.name,
            can_be_compared: kind.proof == Proof::Image,
            counts: self.counts(kind),
        })
    }

    /// What was counted of a kind.
    pub fn counts(&self, kind: &RecordKind) -> KindCounts {
        let counts = self.kinds.get(&(kind.manager, kind.code));
        counts.copied().unwrap_or_default()
    }

    /// Whether no page came out wrong, and no record was unknown.
    pub fn is_clean(&self) -> bool {
        self.unknown == 0 && self.kinds.values().all(|counts| counts.mismatches == 0)
    }

    /// Kinds that logged images could prove, of which records were seen and none compared.
    pub fn never_compared(&self) -> impl Iterator<Item = &'static RecordKind> + '_ {
        RecordKind::all(self.version).filter(|kind| {
            let counts = self.counts(kind);
            kind.proof == Proof::Image && counts.compared == 0 && counts.records > 0
        })
    }

    /// The version of the WAL.
    pub fn version(&self) -> WalVersion {
        self.version
    }

    /// Adds another report of the same version.
    pub fn add(&mut self, other: &Report) {
        for (kind, more) in &other.kinds {
            self.kinds.entry(*kind).or_default().add(more);
        }
        self.unknown += other.unknown;
        for mismatch in &other.mismatches {
            self.mismatch(mismatch.clone());
        }
    }
}

/// The table: every kind seen.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<40} {:>9} {:>9} {:>10} {:>8} {:>7} {:>8} {:>10}",
            "kind of record",
            "records",
            "compared",
            "image only",
            "no image",
            "ahead",
            "no base",
            "mismatches"
        )?;
        for row in self.rows().filter(|row| row.counts.records > 0) {
            let c = row.counts;
            writeln!(
                f,
                "{:<40} {:>9} {:>9} {:>10} {:>8} {:>7} {:>8} {:>10}",
                format!("{} {}", row.manager, row.kind),
                c.records,
                c.compared,
                c.image_only,
                c.no_image,
                c.page_ahead,
                c.base_unknown,
                c.mismatches
            )?;
        }
        if self.unknown > 0 {
            writeln!(f, "{} records of unknown kinds", self.unknown)?;
        }
        Ok(())
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind, self.lsn)?;
        if let Some(tag) = self.tag {
            write!(f, ", {tag} (id {} in the record)", self.block_id)?;
        }
        write!(f, ": {}", self.what)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Failed(reason) => write!(f, "redo failed: {reason}"),
            Difference::Before { ours, logged } => {
                write!(
                    f,
                    "the page had LSN {logged} before the record, ours {ours}"
                )
            }
            Difference::Page { at, ours, logged } => {
                writeln!(f, "differs from byte {at} (0x{at:04x}) on")?;
                dump(f, "ours", "logged", ours, logged, *at)
            }
        }
    }
}

/// Lines of sixteen bytes: the header, and those that differ from the first difference on.
fn dump(
    f: &mut fmt::Formatter<'_>,
    a_name: &str,
    b_name: &str,
    a: &Page,
    b: &Page,
    first: usize,
) -> fmt::Result {
    let mut lines = 0;
    for at in (0..PAGE_BYTES).step_by(LINE_BYTES) {
        let (a, b) = (&a[at..at + LINE_BYTES], &b[at..at + LINE_BYTES]);
        let is_header = at < 2 * LINE_BYTES;
        let is_wanted = is_header || (at + LINE_BYTES > first && a != b);
        if !is_wanted || lines == DUMP_LINES_MAX {
            continue;
        }
        lines += 1;
        for (name, bytes) in [(a_name, a), (b_name, b)] {
            write!(f, "  {at:04x} {name:<7}")?;
            for byte in bytes {
                write!(f, " {byte:02x}")?;
            }
            writeln!(f)?;
        }
    }
    Ok(())
}

const LINE_BYTES: usize = 16;
const DUMP_LINES_MAX: usize = 24;
