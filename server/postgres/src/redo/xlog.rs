//! Page images as records of their own. The image is restored before this is asked.

use super::{Change, RedoError, Stamp};

/// An image for a hint bit may be missing (full page writes off): nothing is to be done then. Any other has to be
/// there.
pub(super) fn apply(change: &Change<'_>) -> Result<Stamp, RedoError> {
    match change.operation() {
        IMAGE_FOR_HINT => Ok(Stamp::Keep),
        IMAGE => Err(RedoError::Record {
            what: "no image for block id",
            value: change.block_id.into(),
        }),
        operation => Err(RedoError::Operation(operation)),
    }
}

const IMAGE_FOR_HINT: u8 = 0xa0;
const IMAGE: u8 = 0xb0;
