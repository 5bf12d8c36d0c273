//! Sequences: a page with one tuple, made anew by every record.

use super::fields::Fields;
use super::{Change, RedoError};
use crate::page::{PageMut, Place};

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    if change.operation() != LOG {
        return Err(RedoError::Operation(change.operation()));
    }
    let mut fields = Fields::new("sequence record", change.main);
    fields.take(RELATION_BYTES)?;
    page.init(MAGIC_BYTES)?;
    page.special_space_mut(MAGIC_BYTES)?
        .copy_from_slice(&MAGIC.to_le_bytes());
    page.add_item(fields.rest(), Place::Insert(1))?;
    Ok(())
}

const LOG: u8 = 0x00;
const RELATION_BYTES: usize = 12;
const MAGIC: u32 = 0x1717;
const MAGIC_BYTES: usize = 4;
