//! The stored form that all values have: a version, then fields one behind the other, and nothing behind the last.

use super::ValueError;
use crate::bytes_at::Unread;

/// Reads a value of which `fields` takes everything behind the version.
/// # Errors
/// Another version, or `fields` did not find all it wants, or left something.
pub(super) fn decode<T>(
    what: &'static str,
    bytes: &[u8],
    fields: impl FnOnce(&mut Unread<'_>) -> Option<T>,
) -> Result<T, ValueError> {
    let malformed = ValueError::Malformed {
        what,
        bytes: bytes.len(),
    };
    let mut unread = Unread(bytes);
    match unread.u8() {
        Some(VERSION) => {}
        Some(version) => return Err(ValueError::Version { what, version }),
        None => return Err(malformed),
    }
    match fields(&mut unread) {
        Some(value) if unread.0.is_empty() => Ok(value),
        _ => Err(malformed),
    }
}

/// A byte that is 0 or 1.
pub(super) fn flag(unread: &mut Unread<'_>) -> Option<bool> {
    match unread.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// All that is left, if it is UTF-8.
pub(super) fn rest_text(unread: &mut Unread<'_>) -> Option<String> {
    let bytes = std::mem::take(&mut unread.0);
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Writes a value: its version, then the fields in the order of the calls.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn new() -> Writer {
        Writer(vec![VERSION])
    }

    pub(super) fn u8(mut self, value: u8) -> Writer {
        self.0.push(value);
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn text(mut self, value: &str) -> Writer {
        self.0.extend(value.as_bytes());
        self
    }
}

const VERSION: u8 = 1;
