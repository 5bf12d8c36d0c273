//! What a start finds in the directory of a branch's WAL: which segments there are, that none is missing between them, and
//! where the log ends.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tracing::{info, warn};

use super::deks::WalDeks;
use super::error::{Evidence, WalError};
use super::segment::{Segment, block_bytes};
use super::segment_cursor::{READS, SegmentCursor, Step};
use super::segment_header::{SealedBody, SegmentHeader, SegmentStart};
use super::segment_id::{SegmentId, SegmentName};
use crate::crypto::page_seal::Opener;
use crate::crypto::sealed_record::RecordProblem;
use crate::io::disk::{Disk, DiskError, DiskFile};
use crate::types::{BranchId, Lsn, TenantId};

/// A segment that an earlier start left, whole up to its end.
#[derive(Clone, Debug)]
pub(super) struct FoundSegment {
    pub(super) segment: Segment,
    pub(super) opener: Rc<Opener>,
    /// The end of its WAL.
    pub(super) end: Lsn,
}

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Segments, oldest first.
    pub(super) segments: Vec<FoundSegment>,
    /// A sequence that no file has.
    pub(super) next_sequence: u64,
}

/// A segment whose header was opened and whose end is not known. Its file is closed again: there may be thousands.
struct Opened {
    segment: Segment,
    opener: Rc<Opener>,
    start: SegmentStart,
}

/// Looks at all segments in `dir`, and reads the last one. Files that were never used are removed.
pub(super) async fn recover<D: Disk, K: WalDeks>(
    disk: &D,
    dir: &Path,
    owner: (TenantId, BranchId),
    epoch: u32,
    deks: &K,
) -> Result<Found, WalError> {
    let names = disk.list(dir).await;
    let names = names.map_err(|source| disk_error(dir, source))?;
    let mut found = Found::default();
    let parsed = |text: &String| SegmentName::parse(text).map(|name| (dir.join(text), name));
    let files: Vec<(PathBuf, SegmentName)> = names.iter().filter_map(parsed).collect();
    if let Some((path, _)) = files.iter().find(|(_, name)| name.id().epoch > epoch) {
        let path = path.clone();
        return Err(WalError::EpochBehind { path, epoch });
    }
    let mut ids = Vec::new();
    for (path, name) in files {
        found.next_sequence = found.next_sequence.max(name.id().sequence + 1);
        match name {
            SegmentName::Made(id) => ids.push(id),
            SegmentName::Unfinished(_) => remove(disk, &path).await?,
        }
    }
    ids.sort_unstable();
    let mut opened = Vec::new();
    for id in ids {
        opened.push(open(disk, id.path(dir), owner, id, deks).await?);
    }
    let mut opened = chain(disk, dir, opened).await?;
    let Some(last) = opened.pop() else {
        return Ok(found);
    };
    let mut starts: Vec<SegmentStart> = opened.iter().map(|o| o.start).collect();
    starts.push(last.start);
    for (one, next) in opened.into_iter().zip(&starts[1..]) {
        let (_, end) = next.predecessor.expect("the chain goes through it");
        found.segments.push(one.found(end));
    }
    let end = find_end(disk, &last).await?;
    found.segments.push(last.found(end));
    Ok(found)
}

impl Opened {
    fn found(self, end: Lsn) -> FoundSegment {
        FoundSegment {
            segment: self.segment,
            opener: self.opener,
            end,
        }
    }
}

/// The segments that go on from one another up to the last one, oldest first. What lies between two of them was made and
/// never used, since the writer went on from the one before it: such files are removed.
async fn chain<D: Disk>(
    disk: &D,
    dir: &Path,
    mut opened: Vec<Opened>,
) -> Result<Vec<Opened>, WalError> {
    let mut chain: Vec<Opened> = Vec::new();
    while let Some(one) = opened.pop() {
        let Some(next) = chain.last() else {
            chain.push(one);
            continue;
        };
        let next_path = &next.segment.path;
        // Those that are left are older than `next`.
        let Some((before, end)) = next.start.predecessor else {
            return Err(problem(next_path, RecordProblem::Misplaced));
        };
        match before.cmp(&one.segment.place.id) {
            Ordering::Less => remove(disk, &one.segment.path).await?,
            Ordering::Equal => {
                let same_timeline = one.start.timeline == next.start.timeline;
                if end < one.start.start || next.start.goes_on && !same_timeline {
                    return Err(problem(next_path, RecordProblem::Misplaced));
                }
                chain.push(one);
            }
            Ordering::Greater => {
                return Err(WalError::Missing {
                    path: before.path(dir),
                    successor: next_path.clone(),
                });
            }
        }
    }
    chain.reverse();
    Ok(chain)
}

/// Opens the header of a segment.
async fn open<D: Disk, K: WalDeks>(
    disk: &D,
    path: PathBuf,
    owner: (TenantId, BranchId),
    id: SegmentId,
    deks: &K,
) -> Result<Opened, WalError> {
    let file = disk.open(&path, None).await;
    let file = file.map_err(|source| disk_error(&path, source))?;
    let (header, sealed) = read_header(&*file, &path).await?;
    if (header.tenant, header.branch) != owner || header.id != id {
        return Err(problem(&path, RecordProblem::Misplaced));
    }
    if file.size_bytes() != header.segment_bytes {
        let cut = RecordProblem::Damaged("it has another length than it was made with");
        return Err(problem(&path, cut));
    }
    let block_bytes = header.block_bytes as usize;
    let alignment_bytes = file.alignment_bytes();
    if alignment_bytes > block_bytes {
        return Err(WalError::Alignment {
            path,
            alignment_bytes,
        });
    }
    let dek = deks.dek(header.dek_id).await;
    let dek = dek.map_err(|source| WalError::Key {
        path: path.clone(),
        id: header.dek_id,
        source,
    })?;
    header.check_key(&dek).map_err(|p| problem(&path, p))?;
    let opener = Rc::new(Opener::new(&dek));
    let start = header.open(&sealed, &opener);
    let start = start.map_err(|p| problem(&path, p))?;
    let segment = Segment {
        path,
        place: header.place(start.timeline),
        start: start.start,
        block_bytes,
        segment_bytes: header.segment_bytes,
    };
    Ok(Opened {
        segment,
        opener,
        start,
    })
}

/// The clear part of a header; what makes no sense is read again, since a disk may err once.
async fn read_header<F: DiskFile>(
    file: &F,
    path: &Path,
) -> Result<(SegmentHeader, SealedBody), WalError> {
    let alignment_bytes = file.alignment_bytes();
    let block_bytes = block_bytes(alignment_bytes).ok_or_else(|| WalError::Alignment {
        path: path.to_owned(),
        alignment_bytes,
    })?;
    if file.size_bytes() < block_bytes as u64 {
        return Err(problem(path, RecordProblem::Damaged("cut short")));
    }
    let mut parsed = Err(RecordProblem::OtherFormat);
    for _ in 0..READS {
        let block = file.read_at(0, block_bytes).await;
        let block = block.map_err(|source| disk_error(path, source))?;
        parsed = SegmentHeader::parse(&block);
        if parsed.is_ok() {
            break;
        }
    }
    parsed.map_err(|p| problem(path, p))
}

/// Where the log ends in its last segment, durably; or why what ends it is damage. See the module's rules.
async fn find_end<D: Disk>(disk: &D, last: &Opened) -> Result<Lsn, WalError> {
    let segment = &last.segment;
    let file = disk.open(&segment.path, None).await;
    let file = file.map_err(|source| segment.disk_error(source))?;
    // What a killed process wrote may be in the device only. What is read now will be there later.
    let synced = file.sync().await;
    synced.map_err(|source| segment.disk_error(source))?;
    let mut cursor = SegmentCursor::new(segment.clone(), file, Rc::clone(&last.opener));
    let (reason, cut_off) = loop {
        match cursor.next().await? {
            Step::Frame { .. } => {}
            Step::End => return Ok(cursor.lsn()),
            Step::Broken { problem, cut_off } => break (problem, cut_off),
        }
    };
    let evidence = match cursor.durable_behind().await? {
        Some((at, durable)) => Evidence::DurableBehind { at, durable },
        None if cut_off => {
            info!(path = %segment.path.display(), at = cursor.at(), lsn = %cursor.lsn(), "the local WAL ends");
            return Ok(cursor.lsn());
        }
        None => Evidence::Whole,
    };
    Err(broken(&cursor, reason, evidence))
}

/// The error of a frame at the cursor that has to open and does not.
pub(super) fn broken<F: DiskFile>(
    cursor: &SegmentCursor<F>,
    problem: RecordProblem,
    evidence: Evidence,
) -> WalError {
    WalError::Frame {
        path: cursor.segment().path.clone(),
        at: cursor.at(),
        lsn: cursor.lsn(),
        problem,
        evidence,
    }
}

async fn remove<D: Disk>(disk: &D, path: &Path) -> Result<(), WalError> {
    warn!(path = %path.display(), "a segment of the local WAL that was never used is removed");
    let removed = disk.remove(path).await;
    removed.map_err(|source| disk_error(path, source))
}

fn disk_error(path: &Path, source: DiskError) -> WalError {
    WalError::Disk {
        path: path.to_owned(),
        source,
    }
}

fn problem(path: &Path, problem: RecordProblem) -> WalError {
    WalError::Segment {
        path: path.to_owned(),
        problem,
    }
}
