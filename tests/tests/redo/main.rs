//! Redo proved against stock Postgres of every version: a workload that makes every kind of record which the version can
//! write, under `wal_consistency_checking`, with full page writes off and on.
//!
//! Each run ends in a table of kinds; what was never seen fails the test, unless [`coverage`] says why it cannot be.

mod cluster;
mod coverage;
mod load;
mod promotion;
mod regression;
mod state;
mod surgery;
mod workload;

use std::collections::BTreeSet;

use engine::types::Lsn;
use harness::standby::control_file;
use postgres::key::BlockTag;
use postgres::verify::{Page, Report, Verifier};
use postgres::wal::SegmentFiles;

use crate::cluster::{Mode, Run};
use crate::coverage::StandbyProof;
use crate::state::{Omissions, State, Theirs};

fn prove(major: u32, mode: Mode) {
    let mut run = Run::prepare(major, mode);
    workload::run(&mut run);
    run.finish();
    let (report, proof) = compare(&run);
    coverage::judge(major, mode, &report, &proof);
}

/// Clients side by side, crashes, and a promotion of the standby. With full page writes: without, a server that recovers from
/// a crash can fail its own check of consistency, at pages that a later record drops.
fn prove_under_load(major: u32) {
    let mut run = Run::prepare(major, Mode::FullPages);
    load::run(&mut run);
    run.finish();
    let (report, mut proof) = compare(&run);
    for method in load::methods(&run) {
        assert!(proof.methods.contains(method), "no image by {method}");
    }
    let promoted = promotion::prove(&run, &mut proof.state);
    coverage::judge_load(major, &report, &proof, &promoted);
}

/// PostgreSQL's own regression suite, side by side with vacuum.
fn prove_by_regression(major: u32, mode: Mode) {
    let mut run = Run::prepare(major, mode);
    regression::run(&run);
    run.finish();
    let (report, proof) = compare(&run);
    coverage::judge_regression(major, mode, &report, &proof);
}

/// Replays the run, and compares with its standby.
fn compare(run: &Run) -> (Report, StandbyProof) {
    // The standby works while we do, on the files that both begin with: they are read before.
    let pages = run.backup().pages();
    let mut state = State::import(run.backup().data());
    std::thread::scope(|scope| {
        let standby = scope.spawn(|| run.backup().replay(&run.cluster));
        let replayed = replay(run, pages, &mut state);
        standby.join().expect("the standby replays");
        let pages = run.backup().compare(&replayed.verifier);
        let theirs = Theirs::read(run.backup().data(), &run.cluster.data_directory());
        let proof = StandbyProof {
            pages,
            comparison: state.compare(&theirs),
            unnoticed: replayed.omissions.unnoticed(&theirs),
            methods: replayed.methods,
            state,
        };
        (replayed.verifier.into_report(), proof)
    })
}

/// What a replay comes to.
struct Replayed {
    verifier: Verifier,
    omissions: Omissions,
    /// How images are compressed.
    methods: BTreeSet<&'static str>,
}

/// Our own replay of the workload's WAL, from the same files.
fn replay(run: &Run, pages: Vec<(BlockTag, Box<Page>)>, state: &mut State) -> Replayed {
    let wal = run.cluster.data_directory().join("pg_wal");
    let mut files = SegmentFiles::open(&wal, None).expect("WAL files");
    let mut verifier = Verifier::new(files.version(), run.mode.has_checksums(), false);
    verifier.begin_with(pages);
    let mut omissions = Omissions::of(state, files.version());
    let mut methods = BTreeSet::new();
    let mut end = Lsn::INVALID;
    let last = control_file(&run.cluster.data_directory()).checkpoint_lsn;
    files
        .for_each(|record| -> Result<(), Box<dyn std::error::Error>> {
            end = record.end;
            if record.start >= run.backup().start {
                verifier.observe(record)?;
                let images = record.blocks().filter_map(|block| block.image);
                methods.extend(images.filter_map(|image| image.compression()));
                // Its counters are what ours are compared with.
                if record.start < last {
                    state.observe(record);
                    omissions.observe(record);
                }
            }
            Ok(())
        })
        .expect("WAL of one version");
    assert_eq!(files.damage(), None);
    println!("replayed to {end}: {}", files.end().unwrap_or_default());
    Replayed {
        verifier,
        omissions,
        methods,
    }
}

#[test]
fn version_15_without_full_pages() {
    prove(15, Mode::Deltas);
}

#[test]
fn version_15_with_full_pages() {
    prove(15, Mode::FullPages);
}

#[test]
fn version_16_without_full_pages() {
    prove(16, Mode::Deltas);
}

#[test]
fn version_16_with_full_pages() {
    prove(16, Mode::FullPages);
}

#[test]
fn version_17_without_full_pages() {
    prove(17, Mode::Deltas);
}

#[test]
fn version_17_with_full_pages() {
    prove(17, Mode::FullPages);
}

#[test]
fn version_18_without_full_pages() {
    prove(18, Mode::Deltas);
}

#[test]
fn version_18_with_full_pages() {
    prove(18, Mode::FullPages);
}

#[test]
fn version_15_under_load() {
    prove_under_load(15);
}

#[test]
fn version_16_under_load() {
    prove_under_load(16);
}

#[test]
fn version_17_under_load() {
    prove_under_load(17);
}

#[test]
fn version_18_under_load() {
    prove_under_load(18);
}

#[test]
fn version_15_regression_without_full_pages() {
    prove_by_regression(15, Mode::Deltas);
}

#[test]
fn version_15_regression_with_full_pages() {
    prove_by_regression(15, Mode::FullPages);
}

#[test]
fn version_16_regression_with_full_pages() {
    prove_by_regression(16, Mode::FullPages);
}

#[test]
fn version_17_regression_without_full_pages() {
    prove_by_regression(17, Mode::Deltas);
}

#[test]
fn version_18_regression_with_full_pages() {
    prove_by_regression(18, Mode::FullPages);
}
