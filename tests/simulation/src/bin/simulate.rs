//! Runs seeds of the simulation: `simulate FROM..TO` or `simulate SEED [--text]`. Prints each failing seed with its
//! reason, and the counts of all. `--text` prints the end of the trace of one seed.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use simulation::coverage::{self, Counts};
use simulation::run::{RunConfig, run};
use simulation::workload::Judged;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = arguments.iter().any(|argument| argument == "--text");
    let Some((from, to)) = arguments.first().and_then(|range| seeds(range)) else {
        eprintln!("usage: simulate FROM..TO | simulate SEED [--text]");
        return ExitCode::from(2);
    };
    let next = AtomicU64::new(from);
    let total: Mutex<(Counts, Judged, Vec<u64>)> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let report = run(RunConfig {
                        text,
                        ..RunConfig::of_seed(seed)
                    });
                    report.lines.iter().for_each(|line| println!("{line}"));
                    let mut total = total.lock().expect("nobody panics with it");
                    coverage::merge(&mut total.0, &report.coverage);
                    match report.verdict {
                        Ok(judged) => total.1.add(&judged),
                        Err(failure) => {
                            println!("seed {seed} FAILED: {failure}");
                            total.2.push(seed);
                        }
                    }
                }
            });
        }
    });
    let (counts, judged, failed) = total.into_inner().expect("nobody panics with it");
    for ((fault, phase), count) in &counts {
        println!("{fault:28} {phase:?}: {count}");
    }
    for (fault, phase, count) in coverage::shortfalls(&counts) {
        println!("rare: {fault} {phase:?}: {count}");
    }
    println!("{judged:?}");
    println!("seeds {from}..{to}: {} failed {failed:?}", failed.len());
    ExitCode::from(u8::from(!failed.is_empty()))
}

fn seeds(text: &str) -> Option<(u64, u64)> {
    match text.split_once("..") {
        Some((from, to)) => Some((from.parse().ok()?, to.parse().ok()?)),
        None => {
            let seed: u64 = text.parse().ok()?;
            Some((seed, seed + 1))
        }
    }
}
