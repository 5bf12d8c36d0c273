//! Why a layer could not be read: precise inside, four kinds for whoever has to act.

use std::fmt;

use crate::crypto::page_seal::{BadSeal, DekId};
use crate::types::{ObjectId, TenantId};

/// A part of a layer object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Part {
    /// The first bytes of the object.
    Header,
    /// The last bytes of the object.
    Footer,
    /// The sealed index.
    Index,
    /// A whole extent, or its header.
    Extent(u32),
    /// The directory of an extent.
    Directory(u32),
    /// A block.
    Block {
        /// Its extent.
        extent_no: u32,
        /// Its place in the extent's directory.
        index: u16,
    },
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Header => f.write_str("layer header"),
            Part::Footer => f.write_str("layer footer"),
            Part::Index => f.write_str("layer index"),
            Part::Extent(no) => write!(f, "extent {no}"),
            Part::Directory(no) => write!(f, "directory of extent {no}"),
            Part::Block { extent_no, index } => write!(f, "block {index} of extent {extent_no}"),
        }
    }
}

/// Why a layer, or a part of it, was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayerError {
    /// Fewer bytes than the part has.
    #[error("{part}: {got_bytes} bytes of {want_bytes}")]
    Truncated {
        /// What was read.
        part: Part,
        /// Bytes it needs.
        want_bytes: usize,
        /// Bytes there are.
        got_bytes: usize,
    },
    /// The part does not begin with its magic.
    #[error("{part}: not a layer (wrong magic)")]
    NotALayer {
        /// What was read.
        part: Part,
    },
    /// A newer format.
    #[error("layer format version {version} is newer than {known}, the newest known here")]
    NewerFormat {
        /// The object's version.
        version: u16,
        /// The newest version this program reads.
        known: u16,
    },
    /// A cipher this program does not have.
    #[error("layer is sealed with cipher {cipher}, which is not known here")]
    UnknownCipher {
        /// The object's cipher id.
        cipher: u16,
    },
    /// Stored bytes do not match their checksum.
    #[error("{part}: checksum {computed:08x} instead of {stored:08x}")]
    Checksum {
        /// What was read.
        part: Part,
        /// The checksum that is stored.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A field is out of its range.
    #[error("{part}: {what}")]
    Malformed {
        /// What was read.
        part: Part,
        /// Which rule it breaks.
        what: &'static str,
    },
    /// The seal does not open: damage, another object, or another key. [`super::LayerHeader::check`] tells.
    #[error("{part}: {source}")]
    Seal {
        /// What was to be opened.
        part: Part,
        /// Whose seal it should have been.
        source: BadSeal,
    },
    /// The block opened but holds another key or LSN than its directory says.
    #[error("{part}: holds another key or LSN than its directory says")]
    OtherContent {
        /// What was opened.
        part: Part,
    },
    /// A sound layer, but another one than was asked for.
    #[error(
        "replaced by another valid object: {found_tenant}/{}/{}-{} instead of {want_tenant}/{}/{}-{}",
        found.branch, found.epoch, found.sequence, want.branch, want.epoch, want.sequence
    )]
    OtherObject {
        /// Whose object was asked for.
        want_tenant: TenantId,
        /// The object asked for.
        want: ObjectId,
        /// Whose object it is.
        found_tenant: TenantId,
        /// The object it is.
        found: ObjectId,
    },
    /// The right object, sealed under another key than the one at hand.
    #[error("sealed under key {}/{}, and the key at hand, {}/{}, is another", found.table, found.slot, want.table, want.slot)]
    WrongKey {
        /// The key at hand.
        want: DekId,
        /// The key the object names.
        found: DekId,
    },
}

/// What a caller can do about a [`LayerError`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LayerErrorKind {
    /// Fetch it again; if that does not help, the object is damaged.
    Damaged,
    /// The name leads to another object.
    OtherObject,
    /// A newer program wrote it.
    NewerFormat,
    /// The key is not the one that sealed it.
    WrongKey,
}

impl LayerError {
    /// What to do about it. A bad seal counts as damage until [`super::LayerHeader::check`] says otherwise.
    pub fn kind(&self) -> LayerErrorKind {
        match self {
            LayerError::Truncated { .. }
            | LayerError::NotALayer { .. }
            | LayerError::Checksum { .. }
            | LayerError::Malformed { .. }
            | LayerError::Seal { .. }
            | LayerError::OtherContent { .. } => LayerErrorKind::Damaged,
            LayerError::OtherObject { .. } => LayerErrorKind::OtherObject,
            LayerError::NewerFormat { .. } | LayerError::UnknownCipher { .. } => {
                LayerErrorKind::NewerFormat
            }
            LayerError::WrongKey { .. } => LayerErrorKind::WrongKey,
        }
    }

    pub(super) fn malformed(part: Part, what: &'static str) -> LayerError {
        LayerError::Malformed { part, what }
    }
}
