//! A server at work: clients side by side, crashes in the middle, files of relations that come back under the same name.

use std::process::{Child, Command, Stdio};

use harness::sql::Session;
use postgres::local_cluster::StopMode;

use crate::cluster::Run;
use crate::surgery;

/// Crashes in the middle of the clients' work.
const CRASHES: u32 = 2;

/// All of it; a prepared transaction stays.
pub(crate) fn run(run: &mut Run) {
    let mut session = run.session();
    session.run("commit prepared 'early'");
    prepare(run, &mut session);
    drop(session);
    for crash in 0..CRASHES {
        let mut clients = clients(run);
        beside(run, crash);
        run.cluster.stop(StopMode::Immediate).expect("stops");
        clients.wait().expect("the clients end with it");
        run.cluster.start().expect("the server recovers");
    }
    let mut clients = clients(run);
    beside(run, CRASHES);
    clients.kill().expect("the clients are there");
    clients.wait().expect("they end");
    let mut session = run.session();
    let left = "select count(*) from pg_stat_activity where application_name = 'pgbench'";
    let is_quiet = (0..600).any(|_| {
        session.run("select pg_sleep(0.1)");
        session.value(left) == "0"
    });
    assert!(is_quiet, "what the clients began goes on");
    drop(session);
    file_number_again(run);
    run.session().run_each(&[
        "vacuum",
        "begin; insert into regrown select generate_series(1, 10); prepare transaction 'loaded'",
        "checkpoint",
        "insert into mixed select i, md5(i::text), array[i % 7], point(i, i) from generate_series(1, 50) i",
    ]);
}

fn prepare(run: &Run, session: &mut Session) {
    let pgbench = pgbench(run)
        .args(["--initialize", "--scale=2", "--quiet"])
        .output()
        .expect("pgbench runs");
    let said = String::from_utf8_lossy(&pgbench.stderr);
    assert!(pgbench.status.success(), "pgbench: {said}");
    session.run_each(&[
        "create table mixed (a int, b text, c int[], d point)",
        "create index on mixed using btree (a)",
        "create index on mixed using hash (b)",
        "create index on mixed using gin (c)",
        "create index on mixed using gist (d)",
        "create index on mixed using spgist (b)",
        "create index on mixed using brin (a) with (pages_per_range = 2, autosummarize = off)",
        "create table regrown (a int, b text default 'some text')",
        "create sequence counted",
    ]);
    // Where the server can, each method of compression, beside what it is set to.
    for method in methods(run) {
        session.run_each(&[
            &format!("set wal_compression = {method}"),
            &format!("create table {method} as select i a, repeat('text ', 20) b from generate_series(1, 500) i"),
            "checkpoint",
            &format!("update {method} set a = -a where a % 7 = 0"),
        ]);
    }
}

/// What images of this run are compressed with.
pub(crate) fn methods(run: &Run) -> &'static [&'static str] {
    match run.cluster.major_version().expect("a version") {
        15 => &["pglz", "lz4", "zstd"],
        // Those of newer versions are built without the others.
        _ => &["pglz"],
    }
}

fn pgbench(run: &Run) -> Command {
    let mut command = run.client("pgbench");
    command
        .env("PGDATABASE", "postgres")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Clients that work until the server stops. Their pace is limited: with consistency checking each record has a page.
fn clients(run: &Run) -> Child {
    let scripts = [
        (
            "rows.sql",
            "\\set a random(1, 200000)\n\\set b random(1, 2)\nbegin;\nsavepoint s;\n\
             update pgbench_accounts set abalance = abalance + 1 where aid = :a;\nrelease savepoint s;\n\
             savepoint t;\ninsert into pgbench_history (tid, bid, aid) values (1, :b, :a);\n\
             rollback to savepoint t;\nselect * from pgbench_branches where bid = :b for key share;\n\
             select nextval('counted');\nend;\n",
        ),
        (
            "indexes.sql",
            "\\set a random(1, 3000)\n\
             insert into mixed select i, md5(i::text), array[i % 7, i % 11], point(i, -i)\n\
             from generate_series(:a, :a + 9) i;\n\
             delete from mixed where a between :a - 5 and :a + 5;\n",
        ),
    ];
    let mut pgbench = pgbench(run);
    for (name, script) in scripts {
        std::fs::write(run.cluster.scratch(name), script).expect("a file");
        pgbench.args(["--file", name]);
    }
    pgbench
        .args([
            "--builtin=tpcb-like",
            "--client=6",
            "--jobs=2",
            "--time=300",
        ])
        .args(["--rate=150", "--no-vacuum"])
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbench runs")
}

/// What goes on beside the clients: relations are cut off and grow again, made and dropped, vacuumed; at the end some of it
/// is under way.
fn beside(run: &Run, round: u32) {
    let mut session = run.session();
    for _ in 0..2 {
        session.run_each(&[
            "insert into regrown select generate_series(1, 6000)",
            "delete from regrown where a > 500",
            // Cuts the end off, and the maps.
            "vacuum regrown",
            "insert into regrown select generate_series(1, 3000)",
            // Not its indexes: vacuum logs a bucket of a hash index with the bucket's first page, which it does not hold, so
            // that the image of it for comparison may change under the record's checksum while clients insert.
            "vacuum (index_cleanup off) mixed",
            "checkpoint",
            "begin; truncate regrown; insert into regrown select generate_series(1, 900); end",
            "begin; truncate regrown; insert into regrown select generate_series(1, 70); rollback",
            "reindex table mixed",
            "vacuum pgbench_branches",
        ]);
    }
    session.run_each(&[
        &format!("create table round_{round} as select generate_series(1, 2000) a"),
        &format!("begin; create table prepared_{round} (a int); insert into prepared_{round} values (1); \
                  prepare transaction 'round_{round}'"),
    ]);
    if round > 0 {
        let before = round - 1;
        session.run_each(&[
            &format!("drop table round_{before}"),
            &format!("commit prepared 'round_{before}'"),
        ]);
    }
    // Left open at the crash.
    session.run(
        "begin; create table lost as select generate_series(1, 3000) a; truncate regrown; \
         insert into regrown select generate_series(1, 200)",
    );
}

/// A relation that was dropped, and after it, across a crash, others whose files have its number.
fn file_number_again(run: &mut Run) {
    let mut session = run.session();
    session.run_each(&[
        // It would keep dead rows of the catalogs, and they the numbers.
        &format!("commit prepared 'round_{CRASHES}'"),
        "create table first_life (a int primary key, b text default 'of the first life')",
        "insert into first_life select generate_series(1, 4000)",
        "vacuum first_life",
    ]);
    let number = session.value("select pg_relation_filenode('first_life')");
    session.run("drop table first_life");
    drop(session);
    for life in ["second_life", "third_life"] {
        // A crash loses what a vacuum did last.
        run.session().run("vacuum pg_class");
        run.cluster.stop(StopMode::Fast).expect("stops");
        let next = number.parse().expect("a number");
        surgery::set_next_oid(&run.cluster.data_directory(), next);
        run.cluster.start().expect("starts");
        let mut session = run.session();
        // A crash may lose what nobody waits for.
        session.run("set synchronous_commit = on");
        session.run(&format!(
            "create table {life} (a int, b text default 'of another life')"
        ));
        let again = session.value(&format!("select pg_relation_filenode('{life}')"));
        assert_eq!(again, number, "the file of {life}");
        session.run(&format!(
            "insert into {life} select generate_series(1, 300)"
        ));
        // To be seen in the WAL; then it is lost, or stays.
        session.run("checkpoint");
        if life == "second_life" {
            session.run(&format!("drop table {life}"));
        }
        session.run("begin; insert into regrown select generate_series(1, 100)");
        run.cluster.stop(StopMode::Immediate).expect("stops");
        run.cluster.start().expect("the server recovers");
    }
}
