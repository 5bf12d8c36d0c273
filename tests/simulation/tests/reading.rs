//! The seeds of CI: every answer right, every fault met in every phase often enough, and a seed run twice the same.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use simulation::coverage::{self, Counts};
use simulation::run::{CI_SEEDS, RunConfig, RunReport, run};
use simulation::workload::Judged;

#[test]
fn a_seed_run_twice_gives_the_same_trace() {
    let twice = |seed| {
        let runs = [(); 2].map(|()| run(RunConfig::of_seed(seed)));
        let traces = runs.map(
            |RunReport {
                 trace_hash,
                 events,
                 verdict,
                 ..
             }| (trace_hash, events, verdict),
        );
        assert_eq!(traces[0], traces[1], "seed {seed}");
        traces[0].0
    };
    assert_ne!(twice(1), twice(2));
}

#[test]
fn every_answer_is_right_over_the_seeds_of_ci() {
    let next = AtomicU64::new(CI_SEEDS.start);
    let total: Mutex<(Counts, Judged, Vec<String>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= CI_SEEDS.end {
                        return;
                    }
                    let report = run(RunConfig::of_seed(seed));
                    let mut total = total.lock().expect("nobody panics with it");
                    coverage::merge(&mut total.0, &report.coverage);
                    match report.verdict {
                        Ok(judged) => {
                            assert!(judged.operations >= 1_000, "{judged:?}");
                            total.1.add(&judged);
                        }
                        Err(failure) => total.2.push(format!("seed {seed}: {failure}")),
                    }
                }
            });
        }
    });
    let (counts, judged, failures) = total.into_inner().expect("nobody panics with it");
    for ((fault, phase), count) in &counts {
        println!("{fault:28} {phase:?}: {count}");
    }
    assert!(
        failures.is_empty(),
        "repeat with `simulate SEED --text`:\n{}",
        failures.join("\n")
    );
    let rare = coverage::shortfalls(&counts);
    assert!(
        rare.is_empty(),
        "faults that met a phase too rarely: {rare:?}"
    );
    let Judged {
        children,
        children_of_one_put,
        races,
        scans,
        extents_ahead,
        ..
    } = judged;
    println!("{judged:?}");
    assert!(children > 1_000 && scans > 1_000 && extents_ahead > 1_000);
    assert!(children_of_one_put > 1_000 && races > 1_000);
}
