//! Throw-away clusters for tests, and a sink that keeps what an import finds.
//!
//! `PAGESERVER_TEST_PG_BIN` names the folder of the binaries to use; otherwise the newest that is installed.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use engine::types::{Key, Lsn};
use postgres::import::{ImportSink, ImportStart, SinkError};
use postgres::key::PostgresKey;
use postgres::local_cluster::{Binaries, ClusterOptions, LocalCluster};
use postgres::replication::{ConnectionDefaults, ConnectionSettings};
use tempfile::TempDir;

/// A cluster in a temporary folder; dropping it stops the server and removes the folder.
pub struct TestCluster {
    // Dropped first, so that the server is gone before its files are.
    cluster: LocalCluster,
    folder: TempDir,
}

impl TestCluster {
    /// Makes a cluster in which nothing runs by itself (no autovacuum), and does not start it.
    ///
    /// # Panics
    /// No Postgres is installed, or `initdb` fails: a test without its cluster has to fail.
    pub fn create(mut options: ClusterOptions) -> TestCluster {
        options.settings.insert(0, "autovacuum = off".to_owned());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cluster = LocalCluster::create(binaries(), folder.path(), &options).expect("initdb");
        TestCluster { cluster, folder }
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
    let preferred = preferred.as_ref().map(std::path::Path::new);
    Binaries::find(preferred, path.as_deref()).expect("a stock Postgres is installed")
}

/// Keeps all that an import puts, and checks that it keeps its promises to sinks.
#[derive(Default)]
pub struct MapSink {
    /// As begun.
    pub start: Option<ImportStart>,
    /// By key.
    pub values: BTreeMap<PostgresKey, Vec<u8>>,
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

    fn put(&mut self, key: Key, value: &[u8]) -> Result<(), SinkError> {
        assert!(self.start.is_some(), "put before begin");
        assert!(value.len() <= engine::types::PAGE_BYTES, "too long");
        let key = PostgresKey::decode(&key).expect("a key of the layout");
        assert!(
            self.values.insert(key, value.to_vec()).is_none(),
            "{key:?} put twice"
        );
        Ok(())
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
