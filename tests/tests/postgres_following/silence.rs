//! Servers that say nothing, and such that say what is not WAL.

use std::io::{Read, Write};
use std::time::Duration;

use engine::types::Lsn;
use futures_util::FutureExt;
use postgres::replication::{
    Connection, ReplicationError, WalEvent, WalReceiver, WalReceiverConfig,
};
use tokio::time::{sleep, timeout};

use crate::fake_primary::{FakePrimary, frame, wal};
use crate::follower::{Received, cluster, flushed, follow, follow_with, from, run};

fn silence_max(seconds: u64) -> WalReceiverConfig {
    let silence_max = Duration::from_secs(seconds);
    WalReceiverConfig { silence_max }
}

#[test]
fn an_idle_server_that_sends_no_keepalives_is_asked() {
    let cluster = cluster(15, &["wal_sender_timeout = 0"]);
    run(async {
        let begin = flushed(&cluster);
        let settings = cluster.connection_settings();
        let (start, config) = (from(1, begin), silence_max(4));
        let mut receiver = follow_with(&settings, &start, &config)
            .await
            .expect("a stream");
        let mut answers = 0;
        let idle = timeout(Duration::from_secs(9), async {
            loop {
                if let WalEvent::Keepalive(_) = receiver.next().await.expect("it answers") {
                    answers += 1;
                }
            }
        });
        assert!(idle.await.is_err(), "it goes on for ever");
        assert!(answers >= 3, "{answers} answers in nine seconds");
        // Nobody listens for a while; that is no silence of the server.
        sleep(Duration::from_secs(5)).await;
        receiver.next().await.expect("it answers");
    });
}

#[test]
fn a_server_that_does_not_answer_is_gone() {
    let fake = FakePrimary::start(|mut stream| {
        let mut question = [0; 39];
        stream.read_exact(&mut question).expect("a question");
        assert_eq!((question[0], question[5], question[38]), (b'd', b'r', 1));
        // Until the other side gives up.
        let rest = stream.read(&mut [0; 64]).expect("closed");
        assert_eq!(rest, 0, "it asks once");
    });
    run(async {
        let mut receiver = follow_with(&fake.settings(), &from(1, Lsn(16)), &silence_max(1))
            .await
            .expect("a stream");
        let error = receiver.next().await.expect_err("silence");
        assert!(matches!(error, ReplicationError::Silent(_)), "{error}");
    });
    fake.finish();
}

#[test]
fn a_server_that_does_not_get_ready_is_given_up() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    for ssl_mode in ["disable", "prefer"] {
        let text =
            format!("host=127.0.0.1 port={port} user=u connect_timeout=1 sslmode={ssl_mode}");
        let error = Connection::open(&crate::follower::settings(&text))
            .err()
            .expect("no server is there");
        let source = std::error::Error::source(&error)
            .expect("a reason")
            .to_string();
        assert_eq!(source, "no answer in time", "{error}");
    }
}

#[test]
fn a_message_that_arrives_byte_by_byte_survives_every_dropped_wait() {
    let bytes: Vec<u8> = (0..100).collect();
    let sent = bytes.clone();
    let fake = FakePrimary::start(move |mut stream| {
        for (at, chunk) in (0x1000..).step_by(50).zip(sent.chunks(50)) {
            for byte in frame(b'd', &wal(at, chunk)) {
                stream.write_all(&[byte]).expect("sent");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        stream.write_all(&frame(b'C', b"COPY 0\0")).expect("sent");
    });
    run(async {
        let begin = Lsn(0x1000);
        let mut receiver = follow(&fake.settings(), &from(1, begin))
            .await
            .expect("a stream");
        let mut found: Vec<u8> = Vec::new();
        let mut dropped = 0;
        loop {
            match receiver.next().now_or_never() {
                None => {
                    dropped += 1;
                    sleep(Duration::from_micros(100)).await;
                }
                Some(Ok(WalEvent::Wal(data))) => found.extend(data.bytes),
                Some(Ok(WalEvent::Shutdown)) => break,
                Some(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(found, bytes);
        assert!(dropped > 20, "{dropped} waits were dropped");
        assert_eq!(receiver.next().await.expect("still"), WalEvent::Shutdown);
        // There is nobody any more to be told.
        let end = receiver.position();
        receiver
            .report(crate::follower::all(end))
            .await
            .expect("no error");
    });
    fake.finish();
}

#[test]
fn what_is_not_the_next_wal_is_an_error() {
    let huge = [b"d".as_slice(), &u32::MAX.to_be_bytes()].concat();
    let refusal = b"VERROR\0C58P01\0Mgone\0\0";
    for (sent, said) in [
        (huge, "protocol: a message of impossible length"),
        (
            frame(b'd', &wal(0x1001, b"x")),
            "protocol: WAL of 0/1001 came where 0/1000 was to come",
        ),
        (
            frame(b'd', &wal(u64::MAX, b"xx")),
            "protocol: WAL of FFFFFFFF/FFFFFFFF came where 0/1000 was to come",
        ),
        (
            frame(b'd', b"w123"),
            "protocol: unexpected message in a stream of WAL",
        ),
        (
            frame(b'I', b""),
            "protocol: unexpected message in a stream of WAL",
        ),
        (frame(b'E', refusal), "server: ERROR: gone (SQLSTATE 58P01)"),
        (
            frame(b'd', b"k")[..4].to_vec(),
            "connection to the server is lost",
        ),
    ] {
        let fake = FakePrimary::start(move |mut stream| stream.write_all(&sent).expect("sent"));
        run(async {
            let start = from(1, Lsn(0x1000));
            let mut receiver = follow(&fake.settings(), &start).await.expect("a stream");
            let error = next_error(&mut receiver).await;
            assert_eq!(error.to_string(), said);
        });
        fake.finish();
    }
}

async fn next_error(receiver: &mut WalReceiver) -> ReplicationError {
    receiver.next().await.expect_err("no event")
}

#[test]
fn a_server_that_takes_nothing_is_not_waited_for_by_a_close() {
    let fake = FakePrimary::start(|mut stream| {
        // More than fits into the sockets, and nobody reads it: then wait until the other side is gone.
        let mut at = 0x1000;
        while stream
            .write_all(&frame(b'd', &wal(at, &[7; 100_000])))
            .is_ok()
        {
            at += 100_000;
        }
    });
    run(async {
        let begin = Lsn(0x1000);
        let mut receiver = follow(&fake.settings(), &from(1, begin))
            .await
            .expect("a stream");
        let mut received = Received::new(begin);
        for _ in 0..10 {
            let WalEvent::Wal(data) = receiver.next().await.expect("WAL") else {
                panic!("no WAL");
            };
            received.take(&data);
        }
        timeout(Duration::from_secs(10), receiver.close("enough"))
            .await
            .expect("it takes a few seconds at most");
    });
    fake.finish();
}
