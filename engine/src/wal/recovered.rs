//! What a start found: ranges of WAL, and their bytes piece by piece.

use std::collections::VecDeque;

use super::error::{Evidence, WalError};
use super::recovery::{FoundSegment, broken};
use super::segment_cursor::{SegmentCursor, Step};
use crate::crypto::sealed_record::RecordProblem;
use crate::io::disk::Disk;
use crate::types::Lsn;

/// WAL without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalRange {
    /// Of all of it.
    pub timeline: u32,
    /// Of the first byte.
    pub start: Lsn,
    /// Behind the last byte.
    pub end: Lsn,
}

/// What [`LocalWal::open`](super::LocalWal::open) found. All of it is durable; all that was ever acknowledged and not
/// trimmed is in it.
#[derive(Debug)]
pub struct Recovered<D> {
    disk: D,
    segments: Vec<FoundSegment>,
}

impl<D: Disk> Recovered<D> {
    pub(super) fn new(disk: D, segments: Vec<FoundSegment>) -> Recovered<D> {
        Recovered { disk, segments }
    }

    /// The ranges, in the order in which they were written, none of them empty. The last one ends where the log does, unless
    /// nothing followed a restart.
    pub fn ranges(&self) -> Vec<WalRange> {
        let mut ranges: Vec<WalRange> = Vec::new();
        for found in self.segments.iter().filter(|f| f.segment.start < f.end) {
            let (timeline, start) = (found.segment.place.timeline, found.segment.start);
            match ranges.last_mut() {
                Some(last) if (last.timeline, last.end) == (timeline, start) => {
                    last.end = found.end;
                }
                _ => ranges.push(WalRange {
                    timeline,
                    start,
                    end: found.end,
                }),
            }
        }
        ranges
    }

    /// Reads the ranges back, without what is below `from`. Segments but the last one were not read by the start: what is
    /// damaged in them is found here. To be read before anything is trimmed.
    pub fn reader(&self, from: Lsn) -> WalReader<D> {
        let needed = self.segments.iter().filter(|f| from < f.end);
        WalReader {
            disk: self.disk.clone(),
            from,
            segments: needed.cloned().collect(),
            current: None,
        }
    }
}

/// Gives back recovered WAL, in order. Holds a window of 1 MiB.
pub struct WalReader<D: Disk> {
    disk: D,
    from: Lsn,
    segments: VecDeque<FoundSegment>,
    /// The segment that is read, and its end.
    current: Option<(SegmentCursor<D::File>, Lsn)>,
}

/// A piece of WAL: at most what a frame holds, below 256 KiB.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WalChunk<'a> {
    /// Of the piece.
    pub timeline: u32,
    /// Of its first byte: the end of the piece before, or the start of a range.
    pub start: Lsn,
    /// At least one.
    pub bytes: &'a [u8],
}

impl std::fmt::Debug for WalChunk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (timeline, start, bytes) = (self.timeline, self.start, self.bytes.len());
        write!(f, "WalChunk({timeline}, {start}, {bytes} bytes)")
    }
}

impl<D: Disk> WalReader<D> {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// `Frame`: damage; nothing behind it is given back. `Disk`: asking again is safe.
    ///
    /// # Cancellation
    /// Safe: the next call gives the same piece.
    pub async fn next(&mut self) -> Result<Option<WalChunk<'_>>, WalError> {
        let start = loop {
            let Some((cursor, end)) = &mut self.current else {
                let Some(found) = self.segments.front() else {
                    return Ok(None);
                };
                let file = self.disk.open(&found.segment.path, None).await;
                let file = file.map_err(|source| found.segment.disk_error(source))?;
                let opener = std::rc::Rc::clone(&found.opener);
                let cursor = SegmentCursor::new(found.segment.clone(), file, opener);
                self.current = Some((cursor, found.end));
                self.segments.pop_front();
                continue;
            };
            if cursor.lsn() == *end {
                self.current = None;
                continue;
            }
            let problem = match cursor.next().await? {
                // What its successor says ends with a frame.
                Step::Frame { .. } if cursor.lsn() > *end => RecordProblem::Misplaced,
                Step::Frame { start } if cursor.lsn() > self.from => break start,
                Step::Frame { .. } => continue,
                Step::End => RecordProblem::Damaged("the segment ends"),
                Step::Broken { problem, .. } => problem,
            };
            return Err(broken(cursor, problem, Evidence::GoesOn(*end)));
        };
        let (cursor, _) = self.current.as_ref().expect("a frame was just read");
        let below = self.from.bytes_since(start).unwrap_or(0);
        let below = usize::try_from(below).expect("within a frame");
        Ok(Some(WalChunk {
            timeline: cursor.segment().place.timeline,
            start: Lsn(start.0 + below as u64),
            bytes: &cursor.payload()[below..],
        }))
    }
}
