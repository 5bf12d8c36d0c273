//! The `pageserver` binary as a library: its frontends and its command line, over the engine's public API.
//!
//! - [`cli`]: the command line;
//! - [`config`], [`access`], [`data_dir`], [`logging`]: what a server is set up from;
//! - [`deployment`]: an object store and the keys to it; [`catalog`]: its tenants and branches; [`import_job`]: a cluster
//!   that becomes a branch;
//! - [`follow`]: branches that follow a running Postgres; [`primary_connection`]: how one is connected to;
//! - [`node`]: a server in this process; [`running`]: what its admin service knows of it; [`branch_maker`]: branches of
//!   branches, made by it;
//! - [`pagestream`]: the service for pages; [`admin`]: the service for people and machines around it;
//! - [`address`], [`times`], [`relations`], [`exit`]: how data is named, when it was, what is in a branch, how commands end.
#![forbid(unsafe_code)]

pub mod access;
pub mod address;
pub mod admin;
pub mod branch_maker;
pub mod catalog;
pub mod cli;
pub mod config;
mod cpu;
pub mod data_dir;
pub mod deployment;
pub mod exit;
pub mod follow;
pub mod import_job;
pub mod logging;
pub mod node;
pub mod pagestream;
pub mod primary_connection;
pub mod relations;
pub mod running;
mod shards;
pub mod times;
