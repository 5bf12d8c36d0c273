//! The command line: one file per subcommand. Arguments are read here; everything a command needs comes in through
//! [`Surroundings`], so that nothing below reads the environment.

mod admin_client;
mod attach;
mod branch;
mod check;
mod demo;
mod get;
mod import;
mod init;
mod key;
mod scratch_engine;
mod scrub;
mod serve;
mod status;
mod tenant;
mod time;
mod wal;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use engine::crypto::entropy::Entropy;
use engine::crypto::keyring::Keyring;

use crate::config::{Config, ConfigError, LogConfig, LogFormat};
use crate::data_dir::{DataDir, DataDirError, DataDirLock};
use crate::deployment::{DeploymentConfig, DeploymentError};
use crate::exit::{Exit, Failure, OrExit};
use crate::logging;

const EXAMPLES: &str = "\
Examples:
  pageserver demo                                     the whole of it on this machine, in a minute
  pageserver init                                     data directory, configuration, keyring
  pageserver import \"host=db1 user=replicator\" acme/main
  pageserver attach \"host=db1 user=replicator\" acme/live
  pageserver serve
  pageserver get acme/main --rel 1663/5/1259 --block 0 --header

Addresses are written tenant/branch or tenant/branch@LSN; tenants and branches go by name or by id (32 hex digits).

Exit codes:
  0  done
  1  something else failed
  2  the command line makes no sense
  3  the configuration is missing, unreadable or invalid
  4  no such tenant, branch or page
  5  store, key provider or server did not answer; try again
  6  another server has the data directory, or somebody has the port
  7  something stored is damaged
  8  refused, for the reason in the message";

/// The storage layer for unmodified PostgreSQL: pages of a cluster, at any LSN, from sealed objects in object storage.
#[derive(Debug, Parser)]
#[command(name = "pageserver", version, after_help = EXAMPLES, max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    common: CommonArguments,
    #[command(subcommand)]
    command: Command,
}

/// Where help lists what all commands take.
const COMMON: &str = "Options of all commands";

#[derive(Debug, Args)]
struct CommonArguments {
    /// What is local to this server: configuration, cache, and the object store where none is configured.
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        value_name = "DIR",
        default_value = "./pageserver-data",
        env = "PAGESERVER_DATA_DIR"
    )]
    data_dir: PathBuf,
    /// Configuration file [default: pageserver.toml in the data directory].
    #[arg(long, global = true, help_heading = COMMON, value_name = "FILE", env = "PAGESERVER_CONFIG")]
    config: Option<PathBuf>,
    /// Keyring file; beats the configuration.
    #[arg(long, global = true, help_heading = COMMON, value_name = "FILE", env = "PAGESERVER_KEYRING")]
    keyring: Option<PathBuf>,
    /// Object store; beats the configuration.
    #[arg(long, global = true, help_heading = COMMON, value_name = "URL", env = "PAGESERVER_STORE")]
    store: Option<String>,
    /// How log lines look; beats the configuration.
    #[arg(long, global = true, help_heading = COMMON, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged, like `info` or `engine=debug,info`; beats the configuration.
    #[arg(long, global = true, help_heading = COMMON, value_name = "FILTER", env = "PAGESERVER_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the whole of it on this machine: a throw-away cluster, imported, served, checked, measured.
    Demo(demo::DemoArguments),
    /// Makes the data directory, a commented configuration and a keyring.
    Init(init::InitArguments),
    /// Serves pages and the admin API until SIGTERM.
    Serve(serve::ServeArguments),
    /// Imports a PostgreSQL cluster: running, stopped, or as a backup tar.
    Import(import::ImportArguments),
    /// Imports a running cluster, and follows it from then on.
    Attach(attach::AttachArguments),
    /// Ends that; the branch stays.
    Detach(attach::DetachArguments),
    /// Makes and lists tenants.
    Tenant(tenant::TenantArguments),
    /// Makes, lists and changes branches.
    Branch(branch::BranchArguments),
    /// Shows one page.
    Get(get::GetArguments),
    /// Tells when an LSN was, and which LSN a time is.
    Time(time::TimeArguments),
    /// Asks a running server how it is.
    Status(status::StatusArguments),
    /// Checks configuration, keys, stores and machine before a start; or a branch, as it is stored.
    Check(check::CheckArguments),
    /// Reads every object and verifies its checksums; needs no key.
    Scrub(scrub::ScrubArguments),
    /// Writes keys to a safe place, and reads them back.
    Key(key::KeyArguments),
    /// Counts what is in WAL files; replays them and compares with what Postgres logged.
    Wal(wal::WalArguments),
}

/// What a process finds around it: the only way into the program for the environment.
#[derive(Debug, Default, Clone)]
pub struct Surroundings {
    /// `$XDG_CONFIG_HOME`, or `.config` in `$HOME`.
    pub config_home: Option<PathBuf>,
    /// All variables, for credentials of object stores.
    pub variables: BTreeMap<String, String>,
}

/// What every command gets.
struct Context {
    data_dir: DataDir,
    config: Config,
    config_path: PathBuf,
    /// The file was not there; `config` is the default.
    config_missing: bool,
    surroundings: Surroundings,
}

/// Runs the command in `arguments` (the program's name first).
/// # Errors
/// What failed, with the exit code.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    surroundings: Surroundings,
) -> Result<(), Failure> {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        // Help and version are no failures, and clap knows where to print what.
        Err(e) => e.exit(),
    };
    let context = Context::new(arguments.common, surroundings)?;
    let is_service = matches!(arguments.command, Command::Serve(_));
    let mut log = context.config.log.clone();
    if !is_service && log == LogConfig::default() {
        log.filter = "warn".to_owned();
    }
    logging::start(&log).or_exit(Exit::Config)?;
    match arguments.command {
        Command::Demo(arguments) => demo::run(&context, &arguments),
        Command::Init(arguments) => init::run(&context, &arguments),
        Command::Serve(arguments) => serve::run(context, &arguments),
        Command::Import(arguments) => import::run(&context, &arguments),
        Command::Attach(arguments) => attach::attach(&context, &arguments),
        Command::Detach(arguments) => attach::detach(&context, &arguments),
        Command::Tenant(arguments) => tenant::run(&context, &arguments),
        Command::Branch(arguments) => branch::run(&context, &arguments),
        Command::Get(arguments) => get::run(&context, &arguments),
        Command::Time(arguments) => time::run(&context, &arguments),
        Command::Status(arguments) => status::run(&context, &arguments),
        Command::Check(arguments) => check::run(&context, &arguments),
        Command::Scrub(arguments) => scrub::run(&context, &arguments),
        Command::Key(arguments) => key::run(&context, &arguments),
        Command::Wal(arguments) => wal::run(&context, &arguments),
    }
}

impl Context {
    fn new(common: CommonArguments, surroundings: Surroundings) -> Result<Context, Failure> {
        let data_dir = DataDir::new(std::path::absolute(&common.data_dir).or_exit(Exit::Usage)?);
        let config_path = common.config.clone().unwrap_or_else(|| data_dir.config());
        let loaded = Config::load(&config_path);
        let (mut config, config_missing) = match loaded {
            Ok(config) => (config, false),
            Err(ConfigError::Unreadable { source, .. })
                if common.config.is_none() && source.kind() == std::io::ErrorKind::NotFound =>
            {
                (Config::default(), true)
            }
            Err(e) => return Err(Failure::new(Exit::Config, e)),
        };
        if let Some(keyring) = common.keyring {
            config.keys.keyring = keyring;
        }
        if let Some(store) = common.store {
            config.store.url = store;
        }
        if let Some(format) = common.log_format {
            config.log.format = format;
        }
        if let Some(filter) = common.log {
            config.log.filter = filter;
        }
        config.validate().or_exit(Exit::Config)?;
        Ok(Context {
            data_dir,
            config,
            config_path,
            config_missing,
            surroundings,
        })
    }

    /// Where the keyring is.
    fn keyring_path(&self) -> Result<PathBuf, Failure> {
        let configured = &self.config.keys.keyring;
        if !configured.as_os_str().is_empty() {
            return std::path::absolute(configured).or_exit(Exit::Config);
        }
        match &self.surroundings.config_home {
            Some(home) => Ok(home.join("pageserver").join("keyring")),
            None => {
                let error =
                    "neither HOME nor XDG_CONFIG_HOME is set, so there is no place for a keyring";
                Err(Failure::new(Exit::Config, error).hint("name one with --keyring FILE"))
            }
        }
    }

    /// The local places that must not hold the keyring.
    fn places_of_data(&self) -> Vec<PathBuf> {
        let store = self.store_url();
        let local = store.strip_prefix("file://").map(PathBuf::from);
        std::iter::once(self.data_dir.path().to_owned())
            .chain(local)
            .collect()
    }

    fn open_keyring(&self) -> Result<Keyring, Failure> {
        let path = self.keyring_path()?;
        let places = self.places_of_data();
        let places: Vec<&Path> = places.iter().map(AsRef::as_ref).collect();
        Keyring::open(&path, &places, Entropy::system())
            .map_err(|e| Failure::from(DeploymentError::from(e)))
    }

    /// Store and keys, to be opened.
    fn deployment(&self) -> Result<DeploymentConfig, Failure> {
        Ok(DeploymentConfig {
            store_url: self.store_url(),
            variables: self.surroundings.variables.clone(),
            keyring: self.keyring_path()?,
            places_of_data: self.places_of_data(),
            store_threads: usize::try_from(self.config.runtime.store_threads).expect("validated"),
        })
    }

    /// Takes the data directory for this process.
    fn lock(&self) -> Result<DataDirLock, Failure> {
        self.data_dir.lock().map_err(|e| match &e {
            DataDirError::InUse { .. } => Failure::new(Exit::InUse, e),
            DataDirError::Io { .. } => Failure::new(Exit::Other, e),
        })
    }

    /// The object store's URL.
    fn store_url(&self) -> String {
        if self.config.store.url.is_empty() {
            format!("file://{}", self.data_dir.objects().display())
        } else {
            self.config.store.url.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_lists_every_exit_code() {
        for (exit, meaning) in Exit::ALL {
            let line = format!("  {}  {meaning}", exit.code());
            assert!(EXAMPLES.contains(&line), "{line}");
        }
    }
}
