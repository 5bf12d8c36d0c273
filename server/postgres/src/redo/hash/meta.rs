//! The metapage of a hash index, and the pages of bits that say which overflow pages are in use.
//!
//! The metapage's content, behind the page header:
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  24 |   4 | magic 0x06440640 |
//! |  28 |   4 | version 4 |
//! |  32 |   8 | tuples, a float |
//! |  40 |   2 | tuples a bucket should have |
//! |  42 |   2 | bytes of a page without header and special space |
//! |  44 |   2 | bytes of a bitmap, a power of two |
//! |  46 |   2 | log2 of its bits |
//! |  48 |   4 | highest bucket |
//! |  52 |   4 | mask of the whole table |
//! |  56 |   4 | mask of its lower half |
//! |  60 |   4 | split point that overflow pages are counted for |
//! |  64 |   4 | lowest bit that may be free |
//! |  68 |   4 | bitmap pages |
//! |  72 |   4 | oid of the hash function |
//! |  76 | 392 | overflow pages before each split point |
//! | 468 | 4096 | blocks of the bitmap pages |

use super::super::RedoError;
use super::super::fields::Fields;
use super::super::index_records::NO_BLOCK;
use super::{BITMAP_PAGE, META_PAGE, NO_BUCKET, SPECIAL_BYTES, init_page};
use crate::bytes_at::{u32_at, u64_at};
use crate::page::{PAGE_HEADER_BYTES, PageMut};

/// Makes the metapage of a new index for as many tuples as its record expects.
pub(super) fn init(page: &mut PageMut<'_>, main: &mut Fields<'_>) -> Result<(), RedoError> {
    let expected_tuples = f64::from_bits(main.u64()?);
    let (procedure, fill_factor) = (main.u32()?, main.u16()?);
    let buckets = initial_buckets(expected_tuples / f64::from(fill_factor));
    let split_point = split_point_of(buckets);

    init_page(page, NO_BLOCK, NO_BUCKET, META_PAGE)?;
    put_u32(page, MAGIC_AT, MAGIC);
    put_u32(page, VERSION_AT, VERSION);
    put_u16(page, FILL_FACTOR_AT, fill_factor);
    put_u16(page, PAGE_SPACE_AT, PAGE_SPACE);
    put_u16(page, BITMAP_BYTES_AT, BITMAP_BYTES);
    put_u16(page, BITMAP_SHIFT_AT, BITMAP_SHIFT);
    put_u32(page, HIGHEST_BUCKET_AT, buckets - 1);
    let mask = (buckets + 1).next_power_of_two() - 1;
    put_u32(page, HIGH_MASK_AT, mask);
    put_u32(page, LOW_MASK_AT, mask >> 1);
    put_u32(page, SPLIT_POINT_AT, split_point);
    put_u32(page, PROCEDURE_AT, procedure);
    // One for the first bitmap page.
    put_u32(page, spare_at(split_point)?, 1);
    page.set_lower(META_END);
    Ok(())
}

/// How many buckets a new index starts with.
fn initial_buckets(wanted: f64) -> u32 {
    const MAX: u32 = 0x4000_0000;
    if wanted <= 2.0 {
        2
    } else if wanted >= f64::from(MAX) {
        MAX
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 2 and 2^30; the fraction is cut off as Postgres does it, and no number counts as 0"
        )]
        let wanted = wanted as u32;
        buckets_at(split_point_of(wanted))
    }
}

/// The split point up to which `buckets` are allocated. Up to 512 buckets each doubling is one, above it four.
fn split_point_of(buckets: u32) -> u32 {
    let group = log2_rounded_up(buckets);
    if group < GROUPS_OF_ONE {
        return group;
    }
    let step = ((buckets - 1) >> (group - 3)) & 3;
    GROUPS_OF_ONE + ((group - GROUPS_OF_ONE) << 2) + step
}

/// How many buckets there are once `split_point` is allocated.
fn buckets_at(split_point: u32) -> u32 {
    if split_point < GROUPS_OF_ONE {
        return 1 << split_point;
    }
    let group = GROUPS_OF_ONE + ((split_point - GROUPS_OF_ONE) >> 2);
    let steps = ((split_point - GROUPS_OF_ONE) & 3) + 1;
    (1 << (group - 1)) + steps * ((1 << (group - 1)) >> 2)
}

fn log2_rounded_up(number: u32) -> u32 {
    match number {
        0 | 1 => 0,
        _ => (number - 1).ilog2() + 1,
    }
}

/// Makes a bitmap page of `bytes` bytes in which everything is in use.
pub(super) fn init_bitmap(page: &mut PageMut<'_>, bytes: u16) -> Result<(), RedoError> {
    if bytes > PAGE_SPACE {
        return Err(RedoError::Record {
            what: "bytes of a bitmap",
            value: bytes.into(),
        });
    }
    init_page(page, NO_BLOCK, NO_BUCKET, BITMAP_PAGE)?;
    let end = PAGE_HEADER_BYTES + usize::from(bytes);
    page.bytes_mut()[PAGE_HEADER_BYTES..end].fill(0xff);
    page.set_lower(HEADER_END + bytes);
    Ok(())
}

/// The first bitmap page of a new index comes behind its buckets.
pub(super) fn add_first_bitmap(page: &mut PageMut<'_>) -> Result<(), RedoError> {
    check(page)?;
    let buckets = get_u32(page, HIGHEST_BUCKET_AT).wrapping_add(1);
    add_bitmap(page, buckets.wrapping_add(1))
}

/// An overflow page was taken, with `first_free` the next bit to try. `new_page` if none was free: the index got one
/// more overflow page, and a further one for bits if that has a block.
pub(super) fn add_overflow_page(
    page: &mut PageMut<'_>,
    first_free: u32,
    new_page: Option<Option<u32>>,
) -> Result<(), RedoError> {
    set_first_free(page, first_free)?;
    let Some(new_bitmap) = new_page else {
        return Ok(());
    };
    let spare = spare_at(get_u32(page, SPLIT_POINT_AT))?;
    let mut pages = get_u32(page, spare).wrapping_add(1);
    if let Some(block) = new_bitmap {
        add_bitmap(page, block)?;
        pages = pages.wrapping_add(1);
    }
    put_u32(page, spare, pages);
    Ok(())
}

/// A bucket was added; `data` has new masks and a new split point if the record's flags say so.
pub(super) fn add_bucket(
    page: &mut PageMut<'_>,
    main: &mut Fields<'_>,
    data: &[u8],
) -> Result<(), RedoError> {
    check(page)?;
    let new_bucket = main.u32()?;
    let _flags_of_buckets = main.u32()?;
    let flags = main.u8()?;
    put_u32(page, HIGHEST_BUCKET_AT, new_bucket);
    let mut data = Fields::new("masks and split point", data);
    if flags & NEW_MASKS != 0 {
        put_u32(page, LOW_MASK_AT, data.u32()?);
        put_u32(page, HIGH_MASK_AT, data.u32()?);
    }
    if flags & NEW_SPLIT_POINT != 0 {
        let (split_point, pages) = (data.u32()?, data.u32()?);
        put_u32(page, spare_at(split_point)?, pages);
        put_u32(page, SPLIT_POINT_AT, split_point);
    }
    Ok(())
}

/// Sets the lowest overflow bit that may be free.
pub(super) fn set_first_free(page: &mut PageMut<'_>, bit: u32) -> Result<(), RedoError> {
    check(page)?;
    put_u32(page, FIRST_FREE_AT, bit);
    Ok(())
}

/// Changes the count of tuples.
pub(super) fn change_tuple_count(
    page: &mut PageMut<'_>,
    change: impl FnOnce(f64) -> f64,
) -> Result<(), RedoError> {
    check(page)?;
    let count = u64_at(page.bytes(), TUPLES_AT).expect("inside the page");
    let count = change(f64::from_bits(count));
    page.bytes_mut()[TUPLES_AT..TUPLES_AT + 8].copy_from_slice(&count.to_bits().to_le_bytes());
    Ok(())
}

/// Marks an overflow page as in use or free on a bitmap page.
pub(super) fn set_overflow_bit(
    page: &mut PageMut<'_>,
    bit: u32,
    in_use: bool,
) -> Result<(), RedoError> {
    page.special_space(SPECIAL_BYTES)?;
    if bit / 8 >= u32::from(PAGE_SPACE) {
        return Err(RedoError::Record {
            what: "bit of an overflow page",
            value: bit.into(),
        });
    }
    // Words of 32 bits, little-endian: the same as bytes in order.
    let byte = &mut page.bytes_mut()[PAGE_HEADER_BYTES + (bit / 8) as usize];
    match in_use {
        true => *byte |= 1 << (bit % 8),
        false => *byte &= !(1 << (bit % 8)),
    }
    Ok(())
}

fn add_bitmap(page: &mut PageMut<'_>, block: u32) -> Result<(), RedoError> {
    let count = get_u32(page, BITMAP_PAGES_AT);
    if count >= BITMAP_PAGES_MAX {
        return Err(RedoError::Page {
            what: "count of bitmap pages",
            value: count.into(),
        });
    }
    put_u32(page, BITMAP_BLOCKS_AT + count as usize * 4, block);
    put_u32(page, BITMAP_PAGES_AT, count + 1);
    Ok(())
}

/// Where the overflow pages before a split point are counted.
fn spare_at(split_point: u32) -> Result<usize, RedoError> {
    if split_point >= SPLIT_POINTS {
        return Err(RedoError::Page {
            what: "split point",
            value: split_point.into(),
        });
    }
    Ok(SPARES_AT + split_point as usize * 4)
}

/// That it is a page of a hash index at all, and not one that was never written.
fn check(page: &PageMut<'_>) -> Result<(), RedoError> {
    page.special_space(SPECIAL_BYTES)?;
    Ok(())
}

fn get_u32(page: &PageMut<'_>, at: usize) -> u32 {
    u32_at(page.bytes(), at).expect("inside the page")
}

fn put_u32(page: &mut PageMut<'_>, at: usize, value: u32) {
    page.bytes_mut()[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u16(page: &mut PageMut<'_>, at: usize, value: u16) {
    page.bytes_mut()[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

const MAGIC_AT: usize = PAGE_HEADER_BYTES;
const VERSION_AT: usize = MAGIC_AT + 4;
const TUPLES_AT: usize = VERSION_AT + 4;
const FILL_FACTOR_AT: usize = TUPLES_AT + 8;
const PAGE_SPACE_AT: usize = FILL_FACTOR_AT + 2;
const BITMAP_BYTES_AT: usize = PAGE_SPACE_AT + 2;
const BITMAP_SHIFT_AT: usize = BITMAP_BYTES_AT + 2;
const HIGHEST_BUCKET_AT: usize = BITMAP_SHIFT_AT + 2;
const HIGH_MASK_AT: usize = HIGHEST_BUCKET_AT + 4;
const LOW_MASK_AT: usize = HIGH_MASK_AT + 4;
const SPLIT_POINT_AT: usize = LOW_MASK_AT + 4;
const FIRST_FREE_AT: usize = SPLIT_POINT_AT + 4;
const BITMAP_PAGES_AT: usize = FIRST_FREE_AT + 4;
const PROCEDURE_AT: usize = BITMAP_PAGES_AT + 4;
const SPARES_AT: usize = PROCEDURE_AT + 4;
const BITMAP_BLOCKS_AT: usize = SPARES_AT + SPLIT_POINTS as usize * 4;
const _: () = assert!(BITMAP_BLOCKS_AT == 468);

const MAGIC: u32 = 0x0644_0640;
const VERSION: u32 = 4;
const HEADER_END: u16 = 24;
/// Page without header and special space.
const PAGE_SPACE: u16 = 8192 - HEADER_END - 16;
const BITMAP_BYTES: u16 = 4096;
const BITMAP_SHIFT: u16 = 15;
const BITMAP_PAGES_MAX: u32 = 1024;
/// Split points up to this one double the table in one step.
const GROUPS_OF_ONE: u32 = 10;
const SPLIT_POINTS: u32 = (32 - GROUPS_OF_ONE) * 4 + GROUPS_OF_ONE;
/// End of the content, rounded up to 8 as the compiler of Postgres rounds it.
const META_END: u16 = 4568;
const _: () = assert!(META_END as usize == (BITMAP_BLOCKS_AT + 4096).next_multiple_of(8));

const NEW_MASKS: u8 = 1;
const NEW_SPLIT_POINT: u8 = 2;
