//! What the tests of the whole are made of: harness of black-box tests, simulation, golden files.
//!
//! - [`postgres`]: throw-away clusters;
//! - [`tools`]: where `tests/run` put the servers that play object stores.
//! - [`sim`]: the deterministic simulation.
#![forbid(unsafe_code)]

pub mod postgres;
pub mod sim;
pub mod tools;
