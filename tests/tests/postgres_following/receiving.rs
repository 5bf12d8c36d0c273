//! The primary's bytes, over each kind of connection, with every wait cut short.

use std::process::Stdio;
use std::time::Duration;

use futures_util::FutureExt;
use harness::postgres::TestCluster;
use postgres::replication::{ConnectionSettings, WalEvent, WalReceiver};
use tokio::process::{Child, Command};

use crate::follower::{
    MAJORS, Received, all, cluster, flushed, follow, from, run, settings, until_free,
};

/// Starts `pgbench`.
fn pgbench(cluster: &TestCluster, arguments: &[&str]) -> Child {
    let mut command = Command::from(cluster.command("pgbench"));
    command
        .args(arguments)
        .arg("postgres")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command.spawn().expect("pgbench starts")
}

const FILL: [&str; 3] = ["--initialize", "--quiet", "--scale=1"];
const WORK: [&str; 4] = [
    "--no-vacuum",
    "--client=4",
    "--transactions=100",
    "--jobs=1",
];

/// Receives while `pgbench` runs, each wait in a race with its end.
async fn while_it_runs(mut load: Child, receiver: &mut WalReceiver, received: &mut Received) {
    loop {
        tokio::select! {
            status = load.wait() => {
                assert!(status.expect("its status").success());
                return;
            }
            event = receiver.next() => match event.expect("the server is there") {
                WalEvent::Wal(data) => received.take(&data),
                WalEvent::Keepalive(_) => {}
                other => panic!("{other:?}"),
            },
        }
        receiver.report(all(received.end())).await.expect("reports");
    }
}

async fn follows_pgbench(cluster: &TestCluster, settings: &ConnectionSettings) {
    let begin = flushed(cluster);
    let mut receiver = follow(settings, &from(1, begin)).await.expect("a stream");
    let mut received = Received::new(begin);
    for arguments in [FILL.as_slice(), WORK.as_slice()] {
        let load = pgbench(cluster, arguments);
        while_it_runs(load, &mut receiver, &mut received).await;
    }
    let end = flushed(cluster);
    received.receive_until(&mut receiver, end).await;
    received.assert_is_that_of(&cluster.data_directory(), 5 << 20);
    receiver.close("the test is over").await;
}

#[test]
fn wal_of_every_version_is_received_byte_for_byte() {
    for major in MAJORS {
        let cluster = cluster(major, &[]);
        run(follows_pgbench(&cluster, &cluster.connection_settings()));
        until_free(&cluster);
    }
}

#[test]
fn a_ring_runtime_is_good_enough() {
    let cluster = cluster(15, &[]);
    tokio_uring::start(follows_pgbench(&cluster, &cluster.connection_settings()));
}

/// Polls once and drops, or waits for as little as the timer can, by turns.
async fn receive_by_scraps(cluster: &TestCluster, settings: &ConnectionSettings) {
    let begin = flushed(cluster);
    let mut receiver = follow(settings, &from(1, begin)).await.expect("a stream");
    let mut received = Received::new(begin);
    let mut load = pgbench(cluster, &FILL);
    let mut end = None;
    let (mut dropped, mut events) = (0_u32, 0_u32);
    while end.is_none_or(|end| received.end() < end) {
        if end.is_none() && load.try_wait().expect("a process").is_some() {
            end = Some(flushed(cluster));
        }
        let polled = match dropped % 3 {
            2 => tokio::time::timeout(Duration::from_micros(1), receiver.next())
                .await
                .ok(),
            _ => receiver.next().now_or_never(),
        };
        match polled {
            None => dropped += 1,
            Some(event) => {
                events += 1;
                if let WalEvent::Wal(data) = event.expect("the server is there") {
                    received.take(&data);
                }
            }
        }
    }
    assert!(dropped > 100, "{dropped} waits were dropped");
    assert!(events > 50, "{events} messages came");
    received.assert_is_that_of(&cluster.data_directory(), 5 << 20);
}

#[test]
fn nothing_is_lost_by_dropping_a_wait() {
    let cluster = cluster(15, &[]);
    let port = cluster.port();
    let certificate = cluster.serve_tls();
    let folder = cluster.folder().display();
    for connection in [
        format!("host=127.0.0.1 port={port} user=postgres sslmode=disable"),
        format!("host={folder} port={port} user=postgres"),
        format!(
            "host=localhost port={port} user=postgres sslmode=verify-full sslrootcert={}",
            certificate.display()
        ),
    ] {
        run(receive_by_scraps(&cluster, &settings(&connection)));
    }
}
