//! Redo of this resource manager's records.

use super::{Change, RedoError};
use crate::page::PageMut;

pub(super) fn apply(change: &Change<'_>, _page: &mut PageMut<'_>) -> Result<(), RedoError> {
    Err(RedoError::Operation(change.operation()))
}
