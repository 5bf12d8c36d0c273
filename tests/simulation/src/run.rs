//! One run of the simulation: a seed in, a verdict out.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::computer::Computer;
use crate::coverage::Counts;
use crate::executor::{Simulator, panic_text};
use crate::rng::Rng;
use crate::trace::Trace;
use crate::workload::{Driver, Judged};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct RunConfig {
    /// All randomness comes from it.
    pub seed: u64,
    /// At least so many operations.
    pub operations_min: u64,
    /// Whether the trace is kept as text.
    pub text: bool,
}

impl RunConfig {
    /// The run of `seed` as CI does it.
    pub fn of_seed(seed: u64) -> RunConfig {
        RunConfig {
            seed,
            operations_min: OPERATIONS_MIN,
            text: false,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// The seed.
    pub seed: u64,
    /// Hash over everything that happened.
    pub trace_hash: u64,
    /// Number of things that happened.
    pub events: u64,
    /// What was judged, if the run came to its end.
    pub verdict: Result<Judged, String>,
    /// Faults by phase.
    pub coverage: Counts,
    /// The last lines of the trace, if kept.
    pub lines: Vec<String>,
}

/// Runs one seed.
pub fn run(config: RunConfig) -> RunReport {
    let RunConfig {
        seed,
        operations_min,
        text,
    } = config;
    let trace = Trace::new(text);
    let simulator = Simulator::new(Rng::split(seed, "scheduler"), trace.clone(), POLLS_MAX);
    let mut rng = Rng::split(seed, "workload");
    let sector_bytes = if rng.chance(500) { 512 } else { 4096 };
    let computer = Computer::new(&simulator, seed, sector_bytes);
    let driver = Driver::new(computer.clone(), rng);
    let verdict: Rc<RefCell<Option<_>>> = Rc::default();
    let place = Rc::clone(&verdict);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        simulator.run(async move {
            let judged = driver.run(operations_min).await;
            *place.borrow_mut() = Some(judged);
        })
    }));
    let verdict = match ended {
        Ok(Ok(())) => verdict.borrow_mut().take().expect("the driver ended"),
        Ok(Err(stuck)) => Err(stuck.to_string()),
        Err(panic) => Err(format!("panic: {}", panic_text(&*panic))),
    };
    if verdict.is_ok() {
        // After a panic nothing is touched any more: the memory is lost, the verdict stands.
        simulator.shut_down();
    }
    RunReport {
        seed,
        trace_hash: trace.hash(),
        events: trace.events(),
        verdict,
        coverage: computer.coverage.counts(),
        lines: trace.lines(),
    }
}

/// Operations of a run.
const OPERATIONS_MIN: u64 = 1_000;
/// Polls after which a run counts as spinning.
const POLLS_MAX: u64 = 50_000_000;
/// The seeds that CI runs.
pub const CI_SEEDS: std::ops::Range<u64> = 0..300;
