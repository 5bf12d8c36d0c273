//! What can go wrong with the local WAL. Every variant names its place, none says what is in it.

use std::path::PathBuf;

use super::deks::DekError;
use crate::crypto::page_seal::DekId;
use crate::crypto::sealed_record::RecordProblem;
use crate::io::disk::DiskError;
use crate::types::Lsn;

/// Why the local WAL did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Settings out of their ranges: all of them.
    #[error("settings of the local WAL: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The disk refused. What was acknowledged stays; asking again is safe.
    #[error("{}: {source}", .path.display())]
    Disk {
        /// File or directory.
        path: PathBuf,
        /// What the disk said.
        source: DiskError,
    },
    /// No key for a segment that is there: its table, or who unwraps it, is away. Asking again is safe.
    #[error("{}: data key {}-{}: {source}", .path.display(), .id.table, .id.slot)]
    Key {
        /// The segment.
        path: PathBuf,
        /// The key.
        id: DekId,
        /// What the source of keys said.
        source: DekError,
    },
    /// No key for a new segment. Asking again is safe.
    #[error("{}: new data key: {source}", .path.display())]
    NewKey {
        /// The segment that was to be made.
        path: PathBuf,
        /// What the source of keys said.
        source: DekError,
    },
    /// A segment's file is not what it should be.
    #[error("{}: {problem}", .path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: RecordProblem,
    },
    /// A frame does not open, and it is not the end of the log: damage to what may have been acknowledged.
    #[error("{}: frame at byte {at}, LSN {lsn}: {problem}; {evidence}", .path.display())]
    Frame {
        /// The segment's file.
        path: PathBuf,
        /// Position of the frame in it.
        at: u64,
        /// The LSN that should begin there.
        lsn: Lsn,
        /// Why it does not open.
        problem: RecordProblem,
        /// Why it is not the end of the log.
        evidence: Evidence,
    },
    /// A segment that another one goes on from is not there.
    #[error("{}: the segment before {} is missing", .path.display(), .successor.display())]
    Missing {
        /// The file that is missing.
        path: PathBuf,
        /// The segment that names it.
        successor: PathBuf,
    },
    /// A writer of a later epoch was here: this one has lost its branch.
    #[error("{}: written in a later epoch than {epoch}", .path.display())]
    EpochBehind {
        /// The later segment.
        path: PathBuf,
        /// The epoch that was to write.
        epoch: u32,
    },
    /// The device wants larger blocks than the format has.
    #[error("{}: aligned to {alignment_bytes} bytes, which segments cannot be", .path.display())]
    Alignment {
        /// The file.
        path: PathBuf,
        /// What its device wants.
        alignment_bytes: usize,
    },
    /// The bytes do not begin where the log ends, or are of another timeline. Nothing was taken.
    #[error(
        "WAL at {start} of timeline {timeline} does not go on where the log ends, at {end} of timeline {end_timeline}"
    )]
    NotContiguous {
        /// Of the bytes.
        timeline: u32,
        /// Where they begin.
        start: Lsn,
        /// Of the log; zero if it was never begun.
        end_timeline: u32,
        /// Where the next byte has to begin; invalid if it was never begun.
        end: Lsn,
    },
    /// More bytes at once than the buffer ever holds. Nothing was taken.
    #[error("{bytes} bytes at once, at most {bytes_max} can wait for a commit")]
    TooLarge {
        /// Bytes of the append.
        bytes: usize,
        /// Bytes of the buffer.
        bytes_max: usize,
    },
    /// A commit after one that failed needs a new segment, and there is no room for it before something is trimmed. The
    /// bytes wait on.
    #[error("{}: no room for another segment of {segment_bytes} bytes within {bytes_max}", .dir.display())]
    Full {
        /// The directory.
        dir: PathBuf,
        /// Bytes of a segment.
        segment_bytes: u64,
        /// Bytes of all of them.
        bytes_max: u64,
    },
}

/// What shows that a frame which does not open is not a write that was cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// The next segment goes on at this LSN, behind it.
    GoesOn(Lsn),
    /// The frame at byte `at` says that everything below `durable` was durable before it.
    DurableBehind {
        /// Position of that frame in the same file.
        at: u64,
        /// What it says.
        durable: Lsn,
    },
    /// It was written whole.
    Whole,
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Evidence::GoesOn(lsn) => write!(f, "the log goes on to {lsn}"),
            Evidence::DurableBehind { at, durable } => {
                write!(f, "the frame at byte {at} says that {durable} was durable")
            }
            Evidence::Whole => f.write_str("no write that was cut off leaves such bytes"),
        }
    }
}
