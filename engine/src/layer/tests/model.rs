//! Random layers against a map.

use std::sync::Arc;

use super::support::*;
use crate::layer::*;
use crate::types::{Key, KeySpace, Lsn, PAGE_BYTES, Partition};

/// Runs of one LSN as imports write them, and many versions of few keys, some within one unit of eight bytes.
fn random_model(random: &mut Random) -> Model {
    let mut model = Model::new();
    let base = 1 + u64::from(random.below(1 << 30));
    let mut put = |random: &mut Random, key: Key, lsn: u64| {
        let kind = match random.below(4) {
            0 => ValueKind::Delta,
            _ => ValueKind::Image,
        };
        let bytes = random.value();
        let partition = TestKeys.partition(&key);
        model.insert((partition, key, Lsn(lsn)), Version { kind, bytes });
    };
    for relation in 0..1 + random.below(3) {
        let first = random.below(100);
        for block in first..first + random.below(40) {
            if random.below(16) > 0 {
                put(random, key(relation, block), base);
            }
        }
    }
    for _ in 0..random.below(4) {
        let key = key(random.below(3), random.below(100));
        let spread = [1, 8, 3000, 1 << 34][random.below(4) as usize];
        for _ in 0..random.below(24) {
            let lsn = base + u64::from(random.below(30)) * spread / 30 + u64::from(random.below(8));
            put(random, key, lsn);
        }
    }
    put(random, key(9, 9), base);
    model
}

fn newest(model: &Model, key: &Key, lsn: Lsn) -> Option<(Lsn, Version)> {
    let partition = TestKeys.partition(key);
    model
        .range((partition, *key, Lsn(0))..=(partition, *key, lsn))
        .next_back()
        .map(|((_, _, lsn), version)| (*lsn, version.clone()))
}

#[test]
fn every_version_is_found_where_a_map_finds_it() {
    let mut ties = 0;
    let mut extents = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let model = random_model(&mut random);
        let mut config = LayerConfig::tiny();
        config.object_bytes_max = 64 << 20;
        config.compress = seed % 3 != 0;
        if seed % 4 == 0 {
            config.extent_bytes_max = EXTENT_BYTES;
        }
        let layer = write(&model, config);
        let report = scrub_object(&layer.bytes).expect("a fresh layer is sound");
        assert_eq!(report.footer.extent_count, layer.summary.extent_count);
        let mut reader = Reader::new(&layer);
        extents += layer.summary.extent_count;
        for (_, key, lsn) in model.keys() {
            let around = [lsn.0 - 1, lsn.0, lsn.0 + 1, lsn.0 + 9, u64::MAX];
            for lsn in around.map(Lsn) {
                let before = reader.extents_read;
                let expected = newest(&model, key, lsn);
                assert_eq!(reader.get(key, lsn), expected, "seed {seed}, LSN {lsn}");
                ties += usize::from(reader.extents_read > before + 1);
            }
        }
        for _ in 0..50 {
            let key = key(random.below(11), random.below(150));
            let expected = newest(&model, &key, Lsn::MAX);
            assert_eq!(reader.get(&key, Lsn::MAX), expected, "seed {seed}");
        }
    }
    assert!(extents > 1000, "extents are many: {extents}");
    assert!(ties > 20, "fences with cut-off LSNs were met: {ties}");
}

#[test]
fn the_summary_and_the_walk_over_all_blocks_give_everything_once() {
    for seed in 100..110 {
        let model = random_model(&mut Random::new(seed));
        let mut config = LayerConfig::tiny();
        config.object_bytes_max = 64 << 20;
        let layer = write(&model, config);
        let mut reader = Reader::new(&layer);
        assert_eq!(reader.index.sections(), layer.summary.sections);
        assert_eq!(reader.index.extent_count(), layer.summary.extent_count);
        assert_eq!(reader.index.first_lsn(), layer.summary.first_lsn);
        assert_eq!(reader.index.last_lsn(), layer.summary.last_lsn);
        let mut seen = Model::new();
        for section in layer.summary.sections.clone() {
            for extent_no in section.extents {
                assert_eq!(
                    reader.index.partition_of(extent_no),
                    Some(section.partition)
                );
                let directory = reader.directory(extent_no);
                assert_eq!(directory.partition(), section.partition);
                let extent = reader.extent(extent_no).to_vec();
                let first = directory.place(0).expect("has a block").first_key;
                assert_eq!(reader.index.first_key(extent_no), Some(first));
                for place in directory.places() {
                    let keys: Vec<_> = model
                        .range(
                            (section.partition, place.first_key, place.first_lsn)
                                ..=(section.partition, place.last_key, Lsn::MAX),
                        )
                        .map(|((_, key, lsn), _)| (*key, *lsn))
                        .filter(|(_, lsn)| (place.first_lsn..=place.last_lsn).contains(lsn))
                        .collect();
                    for (key, lsn) in keys {
                        if let Some((found, version)) =
                            reader.open_if_here(&place, &extent, &key, lsn)
                        {
                            assert_eq!(found, lsn);
                            seen.insert((section.partition, key, lsn), version);
                        }
                    }
                }
            }
        }
        assert_eq!(seen.len(), model.len());
        assert!(seen == model);
    }
}

#[test]
fn the_same_values_and_key_make_the_same_bytes() {
    let model = random_model(&mut Random::new(5));
    let config = LayerConfig {
        object_bytes_max: 64 << 20,
        ..LayerConfig::tiny()
    };
    assert_eq!(
        write(&model, config.clone()).bytes,
        write(&model, config).bytes
    );
}

/// As for a large relation: what an import writes is one partition's stripes of 1,024 blocks.
struct LongStripes;

impl KeySpace for LongStripes {
    fn partition(&self, _: &Key) -> Partition {
        Partition::of_hash(0)
    }

    fn stripe(&self, _: &Key) -> u64 {
        0
    }
}

#[test]
fn an_import_costs_eight_bytes_of_directory_per_page_and_a_fence_per_extent() {
    let mut random = Random::new(6);
    let mut writer = LayerWriter::new(LayerParams {
        tenant: layer_id().tenant,
        object: layer_id().object,
        dek: &dek(),
        dek_id: DEK_ID,
        key_space: Arc::new(LongStripes),
        config: LayerConfig::default(),
    });
    for block in 0..310 {
        let page = random.bytes(PAGE_BYTES);
        writer
            .push(&key(1, block), Lsn(100), Value::Image(&page))
            .expect("fits");
    }
    let layer = writer.finish();
    let reader = Reader::new(&layer);
    assert_eq!(layer.summary.extent_count, 10);
    for extent_no in 0..10 {
        let directory = reader.directory(extent_no);
        assert_eq!(directory.block_count(), 31);
        let resident = directory.resident_bytes();
        assert!(resident <= 31 * 8, "{resident} bytes for 31 pages");
    }
    assert_eq!(
        reader.index.resident_bytes(),
        size_of::<LayerIndex>() + size_of::<PartitionSection>() + 10 * 32
    );
}

#[test]
fn a_layer_is_cut_at_its_limits_and_goes_on_in_the_next() {
    let config = LayerConfig::tiny();
    let mut random = Random::new(7);
    let mut writer = writer_of(layer_id(), config.clone());
    // Blocks whose stripes are in one partition.
    let home = TestKeys.partition(&key(1, 0));
    let mut blocks = (0..).filter(|block| TestKeys.partition(&key(1, *block)) == home);
    let mut push = |page: &[u8]| {
        let block = blocks.next().expect("there are many");
        writer.push(&key(1, block), Lsn(64), Value::Image(page))
    };
    while push(&random.bytes(PAGE_BYTES)) == Ok(()) {}
    let layer = writer.finish();
    let bytes = layer.bytes.len() as u64;
    assert!(bytes <= config.object_bytes_max);
    assert!(bytes > config.object_bytes_max * 9 / 10);

    let mut writer = writer_of(layer_id(), config);
    let span = (u64::from(u32::MAX) + 1) * 8;
    let value = Value::Image(b"small");
    assert_eq!(writer.push(&key(1, 1), Lsn(8), value), Ok(()));
    assert_eq!(
        writer.push(&key(1, 1), Lsn(8 + span), value),
        Err(LayerFull)
    );
    assert_eq!(writer.push(&key(1, 1), Lsn(7 + span), value), Ok(()));
    let layer = writer.finish();
    let mut reader = Reader::new(&layer);
    let found = reader.get(&key(1, 1), Lsn::MAX).expect("there");
    assert_eq!(found.0, Lsn(7 + span));
}

#[test]
#[should_panic(expected = "values come in order")]
fn values_out_of_order_are_a_mistake_of_the_caller() {
    let mut writer = writer_of(layer_id(), LayerConfig::tiny());
    for lsn in [9, 8] {
        writer.push(&key(1, 1), Lsn(lsn), Value::Image(b"x")).ok();
    }
}

#[test]
fn settings_out_of_range_are_all_named() {
    let config = LayerConfig {
        object_bytes_max: 1,
        extent_bytes_max: EXTENT_BYTES + 1,
        pack_value_bytes_max: 8157,
        compress: true,
    };
    let named: Vec<_> = config.validate().iter().map(|e| e.setting).collect();
    assert_eq!(
        named,
        [
            "object_bytes_max",
            "extent_bytes_max",
            "pack_value_bytes_max"
        ]
    );
    assert_eq!(LayerConfig::default().validate(), []);
    assert_eq!(LayerConfig::tiny().validate(), []);
}
