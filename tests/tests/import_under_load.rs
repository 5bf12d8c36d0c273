//! An import of a cluster at work, judged by a stock standby that replays the same backup up to the same LSN: every page of
//! every relation and every size, SLRUs, relation maps, directories, two-phase files. Served by the program itself, and
//! as the import hands it on.
//!
//! The backup is taken slowly, with a checkpoint in the middle, while clients write, and a session makes, truncates, regrows,
//! vacuums, moves and drops what it can.

use std::time::Duration;

use engine::types::{Lsn, PAGE_BYTES};
use harness::cluster_state::{Comparison, Files, Part};
use harness::page_client::{Answer, Ask, LATEST};
use harness::postgres::{MapSink, TestCluster};
use harness::served::{judge_server, judged, wire};
use harness::server::{Branch, Server, Site};
use harness::sql::Session;
use harness::standby::{Backup, first_difference};
use harness::work;
use postgres::import::{ImportError, ImportSource, ImportSummary};
use postgres::key::{BlockTag, PostgresKey};
use postgres::local_cluster::{ClusterOptions, StopMode};
use postgres::replication::BackupOptions;
use postgres::value::CheckpointState;
use postgres::verify::Page;

/// Less than the pages that change, and more than those that change all the time.
const SHORT: &str = "16MiB";
const SHORT_BYTES: usize = 16 << 20;

#[test]
fn a_backup_of_a_cluster_at_work_is_served_as_a_standby_has_it() {
    let mut cluster = work::start();
    let sql = "alter system set allow_in_place_tablespaces = on";
    cluster.sql("postgres", sql).expect("a setting");
    cluster
        .sql("postgres", "select pg_reload_conf()")
        .expect("reloads");
    let tars = cluster.scratch("tars");
    work::with_work(&cluster, || {
        std::thread::scope(|scope| {
            let backup = scope.spawn(|| work::back_up(&cluster, &tars, "12M"));
            std::thread::sleep(Duration::from_secs(3));
            // From here on no vacuum removes anything.
            Session::open(cluster.port(), "postgres").run_each(&[
                "begin; insert into mixed values (-1, 'prepared', '{1}', point(1, 1)); prepare transaction 'kept'",
                "checkpoint",
            ]);
            assert!(!backup.is_finished(), "the checkpoint is within the backup");
            backup.join().expect("a backup");
        });
    });
    // A record behind the stop is what the standby stops before.
    cluster
        .sql("postgres", "select pg_switch_wal()")
        .expect("WAL");
    cluster.stop(StopMode::Fast).expect("it stops");

    let source = ImportSource::of_path(&tars).expect("tars");
    let mut ours = MapSink::default();
    let summary = source.import(&mut ours).expect("an import");
    println!(
        "start {}, stop {}, {} records, {} deltas",
        summary.start.start_lsn, summary.stop_lsn, summary.wal_records, ours.deltas
    );
    assert!(summary.wal_records > 10_000, "{}", summary.wal_records);

    let standby = Backup::of_tars(&cluster, &tars);
    standby.replay_until(&cluster, summary.stop_lsn);
    let theirs = Files::read(standby.data());
    let pages = standby.pages();
    judge_import(&ours, &summary, &theirs, &pages);
    // With little memory most pages are written before their last change, which makes deltas of it.
    let mut short = MapSink {
        replay_bytes_max: SHORT_BYTES,
        ..MapSink::default()
    };
    let summary = source.import(&mut short).expect("an import");
    println!("{} deltas", short.deltas);
    // How many depends on how much the clients get done.
    assert!(short.deltas > 0);
    judge_import(&short, &summary, &theirs, &pages);

    for memory in ["256MiB", SHORT] {
        let site = Site::new(&[]);
        let tars = tars.to_str().expect("UTF-8");
        let branch = site.import_with(tars, &["--replay-memory", memory]);
        assert_eq!(branch.last_lsn, summary.stop_lsn.0);
        let server = site.serve();
        judge_server(&server, &branch, None, &theirs, &pages);
        assert_gone_is_gone(&server, &branch, &ours);
        let replayed = server.metric("pageserver_engine_reads_replayed_total");
        println!("{replayed} reads replayed with {memory}");
        assert_eq!(replayed > 0, memory == SHORT, "{replayed}");
    }
}

/// As the import hands it on.
fn judge_import(
    ours: &MapSink,
    summary: &ImportSummary,
    theirs: &Files,
    pages: &[(BlockTag, Box<Page>)],
) {
    let mut own = Files::of_values(&ours.values);
    // A standby writes the file of a prepared transaction with the checkpoint behind it.
    assert!(!theirs.two_phase.is_empty(), "one is kept prepared");
    own.two_phase
        .retain(|xid, _| theirs.two_phase.contains_key(xid));
    let mut all = Comparison::of(&own, theirs);
    all.maps(Part::Pages, &own.forks, &theirs.forks);
    for (tag, page) in judged(theirs, pages) {
        all.count(Part::Pages);
        let found = ours.values.get(&tag.key());
        let found = found.and_then(|page| page.as_slice().try_into().ok());
        if let Some(at) = first_difference(&found.unwrap_or([0; PAGE_BYTES]), page, tag.fork) {
            all.differ(Part::Pages, format!("{tag}: differs at {at}"));
        }
    }
    println!("{all}");
    assert!(all.differences.is_empty(), "{:#?}", all.differences);
    let counters = CheckpointState::decode(&ours.values[&PostgresKey::CheckpointState]);
    assert!(counters.expect("counters").redo > summary.start.start_lsn);
}

/// What the backup's files had and the WAL dropped is not served.
fn assert_gone_is_gone(server: &Server, branch: &Branch, ours: &MapSink) {
    let mut client = server.client(branch);
    let gone = ours.versions.keys().filter_map(|key| match key {
        PostgresKey::RelationSize { relation, fork } if !ours.values.contains_key(key) => {
            Some(wire(*relation, *fork))
        }
        _ => None,
    });
    let gone: Vec<_> = gone.collect();
    assert!(gone.len() > 100, "a database was dropped: {}", gone.len());
    for rel in gone {
        let asks = [Ask::Exists(rel), Ask::Nblocks(rel), Ask::GetPage(rel, 0)];
        let answers = client.ask_all(&asks, LATEST).expect("answers");
        assert_eq!(answers[0], Answer::Exists(false), "{rel:?}");
        for answer in &answers[1..] {
            let text = format!("{answer:?}");
            assert!(text.contains("does not exist"), "{rel:?}: {text}");
        }
    }
}

#[test]
fn a_cluster_at_work_is_imported_over_its_replication_protocol() {
    let cluster = work::start();
    let sql = "alter system set allow_in_place_tablespaces = on";
    cluster.sql("postgres", sql).expect("a setting");
    cluster
        .sql("postgres", "select pg_reload_conf()")
        .expect("reloads");
    let live =
        ImportSource::RunningCluster(cluster.connection_settings(), BackupOptions::default());
    let (sink, summary) = work::with_work(&cluster, || {
        let mut sink = MapSink::default();
        let summary = live.import(&mut sink).expect("an import");
        (sink, summary)
    });
    assert!(summary.wal_records > 100, "{}", summary.wal_records);
    // No page is of a later LSN than the branch.
    for (key, value) in &sink.values {
        if let PostgresKey::Block { .. } = key {
            let word = |at: usize| {
                let word = value[at..at + 4].try_into().expect("four bytes");
                u64::from(u32::from_le_bytes(word))
            };
            let lsn = Lsn(word(0) << 32 | word(4));
            assert!(lsn <= summary.stop_lsn, "{key:?} is of {lsn}");
        }
    }
}

#[test]
fn a_database_that_is_copied_during_the_backup_is_refused_by_name() {
    let cluster = TestCluster::start_new(ClusterOptions::default());
    let folder = cluster.scratch("tars");
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| work::back_up(&cluster, &folder, "6M"));
        std::thread::sleep(Duration::from_secs(1));
        let copy = "create database copied strategy file_copy";
        cluster.sql("postgres", copy).expect("a database");
        assert!(!backup.is_finished(), "it is made within the backup");
        backup.join().expect("a backup");
    });
    let source = ImportSource::of_path(&folder).expect("tars");
    let error = source.import(&mut MapSink::default()).expect_err("refused");
    assert!(
        matches!(error, ImportError::CopiedDatabase { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("file_copy"), "{error}");
}
