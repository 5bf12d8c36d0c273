//! `pageserver time`: when an LSN was, and which LSN a time is.

use clap::Args;
use engine::{BranchHandle, Core};
use serde_json::json;

use super::{Context, scratch_engine};
use crate::address::{Point, PointAddress};
use crate::exit::Failure;
use crate::times;

const EXAMPLES: &str = "\
Examples:
  pageserver time acme/main                           when the last transaction that is there ended
  pageserver time acme/main@0/16B3748                 when the last one before an LSN ended
  pageserver time acme/main@2026-11-27T20:15:00Z      the LSN at which a recovery to that time stops
  pageserver time acme/main@-10m                      the same for ten minutes ago

Times are the ends of transactions by the clock of the cluster's own server, to the microsecond; an LSN is found as
recovery_target_time finds it: up to the first commit or abort that is later. Reads the object store: what a running
server has in memory only (at most follow.flush_after) is not seen.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TimeArguments {
    /// Where: tenant/branch, tenant/branch@LSN, tenant/branch@TIME, or tenant/branch@-10m for ten minutes ago.
    address: PointAddress,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(context: &Context, arguments: &TimeArguments) -> Result<(), Failure> {
    let PointAddress { branch, at } = &arguments.address;
    let lsn = match at {
        None => None,
        Some(Point::Lsn(lsn)) => Some(*lsn),
        Some(point) => Some(scratch_engine::lsn_of(context, branch, *point)?),
    };
    let asked = async move |core: &Core, branch: &BranchHandle| {
        let lsn = lsn.unwrap_or(branch.last_lsn());
        times::time_of(core, branch, lsn)
            .await
            .map(|time| (lsn, time))
    };
    let (lsn, time) = scratch_engine::ask(context, branch, asked)?;
    let time = time.map(|time| time.to_string());
    if arguments.json {
        println!("{}", json!({ "lsn": lsn.to_string(), "latest_end": time }));
    } else {
        println!(
            "{lsn}  {}",
            time.as_deref().unwrap_or("no transaction had ended")
        );
    }
    Ok(())
}
