//! Finds damage without a key: every byte of a layer is under some CRC-32C.

use super::format::slice;
use super::{
    EXTENT_HEADER_BYTES, ExtentHeader, FOOTER_BYTES, HEADER_BYTES, LayerError, LayerFooter,
    LayerHeader, Part,
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
    let footer_at = object.len().saturating_sub(FOOTER_BYTES);
    let mut scrubber = LayerScrubber::new(object.len() as u64, &object[footer_at..])?;
    let mut done = 0;
    loop {
        match scrubber.step(&object[done..])? {
            0 => return scrubber.finish(),
            used => done += used,
        }
    }
}

/// The same for an object that comes piece by piece.
#[derive(Debug)]
pub(crate) struct LayerScrubber {
    object_bytes: u64,
    footer: LayerFooter,
    header: Option<LayerHeader>,
    /// Where the next part begins.
    at: u64,
    extents: u32,
    index_crc: u32,
}

impl LayerScrubber {
    /// For an object of `object_bytes` with this `footer`.
    pub(crate) fn new(object_bytes: u64, footer: &[u8]) -> Result<LayerScrubber, LayerError> {
        if object_bytes < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            let part = Part::Header;
            let got_bytes = usize::try_from(object_bytes).unwrap_or(usize::MAX);
            return Err(LayerError::Truncated {
                part,
                want_bytes: HEADER_BYTES + FOOTER_BYTES,
                got_bytes,
            });
        }
        Ok(LayerScrubber {
            object_bytes,
            footer: LayerFooter::decode(footer, object_bytes)?,
            header: None,
            at: 0,
            extents: 0,
            index_crc: 0,
        })
    }

    /// Verifies the next part if `rest`, what comes behind the parts before, has all of it; says how much was used.
    pub(crate) fn step(&mut self, rest: &[u8]) -> Result<usize, LayerError> {
        let footer_at = self.object_bytes - FOOTER_BYTES as u64;
        let used = if self.at == 0 {
            if rest.len() < HEADER_BYTES {
                return Ok(0);
            }
            self.header = Some(LayerHeader::decode(rest)?);
            HEADER_BYTES
        } else if self.at < self.footer.index_at {
            self.extent(rest)?
        } else if self.at < footer_at {
            let left = usize::try_from(footer_at - self.at).unwrap_or(usize::MAX);
            let used = left.min(rest.len());
            self.index_crc = crc32c::crc32c_append(self.index_crc, &rest[..used]);
            used
        } else if self.at == footer_at && rest.len() >= FOOTER_BYTES {
            if LayerFooter::decode(&rest[..FOOTER_BYTES], self.object_bytes)? != self.footer {
                return Err(LayerError::malformed(
                    Part::Footer,
                    "is another than before",
                ));
            }
            FOOTER_BYTES
        } else {
            0
        };
        self.at += used as u64;
        Ok(used)
    }

    fn extent(&mut self, rest: &[u8]) -> Result<usize, LayerError> {
        if rest.len() < EXTENT_HEADER_BYTES {
            return Ok(0);
        }
        let (no, part) = (self.extents, Part::Extent(self.extents));
        let header = ExtentHeader::decode(no, rest)?;
        let end = self.at + u64::from(header.extent_bytes);
        if no == self.footer.extent_count || end > self.footer.index_at {
            let what = "the extents do not end where the index begins";
            return Err(LayerError::malformed(Part::Footer, what));
        }
        let extent_bytes = header.extent_bytes as usize;
        if rest.len() < extent_bytes {
            return Ok(0);
        }
        scrub_extent(no, slice(part, rest, 0..extent_bytes)?)?;
        self.extents += 1;
        Ok(extent_bytes)
    }

    /// The report, once all has come.
    pub(crate) fn finish(&self) -> Result<ScrubReport, LayerError> {
        let header = self.header.filter(|_| self.at == self.object_bytes);
        let Some(header) = header else {
            return Err(LayerError::malformed(
                Part::Footer,
                "the object is cut short",
            ));
        };
        if self.extents != self.footer.extent_count {
            let what = "the extents do not end where the index begins";
            return Err(LayerError::malformed(Part::Footer, what));
        }
        let (stored, computed) = (self.footer.index_crc, self.index_crc);
        if stored != computed {
            return Err(LayerError::Checksum {
                part: Part::Index,
                stored,
                computed,
            });
        }
        Ok(ScrubReport {
            header,
            footer: self.footer,
        })
    }
}
