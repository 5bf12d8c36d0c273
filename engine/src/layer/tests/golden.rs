//! Stored layers of every released version, which every later version must read. They are never made anew: a new
//! version adds files.
//!
//! `v1-raw.bin` is not compressed, so that the writer must make the very same bytes; how `v1-lz4.bin` was
//! compressed may differ between versions of the library, so that one is only read.

use super::support::*;
use crate::layer::*;
use crate::types::{KeySpace, Lsn, PAGE_BYTES};

const LAYER_V1: &[u8] = include_bytes!("../../../../tests/golden/layer/v1-raw.bin");
const LAYER_V1_LZ4: &[u8] = include_bytes!("../../../../tests/golden/layer/v1-lz4.bin");

/// A run, steps, a delta, packs, three partitions.
fn content() -> Model {
    let mut model = Model::new();
    let mut put = |key, lsn, kind, bytes| {
        model.insert(
            (TestKeys.partition(&key), key, Lsn(lsn)),
            Version { kind, bytes },
        );
    };
    let page: Vec<u8> = (0..PAGE_BYTES)
        .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1])
        .collect();
    for block in 0..9 {
        put(
            key(1, block),
            0x1000,
            ValueKind::Image,
            page[..600].to_vec(),
        );
    }
    put(key(1, 8), 0x1009, ValueKind::Delta, page[..300].to_vec());
    put(key(1, 8), 0x2000, ValueKind::Image, vec![0; 300]);
    put(key(1, 16), 0x1000, ValueKind::Image, page.clone());
    put(key(1, 16), 0x1001, ValueKind::Delta, b"small".to_vec());
    for relation in 2..12 {
        put(
            key(relation, 0),
            0x1000,
            ValueKind::Image,
            relation.to_le_bytes().to_vec(),
        );
        put(key(relation, 1), 0x1234, ValueKind::Delta, Vec::new());
    }
    model
}

fn config(compress: bool) -> LayerConfig {
    LayerConfig {
        compress,
        ..LayerConfig::tiny()
    }
}

fn stored(bytes: &'static [u8], like: SealedLayer) -> SealedLayer {
    let footer_at = bytes.len() - FOOTER_BYTES;
    let footer = LayerFooter::decode(&bytes[footer_at..], bytes.len() as u64).expect("sound");
    let mut summary = like.summary;
    summary.index = footer.index_range();
    SealedLayer {
        bytes: bytes::Bytes::from_static(bytes),
        summary,
    }
}

#[test]
fn version_1_is_written_as_it_was() {
    let layer = write(&content(), config(false));
    assert!(layer.summary.sections.len() >= 3);
    let differs = (0..LAYER_V1.len().max(layer.bytes.len()))
        .find(|at| layer.bytes.get(*at) != LAYER_V1.get(*at));
    assert_eq!(differs, None, "first byte that differs");
}

#[test]
fn version_1_is_read_as_it_was_written() {
    for (bytes, compress) in [(LAYER_V1, false), (LAYER_V1_LZ4, true)] {
        let report = scrub_object(bytes).expect("sound");
        assert_eq!(report.header.layer, layer_id());
        assert_eq!(report.header.dek_id, DEK_ID);
        assert_eq!(report.header.key_check, dek().key_check_value());
        let layer = stored(bytes, write(&content(), config(compress)));
        let mut reader = Reader::new(&layer);
        for ((_, key, lsn), version) in content() {
            assert_eq!(reader.get(&key, lsn), Some((lsn, version)));
        }
        assert_eq!(reader.get(&key(1, 9), Lsn::MAX), None);
        assert_eq!(reader.get(&key(1, 0), Lsn(0xfff)), None);
    }
}
