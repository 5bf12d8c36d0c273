//! What a shard asks of the store threads, and what it hears back. Plain data: it crosses threads and runtimes.
//!
//! A fetch is one ranged read with an ordered stream of events. The receiver of the events decides nothing about
//! the read: single flight, waiters and the opening of blocks are the shard's. The rules of the stream:
//!
//! - chunks come in order, without gap or overlap, also across retries, hedges and resumed bodies;
//! - `Filled` or `FillFailed` comes once per fill, some time after the last chunk of its extent;
//! - the last event is `Done` or `Failed`. A channel that closes without either means that the store threads
//!   stopped, or that the receiver kept the channel full for longer than
//!   [`StoreConfig::event_wait_max`](super::config::StoreConfig::event_wait_max); what was not reported filled counts as
//!   not filled;
//! - once the channel is closed no write into a target is under way any more, so its slot may be used again.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_channel::Sender;
use bytes::Bytes;

use super::objects::{ListedObject, StoreError};

/// Most bytes of one fetch: larger runs are cut by the shard, so that one of them cannot hold a thread's fetch
/// and its fill buffers for long.
pub const FETCH_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Most bytes of one fill.
pub const FILL_BYTES_MAX: u64 = 1024 * 1024;

/// Judges the ciphertext of a whole extent before it is written to the cache: its CRC-32C if it is acceptable.
/// Runs on the store thread; takes microseconds; knows no key.
pub type VerifyExtent = fn(&[u8]) -> Option<u32>;

/// What a fetch is for: decides which queue it waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for it.
    Demand,
    /// Read-ahead: starts when no demand waits, and on a part of the places only.
    Ahead,
}

/// Where the bytes of an extent go on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FillTarget {
    /// The cache file. It exists and is preallocated; it is opened once per store thread.
    pub file: Arc<Path>,
    /// Byte position in the file, a multiple of the device's alignment.
    pub at: u64,
}

/// One extent of a fetch that the cache wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// Its bytes in the object, inside the range of the request. At most [`FILL_BYTES_MAX`]; written padded with
    /// zeros up to a multiple of 4 KiB.
    pub extent: Range<u64>,
    /// Where they go.
    pub target: FillTarget,
}

/// A ranged read of one object: an extent, or a run of consecutive extents.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// The object.
    pub path: Arc<str>,
    /// Which of its bytes: not empty, at most [`FETCH_BYTES_MAX`].
    pub range: Range<u64>,
    /// The extents that go to the cache, in ascending order, without overlap.
    pub fills: Vec<Fill>,
    /// Judges each of `fills` before it is written.
    pub verify: VerifyExtent,
    /// Where events go: a bounded channel of at least a few chunks (16 is plenty).
    pub events: Sender<FetchEvent>,
    /// Which queue.
    pub priority: Priority,
}

impl FetchRequest {
    /// Asserts what the fields promise.
    pub(super) fn assert_sound(&self) {
        assert!(self.range.start < self.range.end, "a fetch is never empty");
        assert!(
            self.range.end - self.range.start <= FETCH_BYTES_MAX,
            "a fetch has at most FETCH_BYTES_MAX bytes"
        );
        let mut end = self.range.start;
        for fill in &self.fills {
            assert!(
                fill.extent.start >= end && fill.extent.start < fill.extent.end,
                "fills ascend, do not overlap and are not empty"
            );
            assert!(
                fill.extent.end - fill.extent.start <= FILL_BYTES_MAX,
                "a fill has at most FILL_BYTES_MAX bytes"
            );
            end = fill.extent.end;
        }
        assert!(end <= self.range.end, "fills lie inside the fetch");
    }
}

/// Why an extent did not get into the cache. The chunks were delivered all the same.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// All fill buffers are in use: the disk is slower than the store.
    #[error("no fill buffer free")]
    NoBuffer,
    /// The extent's checksum does not match its bytes.
    #[error("the extent at byte {at} of the object fails its checksum")]
    BadExtent {
        /// Where the extent starts in the object.
        at: u64,
    },
    /// The disk refused.
    #[error("cache file: {0}")]
    Disk(#[from] crate::io::disk::DiskError),
}

/// What happens to a fetch, in order. `Debug` shows no bytes of the object.
pub enum FetchEvent {
    /// The next bytes of the range.
    Chunk {
        /// Their position in the object.
        at: u64,
        /// Never empty.
        bytes: Bytes,
    },
    /// The extent is in its slot, byte for byte (not necessarily durable).
    Filled {
        /// Index in [`FetchRequest::fills`].
        fill: usize,
        /// What `verify` said.
        crc32c: u32,
    },
    /// The extent is not in its slot; the slot's content is undefined.
    FillFailed {
        /// Index in [`FetchRequest::fills`].
        fill: usize,
        /// Why.
        error: FillError,
    },
    /// The store did not deliver the rest, after all retries. The last event.
    Failed(StoreError),
    /// All chunks were delivered and all fills reported. The last event.
    Done,
}

impl std::fmt::Debug for FetchEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FetchEvent::Chunk { at, bytes } => write!(f, "Chunk({} bytes at {at})", bytes.len()),
            FetchEvent::Filled { fill, crc32c } => write!(f, "Filled({fill}, {crc32c:08x})"),
            FetchEvent::FillFailed { fill, error } => write!(f, "FillFailed({fill}, {error})"),
            FetchEvent::Failed(error) => write!(f, "Failed({error})"),
            FetchEvent::Done => f.write_str("Done"),
        }
    }
}

/// One entry of the queues between clients and store threads.
pub(super) enum Job {
    Fetch(FetchRequest),
    GetAll {
        path: String,
        reply: Sender<Result<Bytes, StoreError>>,
    },
    Put {
        path: String,
        body: Bytes,
        reply: Sender<Result<(), StoreError>>,
    },
    List {
        prefix: String,
        after: Option<String>,
        reply: Sender<Result<Vec<ListedObject>, StoreError>>,
    },
    ListFirst {
        prefix: String,
        after: Option<String>,
        count_max: usize,
        reply: Sender<Result<Vec<ListedObject>, StoreError>>,
    },
    Delete {
        path: String,
        reply: Sender<Result<(), StoreError>>,
    },
}
