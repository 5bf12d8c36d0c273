//! `bench`: how fast the pageserver is, as ratios to what the machine could do at best, measured in the same run.
//!
//! Two baselines: the device ([`device`], the same reads by a plain ring) and the wire ([`wire`], the same answers
//! without reading). Subjects: a server over pagestream ([`pagestream`]) and the engine embedded. [`rounds`] lets them
//! take turns, [`counters`] asks the kernel what it cost, [`report`] says how it came out.
#![forbid(unsafe_code)]

mod access;
mod branches;
mod clock;
mod commands;
mod counters;
mod dataset;
mod device;
mod embedded;
mod error;
mod follow;
mod goals;
mod import;
mod latency;
mod options;
mod pages;
mod pagestream;
mod replay;
mod report;
mod rounds;
mod schedule;
mod server_child;
mod server_process;
mod sparse_cache;
mod store_get;
mod suite;
mod wire;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    match commands::run(options::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
