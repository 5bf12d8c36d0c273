//! The public error kinds: one per thing a caller can do.

use std::fmt;

use crate::types::{Lsn, ObjectId};

/// What a caller can do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ErrorKind {
    /// There is no such value; ask for something else.
    NotFound,
    /// The LSN is below what the branch keeps or can show; ask for a newer one.
    Gone,
    /// The LSN is above what was ingested; wait, or ask for an older one.
    NotYet,
    /// The store or the device did not answer in time; retrying is safe.
    Unavailable,
    /// What is stored is damaged, or is not what its place says; retrying does not help.
    Corrupt,
    /// The request can't be served by this version or these keys; fix the request or the set-up.
    Refused,
}

/// Why a value could not be read. Carries its place; never content or keys.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// No version at or below the LSN, here or in an ancestor.
    #[error("no version at or below {at}")]
    NotFound {
        /// The LSN asked for.
        at: Lsn,
    },
    /// There is no such tenant, or no such branch of it.
    #[error("{reason}")]
    NoSuchBranch {
        /// Which.
        reason: Box<str>,
    },
    /// The branch is readable from a later LSN on.
    #[error("{at} is below {horizon}, the first LSN that the branch can show")]
    Gone {
        /// The LSN asked for.
        at: Lsn,
        /// The first readable one.
        horizon: Lsn,
    },
    /// The branch has not come that far.
    #[error("{at} is above {last}, the last LSN of the branch")]
    NotYet {
        /// The LSN asked for.
        at: Lsn,
        /// The last one there is.
        last: Lsn,
    },
    /// A store, a device or a queue did not answer in time.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// The chain of causes.
        reason: Box<str>,
    },
    /// A fresh copy from the store does not open, or is something else.
    #[error("object {}-{} of branch {}: {reason}", .object.epoch, .object.sequence, .object.branch)]
    Corrupt {
        /// The damaged object.
        object: ObjectId,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// A delta of the value can't be applied: the value can't be read from there until its next image.
    #[error("the change at {at} can't be replayed: {reason}")]
    Redo {
        /// Version of the delta.
        at: Lsn,
        /// What it is and what is wrong.
        reason: Box<str>,
    },
    /// The newest image is further away than a read may go.
    #[error(
        "more than {deltas_max} changes, or {bytes_max} bytes of them, since the last image at or below {at}: raise the engine's deltas_max or delta_bytes_max"
    )]
    ChainTooLong {
        /// The LSN asked for.
        at: Lsn,
        /// How many are replayed.
        deltas_max: usize,
        /// How many bytes of them.
        bytes_max: usize,
    },
    /// There are changes of a value, and not what they change.
    #[error("no image below the change at {lowest}")]
    NoImage {
        /// Version of the oldest delta.
        lowest: Lsn,
    },
    /// An object that is not a layer (manifest, key table) does not open or is of a newer format.
    #[error("{reason}")]
    Metadata {
        /// Which, and what is wrong with it.
        reason: Box<str>,
    },
}

impl ReadError {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ReadError::NotFound { .. } | ReadError::NoSuchBranch { .. } => ErrorKind::NotFound,
            ReadError::Gone { .. } => ErrorKind::Gone,
            ReadError::NotYet { .. } => ErrorKind::NotYet,
            ReadError::Unavailable { .. } => ErrorKind::Unavailable,
            ReadError::Redo { .. } | ReadError::ChainTooLong { .. } => ErrorKind::Refused,
            ReadError::Corrupt { .. } | ReadError::Metadata { .. } | ReadError::NoImage { .. } => {
                ErrorKind::Corrupt
            }
        }
    }

    pub(crate) fn unavailable(reason: impl fmt::Display) -> ReadError {
        ReadError::Unavailable {
            reason: reason.to_string().into(),
        }
    }
}
