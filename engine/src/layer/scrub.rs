//! Finds damage without a key: every byte of a layer is under some CRC-32C.

use super::format::{check_crc, slice};
use super::{
    EXTENT_BYTES, ExtentHeader, FOOTER_BYTES, HEADER_BYTES, LayerError, LayerFooter, LayerHeader,
    Part,
};

/// What a sound layer says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubReport {
    /// Whose it is, and under which key.
    pub header: LayerHeader,
    /// Where its parts are.
    pub footer: LayerFooter,
}

/// Verifies header, length and checksum of `extent`, a whole extent (a cache slot cut to its length, or a range
/// of an object). Says nothing of which object it belongs to: that takes the key.
pub fn scrub_extent(extent_no: u32, extent: &[u8]) -> Result<ExtentHeader, LayerError> {
    let header = ExtentHeader::decode(extent_no, extent)?;
    header.verify(extent)?;
    Ok(header)
}

/// Verifies every checksum of a whole layer object, and that its parts fill it without gaps.
pub fn scrub_object(object: &[u8]) -> Result<ScrubReport, LayerError> {
    let header = LayerHeader::decode(object)?;
    let footer_at = object.len().saturating_sub(FOOTER_BYTES).max(HEADER_BYTES);
    let footer = LayerFooter::decode(&object[footer_at..], object.len() as u64)?;
    let index_at = usize::try_from(footer.index_at).expect("inside the object, decoded above");

    let mut at = HEADER_BYTES;
    for extent_no in 0..footer.extent_count {
        let part = Part::Extent(extent_no);
        let rest = slice(part, object, at..index_at.min(at + EXTENT_BYTES))?;
        let extent_bytes = ExtentHeader::decode(extent_no, rest)?.extent_bytes as usize;
        scrub_extent(extent_no, slice(part, rest, 0..extent_bytes)?)?;
        at += extent_bytes;
    }
    if at != index_at {
        let what = "the extents do not end where the index begins";
        return Err(LayerError::malformed(Part::Footer, what));
    }
    let index = &object[index_at..footer_at];
    check_crc(Part::Index, footer.index_crc, [index, &[]])?;
    Ok(ScrubReport { header, footer })
}
