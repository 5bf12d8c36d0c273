//! What the tests of the whole are made of: harness of black-box tests, simulation, golden files.
//!
//! - [`postgres`]: throw-away clusters;
//! - [`tools`]: where `tests/run` put the servers that play object stores.
//! - [`sim`]: the deterministic simulation.
//! - [`object_contract`]: what every object store must do; [`stores`]: servers that play them; [`gcs_stub`].
#![forbid(unsafe_code)]

pub mod engine;
pub mod gcs_stub;
pub mod object_contract;
pub mod postgres;
pub mod sim;
pub mod stores;
pub mod tools;
