//! An import of a cluster at work, judged by a stock standby that replays the same backup up to the same LSN: every page of
//! every relation and every size, SLRUs, relation maps, directories, two-phase files. Served by the program itself, and
//! as the import hands it on.
//!
//! The backup is taken slowly, with a checkpoint in the middle, while clients write, and a session makes, truncates, regrows,
//! vacuums, moves and drops what it can.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::types::{Lsn, PAGE_BYTES};
use harness::cluster_state::{Comparison, Files, Part};
use harness::page_client::{Answer, Ask, LATEST, RelationFork};
use harness::postgres::{MapSink, TestCluster};
use harness::server::{Branch, Server, Site};
use harness::sql::Session;
use harness::standby::{Backup, first_difference};
use postgres::import::{ImportError, ImportSource, ImportSummary};
use postgres::key::{BlockTag, Fork, PostgresKey, Relation, Slru};
use postgres::local_cluster::{ClusterOptions, SUPERUSER, StopMode};
use postgres::replication::BackupOptions;
use postgres::value::CheckpointState;
use postgres::verify::Page;

/// Less than the pages that change, and more than those that change all the time.
const SHORT: &str = "16MiB";
const SHORT_BYTES: usize = 16 << 20;

fn start() -> TestCluster {
    let settings = [
        "synchronous_commit = off",
        "track_commit_timestamp = on",
        "max_prepared_transactions = 10",
        "checkpoint_timeout = 1d",
        "max_wal_size = 100GB",
        "wal_keep_size = 100GB",
        "shared_buffers = 32MB",
    ];
    let cluster = TestCluster::start_new(ClusterOptions {
        data_checksums: true,
        settings: settings.map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    });
    let init = ["--initialize", "--quiet", "--scale=3", "postgres"];
    cluster.run("pgbench", &init).expect("pgbench");
    let mut session = Session::open(cluster.port(), "postgres");
    session.run_each(&[
        "create table mixed (a int, b text, c int[], d point)",
        "create index on mixed using btree (a)",
        "create index on mixed using hash (b)",
        "create index on mixed using gin (c)",
        "create index on mixed using gist (d)",
        "create table emptied as select i a, repeat('x', 100) b from generate_series(1, 3000) i",
        "create table shrunk as select i a, repeat('y', 100) b from generate_series(1, 9000) i",
        "create table dropped as select i a, repeat('z', 100) b from generate_series(1, 3000) i",
        "create unlogged table fleeting (a int primary key)",
        "create sequence counted",
        "create database leaves",
        "vacuum freeze",
    ]);
    cluster
}

/// Clients that work until they are ended.
fn clients(cluster: &TestCluster) -> Child {
    let script = cluster.folder().join("rows.sql");
    let text = "\\set a random(1, 300000)\n\\set b random(1, 3)\n\\set m random(1, 3000)\nbegin;\nsavepoint s;\n\
         update pgbench_accounts set abalance = abalance + 1 where aid = :a;\nrelease savepoint s;\n\
         savepoint t;\ninsert into pgbench_history (tid, bid, aid) values (1, :b, :a);\n\
         rollback to savepoint t;\nselect * from pgbench_branches where bid = :b for key share;\n\
         insert into mixed select i, md5(i::text), array[i % 7, i % 11], point(i, -i)\n\
         from generate_series(:m, :m + 3) i;\n\
         delete from mixed where a between :m - 2 and :m + 2;\n\
         select nextval('counted');\nend;\n";
    std::fs::write(&script, text).expect("a script");
    let mut command = Command::new(cluster.binaries().program("pgbench"));
    command
        .args(["--host=127.0.0.1", "--username", SUPERUSER])
        .arg(format!("--port={}", cluster.port()))
        .args(["--no-vacuum", "--client=4", "--rate=400", "--time=600"])
        .arg("--file")
        .arg(&script)
        .arg("postgres")
        .current_dir(cluster.folder())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("pgbench runs")
}

/// What else happens, over and over, until `over`.
fn upheaval(port: u16, over: &AtomicBool) {
    let mut session = Session::open(port, "postgres");
    let mut round = 0;
    while !over.load(Ordering::SeqCst) {
        round += 1;
        let made = format!("made_{round}");
        session.run_each(&[
            &format!(
                "create table {made} as select i a, md5(i::text) b from generate_series(1, 800) i"
            ),
            &format!("create index on {made} (b)"),
            "create index building on pgbench_accounts (abalance)",
            "drop index building",
            "truncate emptied",
            "insert into emptied select i, 'again' from generate_series(1, 500) i",
            "delete from shrunk where a > 4000",
            "vacuum shrunk",
            "insert into shrunk select i, repeat('w', 100) from generate_series(4001, 7000) i",
            "vacuum mixed",
            "vacuum pgbench_accounts",
            &format!(
                "begin; update shrunk set b = 'p' where a = {round}; prepare transaction 'brief'"
            ),
            "commit prepared 'brief'",
            &format!("begin; insert into {made} values (-1, 'gone'); prepare transaction 'undone'"),
            "rollback prepared 'undone'",
            "create table if not exists dropped (a int, b text)",
            "drop table dropped",
            "vacuum full emptied",
            "reindex table pg_class",
        ]);
        if round == 1 {
            session.run_each(&[
                "drop database leaves",
                "create database comes",
                "create tablespace later location ''",
                "create table placed (a int) tablespace later",
            ]);
        }
        if round % 2 == 0 {
            session.run(&format!("drop table {made}"));
        }
    }
}

/// What was at work is gone; everything that it began has ended.
fn with_work<T>(cluster: &TestCluster, meanwhile: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let mut pgbench = clients(cluster);
    let port = cluster.port();
    let result = std::thread::scope(|scope| {
        let upheaval = scope.spawn(|| upheaval(port, &over));
        std::thread::sleep(Duration::from_secs(1));
        let result = meanwhile();
        over.store(true, Ordering::SeqCst);
        upheaval.join().expect("its statements succeed");
        result
    });
    pgbench.kill().expect("it is there");
    pgbench.wait().expect("it ends");
    result
}

#[test]
fn a_backup_of_a_cluster_at_work_is_served_as_a_standby_has_it() {
    let mut cluster = start();
    let sql = "alter system set allow_in_place_tablespaces = on";
    cluster.sql("postgres", sql).expect("a setting");
    cluster
        .sql("postgres", "select pg_reload_conf()")
        .expect("reloads");
    let tars = cluster.scratch("tars");
    with_work(&cluster, || {
        std::thread::scope(|scope| {
            let backup = scope.spawn(|| back_up(&cluster, &tars, "12M"));
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
        judge_server(&server, &branch, &theirs, &pages);
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

/// As the program serves it.
fn judge_server(server: &Server, branch: &Branch, theirs: &Files, pages: &[(BlockTag, Box<Page>)]) {
    let mut client = server.client(branch);
    for ((relation, fork), blocks) in &theirs.forks {
        let rel = wire(*relation, *fork);
        let answers = client
            .ask_all(&[Ask::Exists(rel), Ask::Nblocks(rel)], LATEST)
            .expect("answers");
        let wanted = [Answer::Exists(true), Answer::Nblocks(*blocks)];
        assert_eq!(answers, wanted, "{relation} {fork:?}");
    }
    let all: Vec<_> = judged(theirs, pages).collect();
    let mut differences = Vec::new();
    for some in all.chunks(200) {
        let asks: Vec<Ask> = some
            .iter()
            .map(|(tag, _)| Ask::GetPage(wire(tag.relation, tag.fork), tag.block))
            .collect();
        let answers = client.ask_all(&asks, LATEST).expect("answers");
        for ((tag, page), answer) in some.iter().zip(answers) {
            match answer {
                Answer::GetPage(found) => {
                    let found: Page = found.try_into().expect("a page");
                    if let Some(at) = first_difference(&found, page, tag.fork) {
                        differences.push(format!("{tag}: differs at {at}"));
                    }
                }
                other => differences.push(format!("{tag}: {other:?}")),
            }
        }
    }
    println!("{} pages served", all.len());
    assert!(differences.is_empty(), "{differences:#?}");
    for ((slru, segment), content) in &theirs.slrus {
        if *slru == Slru::CommitTimestamps {
            continue;
        }
        let number = u32::try_from(*segment).expect("few");
        let answer = client.ask(Ask::GetSlruSegment(slru.number(), number), LATEST);
        let wanted = Answer::GetSlruSegment(content.clone());
        assert!(answer.expect("an answer") == wanted, "{slru:?} {segment}");
    }
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

/// Pages that are judged: not those of free space maps, which are hints, nor of what is not state.
fn judged<'p>(
    theirs: &'p Files,
    pages: &'p [(BlockTag, Box<Page>)],
) -> impl Iterator<Item = (BlockTag, &'p Page)> {
    pages.iter().filter_map(|(tag, page)| {
        let is_state = theirs.forks.contains_key(&(tag.relation, tag.fork));
        is_state.then_some((*tag, &**page))
    })
}

fn wire(relation: Relation, fork: Fork) -> RelationFork {
    RelationFork {
        tablespace: relation.tablespace,
        database: relation.database,
        relation: relation.number,
        fork: fork.number(),
    }
}

#[test]
fn a_cluster_at_work_is_imported_over_its_replication_protocol() {
    let cluster = start();
    let sql = "alter system set allow_in_place_tablespaces = on";
    cluster.sql("postgres", sql).expect("a setting");
    cluster
        .sql("postgres", "select pg_reload_conf()")
        .expect("reloads");
    let live =
        ImportSource::RunningCluster(cluster.connection_settings(), BackupOptions::default());
    let (sink, summary) = with_work(&cluster, || {
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
        let backup = scope.spawn(|| back_up(&cluster, &folder, "6M"));
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

/// A backup as tars, so slow that it meets what goes on meanwhile.
fn back_up(cluster: &TestCluster, folder: &Path, rate: &str) {
    let arguments = [
        "-Ft",
        "-c",
        "fast",
        "-X",
        "stream",
        &format!("--max-rate={rate}"),
        "-D",
        folder.to_str().expect("UTF-8"),
    ];
    let run = cluster.run("pg_basebackup", &arguments);
    run.expect("a backup");
}
