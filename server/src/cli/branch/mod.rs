//! `pageserver branch`: makes, lists and changes branches. Talks to store and keys; no server has to run.

mod changes;
mod tree;

use std::sync::Arc;

use clap::{Args, Subcommand};
use engine::catalog::Tenant;
use tokio::runtime::Runtime;

use super::{Context, scratch_engine};
use crate::address::{BranchAddress, PointAddress};
use crate::catalog::ServerCatalog;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure, OrExit};
use crate::import_job::runtime;

const EXAMPLES: &str = "\
Examples:
  pageserver branch create acme/dev --from acme/main              as main is now
  pageserver branch create acme/dev --from acme/main@0/16B3748    as it was at an LSN
  pageserver branch create acme/dev --from acme/main@2026-11-27T20:15:00Z
  pageserver branch create acme/dev --from acme/main@-10m         as it was ten minutes ago
  pageserver branch list acme
  pageserver branch reset acme/dev                                main as it is now, once more
  pageserver branch restore acme/main@0/16B3748                   main as it was; what it is now stays a branch
  pageserver branch delete acme/dev

A branch is a line of history of its own. It shares with its parent everything up to where it left it: nothing is copied, so
making one takes a moment whatever the size, and what is written to the one is not seen by the other. Branches of branches are
branches.

Talks to the object store and the keyring only: a server may run beside it on the same store, or none.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BranchArguments {
    #[command(subcommand)]
    command: BranchCommand,
}

#[derive(Debug, Subcommand)]
enum BranchCommand {
    /// Lists branches as a tree, with the LSNs that can be read and their sizes.
    #[command(after_help = LIST_HELP)]
    List {
        /// Of this tenant only, by name or id.
        tenant: Option<String>,
        /// As JSON, parents before their children.
        #[arg(long)]
        json: bool,
    },
    /// Makes a branch of a branch.
    #[command(after_help = CREATE_HELP)]
    Create {
        /// The new branch: tenant/branch.
        branch: BranchAddress,
        /// The branch that it continues, and from when on: tenant/branch, tenant/branch@LSN, tenant/branch@TIME, or
        /// tenant/branch@-10m for ten minutes ago.
        #[arg(long, value_name = "ADDRESS")]
        from: PointAddress,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Takes a branch's name away.
    #[command(after_help = DELETE_HELP)]
    Delete {
        /// Which: tenant/branch.
        branch: BranchAddress,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Gives a branch another name.
    Rename {
        /// Which: tenant/branch.
        branch: BranchAddress,
        /// Its new name, without the tenant.
        name: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Protects a branch from being deleted and reset.
    Protect {
        /// Which: tenant/branch.
        branch: BranchAddress,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Protects a branch no longer.
    Unprotect {
        /// Which: tenant/branch.
        branch: BranchAddress,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lets a branch begin anew at its parent.
    #[command(after_help = RESET_HELP)]
    Reset {
        /// Which: tenant/branch.
        branch: BranchAddress,
        /// LSN of the parent [default: its last one].
        #[arg(long, value_name = "LSN")]
        to: Option<engine::types::Lsn>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Brings an earlier state of a branch back under its name.
    #[command(after_help = RESTORE_HELP)]
    Restore {
        /// Which, and as it was when: tenant/branch@LSN, tenant/branch@TIME, or tenant/branch@-10m for ten minutes ago.
        point: PointAddress,
        /// What the branch as it is now is to be called [default: NAME-before-LSN].
        #[arg(long, value_name = "NAME")]
        keep_as: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

const LIST_HELP: &str = "\
Children are below their parents. OWN is what a branch has written, SHARED all that the branches above it have, of which it
can read what they had written before it left. A branch without a name was reset, or deleted while a child of it was
made; it is there for its children.";

const CREATE_HELP: &str = "\
Without an LSN the branch begins at the last one of its parent. It can begin wherever the parent can be read: `branch list`
shows from where to where. A time is taken as recovery_target_time takes it, up to the first commit or abort that is later;
`pageserver time` shows which LSN that is. What a server that follows has in memory only is not there yet: it is flushed within
follow.flush_after.";

const DELETE_HELP: &str = "\
Refused while the branch has children or is protected. The name is free at once. What the branch has written stays in the
object store until garbage is collected, and until then the branch is found by its id.";

const RESET_HELP: &str = "\
The name moves to a new branch of the same parent. What was written to the old one can then be found by its id only, until
garbage is collected; its children keep what they read of it. Refused for a branch that is protected.";

const RESTORE_HELP: &str = "\
The name moves to a new branch, which continues the old one from that LSN on. The old one is kept under another name, with
everything that was written since, and so are its children: `branch rename` undoes it.";

pub(super) fn run(context: &Context, arguments: &BranchArguments) -> Result<(), Failure> {
    let lsn_of = |address: &PointAddress| match address.at {
        Some(point) => scratch_engine::lsn_of(context, &address.branch, point).map(Some),
        None => Ok(None),
    };
    // Before anything else is open: a time takes an engine to find.
    let at = match &arguments.command {
        BranchCommand::Create { from: point, .. } | BranchCommand::Restore { point, .. } => {
            lsn_of(point)?
        }
        _ => None,
    };
    let deployment = Deployment::open(&context.deployment()?)?;
    let session = Session {
        runtime: runtime().or_exit(Exit::Other)?,
        deployment,
    };
    match &arguments.command {
        BranchCommand::List { tenant, json } => tree::list(&session, tenant.as_deref(), *json)?,
        BranchCommand::Create { branch, from, json } => {
            changes::create(&session, branch, (&from.branch, at), *json)?;
        }
        BranchCommand::Delete { branch, json } => changes::delete(&session, branch, *json)?,
        BranchCommand::Rename { branch, name, json } => {
            changes::rename(&session, branch, name, *json)?;
        }
        BranchCommand::Protect { branch, json } => {
            changes::protect(&session, branch, true, *json)?;
        }
        BranchCommand::Unprotect { branch, json } => {
            changes::protect(&session, branch, false, *json)?;
        }
        BranchCommand::Reset { branch, to, json } => {
            changes::reset(&session, branch, *to, *json)?;
        }
        BranchCommand::Restore {
            point,
            keep_as,
            json,
        } => changes::restore(&session, (&point.branch, at), keep_as.as_deref(), *json)?,
    }
    session.deployment.close();
    Ok(())
}

/// Store and keys, and what runs the calls to them.
struct Session {
    runtime: Runtime,
    deployment: Deployment,
}

impl Session {
    fn catalog(&self) -> &ServerCatalog {
        &self.deployment.catalog
    }

    /// The tenant of an address in which names are going to be written.
    fn tenant_to_change(&self, address: &BranchAddress) -> Result<Arc<Tenant>, Failure> {
        self.runtime.block_on(self.deployment.probe())?;
        let found = self.catalog().find_tenant(&address.tenant);
        Ok(self.runtime.block_on(found)?)
    }
}
