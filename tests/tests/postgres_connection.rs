//! Replication connections to a stock server: authentication, TLS, and its WAL as `pg_waldump` reads it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::postgres::TestCluster;
use postgres::control_file::ControlFile;
use postgres::local_cluster::ClusterOptions;
use postgres::replication::{Connection, ConnectionDefaults, ConnectionSettings, ReplicationError};
use postgres::wal::{WalDecoder, WalStream, WalVersion};

fn open(text: &str) -> Result<Connection, ReplicationError> {
    let defaults = ConnectionDefaults::default();
    Connection::open(&ConnectionSettings::parse(text, &defaults).expect("well formed"))
}

/// Replaces `pg_hba.conf`; the cluster's own tools go on by the socket-free trust line of the superuser.
fn set_access(cluster: &TestCluster, lines: &str) {
    let path = cluster.data_directory().join("pg_hba.conf");
    let rules = format!("host all postgres 127.0.0.1/32 trust\n{lines}\n");
    fs::write(path, rules).expect("pg_hba.conf");
    cluster
        .sql("postgres", "select pg_reload_conf(), pg_sleep(0.3)")
        .expect("reload");
}

#[test]
fn passwords_by_scram_md5_and_in_the_clear_are_understood() {
    let cluster = TestCluster::start_new(ClusterOptions::default());
    for (role, encryption) in [
        ("scram", "scram-sha-256"),
        ("hashed", "md5"),
        ("clear", "md5"),
    ] {
        let sql = format!(
            "set password_encryption = '{encryption}';
             create role {role} login replication password 'ge heim'"
        );
        cluster.sql("postgres", &sql).expect("a role");
    }
    set_access(
        &cluster,
        "host replication scram 127.0.0.1/32 scram-sha-256\n\
         host replication hashed 127.0.0.1/32 md5\n\
         host replication clear 127.0.0.1/32 password",
    );
    let port = cluster.port();
    for role in ["scram", "hashed", "clear"] {
        let with =
            |password: &str| open(&format!("postgresql://{role}{password}@127.0.0.1:{port}"));
        let mut connection = with(":ge%20heim").expect("the right password");
        let rows = connection.query("IDENTIFY_SYSTEM").expect("identifies");
        assert_eq!(rows.len(), 1, "{role}");
        assert_eq!(connection.show("block_size").expect("shows"), "8192");
        match with(":falsch").err() {
            Some(ReplicationError::Server { code, .. }) => assert_eq!(code, "28P01", "{role}"),
            other => panic!("{role}: {other:?}"),
        }
        let error = with("").err().expect("no password");
        assert!(matches!(error, ReplicationError::NoPassword), "{error}");
    }
    // No line for it.
    let error = open(&format!("postgresql://postgres@127.0.0.1:{port}")).err();
    assert!(
        matches!(&error, Some(ReplicationError::Server { code, .. }) if code == "28000"),
        "{error:?}"
    );
}

#[test]
fn the_socket_and_a_password_file_work_too() {
    let cluster = TestCluster::start_new(ClusterOptions::default());
    cluster
        .sql("postgres", "create role r login replication password 'pw'")
        .expect("a role");
    set_access(&cluster, "local replication r scram-sha-256");
    let passfile = cluster.scratch("passfile");
    fs::write(&passfile, "*:*:replication:r:pw\n").expect("password file");
    let folder = cluster.folder().display();
    let text = format!(
        "host={folder} port={} user=r passfile={}",
        cluster.port(),
        passfile.display()
    );
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o644)).expect("mode");
    let error = open(&text).err().expect("others may read the file");
    assert!(matches!(error, ReplicationError::NoPassword), "{error}");
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).expect("mode");
    open(&text).expect("by the password file");
}

#[test]
fn tls_is_used_and_certificates_are_verified_as_sslmode_says() {
    let cluster = TestCluster::start_new(ClusterOptions::default());
    let port = cluster.port();
    let without = open(&format!(
        "host=127.0.0.1 port={port} user=postgres sslmode=require"
    ));
    assert!(matches!(without.err(), Some(ReplicationError::NoTls)));

    let good = cluster.serve_tls();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let bad = cluster.scratch("bad.pem");
    fs::write(&bad, other.cert.pem()).expect("written");
    set_access(&cluster, "hostssl replication postgres 127.0.0.1/32 trust");

    let (good, bad) = (good.display(), bad.display());
    for (rest, works) in [
        ("host=127.0.0.1 sslmode=disable".to_owned(), false),
        ("host=127.0.0.1 sslmode=prefer".to_owned(), true),
        ("host=127.0.0.1 sslmode=require".to_owned(), true),
        (
            format!("host=127.0.0.1 sslmode=require sslrootcert={bad}"),
            false,
        ),
        (
            format!("host=127.0.0.1 sslmode=verify-ca sslrootcert={good}"),
            true,
        ),
        (
            format!("host=127.0.0.1 sslmode=verify-ca sslrootcert={bad}"),
            false,
        ),
        (
            format!("host=127.0.0.1 sslmode=verify-full sslrootcert={good}"),
            false,
        ),
        (
            format!("host=localhost sslmode=verify-full sslrootcert={good}"),
            true,
        ),
        (
            format!("host=localhost sslmode=verify-full sslrootcert={bad}"),
            false,
        ),
        ("host=localhost sslmode=verify-full".to_owned(), false),
    ] {
        let opened = open(&format!("{rest} port={port} user=postgres"));
        assert_eq!(opened.is_ok(), works, "{rest}: {:?}", opened.err());
    }
}

#[test]
fn records_and_their_blocks_are_those_of_pg_waldump() {
    let cluster = TestCluster::start_new(ClusterOptions {
        wal_segment_mib: Some(1),
        settings: vec!["wal_compression = pglz".to_owned()],
        ..Default::default()
    });
    let position = |sql: &str| cluster.sql("postgres", sql).expect("a position");
    let first = position("checkpoint; select pg_walfile_name(pg_switch_wal())");
    cluster
        .run(
            "pgbench",
            &["--initialize", "--quiet", "--scale=1", "postgres"],
        )
        .expect("pgbench");
    cluster
        .run(
            "pgbench",
            &["--no-vacuum", "--transactions=200", "postgres"],
        )
        .expect("pgbench");
    cluster
        .sql(
            "postgres",
            "create table g as select i, point(i, i) p, array[i] a from generate_series(1, 1000) i;
             create index on g using gist (p); create index on g using spgist (p);
             create index on g using gin (a); create index on g using brin (i);
             create index on g using hash (i); create index on g (i); create sequence s;
             insert into g select nextval('s'), point(i, i), array[i] from generate_series(1, 999) i;
             truncate g; drop table g",
        )
        .expect("indexes of all kinds");
    cluster
        .sql("postgres", "vacuum full pgbench_branches")
        .expect("vacuum");
    let last = position("select pg_walfile_name(pg_switch_wal())");
    let wal = cluster.data_directory().join("pg_wal");
    let (first, last) = (wal.join(first), wal.join(last));
    let dump = cluster
        .run(
            "pg_waldump",
            &[
                first.to_str().expect("UTF-8"),
                last.to_str().expect("UTF-8"),
            ],
        )
        .expect("pg_waldump");

    // Only lines from the segment behind the first switch, which we begin with as well.
    let start = segment_after(&first);
    let control = fs::read(cluster.data_directory().join("global/pg_control")).expect("control");
    let control = ControlFile::decode(&control).expect("control file");
    let stream = WalStream {
        system_identifier: control.system_identifier,
        version: WalVersion::from_postgres_major(control.postgres_major).expect("supported"),
        timeline: 1,
        segment_bytes: 1 << 20,
    };
    let mut decoder = WalDecoder::new(stream, engine::types::Lsn(start));
    let mut found = Vec::new();
    let mut segment = start >> 20;
    loop {
        let path = wal.join(format!(
            "00000001{:08X}{:08X}",
            segment >> 12,
            segment & 0xfff
        ));
        let bytes = fs::read(&path).expect("a segment");
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let decoded = decoder.decode(rest).expect("good WAL");
            if let Some(record) = decoded.record {
                let blocks: Vec<String> = record
                    .blocks()
                    .map(|b| format!("rel {} blk {}", b.tag.relation, b.tag.block))
                    .collect();
                found.push((record.start.0, record.xid, blocks));
            }
            rest = &rest[decoded.consumed..];
        }
        if path == last {
            break;
        }
        segment += 1;
    }
    let expected: Vec<_> = dump
        .lines()
        .map(dumped)
        .filter(|(lsn, ..)| *lsn >= start)
        .collect();
    assert!(expected.len() > 1000, "{} records", expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

/// LSN of the segment behind a file of 1 MiB.
fn segment_after(path: &std::path::Path) -> u64 {
    let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
    let part = |range| u64::from_str_radix(&name[range], 16).expect("hex");
    (part(8..16) << 32) + ((part(16..24) + 1) << 20)
}

/// LSN, transaction id and blocks of a line of `pg_waldump`.
fn dumped(line: &str) -> (u64, u32, Vec<String>) {
    let behind = |mark: &str| {
        let at = line.find(mark).expect("a line of pg_waldump") + mark.len();
        line[at..].trim_start()
    };
    let until_comma = |text: &str| text.split(',').next().expect("a field").to_owned();
    let lsn: engine::types::Lsn = until_comma(behind("lsn: ")).parse().expect("an lsn");
    let xid = until_comma(behind("tx:"))
        .parse()
        .expect("a transaction id");
    let blocks = line
        .split("blkref #")
        .skip(1)
        .map(|block| {
            let words: Vec<&str> = block.split([' ', ',']).collect();
            let after = |word: &str| {
                let at = words.iter().position(|w| *w == word).expect("a word");
                words[at + 1]
            };
            format!("rel {} blk {}", after("rel"), after("blk"))
        })
        .collect();
    (lsn.0, xid, blocks)
}
