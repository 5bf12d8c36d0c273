//! Against a small server on a thread of this process, which can stall, refuse and lie.

use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::pagestream::codec::{ANSWER_ERROR, ANSWER_PAGE, ECHO_BYTES, PAGE_BYTES};

/// What the server does to the request of this number.
#[derive(Clone, Copy)]
enum Mood {
    Answer,
    StallOnce(Duration),
    Refuse,
    WrongBlock,
}

/// Serves `connections` connections, one thread each, until the clients leave.
fn serve(
    connections: u32,
    mood: impl Fn(u64) -> Mood + Send + Copy + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("known");
    let server = std::thread::Builder::new();
    let handle = server.spawn(move || {
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                let (stream, _) = listener.accept().expect("accepted");
                std::thread::Builder::new()
                    .spawn(move || converse(stream, mood))
                    .expect("started")
            })
            .collect();
        threads
            .into_iter()
            .for_each(|t| t.join().expect("no panic"));
    });
    (address, handle.expect("started"))
}

fn converse(mut stream: TcpStream, mood: impl Fn(u64) -> Mood) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("startup");
    let mut rest = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("short") - 4];
    stream.read_exact(&mut rest).expect("startup");
    stream
        .write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")
        .expect("sent");
    let mut head = [0; 5];
    stream.read_exact(&mut head).expect("query");
    let mut rest = vec![0; usize::from(head[4]) - 4];
    stream.read_exact(&mut rest).expect("query");
    assert!(rest.starts_with(b"pagestream_v3 "));
    stream.write_all(b"W\0\0\0\x07\0\0\0").expect("sent");

    let mut request = [0; REQUEST_BYTES];
    let mut number = 0;
    while stream.read_exact(&mut request).is_ok() {
        let mut echo: Echo = request[6..].try_into().expect("the rest of a request");
        let mut answer = vec![b'd'];
        match mood(number) {
            Mood::Refuse => {
                answer.extend_from_slice(&32u32.to_be_bytes());
                answer.push(ANSWER_ERROR);
                answer.extend_from_slice(&echo[..24]);
                answer.extend_from_slice(b"no\0");
            }
            mood => {
                match mood {
                    Mood::StallOnce(time) => std::thread::sleep(time),
                    Mood::WrongBlock => echo[ECHO_BYTES - 1] ^= 1,
                    _ => {}
                }
                answer.extend_from_slice(&8238u32.to_be_bytes());
                answer.push(ANSWER_PAGE);
                answer.extend_from_slice(&echo);
                answer.resize(answer.len() + PAGE_BYTES, 7);
            }
        }
        number += 1;
        // The client may leave with answers under way.
        if stream.write_all(&answer).is_err() {
            break;
        }
    }
}

fn load(connections: u32, depth: u32) -> Load {
    Load {
        connections,
        depth,
        access: Access::Uniform,
        rate: None,
        warm_up: Duration::from_millis(50),
        measure: Duration::from_millis(300),
        locality: Locality::Any,
        check: Check::None,
        threads: 1,
        seed: 1,
        lsn: u64::MAX,
        not_modified_since: 0,
    }
}

fn run_against(
    load: &Load,
    mood: impl Fn(u64) -> Mood + Send + Copy + 'static,
) -> Result<Measured> {
    let (address, server) = serve(load.connections, mood);
    let target = Target {
        addresses: vec![address],
        session: Session {
            tenant: "0".repeat(32),
            timeline: "1".repeat(32),
            token: None,
        },
        stripe_blocks: 1024,
    };
    let mut keyspace = Keyspace::default();
    let first = RelationPage {
        tablespace: 1663,
        database: 5,
        relation: 9,
        fork: 0,
        block: 0,
    };
    keyspace.push(first, 5000);
    let result = run(&target, &keyspace, load, &Counters::new(None, None));
    server.join().expect("no panic");
    result
}

#[test]
fn every_shape_of_load_counts_what_was_answered() {
    for (connections, depth, threads) in [(1, 1, 1), (1, 16, 1), (4, 8, 2)] {
        let load = Load {
            threads,
            ..load(connections, depth)
        };
        let measured = run_against(&load, |_| Mood::Answer).expect("runs");
        assert!(
            measured.ops > 50,
            "{connections} x {depth}: {}",
            measured.ops
        );
        assert_eq!(measured.errors, 0);
        // What was due at the end arrives behind it; at most every slot, once at each end.
        let difference = measured.latencies.count().abs_diff(measured.ops);
        assert!(
            difference <= u64::from(2 * connections * depth),
            "{difference}"
        );
    }
}

#[test]
fn a_stalled_server_shows_in_the_percentiles_of_an_open_loop() {
    let stall = Duration::from_millis(200);
    let mood = move |n| {
        if n == 100 {
            Mood::StallOnce(stall)
        } else {
            Mood::Answer
        }
    };
    let open = Load {
        rate: Some(1000.0),
        measure: Duration::from_millis(500),
        ..load(1, 4)
    };
    let measured = run_against(&open, mood).expect("runs");
    let p = measured.latencies.percentiles();
    // 500 were due; 200 of them during the stall, the first of those waited 200 ms, half of them 100 ms or more.
    assert!((490..=510).contains(&p.count), "{p:?}");
    assert!(p.p90_us > 100_000.0, "{p:?}");

    let closed = Load {
        measure: Duration::from_millis(500),
        ..load(1, 4)
    };
    let p = run_against(&closed, mood)
        .expect("runs")
        .latencies
        .percentiles();
    assert!(p.p90_us < 100_000.0, "a closed loop does not see it: {p:?}");
}

#[test]
fn refusals_are_counted_and_lies_end_the_run() {
    let mood = |n| {
        if n % 2 == 0 {
            Mood::Refuse
        } else {
            Mood::Answer
        }
    };
    let measured = run_against(&load(1, 2), mood).expect("runs");
    assert!(measured.errors > 10 && measured.latencies.count() > 10);

    let mood = |n| {
        if n == 20 {
            Mood::WrongBlock
        } else {
            Mood::Answer
        }
    };
    let error = run_against(&load(1, 2), mood).err().expect("a lie");
    assert!(
        error.to_string().starts_with("asked for RelationPage"),
        "{error}"
    );
}
