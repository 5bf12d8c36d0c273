//! Reading what a record carries: fields in order, each checked against the end.

use super::RedoError;

/// The rest of a record's data, and where it was cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Reads `bytes` from their start; `what` names them in errors.
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Fields<'a> {
        Fields { what, bytes, at: 0 }
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], RedoError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..count)) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(RedoError::Short {
                what: self.what,
                at: self.at,
                wanted: count,
                bytes: self.bytes.len(),
            }),
        }
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], RedoError> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("as many were taken"))
    }

    /// The next byte.
    pub(crate) fn u8(&mut self) -> Result<u8, RedoError> {
        self.array().map(|[byte]| byte)
    }

    /// The next two bytes.
    pub(crate) fn u16(&mut self) -> Result<u16, RedoError> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes.
    pub(crate) fn u32(&mut self) -> Result<u32, RedoError> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    pub(crate) fn u64(&mut self) -> Result<u64, RedoError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Passes over padding up to a multiple of `align` from the start.
    pub(crate) fn align(&mut self, align: usize) -> Result<(), RedoError> {
        self.take(self.at.next_multiple_of(align) - self.at)
            .map(drop)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        self.at = self.bytes.len();
        rest
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }
}
