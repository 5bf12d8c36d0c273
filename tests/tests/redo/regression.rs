//! PostgreSQL's own regression suite at work: some two hundred files of SQL, in the groups of its schedule, files of a
//! group side by side, vacuum coming by on its own. What they print is not judged. Statements fail, since the suite's functions
//! in C are in no package, and since its files are of 15 and the server may be newer.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use harness::sql::Session;
use harness::tools;

use crate::cluster::Run;
use crate::load::methods;

/// Files of a group that run at the same time.
const SIDE_BY_SIDE: usize = 4;
/// Vacuum of a hash index logs the first page of a bucket without a lock on it, and consistency checking adds its image: a row
/// that comes in meanwhile makes a record whose checksum is wrong, at which every server stops that replays it. So nothing
/// vacuums beside this file.
const ALONE_WITHOUT_VACUUM: &str = "hash_index";
/// Groups between two checkpoints.
const GROUPS_PER_CHECKPOINT: usize = 10;

/// All of it. A prepared transaction stays, and what is behind the last checkpoint.
///
/// # Panics
/// A file does not come to its end.
pub(crate) fn run(run: &Run) {
    let suite = tools::postgres_regression_suite();
    let schedule = fs::read_to_string(suite.join("parallel_schedule"));
    let schedule = schedule.expect("the suite is there: tests/tools/install installs it");
    let folder = run.cluster.make_folder("regress").expect("a folder");
    // Where the server writes, and reads: it may not be let into the suite's own folder.
    run.cluster
        .make_folder("regress/results")
        .expect("a folder");
    copy_files(&suite.join("data"), &folder.join("data"));
    let mut session = run.session();
    session.run_each(&[
        "commit prepared 'early'",
        "create database regression template template0",
        "alter database regression set bytea_output to 'hex'",
        "alter database regression set timezone_abbreviations to 'Default'",
        "alter system set autovacuum_naptime = 1",
    ]);
    // Less than half of ten gigabytes, in less time.
    if methods(run).contains(&"lz4") {
        session.run("alter system set wal_compression = lz4");
    }
    set_autovacuum(&mut session, true);
    let groups = schedule
        .lines()
        .filter_map(|line| line.strip_prefix("test: "));
    for (number, group) in (1..).zip(groups) {
        let stops_vacuum = group
            .split_whitespace()
            .any(|name| name == ALONE_WITHOUT_VACUUM);
        if stops_vacuum {
            set_autovacuum(&mut session, false);
        }
        let files = Mutex::new(group.split_whitespace());
        std::thread::scope(|scope| {
            for _ in 0..SIDE_BY_SIDE {
                scope.spawn(|| {
                    while let Some(name) = next(&files) {
                        run_file(&mut psql(run, &folder), &suite, &folder, name);
                    }
                });
            }
        });
        if stops_vacuum {
            set_autovacuum(&mut session, true);
        }
        if number % GROUPS_PER_CHECKPOINT == 0 {
            session.run("checkpoint");
        }
    }
    set_autovacuum(&mut session, false);
    Session::open(run.cluster.port(), "regression").run_each(&[
        "vacuum",
        "create tablespace left_behind location ''",
        "create table left_there tablespace left_behind as select generate_series(1, 500) a",
        "begin; update onek set two = -two; prepare transaction 'regression'",
        "checkpoint",
        "delete from tenk1 where unique1 % 9 = 0",
        "vacuum tenk1",
        "insert into hash_i4_heap select i, i from generate_series(1, 500) i",
    ]);
}

/// Switches it on or off; when it is off none is under way.
fn set_autovacuum(session: &mut Session, on: bool) {
    session.run(&format!(
        "alter system set autovacuum = {}",
        if on { "on" } else { "off" }
    ));
    session.run("select pg_reload_conf()");
    let workers = "select count(*) from pg_stat_activity where backend_type like 'autovacuum%'";
    let is_quiet = on
        || (0..600).any(|_| {
            session.run("select pg_sleep(0.1)");
            session.value(workers) == "0"
        });
    assert!(is_quiet, "autovacuum goes on");
}

fn next<'a>(files: &Mutex<impl Iterator<Item = &'a str>>) -> Option<&'a str> {
    files.lock().expect("no thread panics with it").next()
}

/// As the suite's own driver calls it.
fn psql(run: &Run, folder: &Path) -> Command {
    let mut psql = run.client("psql");
    psql.args(["-X", "-a", "-q", "--dbname=regression"])
        .args(["-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"])
        .current_dir(folder)
        .env("PGTZ", "PST8PDT")
        .env("PGDATESTYLE", "Postgres, MDY")
        // What hangs, for want of a function that would end it, is ended.
        .env(
            "PGOPTIONS",
            "-c intervalstyle=postgres_verbose -c statement_timeout=60s",
        )
        .env("PG_ABS_SRCDIR", folder)
        .env("PG_ABS_BUILDDIR", folder)
        .env("PG_LIBDIR", folder)
        .env("PG_DLSUFFIX", ".so");
    psql
}

fn run_file(psql: &mut Command, suite: &Path, folder: &Path, name: &str) {
    let sql = File::open(suite.join(format!("sql/{name}.sql"))).expect("a file");
    let output = folder.join(format!("results/{name}.out"));
    let printed = File::create(&output).expect("a file");
    let status = psql
        .stdin(Stdio::from(sql))
        .stderr(printed.try_clone().expect("a second handle"))
        .stdout(printed)
        .status()
        .expect("psql runs");
    let text = fs::read(&output).expect("what it printed");
    let end = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
    assert!(status.success(), "{name}: {status}\n{end}");
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
