//! The deterministic simulation: the engine's own code on a simulated computer, driven by one seed.
//!
//! - [`rng`]: the seed, split into generators that do not disturb each other;
//! - [`trace`]: what happened, as a hash (and as text, when a seed is looked at);
//! - [`executor`]: tasks, processes that can be killed, virtual time;
//! - [`disk`], [`store`]: the disk and the object store, with their faults;
//! - [`key_source`]: the key service;
//! - [`computer`]: the engine's parts on that computer: start, stop, kill;
//! - [`model`]: the reference, a map of keys to their versions;
//! - [`workload`]: what is done to the engine, and the judgement of its answers;
//! - [`run`]: a seed in, a verdict out;
//! - [`coverage`]: which fault met which state of the engine, how often;
//! - [`redo`]: deltas that know no Postgres, of other tests too.
//!
//! Nothing here reads a clock, the environment or the system's randomness, and nothing iterates over a table whose
//! order is not its keys' own: a seed run twice gives the same trace.
#![forbid(unsafe_code)]

pub mod computer;
pub mod coverage;
pub mod disk;
pub mod executor;
pub mod key_source;
pub mod model;
pub mod redo;
pub mod rng;
pub mod run;
pub mod store;
pub mod trace;
pub mod workload;
