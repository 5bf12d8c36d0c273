//! A branch that follows a stock primary, judged by stock standbys: the same backup, replayed up to the same LSN, gives the
//! same pages, sizes and segments. The branch is attached and read while the cluster works, and its server is killed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use engine::types::Lsn;
use harness::cluster_state::Files;
use harness::postgres::TestCluster;
use harness::served::judge_server;
use harness::server::{Branch, Server, Site};
use harness::sql::Session;
use harness::standby::Backup;
use harness::work;
use postgres::local_cluster::{ClusterOptions, StopMode};
use serde_json::Value;

/// Little memory, so that much of what comes is flushed and read from layers.
const LITTLE_MEMORY: (&str, &str) = ("follow", "memory = \"8MiB\"\nflush_after = \"20s\"");

/// Flushes are so frequent that there is something to merge.
const MANY_LAYERS: (&str, &str) = (
    "follow",
    "memory = \"8MiB\"\nflush_after = \"1s\"\ndelete_after = \"2s\"",
);

fn connection(cluster: &TestCluster) -> String {
    let settings = cluster.connection_settings();
    format!(
        "host=127.0.0.1 port={} user={}",
        cluster.port(),
        settings.user
    )
}

/// What `status` says of the only branch that follows.
fn following(server: &Server) -> Value {
    let (status, text) = server.http("GET", "/v1/following", "");
    assert_eq!(status, 200, "{text}");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[0].clone()
}

fn lsn(value: &Value) -> Lsn {
    value.as_str().expect("an LSN").parse().expect("an LSN")
}

fn wait_until(server: &Server, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = now();
    loop {
        let status = following(server);
        if is_so(&status) {
            return status;
        }
        assert!(begun.elapsed() < WAIT_MAX, "not {what}: {status:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a test waits")]
fn now() -> Instant {
    Instant::now()
}

const WAIT_MAX: Duration = Duration::from_secs(60);

/// Everything up to the primary's last byte is readable.
fn catch_up(server: &Server, cluster: &TestCluster) -> Lsn {
    let end = position(cluster);
    wait_until(server, "caught up", |status| {
        lsn(&status["readable"]) >= end
    });
    end
}

/// Where the next record will begin.
fn position(cluster: &TestCluster) -> Lsn {
    let mut session = Session::open(cluster.port(), "postgres");
    let text = session.value("select pg_current_wal_insert_lsn()");
    text.parse().expect("an LSN")
}

/// What the cluster's clock says.
fn time(cluster: &TestCluster) -> String {
    let mut session = Session::open(cluster.port(), "postgres");
    session.value(
        "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')",
    )
}

/// Where the server's admin API is: not on the port of the configuration.
fn admin(server: &Server) -> String {
    format!("http://{}", server.admin)
}

/// Attaches the cluster as a branch.
fn attach(site: &Site, server: &Server, cluster: &TestCluster, more: &[&str]) -> Branch {
    let connection = connection(cluster);
    let url = admin(server);
    let arguments = [
        "attach",
        &connection,
        "acme/main",
        "--create-tenant",
        "--url",
        &url,
    ];
    let said = site.succeed(&[&arguments, more].concat());
    assert!(said.contains("follows the primary"), "{said}");
    branch_named(site, "main")
}

/// A branch of the only tenant.
fn branch_named(site: &Site, name: &str) -> Branch {
    let tenants = site.json(&["tenant", "list", "--json"]);
    let branches = site.json(&["branch", "list", "--json"]);
    let branches = branches.as_array().expect("branches");
    let branch = branches.iter().find(|listed| listed["name"] == name);
    let branch = branch.unwrap_or_else(|| panic!("no {name} in {branches:?}"));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    Branch {
        tenant: text(&tenants[0]["id"]),
        id: text(&branch["id"]),
        last_lsn: lsn(&branch["last_lsn"]).0,
    }
}

#[test]
fn every_page_at_any_lsn_is_that_of_a_standby_stopped_there() {
    let mut cluster = work::start();
    cluster
        .sql(
            "postgres",
            "alter system set allow_in_place_tablespaces = on",
        )
        .expect("a setting");
    cluster
        .sql("postgres", "select pg_reload_conf()")
        .expect("reloads");
    let tars = cluster.scratch("tars");
    let site = Site::new(&[MANY_LAYERS]);
    let (mut moments, mut times) = (Vec::new(), Vec::new());
    let (mut server, branch) = work::with_work(&cluster, || {
        work::back_up(&cluster, &tars, "20M");
        let mut server = site.serve();
        let backup = tars.to_str().expect("UTF-8");
        let branch = attach(&site, &server, &cluster, &["--backup", backup]);
        wait_until(&server, "streaming", |status| {
            status["state"] == "streaming"
        });
        for round in 0..3 {
            // Its files are copied, and no record says what is in them.
            let copy = format!("create database copied_{round} strategy file_copy");
            cluster.sql("postgres", &copy).expect("a database");
            std::thread::sleep(Duration::from_secs(2));
            // The standby writes its pages at a checkpoint only.
            cluster.sql("postgres", "checkpoint").expect("a checkpoint");
            moments.push(position(&cluster));
            times.push(time(&cluster));
            std::thread::sleep(Duration::from_millis(500));
            if round == 1 {
                server.kill();
                server = site.serve();
            }
        }
        (server, branch)
    });
    cluster.sql("postgres", "checkpoint").expect("a checkpoint");
    moments.push(position(&cluster));
    cluster
        .sql("postgres", "select pg_switch_wal()")
        .expect("WAL");
    catch_up(&server, &cluster);
    let status = following(&server);
    println!("{status:#}");
    assert!(status["flushes"].as_u64() > Some(1), "{status:#}");
    // The layers that are read are those that others became.
    wait_until(&server, "compacted", |status| {
        status["compactions"].as_u64() > Some(0)
    });
    cluster
        .stop(StopMode::Fast)
        .expect("it stops, since the server let it");

    let mut standbys: Vec<(Lsn, Backup)> = moments
        .iter()
        .map(|at| {
            let name = format!("standby-{}", at.0);
            let standby = Backup::named(&name, &cluster, &tars);
            standby.replay_until(&cluster, *at);
            (*at, standby)
        })
        .collect();
    wait_until(&server, "flushed", |status| {
        lsn(&status["in_layers"]) >= moments[moments.len() - 1]
    });
    // As the clients' clock was, among their commits.
    let time = &times[1];
    let told = site.json(&["time", &format!("acme/main@{time}"), "--json"]);
    let standby = Backup::named("standby-by-time", &cluster, &tars);
    standby.replay_until_time(&cluster, time);
    standbys.push((lsn(&told["lsn"]), standby));
    let from = format!("acme/main@{time}");
    let made = site.json(&["branch", "create", "acme/then", "--from", &from, "--json"]);
    assert_eq!(made["left_at"], told["lsn"]);
    let early = site.fail(8, &["time", "acme/main@2001-01-01T00:00:00Z"]);
    assert!(early.contains("is before"), "{early}");
    let late = site.fail(8, &["time", "acme/main@-1s"]);
    assert!(late.contains("the last transaction"), "{late}");
    let judge = |server: &Server| {
        for (at, standby) in &standbys {
            println!("at {at}");
            let theirs = Files::read(standby.data());
            judge_server(server, &branch, Some(*at), &theirs, &standby.pages());
        }
    };
    judge(&server);
    // Again from what is durable, with the primary away.
    server.kill();
    server = site.serve();
    wait_until(&server, "recovered", |status| {
        lsn(&status["readable"]) >= moments[moments.len() - 1]
    });
    judge(&server);
    let (status, _) = server.terminate();
    assert!(status.success());
    // Every version of every page can be replayed, also those that nobody asked for.
    let checked = assert_sound(&site, "acme/main");
    assert!(checked["replayed"].as_u64() > Some(10_000), "{checked:#}");
}

/// Checks all of a branch; what was seen.
fn assert_sound(site: &Site, branch: &str) -> Value {
    let checked = site.json(&["check", branch, "--deep", "--json"]);
    println!("{checked:#}");
    assert_eq!(checked["findings"], serde_json::json!([]));
    checked
}

#[test]
fn history_beyond_the_window_is_given_up_and_a_branch_keeps_what_it_sees() {
    let mut cluster = work::start();
    let tars = cluster.scratch("tars");
    let (section, layers) = MANY_LAYERS;
    let window = format!("{layers}\nretain_wal = \"16MiB\"\nhistory_grace = \"2s\"");
    let site = Site::new(&[(section, &window)]);
    work::back_up(&cluster, &tars, "200M");
    let server = site.serve();
    let backup = tars.to_str().expect("UTF-8");
    attach(&site, &server, &cluster, &["--backup", backup]);
    let mut session = Session::open(cluster.port(), "postgres");
    session.run("create table kept (a int primary key, b text)");
    session.run("insert into kept select a, repeat('x', 200) from generate_series(1, 5000) a");
    session.run("delete from kept where a % 3 = 0");
    session.run("checkpoint");
    let left_at = position(&cluster);
    wait_until(&server, "flushed", |status| {
        lsn(&status["in_layers"]) >= left_at
    });
    let from = format!("acme/main@{left_at}");
    site.succeed(&["branch", "create", "acme/old", "--from", &from]);

    // All of it is written anew, and the table goes.
    let mut round = 0;
    let begun = now();
    let status = loop {
        round += 1;
        session.run("update kept set b = b || 'y'");
        session.run("vacuum kept");
        session.run(&format!("update kept set a = a + {round} * 10000"));
        session.run("checkpoint");
        catch_up(&server, &cluster);
        let status = following(&server);
        let is_given_up = lsn(&status["horizon"]) > left_at;
        if is_given_up && status["dropped_versions"].as_u64() > Some(1000) {
            break status;
        }
        assert!(begun.elapsed() < 2 * WAIT_MAX, "{status:#}");
    };
    session.run("drop table kept");
    catch_up(&server, &cluster);
    println!("{status:#}");
    // Its WAL goes as well.
    let begun = now();
    loop {
        let pieces = site.stored_files("wal");
        let number = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            u64::from_str_radix(name.expect("a name"), 16).expect("a number")
        };
        let last = pieces.iter().map(number).max();
        if last > Some(pieces.len() as u64 + 3) {
            break;
        }
        assert!(begun.elapsed() < WAIT_MAX, "{pieces:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let refused = site.fail(8, &["branch", "create", "acme/late", "--from", &from]);
    assert!(refused.contains("can be read from"), "{refused}");
    drop(session);
    cluster.stop(StopMode::Fast).expect("it stops");

    let standby = Backup::named("standby", &cluster, &tars);
    standby.replay_until(&cluster, left_at);
    let theirs = Files::read(standby.data());
    let old = branch_named(&site, "old");
    judge_server(&server, &old, Some(left_at), &theirs, &standby.pages());
    // Again by a server that starts anew, with nothing in memory.
    server.kill();
    let server = site.serve();
    judge_server(&server, &old, Some(left_at), &theirs, &standby.pages());
    drop(server);
    for branch in ["acme/main", "acme/old"] {
        assert_sound(&site, branch);
    }
}

#[test]
fn a_primary_that_forked_below_what_is_there_is_followed_from_there_on_a_branch() {
    let mut primary = work::start();
    let in_place = "alter system set allow_in_place_tablespaces = on";
    primary.sql("postgres", in_place).expect("a setting");
    let tars = primary.scratch("tars");
    work::back_up(&primary, &tars, "200M");
    let site = Site::new(&[MANY_LAYERS]);
    let mut server = site.serve();
    let backup = tars.to_str().expect("UTF-8");
    attach(&site, &server, &primary, &["--backup", backup]);
    let mut standby = primary.standby();
    standby.start().expect("it starts");
    let mut session = Session::open(primary.port(), "postgres");
    session
        .run("create table kept as select a, repeat('x', 200) b from generate_series(1, 5000) a");
    let seen = position(&primary);
    let begun = now();
    while Session::open(standby.port(), "postgres")
        .value("select pg_last_wal_replay_lsn()")
        .parse::<Lsn>()
        .expect("an LSN")
        < seen
    {
        assert!(begun.elapsed() < WAIT_MAX, "the standby does not replay");
        std::thread::sleep(Duration::from_millis(20));
    }
    standby.stop(StopMode::Fast).expect("it stops");
    // The standby never hears of this; the server does.
    session.run("update kept set b = 'lost'");
    session.run("create table lost as select generate_series(1, 3000) a");
    session.run("checkpoint");
    let lost_end = position(&primary);
    session.run("select pg_switch_wal()");
    catch_up(&server, &primary);
    drop(session);
    primary.stop(StopMode::Fast).expect("it stops");
    standby.start().expect("it starts");
    standby.promote().expect("it is promoted");

    let url = admin(&server);
    let detach = ["detach", "acme/main", "--url", &url];
    site.succeed(&detach);
    attach(&site, &server, &standby, &[]);
    let status = wait_until(&server, "refused", |status| status["state"] == "stopped");
    let reason = status["reason"].as_str().expect("a reason");
    let fork = reason.split_once("left ours at ").expect(reason).1;
    let fork: Lsn = fork.split(',').next().expect(reason).parse().expect(reason);
    assert!(fork >= seen && fork < lost_end, "{fork}: {reason}");
    site.succeed(&detach);
    let point = format!("acme/main@{fork}");
    assert!(
        reason.contains(&format!("branch restore {point}")),
        "{reason}"
    );
    site.succeed(&["branch", "restore", &point, "--keep-as", "lost"]);
    let branch = attach(&site, &server, &standby, &[]);
    let lost = branch_named(&site, "lost");
    assert_ne!(branch.id, lost.id);
    wait_until(&server, "streaming", |status| {
        status["state"] == "streaming"
    });

    let mut moments = Vec::new();
    work::with_work(&standby, || {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_secs(2));
            standby.sql("postgres", "checkpoint").expect("a checkpoint");
            moments.push(position(&standby));
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    standby
        .sql("postgres", "select pg_switch_wal()")
        .expect("WAL");
    catch_up(&server, &standby);
    standby.stop(StopMode::Fast).expect("it stops");

    // Both histories from the same backup: a later one has hint bits that no WAL has.
    let wal_of = |cluster: &TestCluster| cluster.data_directory().join("pg_wal");
    let copied = std::process::Command::new("cp")
        .args(["--archive", "--no-clobber"])
        .arg(wal_of(&primary).join("."))
        .arg(wal_of(&standby))
        .status();
    assert!(copied.expect("cp runs").success());
    let replayed = |name: &str, cluster: &TestCluster, at: Lsn| {
        let replayed = Backup::named(name, cluster, &tars);
        replayed.replay_until(cluster, at);
        replayed
    };
    let mut states = vec![(&lost, lost_end, replayed("lost", &primary, lost_end))];
    for at in moments {
        states.push((&branch, at, replayed(&format!("at-{}", at.0), &standby, at)));
    }
    for is_new in [false, true] {
        if is_new {
            server.kill();
            server = site.serve();
            wait_until(&server, "recovered", |status| {
                lsn(&status["readable"]) >= states[states.len() - 1].1
            });
        }
        for (branch, at, standby) in &states {
            println!("{} at {at}", branch.id);
            let theirs = Files::read(standby.data());
            judge_server(&server, branch, Some(*at), &theirs, &standby.pages());
        }
    }
}

#[test]
fn another_server_reads_what_is_followed_and_takes_it_over() {
    let outside = tempfile::tempdir().expect("a folder");
    let url = format!("url = \"file://{}\"", outside.path().display());
    let store = ("store", url.as_str());
    let mut cluster = work::start();
    let in_place = "alter system set allow_in_place_tablespaces = on";
    cluster.sql("postgres", in_place).expect("a setting");
    cluster
        .sql("postgres", "select pg_reload_conf()")
        .expect("reloads");
    let tars = cluster.scratch("tars");
    work::back_up(&cluster, &tars, "200M");
    let site = Site::new(&[MANY_LAYERS, store]);
    let server = site.serve();
    let backup = tars.to_str().expect("UTF-8");
    let branch = attach(&site, &server, &cluster, &["--backup", backup]);
    let keyring = format!("keyring = {:?}", site.keyring());
    let other = Site::new(&[MANY_LAYERS, store, ("keys", &keyring)]);
    let reader = other.serve();
    // What it has open from now on is what there was before.
    drop(reader.client(&branch));
    let mut moments = Vec::new();
    let checkpoint = |cluster: &TestCluster| {
        cluster.sql("postgres", "checkpoint").expect("a checkpoint");
        let at = position(cluster);
        cluster
            .sql("postgres", "select pg_switch_wal()")
            .expect("WAL");
        at
    };
    work::with_work(&cluster, || {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_secs(2));
            moments.push(checkpoint(&cluster));
        }
    });
    let flushed = |server: &Server, at: Lsn| {
        wait_until(server, "flushed", |status| lsn(&status["in_layers"]) >= at);
    };
    catch_up(&server, &cluster);
    flushed(&server, moments[1]);
    wait_until(&server, "compacted", |status| {
        status["compactions"].as_u64() > Some(0)
    });
    let standby = |cluster: &TestCluster, at: Lsn| {
        let standby = Backup::named(&format!("at-{}", at.0), cluster, &tars);
        standby.replay_until(cluster, at);
        (at, Files::read(standby.data()), standby.pages())
    };
    let judge = |server: &Server, (at, theirs, pages): &(Lsn, Files, Vec<_>)| {
        println!("at {at}");
        judge_server(server, &branch, Some(*at), theirs, pages);
    };
    let states: Vec<_> = moments.iter().map(|at| standby(&cluster, *at)).collect();
    for state in &states {
        judge(&reader, state);
    }

    // The later writer wins, and the earlier one shows what that one writes.
    let again = attach(&other, &reader, &cluster, &[]);
    assert_eq!(again.id, branch.id);
    wait_until(&reader, "streaming", |status| {
        status["state"] == "streaming"
    });
    cluster
        .sql(
            "postgres",
            "create table later as select a, repeat('l', 300) b from generate_series(1, 3000) a",
        )
        .expect("a table");
    let at = checkpoint(&cluster);
    catch_up(&reader, &cluster);
    flushed(&reader, at);
    let status = wait_until(&server, "stopped", |status| status["state"] == "stopped");
    let reason = status["reason"].as_str().expect("a reason");
    assert!(reason.contains("another server writes it"), "{reason}");
    let later = standby(&cluster, at);
    for server in [&server, &reader] {
        judge(server, &states[0]);
        judge(server, &later);
    }
    cluster.stop(StopMode::Fast).expect("it stops");
}

/// A primary whose commits wait for the server, and what it has committed.
struct Committing {
    cluster: TestCluster,
    session: Session,
    rows: u32,
}

impl Committing {
    fn start() -> Committing {
        let settings = [
            "synchronous_commit = on",
            "wal_keep_size = 1GB",
            "max_wal_size = 10GB",
        ];
        let cluster = TestCluster::start_new(ClusterOptions {
            settings: settings.map(str::to_owned).to_vec(),
            ..ClusterOptions::default()
        });
        let mut session = Session::open(cluster.port(), "postgres");
        session.run("create table kept (a int, b text)");
        Committing {
            cluster,
            session,
            rows: 0,
        }
    }

    /// From now on commits wait for the server.
    fn wait_for_server(&mut self) {
        self.session
            .run("alter system set synchronous_standby_names = 'pageserver'");
        self.session.run("select pg_reload_conf()");
        let begun = now();
        while self.session.value("show synchronous_standby_names") != "pageserver" {
            assert!(begun.elapsed() < WAIT_MAX, "the setting is not taken");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Commits some rows, one by one, each when the server has acknowledged it; up to where it has.
    fn commit_acknowledged(&mut self, rows: u32) -> Lsn {
        let written = self.commit(rows);
        let text = self.session.value(
            "select flush_lsn from pg_stat_replication where application_name = 'pageserver'",
        );
        // Others than our commits write, too: not all that is written waited.
        text.parse::<Lsn>().expect("an LSN").min(written)
    }

    /// Commits some rows, one by one; up to where there is WAL then.
    fn commit(&mut self, rows: u32) -> Lsn {
        for _ in 0..rows {
            self.rows += 1;
            let row = self.rows;
            self.session.run(&format!(
                "insert into kept values ({row}, repeat('x', 500))"
            ));
        }
        let text = self.session.value("select pg_current_wal_flush_lsn()");
        text.parse().expect("an LSN")
    }
}

#[test]
fn what_was_acknowledged_survives_every_kill() {
    let site = Site::new(&[LITTLE_MEMORY]);
    let mut primary = Committing::start();
    let mut server = site.serve();
    let branch = attach(&site, &server, &primary.cluster, &[]);
    wait_until(&server, "streaming", |status| {
        status["state"] == "streaming"
    });
    primary.wait_for_server();
    let mut kept = Lsn(branch.last_lsn);
    for round in 0..KILLS {
        let end = primary.commit_acknowledged(10 + round % 7);
        // At different moments of what goes on behind: pieces, flushes, the slot.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 37 % 300));
        server.kill();
        assert!(end >= kept, "{end} comes behind {kept}");
        kept = end;
        server = site.serve();
        let status = wait_until(&server, "streaming", |status| {
            status["state"] == "streaming"
        });
        assert!(lsn(&status["durable_local"]) >= kept, "{kept}: {status:#}");
        assert!(lsn(&status["readable"]) >= kept, "{kept}: {status:#}");
    }
    primary.cluster.stop(StopMode::Fast).expect("it stops");
}

/// Kills of the server.
const KILLS: u32 = 12;

#[test]
fn with_the_machine_lost_what_the_object_store_acknowledged_is_there() {
    let outside = tempfile::tempdir().expect("a folder");
    let url = format!("url = \"file://{}\"", outside.path().display());
    let settings = [LITTLE_MEMORY, ("store", url.as_str())];
    let site = Site::new(&settings);
    let mut primary = Committing::start();
    let server = site.serve();
    let slot = ["--ack", "object-store", "--slot", "ours"];
    let branch = attach(&site, &server, &primary.cluster, &slot);
    wait_until(&server, "streaming", |status| {
        status["state"] == "streaming"
    });
    primary.wait_for_server();
    let end = primary.commit_acknowledged(40);
    wait_until(&server, "told", |status| {
        lsn(&status["durable_store"]) >= end
    });
    server.kill();
    // All of the local machine but the keyring, and the configuration.
    std::fs::remove_dir_all(site.data_dir()).expect("removed");
    site.configure(&settings);

    let server = site.serve();
    let again = attach(&site, &server, &primary.cluster, &slot);
    assert_eq!(again.id, branch.id, "the branch goes on");
    let status = wait_until(&server, "streaming", |status| {
        status["state"] == "streaming"
    });
    assert!(lsn(&status["readable"]) >= end, "{end}: {status:#}");
    let end = primary.commit(5);
    wait_until(&server, "caught up", |status| {
        lsn(&status["readable"]) >= end
    });

    // Another cluster is refused by name, and what is there stays readable.
    let name = format!("{}/attached", site.data_dir().display());
    let other = TestCluster::start_new(ClusterOptions::default());
    for entry in std::fs::read_dir(name).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("an attachment");
        let port = |cluster: &TestCluster| format!("port={}", cluster.port());
        let text = text.replace(&port(&primary.cluster), &port(&other));
        std::fs::write(&path, text).expect("written");
    }
    server.http("POST", "/v1/following/reload", "");
    let status = wait_until(&server, "waiting", |status| status["state"] == "waiting");
    let reason = status["reason"].as_str().expect("a reason");
    assert!(reason.contains("another cluster"), "{reason}");
    assert!(lsn(&status["readable"]) >= end, "{status:#}");

    let url = admin(&server);
    let twice = site.fail(
        8,
        &["attach", &connection(&other), "acme/main", "--url", &url],
    );
    assert!(twice.contains("follows a primary already"), "{twice}");
    let said = site.succeed(&["detach", "--keep-slot", "acme/main", "--url", &url]);
    assert!(said.contains("pg_drop_replication_slot('ours')"), "{said}");
    assert_eq!(following(&server), Value::Null);
    let gone = site.fail(4, &["detach", "acme/main"]);
    assert!(gone.contains("not attached"), "{gone}");
}

#[test]
fn a_primary_that_crashes_and_comes_back_is_followed_on() {
    let site = Site::new(&[LITTLE_MEMORY]);
    let mut primary = Committing::start();
    let server = site.serve();
    attach(&site, &server, &primary.cluster, &[]);
    wait_until(&server, "streaming", |status| {
        status["state"] == "streaming"
    });
    for round in 0..5 {
        primary
            .session
            .start("insert into kept select i, repeat('y', 300) from generate_series(1, 200000) i");
        std::thread::sleep(Duration::from_millis(150 + 90 * round));
        primary
            .cluster
            .stop(StopMode::Immediate)
            .expect("it is gone");
        primary.cluster.start().expect("it comes back");
        primary.session = Session::open(primary.cluster.port(), "postgres");
        primary.commit(3);
        catch_up(&server, &primary.cluster);
    }
    let status = following(&server);
    assert_eq!(status["state"], "streaming", "{status:#}");
    assert!(status["connections"].as_u64() > Some(5), "{status:#}");
    // What was received last is stored before the server lets go.
    let end = primary.commit(3);
    catch_up(&server, &primary.cluster);
    let url = admin(&server);
    let said = site.succeed(&["detach", "acme/main", "--url", &url]);
    assert!(said.contains("is dropped"), "{said}");
    let branches = site.json(&["branch", "list", "--json"]);
    assert!(
        lsn(&branches[0]["last_lsn"]) >= end,
        "all of it is in layers"
    );
    let slots = primary
        .session
        .value("select count(*) from pg_replication_slots");
    assert_eq!(slots, "0");
}
