//! Generic records of extensions: stretches of bytes to overwrite, then the hole filled with zeros.

use engine::types::PAGE_BYTES;

use super::fields::Fields;
use super::{Change, RedoError};
use crate::page::PageMut;

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut fields = Fields::new("stretches of a generic record", change.data);
    while fields.left() > 0 {
        let (at, length) = (fields.u16()?, fields.u16()?);
        let bytes = fields.take(usize::from(length))?;
        let at = usize::from(at);
        page.bytes_mut()
            .get_mut(at..at + bytes.len())
            .ok_or(RedoError::Record {
                what: "stretch past the page: end",
                value: (at + bytes.len()) as u64,
            })?
            .copy_from_slice(bytes);
    }
    let (lower, upper) = (usize::from(page.lower()), usize::from(page.upper()));
    if lower > upper || upper > PAGE_BYTES {
        return Err(RedoError::Page {
            what: "upper bound",
            value: upper as u64,
        });
    }
    page.bytes_mut()[lower..upper].fill(0);
    Ok(())
}
