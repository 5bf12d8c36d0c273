//! Why WAL does not go on: where it ends, and what is wrong with a page or a record.

use engine::types::Lsn;

use super::manager::ResourceManager;
use super::record::RecordError;

/// Why WAL does not go on.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WalError {
    /// Nothing was written there.
    #[error("WAL ends at {at}: {reason}")]
    End {
        /// Position of the page or record.
        at: Lsn,
        /// What was found there.
        reason: EndReason,
    },
    /// A page of something else, or of a version that is not supported.
    #[error("WAL page at {at} has {what} {found:#x}, expected {wanted:#x}")]
    Foreign {
        /// Position of the page.
        at: Lsn,
        /// Which field.
        what: &'static str,
        /// As found.
        found: u64,
        /// As expected.
        wanted: u64,
    },
    /// A record that is not whole or not right: where a server was killed, the end; elsewhere, damage.
    #[error("WAL record at {at}, {}: {reason}", ManagerName(*manager))]
    Record {
        /// Position of the record.
        at: Lsn,
        /// Whose it says it is, if that much could be read.
        manager: Option<ResourceManager>,
        /// What is wrong.
        reason: RecordFault,
    },
}

/// What says that nothing was written.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndReason {
    /// A page of zeros.
    #[error("the page was never written")]
    EmptyPage,
    /// A page of an older life of the segment file.
    #[error("the page is an older one, of {0}")]
    OlderPage(Lsn),
    /// A length of zero where a record should begin.
    #[error("nothing was written there")]
    NoRecord,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordFault {
    /// No record is so short or so long.
    #[error("no record has {0} bytes")]
    Length(u32),
    /// Neither built in nor custom.
    #[error("no such resource manager")]
    Manager,
    /// It names another record as the one before it.
    #[error("the record before it is at {wanted}, not at {found}")]
    Previous {
        /// As found.
        found: Lsn,
        /// As expected.
        wanted: Lsn,
    },
    /// Checksum.
    #[error("the checksum is wrong")]
    Checksum,
    /// The next page does not go on with it.
    #[error("its continuation is missing")]
    NotContinued,
    /// The next page goes on with a record of another length.
    #[error("its continuation has {found} bytes, not {wanted}")]
    ContinuedBytes {
        /// As found.
        found: u32,
        /// As expected.
        wanted: usize,
    },
    /// A page begins in the middle of a record that did not begin.
    #[error("its beginning is missing")]
    NotBegun,
    /// Right checksum, wrong content.
    #[error(transparent)]
    Content(#[from] RecordError),
}

struct ManagerName(Option<ResourceManager>);

impl std::fmt::Display for ManagerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(manager) => manager.fmt(f),
            None => f.write_str("resource manager unknown"),
        }
    }
}
