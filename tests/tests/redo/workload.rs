//! What makes every kind of record: SQL files per access method, and here what needs several sessions, databases,
//! restarts or a crash.

use harness::sql::Session;
use postgres::local_cluster::StopMode;

use crate::cluster::{Mode, Run};
use crate::surgery;

/// Paragraphs of SQL, each sent by itself.
const FILES: [&str; 8] = [
    include_str!("sql/heap.sql"),
    include_str!("sql/btree.sql"),
    include_str!("sql/hash.sql"),
    include_str!("sql/gin.sql"),
    include_str!("sql/gist.sql"),
    include_str!("sql/spgist.sql"),
    include_str!("sql/brin.sql"),
    include_str!("sql/index_corners.sql"),
];

/// Everything, in an order in which later parts find what they need.
pub(crate) fn run(run: &mut Run) {
    logical(run);
    for file in FILES {
        script(&mut run.session(), file);
        run.session().run("checkpoint");
    }
    split_during_vacuum(run);
    row_locks(run);
    two_phase(run);
    databases_and_tablespaces(run);
    small_records(run);
    compressed_images(run);
    hint_bits(run);
    many_transactions(run);
    many_multixacts(run);
    lost_record(run);
    if run.mode == Mode::Deltas {
        run.freeze_all();
    }
    settings_changed(run);
    end_state(run);
}

/// Sends each paragraph that is not only comments.
fn script(session: &mut Session, text: &str) {
    for paragraph in text.split("\n\n") {
        let lines: Vec<_> = paragraph
            .lines()
            .filter(|line| !line.starts_with("--"))
            .collect();
        let sql = lines.join("\n");
        if !sql.trim().is_empty() {
            session.run(&sql);
        }
    }
}

/// With a logical slot, rewriting a catalog table logs how rows moved.
fn logical(run: &Run) {
    run.session().run_each(&[
        // The slot would wait for it.
        "commit prepared 'early'",
        "create table catalog_like (a int primary key, b text) with (user_catalog_table = true)",
        "select pg_create_logical_replication_slot('rewrites', 'test_decoding')",
        "insert into catalog_like select i, 'x' from generate_series(1, 200) i",
        "update catalog_like set b = 'y' where a % 2 = 0",
        "vacuum full catalog_like",
        "select pg_drop_replication_slot('rewrites')",
        // Mapped catalogs move to other files.
        "vacuum full pg_class",
        "reindex table pg_class",
        "vacuum full pg_database",
    ]);
}

/// Sets of transactions that lock a row, and locks that follow a row to its newer version.
fn row_locks(run: &Run) {
    let (mut a, mut b) = (run.session(), run.session());
    a.run_each(&[
        "create table locked (a int primary key, b int)",
        "insert into locked select i, 0 from generate_series(1, 100) i",
        "vacuum locked",
        "begin",
        "select * from locked where a < 20 for share",
    ]);
    b.run_each(&[
        "begin",
        "select * from locked where a < 10 for share",
        "select * from locked where a < 30 for key share",
    ]);
    a.run("commit");
    b.run("commit");
    // An update in progress does not stop a key-share lock, which then locks the new version too.
    a.run_each(&["begin", "update locked set b = 1 where a between 40 and 60"]);
    b.run_each(&[
        "begin",
        "select * from locked where a between 40 and 60 for key share",
        "commit",
    ]);
    a.run("commit");
    // Of a deleted row's set the survivor updates.
    a.run_each(&["begin", "select * from locked where a = 70 for key share"]);
    b.run_each(&["begin", "update locked set b = 2 where a = 70", "commit"]);
    a.run_each(&["rollback", "vacuum (freeze) locked"]);
}

/// Prepared transactions that make, truncate and drop relations, in both outcomes; one stays.
fn two_phase(run: &Run) {
    let mut session = run.session();
    session.run_each(&[
        "create table prepared (a int)",
        "insert into prepared select generate_series(1, 100)",
        "create table dropped (a int)",
    ]);
    for (name, body) in [
        (
            "one",
            "insert into prepared values (1); drop table dropped; create table kept (a int)",
        ),
        ("two", "create table undone (a int); truncate locked"),
        (
            "three",
            "insert into prepared select generate_series(1, 300); savepoint s; delete from prepared where a > 250",
        ),
    ] {
        session.run(&format!("begin; {body}; prepare transaction '{name}'"));
    }
    session.run_each(&[
        "commit prepared 'one'",
        "rollback prepared 'two'",
        "checkpoint",
        // More subtransactions than a backend has room for are assigned to their top transaction.
        "do $$ begin for i in 1..200 loop begin insert into prepared values (i); \
         exception when others then null; end; end loop; end $$",
    ]);
}

fn databases_and_tablespaces(run: &Run) {
    let mut session = run.session();
    session.run_each(&[
        "create tablespace inside location ''",
        "create tablespace passing location ''",
        "create table away (a int primary key) tablespace inside",
        "insert into away select generate_series(1, 500)",
        "create database copied strategy file_copy",
        "create database logged strategy wal_log",
        "create database elsewhere strategy file_copy tablespace inside",
        "create database gone strategy wal_log tablespace inside",
        // A folder of this database stays in it until it goes.
        "create table passed (a int) tablespace passing",
        "drop table passed",
        "drop tablespace passing",
    ]);
    // Empty: the standby that replays it has the same place for it.
    for name in ["outside", "outside_once"] {
        let folder = run.cluster.make_folder(name).expect("a folder");
        let folder = folder.display();
        session.run(&format!("create tablespace {name} location '{folder}'"));
    }
    session.run("drop tablespace outside_once");
    for database in ["copied", "logged", "elsewhere"] {
        Session::open(run.cluster.port(), database).run_each(&[
            "create table t as select i a, i::text b from generate_series(1, 500) i",
            "create index on t (a)",
        ]);
    }
    session.run_each(&[
        "drop database gone",
        "alter database copied set tablespace inside",
        "alter database elsewhere set tablespace pg_default",
        "create database second_life template logged strategy file_copy",
    ]);
}

/// One record each.
fn small_records(run: &Run) {
    let mut session = run.session();
    session.run_each(&[
        "select pg_create_restore_point('here')",
        "select pg_switch_wal()",
        "select pg_replication_origin_create('far')",
        "select pg_replication_origin_advance('far', '0/1234')",
        "select pg_replication_origin_create('gone')",
        "select pg_replication_origin_advance('gone', '0/99')",
        "select pg_replication_origin_drop('gone')",
        "select pg_replication_origin_drop('old and gone')",
        "select pg_backup_start('a backup', true)",
        "select pg_backup_stop()",
        "select pg_logical_emit_message(false, 'a', 'message')",
        "create table truncated as select generate_series(1, 1000) a",
        "truncate truncated",
    ]);
    // A commit that names its origin.
    session.run_each(&[
        "select pg_replication_origin_session_setup('far')",
        "begin; select pg_replication_origin_xact_setup('0/5678', now()); \
         insert into truncated values (1); commit",
        "select pg_replication_origin_session_reset()",
    ]);
}

/// Images that are compressed by the server's own method.
fn compressed_images(run: &Run) {
    run.session().run_each(&[
        "set wal_compression = pglz",
        "create table compressed as select i a, repeat('text ', 20) b from generate_series(1, 300) i",
        "checkpoint",
        "update compressed set a = -a where a % 7 = 0",
        "delete from compressed where a % 9 = 0",
    ]);
}

/// A leaf is split while a vacuum is on its way to it: both halves carry the vacuum's number, images bring that to redo, and
/// when the vacuum comes by it takes the number away, from the one with its record and from the other without.
fn split_during_vacuum(run: &Run) {
    let (mut vacuum, mut reader, mut writer) = (run.session(), run.session(), run.session());
    writer.run_each(&[
        "create table cycled (a int primary key)",
        "insert into cycled select generate_series(2, 16000, 2)",
        "delete from cycled where a in (2, 15900)",
    ]);
    // A scan of the index alone keeps the first leaf from being cleaned.
    reader.run_each(&[
        "begin; set local enable_seqscan = off; set local enable_bitmapscan = off; \
         declare kept cursor for select a from cycled where a < 200 order by a",
        "fetch 1 from kept",
    ]);
    vacuum.start("vacuum cycled");
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'BufferPin'";
    let is_waiting = (0..600).any(|_| {
        writer.run("select pg_sleep(0.1)");
        writer.value(waits) == "1"
    });
    assert!(is_waiting, "the vacuum passes the first leaf");
    writer.run_each(&[
        "insert into cycled select generate_series(16002, 17000, 2)",
        "checkpoint",
        "insert into cycled values (15901), (17001)",
    ]);
    reader.run("commit");
    vacuum.finish().expect("vacuumed");
    writer.run("insert into cycled values (15903), (17003)");
}

/// Reads that set hint bits on pages that a checkpoint wrote.
fn hint_bits(run: &Run) {
    run.session().run_each(&[
        "create table hinted as select generate_series(1, 1000) a",
        "checkpoint",
        "select count(*) from hinted",
    ]);
}

/// Enough ids to cross pages of the commit status and (where the next ids are near it) the end of the epoch.
fn many_transactions(run: &Run) {
    run.session().run(
        "do $$ begin for i in 1..45000 loop begin perform pg_logical_emit_message(true, '', ''); \
         exception when others then null; end; end loop; end $$",
    );
}

/// Enough sets of transactions to cross pages of their offsets and members.
fn many_multixacts(run: &Run) {
    run.session().run_each(&[
        "create table crowded (a int)",
        "insert into crowded values (1)",
        "set wal_consistency_checking = ''",
        "do $$ begin perform 1 from crowded for key share; for i in 1..3000 loop begin \
         perform 1 from crowded for no key update; raise 'undo'; \
         exception when others then null; end; end loop; end $$",
    ]);
}

/// A crash in the middle of a record: its end is lost, and the server marks what it leaves unfinished.
fn lost_record(run: &mut Run) {
    let mut session = run.session();
    session.run("checkpoint");
    session.run("select pg_switch_wal()");
    session.run("insert into crowded values (2)");
    let lsn = session.value("select pg_current_wal_insert_lsn() - '0/0'");
    let from = lsn.parse().expect("a position");
    // Written before its transaction ends, which it never does.
    session.run("begin; select pg_logical_emit_message(false, 'long', repeat('x', 40000000))");
    session.run("select pg_switch_wal()");
    drop(session);
    run.cluster.stop(StopMode::Immediate).expect("stops");
    surgery::lose_wal_behind(&run.cluster.data_directory(), from);
    run.cluster.start().expect("the server recovers");
    run.session().run("insert into crowded values (3)");
}

/// Settings that WAL tells of: full page writes by a reload, the number of connections by a restart.
fn settings_changed(run: &mut Run) {
    let mut session = run.session();
    let (wanted, shown) = if run.mode == Mode::FullPages {
        ("off", "f")
    } else {
        ("on", "t")
    };
    session.run_each(&[
        "alter system set max_connections = 60",
        &format!("alter system set full_page_writes = {wanted}"),
        "select pg_reload_conf()",
    ]);
    // The checkpointer takes it over some time after the signal, and its checkpoints show that it did.
    let is_taken = (0..600).any(|_| {
        session.run_each(&["select pg_sleep(0.1)", "checkpoint"]);
        session.value("select full_page_writes from pg_control_checkpoint()") == shown
    });
    assert!(is_taken, "the server goes on with its old settings");
    session.run("create table after_reload as select generate_series(1, 100) a");
    drop(session);
    run.restart(StopMode::Fast);
    run.session().run_each(&[
        // With the next oid as the shutdown's checkpoint told it.
        "checkpoint",
        "create table after_restart as select generate_series(1, 100) a",
        "commit prepared 'three'",
    ]);
}

/// State of every kind that is there at the end: some that the last checkpoint wrote, and some from behind it.
fn end_state(run: &Run) {
    let mut session = run.session();
    session.run_each(&[
        "create unlogged table unlogged as select generate_series(1, 100) a",
        "create index on unlogged (a)",
        // With so many subtransactions it fills more than a chunk.
        "begin; do $$ begin for i in 1..2500 loop begin insert into prepared values (i); \
         exception when others then null; end; end loop; end $$; \
         create table never (a int); prepare transaction 'last'",
        "create database late strategy file_copy",
        "checkpoint",
        "create table behind as select generate_series(1, 2000) a",
        "delete from behind where a > 100",
        "vacuum behind",
        "create table away_again (a int) tablespace inside",
        "select pg_replication_origin_advance('far', '0/9999')",
    ]);
    let (mut a, mut b) = (run.session(), run.session());
    a.run("begin; select * from behind where a < 5 for share");
    b.run("begin; select * from behind where a < 5 for share; rollback");
    a.run("commit");
}
