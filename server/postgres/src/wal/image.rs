//! Page images in WAL: with or without the hole between line pointers and tuples, plain or compressed.
//!
//! The hole is `hole_bytes` zeros at `hole_at`, left out before compression. Which method, the flags say; a
//! server only writes what it was built with, a reader has to know all three.

use engine::types::PAGE_BYTES;
use ruzstd::decoding::FrameDecoder;

use super::pglz;

/// An image of a page, as the record has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Image<'a> {
    flags: u8,
    hole_at: u16,
    hole_bytes: u16,
    bytes: &'a [u8],
}

/// Why an image is no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ImageError {
    /// More than one method, or one that is not known.
    #[error("image has unknown flags {0:#04x}")]
    Flags(u8),
    /// The compressed bytes are damaged.
    #[error("image compressed with {method} does not decompress to {wanted} bytes")]
    Compressed {
        /// Which method.
        method: &'static str,
        /// How many bytes it should have been.
        wanted: usize,
    },
    /// A hole that is not inside the page, or bytes that do not fill the rest of it.
    #[error("image of {bytes} bytes with a hole of {hole_bytes} at {hole_at} is no page")]
    Hole {
        /// Bytes of image.
        bytes: usize,
        /// Where the hole begins.
        hole_at: u16,
        /// How long it is.
        hole_bytes: u16,
    },
}

impl<'a> Image<'a> {
    /// An image with these fields, which need not be sound: [`restore`](Self::restore) checks them.
    pub(crate) fn new(flags: u8, hole_at: u16, hole_bytes: u16, bytes: &'a [u8]) -> Image<'a> {
        Image {
            flags,
            hole_at,
            hole_bytes,
            bytes,
        }
    }

    /// Whether redo restores it; else it is there to compare with (`wal_consistency_checking`).
    pub fn is_applied(&self) -> bool {
        self.flags & APPLY != 0
    }

    /// The flags, as the record has them.
    pub(crate) fn flags(&self) -> u8 {
        self.flags
    }

    /// Where the hole begins and how long it is.
    pub fn hole(&self) -> (u16, u16) {
        (self.hole_at, self.hole_bytes)
    }

    /// Bytes as they are in the record: compressed or not, without the hole.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What the bytes are compressed with, if they are.
    pub fn compression(&self) -> Option<&'static str> {
        match self.flags & COMPRESSED {
            0 => None,
            PGLZ => Some("pglz"),
            LZ4 => Some("lz4"),
            ZSTD => Some("zstd"),
            _ => Some("an unknown method"),
        }
    }

    /// Writes the page that it is an image of. On an error `page` is in no particular state.
    /// # Errors
    /// Unknown flags, bytes that do not decompress, or that do not make a page.
    pub fn restore(&self, page: &mut [u8; PAGE_BYTES]) -> Result<(), ImageError> {
        let (hole_at, hole_bytes) = (usize::from(self.hole_at), usize::from(self.hole_bytes));
        let hole_end = hole_at + hole_bytes;
        let bad_hole = ImageError::Hole {
            bytes: self.bytes.len(),
            hole_at: self.hole_at,
            hole_bytes: self.hole_bytes,
        };
        if self.flags & !(HAS_HOLE | APPLY | COMPRESSED) != 0 {
            return Err(ImageError::Flags(self.flags));
        }
        if hole_end > PAGE_BYTES {
            return Err(bad_hole);
        }
        let wanted = PAGE_BYTES - hole_bytes;
        if self.flags & COMPRESSED == 0 {
            if self.bytes.len() != wanted {
                return Err(bad_hole);
            }
            page[..hole_at].copy_from_slice(&self.bytes[..hole_at]);
            page[hole_end..].copy_from_slice(&self.bytes[hole_at..]);
        } else {
            // Decompressed to the front; what is behind the hole moves to its place.
            self.decompress(&mut page[..wanted])?;
            page.copy_within(hole_at..wanted, hole_end);
        }
        page[hole_at..hole_end].fill(0);
        Ok(())
    }

    fn decompress(&self, out: &mut [u8]) -> Result<(), ImageError> {
        let wanted = out.len();
        let (method, decompressed) = match self.flags & COMPRESSED {
            PGLZ => ("pglz", pglz::decompress(self.bytes, out)),
            LZ4 => (
                "lz4",
                lz4_flex::block::decompress_into(self.bytes, out).ok(),
            ),
            ZSTD => ("zstd", FrameDecoder::new().decode_all(self.bytes, out).ok()),
            _ => return Err(ImageError::Flags(self.flags)),
        };
        if decompressed == Some(wanted) {
            Ok(())
        } else {
            Err(ImageError::Compressed { method, wanted })
        }
    }

    /// Bytes of the hole: stored (and taken by `stored`) only where compression hides it.
    pub(super) fn hole_bytes<E>(
        flags: u8,
        bytes: u16,
        stored: impl FnOnce() -> Result<u16, E>,
    ) -> Result<u16, E> {
        match (flags & COMPRESSED != 0, flags & HAS_HOLE != 0) {
            (true, true) => stored(),
            (true, false) => Ok(0),
            (false, _) => Ok(PAGE_BYTES_U16.saturating_sub(bytes)),
        }
    }

    /// Whether the fields of an image's header agree.
    pub(super) fn header_is_sound(flags: u8, bytes: u16, hole_at: u16, hole_bytes: u16) -> bool {
        let compressed = flags & COMPRESSED != 0;
        let hole_fits = hole_at
            .checked_add(hole_bytes)
            .is_some_and(|end| end <= PAGE_BYTES_U16);
        let hole_agrees = if flags & HAS_HOLE != 0 {
            hole_at > 0 && hole_bytes > 0
        } else {
            hole_at == 0 && hole_bytes == 0
        };
        let length_agrees = if compressed {
            bytes < PAGE_BYTES_U16
        } else {
            bytes <= PAGE_BYTES_U16 && bytes + hole_bytes == PAGE_BYTES_U16
        };
        hole_fits && hole_agrees && length_agrees
    }
}

/// Never the bytes: they are a page.
impl std::fmt::Debug for Image<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("flags", &self.flags)
            .field("hole", &self.hole())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

const HAS_HOLE: u8 = 0x01;
const APPLY: u8 = 0x02;
const PGLZ: u8 = 0x04;
const LZ4: u8 = 0x08;
const ZSTD: u8 = 0x10;
const COMPRESSED: u8 = PGLZ | LZ4 | ZSTD;
const PAGE_BYTES_U16: u16 = 8192;
const _: () = assert!(PAGE_BYTES_U16 as usize == PAGE_BYTES);

#[cfg(test)]
mod tests;
