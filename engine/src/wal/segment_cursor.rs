//! Reads the frames of one segment, one after the other.
//!
//! What does not open is read again before it is believed: a disk may err once. What a frame is judged by is the majority.

use std::rc::Rc;

use super::error::WalError;
use super::frame::{FRAME_BYTES_MAX, FoundFrame, FrameHeader, was_cut_off};
use super::segment::Segment;
use crate::crypto::page_seal::Opener;
use crate::crypto::sealed_record::RecordProblem;
use crate::io::disk::DiskFile;
use crate::types::Lsn;

/// Where the next frame is expected, and what was read around it.
pub(super) struct SegmentCursor<F: DiskFile> {
    segment: Segment,
    file: Rc<F>,
    opener: Rc<Opener>,
    at: u64,
    ordinal: u64,
    /// Where the next frame's WAL begins.
    lsn: Lsn,
    /// Where the group of the frame before began.
    durable: Lsn,
    window: Option<Window<F::ReadBuffer>>,
    payload: Vec<u8>,
}

struct Window<B> {
    at: u64,
    bytes: B,
}

/// What is at the cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The next frame; its WAL is in [`SegmentCursor::payload`]. The cursor is behind it.
    Frame {
        /// Of its first byte.
        start: Lsn,
    },
    /// The end of the file.
    End,
    /// No frame that belongs there.
    Broken {
        /// What is wrong.
        problem: RecordProblem,
        /// Whether a write that was cut off could have left it so.
        cut_off: bool,
    },
}

impl<F: DiskFile> SegmentCursor<F> {
    /// A cursor before the first frame of `segment`.
    pub(super) fn new(segment: Segment, file: Rc<F>, opener: Rc<Opener>) -> SegmentCursor<F> {
        SegmentCursor {
            at: segment.block_bytes as u64,
            ordinal: 0,
            lsn: segment.start,
            durable: segment.start,
            segment,
            file,
            opener,
            window: None,
            payload: Vec::new(),
        }
    }

    /// Position in the file.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Where the next frame's WAL begins: the end of what was opened.
    pub(super) fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The segment it reads.
    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The WAL of the frame that was opened last.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Opens the next frame and goes behind it, if it is there.
    pub(super) async fn next(&mut self) -> Result<Step, WalError> {
        if self.at >= self.segment.segment_bytes {
            return Ok(Step::End);
        }
        let mut times_cut_off = 0;
        let mut last_problem = None;
        for _ in 0..READS {
            match self.open_at(self.at).await? {
                Ok(header) if self.is_next(&header) => {
                    self.at += header.frame_bytes(self.segment.block_bytes) as u64;
                    self.ordinal += 1;
                    self.lsn = header.end();
                    self.durable = header.durable;
                    return Ok(Step::Frame {
                        start: header.start,
                    });
                }
                // Written to the wrong place, or read from one.
                Ok(_) => last_problem = Some(RecordProblem::Misplaced),
                Err(problem) => last_problem = Some(problem),
            }
            times_cut_off += u32::from(self.was_cut_off().await?);
            self.window = None;
        }
        Ok(Step::Broken {
            problem: last_problem.expect("it was read at least once"),
            cut_off: times_cut_off * 2 > READS,
        })
    }

    /// The first frame at or behind the cursor that opens and says that more was durable than was opened: its position, and
    /// what it says.
    pub(super) async fn durable_behind(&mut self) -> Result<Option<(u64, Lsn)>, WalError> {
        let mut at = self.at;
        while at < self.segment.segment_bytes {
            if let Ok(header) = self.open_at(at).await?
                && header.durable > self.lsn
            {
                return Ok(Some((at, header.durable)));
            }
            at += self.segment.block_bytes as u64;
        }
        Ok(None)
    }

    /// Whether a frame goes on where the one before ended: in the same group, or in one that begins here.
    fn is_next(&self, header: &FrameHeader) -> bool {
        header.ordinal == self.ordinal
            && header.start == self.lsn
            && (header.durable == self.durable || header.durable == self.lsn)
    }

    /// Opens the frame at `at`, whatever its number.
    async fn open_at(&mut self, at: u64) -> Result<Result<FrameHeader, RecordProblem>, WalError> {
        let block_bytes = self.segment.block_bytes;
        self.load(at, block_bytes).await?;
        let found = match FoundFrame::parse(self.held(at, block_bytes)) {
            Ok(found) => found,
            Err(problem) => return Ok(Err(problem)),
        };
        let frame_bytes = found.header.frame_bytes(block_bytes);
        if frame_bytes as u64 > self.segment.segment_bytes - at {
            return Ok(Err(RecordProblem::Damaged("longer than its segment")));
        }
        self.load(at, frame_bytes).await?;
        let window = self.window.as_ref().expect("just loaded");
        let frame = &window.bytes[offset(window.at, at)..][..frame_bytes];
        let opened = found.open(&self.segment.place, &self.opener, frame, &mut self.payload);
        Ok(opened.map(|()| found.header))
    }

    async fn was_cut_off(&mut self) -> Result<bool, WalError> {
        let left = self.segment.segment_bytes - self.at;
        let len = usize::try_from(left).map_or(FRAME_BYTES_MAX, |left| left.min(FRAME_BYTES_MAX));
        self.load(self.at, len).await?;
        Ok(was_cut_off(
            self.held(self.at, len),
            self.segment.block_bytes,
        ))
    }

    /// Sees to it that `len` bytes at `at` are in the window; they are within the segment.
    async fn load(&mut self, at: u64, len: usize) -> Result<(), WalError> {
        if let Some(window) = &self.window
            && window.at <= at
            && offset(window.at, at) + len <= window.bytes.len()
        {
            return Ok(());
        }
        let left = self.segment.segment_bytes - at;
        let want = usize::try_from(left).map_or(WINDOW_BYTES, |left| left.min(WINDOW_BYTES));
        // Before the next one is read the last one is given back.
        self.window = None;
        let read = self.file.read_at(at, want).await;
        let bytes = read.map_err(|source| self.segment.disk_error(source))?;
        self.window = Some(Window { at, bytes });
        Ok(())
    }

    /// What [`SegmentCursor::load`] brought.
    fn held(&self, at: u64, len: usize) -> &[u8] {
        let window = self.window.as_ref().expect("loaded before");
        &window.bytes[offset(window.at, at)..][..len]
    }
}

fn offset(from: u64, to: u64) -> usize {
    usize::try_from(to - from).expect("a window is far smaller than the address space")
}

/// Bytes that are read at once; a window holds the longest frame.
const WINDOW_BYTES: usize = 1 << 20;
const _: () = assert!(WINDOW_BYTES >= FRAME_BYTES_MAX);

/// How often what makes no sense is read.
pub(super) const READS: u32 = 3;
