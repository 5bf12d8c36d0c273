//! Paths of a base backup: every path means one thing, and each state file's key survives its own encoding.
#![no_main]

use engine::types::{Key, KeySpace, PARTITIONS};
use libfuzzer_sys::fuzz_target;
use postgres::data_files::{DataFile, classify, classify_in_tablespace};
use postgres::key::PostgresKey;
use postgres::key_space::PostgresKeySpace;

fuzz_target!(|input: (u8, u32, &str)| {
    let (major, oid, path) = input;
    let major = 15 + u16::from(major % 4);
    let file = classify(path, major);
    assert_eq!(file, classify(path, major), "the same path means the same");
    assert!(
        !path.starts_with("pg_wal/") || !matches!(file, DataFile::Relation { .. }),
        "WAL is no relation"
    );
    let _inside = classify_in_tablespace(oid, path, major);

    let Some(key) = Key::from_slice(path.as_bytes()) else {
        return;
    };
    if let Some(decoded) = PostgresKey::decode(&key) {
        assert_eq!(decoded.encode(), key);
    }
    assert!(PostgresKeySpace.partition(&key).number() < PARTITIONS);
});
