//! Which fault met which state of the engine, how often. A run counts; the counts of all seeds of CI are added up,
//! and every pair that can happen must have happened often enough.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What the engine as a whole is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// The process starts: cache index, manifests, keys are read.
    Starting,
    /// Reads are answered.
    Serving,
    /// A writer uploads layers and commits, reads go on.
    Writing,
    /// A clean stop: the cache index is saved.
    Stopping,
}

/// Counts of (fault, phase).
pub type Counts = BTreeMap<(&'static str, Phase), u64>;

/// The counters of one run. Clones share them.
#[derive(Clone)]
pub struct Coverage(Rc<Inner>);

struct Inner {
    phase: Cell<Phase>,
    counts: RefCell<Counts>,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage(Rc::new(Inner {
            phase: Cell::new(Phase::Starting),
            counts: RefCell::default(),
        }))
    }
}

impl Coverage {
    /// From now on the engine is in `phase`.
    pub fn enter(&self, phase: Phase) {
        self.0.phase.set(phase);
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.0.phase.get()
    }

    /// `fault` happened now.
    pub fn count(&self, fault: &'static str) {
        *self
            .0
            .counts
            .borrow_mut()
            .entry((fault, self.phase()))
            .or_default() += 1;
    }

    /// All counts so far.
    pub fn counts(&self) -> Counts {
        self.0.counts.borrow().clone()
    }
}

/// Adds the counts of another run.
pub fn merge(into: &mut Counts, from: &Counts) {
    for (pair, count) in from {
        *into.entry(*pair).or_default() += count;
    }
}
