//! `pageserver attach` and `detach`: a branch begins and ceases to follow a running Postgres.

use std::path::PathBuf;

use clap::Args;
use engine::catalog::CatalogError;
use engine::types::Id;
use postgres::import::{ImportSource, REPLAY_BYTES_DEFAULT};
use postgres::replication::{
    BackupOptions, CheckpointPace, Connection, ConnectionSettings, PrimaryFacts, SlotCreation,
    SlotName, check_new_primary, create_slot, drop_slot, stop_consequences,
};

use super::Context;
use super::admin_client::AdminClient;
use super::import::{Display, connection_settings};
use crate::address::BranchAddress;
use crate::config::Size;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure, OrExit};
use crate::follow::attachment::{Ack, Attachment};
use crate::import_job::{self, runtime};

const EXAMPLES: &str = "\
Examples:
  pageserver attach \"host=db1 user=replicator\" shop/main
  pageserver attach --ack object-store \"host=db1 user=replicator application_name=pages1\" shop/main

  pageserver attach --slot pageserver_9863680f \"host=db1 user=replicator\" shop/main      goes on, after detach --keep-slot
                                                                or the loss of the data directory

Takes a base backup of the cluster, which may be at work, and from then on follows it as a standby does: every version of
every page, readable within milliseconds. `pageserver serve` does the following, and may run already.

The role needs REPLICATION, and access to both replication and its database in pg_hba.conf (the slot is moved by a function
of SQL). The server needs wal_level replica or more, a free walsender and a free replication slot. PGHOST, PGPORT, PGUSER,
PGPASSWORD, PGPASSFILE, PGSSLMODE and PGSSLROOTCERT fill in what the connection string leaves out, here and in `serve`; the
string is kept in the data directory, so a password is better in the password file.

The slot keeps WAL on the primary until the object store has it. To have commits wait for this server, name its
application_name (default pageserver) in synchronous_standby_names, best as one of several: ANY 1 (pageserver, standby2).
A branch that is there already goes on where it ends, if it is of this cluster and the primary still has its WAL from there
on: name the slot that kept it.

With --ack local a commit that was acknowledged survives kill -9 and power loss; with --ack object-store the loss of this
machine as well.";

const DETACH_EXAMPLES: &str = "\
Examples:
  pageserver detach shop/main               and drops the slot on the primary
  pageserver detach --keep-slot shop/main   to be attached again

The branch stays as it is, readable up to its last LSN: the server stores what it has received before it lets go. Without a
server (or with one that is not found: --url) the slot is kept, since what was received may be on the local disk only: start
one, and detach again.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AttachArguments {
    /// Connection string of the primary.
    primary: String,
    /// The branch, new or there already: tenant/branch.
    branch: BranchAddress,
    /// What acknowledgements to the primary wait for.
    #[arg(long, value_enum, default_value_t = Ack::Local)]
    ack: Ack,
    /// Replication slot: made, or used if it is there [default: a new one, pageserver_ and eight random hex digits].
    #[arg(long)]
    slot: Option<SlotName>,
    /// Begins with this backup, what `pg_basebackup -Ft` wrote, instead of taking one. The WAL behind it has to be on the
    /// primary still: make the slot before the backup, and name it.
    #[arg(long, value_name = "PATH")]
    backup: Option<PathBuf>,
    /// Makes the tenant if it is not there.
    #[arg(long)]
    create_tenant: bool,
    /// Lets the server take its time for the first checkpoint, instead of hurrying it.
    #[arg(long)]
    spread_checkpoint: bool,
    /// Memory for pages that the WAL of the backup changed.
    #[arg(long, value_name = "SIZE", default_value_t = Size(REPLAY_BYTES_DEFAULT as u64))]
    replay_memory: Size,
    /// Where the admin API of the server is [default: as configured].
    #[arg(long)]
    url: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = DETACH_EXAMPLES)]
pub(super) struct DetachArguments {
    /// The branch: tenant/branch.
    branch: BranchAddress,
    /// Leaves the replication slot on the primary: it keeps WAL until the branch is attached again or the slot dropped.
    #[arg(long)]
    keep_slot: bool,
    /// Where the admin API of the server is [default: as configured].
    #[arg(long)]
    url: Option<String>,
}

pub(super) fn attach(context: &Context, arguments: &AttachArguments) -> Result<(), Failure> {
    let settings = connection_settings(context, &arguments.primary).or_exit(Exit::Usage)?;
    let deployment = Deployment::open(&context.deployment()?)?;
    let runtime = runtime().or_exit(Exit::Other)?;
    runtime.block_on(deployment.probe())?;
    let BranchAddress { tenant, branch } = &arguments.branch;
    if arguments.create_tenant
        && let Err(CatalogError::NoSuchTenant(_)) =
            runtime.block_on(deployment.catalog.find_tenant(tenant))
    {
        runtime.block_on(deployment.catalog.create_tenant(tenant))?;
    }
    let found = runtime.block_on(deployment.catalog.find_tenant(tenant))?;
    let tenant_id = found.id();
    let existing = match runtime.block_on(deployment.catalog.find_branch(&found, branch)) {
        Ok(id) => Some(id),
        Err(CatalogError::NoSuchBranch { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if existing.is_some() && arguments.backup.is_some() {
        let error = format!(
            "{} is there already: it can't begin with a backup",
            arguments.branch
        );
        return Err(Failure::new(Exit::Refused, error).hint("name a new branch"));
    }

    let dir = context.data_dir.attached();
    let attached = Attachment::all(&dir).or_exit(Exit::Other)?;
    let is_this = |attachment: &Attachment| {
        existing.is_some_and(|id| attachment.ids() == Some((tenant_id, id)))
    };
    if attached.iter().any(is_this) {
        let error = format!("{} follows a primary already", arguments.branch);
        let hint = format!("`pageserver detach {}` ends that", arguments.branch);
        return Err(Failure::new(Exit::Refused, error).hint(hint));
    }

    let slot = match &arguments.slot {
        Some(slot) => slot.clone(),
        None => random_slot(deployment.draw_id()),
    };
    let facts = check_new_primary(&settings, Some(&slot))
        .or_exit(Exit::Refused)?
        .facts;
    context.data_dir.create().or_exit(Exit::Other)?;
    let is_new = make_slot(&settings, &slot, arguments.slot.is_some())?;
    let id = match existing {
        Some(id) => {
            println!(
                "{id}  {}  goes on where it ends; slot {slot}",
                arguments.branch
            );
            id
        }
        None => match import(arguments, &deployment, &settings) {
            Ok(imported) => {
                println!(
                    "{}  {}  readable from {}; slot {slot}",
                    imported.branch, arguments.branch, imported.summary.stop_lsn
                );
                imported.branch
            }
            Err(failure) => {
                // Or else it would keep WAL for nobody.
                if is_new {
                    remove_slot(&settings, &slot);
                }
                return Err(failure);
            }
        },
    };
    deployment.close();
    let attachment = Attachment {
        tenant: tenant_id.to_string(),
        branch: id.to_string(),
        name: arguments.branch.to_string(),
        connection: arguments.primary.clone(),
        slot: slot.to_string(),
        ack: arguments.ack,
    };
    attachment.save(&dir).or_exit(Exit::Other)?;
    for line in consequences(&facts, &slot, &settings) {
        println!("{line}");
    }
    match tell_server(context, arguments.url.as_deref()) {
        Ok(()) => println!("{branch} follows the primary: `pageserver status` tells how"),
        Err(_) => println!("{branch} will follow the primary as soon as `pageserver serve` runs"),
    }
    Ok(())
}

fn import(
    arguments: &AttachArguments,
    deployment: &Deployment,
    settings: &ConnectionSettings,
) -> Result<import_job::Imported, Failure> {
    let checkpoint = if arguments.spread_checkpoint {
        CheckpointPace::Spread
    } else {
        CheckpointPace::Fast
    };
    let source = match &arguments.backup {
        Some(path) => ImportSource::of_path(path).or_exit(Exit::NotFound)?,
        None => ImportSource::RunningCluster(settings.clone(), BackupOptions { checkpoint }),
    };
    let mut display = Display::new("backed up");
    let imported = import_job::run(
        &deployment.catalog,
        &arguments.branch.tenant,
        &arguments.branch.branch,
        &source,
        usize::try_from(arguments.replay_memory.0).unwrap_or(usize::MAX),
        &mut |done, total| display.show(done, total),
    );
    display.finish();
    Ok(imported?)
}

pub(super) fn detach(context: &Context, arguments: &DetachArguments) -> Result<(), Failure> {
    let dir = context.data_dir.attached();
    let name = arguments.branch.to_string();
    let all = Attachment::all(&dir).or_exit(Exit::Other)?;
    let is_meant = |attachment: &&Attachment| {
        attachment.name == name || format!("{}/{}", attachment.tenant, attachment.branch) == name
    };
    let Some(attachment) = all.iter().find(is_meant) else {
        let error = format!("{name} is not attached to a primary");
        return Err(Failure::new(Exit::NotFound, error));
    };
    let settings = connection_settings(context, &attachment.connection).or_exit(Exit::Usage)?;
    let slot: SlotName = attachment.slot.parse().or_exit(Exit::Other)?;
    attachment.remove(&dir).or_exit(Exit::Other)?;
    let told = tell_server(context, arguments.url.as_deref());
    let drop_it = format!("select pg_drop_replication_slot('{slot}');");
    match &told {
        Ok(()) => println!("{name} does not follow its primary any more"),
        Err(failure) => {
            // What was received last may be in the local WAL only: the next to follow takes it from there, or from the primary.
            println!(
                "{name} will not follow its primary any more; no server was told ({})",
                failure.error
            );
        }
    }
    if arguments.keep_slot || told.is_err() {
        println!(
            "the slot {slot} keeps WAL on the primary until the branch is attached again with --slot {slot}, or it is dropped:\n  \
             {drop_it}"
        );
    } else {
        match connect_and_drop(&settings, &slot) {
            Ok(true) => println!("the slot {slot} is dropped"),
            Ok(false) => println!("the slot {slot} was not there any more"),
            Err(failure) => println!(
                "the slot {slot} was not dropped ({}): it keeps WAL on the primary until it is:\n  {drop_it}",
                failure.error
            ),
        }
    }
    println!(
        "if {0} is in the primary's synchronous_standby_names, commits wait until it is not:\n  \
         alter system set synchronous_standby_names = '...'; select pg_reload_conf();",
        settings.application_name
    );
    Ok(())
}

fn random_slot(id: Id) -> SlotName {
    let text = format!("pageserver_{}", &id.to_string()[..8]);
    text.parse().expect("letters, an underscore and hex digits")
}

/// Whether it was made; one that is there is used if it was named.
fn make_slot(
    settings: &ConnectionSettings,
    slot: &SlotName,
    is_named: bool,
) -> Result<bool, Failure> {
    let mut connection = Connection::open(settings).or_exit(Exit::Unavailable)?;
    match create_slot(&mut connection, slot).or_exit(Exit::Refused)? {
        SlotCreation::Created(_) => Ok(true),
        SlotCreation::Existed(_) if is_named => Ok(false),
        SlotCreation::Existed(_) => Err(Failure::new(
            Exit::Refused,
            format!("the slot {slot} is there already"),
        )
        .hint("name another one with --slot, or drop it")),
    }
}

fn connect_and_drop(settings: &ConnectionSettings, slot: &SlotName) -> Result<bool, Failure> {
    let mut connection = Connection::open(settings).or_exit(Exit::Unavailable)?;
    drop_slot(&mut connection, slot).or_exit(Exit::Refused)
}

fn remove_slot(settings: &ConnectionSettings, slot: &SlotName) {
    if let Err(failure) = connect_and_drop(settings, slot) {
        eprintln!(
            "the slot {slot} was not dropped ({}): select pg_drop_replication_slot('{slot}');",
            failure.error
        );
    }
}

fn consequences(
    facts: &PrimaryFacts,
    slot: &SlotName,
    settings: &ConnectionSettings,
) -> Vec<String> {
    stop_consequences(facts, Some(slot), &settings.application_name)
}

/// Makes a running server look again which branches follow.
fn tell_server(context: &Context, url: Option<&str>) -> Result<(), Failure> {
    let client = AdminClient::new(context, url, None, None)?;
    client.post("/v1/following/reload").map(drop)
}
