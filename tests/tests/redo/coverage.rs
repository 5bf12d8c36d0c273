//! Which kinds of records a run has to show, and which it cannot.

use harness::tools::repository;
use postgres::verify::Report;
use postgres::wal::{Proof, RecordKind};

use crate::cluster::Mode;
use crate::standby::Verdict;

/// Kinds that the workload does not make: name and reason.
const NEVER_WRITTEN: [(&str, &str); 4] = [
    ("XLOG NOOP", "no server code writes it"),
    (
        "XLOG END_OF_RECOVERY",
        "only a promotion writes it, on a timeline of its own",
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

/// Writes what `tests/tools/redo_table` makes its table of.
fn write_rows(major: u32, mode: Mode, report: &Report, standby: &Verdict) {
    let folder = repository().join("target/redo");
    let name = match mode {
        Mode::Deltas => format!("{major}-deltas.tsv"),
        Mode::FullPages => format!("{major}-full-pages.tsv"),
    };
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
pub(crate) fn judge(major: u32, mode: Mode, report: &Report, standby: &Verdict) {
    println!("PostgreSQL {major}, {mode}\n{report}");
    println!(
        "standby: {} pages compared, {} of free space maps not; {} differ",
        standby.pages,
        standby.free_space_pages,
        standby.differences.len()
    );
    for difference in standby.differences.iter().take(20) {
        println!("{difference}");
    }
    for mismatch in &report.mismatches {
        println!("{mismatch}");
    }
    write_rows(major, mode, report, standby);
    let excused = |kind: &RecordKind| {
        let name = kind.to_string();
        NEVER_WRITTEN.iter().any(|(other, _)| *other == name)
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
    let uncovered: Vec<_> = RecordKind::all(report.version())
        .filter(|kind| {
            let counts = report.counts(kind);
            counts.records > 0 && counts.compared == 0 && !standby.proves(kind)
        })
        .map(ToString::to_string)
        .collect();
    println!("uncovered: {uncovered:?}");
    assert!(
        standby.differences.is_empty(),
        "the standby differs, see above"
    );
    assert!(report.is_clean(), "redo and Postgres disagree, see above");
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
