//! Single parts: plaintexts that a holder of the key could have sealed wrongly, streaming, and the opening of blocks.

use super::support::*;
use crate::crypto::page_seal::{BlockKind, Opener, Sealer};
use crate::layer::*;
use crate::types::{KeySpace, Lsn, PAGE_BYTES};

/// A layer with runs, steps and packs in one extent.
fn mixed_layer() -> (Model, SealedLayer) {
    let mut random = Random::new(2);
    let mut model = Model::new();
    let mut put = |key, lsn, bytes| {
        let kind = ValueKind::Image;
        model.insert(
            (TestKeys.partition(&key), key, Lsn(lsn)),
            Version { kind, bytes },
        );
    };
    for block in 0..8 {
        put(key(1, block), 4000, vec![9; PAGE_BYTES]);
    }
    for lsn in 4001..4006 {
        put(key(1, 7), lsn, vec![8; PAGE_BYTES]);
    }
    for block in 8..14 {
        put(key(1, block), 4000, random.bytes(20));
        put(key(1, block), 4007, Vec::new());
    }
    let layer = write(&model, LayerConfig::tiny());
    (model, layer)
}

/// Changes a few bytes, or none, or cuts the end.
fn mutate(random: &mut Random, plain: &[u8]) -> Vec<u8> {
    let mut changed = plain.to_vec();
    for _ in 0..random.below(4) {
        let at = random.below(u32::try_from(plain.len()).expect("small")) as usize;
        changed[at] = match random.below(3) {
            0 => 0,
            1 => 0xff,
            _ => random.bytes(1)[0],
        };
    }
    if random.below(8) == 0 {
        changed.truncate(random.below(u32::try_from(plain.len()).expect("small")) as usize);
    }
    changed
}

/// An extent with another directory of the same length, sealed under the right key.
fn with_directory(extent: &[u8], header: &ExtentHeader, plain: &[u8]) -> Vec<u8> {
    let context = layer_id().context(BlockKind::LayerDirectory, 0);
    let sealed = Sealer::new(&dek()).seal_vec(&context, plain);
    let mut forged = extent.to_vec();
    forged[12..16].copy_from_slice(&u32::try_from(sealed.len()).expect("small").to_le_bytes());
    forged[header.directory_range()][..sealed.len()].copy_from_slice(&sealed);
    forged
}

#[test]
fn a_wrong_directory_sealed_under_the_right_key_is_refused_or_harmless() {
    let (model, layer) = mixed_layer();
    let reader = Reader::new(&layer);
    let opener = Opener::new(&dek());
    let extent = reader.extent(0);
    let header = ExtentHeader::decode(0, extent).expect("sound");
    let context = layer_id().context(BlockKind::LayerDirectory, 0);
    let plain = opener
        .open_vec(&context, &extent[header.directory_range()])
        .expect("opens");
    assert!(reader.directory(0).block_count() >= 8);
    let mut random = Random::new(12);
    let mut scratch = BlockScratch::new();
    let (mut opened, mut refused, mut blocks_refused) = (0, 0, 0);
    for _ in 0..20_000 {
        let forged = with_directory(extent, &header, &mutate(&mut random, &plain));
        let Ok(directory) = ExtentDirectory::open(&opener, &layer_id(), 0, &forged) else {
            refused += 1;
            continue;
        };
        opened += 1;
        let mut end = header.blocks_at();
        for place in directory.places() {
            assert!(place.range().start >= end && place.range().end <= forged.len());
            end = place.range().end;
            assert!(place.first_key <= place.last_key && place.first_lsn <= place.last_lsn);
        }
        for (_, key, lsn) in model.keys() {
            let Some(place) = directory.find(key, *lsn) else {
                continue;
            };
            assert!((place.first_key..=place.last_key).contains(key) && place.first_lsn <= *lsn);
            if place.contents != BlockContents::Pack {
                let sealed = &forged[place.range()];
                let image = open_image(&opener, &layer_id(), &place, sealed, &mut scratch);
                let right = model.get(&(TestKeys.partition(key), *key, place.first_lsn));
                match image {
                    Ok(image) => assert_eq!(Some(image), right.map(|v| &v.bytes[..])),
                    Err(_) => blocks_refused += 1,
                }
            }
        }
    }
    assert!(opened > 1000 && refused > 1000 && blocks_refused > 100);
}

#[test]
fn a_wrong_index_sealed_under_the_right_key_is_refused_or_harmless() {
    let (model, layer) = mixed_layer();
    let opener = Opener::new(&dek());
    let context = layer_id().context(BlockKind::LayerIndex, 0);
    let at = layer.summary.index.start;
    let start = usize::try_from(at).expect("small");
    let end = usize::try_from(layer.summary.index.end).expect("small");
    let plain = opener
        .open_vec(&context, &layer.bytes[start..end])
        .expect("opens");
    let sealer = Sealer::new(&dek());
    let mut random = Random::new(13);
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let sealed = sealer.seal_vec(&context, &mutate(&mut random, &plain));
        let Ok(index) = LayerIndex::open(&opener, &layer_id(), &sealed, at) else {
            refused += 1;
            continue;
        };
        opened += 1;
        for (partition, key, lsn) in model.keys() {
            for extent_no in index.candidates(*partition, key, *lsn) {
                let range = index.extent_range(extent_no).expect("exists");
                assert!(range.end <= at && range.end - range.start <= EXTENT_BYTES as u64);
                assert_eq!(index.partition_of(extent_no), Some(*partition));
            }
        }
        assert_eq!(index.extent_range(index.extent_count()), None);
    }
    assert!(opened > 1000 && refused > 1000);
}

#[test]
fn a_block_that_opens_but_holds_another_key_or_lsn_is_refused() {
    let opener = Opener::new(&dek());
    let sealer = Sealer::new(&dek());
    let mut scratch = BlockScratch::new();
    let place = |key, lsn, sealed_bytes| BlockPlace {
        extent_no: 0,
        index: 0,
        contents: BlockContents::Image,
        at: 64,
        sealed_bytes,
        first_key: key,
        last_key: key,
        first_lsn: lsn,
        last_lsn: lsn,
    };
    let wanted = (key(1, 1), Lsn(8));
    for inside in [wanted, (key(1, 2), Lsn(8)), (key(1, 1), Lsn(16))] {
        let mut plain = Vec::new();
        block::encode_block(
            BlockContents::Image,
            &inside.0,
            inside.1,
            &[5; PAGE_BYTES],
            false,
            &mut plain,
        );
        let place = place(wanted.0, wanted.1, 8248);
        let mut sealed = Vec::new();
        block::seal_block(&sealer, &layer_id(), &place, &plain, &mut sealed);
        let opened = open_image(&opener, &layer_id(), &place, &sealed, &mut scratch);
        match inside == wanted {
            true => assert_eq!(opened, Ok(&[5; PAGE_BYTES][..])),
            false => assert_eq!(opened, Err(LayerError::OtherContent { part: place.part() })),
        }
    }
}

#[test]
fn an_extent_that_streams_in_byte_by_byte_is_usable_as_early_as_can_be() {
    let (_, layer) = mixed_layer();
    let reader = Reader::new(&layer);
    let extent = reader.extent(0);
    let header = ExtentHeader::decode(0, extent).expect("sound");
    let directory = reader.directory(0);
    let mut assembler = ExtentAssembler::new(0, extent.len());
    for arrived in 0..=extent.len() {
        let expected = match arrived {
            _ if arrived < EXTENT_HEADER_BYTES => Arrival::Nothing,
            _ if arrived < header.directory_range().end => Arrival::Header,
            _ if arrived < extent.len() => Arrival::Directory,
            _ => Arrival::Whole,
        };
        assert_eq!(assembler.advance(&extent[..arrived]), Ok(expected));
        assert_eq!(assembler.header().is_some(), arrived >= EXTENT_HEADER_BYTES);
        let here = directory
            .places()
            .filter(|place| assembler.is_here(place))
            .count();
        let complete = directory.places().filter(|p| p.range().end <= arrived);
        assert_eq!(
            here,
            if expected == Arrival::Nothing {
                0
            } else {
                complete.count()
            }
        );
    }
    let mut other = ExtentAssembler::new(1, extent.len());
    assert!(other.advance(extent).is_err(), "another number");
    let mut longer = ExtentAssembler::new(0, extent.len() + 8);
    assert!(longer.advance(extent).is_err(), "another length");
    let mut shorter = ExtentAssembler::new(0, extent.len() - 8);
    assert!(shorter.advance(extent).is_err(), "more than asked for");
}

#[test]
fn nothing_of_a_value_a_key_or_a_partition_is_in_the_object() {
    let mut writer = writer_of(layer_id(), LayerConfig::tiny());
    let secret = b"nobody shall read this on a disk";
    let mut page = [0; PAGE_BYTES];
    page[100..100 + secret.len()].copy_from_slice(secret);
    let key = key(0x5ec2_e700, 0x0bad_cafe);
    writer
        .push(&key, Lsn(0x1122_3344_5566), Value::Image(secret))
        .expect("fits");
    writer
        .push(&key, Lsn(0x1122_3344_5577), Value::Image(&page))
        .expect("fits");
    let object = writer.finish().bytes;
    let has = |what: &[u8]| object.windows(what.len()).any(|window| window == what);
    assert!(!has(&secret[..8]) && !has(&key.0[16..]));
    assert!(!has(&0x1122_3344_5566u64.to_le_bytes()) && !has(&0x1122_3344_5577u64.to_le_bytes()));
    assert!(has(&layer_id().tenant.0.0), "what is in the clear is");
}
