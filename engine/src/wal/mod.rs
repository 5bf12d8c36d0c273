//! The local WAL of a branch: what was received and is not yet in the object store, sealed, on the local disk. It does not
//! know what WAL looks like, nor the store, nor the layers.
//!
//! - [`LocalWal`]: appends, commits, trims; the one writer of a directory;
//! - [`Recovered`]: what a start found there, and [`WalReader`], which gives it back piece by piece;
//! - [`WalDeks`]: where data keys come from;
//! - `segment_header`, `frame`: the two parts of the format, `segment_id`: names of files.
//!
//! # Rules
//!
//! 1. A frame is written once, at its place, and never again, its padding included. A segment is a fresh file: space is not
//!    used twice, so what was never written reads as zeros, and a write that was cut off is told from damage.
//! 2. A group commit begins at an aligned block. It is written (one write), made durable (one sync), and then its end is the
//!    durable LSN; the next one is written only after that. Where a segment ends within a group, it is two of them.
//! 3. A frame carries the durable LSN from before its group: where its group begins.
//! 4. A segment is made under another name; its header is durable before it gets its own, and that name before the first
//!    frame. It names its predecessor and where that ended. Every start begins a segment of its own, with a DEK of its own,
//!    and so does every change of timeline, and every commit after one that failed.
//! 5. Segments are removed oldest first, each removal durable before the next.
//!
//! # Recovery
//!
//! A segment that has a successor ends where the successor says; every frame up to there has to open. In the last
//! segment frames are opened one after the other until one does not. There the log ends, if these three hold:
//!
//! - no frame further on in the file opens and says that something behind this place was durable;
//! - the frame looks like a write that was cut off: a sector of it reads as zeros. (Sectors of 512 bytes are written
//!   whole or not at all; ciphertext has no sector of zeros.)
//! - the file has the length that it was made with.
//!
//! Otherwise it is damage, and an error names file and byte. So a flipped bit is damage also in the last group. What can't
//! be seen from the files alone: a last segment that somebody removed, and a disk that acknowledged a sync and lost the write.
//!
//! Frames of one group go out in one write, so some of them may open though an earlier one does not: they belong to a
//! group that was never acknowledged, and are left out. What opens in front is kept, acknowledged or not: the last segment is
//! synced before it is read, so all that a start finds is durable.
//!
//! Memory: the buffer (`buffer_bytes_max`), as much again while a commit seals it, a window of 1 MiB while something is
//! read, and about a kilobyte for each segment found by a start.

mod config;
mod deks;
mod error;
mod fields;
mod frame;
mod local_wal;
mod recovered;
mod recovery;
mod segment;
mod segment_cursor;
mod segment_header;
mod segment_id;
mod segment_writer;

pub use config::WalConfig;
pub use deks::{DekError, WalDeks};
pub use error::{Evidence, WalError};
pub use local_wal::{Appended, LocalWal, WalUsage};
pub use recovered::{Recovered, WalChunk, WalRange, WalReader};
#[doc(hidden)]
pub use segment_header::fuzz_segment;

#[cfg(test)]
mod tests;
