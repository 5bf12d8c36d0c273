//! A cluster at work: clients that write, and a session that makes, truncates, regrows, vacuums, moves and drops what it can.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postgres::local_cluster::{ClusterOptions, SUPERUSER};

use crate::postgres::TestCluster;
use crate::sql::Session;

/// A cluster with what the work is done on. Its hint bits are logged, and its WAL is kept.
///
/// # Panics
/// It does not start.
pub fn start() -> TestCluster {
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
    let (mut round, mut has_tablespace) = (0, false);
    let begun = now();
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
            session.run_each(&["drop database leaves", "create database comes"]);
        }
        // A tablespace made in place is in no backup; one that came before it would be in a standby only where a table in it came
        // behind.
        let phase = session
            .value("select coalesce(string_agg(phase, ','), '') from pg_stat_progress_basebackup");
        let is_under_way = phase.contains("streaming");
        let comes_none = phase.is_empty() && begun.elapsed() > Duration::from_secs(3);
        if !has_tablespace && (is_under_way || comes_none) {
            session.run_each(&[
                "create tablespace later location ''",
                "create table placed (a int) tablespace later",
            ]);
            has_tablespace = true;
        }
        if round % 2 == 0 {
            session.run(&format!("drop table {made}"));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "since when there is work")]
fn now() -> Instant {
    Instant::now()
}

/// Ends the session's work, also when what goes on beside it panics.
struct EndsWork<'o>(&'o AtomicBool);

impl Drop for EndsWork<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What was at work is gone; everything that it began has ended.
///
/// # Panics
/// A statement fails.
pub fn with_work<T>(cluster: &TestCluster, meanwhile: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let mut pgbench = clients(cluster);
    let port = cluster.port();
    let result = std::thread::scope(|scope| {
        let upheaval = scope.spawn(|| upheaval(port, &over));
        std::thread::sleep(Duration::from_secs(1));
        let ends = EndsWork(&over);
        let result = meanwhile();
        drop(ends);
        upheaval.join().expect("its statements succeed");
        result
    });
    pgbench.kill().expect("it is there");
    pgbench.wait().expect("it ends");
    result
}

/// A backup as tars, so slow that it meets what goes on meanwhile.
///
/// # Panics
/// `pg_basebackup` fails.
pub fn back_up(cluster: &TestCluster, folder: &Path, rate: &str) {
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
