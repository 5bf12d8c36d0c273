//! What the tests of the whole are made of: harness of black-box tests, simulation, golden files.
//!
//! - [`tools`]: where `tests/run` put the servers that play object stores.
#![forbid(unsafe_code)]

pub mod tools;
