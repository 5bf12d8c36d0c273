//! What clients get wrong: each time an error for them, and right answers for everybody else.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use harness::page_client::{
    Answer, Ask, ClientError, Connection, LATEST, Lsns, PageClient, RelationFork, dial, frame,
    request_tls,
};
use harness::server::Server;

use crate::{Small, cluster_files};

fn session(server: &Server) -> Connection {
    Connection::open(dial(server.pages).expect("it listens"), None).expect("a session")
}

fn is_error(answer: &Answer) -> bool {
    matches!(answer, Answer::Error(text) if !text.is_empty())
}

#[test]
fn what_does_not_exist_is_an_error_and_the_connection_goes_on() {
    let small = Small::new(&[]);
    let server = small.site.serve();
    let (tenant, branch) = (&small.branch.tenant, &small.branch.id);
    let nobody = "0123456789abcdef0123456789abcdef";
    for version in [2, 3] {
        let mut session = session(&server);
        for (tenant, branch) in [
            (nobody, branch.as_str()),
            (tenant.as_str(), nobody),
            ("x", "y"),
        ] {
            let refused = session.begin_pages(version, tenant, branch);
            let refused = refused.expect_err("there is none");
            assert_eq!(refused.code(), Some("3D000"), "{refused}");
        }
        for text in [
            "select 1",
            "pagestream_v3",
            "pagestream_v9 a b",
            "nonsense",
            "basebackup x",
        ] {
            session.query(text).expect("sent");
            let refused = session.message().expect_err(text);
            assert!(refused.code().is_some(), "{text}: {refused}");
            session.ready().expect(text);
        }
        session.query("set statement_timeout = 0").expect("sent");
        assert_eq!(session.message().expect("an answer").0, b'C');
        session.ready().expect("ready");

        let mut client = session.pages(version, tenant, branch).expect("pages");
        let (rel, _) = small.first_page();
        let nothing = RelationFork { relation: 0, ..rel };
        let missing = RelationFork {
            relation: 4_000_000_000,
            ..rel
        };
        let no_fork = RelationFork { fork: 4, ..rel };
        for ask in [
            Ask::GetPage(nothing, 0),
            Ask::Nblocks(nothing),
            Ask::Exists(nothing),
            Ask::GetPage(missing, 0),
            Ask::Nblocks(missing),
            Ask::GetPage(no_fork, 0),
            Ask::DbSize(4_000_000_000),
            Ask::GetSlruSegment(0, 77),
            Ask::GetSlruSegment(3, 0),
            Ask::GetSlruSegment(255, u32::MAX),
        ] {
            let answer = client.ask(ask, LATEST).expect("an answer");
            assert!(is_error(&answer), "{ask:?}: {answer:?}");
            small.assert_right(&mut client);
        }
        let answer = client.ask(Ask::Exists(missing), LATEST).expect("an answer");
        assert_eq!(answer, Answer::Exists(false));

        // The session outlives its pagestream, which may begin again.
        let session = client.done().expect("the end of a pagestream");
        let mut client = session.pages(version, tenant, branch).expect("pages");
        small.assert_right(&mut client);
    }
}

#[test]
fn lsns_are_obeyed_and_answers_come_in_order() {
    let small = Small::new(&[("pages", "lsn_wait_timeout = \"300ms\"")]);
    let server = small.site.serve();
    let mut client = server.client(&small.branch);
    let last = small.branch.last_lsn;
    let (rel, page) = small.first_page();
    let lsns = |request, not_modified_since| Lsns {
        request,
        not_modified_since,
    };
    for (right, lsns) in [
        (true, lsns(last, last)),
        (true, lsns(last, 0)),
        (true, lsns(u64::MAX, last)),
        (true, lsns(last + (1 << 40), last)),
        (false, lsns(0, 0)),
        (false, lsns(last, last + 8)),
        // Below the horizon: an import knows nothing of what was before.
        (false, lsns(last - 8, 0)),
        (false, lsns(1, 1)),
    ] {
        let answer = client.ask(Ask::GetPage(rel, 0), lsns).expect("an answer");
        if right {
            assert!(cluster_files::is_page(&answer, page), "{lsns:?}");
        } else {
            assert!(is_error(&answer), "{lsns:?}");
            small.assert_right(&mut client);
        }
        let answer = client.ask(Ask::Exists(rel), lsns).expect("an answer");
        assert_eq!(answer == Answer::Exists(true), right, "{lsns:?}");
    }

    // What has not arrived is waited for, not for ever; and whoever waits holds up nobody else.
    let begun = now();
    let ahead = lsns(u64::MAX, last + 8);
    let sent = client.send(Ask::GetPage(rel, 0), ahead).expect("sent");
    small.assert_right(&mut server.client(&small.branch));
    let answer = client.receive(&sent).expect("an answer");
    assert!(is_error(&answer));
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    assert!(waited < Duration::from_secs(20), "{waited:?}");
    small.assert_right(&mut client);

    // Errors, other requests and pages in one pipeline; ids and bodies are compared by the client.
    let blocks = small.files.blocks();
    let mut expected = Vec::new();
    for (number, (rel, block)) in blocks.iter().take(600).enumerate() {
        let count = cluster_files::block_count(&small.files.forks[rel]);
        expected.push(match number % 5 {
            0 => (Ask::Nblocks(*rel), Some(Answer::Nblocks(count))),
            1 => (
                Ask::GetPage(
                    RelationFork {
                        relation: 0,
                        ..*rel
                    },
                    *block,
                ),
                None,
            ),
            2 => (
                Ask::GetSlruSegment(0, 0),
                Some(Answer::GetSlruSegment(
                    small.files.slru_segments[&(0, 0)].clone(),
                )),
            ),
            _ => {
                let page = small.files.page(*rel, *block).to_owned();
                (Ask::GetPage(*rel, *block), Some(Answer::GetPage(page)))
            }
        });
    }
    let asks: Vec<Ask> = expected.iter().map(|(ask, _)| *ask).collect();
    let answers = client.ask_all(&asks, LATEST).expect("answers");
    for ((ask, expected), answer) in expected.iter().zip(&answers) {
        match expected {
            Some(expected) => assert!(answer == expected, "{ask:?}"),
            None => assert!(is_error(answer), "{ask:?}"),
        }
    }
}

#[test]
fn malformed_bytes_end_their_connection_only() {
    let small = Small::new(&[("pages", "handshake_timeout = \"1s\"")]);
    let server = small.site.serve();
    let mut neighbour = server.client(&small.branch);
    let long = |tag: u8, length: u32| [vec![tag], length.to_be_bytes().to_vec()].concat();
    let startup = |code: u32, rest: &[u8]| {
        let length = u32::try_from(rest.len() + 8).expect("short");
        [&length.to_be_bytes(), &code.to_be_bytes(), rest].concat()
    };

    for (what, bytes) in [
        ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a packet of no bytes", vec![0; 8]),
        ("a packet that never ends", vec![0xff; 64]),
        ("protocol 2", startup(2 << 16, b"user\0me\0\0")),
        ("no end of a text", startup(3 << 16, b"user\0me")),
        ("a cancel request", startup(80_877_102, &[0; 8])),
        // Cut off by the handshake's time.
        ("half a packet", vec![0, 0, 0, 50, 0, 3]),
        ("silence", Vec::new()),
    ] {
        let stream = dial(server.pages).expect("it listens");
        let mut connection = Connection { stream };
        connection.stream.write_all(&bytes).expect("sent");
        assert_ended(&mut connection, what);
        small.assert_right(&mut neighbour);
    }

    for (what, bytes) in [
        ("a length below itself", long(b'Q', 3)),
        ("a frame above the limit", long(b'Q', 1 << 30)),
        ("a negative length", long(b'Q', u32::MAX)),
        ("a query without its NUL", frame(b'Q', b"set")),
        ("a query that is no text", frame(b'Q', b"\xff\xfe\0")),
        ("an unknown message", frame(b'?', b"")),
    ] {
        let mut session = session(&server);
        session.stream.write_all(&bytes).expect("sent");
        assert_ended(&mut session, what);
        small.assert_right(&mut neighbour);
    }

    let (rel, page) = small.first_page();
    let header = [&[2][..], &[0; 8], &u64::MAX.to_be_bytes(), &[0; 8]].concat();
    for (what, bytes) in [
        ("an empty request", frame(b'd', b"")),
        (
            "an unknown request",
            frame(b'd', &[&[9], &header[1..]].concat()),
        ),
        ("a header cut short", frame(b'd', &header[..20])),
        (
            "a body cut short",
            frame(b'd', &[&header[..], &[1; 12]].concat()),
        ),
        (
            "a body too long",
            frame(b'd', &[&header[..], &[1; 18]].concat()),
        ),
        ("a query in a copy", frame(b'Q', b"set\0")),
        ("a frame above the limit", long(b'd', 1 << 20)),
        ("a length below itself", long(b'd', 0)),
    ] {
        let mut client = server.client(&small.branch);
        // What was asked before is answered first.
        let sent = client.send(Ask::GetPage(rel, 0), LATEST).expect("sent");
        client.connection.stream.write_all(&bytes).expect("sent");
        let answer = client.receive(&sent).expect(what);
        assert!(cluster_files::is_page(&answer, page), "{what}");
        assert_ended(&mut client.connection, what);
        small.assert_right(&mut neighbour);
    }

    // Clients that leave in the middle of whatever: of a frame, of answers that they do not read.
    for _ in 0..20 {
        let mut client = server.client(&small.branch);
        for (rel, block) in small.files.blocks().iter().take(50) {
            client
                .send(Ask::GetPage(*rel, *block), LATEST)
                .expect("sent");
        }
        client
            .connection
            .stream
            .write_all(&[b'd', 0, 0])
            .expect("sent");
    }
    small.assert_right(&mut neighbour);
    assert!(server.metric("pageserver_pages_connections_malformed_total") >= 14);
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// The server closes the connection, with an error before that or not.
fn assert_ended(connection: &mut Connection, what: &str) {
    loop {
        match connection.message() {
            Ok((tag, _)) => panic!("{what}: answered by {:?}", char::from(tag)),
            Err(ClientError::Server { .. }) => {}
            Err(ClientError::Io(e))
                if matches!(
                    e.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                return;
            }
            Err(other) => panic!("{what}: {other}"),
        }
    }
}

#[test]
fn passwords_and_numbers_of_connections_are_bounds() {
    let small = Small::new(&[]);
    let token = small.site.path("token");
    std::fs::write(&token, "correct horse\n").expect("written");
    small.site.configure(&[
        (
            "pages",
            "connections_max = 3\nconnections_per_tenant_max = 2",
        ),
        ("pages.access", &format!("token_file = {token:?}")),
    ]);
    let server = small.site.serve();
    let open = |password: &str| {
        let stream = dial(server.pages).expect("it listens");
        Connection::open(stream, Some(password))
    };
    // A connection that ended is counted until the server has seen that.
    let open_soon = |password: &str| {
        for _ in 0..200 {
            match open(password) {
                Err(e) if e.code() == Some("53300") => {}
                other => return other,
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no place came free");
    };
    let Small { branch, .. } = &small;
    for wrong in [
        "",
        "wrong",
        "correct horse ",
        "correct hors",
        "correct horse\n",
    ] {
        let refused = open_soon(wrong).expect_err("a wrong password");
        assert_eq!(refused.code(), Some("28P01"), "{wrong:?}");
        let right = open_soon("correct horse").expect("the right one");
        let mut client = right.pages(3, &branch.tenant, &branch.id).expect("pages");
        small.assert_right(&mut client);
    }
    assert!(!server.log().contains("horse"), "the token is logged");

    let places: Vec<Connection> = (0..3)
        .map(|_| open_soon("correct horse").expect("a place"))
        .collect();
    let refused = open("correct horse").expect_err("no place");
    assert_eq!(refused.code(), Some("53300"), "{refused}");
    // Two of them may be of one tenant.
    let mut clients: Vec<PageClient> = Vec::new();
    for (number, mut connection) in places.into_iter().enumerate() {
        match connection.begin_pages(3, &branch.tenant, &branch.id) {
            Ok(()) => assert!(number < 2, "a third of one tenant"),
            Err(refused) => {
                assert_eq!((number, refused.code()), (2, Some("53300")), "{refused}");
                continue;
            }
        }
        // The pagestream is open already; begin it anew as a client.
        connection
            .stream
            .write_all(&frame(b'c', &[]))
            .expect("sent");
        for _ in 0..3 {
            connection.message().expect("the end of a pagestream");
        }
        clients.push(
            connection
                .pages(3, &branch.tenant, &branch.id)
                .expect("pages"),
        );
    }
    clients
        .iter_mut()
        .for_each(|client| small.assert_right(client));
    drop(clients);
    let again = open_soon("correct horse").expect("a place");
    let mut client = again.pages(3, &branch.tenant, &branch.id).expect("pages");
    small.assert_right(&mut client);

    // Without a certificate there is no TLS, and the connection goes on without.
    drop(client);
    let mut stream = loop {
        let mut stream = dial(server.pages).expect("it listens");
        if request_tls(&mut stream).expect("an answer") == b'N' {
            break stream;
        }
    };
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("set");
    let silent = stream.read(&mut [0; 1]).expect_err("nothing more");
    assert_eq!(silent.kind(), ErrorKind::WouldBlock);
}

#[expect(clippy::disallowed_methods, reason = "tests have no main")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
