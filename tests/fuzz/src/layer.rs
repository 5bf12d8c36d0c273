//! Layers: the parts in the clear as they are, and the sealed parts sealed under a known key first, or nothing would
//! get past the seal. The first byte of the input says which part it is.
#![no_main]

use engine::crypto::page_seal::{BlockContext, BlockKind, Dek, FormatTag, Opener, Sealer};
use engine::layer::{
    EXTENT_BYTES, EXTENT_HEADER_BYTES, ExtentDirectory, LayerFooter, LayerHeader, LayerId,
    LayerIndex, scrub_extent, scrub_object,
};
use engine::types::{BranchId, Id, Key, Lsn, ObjectId, TenantId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((part, bytes)) = input.split_first() else {
        return;
    };
    match part % 5 {
        0 => drop(LayerHeader::decode(bytes)),
        1 => drop(LayerFooter::decode(bytes, 1 << 20)),
        2 => {
            let _report = scrub_object(bytes);
            let _header = scrub_extent(0, bytes);
        }
        3 => directory(bytes),
        _ => index(bytes),
    }
});

fn layer() -> LayerId {
    let branch = BranchId(Id([2; 16]));
    LayerId {
        tenant: TenantId(Id([1; 16])),
        object: ObjectId {
            branch,
            epoch: 1,
            sequence: 1,
        },
    }
}

fn seal(kind: BlockKind, plain: &[u8]) -> (Opener, Vec<u8>) {
    let dek = Dek::from_bytes([7; 32]);
    let layer = layer();
    let format = FormatTag::new(b"LAYR", 1);
    let context = BlockContext::unkeyed(format, layer.tenant, layer.object, kind, 0);
    let sealed = Sealer::new(&dek).seal_vec(&context, plain);
    (Opener::new(&dek), sealed)
}

fn directory(plain: &[u8]) {
    let (opener, sealed) = seal(BlockKind::LayerDirectory, plain);
    let mut extent = Vec::with_capacity(EXTENT_HEADER_BYTES + sealed.len());
    extent.extend_from_slice(b"EXTN");
    extent.extend_from_slice(&0_u32.to_le_bytes());
    extent.extend_from_slice(&u32::try_from(EXTENT_BYTES).expect("a grid").to_le_bytes());
    extent.extend_from_slice(&u32::try_from(sealed.len()).expect("short").to_le_bytes());
    let count = plain
        .get(..2)
        .map_or(1, |two| u16::from_le_bytes([two[0], two[1]]).max(1));
    extent.extend_from_slice(&count.to_le_bytes());
    extent.resize(EXTENT_HEADER_BYTES, 0);
    extent.extend_from_slice(&sealed);
    let Ok(directory) = ExtentDirectory::open(&opener, &layer(), 0, &extent) else {
        return;
    };
    for place in directory.places() {
        assert!(
            place.range().end <= EXTENT_BYTES,
            "a block outside its extent"
        );
        let _found = directory.find(&place.first_key, place.last_lsn);
    }
    let _none = directory.find(&Key::MAX, Lsn::MAX);
}

fn index(plain: &[u8]) {
    let index_at = plain.get(24..32).map_or(0, |at| {
        u64::from_le_bytes(at.try_into().expect("eight bytes"))
    });
    let (opener, sealed) = seal(BlockKind::LayerIndex, plain);
    let Ok(index) = LayerIndex::open(&opener, &layer(), &sealed, index_at) else {
        return;
    };
    for section in index.sections() {
        for extent_no in section.extents.clone() {
            let range = index
                .extent_range(extent_no)
                .expect("an extent of the index");
            assert!(
                range.start < range.end && range.end <= index_at,
                "an extent outside its object"
            );
        }
        let _candidates = index
            .candidates(section.partition, &section.last_key, Lsn::MAX)
            .count();
    }
}
