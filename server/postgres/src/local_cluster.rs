//! A throw-away cluster of the stock binaries found on this machine: for the demo, and for tests.
//!
//! Postgres refuses to run as root, so when this process does, the cluster's commands run as another user
//! (`postgres` if there is one, else `nobody`) by util-linux's `setpriv`, and the folder belongs to that user. The
//! server listens on a free port of 127.0.0.1 and has its socket in the cluster's own folder. Dropping a cluster stops
//! the server it started, and only that.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Why a cluster could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum LocalClusterError {
    /// No server binaries anywhere.
    #[error(
        "no PostgreSQL server found (looked for initdb in {looked}); on Debian install the package \"postgresql\""
    )]
    NoBinaries {
        /// Where was looked.
        looked: String,
    },
    /// Running as root, and no user to switch to.
    #[error(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as"
    )]
    NoUser,
    /// A file operation.
    #[error("{}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A command could not be started.
    #[error("{program}: not started")]
    NotStarted {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A command said no.
    #[error("{program}: {status}: {output}")]
    Failed {
        /// Which.
        program: String,
        /// Exit status.
        status: std::process::ExitStatus,
        /// What it printed.
        output: String,
    },
}

/// The folder of a stock Postgres's binaries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Looks for `initdb` and `postgres`: in `preferred` if given (and nowhere else), then in
    /// `/usr/lib/postgresql/*/bin` (the highest version), then in the folders of `search_path` (the value of PATH).
    /// # Errors
    /// None found.
    pub fn find(
        preferred: Option<&Path>,
        search_path: Option<&OsStr>,
    ) -> Result<Binaries, LocalClusterError> {
        let candidates = match preferred {
            Some(folder) => vec![folder.to_owned()],
            None => {
                let mut folders = versioned_folders();
                folders.extend(search_path.iter().flat_map(std::env::split_paths));
                folders
            }
        };
        let has = |folder: &PathBuf| {
            ["initdb", "postgres", "pg_ctl"]
                .iter()
                .all(|name| folder.join(name).is_file())
        };
        match candidates.iter().find(|folder| has(folder)) {
            Some(folder) => Ok(Binaries {
                folder: folder.clone(),
            }),
            None => Err(LocalClusterError::NoBinaries {
                looked: candidates
                    .iter()
                    .map(|folder| folder.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// Path of a program, `pgbench` for example; it need not exist.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether the program is there.
    pub fn has(&self, name: &str) -> bool {
        self.program(name).is_file()
    }
}

/// How a cluster is made.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Pages carry checksums.
    pub data_checksums: bool,
    /// Megabytes of a WAL segment; 16 if not given.
    pub wal_segment_mib: Option<u32>,
    /// Lines for `postgresql.conf`.
    pub settings: Vec<String>,
}

/// Which kind of stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopMode {
    /// Ends sessions, writes a shutdown checkpoint.
    Fast,
    /// As a crash.
    Immediate,
}

/// A cluster in a folder of its own.
#[derive(Debug)]
pub struct LocalCluster {
    binaries: Binaries,
    user: Option<User>,
    folder: PathBuf,
    port: u16,
    running: bool,
}

#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

/// The superuser of every cluster made here. There is no password: only this machine's loopback is trusted.
pub const SUPERUSER: &str = "postgres";

impl LocalCluster {
    /// Runs `initdb` below `folder`, which must exist and gets a subfolder `data`. Takes some seconds.
    /// # Errors
    /// No user to run as, or `initdb` said no.
    pub fn create(
        binaries: Binaries,
        folder: &Path,
        options: &ClusterOptions,
    ) -> Result<LocalCluster, LocalClusterError> {
        let user = user_for_postgres()?;
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| LocalClusterError::File { path, source }
        };
        if let Some(User { uid, gid }) = user {
            chown(folder, Some(uid), Some(gid)).map_err(file_error(folder))?;
        }
        let cluster = LocalCluster {
            binaries,
            user,
            folder: folder.to_owned(),
            port: free_port().map_err(file_error(Path::new("127.0.0.1:0")))?,
            running: false,
        };
        let data = cluster.data_directory();
        let mut initdb = cluster.command("initdb");
        initdb
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .args(["--username", SUPERUSER])
            .arg("--pgdata")
            .arg(&data);
        if options.data_checksums {
            initdb.arg("--data-checksums");
        } else if cluster.major_version()? >= 18 {
            // On by default there; older ones do not know the option.
            initdb.arg("--no-data-checksums");
        }
        if let Some(mib) = options.wal_segment_mib {
            initdb.arg(format!("--wal-segsize={mib}"));
        }
        run(&mut initdb)?;
        let mut settings = vec![
            "fsync = off".to_owned(),
            "shared_buffers = 32MB".to_owned(),
            "max_connections = 50".to_owned(),
        ];
        settings.extend(options.settings.iter().cloned());
        cluster.configure(&settings)?;
        Ok(cluster)
    }

    /// A standby of this cluster, which has to run: a base backup below `folder`, which must exist and gets a subfolder `data`,
    /// with a port of its own. It is not started.
    /// # Errors
    /// `pg_basebackup` said no.
    pub fn standby(&self, folder: &Path) -> Result<LocalCluster, LocalClusterError> {
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| LocalClusterError::File { path, source }
        };
        if let Some(User { uid, gid }) = self.user {
            chown(folder, Some(uid), Some(gid)).map_err(file_error(folder))?;
        }
        let standby = LocalCluster {
            binaries: self.binaries.clone(),
            user: self.user,
            folder: folder.to_owned(),
            port: free_port().map_err(file_error(Path::new("127.0.0.1:0")))?,
            running: false,
        };
        let mut backup = self.command("pg_basebackup");
        backup.args(["--checkpoint=fast", "--write-recovery-conf", "--pgdata"]);
        run(backup.arg(standby.data_directory()))?;
        standby.configure(&[])?;
        Ok(standby)
    }

    /// Makes a standby that runs a primary of its own, on a new timeline; waits until it is.
    /// # Errors
    /// It is none, or did not become one.
    pub fn promote(&self) -> Result<(), LocalClusterError> {
        let mut promote = self.command("pg_ctl");
        promote.args(["promote", "--wait", "--silent", "--timeout=60", "--pgdata"]);
        run(promote.arg(self.data_directory())).map(drop)
    }

    /// Lines behind those that `postgresql.conf` has: where it listens, and `more`.
    fn configure(&self, more: &[String]) -> Result<(), LocalClusterError> {
        let configuration = self.data_directory().join("postgresql.conf");
        let mut settings = vec![
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("port = {}", self.port),
            format!("unix_socket_directories = '{}'", self.folder.display()),
        ];
        settings.extend_from_slice(more);
        fs::OpenOptions::new()
            .append(true)
            .open(&configuration)
            .and_then(|mut file| writeln!(file, "{}", settings.join("\n")))
            .map_err(|source| LocalClusterError::File {
                path: configuration,
                source,
            })
    }

    /// Starts the server and waits until it takes connections.
    /// # Errors
    /// It did not start; what its log says is in the error.
    pub fn start(&mut self) -> Result<(), LocalClusterError> {
        let log = self.folder.join("server.log");
        let mut start = self.command("pg_ctl");
        start
            .args(["start", "--wait", "--silent", "--timeout=60", "--pgdata"])
            .arg(self.data_directory())
            .arg("--log")
            .arg(&log);
        // The server inherits the pipes of pg_ctl, so reading them to the end would wait for ever.
        start
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let program = "pg_ctl start".to_owned();
        let status = start
            .status()
            .map_err(|source| LocalClusterError::NotStarted {
                program: program.clone(),
                source,
            })?;
        if !status.success() {
            return Err(LocalClusterError::Failed {
                program,
                status,
                output: fs::read_to_string(&log).unwrap_or_default(),
            });
        }
        self.running = true;
        Ok(())
    }

    /// Stops the server and waits for it.
    /// # Errors
    /// It did not stop.
    pub fn stop(&mut self, mode: StopMode) -> Result<(), LocalClusterError> {
        let mut stop = self.command("pg_ctl");
        stop.args(["stop", "--wait", "--silent", "--timeout=60", "--mode"])
            .arg(match mode {
                StopMode::Fast => "fast",
                StopMode::Immediate => "immediate",
            })
            .arg("--pgdata")
            .arg(self.data_directory());
        run(&mut stop)?;
        self.running = false;
        Ok(())
    }

    /// Runs SQL in `database`; answers what it printed, columns separated by `|`, without headers.
    /// # Errors
    /// The first statement that failed; those before it stay done.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String, LocalClusterError> {
        let mut psql = self.command("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--dbname", database])
            .args(["--command", sql]);
        let output = run(&mut psql)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A command of the binaries' folder, run as the cluster's user with host, port and user of this cluster in its
    /// environment.
    pub fn command(&self, program: &str) -> Command {
        let path = self.binaries.program(program);
        let mut command = match self.user {
            None => Command::new(path),
            Some(User { uid, gid }) => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={uid}"))
                    .arg(format!("--regid={gid}"))
                    .args(["--clear-groups", "--"])
                    .arg(path);
                command
            }
        };
        command
            .current_dir(&self.folder)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", SUPERUSER)
            .env("LC_ALL", "C")
            .env_remove("PGDATA");
        command
    }

    /// Runs a command of the binaries' folder to its end.
    /// # Errors
    /// It could not be started, or its exit status says no.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, LocalClusterError> {
        let output = run(self.command(program).args(arguments))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes a folder beside the data directory that belongs to the cluster's user.
    /// # Errors
    /// The file system's.
    pub fn make_folder(&self, name: &str) -> Result<PathBuf, LocalClusterError> {
        let path = self.folder.join(name);
        let made = fs::create_dir(&path).and_then(|()| match self.user {
            Some(User { uid, gid }) => chown(&path, Some(uid), Some(gid)),
            None => Ok(()),
        });
        made.map_err(|source| LocalClusterError::File {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    /// The major version of the programs.
    /// # Errors
    /// `initdb --version` does not run.
    pub fn major_version(&self) -> Result<u32, LocalClusterError> {
        // "initdb (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        let text = self.run("initdb", &["--version"])?;
        let version = text.split_whitespace().nth(2).unwrap_or_default();
        let digits = version.split(|c: char| !c.is_ascii_digit()).next();
        Ok(digits.and_then(|major| major.parse().ok()).unwrap_or(0))
    }

    /// The programs that this cluster was made with.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The data directory.
    pub fn data_directory(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The folder with data directory, socket and log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string for libpq and for imports.
    pub fn connection_string(&self) -> String {
        format!("host=127.0.0.1 port={} user={SUPERUSER}", self.port)
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if self.running
            && let Err(error) = self.stop(StopMode::Immediate)
        {
            tracing::warn!(%error, "a throw-away server was not stopped");
        }
    }
}

fn run(command: &mut Command) -> Result<Output, LocalClusterError> {
    let program = format!("{command:?}");
    let output =
        command
            .stdin(Stdio::null())
            .output()
            .map_err(|source| LocalClusterError::NotStarted {
                program: program.clone(),
                source,
            })?;
    if output.status.success() {
        return Ok(output);
    }
    let mut text = output.stderr;
    text.extend(output.stdout);
    Err(LocalClusterError::Failed {
        program,
        status: output.status,
        output: String::from_utf8_lossy(&text).trim().to_owned(),
    })
}

fn versioned_folders() -> Vec<PathBuf> {
    let entries = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

/// The user to run as; `None` if this process is not root.
fn user_for_postgres() -> Result<Option<User>, LocalClusterError> {
    let own = fs::metadata("/proc/self").map_err(|source| LocalClusterError::File {
        path: "/proc/self".into(),
        source,
    })?;
    if own.uid() != 0 {
        return Ok(None);
    }
    let path = Path::new("/etc/passwd");
    let users = fs::read_to_string(path).map_err(|source| LocalClusterError::File {
        path: path.to_owned(),
        source,
    })?;
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| user_in(&users, name))
        .map(Some)
        .ok_or(LocalClusterError::NoUser)
}

fn user_in(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        found.then_some(User { uid, gid })
    })
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
