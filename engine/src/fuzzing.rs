//! For fuzz targets, and no part of the API: decoders that seals and privacy keep out of reach. Each says in a panic
//! when a body that is accepted is not what is written for what it means: then two bodies would mean the same, or one
//! would be read otherwise than it was written.

use bytes::Bytes;

pub use crate::cache::fuzz_index as cache_index;
pub use crate::catalog::fuzz_records as catalog_records;
pub use crate::wal::fuzz_segment as wal_segment;

use crate::crypto::key_table::KeyTable;
use crate::crypto::sealed_record::check_envelope;
use crate::manifest::{Entry, decode_node_sections, encode_node_sections};

/// The opened body of a manifest entry; in that of a snapshot is its root.
pub fn manifest_entry(body: &[u8]) {
    if let Ok(entry) = Entry::decode(body) {
        assert!(entry.encode() == body, "{entry:?}");
    }
}

/// The opened content of a node of a snapshot.
pub fn snapshot_node(plaintext: &[u8]) {
    if let Ok(sections) = decode_node_sections(plaintext) {
        assert!(encode_node_sections(&sections) == plaintext, "{sections:?}");
    }
}

/// The opened body of a key table.
pub fn key_table(body: &[u8]) {
    if let Ok(table) = KeyTable::decode(7, body) {
        assert!(*table.encode() == body, "another table");
    }
}

/// The envelope of sealed records, as it lies in the store.
pub fn sealed_record(stored: &Bytes) {
    check_envelope(stored);
}
