//! What travels between a window and the shard that answers it.

use crate::error::ReadError;
use crate::io::clock::Moment;
use crate::types::{Key, Lsn};

use super::page_pool::Page;
use super::scan::ScanRequest;

/// A branch's number in this process: an index into every core's table of open branches.
pub(crate) type BranchNumber = u32;

/// One page asked for. Carries the page it is to be read into, so that answering allocates nothing.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    pub(crate) branch: BranchNumber,
    pub(crate) key: Key,
    pub(crate) at: Lsn,
    pub(crate) origin: Origin,
    pub(crate) started: Moment,
    pub(crate) page: Page,
}

/// Where the answer goes: a place in a window of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) core: u16,
    /// Slot in the core's table of windows.
    pub(crate) window: u32,
    /// Which window of those that had this slot.
    pub(crate) generation: u32,
    /// Position in the window's order.
    pub(crate) position: u64,
}

/// The answer to one request. The value is the first `len` bytes of the page.
#[derive(Debug)]
pub(crate) struct ReadAnswer {
    pub(crate) origin: Origin,
    pub(crate) result: Result<usize, ReadError>,
    pub(crate) page: Page,
}

/// What one core sends another.
#[derive(Debug)]
pub(crate) enum Message {
    Read(ReadRequest),
    Answer(ReadAnswer),
    Scan(Box<ScanRequest>),
}
