//! Redo proved against stock Postgres of every version: a workload that makes every kind of record which the version can
//! write, under `wal_consistency_checking`, with full page writes off and on.
//!
//! Each run ends in a table of kinds; what was never seen fails the test, unless [`coverage`] says why it cannot be.

mod cluster;
mod coverage;
mod files;
mod standby;
mod state;
mod surgery;
mod workload;

use engine::types::Lsn;
use postgres::key::BlockTag;
use postgres::verify::{Page, Verifier};
use postgres::wal::SegmentFiles;

use crate::cluster::{Mode, Run};
use crate::coverage::StandbyProof;
use crate::state::{Omissions, State, Theirs};

fn prove(major: u32, mode: Mode) {
    let mut run = Run::prepare(major, mode);
    workload::run(&mut run);
    run.finish();
    // The standby works while we do, on the files that both begin with: they are read before.
    let pages = run.backup().pages();
    let mut state = State::import(run.backup().data());
    let (report, proof) = std::thread::scope(|scope| {
        let standby = scope.spawn(|| run.backup().replay(&run.cluster));
        let (verifier, omissions) = replay(&run, pages, &mut state);
        standby.join().expect("the standby replays");
        let pages = run.backup().compare(&verifier);
        let theirs = Theirs::read(run.backup().data(), &run.cluster.data_directory());
        let proof = StandbyProof {
            pages,
            comparison: state.compare(&theirs),
            unnoticed: omissions.unnoticed(&theirs),
            state,
        };
        (verifier.into_report(), proof)
    });
    coverage::judge(major, mode, &report, &proof);
}

/// Our own replay of the workload's WAL, from the same files.
fn replay(
    run: &Run,
    pages: Vec<(BlockTag, Box<Page>)>,
    state: &mut State,
) -> (Verifier, Omissions) {
    let wal = run.cluster.data_directory().join("pg_wal");
    let mut files = SegmentFiles::open(&wal, None).expect("WAL files");
    let mut verifier = Verifier::new(files.version(), run.mode.has_checksums(), false);
    verifier.begin_with(pages);
    let mut omissions = Omissions::of(state, files.version());
    let mut end = Lsn::INVALID;
    let last = standby::control_file(&run.cluster.data_directory()).checkpoint_lsn;
    files
        .for_each(|record| -> Result<(), Box<dyn std::error::Error>> {
            end = record.end;
            if record.start >= run.backup().start {
                verifier.observe(record)?;
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
    (verifier, omissions)
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
