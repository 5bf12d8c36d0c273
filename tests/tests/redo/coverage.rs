//! Which kinds of records a run has to show, and which it cannot.

use std::collections::BTreeSet;

use harness::tools::repository;
use postgres::verify::Report;
use postgres::wal::{Proof, RecordKind};

use crate::cluster::Mode;
use crate::state::State;
use harness::cluster_state::Comparison;
use harness::standby::Verdict;

/// Kinds that the workload does not make: name and reason.
const NEVER_WRITTEN: [(&str, &str); 4] = [
    ("XLOG NOOP", "no server code writes it"),
    (
        "XLOG END_OF_RECOVERY",
        "only a promotion writes it: in the runs under load",
    ),
    (
        "Heap HOT_UPDATE+INIT",
        "the old version of the row is on the same page, so the page is never a new one",
    ),
    (
        "Gist ASSIGN_LSN",
        "only with wal_level = minimal, which is refused",
    ),
];

/// Kinds that are whole pages, or nothing, in one of the modes: name, mode, reason.
const ONLY_IN_OTHER_MODE: [(&str, Mode, &str); 4] = [
    (
        "CommitTs TRUNCATE",
        Mode::FullPages,
        "needs everything frozen; made in the other mode",
    ),
    (
        "XLOG FPI_FOR_HINT",
        Mode::Deltas,
        "hint bits are logged only with checksums or wal_log_hints",
    ),
    (
        "CLOG TRUNCATE",
        Mode::FullPages,
        "needs a million transactions; made in the other mode by skipping most of them",
    ),
    (
        "MultiXact TRUNCATE_ID",
        Mode::FullPages,
        "needs everything frozen; made in the other mode",
    ),
];

/// Kinds that images could prove and do not: name and reason.
const NOT_COMPARED: [(&str, &str); 1] = [(
    "Gist DELETE",
    "redo sets a mark on the page that the primary does not, so that a standby would fail its own check",
)];

/// Kinds that change nothing that is stored, but for the next transaction id where they carry one: name and reason.
const CHANGE_NOTHING: [(&str, &str); 16] = [
    ("XLOG SWITCH", "the rest of the segment is empty"),
    ("XLOG BACKUP_END", "a standby may be asked from here on"),
    ("XLOG RESTORE_POINT", "a name to stop at"),
    (
        "XLOG OVERWRITE_CONTRECORD",
        "a crash lost the record before",
    ),
    (
        "XLOG CHECKPOINT_REDO",
        "the checkpoint itself says where it begins",
    ),
    (
        "Transaction ASSIGNMENT",
        "memory of a standby that answers queries",
    ),
    ("Transaction INVALIDATION", "logical decoding"),
    ("Standby LOCK", "memory of a standby that answers queries"),
    (
        "Standby INVALIDATIONS",
        "memory of a standby that answers queries",
    ),
    (
        "Heap2 REWRITE",
        "a file of a logical slot, which stays with its server",
    ),
    ("Heap2 NEW_CID", "logical decoding"),
    (
        "Heap TRUNCATE",
        "logical decoding; new files take the place of the old",
    ),
    ("Btree REUSE_PAGE", "queries of a standby that it ends"),
    ("Gist PAGE_REUSE", "queries of a standby that it ends"),
    ("LogicalMessage MESSAGE", "logical decoding"),
    ("XLOG NOOP", "nothing by its name"),
];

/// Kinds without whose records the files at the end would be the same: name and reason.
const UNNOTICED: [(&str, &str); 5] = [
    (
        "CLOG ZEROPAGE",
        "the first end of a transaction on the page makes it too",
    ),
    (
        "CommitTs ZEROPAGE",
        "the first commit on the page makes it too",
    ),
    (
        "MultiXact ZERO_OFF_PAGE",
        "the first set of transactions on the page makes it too",
    ),
    (
        "MultiXact ZERO_MEM_PAGE",
        "the first set of transactions on the page makes it too",
    ),
    (
        "Storage TRUNCATE",
        "lengths are compared where all records are replayed",
    ),
];

/// What the standby's files said of our replay.
pub(crate) struct StandbyProof {
    /// Of the pages behind the images.
    pub(crate) pages: Verdict,
    /// Of everything, by what `touch` says.
    pub(crate) comparison: Comparison,
    /// Kinds without whose records it would have been the same.
    pub(crate) unnoticed: Vec<&'static RecordKind>,
    /// How images are compressed.
    pub(crate) methods: BTreeSet<&'static str>,
    pub(crate) state: State,
}

impl StandbyProof {
    /// Whether what records of a kind do was compared, where none of their own images was.
    fn proves(&self, kind: &RecordKind) -> bool {
        match kind.proof {
            Proof::Image | Proof::WholePages => self.pages.differences.is_empty(),
            Proof::Standby => {
                !changes_nothing(kind) && self.state.is_proved(kind, &self.comparison)
            }
        }
    }
}

/// Whether a kind is one of those that change nothing that is stored.
pub(crate) fn changes_nothing(kind: &RecordKind) -> bool {
    is_in(&CHANGE_NOTHING, kind)
}

fn is_in(list: &[(&str, &str)], kind: &RecordKind) -> bool {
    let name = kind.to_string();
    list.iter().any(|(other, _)| *other == name)
}

/// Writes what `tests/tools/redo_table` makes its table of.
fn write_rows(name: &str, report: &Report, standby: &StandbyProof) {
    let folder = repository().join("target/redo");
    let mut text = String::new();
    for (kind, row) in RecordKind::all(report.version()).zip(report.rows()) {
        let counts = row.counts;
        let by_standby = if standby.proves(kind) {
            counts.records
        } else {
            0
        };
        text += &format!(
            "{}\t{}\t{}\t{}\t{by_standby}\t{}\n",
            row.manager, row.kind, counts.records, counts.compared, counts.mismatches
        );
    }
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(name), text).expect("a file");
}

/// Fails if anything mismatched, if a kind was not seen that should have been, or was seen and never compared though
/// it can be.
pub(crate) fn judge(major: u32, mode: Mode, report: &Report, standby: &StandbyProof) {
    println!("PostgreSQL {major}, {mode}\n{report}");
    print_differences(report, standby);
    let name = match mode {
        Mode::Deltas => format!("{major}-deltas.tsv"),
        Mode::FullPages => format!("{major}-full-pages.tsv"),
    };
    write_rows(&name, report, standby);
    let excused = |kind: &RecordKind| {
        let name = kind.to_string();
        is_in(&NEVER_WRITTEN, kind)
            || ONLY_IN_OTHER_MODE
                .iter()
                .any(|(other, of, _)| *other == name && *of == mode)
    };
    let unseen: Vec<_> = RecordKind::all(report.version())
        .filter(|kind| report.counts(kind).records == 0 && !excused(kind))
        .map(ToString::to_string)
        .collect();
    // With full pages on, the first record of a page behind a checkpoint has nothing to compare; rare kinds may
    // have no others. Without, every one has.
    let uncompared: Vec<_> = report
        .never_compared()
        .filter(|kind| kind.proof == Proof::Image && mode == Mode::Deltas)
        .map(ToString::to_string)
        .filter(|name| NOT_COMPARED.iter().all(|(other, _)| other != name))
        .collect();
    let surprising: Vec<_> = RecordKind::all(report.version())
        .filter(|kind| report.counts(kind).records > 0)
        .map(ToString::to_string)
        .filter(|name| NEVER_WRITTEN.iter().any(|(other, _)| other == name))
        .collect();
    let unnoticed: Vec<_> = standby
        .unnoticed
        .iter()
        .filter(|kind| report.counts(kind).records > 0 && !is_in(&UNNOTICED, kind))
        .map(ToString::to_string)
        .collect();
    let storing: Vec<_> = RecordKind::all(report.version())
        .filter(|kind| changes_nothing(kind) && !standby.state.stores_nothing(kind))
        .map(ToString::to_string)
        .collect();
    assert_agreement(report, standby);
    assert_all_proved(report, standby);
    assert!(
        unnoticed.is_empty(),
        "the standby would be the same without: {unnoticed:?}"
    );
    assert!(
        storing.is_empty(),
        "said to change nothing that is stored: {storing:?}"
    );
    assert!(unseen.is_empty(), "never seen: {unseen:?}");
    assert!(
        uncompared.is_empty(),
        "seen and never compared: {uncompared:?}"
    );
    assert!(
        surprising.is_empty(),
        "said not to be written: {surprising:?}"
    );
}

/// Fails if a page or the standby is otherwise.
fn assert_agreement(report: &Report, standby: &StandbyProof) {
    assert!(
        standby.pages.differences.is_empty() && standby.comparison.differences.is_empty(),
        "the standby differs, see above"
    );
    assert!(report.is_clean(), "redo and Postgres disagree, see above");
}

/// Fails if anything was seen that neither images nor the standby prove.
fn assert_all_proved(report: &Report, standby: &StandbyProof) {
    let uncovered: Vec<_> = RecordKind::all(report.version())
        .filter(|kind| {
            let counts = report.counts(kind);
            let is_proved = counts.compared > 0 || standby.proves(kind) || changes_nothing(kind);
            counts.records > 0 && !is_proved
        })
        .map(ToString::to_string)
        .collect();
    assert!(uncovered.is_empty(), "proved by nothing: {uncovered:?}");
}

/// Fails if anything of a run of the regression suite mismatched, or if it did much less than the suite does.
pub(crate) fn judge_regression(major: u32, mode: Mode, report: &Report, standby: &StandbyProof) {
    println!("PostgreSQL {major}, regression suite, {mode}\n{report}");
    print_differences(report, standby);
    let mode = match mode {
        Mode::Deltas => "deltas",
        Mode::FullPages => "full-pages",
    };
    write_rows(&format!("{major}-regression-{mode}.tsv"), report, standby);
    let seen = RecordKind::all(report.version()).map(|kind| report.counts(kind).records);
    let seen: Vec<u64> = seen.filter(|records| *records > 0).collect();
    let records: u64 = seen.iter().sum();
    println!("{records} records of {} kinds", seen.len());
    assert_agreement(report, standby);
    assert_all_proved(report, standby);
    assert!(
        records > 1_500_000 && seen.len() >= 90,
        "most of the suite did not run"
    );
}

/// What was not as it should be, of the images and of the standby.
fn print_differences(report: &Report, standby: &StandbyProof) {
    println!(
        "standby: {} pages compared, {} of free space maps not; {} differ",
        standby.pages.pages,
        standby.pages.free_space_pages,
        standby.pages.differences.len()
    );
    for difference in standby.pages.differences.iter().take(20) {
        println!("{difference}");
    }
    let state = &standby.comparison;
    println!(
        "state compared: {state}; {} differ",
        state.differences.len()
    );
    for (part, difference) in state.differences.iter().take(40) {
        println!("{part:?} {difference}");
    }
    for mismatch in &report.mismatches {
        println!("{mismatch}");
    }
}

/// Fails if anything of a run under load mismatched, or of the promoted standby behind it.
pub(crate) fn judge_load(
    major: u32,
    report: &Report,
    standby: &StandbyProof,
    (promoted, state): &(Report, Comparison),
) {
    println!("PostgreSQL {major} under load\n{report}");
    print_differences(report, standby);
    println!("promoted\n{promoted}state compared: {state}");
    for (part, difference) in &state.differences {
        println!("{part:?} {difference}");
    }
    for mismatch in &promoted.mismatches {
        println!("{mismatch}");
    }
    assert_agreement(report, standby);
    assert!(
        promoted.is_clean() && state.differences.is_empty(),
        "redo and the promoted standby disagree, see above"
    );
    let ends = RecordKind::all(promoted.version())
        .filter(|kind| kind.name == "END_OF_RECOVERY" && standby.state.is_proved(kind, state))
        .map(|kind| promoted.counts(kind).records);
    assert_eq!(ends.sum::<u64>(), 1, "ends of a recovery");
    let mut all = report.clone();
    all.add(promoted);
    write_rows(&format!("{major}-load.tsv"), &all, standby);
}
