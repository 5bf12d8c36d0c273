//! Import of stock clusters: by each source the same, and the same as the cluster's own files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engine::layer::Value;
use engine::types::{Key, Lsn};
use harness::postgres::{MapSink, TestCluster};
use postgres::import::{
    ImportError, ImportSink, ImportSource, ImportStart, ImportSummary, SinkError,
};
use postgres::key::{Fork, PostgresKey, Relation, Slru};
use postgres::local_cluster::{ClusterOptions, StopMode};
use postgres::replication::BackupOptions;
use postgres::value::{
    BackupFacts, CheckpointState, DatabaseDirectory, PlainFile, RelationSize, SlruSegment,
    Tablespace,
};

const PAGE: usize = 8192;

fn import(source: &ImportSource) -> Result<(MapSink, ImportSummary), ImportError> {
    let mut sink = MapSink::default();
    let summary = source.import(&mut sink)?;
    Ok((sink, summary))
}

fn live(cluster: &TestCluster) -> ImportSource {
    ImportSource::RunningCluster(cluster.connection_settings(), BackupOptions::default())
}

fn stopped(cluster: &TestCluster) -> ImportSource {
    ImportSource::of_path(&cluster.data_directory()).expect("a data directory")
}

/// Everything that one cluster can have: databases, tablespaces, unlogged, empty and prepared.
fn populate(cluster: &TestCluster) {
    let tablespace = cluster.make_folder("ts").expect("a folder");
    cluster
        .sql(
            "postgres",
            &format!(
                "create tablespace elsewhere location '{}'",
                tablespace.display()
            ),
        )
        .expect("tablespace");
    cluster
        .sql("postgres", "create database second")
        .expect("database");
    cluster
        .sql("postgres", "create database away tablespace elsewhere")
        .expect("database in a tablespace");
    cluster
        .sql(
            "second",
            "create table t (a int primary key, b text);
             insert into t select i, repeat(md5(i::text), 3) from generate_series(1, 5000) i;
             create table moved (a int) tablespace elsewhere;
             insert into moved select generate_series(1, 1000);
             create unlogged table fleeting (a int primary key);
             insert into fleeting select generate_series(1, 1000);
             create table empty (a int);",
        )
        .expect("tables");
    // Statements of one command are one transaction, so the prepared one has its own.
    cluster
        .sql(
            "second",
            "begin; insert into t values (-1, 'prepared'); prepare transaction 'kept'",
        )
        .expect("a prepared transaction");
    cluster
        .run(
            "pgbench",
            &["--initialize", "--quiet", "--scale=1", "postgres"],
        )
        .expect("pgbench");
    cluster.settle();
}

/// What may differ between a backup and the same cluster after its shutdown: what names the checkpoint.
fn without_checkpoint(sink: &MapSink) -> BTreeMap<PostgresKey, Vec<u8>> {
    let mut values = sink.values.clone();
    for key in [
        PostgresKey::ControlFile,
        PostgresKey::CheckpointState,
        PostgresKey::BackupFacts,
    ] {
        assert!(values.remove(&key).is_some(), "{key:?} is missing");
    }
    values
}

fn assert_same(a: &MapSink, b: &MapSink, what: &str) {
    let (a, b) = (without_checkpoint(a), without_checkpoint(b));
    let keys: Vec<_> = a.keys().chain(b.keys()).collect();
    for key in keys {
        assert!(a.get(key) == b.get(key), "{what}: {key:?} differs");
    }
}

fn relation_of(cluster: &TestCluster, database: &str, name: &str) -> String {
    cluster
        .sql(database, &format!("select pg_relation_filepath('{name}')"))
        .expect("path of a relation")
}

/// By the tar files that `pg_basebackup` makes; builds of the server alone (by `PAGESERVER_TEST_PG_BIN`) lack it.
fn by_tar_files(cluster: &TestCluster) -> Option<(MapSink, ImportSummary)> {
    if !cluster.binaries().has("pg_basebackup") {
        return None;
    }
    let tars = cluster.scratch("tars");
    base_backup(
        cluster,
        &["-X", "stream", "-D", tars.to_str().expect("UTF-8")],
    );
    let tars = ImportSource::of_path(&tars).expect("tars");
    Some(import(&tars).expect("import of the tar files"))
}

fn base_backup(cluster: &TestCluster, arguments: &[&str]) {
    let arguments = [&["-Ft", "-c", "fast"], arguments].concat();
    cluster
        .run("pg_basebackup", &arguments)
        .expect("pg_basebackup");
}

#[test]
fn three_sources_give_the_same_versions_and_those_are_the_clusters_files() {
    for data_checksums in [true, false] {
        check_sources(TestCluster::start_new(everything(data_checksums)));
    }
}

#[test]
fn newer_servers_are_imported_as_their_files_say() {
    for (major, data_checksums) in [(16, true), (17, false), (18, true), (18, false)] {
        let cluster = TestCluster::start_version(major, everything(data_checksums));
        let running = cluster.sql("postgres", "show server_version_num");
        let running = running.expect("a version");
        assert!(running.starts_with(&major.to_string()), "{running}");
        check_sources(cluster);
    }
}

/// What [`populate`] needs.
fn everything(data_checksums: bool) -> ClusterOptions {
    ClusterOptions {
        data_checksums,
        settings: vec![
            "max_prepared_transactions = 2".to_owned(),
            "track_commit_timestamp = on".to_owned(),
        ],
        ..Default::default()
    }
}

fn check_sources(mut cluster: TestCluster) {
    let data_checksums = cluster.sql("postgres", "show data_checksums");
    let data_checksums = data_checksums.expect("a setting") == "on";
    populate(&cluster);
    let fleeting = relation_of(&cluster, "second", "fleeting");

    let (by_protocol, summary) = import(&live(&cluster)).expect("import of the running cluster");
    let by_tar = by_tar_files(&cluster);
    cluster.stop(StopMode::Fast).expect("stops");
    let (by_files, of_files) = import(&stopped(&cluster)).expect("import of the files");

    assert_same(&by_protocol, &by_files, "protocol and files");
    if let Some((by_tar, of_tar)) = &by_tar {
        assert_same(by_tar, &by_files, "tar and files");
        check_facts(by_tar, of_tar, data_checksums);
    }
    for (sink, summary) in [(&by_protocol, summary), (&by_files, of_files)] {
        check_facts(sink, &summary, data_checksums);
    }
    assert_eq!(
        (
            summary.relation_pages,
            summary.relation_forks,
            summary.databases
        ),
        (of_files.relation_pages, of_files.relation_forks, 5)
    );
    check_against_files(&cluster.data_directory(), &by_files, &fleeting);
}

fn check_facts(sink: &MapSink, summary: &ImportSummary, data_checksums: bool) {
    let facts = BackupFacts::decode(&sink.values[&PostgresKey::BackupFacts]).expect("facts");
    let start = sink.start.expect("begun");
    assert_eq!(summary.start, start);
    assert_eq!(start.has_data_checksums, data_checksums);
    assert_eq!(facts.start_lsn, start.start_lsn);
    assert_eq!(facts.stop_lsn, summary.stop_lsn);
    assert!(facts.start_lsn < facts.stop_lsn);
    let checkpoint = &sink.values[&PostgresKey::CheckpointState];
    let checkpoint = CheckpointState::decode(checkpoint).expect("checkpoint");
    assert_eq!(checkpoint.redo, start.start_lsn);
    let (from, wal) = sink.wal.as_ref().expect("wal");
    assert_eq!(from.0, start.start_lsn.0 / 8192 * 8192);
    assert_eq!(from.0 + wal.len() as u64, summary.stop_lsn.0);
    assert_eq!(sink.file_bytes, summary.file_bytes);
}

/// Compares with the files themselves, found here by names alone.
fn check_against_files(data: &Path, sink: &MapSink, fleeting: &str) {
    let mut expected = BTreeMap::new();
    let mut add_database = |folder: &Path, tablespace: u32, database: u32| {
        for (name, content) in files_in(folder) {
            if name == "pg_filenode.map" {
                let key = PostgresKey::RelationMap {
                    database,
                    tablespace,
                };
                expected.insert(key, content);
                continue;
            }
            let (number, fork) = match name.split_once('_') {
                Some((number, "fsm")) => (number, Fork::FreeSpaceMap),
                Some((number, "vm")) => (number, Fork::VisibilityMap),
                Some((number, "init")) => (number, Fork::Init),
                _ => (name.as_str(), Fork::Main),
            };
            let Ok(number) = number.parse() else {
                continue;
            };
            if fork != Fork::Init && folder.join(format!("{number}_init")).exists() {
                continue;
            }
            let relation = Relation {
                tablespace,
                database,
                number,
            };
            let pages = content.chunks(PAGE);
            let size = RelationSize {
                blocks: u32::try_from(pages.len()).expect("small"),
                generation: Lsn::INVALID,
            };
            expected.insert(PostgresKey::RelationSize { relation, fork }, size.encode());
            for (block, page) in (0..).zip(pages) {
                let key = PostgresKey::Block {
                    relation,
                    fork,
                    block,
                };
                expected.insert(key, page.to_vec());
            }
        }
    };
    add_database(&data.join("global"), 1664, 0);
    for (database, folder) in numbered_folders(&data.join("base")) {
        add_database(&folder, 1663, database);
    }
    for (tablespace, link) in numbered_folders(&data.join("pg_tblspc")) {
        for entry in fs::read_dir(link).expect("a tablespace") {
            let version = entry.expect("an entry").path();
            for (database, folder) in numbered_folders(&version) {
                add_database(&folder, tablespace, database);
            }
        }
    }
    for slru in Slru::ALL {
        let files = files_in(&data.join(slru.directory()));
        for (name, content) in files {
            let segment = u64::from_str_radix(&name, 16).expect("a segment");
            let pages = content.chunks(PAGE);
            let size = SlruSegment {
                pages: u32::try_from(pages.len()).expect("small"),
            };
            expected.insert(PostgresKey::SlruSegment { slru, segment }, size.encode());
            for (block, page) in (0..).zip(pages) {
                let key = PostgresKey::SlruPage {
                    slru,
                    segment,
                    block,
                };
                expected.insert(key, page.to_vec());
            }
        }
    }
    let two_phase = files_in(&data.join("pg_twophase"));
    assert_eq!(two_phase.len(), 1, "one prepared transaction");
    for (name, content) in two_phase {
        let xid = u64::from_str_radix(&name, 16).expect("a transaction id");
        expected.insert(PostgresKey::TwoPhase { xid, chunk: 0 }, content);
    }
    let control = fs::read(data.join("global/pg_control")).expect("control file");
    expected.insert(PostgresKey::ControlFile, control);

    let mut found = sink.values.clone();
    let mut plain = Vec::new();
    let (mut own_tablespaces, mut tablespaces) = (0, 0);
    found.retain(|key, value| match key {
        PostgresKey::PlainFile { .. } => {
            plain.push(PlainFile::decode(value).expect("a plain file").path);
            false
        }
        PostgresKey::DatabaseDirectory { .. } => {
            let value = DatabaseDirectory::decode(value).expect("a directory");
            own_tablespaces += u32::from(value.is_own_tablespace);
            false
        }
        PostgresKey::Tablespace { .. } => {
            let value = Tablespace::decode(value).expect("a tablespace");
            assert!(value.path.ends_with("/ts"), "{}", value.path);
            tablespaces += 1;
            false
        }
        PostgresKey::PlainFileChunk { .. }
        | PostgresKey::CheckpointState
        | PostgresKey::BackupFacts => false,
        _ => true,
    });
    for key in expected.keys().chain(found.keys()) {
        assert!(
            expected.get(key) == found.get(key),
            "{key:?} is not as in the files"
        );
    }
    assert_eq!((own_tablespaces, tablespaces), (5, 1));
    plain.sort_unstable();
    assert_eq!(
        plain,
        [
            "pg_hba.conf",
            "pg_ident.conf",
            "postgresql.auto.conf",
            "postgresql.conf"
        ]
    );
    let number = fleeting.rsplit('/').next().expect("a name").parse();
    let number: u32 = number.expect("a relation file");
    let forks: Vec<Fork> = found
        .keys()
        .filter_map(|key| match key {
            PostgresKey::RelationSize { relation, fork } if relation.number == number => {
                Some(*fork)
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        forks,
        [Fork::Init],
        "of an unlogged table only the init fork"
    );
}

fn files_in(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            (name.into_owned(), fs::read(&path).expect("a file"))
        })
        .collect()
}

fn numbered_folders(folder: &Path) -> Vec<(u32, std::path::PathBuf)> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter_map(|path| {
            let number = path.file_name()?.to_str()?.parse().ok()?;
            Some((number, path))
        })
        .collect()
}

#[test]
fn what_is_written_between_start_and_stop_is_in_the_import() {
    let cluster = TestCluster::start_new(ClusterOptions::default());
    cluster
        .sql("postgres", "create table t as select 1 a")
        .expect("table");
    cluster.settle();
    // Between start and stop of the backup: the sink writes before the first page arrives.
    struct Writing<'a>(&'a TestCluster, MapSink);
    impl ImportSink for Writing<'_> {
        fn begin(&mut self, start: &ImportStart) -> Result<(), SinkError> {
            self.0.sql("postgres", "insert into t values (2)")?;
            self.1.begin(start)
        }
        fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<(), SinkError> {
            self.1.put(key, lsn, value)
        }
        fn wal(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), SinkError> {
            self.1.wal(at, bytes)
        }
        fn progress(&mut self, bytes: u64) -> Result<(), SinkError> {
            self.1.progress(bytes)
        }
    }
    let mut sink = Writing(&cluster, MapSink::default());
    let summary = live(&cluster).import(&mut sink).expect("an import");
    let path = relation_of(&cluster, "postgres", "t");
    let number = path.rsplit('/').next().expect("a name").parse();
    let number: u32 = number.expect("a relation file");
    let of_table = sink.1.versions.iter().find(|(key, _)| {
        matches!(key, PostgresKey::Block { relation, fork: Fork::Main, block: 0 } if relation.number == number)
    });
    let (key, version) = of_table.expect("its page");
    assert!((summary.start.start_lsn..=summary.stop_lsn).contains(version));
    // Two line pointers behind a header of 24 bytes.
    assert_eq!(sink.1.values[key][12], 24 + 2 * 4);
}

#[test]
fn a_damaged_page_is_refused_with_its_file_and_block() {
    let mut cluster = TestCluster::start_new(ClusterOptions {
        data_checksums: true,
        ..Default::default()
    });
    cluster
        .sql(
            "postgres",
            "create table t as select generate_series(1, 2000) a",
        )
        .expect("table");
    cluster.settle();
    let path = relation_of(&cluster, "postgres", "t");
    cluster.stop(StopMode::Fast).expect("stops");
    let file = fs::File::options()
        .write(true)
        .open(cluster.data_directory().join(&path))
        .expect("the table's file");
    file.write_all_at(&[0xee], 3 * PAGE as u64 + 5000)
        .expect("damage");
    let error = import(&stopped(&cluster)).err().expect("refused");
    match error {
        ImportError::CorruptPage { file, block, .. } => assert_eq!((file, block), (path, 3)),
        other => panic!("{other}"),
    }
}

#[test]
fn directories_that_were_not_shut_down_are_refused() {
    let mut cluster = TestCluster::start_new(ClusterOptions::default());
    let error = import(&stopped(&cluster)).err().expect("it runs");
    assert!(matches!(error, ImportError::InUse { .. }), "{error}");
    cluster.stop(StopMode::Immediate).expect("stops");
    let error = import(&stopped(&cluster)).err().expect("it crashed");
    let text = error.to_string();
    assert!(
        text.contains("in production") || text.contains("postmaster.pid"),
        "{text}"
    );
    let nothing = ImportSource::of_path(cluster.folder()).expect_err("no data directory");
    assert!(matches!(nothing, ImportError::NotDataDirectory { .. }));
}

#[test]
fn backups_without_their_wal_or_in_part_are_refused() {
    let cluster = TestCluster::start_new(ClusterOptions::default());
    if !cluster.binaries().has("pg_basebackup") {
        return;
    }
    let backup = |name: &str, wal: &str| {
        let folder = cluster.scratch(name);
        base_backup(
            &cluster,
            &["-X", wal, "-D", folder.to_str().expect("UTF-8")],
        );
        folder
    };
    cluster.settle();
    let refused = |folder: &Path| {
        let source = ImportSource::of_path(folder).expect("tars");
        import(&source).err().expect("refused")
    };
    let none = refused(&backup("none", "none"));
    assert!(matches!(none, ImportError::NoWal), "{none}");

    // WAL within base.tar does as well as beside it.
    let fetched = backup("fetched", "fetch");
    import(&ImportSource::BackupTar(fetched.join("base.tar"))).expect("a whole backup");
    let base = fs::File::options()
        .write(true)
        .open(fetched.join("base.tar"))
        .expect("base.tar");
    let length = base.metadata().expect("length").len();
    // Any cut: in the middle of files, of the control file, of the WAL.
    for part in [1, 4, 7] {
        base.set_len(length * (8 - part) / 8).expect("cut");
        refused(&fetched);
    }
    let compressed = cluster.scratch("compressed");
    fs::create_dir(&compressed).expect("a folder");
    fs::write(compressed.join("base.tar.gz"), "").expect("a file");
    assert!(refused(&compressed).to_string().contains("decompress"));
}

#[test]
fn an_import_ends_when_its_sink_says_so() {
    let cluster = TestCluster::start_new(ClusterOptions::default());
    struct Full(u32);
    impl ImportSink for Full {
        fn begin(&mut self, _: &ImportStart) -> Result<(), SinkError> {
            Ok(())
        }
        fn put(&mut self, _: Key, _: Lsn, _: Value<'_>) -> Result<(), SinkError> {
            self.0 += 1;
            if self.0 == 100 {
                Err("full".into())
            } else {
                Ok(())
            }
        }
        fn wal(&mut self, _: Lsn, _: &[u8]) -> Result<(), SinkError> {
            Ok(())
        }
        fn progress(&mut self, _: u64) -> Result<(), SinkError> {
            Ok(())
        }
    }
    let mut sink = Full(0);
    let error = live(&cluster).import(&mut sink).expect_err("ended");
    assert!(matches!(error, ImportError::Sink(_)), "{error}");
    assert_eq!(sink.0, 100);
    // The server notices that nobody listens any more, and gives the backup up.
    let senders = "select count(*) from pg_stat_replication";
    let gone = (0..100).any(|_| {
        let left = cluster.sql("postgres", senders).expect("counts");
        left == "0" || cluster.sql("postgres", "select pg_sleep(0.1)").is_err()
    });
    assert!(gone, "a walsender is left");
}
