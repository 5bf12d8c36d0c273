//! `pageserver check`: is everything there that a start needs? And of a branch: is all of it there, and as it should be?

mod branch;
mod machine;

use clap::Args;

use super::Context;
use crate::address::BranchAddress;
use crate::exit::Failure;

const EXAMPLES: &str = "\
Examples:
  pageserver check
  pageserver check acme/main
  pageserver check acme/main --deep --json

Without a branch: every line says what of this machine and its configuration was looked at, and, where it is not fit,
what to do. Exit code 3 if anything is unfit. Changes nothing but a probe object that it deletes again.

With a branch: compares its manifest with what the object store has, and opens the WAL behind its layers. --deep reads
every layer, opens every block, replays every change on the page before it, and looks at the headers of pages that can
be read. Needs the store and the keys, no server; beside one that writes it may call a layer missing that was merged
and deleted meanwhile. What a branch reads of its parent is checked with the parent. Changes nothing.
Exit code 7 if anything is missing or damaged.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArguments {
    /// A branch: tenant/branch.
    branch: Option<BranchAddress>,
    /// Reads all of the branch.
    #[arg(long, requires = "branch")]
    deep: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(context: &Context, arguments: &CheckArguments) -> Result<(), Failure> {
    match &arguments.branch {
        Some(address) => branch::run(context, address, arguments),
        None => machine::run(context, arguments.json),
    }
}
