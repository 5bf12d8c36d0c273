//! The log itself: takes WAL, makes it durable, and forgets what the object store has.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::config::WalConfig;
use super::deks::WalDeks;
use super::error::WalError;
use super::recovered::Recovered;
use super::recovery::recover;
use super::segment::Segment;
use super::segment_header::{BLOCK_BYTES_LEAST, SegmentStart};
use super::segment_id::SegmentId;
use super::segment_writer::{NewSegment, SegmentWriter, group_payload_max};
use crate::io::disk::{Disk, DiskError};
use crate::types::{BranchId, Lsn, TenantId};

/// The local WAL of one branch; the only writer of its directory. Belongs to one thread.
pub struct LocalWal<D: Disk, K> {
    disk: D,
    deks: K,
    dir: PathBuf,
    owner: (TenantId, BranchId),
    epoch: u32,
    config: WalConfig,
    next_sequence: u64,
    /// Segments that get no more, oldest first.
    finished: VecDeque<Finished>,
    writer: Option<SegmentWriter<D::File>>,
    /// A segment that was begun and that nobody knows to be made.
    unmade: Option<SegmentId>,
    /// The newest of the finished segments, trimmed or not, and where it ended.
    predecessor: Option<(SegmentId, Lsn)>,
    /// Of the log's end.
    timeline: u32,
    /// The end of what is durable.
    durable: Lsn,
    /// Whether the next segment goes on from the predecessor.
    goes_on: bool,
    /// What was appended and is not durable.
    buffer: Vec<u8>,
}

struct Finished {
    segment: Segment,
    end: Lsn,
}

/// What became of an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appended {
    /// It waits for a commit.
    Buffered,
    /// Nothing was taken: the buffer has no room for it before a commit.
    BufferFull,
    /// Nothing was taken: the disk's share has no room for it before something is trimmed. What is buffered can be committed.
    Full,
}

/// How full the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalUsage {
    /// Bytes of finished segments, and those written of the current one.
    pub bytes_used: u64,
    /// What all segments together may take.
    pub bytes_max: u64,
    /// WAL that still fits, if it is committed in large groups: what is left until [`Appended::Full`]. A small group
    /// takes a block, at least 4 KiB.
    pub bytes_free: u64,
}

impl<D: Disk, K: WalDeks> LocalWal<D, K> {
    /// Opens the WAL of the branch in `dir`, which exists, durably, and is nobody else's, for a writer that has claimed
    /// `epoch`. Reads the header of each segment and all of the last one.
    ///
    /// The log goes on where what was found ends. If nothing was found, [`LocalWal::restart_at`] begins it.
    ///
    /// # Errors
    /// `Frame`, `Segment`, `Missing`: damage, which the caller heals from the object store, or refuses by this name.
    /// `EpochBehind`: the branch has another writer. `Disk`, `Key`: trying again is safe, in the same epoch as well.
    pub async fn open(
        disk: D,
        dir: &Path,
        owner: (TenantId, BranchId),
        epoch: u32,
        deks: K,
        config: WalConfig,
    ) -> Result<(LocalWal<D, K>, Recovered<D>), WalError> {
        let problems = config.validate();
        if !problems.is_empty() {
            return Err(WalError::Config(problems));
        }
        let found = recover(&disk, dir, owner, epoch, &deks).await?;
        let last = found.segments.last();
        let last_end = last.map_or(Lsn::INVALID, |found| found.end);
        let finished = found.segments.iter().map(|found| Finished {
            segment: found.segment.clone(),
            end: found.end,
        });
        let wal = LocalWal {
            deks,
            dir: dir.to_owned(),
            owner,
            epoch,
            config,
            next_sequence: found.next_sequence,
            finished: finished.collect(),
            writer: None,
            unmade: None,
            predecessor: last.map(|found| (found.segment.place.id, found.end)),
            timeline: last.map_or(0, |found| found.segment.place.timeline),
            durable: last_end,
            goes_on: last.is_some(),
            buffer: Vec::new(),
            disk: disk.clone(),
        };
        Ok((wal, Recovered::new(disk, found.segments)))
    }

    /// The end of what is durable, and may be acknowledged; after a restart, where that begins; [`Lsn::INVALID`] before the log is
    /// begun.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable
    }

    /// Where the next append has to begin, and on which timeline.
    pub fn end(&self) -> (u32, Lsn) {
        let end = Lsn(self.durable.0 + self.buffer.len() as u64);
        (self.timeline, end)
    }

    /// Bytes that wait for a commit.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Begins anew at `lsn`: at first, and where WAL does not go on from what came before, such as on another timeline.
    /// Nothing is written before the next commit.
    ///
    /// # Panics
    /// If bytes wait for a commit.
    pub fn restart_at(&mut self, timeline: u32, lsn: Lsn) {
        assert!(
            self.buffer.is_empty(),
            "what was appended is committed first"
        );
        if (self.timeline, self.durable) == (timeline, lsn) {
            return;
        }
        self.finish_segment();
        self.timeline = timeline;
        self.durable = lsn;
        self.goes_on = false;
    }

    /// Takes `bytes`, which begin at `start`, into the buffer: all of them or none.
    ///
    /// # Errors
    /// `NotContiguous`, `TooLarge`: nothing was taken, the log goes on.
    pub fn append(
        &mut self,
        timeline: u32,
        start: Lsn,
        bytes: &[u8],
    ) -> Result<Appended, WalError> {
        let (end_timeline, end) = self.end();
        if (timeline, start) != (end_timeline, end) || !end.is_valid() {
            return Err(WalError::NotContiguous {
                timeline,
                start,
                end_timeline,
                end,
            });
        }
        let bytes_max = self.config.buffer_bytes_max;
        let in_range = end.0.checked_add(bytes.len() as u64).is_some();
        if bytes.len() > bytes_max || !in_range {
            let bytes = bytes.len();
            return Err(WalError::TooLarge { bytes, bytes_max });
        }
        let buffered = self.buffer.len() + bytes.len();
        if buffered > bytes_max {
            return Ok(Appended::BufferFull);
        }
        if buffered as u64 > self.room_bytes() {
            return Ok(Appended::Full);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(Appended::Buffered)
    }

    /// Makes all that was appended durable: one write and one sync, or more where a segment ends. Returns the end of what is
    /// durable, which may be acknowledged.
    ///
    /// # Errors, cancellation
    /// What is not durable stays in the buffer, and is written anew, to a new segment, by the next commit. `Full`: there
    /// is no room for that segment.
    pub async fn commit(&mut self) -> Result<Lsn, WalError> {
        while !self.buffer.is_empty() {
            if !self.writer.as_ref().is_some_and(SegmentWriter::takes_more) {
                self.finish_segment();
                self.make_segment().await?;
            }
            let writer = self.writer.as_mut().expect("just made, or it takes more");
            let written = writer.write_group(&self.buffer).await?;
            self.durable = writer.end();
            self.buffer.drain(..written);
        }
        Ok(self.durable)
    }

    /// Removes segments of which all is below `below`: what the object store has. The one that is written stays.
    ///
    /// # Errors, cancellation
    /// The rest stays for the next call.
    pub async fn trim(&mut self, below: Lsn) -> Result<(), WalError> {
        while let Some(oldest) = self.finished.front().filter(|f| f.end <= below) {
            let removed = self.disk.remove(&oldest.segment.path).await;
            removed.map_err(|source| oldest.segment.disk_error(source))?;
            // Or else a power loss could bring back this one without the next, which looks like damage.
            let synced = self.disk.sync_dir(&self.dir).await;
            synced.map_err(|source| self.dir_error(source))?;
            self.finished.pop_front();
        }
        Ok(())
    }

    /// How full the log is.
    pub fn usage(&self) -> WalUsage {
        let current = self.writer.as_ref().map_or(0, SegmentWriter::used_bytes);
        WalUsage {
            bytes_used: self.finished_bytes() + current,
            bytes_max: self.config.bytes_max,
            bytes_free: self.room_bytes().saturating_sub(self.buffer.len() as u64),
        }
    }

    fn finished_bytes(&self) -> u64 {
        self.finished.iter().map(|f| f.segment.segment_bytes).sum()
    }

    /// Bytes of all files.
    fn allotted_bytes(&self) -> u64 {
        let current = self.writer.as_ref();
        self.finished_bytes() + current.map_or(0, |writer| writer.segment().segment_bytes)
    }

    /// The longest WAL that a commit could make durable now.
    fn room_bytes(&self) -> u64 {
        let here = self.writer.as_ref().map_or(0, SegmentWriter::room_bytes);
        let left = self.config.bytes_max.saturating_sub(self.allotted_bytes());
        let segments = left / self.config.segment_bytes;
        let block_bytes = self
            .writer
            .as_ref()
            .map_or(BLOCK_BYTES_LEAST, |writer| writer.segment().block_bytes);
        let frames_bytes = self.config.segment_bytes - block_bytes as u64;
        let each = group_payload_max(frames_bytes, self.config.frame_bytes_max, block_bytes);
        here + segments * each
    }

    /// The current segment gets no more.
    fn finish_segment(&mut self) {
        if let Some(writer) = self.writer.take() {
            let (segment, end) = (writer.segment().clone(), writer.end());
            self.predecessor = Some((segment.place.id, end));
            self.goes_on = true;
            self.finished.push_back(Finished { segment, end });
        }
    }

    /// Makes the segment that the next group goes to.
    async fn make_segment(&mut self) -> Result<(), WalError> {
        self.remove_unmade().await;
        let (segment_bytes, bytes_max) = (self.config.segment_bytes, self.config.bytes_max);
        if self.allotted_bytes() + segment_bytes > bytes_max {
            return Err(WalError::Full {
                dir: self.dir.clone(),
                segment_bytes,
                bytes_max,
            });
        }
        let id = SegmentId {
            epoch: self.epoch,
            sequence: self.next_sequence,
        };
        let drawn = self.deks.next_dek().await;
        let (dek_id, dek) = drawn.map_err(|source| WalError::NewKey {
            path: id.path(&self.dir),
            source,
        })?;
        self.next_sequence += 1;
        self.unmade = Some(id);
        let new = NewSegment {
            owner: self.owner,
            id,
            segment_bytes,
            frame_bytes_max: self.config.frame_bytes_max,
            dek: (dek_id, &dek),
            start: SegmentStart {
                timeline: self.timeline,
                start: self.durable,
                predecessor: self.predecessor,
                goes_on: self.goes_on,
            },
        };
        let made = SegmentWriter::make(&self.disk, &self.dir, new).await?;
        self.unmade = None;
        self.writer = Some(made);
        Ok(())
    }

    /// Removes what a segment that could not be made left, so that attempts do not fill the disk. What can't be removed now
    /// is left to the next start.
    async fn remove_unmade(&mut self) {
        let Some(id) = self.unmade else {
            return;
        };
        for path in [id.unfinished_path(&self.dir), id.path(&self.dir)] {
            if let Err(error) = self.disk.remove(&path).await {
                warn!(%error, path = %path.display(), "a segment that was never used stays");
            }
        }
        self.unmade = None;
    }

    fn dir_error(&self, source: DiskError) -> WalError {
        WalError::Disk {
            path: self.dir.clone(),
            source,
        }
    }
}
