use super::*;
use crate::wal::decoder::tests::record;

fn parse<'a>(bytes: &'a [u8], scratch: &'a mut RecordScratch) -> Result<Record<'a>, RecordError> {
    Record::parse(WalVersion::V15, Lsn(0x1000), Lsn(0x2000), bytes, scratch)
}

/// Block 0 with a compressed image with a hole and data; block 1 of the same relation, visibility map; an origin; a
/// top transaction; main data.
fn body() -> Vec<u8> {
    let mut body = vec![0, 0x70, 3, 0];
    body.extend([5, 0, 24, 0, 0x01 | 0x02 | 0x04, 100, 0]);
    for word in [1663u32, 5, 16384, 7] {
        body.extend(word.to_le_bytes());
    }
    body.extend([1, 0x80 | 0x02, 0, 0]);
    body.extend(9u32.to_le_bytes());
    body.extend([253, 1, 2]);
    body.extend([252, 9, 0, 0, 0]);
    body.extend([255, 2]);
    body.extend(b"image");
    body.extend(b"dat");
    body.extend(b"ma");
    body
}

#[test]
fn parts_of_a_record_are_found() {
    let bytes = record(10, 0x20, 5, &body());
    let mut scratch = RecordScratch::new();
    let record = parse(&bytes, &mut scratch).expect("sound");
    let relation = Relation {
        tablespace: 1663,
        database: 5,
        number: 16384,
    };
    let blocks: Vec<BlockReference<'_>> = record.blocks().collect();
    let [first, second] = blocks[..] else {
        panic!("{blocks:?}")
    };
    let image = first.image.expect("an image");
    assert_eq!((image.bytes(), image.hole()), (&b"image"[..], (24, 100)));
    assert!(image.is_applied() && first.will_init);
    assert_eq!(image.compression(), Some("pglz"));
    assert_eq!(first.data, b"dat");
    let tag = |fork, block| BlockTag {
        relation,
        fork,
        block,
    };
    assert_eq!(first.tag, tag(Fork::Main, 7));
    assert_eq!(second.tag, tag(Fork::VisibilityMap, 9));
    assert_eq!((second.image, second.data), (None, &b""[..]));
    assert!(!second.will_init);
    assert_eq!(record.block(1), Some(second));
    assert_eq!(record.block(2), None);
    assert_eq!((record.origin, record.top_xid), (0x201, 9));
    assert_eq!((record.xid, record.operation()), (5, 0x20));
    assert_eq!(record.main, b"ma");
    assert_eq!(record.total_bytes(), bytes.len());
}

#[test]
fn a_record_cut_anywhere_or_longer_than_its_parts_is_refused() {
    let whole = body();
    let mut scratch = RecordScratch::new();
    // Cut where what is behind the headers is just as long as the first block's parts, it is taken for
    // them: only the checksum can tell.
    let lookalikes = [27, 35, 38, 43].map(|header_end| header_end + 8);
    for cut in (1..whole.len()).filter(|cut| !lookalikes.contains(cut)) {
        let bytes = record(10, 0, 5, &whole[..cut]);
        assert!(parse(&bytes, &mut scratch).is_err(), "{cut}");
    }
    let mut longer = whole;
    longer.push(0);
    let bytes = record(10, 0, 5, &longer);
    assert_eq!(
        parse(&bytes, &mut scratch).expect_err("longer"),
        RecordError::Length
    );
}

#[test]
fn contradictions_are_refused() {
    let mut scratch = RecordScratch::new();
    let mut refused = |at: usize, value: u8| {
        let mut body = body();
        body[at] = value;
        let bytes = record(10, 0, 5, &body);
        parse(&bytes, &mut scratch).expect_err("a contradiction")
    };
    assert_eq!(refused(0, 33), RecordError::BlockId(33));
    assert_eq!(refused(1, 0x74), RecordError::Fork(4));
    assert_eq!(refused(1, 0xf0), RecordError::NoRelation);
    assert_eq!(refused(1, 0x50), RecordError::DataFlag(0));
    assert_eq!(refused(27, 0), RecordError::BlockOrder(0));
    // An image with the flag for a hole and none, a hole without the flag, a hole past the page.
    for (at, value) in [(6, 0), (8, 0x02), (7, 0x20)] {
        assert!(
            matches!(
                refused(at, value),
                RecordError::Image { id: 0, .. } | RecordError::BlockId(_)
            ),
            "{at}"
        );
    }
}
