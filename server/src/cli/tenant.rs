//! `pageserver tenant`: makes and lists tenants. Talks to store and keys; no server has to run.

use clap::{Args, Subcommand};

use super::Context;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure, OrExit};
use crate::import_job::runtime;

const EXAMPLES: &str = "\
Examples:
  pageserver tenant create acme
  pageserver tenant list --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TenantArguments {
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Makes a tenant, with a key of its own; prints its id.
    Create {
        /// Its name.
        name: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists tenants.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(context: &Context, arguments: &TenantArguments) -> Result<(), Failure> {
    let deployment = Deployment::open(&context.deployment()?)?;
    let runtime = runtime().or_exit(Exit::Other)?;
    match &arguments.command {
        TenantCommand::Create { name, json } => {
            runtime.block_on(deployment.probe())?;
            let tenant = runtime.block_on(deployment.catalog.create_tenant(name))?;
            let (id, name) = (tenant.id().to_string(), tenant.name());
            if *json {
                println!("{}", serde_json::json!({ "id": id, "name": name }));
            } else {
                println!("{id}  {name}");
            }
        }
        TenantCommand::List { json } => {
            let tenants = runtime.block_on(deployment.catalog.tenants())?;
            if *json {
                let view = |t: &std::sync::Arc<engine::catalog::Tenant>| serde_json::json!({ "id": t.id().to_string(), "name": t.name() });
                println!("{}", serde_json::Value::from_iter(tenants.iter().map(view)));
            } else {
                tenants
                    .iter()
                    .for_each(|t| println!("{}  {}", t.id(), t.name()));
            }
        }
    }
    deployment.close();
    Ok(())
}
