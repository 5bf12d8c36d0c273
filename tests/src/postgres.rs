//! Throw-away clusters for tests, and a sink that keeps what an import finds.
//!
//! `PAGESERVER_TEST_PG_BIN` names the folder of the binaries to use; otherwise the newest that is installed.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use engine::layer::Value;
use engine::redo::Redo;
use engine::types::{Key, Lsn, PAGE_BYTES};
use postgres::import::{ImportSink, ImportStart, REPLAY_BYTES_DEFAULT, SinkError};
use postgres::key::PostgresKey;
use postgres::local_cluster::{Binaries, ClusterOptions, LocalCluster};
use postgres::redo::PostgresRedo;
use postgres::replication::{ConnectionDefaults, ConnectionSettings};
use tempfile::TempDir;

use crate::tools;

/// A cluster in a temporary folder; dropping it stops the server and removes the folder.
pub struct TestCluster {
    // Dropped first, so that the server is gone before its files are.
    cluster: LocalCluster,
    folder: TempDir,
    /// Programs gathered from several folders, if they had to be.
    _programs: Option<TempDir>,
}

impl TestCluster {
    /// Makes a cluster in which nothing runs by itself (no autovacuum), and does not start it.
    ///
    /// # Panics
    /// No Postgres is installed, or `initdb` fails: a test without its cluster has to fail.
    pub fn create(options: ClusterOptions) -> TestCluster {
        Self::create_by(binaries(), None, options)
    }

    /// A running cluster of a version newer than the machine's own, by the servers that `tests/tools/install` installs and the
    /// machine's own clients.
    ///
    /// # Panics
    /// As [`start_new`](Self::start_new).
    pub fn start_version(major: u32, options: ClusterOptions) -> TestCluster {
        let programs = tempfile::tempdir().expect("a temporary folder");
        let everybody = Permissions::from_mode(0o755);
        fs::set_permissions(programs.path(), everybody).expect("a folder of our own");
        let server = tools::postgres_server(major);
        let link = |program: &Path| {
            let name = program.file_name().expect("a program");
            symlink(program, programs.path().join(name)).expect("a link");
        };
        for name in ["initdb", "pg_ctl", "postgres"] {
            let program = server.join(name);
            assert!(
                program.is_file(),
                "{}: not there; tests/tools/install installs it",
                program.display()
            );
            link(&program);
        }
        for name in ["psql", "pgbench"] {
            link(&binaries().program(name));
        }
        let found = Binaries::find(Some(programs.path()), None).expect("just linked");
        let mut made = Self::create_by(found, Some(programs), options);
        made.cluster.start().expect("the server starts");
        made
    }

    /// As [`create`](Self::create), of the given binaries, which need not have clients.
    ///
    /// # Panics
    /// `initdb` fails.
    pub fn create_with(binaries: Binaries, options: ClusterOptions) -> TestCluster {
        Self::create_by(binaries, None, options)
    }

    fn create_by(
        binaries: Binaries,
        programs: Option<TempDir>,
        mut options: ClusterOptions,
    ) -> TestCluster {
        options.settings.insert(0, "autovacuum = off".to_owned());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cluster = LocalCluster::create(binaries, folder.path(), &options).expect("initdb");
        TestCluster {
            cluster,
            folder,
            _programs: programs,
        }
    }

    /// As [`create`](Self::create), and starts it.
    ///
    /// # Panics
    /// As there, and if the server does not start.
    pub fn start_new(options: ClusterOptions) -> TestCluster {
        let mut made = Self::create(options);
        made.cluster.start().expect("the server starts");
        made
    }

    /// A standby of this cluster, which has to run; not started.
    ///
    /// # Panics
    /// The backup fails.
    pub fn standby(&self) -> TestCluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cluster = self.cluster.standby(folder.path()).expect("a backup");
        TestCluster {
            cluster,
            folder,
            _programs: None,
        }
    }

    /// Sets all hint bits and checkpoints, so that nothing is left to change when nobody writes.
    ///
    /// # Panics
    /// A statement fails.
    pub fn settle(&self) {
        let names = self
            .sql(
                "postgres",
                "select datname from pg_database where datallowconn",
            )
            .expect("list of databases");
        for database in names.lines() {
            self.sql(database, "vacuum").expect("vacuum");
        }
        // Catalogs read at connection and by the vacuum itself are dirty once more; the second round is clean.
        for database in names.lines() {
            self.sql(database, "vacuum").expect("vacuum");
        }
        self.sql("postgres", "checkpoint").expect("checkpoint");
    }

    /// How an import connects.
    ///
    /// # Panics
    /// Never: the string is made here.
    pub fn connection_settings(&self) -> ConnectionSettings {
        let defaults = ConnectionDefaults::default();
        ConnectionSettings::parse(&self.connection_string(), &defaults).expect("well formed")
    }

    /// Lets the server take TLS, by a certificate for `localhost` that it has signed itself; answers the certificate's file.
    ///
    /// # Panics
    /// A file can't be written, or the server does not take the setting.
    pub fn serve_tls(&self) -> PathBuf {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let data = self.data_directory();
        let owner = fs::metadata(&data).expect("data directory");
        for (name, content) in [
            ("server.crt", certified.cert.pem()),
            ("server.key", certified.signing_key.serialize_pem()),
        ] {
            let path = data.join(name);
            fs::write(&path, content).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("mode");
            chown(&path, Some(owner.uid()), Some(owner.gid())).expect("owner");
        }
        self.sql("postgres", "alter system set ssl = on")
            .expect("setting");
        self.sql("postgres", "select pg_reload_conf(), pg_sleep(0.3)")
            .expect("reload");
        let certificate = self.scratch("server.pem");
        fs::write(&certificate, certified.cert.pem()).expect("written");
        certificate
    }

    /// A path for files of the test.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Deref for TestCluster {
    type Target = LocalCluster;

    fn deref(&self) -> &LocalCluster {
        &self.cluster
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut LocalCluster {
        &mut self.cluster
    }
}

/// The binaries that tests use.
///
/// # Panics
/// None are installed.
pub fn binaries() -> Binaries {
    #[expect(clippy::disallowed_methods, reason = "tests have no main")]
    let preferred = std::env::var("PAGESERVER_TEST_PG_BIN").ok();
    let path = std::env::var_os("PATH");
    let preferred = preferred.as_ref().map(Path::new);
    Binaries::find(preferred, path.as_deref()).expect("a stock Postgres is installed")
}

/// The stock server of a major version: 15 as Debian packages it, newer ones as `tests/tools/install` puts them below
/// `target/test-tools`.
///
/// # Panics
/// It is not installed.
pub fn server_binaries(major: u32) -> Binaries {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    let folder = if debian.join("initdb").is_file() {
        debian
    } else {
        let programs = tools::postgres_server(major);
        reachable(programs.parent().expect("it is in a folder"), major).join("bin")
    };
    Binaries::find(Some(&folder), None)
        .unwrap_or_else(|error| panic!("{error}; tests/tools/install installs it"))
}

/// The folder itself, or a copy for all to read where the path to it is closed to others: Postgres does not run as root,
/// and root's own folders are.
fn reachable(folder: &Path, major: u32) -> PathBuf {
    let is_open = |path: &Path| {
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o005 == 0o005)
    };
    let Ok(real) = fs::canonicalize(folder) else {
        return folder.to_owned();
    };
    if real.ancestors().all(is_open) {
        return real;
    }
    let copy = std::env::temp_dir().join(format!("pageserver-tests-postgres-{major}"));
    if !copy.join("bin/initdb").is_file() {
        // Tests of other processes may do the same: the first whole copy stays.
        let partial = tempfile::tempdir().expect("a temporary folder");
        let whole = partial.path().join("native");
        let status = std::process::Command::new("cp")
            .arg("-a")
            .args([&real, &whole])
            .status()
            .expect("cp runs");
        assert!(status.success(), "the copy of {} is whole", real.display());
        if fs::rename(&whole, &copy).is_err() {
            assert!(copy.join("bin/initdb").is_file(), "the copy is in place");
        }
    }
    copy
}

/// Keeps the last version of all that an import puts, deltas applied, and checks that it keeps its promises to sinks.
#[derive(Default)]
pub struct MapSink {
    /// As begun.
    pub start: Option<ImportStart>,
    /// By key; what is gone is not here.
    pub values: BTreeMap<PostgresKey, Vec<u8>>,
    /// The last LSN of every key.
    pub versions: BTreeMap<PostgresKey, Lsn>,
    /// Deltas among the versions.
    pub deltas: u64,
    /// As much memory as the import is allowed; 0 for what it takes by default.
    pub replay_bytes_max: usize,
    /// Where the WAL begins, and its bytes.
    pub wal: Option<(Lsn, Vec<u8>)>,
    /// Files' bytes as told last.
    pub file_bytes: u64,
}

impl ImportSink for MapSink {
    fn begin(&mut self, start: &ImportStart) -> Result<(), SinkError> {
        assert!(self.start.is_none(), "begun twice");
        self.start = Some(*start);
        Ok(())
    }

    fn put(&mut self, stored: Key, lsn: Lsn, value: Value<'_>) -> Result<(), SinkError> {
        assert!(self.start.is_some(), "put before begin");
        let key = PostgresKey::decode(&stored).expect("a key of the layout");
        let before = self.versions.insert(key, lsn);
        assert!(
            before.is_none_or(|before| before < lsn),
            "{key:?} put at {lsn}, behind {before:?}"
        );
        match value {
            Value::Image(bytes) => {
                assert!(bytes.len() <= PAGE_BYTES, "too long");
                let is_chunk = matches!(key, PostgresKey::PlainFileChunk { .. })
                    || matches!(key, PostgresKey::TwoPhase { chunk, .. } if chunk > 0);
                if bytes.is_empty() && !is_chunk {
                    self.values.remove(&key);
                } else {
                    self.values.insert(key, bytes.to_vec());
                }
            }
            Value::Delta(bytes) => {
                assert!(bytes.len() <= PAGE_BYTES, "too long");
                assert!(before.is_some(), "{key:?}: a change of nothing");
                self.deltas += 1;
                let value = self.values.entry(key).or_default();
                let mut page = [0; PAGE_BYTES];
                page[..value.len()].copy_from_slice(value);
                let applied = PostgresRedo.apply(&stored, lsn, bytes, &mut page, value.len());
                if let Err(failed) = applied {
                    return Err(failed.to_string().into());
                }
                *value = page.to_vec();
            }
        }
        Ok(())
    }

    fn replay_bytes_max(&self) -> usize {
        match self.replay_bytes_max {
            0 => REPLAY_BYTES_DEFAULT,
            bytes => bytes,
        }
    }

    fn wal(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), SinkError> {
        let (from, kept) = self.wal.get_or_insert((at, Vec::new()));
        assert_eq!(at.bytes_since(*from), Some(kept.len() as u64), "a gap");
        kept.extend(bytes);
        Ok(())
    }

    fn progress(&mut self, file_bytes_done: u64) -> Result<(), SinkError> {
        assert!(file_bytes_done >= self.file_bytes, "progress goes back");
        self.file_bytes = file_bytes_done;
        Ok(())
    }
}
