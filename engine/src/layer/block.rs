//! A sealed block, version 1: one value (an image or a delta of one key at one LSN), or a pack (`pack.rs`).
//!
//! Plaintext:
//!
//! |  at | bytes | field       | meaning                                                              |
//! |----:|------:|-------------|----------------------------------------------------------------------|
//! |   0 |    24 | key         | of the value; first key of a pack                                    |
//! |  24 |     8 | lsn         | of the value; lowest LSN of a pack                                   |
//! |  32 |     1 | contents    | 0 image, 1 delta, 2 pack                                             |
//! |  33 |     1 | encoding    | 0 raw, 1 lz4 block                                                   |
//! |  34 |     2 | body_bytes  | of the body when decoded, at most 8,192                              |
//! |  36 |     4 | reserved    | zeros                                                                |
//! |  40 |     … | body        | as `encoding` says, to the end                                       |
//!
//! Key and LSN are in the associated data as well; they are repeated inside and compared after opening, so that a
//! page is right even if whoever computed the context was not.
//!
//! A block is opened in one pass over its bytes, from the buffer that the device or the network filled. A whole page
//! that is not compressed is decrypted straight to where the caller wants it, which is why the caller's frame has room
//! for the block's header before the page. All others go to a scratch that stays in the core's cache, and are decoded
//! or copied from there. Nothing is allocated.

use std::ops::Range;

use super::format::{Fields, LayerId};
use super::{LayerError, Part};
use crate::crypto::page_seal::{BlockContext, Opener, Sealer, TAG_BYTES};
use crate::types::{Key, Lsn, PAGE_BYTES};

/// Bytes before a block's body.
pub(super) const BLOCK_HEADER_BYTES: usize = 40;

/// Bytes of the longest block's plaintext.
const PLAIN_BYTES_MAX: usize = BLOCK_HEADER_BYTES + PAGE_BYTES;

/// Bytes of a frame that a page is opened into: room for the block's header, then the page.
pub const FRAME_BYTES: usize = PLAIN_BYTES_MAX;

/// Bytes of the longest sealed block.
pub(super) const SEALED_BYTES_MAX: usize = PLAIN_BYTES_MAX + TAG_BYTES;

const ENCODING_RAW: u8 = 0;
const ENCODING_LZ4: u8 = 1;
const RESERVED_BYTES: usize = 4;

/// Whether a value stands for itself or changes an older one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ValueKind {
    /// The whole value.
    Image,
    /// A change to the version before.
    Delta,
}

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BlockContents {
    /// One image: open it with [`open_block`] or [`open_image`].
    Image,
    /// One delta: open it with [`open_block`] or [`open_image`].
    Delta,
    /// Several values of one stripe: open it with [`super::open_pack`].
    Pack,
}

impl BlockContents {
    pub(super) fn code(self) -> u8 {
        match self {
            BlockContents::Image => 0,
            BlockContents::Delta => 1,
            BlockContents::Pack => 2,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<BlockContents> {
        match code {
            0 => Some(BlockContents::Image),
            1 => Some(BlockContents::Delta),
            2 => Some(BlockContents::Pack),
            _ => None,
        }
    }
}

/// Where a block is, and everything needed to open it. Made by [`super::ExtentDirectory`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockPlace {
    /// Its extent.
    pub extent_no: u32,
    /// Its place in the extent's directory.
    pub index: u16,
    /// What it holds.
    pub contents: BlockContents,
    /// Where it begins in the extent.
    pub at: u32,
    /// Bytes of ciphertext and tag.
    pub sealed_bytes: u16,
    /// Its only key, or the lowest of a pack.
    pub first_key: Key,
    /// The highest key.
    pub last_key: Key,
    /// Its only LSN, or the lowest of a pack (of any of its keys).
    pub first_lsn: Lsn,
    /// The highest LSN.
    pub last_lsn: Lsn,
}

impl BlockPlace {
    /// Its bytes in the extent.
    pub fn range(&self) -> Range<usize> {
        self.at as usize..self.at as usize + usize::from(self.sealed_bytes)
    }

    /// What its errors are about.
    pub fn part(&self) -> Part {
        Part::Block {
            extent_no: self.extent_no,
            index: self.index,
        }
    }

    fn context(&self, layer: &LayerId) -> BlockContext {
        BlockContext {
            first_key: self.first_key,
            last_key: self.last_key,
            first_lsn: self.first_lsn,
            last_lsn: self.last_lsn,
            ..layer.block_context(self.extent_no, self.index)
        }
    }
}

/// Memory to open blocks in: one per core is enough. Holds plaintext, so it is wiped when dropped.
pub struct BlockScratch {
    plain: Box<[u8; PLAIN_BYTES_MAX]>,
    decoded: Box<[u8; PAGE_BYTES]>,
}

impl BlockScratch {
    /// About 16 KiB.
    pub fn new() -> BlockScratch {
        BlockScratch {
            plain: Box::new([0; PLAIN_BYTES_MAX]),
            decoded: Box::new([0; PAGE_BYTES]),
        }
    }
}

impl Default for BlockScratch {
    fn default() -> BlockScratch {
        BlockScratch::new()
    }
}

impl Drop for BlockScratch {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.plain.zeroize();
        self.decoded.zeroize();
    }
}

impl std::fmt::Debug for BlockScratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockScratch(..)")
    }
}

/// Opens the single value at `place` to the front of the page at the end of `frame`, and returns its bytes; whether it is an
/// image or a delta, `place.contents` says. `sealed` is the block's ciphertext and tag: `extent[place.range()]`.
///
/// Costs one pass over the block, and one copy within the core's cache if it is not a whole page; allocates nothing. What
/// is before the page in `frame` means nothing afterwards; on an error all of it means nothing.
///
/// # Errors
/// `Seal`: damage, another object or another key. `OtherContent`: opened, but it is another key or LSN.
///
/// # Panics
/// If `place` is a pack.
pub fn open_block(
    opener: &Opener,
    layer: &LayerId,
    place: &BlockPlace,
    sealed: &[u8],
    scratch: &mut BlockScratch,
    frame: &mut [u8; FRAME_BYTES],
) -> Result<usize, LayerError> {
    assert!(place.contents != BlockContents::Pack, "not a pack");
    if sealed.len() == SEALED_BYTES_MAX {
        let body = open_body(opener, layer, place, sealed, frame)?;
        return match body.encoding {
            Encoding::Raw => Ok(body.body_bytes),
            // `encode_block` compresses only what gets shorter.
            Encoding::Lz4 => Err(LayerError::malformed(
                place.part(),
                "lz4 that saves nothing",
            )),
        };
    }
    let body = open_body(opener, layer, place, sealed, &mut scratch.plain)?;
    let out = &mut frame[BLOCK_HEADER_BYTES..][..body.body_bytes];
    body.decode_into(place.part(), out)?;
    Ok(out.len())
}

/// As [`open_block`], but leaves the value in the scratch: for callers that copy it to its last place (a frame of
/// the wire) themselves.
///
/// # Panics
/// If `place` is a pack.
pub fn open_image<'a>(
    opener: &Opener,
    layer: &LayerId,
    place: &BlockPlace,
    sealed: &[u8],
    scratch: &'a mut BlockScratch,
) -> Result<&'a [u8], LayerError> {
    assert!(place.contents != BlockContents::Pack, "not a pack");
    open_decoded(opener, layer, place, sealed, scratch)
}

/// Opens and decodes the body of any block.
pub(super) fn open_decoded<'a>(
    opener: &Opener,
    layer: &LayerId,
    place: &BlockPlace,
    sealed: &[u8],
    scratch: &'a mut BlockScratch,
) -> Result<&'a [u8], LayerError> {
    let body = open_body(opener, layer, place, sealed, &mut scratch.plain)?;
    match body.encoding {
        Encoding::Raw => Ok(body.bytes),
        Encoding::Lz4 => {
            let decoded = &mut scratch.decoded[..body.body_bytes];
            body.decode_into(place.part(), decoded)?;
            Ok(decoded)
        }
    }
}

enum Encoding {
    Raw,
    Lz4,
}

/// An opened block's body, still encoded.
struct Body<'a> {
    encoding: Encoding,
    body_bytes: usize,
    bytes: &'a [u8],
}

impl Body<'_> {
    fn decode_into(&self, part: Part, out: &mut [u8]) -> Result<(), LayerError> {
        match self.encoding {
            Encoding::Raw => out.copy_from_slice(self.bytes),
            Encoding::Lz4 => {
                let decoded = lz4_flex::block::decompress_into(self.bytes, out)
                    .map_err(|_| LayerError::malformed(part, "lz4 does not decode"))?;
                if decoded != out.len() {
                    return Err(LayerError::malformed(part, "lz4 decodes to another length"));
                }
            }
        }
        Ok(())
    }
}

fn open_body<'a>(
    opener: &Opener,
    layer: &LayerId,
    place: &BlockPlace,
    sealed: &[u8],
    plain: &'a mut [u8; PLAIN_BYTES_MAX],
) -> Result<Body<'a>, LayerError> {
    let part = place.part();
    if sealed.len() != usize::from(place.sealed_bytes) || sealed.len() > SEALED_BYTES_MAX {
        return Err(LayerError::Truncated {
            part,
            want_bytes: usize::from(place.sealed_bytes),
            got_bytes: sealed.len(),
        });
    }
    let len = opener
        .open_into(&place.context(layer), sealed, plain)
        .map_err(|source| LayerError::Seal { part, source })?;
    let mut fields = Fields::new(part, plain, len)?;
    if fields.key()? != place.first_key || fields.lsn()? != place.first_lsn {
        return Err(LayerError::OtherContent { part });
    }
    if fields.u8()? != place.contents.code() {
        return Err(LayerError::malformed(part, "holds other contents"));
    }
    let encoding = match fields.u8()? {
        ENCODING_RAW => Encoding::Raw,
        ENCODING_LZ4 => Encoding::Lz4,
        _ => return Err(LayerError::malformed(part, "unknown encoding")),
    };
    let body_bytes = usize::from(fields.u16()?);
    fields.reserved(RESERVED_BYTES)?;
    let bytes = fields.bytes(len - BLOCK_HEADER_BYTES)?;
    if body_bytes > PAGE_BYTES || (matches!(encoding, Encoding::Raw) && bytes.len() != body_bytes) {
        return Err(LayerError::malformed(part, "impossible body length"));
    }
    Ok(Body {
        encoding,
        body_bytes,
        bytes,
    })
}

/// Fills `plain` with the plaintext of a block. The body is compressed if `compress` and if that saves at least one
/// unit of 8 bytes.
///
/// # Panics
/// If the body is longer than a page.
pub(super) fn encode_block(
    contents: BlockContents,
    first_key: &Key,
    first_lsn: Lsn,
    body: &[u8],
    compress: bool,
    plain: &mut Vec<u8>,
) {
    assert!(body.len() <= PAGE_BYTES, "values are at most a page");
    plain.clear();
    plain.extend_from_slice(&first_key.0);
    plain.extend_from_slice(&first_lsn.0.to_le_bytes());
    plain.extend_from_slice(&[contents.code(), ENCODING_RAW]);
    let body_bytes = u16::try_from(body.len()).expect("at most a page");
    plain.extend_from_slice(&body_bytes.to_le_bytes());
    plain.extend_from_slice(&[0; RESERVED_BYTES]);
    match compress && compress_into(body, plain) {
        true => plain[ENCODING_AT] = ENCODING_LZ4,
        false => {
            plain.truncate(BLOCK_HEADER_BYTES);
            plain.extend_from_slice(body);
        }
    }
}

/// Appends the block at `place`, sealed, to `out`, without padding.
pub(super) fn seal_block(
    sealer: &Sealer,
    layer: &LayerId,
    place: &BlockPlace,
    plain: &[u8],
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(plain);
    let tag = sealer.seal_in_place(&place.context(layer), &mut out[start..]);
    out.extend_from_slice(&tag);
    assert_eq!(out.len() - start, usize::from(place.sealed_bytes));
}

/// Appends `body` compressed; false if that saves less than a unit, and then `out` has a tail to cut off.
fn compress_into(body: &[u8], out: &mut Vec<u8>) -> bool {
    let at = out.len();
    out.resize(at + lz4_flex::block::get_maximum_output_size(body.len()), 0);
    let compressed = lz4_flex::block::compress_into(body, &mut out[at..])
        .expect("the output has the compressor's maximum");
    out.truncate(at + compressed);
    compressed + super::format::UNIT_BYTES <= body.len()
}

const ENCODING_AT: usize = 33;
const _: () = assert!(SEALED_BYTES_MAX <= u16::MAX as usize);
