//! Every page of a pgbench database, byte for byte.

use harness::page_client::{Connection, LATEST, dial};
use harness::postgres::TestCluster;
use harness::server::Site;
use harness::stores::StoreServer;
use postgres::local_cluster::{ClusterOptions, StopMode};

use crate::cluster_files::ClusterFiles;
use crate::{s3_site, source};

/// A running cluster with a pgbench database in which nothing changes any more.
fn pgbench(data_checksums: bool) -> TestCluster {
    let cluster = TestCluster::start_new(ClusterOptions {
        data_checksums,
        ..ClusterOptions::default()
    });
    let init = ["--initialize", "--quiet", "--scale=1", "postgres"];
    cluster.run("pgbench", &init).expect("pgbench");
    let work = [
        "--no-vacuum",
        "--transactions=200",
        "--client=2",
        "postgres",
    ];
    cluster.run("pgbench", &work).expect("pgbench");
    let sql = "create table empty (a int); create unlogged table fleeting (a int primary key)";
    cluster.sql("postgres", sql).expect("tables");
    cluster.settle();
    cluster
}

#[test]
fn a_running_cluster_is_served_from_a_local_store_as_its_own_files_say() {
    let mut cluster = pgbench(true);
    let site = Site::new(&[]);
    let branch = site.import(&cluster.connection_string());
    cluster.stop(StopMode::Fast).expect("it stops");
    let files = ClusterFiles::of(&cluster.data_directory());
    assert!(files.forks.values().any(Vec::is_empty), "an empty fork");
    assert!(files.forks.keys().any(|rel| rel.fork == 3), "an init fork");

    let server = site.serve();
    files.assert_served(&mut server.client(&branch));
    // Again by the old dialect, and what was read through the store now comes from the cache.
    let stream = dial(server.pages).expect("it listens");
    let connection = Connection::open(stream, None).expect("a session");
    let pages = connection.pages(2, &branch.tenant, &branch.id);
    files.assert_served(&mut pages.expect("version 2"));
    assert!(server.metric("pageserver_reads_total{tier=\"cache\"}") > 0);
    assert_eq!(server.metric("pageserver_reads_total{tier=\"failed\"}"), 0);
}

#[test]
fn a_stopped_cluster_is_served_from_s3_with_and_without_its_cache() {
    let mut cluster = pgbench(false);
    cluster.stop(StopMode::Fast).expect("it stops");
    let files = ClusterFiles::of(&cluster.data_directory());
    let s3 = StoreServer::s3();
    let site = s3_site(s3.endpoint(), &[]);
    let branch = site.import(&source(&cluster));
    assert!(!site.data_dir().join("objects").exists(), "stored locally");

    let server = site.serve();
    files.assert_served(&mut server.client(&branch));
    drop(server);
    // Another machine: the same store and keys, no cache.
    std::fs::remove_dir_all(site.data_dir().join("cache")).expect("a cache");
    let server = site.serve();
    let blocks = files.blocks();
    let some: Vec<_> = blocks.iter().rev().step_by(7).copied().collect();
    files.assert_blocks_served(&mut server.client(&branch), &some, LATEST);
    assert!(server.metric("pageserver_reads_total{tier=\"store\"}") > 0);
    assert!(site.json(&["scrub", "--json"])["layers"].as_u64() > Some(0));
}
