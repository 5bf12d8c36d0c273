//! Each bug that can be planted into the engine is found by the simulation within the seeds of CI.

use engine::planted::{PLANTED_BUGS, PlantedBug, plant};
use simulation::run::{CI_SEEDS, RunConfig, run};

/// The first seed that finds `bug`, and how it shows.
fn first_seed(bug: PlantedBug) -> Option<(u64, String)> {
    let found = CI_SEEDS.clone().find_map(|seed| {
        plant(Some(bug));
        let verdict = run(RunConfig::of_seed(seed)).verdict;
        plant(None);
        verdict.err().map(|failure| (seed, failure))
    });
    println!("{bug:?}: {found:?}");
    found
}

#[test]
fn every_planted_bug_is_found_within_the_seeds_of_ci() {
    let missed: Vec<PlantedBug> = PLANTED_BUGS
        .into_iter()
        .filter(|bug| first_seed(*bug).is_none())
        .collect();
    assert!(
        missed.is_empty(),
        "not found in seeds {CI_SEEDS:?}: {missed:?}"
    );
}
