//! Clients and stores that keep a server waiting: each wait has an end, and a stop ends all of them.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use harness::page_client::{Answer, Ask, ClientError, Connection, LATEST, Lsns, dial};
use harness::server::Site;
use harness::stores::StoreServer;
use postgres::local_cluster::ClusterOptions;

use crate::cluster_files::{self, ClusterFiles};
use crate::{Small, source};

#[test]
fn requests_behind_one_that_waits_are_read_and_a_stop_answers_all_of_them() {
    let small = Small::new(&[("pages", "lsn_wait_timeout = \"5m\"")]);
    let server = small.site.serve();
    let mut client = server.client(&small.branch);
    let (rel, page) = small.first_page();
    let ahead = Lsns {
        request: u64::MAX,
        not_modified_since: small.branch.last_lsn + 8,
    };
    let taken = |count: u64| {
        while server.metric("pageserver_pages_requests_get_page_total") < count {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let waiting = client.send(Ask::GetPage(rel, 0), ahead).expect("sent");
    taken(1);
    let behind: Vec<_> = (0..3)
        .map(|_| client.send(Ask::GetPage(rel, 0), LATEST).expect("sent"))
        .collect();
    // They are taken while the first one waits, for minutes yet.
    taken(4);
    assert_eq!(server.metric("pageserver_pages_requests_in_flight"), 4);

    let (status, _) = server.terminate();
    assert_eq!(status.code(), Some(0));
    match client.receive(&waiting).expect("an answer") {
        Answer::Error(text) => assert!(text.contains("shutting down"), "{text}"),
        other => panic!("{other:?}"),
    }
    for sent in &behind {
        let answer = client.receive(sent).expect("an answer");
        assert!(cluster_files::is_page(&answer, page));
    }
    let ended = client.connection.message().expect_err("the end");
    assert_eq!(ended.code(), Some("57P01"), "{ended}");
}

#[test]
fn requests_that_wait_for_an_lsn_wait_together() {
    let small = Small::new(&[("pages", "lsn_wait_timeout = \"2s\"")]);
    let server = small.site.serve();
    let mut client = server.client(&small.branch);
    let (rel, _) = small.first_page();
    let ahead = Lsns {
        request: u64::MAX,
        not_modified_since: small.branch.last_lsn + 8,
    };
    // One after the other they would wait for two minutes, and the client's patience is one.
    let sent: Vec<_> = (0..64)
        .map(|_| client.send(Ask::GetPage(rel, 0), ahead).expect("sent"))
        .collect();
    let begun = now();
    for sent in &sent {
        let answer = client.receive(sent).expect("an answer");
        assert!(matches!(answer, Answer::Error(_)), "{answer:?}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
    small.assert_right(&mut client);
}

#[test]
fn a_handshake_in_many_pieces_has_one_deadline() {
    let small = Small::new(&[("pages", "handshake_timeout = \"1s\"")]);
    let server = small.site.serve();
    let mut stream = dial(server.pages).expect("it listens");
    let pause = Duration::from_millis(100);
    stream.set_read_timeout(Some(pause)).expect("set");
    // A startup packet that is never complete, a byte at a time.
    stream.write_all(&9_999_u32.to_be_bytes()).expect("sent");
    let ended = (0..600).any(|_| {
        if stream.write_all(&[0]).is_err() {
            return true;
        }
        match stream.read(&mut [0; 64]) {
            Ok(0) => true,
            Ok(_) => panic!("an answer to half a packet"),
            Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    });
    assert!(ended, "still there after a minute");
    assert!(server.metric("pageserver_pages_connections_timed_out_total") >= 1);
    small.assert_right(&mut server.client(&small.branch));
}

#[test]
fn a_store_that_hangs_holds_up_neither_a_session_nor_a_stop() {
    let cluster = harness::postgres::TestCluster::create(ClusterOptions::default());
    let files = ClusterFiles::of(&cluster.data_directory());
    let s3 = StoreServer::s3();
    let site = Site::with_variables(
        &[
            ("store", "url = \"s3://pages/hangs\""),
            ("pages", "open_timeout = \"1s\""),
        ],
        &[
            ("AWS_ENDPOINT_URL", s3.endpoint()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ],
    );
    let branch = site.import(&source(&cluster));
    let server = site.serve();
    let mut neighbour = server.client(&branch);
    let blocks = files.blocks();
    let (hot, cold) = (blocks[0], *blocks.last().expect("blocks"));
    files.assert_blocks_served(&mut neighbour, &[hot], LATEST);
    drop(server);

    let server = site.serve();
    s3.suspend();
    let mut session = Connection::open(dial(server.pages).expect("it listens"), None)
        .expect("a session needs no store");
    for _ in 0..2 {
        let refused = session.begin_pages(3, &branch.tenant, &branch.id);
        let refused = refused.expect_err("the store is away");
        assert_eq!(refused.code(), Some("57P03"), "{refused}");
    }
    s3.resume();
    let mut client = loop {
        match session.begin_pages(3, &branch.tenant, &branch.id) {
            Ok(()) => break session.into_pages(3),
            Err(e) if e.code() == Some("57P03") => {}
            Err(other) => panic!("{other}"),
        }
    };
    files.assert_blocks_served(&mut client, &[hot, hot], LATEST);

    // Hits go on while the store is away; a miss fails after its deadline, and the connection goes on.
    s3.suspend();
    files.assert_blocks_served(&mut client, &[hot], LATEST);
    let answer = client.ask(Ask::GetPage(cold.0, cold.1), LATEST);
    match answer.expect("an answer") {
        Answer::Error(text) => assert!(!text.is_empty()),
        other => assert!(
            cluster_files::is_page(&other, files.page(cold.0, cold.1)),
            "a wrong page"
        ),
    }
    files.assert_blocks_served(&mut client, &[hot], LATEST);
    drop(server);

    // A stop while a branch is being opened.
    s3.resume();
    site.configure(&[
        ("store", "url = \"s3://pages/hangs\""),
        ("pages", "open_timeout = \"5m\""),
    ]);
    let server = site.serve();
    s3.suspend();
    let mut session = Connection::open(dial(server.pages).expect("it listens"), None)
        .expect("a session needs no store");
    let ask = format!("pagestream_v3 {} {}", branch.tenant, branch.id);
    session.query(&ask).expect("sent");
    std::thread::sleep(Duration::from_millis(300));
    let (status, _) = server.terminate();
    assert_eq!(status.code(), Some(0));
    match session.message() {
        Err(ClientError::Server { code, .. }) => assert_eq!(code, "57P01"),
        other => panic!("{other:?}"),
    }
    s3.resume();
}

#[expect(clippy::disallowed_methods, reason = "tests have no main")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
