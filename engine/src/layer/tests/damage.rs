//! Flipped bits, cut ends, exchanged parts, other keys: refused, and by their right name.

use super::support::*;
use crate::crypto::page_seal::{Dek, DekId, Opener};
use crate::layer::*;
use crate::types::{Id, KeySpace, Lsn, PAGE_BYTES, TenantId};

/// Two partitions, images, deltas, packs, several versions; a few extents of 16 KiB.
fn small_model(seed: u64) -> Model {
    let mut random = Random::new(seed);
    let mut model = Model::new();
    for relation in 0..2 {
        for block in 0..3 {
            for lsn in [800, 803] {
                let key = key(relation, block * 16);
                let kind = match lsn {
                    800 => ValueKind::Image,
                    _ => ValueKind::Delta,
                };
                let bytes = match block {
                    0 => random.bytes(1500),
                    1 => vec![7; PAGE_BYTES],
                    _ => random.bytes(30),
                };
                model.insert(
                    (TestKeys.partition(&key), key, Lsn(lsn)),
                    Version { kind, bytes },
                );
            }
        }
    }
    model
}

fn small_layer() -> SealedLayer {
    write(&small_model(3), LayerConfig::tiny())
}

fn range(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
    usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")
}

/// Opens everything there is, as a reader without a manifest; the first error ends it.
fn read_all(object: &[u8], layer: &LayerId, opener: &Opener) -> Result<usize, LayerError> {
    let header = LayerHeader::decode(object)?;
    header.check(layer, DEK_ID, &dek().key_check_value())?;
    let footer_at = object.len() - FOOTER_BYTES;
    let footer = LayerFooter::decode(&object[footer_at..], object.len() as u64)?;
    let index = &object[range(footer.index_range())];
    let index = LayerIndex::open(opener, layer, index, footer.index_at)?;
    let mut scratch = BlockScratch::new();
    let mut values = 0;
    for extent_no in 0..index.extent_count() {
        let extent = &object[range(index.extent_range(extent_no).expect("counted"))];
        let mut assembler = ExtentAssembler::new(extent_no, extent.len());
        // A block that is damaged is refused by its seal, before the checksum is known.
        let arrived = extent.len() - 1;
        assembler.advance(&extent[..arrived])?;
        let directory = ExtentDirectory::open(opener, layer, extent_no, extent)?;
        for place in directory.places() {
            let sealed = &extent[place.range()];
            values += match place.contents {
                BlockContents::Pack => open_pack(opener, layer, &place, sealed, &mut scratch)?
                    .entries()
                    .count(),
                BlockContents::Image | BlockContents::Delta => {
                    open_image(opener, layer, &place, sealed, &mut scratch)?;
                    1
                }
            };
        }
        assert_eq!(assembler.advance(extent)?, Arrival::Whole);
    }
    Ok(values)
}

#[test]
fn every_single_bit_flip_is_found_by_the_scrubber_without_a_key() {
    let layer = small_layer();
    let mut object = layer.bytes.to_vec();
    assert!(scrub_object(&object).is_ok());
    // Every bit of what is not a block's ciphertext, and one of eight of that.
    let outside = outside_blocks(&layer);
    for bit in 0..object.len() * 8 {
        if bit % 8 != (bit / 8) % 8 && !outside[bit / 8] {
            continue;
        }
        object[bit / 8] ^= 1 << (bit % 8);
        assert!(scrub_object(&object).is_err(), "bit {bit} went unseen");
        object[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..object.len() {
        if len < 300 || len % 97 == 0 || len + 300 > object.len() {
            assert!(scrub_object(&object[..len]).is_err(), "{len} bytes");
        }
    }
}

/// Whether each byte is of the header, the footer, the index, or within 300 bytes of an extent's start.
fn outside_blocks(layer: &SealedLayer) -> Vec<bool> {
    let mut outside = vec![false; layer.bytes.len()];
    outside[..HEADER_BYTES].fill(true);
    outside[range(layer.summary.index.clone()).start..].fill(true);
    let index = Reader::new(layer).index;
    for extent_no in 0..layer.summary.extent_count {
        let extent = range(index.extent_range(extent_no).expect("counted"));
        outside[extent.start..extent.end.min(extent.start + 300)].fill(true);
    }
    outside
}

#[test]
fn every_single_bit_flip_is_refused_by_a_reader_with_the_key() {
    let layer = small_layer();
    let opener = Opener::new(&dek());
    let mut object = layer.bytes.to_vec();
    let values = read_all(&object, &layer_id(), &opener);
    assert_eq!(values, Ok(small_model(3).len()));
    for byte in 0..object.len() {
        let bit = byte % 8;
        object[byte] ^= 1 << bit;
        let read = read_all(&object, &layer_id(), &opener);
        assert!(read.is_err(), "byte {byte}, bit {bit}");
        object[byte] ^= 1 << bit;
    }
}

#[test]
fn another_valid_object_in_its_place_is_called_that() {
    let mut other_id = layer_id();
    other_id.object.sequence += 1;
    let mut writer = writer_of(other_id, LayerConfig::tiny());
    writer
        .push(&key(1, 1), Lsn(8), Value::Image(&[1; PAGE_BYTES]))
        .expect("fits");
    let other = writer.finish();
    let opener = Opener::new(&dek());
    assert_eq!(read_all(&other.bytes, &other_id, &opener), Ok(1));

    // Under the same key: the seals refuse it all the same.
    let sealed = &other.bytes[range(other.summary.index.clone())];
    let opened = LayerIndex::open(&opener, &layer_id(), sealed, other.summary.index.start);
    assert_eq!(opened.expect_err("refused").kind(), LayerErrorKind::Damaged);
    let error = read_all(&other.bytes, &layer_id(), &opener).expect_err("refused");
    assert_eq!(error.kind(), LayerErrorKind::OtherObject);
    assert!(
        error
            .to_string()
            .starts_with("replaced by another valid object")
    );
    assert!(error.to_string().contains("3-22"), "{error}");

    let other_tenant = LayerId {
        tenant: TenantId(Id([9; 16])),
        ..other_id
    };
    let error = read_all(&other.bytes, &other_tenant, &opener).expect_err("refused");
    assert_eq!(error.kind(), LayerErrorKind::OtherObject);
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let layer = small_layer();
    let header = LayerHeader::decode(&layer.bytes).expect("sound");
    let wrong = Dek::from_bytes([1; 32]);
    let sealed = &layer.bytes[range(layer.summary.index.clone())];
    let at = layer.summary.index.start;
    let opened = LayerIndex::open(&Opener::new(&wrong), &layer_id(), sealed, at);
    assert!(matches!(
        opened,
        Err(LayerError::Seal {
            part: Part::Index,
            ..
        })
    ));
    let error = header
        .check(&layer_id(), DEK_ID, &wrong.key_check_value())
        .expect_err("another key");
    assert_eq!(error.kind(), LayerErrorKind::WrongKey);
    let other_id = DekId { table: 1, slot: 1 };
    let error = header
        .check(&layer_id(), other_id, &dek().key_check_value())
        .expect_err("another id");
    assert_eq!(error.kind(), LayerErrorKind::WrongKey);
}

#[test]
fn a_newer_format_and_an_unknown_cipher_are_named_by_number() {
    let mut object = small_layer().bytes.to_vec();
    object[8] = 2;
    let error = LayerHeader::decode(&object).expect_err("newer");
    assert_eq!(error.kind(), LayerErrorKind::NewerFormat);
    assert_eq!(
        error.to_string(),
        "layer format version 2 is newer than 1, the newest known here"
    );
    object[8] = 1;
    object[10] = 9;
    let sum = crc32c::crc32c(&object[..HEADER_BYTES - 4]).to_le_bytes();
    object[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum);
    assert_eq!(
        LayerHeader::decode(&object),
        Err(LayerError::UnknownCipher { cipher: 9 })
    );
}

#[test]
fn extents_and_blocks_exchanged_within_one_layer_do_not_open() {
    let mut model = Model::new();
    for block in 0..4 {
        let key = key(1, block);
        let version = Version {
            kind: ValueKind::Image,
            bytes: Random::new(u64::from(block)).bytes(PAGE_BYTES),
        };
        model.insert((TestKeys.partition(&key), key, Lsn(64)), version);
    }
    let config = LayerConfig {
        extent_bytes_max: 20_000,
        ..LayerConfig::tiny()
    };
    let layer = write(&model, config);
    let reader = Reader::new(&layer);
    let opener = Opener::new(&dek());
    assert_eq!(layer.summary.extent_count, 2);
    let (first, second) = (reader.extent(0), reader.extent(1));
    assert_eq!(first.len(), second.len());

    let opened = ExtentDirectory::open(&opener, &layer_id(), 0, second);
    let misnumbered = LayerError::Malformed {
        part: Part::Extent(0),
        what: "has another number",
    };
    assert_eq!(opened.expect_err("refused"), misnumbered);
    // Even with the number forged and the checksum made right.
    let mut forged = second.to_vec();
    forged[4..8].copy_from_slice(&0u32.to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&forged[..28]), &forged[32..]);
    forged[28..32].copy_from_slice(&sum.to_le_bytes());
    assert!(scrub_extent(0, &forged).is_ok());
    let opened = ExtentDirectory::open(&opener, &layer_id(), 0, &forged);
    assert!(matches!(opened, Err(LayerError::Seal { .. })));

    let directory = reader.directory(0);
    let places: Vec<BlockPlace> = directory.places().collect();
    assert_eq!(places.len(), 2);
    let mut scratch = BlockScratch::new();
    for (place, other) in [(&places[0], &places[1]), (&places[1], &places[0])] {
        let sealed = &first[other.range()];
        let opened = open_image(&opener, &layer_id(), place, sealed, &mut scratch);
        assert!(matches!(opened, Err(LayerError::Seal { .. })));
    }
}

#[test]
fn decoders_meet_any_bytes_without_panic() {
    let layer = small_layer();
    let mut random = Random::new(11);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut object = layer.bytes.to_vec();
        let cut = match random.below(2) {
            0 => object.len(),
            _ => random.below(u32::try_from(object.len()).expect("small")) as usize,
        };
        object.truncate(cut);
        for _ in 0..random.below(4) {
            let at = match random.below(2) {
                0 => random.below(200),
                _ => random.below(8_000),
            } as usize;
            let noise = random.bytes(4);
            if let Some(field) = object.get_mut(at..at + 4) {
                field.copy_from_slice(&noise);
            }
        }
        refused += usize::from(scrub_object(&object).is_err());
        for extent_no in 0..2 {
            let extent = object.get(HEADER_BYTES..).unwrap_or_default();
            let header = ExtentHeader::decode(extent_no, extent);
            if let Ok(header) = header {
                assert!(header.blocks_at() < header.extent_bytes as usize);
                refused += usize::from(header.verify(extent).is_err());
            }
        }
    }
    assert!(refused > 3000, "most of it was refused: {refused}");
}
