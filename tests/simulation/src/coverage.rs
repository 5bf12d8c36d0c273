//! Which fault met which state of the engine, how often. A run counts; the counts of all seeds of CI are added up, and
//! every pair that can happen must have happened often enough ([`shortfalls`]).
//!
//! A fault is counted when it meets the engine: when a call gets it, when damaged bytes are read, when a process is
//! killed. The key service is called from any thread, so the counters can be shared by threads; a run has but one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the engine as a whole is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// The process starts: cache index, manifests, keys are read.
    Starting,
    /// Reads are answered.
    Serving,
    /// A writer uploads layers and commits, reads go on.
    Writing,
    /// A clean stop: what is under way is answered, the cache index is saved.
    Stopping,
}

/// Counts of (fault, phase).
pub type Counts = BTreeMap<(&'static str, Phase), u64>;

/// The counters of one run. Clones share them.
#[derive(Clone)]
pub struct Coverage(Arc<Mutex<State>>);

struct State {
    phase: Phase,
    counts: Counts,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage(Arc::new(Mutex::new(State {
            phase: Phase::Starting,
            counts: Counts::new(),
        })))
    }
}

impl Coverage {
    /// From now on the engine is in `phase`.
    pub fn enter(&self, phase: Phase) {
        self.state().phase = phase;
    }

    /// `fault` happened now.
    /// # Panics
    /// It is not among [`FAULTS`].
    pub fn count(&self, fault: &'static str) {
        assert!(FAULTS.contains(&fault), "{fault} is not in the list");
        let mut state = self.state();
        let pair = (fault, state.phase);
        *state.counts.entry(pair).or_default() += 1;
    }

    /// All counts so far.
    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the counts of another run.
pub fn merge(into: &mut Counts, from: &Counts) {
    for (pair, count) in from {
        *into.entry(*pair).or_default() += count;
    }
}

/// The pairs that happened fewer than [`PAIR_COUNT_MIN`] times, and are not excepted.
pub fn shortfalls(counts: &Counts) -> Vec<(&'static str, Phase, u64)> {
    let pairs = FAULTS
        .into_iter()
        .flat_map(|fault| PHASES.map(|phase| (fault, phase)));
    pairs
        .filter(|pair| !is_excepted(*pair))
        .map(|pair| (pair.0, pair.1, counts.get(&pair).copied().unwrap_or(0)))
        .filter(|(.., count)| *count < PAIR_COUNT_MIN)
        .collect()
}

/// Whether a pair need not happen.
pub fn is_excepted((fault, phase): (&str, Phase)) -> bool {
    EXCEPTIONS
        .iter()
        .any(|(faults, phases, _)| faults.contains(&fault) && phases.contains(&phase))
}

/// Each pair at least so often over the seeds of CI.
pub const PAIR_COUNT_MIN: u64 = 100;

/// Every phase.
pub const PHASES: [Phase; 4] = [
    Phase::Starting,
    Phase::Serving,
    Phase::Writing,
    Phase::Stopping,
];

/// Every fault there is, as the headers of `disk.rs`, `store.rs` and `key_source.rs` describe them.
pub const FAULTS: [&str; 40] = [
    "disk read_error",
    "disk read_short",
    "disk read_misdirected",
    "disk read_flip",
    "disk read_slow",
    "disk write_error",
    "disk write_short",
    "disk write_lost",
    "disk write_misdirected",
    "disk sync_error",
    "disk sync_lie",
    "disk open_error",
    "disk rot",
    "disk cut_file",
    "disk kill_torn",
    "disk power_torn",
    "store get_error",
    "store get_vanished",
    "store get_slow",
    "store body_error",
    "store body_short",
    "store body_stalled",
    "store body_flip",
    "store body_wrong",
    "store put_refused",
    "store put_doubtful",
    "store put_late",
    "store put_vanished",
    "store list_error",
    "store delete_error",
    "store away",
    "store damage_flip",
    "store damage_cut",
    "store damage_gone",
    "store damage_replaced",
    "keys away",
    "keys transient",
    "keys refused",
    "keys wrong",
    "process kill",
];

/// Pairs that need not happen, and why.
const EXCEPTIONS: [(&[&str], &[Phase], &str); 4] = [
    (
        &["disk sync_error", "disk sync_lie"],
        &PHASES,
        "the cache promises nothing after a power loss, so nothing of it is synced",
    ),
    (
        &["store delete_error"],
        &PHASES,
        "the engine deletes nothing: what no name leads to is removed by a collector, which is yet to come",
    ),
    (
        &["disk cut_file"],
        &[Phase::Serving, Phase::Writing, Phase::Stopping],
        "files are cut or removed while no process has them open; the next start meets it",
    ),
    (
        &[
            "store put_refused",
            "store put_doubtful",
            "store put_late",
            "store put_vanished",
        ],
        &[Phase::Starting, Phase::Serving],
        "only a writer puts, and while one is at work the phase is another",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_is_missing_or_rare_is_a_shortfall_and_an_excepted_one_is_not() {
        let mut counts = Counts::new();
        for fault in FAULTS {
            for phase in PHASES {
                counts.insert((fault, phase), PAIR_COUNT_MIN);
            }
        }
        assert_eq!(shortfalls(&counts), []);
        counts.remove(&("disk sync_lie", Phase::Serving));
        counts.remove(&("store put_late", Phase::Starting));
        assert_eq!(shortfalls(&counts), []);
        counts.remove(&("store put_late", Phase::Stopping));
        counts.insert(("disk rot", Phase::Writing), PAIR_COUNT_MIN - 1);
        let expected = [
            ("disk rot", Phase::Writing, PAIR_COUNT_MIN - 1),
            ("store put_late", Phase::Stopping, 0),
        ];
        assert_eq!(shortfalls(&counts), expected);
    }

    #[test]
    fn faults_are_counted_in_the_phase_they_happen_in() {
        let coverage = Coverage::default();
        coverage.count("disk rot");
        coverage.enter(Phase::Writing);
        coverage.clone().count("disk rot");
        coverage.count("disk rot");
        let expected = [
            (("disk rot", Phase::Starting), 1),
            (("disk rot", Phase::Writing), 2),
        ];
        assert_eq!(coverage.counts(), Counts::from(expected));
    }
}
