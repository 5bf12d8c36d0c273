//! What the engine is told of redo: a delta is bytes, and whoever opened the engine says how to apply it.

use std::fmt;

use crate::types::{Key, Lsn, PAGE_BYTES};

/// Applies deltas. Shared by all cores.
pub trait Redo: Send + Sync + 'static {
    /// Whether `delta` makes its value without looking at an older one: nothing below it is read then.
    fn begins(&self, delta: &[u8]) -> bool;

    /// Changes the value of `key` by the delta that is its version at `lsn`; answers the value's new length. The value is the
    /// first `len` bytes of `page`; the bytes behind it are what the deltas before left there, and zeros before the first.
    ///
    /// # Errors
    /// The delta can't be applied. The message names what it is (a record, say), never content. The page is in no
    /// particular state then.
    fn apply(
        &self,
        key: &Key,
        lsn: Lsn,
        delta: &[u8],
        page: &mut [u8; PAGE_BYTES],
        len: usize,
    ) -> Result<usize, RedoFailed>;
}

/// Why a delta was not applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedoFailed(pub Box<str>);

impl fmt::Display for RedoFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// For branches that hold nothing but images: every delta is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImagesOnly;

impl Redo for ImagesOnly {
    fn begins(&self, _: &[u8]) -> bool {
        false
    }

    fn apply(
        &self,
        _: &Key,
        _: Lsn,
        _: &[u8],
        _: &mut [u8; PAGE_BYTES],
        _: usize,
    ) -> Result<usize, RedoFailed> {
        Err(RedoFailed("this engine was opened without redo".into()))
    }
}
