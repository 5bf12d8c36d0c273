use super::*;

/// A page with a hole from 100 to 8000.
fn page() -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    for (at, byte) in page.iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).expect("below 251");
    }
    page[100..8000].fill(0);
    page
}

fn without_hole() -> Vec<u8> {
    let page = page();
    [&page[..100], &page[8000..]].concat()
}

fn restored(flags: u8, bytes: &[u8]) -> Result<[u8; PAGE_BYTES], ImageError> {
    let (hole_at, hole_bytes) = if flags & HAS_HOLE != 0 {
        (100, 7900)
    } else {
        (0, 0)
    };
    let mut page = [0xee; PAGE_BYTES];
    Image::new(flags, hole_at, hole_bytes, bytes).restore(&mut page)?;
    Ok(page)
}

/// The same bytes as literals of pglz.
fn pglz_of(bytes: &[u8]) -> Vec<u8> {
    let with_control = |eight: &[u8]| [&[0], eight].concat();
    bytes.chunks(8).flat_map(with_control).collect()
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    ruzstd::encoding::compress_to_vec(bytes, level)
}

#[test]
fn images_of_every_method_restore_with_and_without_a_hole() {
    for (hole, bytes) in [(0, page().to_vec()), (HAS_HOLE, without_hole())] {
        let images = [
            (0, bytes.clone()),
            (PGLZ, pglz_of(&bytes)),
            (LZ4, lz4_flex::block::compress(&bytes)),
            (ZSTD, zstd_of(&bytes)),
        ];
        for (method, image) in images {
            assert_eq!(
                restored(method | hole | APPLY, &image),
                Ok(page()),
                "{method}"
            );
            let cut = &image[..image.len() - 1];
            assert!(restored(method | hole, cut).is_err(), "{method} cut short");
        }
    }
}

#[test]
fn nonsense_is_refused() {
    assert_eq!(restored(0x20, &[]), Err(ImageError::Flags(0x20)));
    assert_eq!(
        restored(PGLZ | LZ4, &[]),
        Err(ImageError::Flags(PGLZ | LZ4))
    );
    let mut page = [0; PAGE_BYTES];
    let past_the_page = Image::new(HAS_HOLE, 8000, 200, &[0; 7992]).restore(&mut page);
    assert!(matches!(past_the_page, Err(ImageError::Hole { .. })));
}
