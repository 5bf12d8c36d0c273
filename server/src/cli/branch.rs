//! `pageserver branch`: lists branches. Talks to store and keys; no server has to run.

use clap::{Args, Subcommand};
use engine::catalog::BranchSummary;

use super::Context;
use super::import::human;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure, OrExit};
use crate::import_job::runtime;

const EXAMPLES: &str = "\
Examples:
  pageserver branch list            of all tenants
  pageserver branch list acme --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BranchArguments {
    #[command(subcommand)]
    command: BranchCommand,
}

#[derive(Debug, Subcommand)]
enum BranchCommand {
    /// Lists branches with the LSNs that can be read.
    List {
        /// Of this tenant only, by name or id.
        tenant: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(context: &Context, arguments: &BranchArguments) -> Result<(), Failure> {
    let BranchCommand::List { tenant, json } = &arguments.command;
    let deployment = Deployment::open(&context.deployment()?)?;
    let runtime = runtime().or_exit(Exit::Other)?;
    let catalog = &deployment.catalog;
    let tenants = match tenant {
        Some(tenant) => vec![runtime.block_on(catalog.find_tenant(tenant))?],
        None => runtime.block_on(catalog.tenants())?,
    };
    let mut listed = Vec::new();
    for tenant in &tenants {
        for branch in runtime.block_on(catalog.branches(tenant))? {
            if *json {
                listed.push(as_json(&tenant.id().to_string(), tenant.name(), &branch));
            } else {
                println!(
                    "{}  {}/{}  {}..{}  {} in {} {}",
                    branch.id,
                    tenant.name(),
                    branch.name,
                    branch
                        .readable_from
                        .map_or("-".to_owned(), |lsn| lsn.to_string()),
                    branch.last_lsn,
                    human(branch.layer_bytes),
                    branch.layers,
                    if branch.layers == 1 {
                        "layer"
                    } else {
                        "layers"
                    },
                );
            }
        }
    }
    if *json {
        println!("{}", serde_json::Value::Array(listed));
    }
    deployment.close();
    Ok(())
}

fn as_json(tenant_id: &str, tenant: &str, branch: &BranchSummary) -> serde_json::Value {
    serde_json::json!({
        "tenant_id": tenant_id,
        "tenant": tenant,
        "id": branch.id.to_string(),
        "name": branch.name,
        "readable_from": branch.readable_from.map(|lsn| lsn.to_string()),
        "last_lsn": branch.last_lsn.to_string(),
        "layers": branch.layers,
        "layer_bytes": branch.layer_bytes,
    })
}
