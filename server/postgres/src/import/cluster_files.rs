//! The files of a cluster, one after the other, as versions of keys: what all sources have in common.
//!
//! Postgres keeps what is here: a fork's length is that of its segments up to the first that is not full, and a
//! piece of a block at the end of a file (an extension that a crash cut short, or that is under way) does not count.
//!
//! Files of a cluster at work are of different moments. A segment may be missing, or not be full, before others that were
//! there earlier or later: what is behind it counts as not there. Either the WAL from the start on has cut it off, or the WAL
//! has all that made it.
//!
//! Checksums: a page that is wrong and older than the start is damaged. A newer one may be torn, and the WAL restores it: it
//! is damaged if that does not come to pass (`replay.rs`). Pages of the two maps are read as Postgres itself reads them, wrong
//! ones as zeros: bits of a visibility map are cleared without an image in the WAL, so one that is torn in a backup is
//! restored by nothing.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::ops::Range;

use engine::layer::Value;
use engine::types::{Lsn, PAGE_BYTES};

use super::page_table::{KeptFor, Limits, PageTable};
use super::replay::Replay;
use super::{ImportError, ImportSink, ImportStart, ImportSummary, replication_origins};
use crate::bytes_at::{u16_at, u32_at};
use crate::control_file::{CONTROL_FILE_BYTES, ControlFile, SEGMENT_BLOCKS};
use crate::data_files::DataFile;
use crate::key::{CHUNK_BYTES, Fork, PostgresKey, Relation, Slru, path_hash};
use crate::lengths::{ForkLengths, Lengths};
use crate::page;
use crate::touch::ClusterState;
use crate::value::{
    BackupFacts, DatabaseDirectory, PlainFile, RelationSize, ReplicationOrigin, SlruSegment,
    Tablespace,
};

/// A file of the source, with where it stands for messages.
pub(super) struct SourceFile<'a> {
    pub(super) path: &'a str,
    pub(super) length: u64,
    pub(super) mode: u32,
}

/// What the files are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// A cluster that was shut down: all files are of one moment.
    Stopped,
    /// A cluster at work: its WAL makes them so.
    AtWork,
}

/// All files, taken.
pub(super) struct FinishedFiles {
    /// As of the files: no WAL yet.
    pub(super) summary: ImportSummary,
    pub(super) data_checksum_version: u32,
    pub(super) replay: Replay,
}

/// Pages of an SLRU by segment and block.
type KeptPages = BTreeMap<(u64, u32), Box<[u8; PAGE_BYTES]>>;

/// Takes files and turns them into versions.
pub(super) struct ClusterFiles {
    start: ImportStart,
    source: Source,
    /// Blocks of each segment file.
    segments: BTreeMap<(Relation, Fork, u32), u32>,
    /// Directories of databases, and whether in their own tablespace.
    databases: BTreeMap<(u32, u32), bool>,
    plain_paths: HashMap<u64, String>,
    control: Option<Vec<u8>>,
    /// Newer pages whose checksum is wrong.
    suspects: HashMap<PostgresKey, ImportError>,
    /// What the WAL changes without an image: visibility maps and the last pages of SLRUs.
    maps: PageTable,
    slrus: [KeptPages; 4],
    /// Pages of each segment.
    slru_pages: BTreeMap<(Slru, u64), u32>,
    state: ClusterState,
    buffer: Vec<u8>,
    file_bytes: u64,
    relation_pages: u64,
}

impl ClusterFiles {
    pub(super) fn new(start: ImportStart, source: Source, replay_bytes_max: usize) -> ClusterFiles {
        ClusterFiles {
            start,
            source,
            segments: BTreeMap::new(),
            databases: BTreeMap::new(),
            plain_paths: HashMap::new(),
            control: None,
            suspects: HashMap::new(),
            maps: PageTable::new(Limits::of(replay_bytes_max)),
            slrus: Default::default(),
            slru_pages: BTreeMap::new(),
            state: ClusterState::new(1),
            buffer: vec![0; BUFFER_BYTES],
            file_bytes: 0,
            relation_pages: 0,
        }
    }

    /// A tablespace made by a user.
    pub(super) fn tablespace(
        &mut self,
        tablespace: u32,
        path: &str,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        let value = Tablespace {
            path: path.to_owned(),
        };
        let encoded = value.encode();
        if encoded.len() > PAGE_BYTES {
            return Err(malformed(path, "the path is too long"));
        }
        self.put(sink, PostgresKey::Tablespace { tablespace }, &encoded)
    }

    /// Takes one file; `kind` is what [`crate::data_files`] says of it. WAL and files that are ignored must not
    /// come here.
    pub(super) fn file(
        &mut self,
        kind: DataFile,
        file: &SourceFile<'_>,
        reader: &mut dyn Read,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        match kind {
            DataFile::Relation {
                relation,
                fork,
                segment,
            } => self.relation(relation, fork, segment, file, reader, sink)?,
            DataFile::Slru { slru, segment } => self.slru(slru, segment, file, reader, sink)?,
            DataFile::RelationMap {
                database,
                tablespace,
            } => {
                let content = self.small(file, reader)?;
                let key = PostgresKey::RelationMap {
                    database,
                    tablespace,
                };
                self.put(sink, key, &content)?;
            }
            DataFile::DatabaseVersion {
                database,
                tablespace,
            } => {
                self.version_file(file, reader)?;
                self.databases.insert((database, tablespace), true);
            }
            DataFile::ClusterVersion => self.version_file(file, reader)?,
            DataFile::ControlFile => self.control = Some(self.small(file, reader)?),
            DataFile::TwoPhase { xid } => {
                let key = |chunk| PostgresKey::TwoPhase { xid, chunk };
                self.chunks(file, reader, sink, key)?;
            }
            DataFile::ReplicationOrigins => {
                let content = self.small(file, reader)?;
                let origins = replication_origins::decode(&content);
                let origins = origins.map_err(|reason| malformed(file.path, reason))?;
                for (origin, remote_lsn) in origins {
                    let value = ReplicationOrigin {
                        remote_lsn,
                        local_lsn: Lsn::INVALID,
                    };
                    let key = PostgresKey::ReplicationOrigin { origin };
                    self.put(sink, key, &value.encode())?;
                }
            }
            DataFile::Plain => self.plain(file, reader, sink)?,
            DataFile::Incremental => {
                return Err(malformed(
                    file.path,
                    "part of an incremental backup; combine it first (pg_combinebackup)",
                ));
            }
            DataFile::BackupLabel
            | DataFile::TablespaceMap
            | DataFile::Wal { .. }
            | DataFile::Ignored(_) => unreachable!("not a file of the cluster's state"),
        }
        sink.progress(self.file_bytes).map_err(ImportError::Sink)
    }

    /// Puts what is known only when all files were there. What comes of it takes the WAL.
    pub(super) fn finish(
        mut self,
        sink: &mut dyn ImportSink,
    ) -> Result<FinishedFiles, ImportError> {
        let bytes = self.control.take();
        let bytes = bytes.ok_or_else(|| ImportError::Missing("global/pg_control".to_owned()))?;
        let control = ControlFile::decode(&bytes)?;
        self.compare_with_start(&control)?;
        self.put(sink, PostgresKey::ControlFile, &bytes)?;
        let checkpoint = control.checkpoint.encode();
        self.put(sink, PostgresKey::CheckpointState, &checkpoint)?;
        for ((database, tablespace), is_own_tablespace) in self.databases.clone() {
            let key = PostgresKey::DatabaseDirectory {
                database,
                tablespace,
            };
            self.put(sink, key, &DatabaseDirectory { is_own_tablespace }.encode())?;
        }
        let (forks, behind) = self.put_sizes(sink)?;
        self.suspects
            .retain(|key, _| !behind.iter().any(|blocks| blocks.contain(key)));
        let own = self.databases.values().filter(|is_own| **is_own).count();
        let summary = ImportSummary {
            start: self.start,
            stop_lsn: self.start.start_lsn,
            file_bytes: self.file_bytes,
            relation_pages: self.relation_pages,
            relation_forks: forks.len() as u64,
            databases: own as u64,
            wal_records: 0,
        };
        let mut pages = self.maps;
        for (slru, kept) in Slru::ALL.into_iter().zip(self.slrus) {
            // The newest first: those change.
            for ((segment, block), page) in kept.into_iter().rev() {
                let key = PostgresKey::SlruPage {
                    slru,
                    segment,
                    block,
                };
                pages.keep(key, &page, self.start.start_lsn, KeptFor::Slrus);
            }
        }
        let lengths = Lengths {
            forks,
            segments: self.slru_pages,
        };
        Ok(FinishedFiles {
            summary,
            data_checksum_version: control.data_checksum_version,
            replay: Replay::new(self.state, lengths, pages, self.suspects, behind),
        })
    }

    /// Puts a small value, and takes it into the state that the WAL begins with.
    fn put(
        &mut self,
        sink: &mut dyn ImportSink,
        key: PostgresKey,
        value: &[u8],
    ) -> Result<(), ImportError> {
        self.state.load(key, value)?;
        put(sink, key, self.start.start_lsn, value)
    }

    fn relation(
        &mut self,
        relation: Relation,
        fork: Fork,
        segment: u32,
        file: &SourceFile<'_>,
        reader: &mut dyn Read,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        let blocks = u32::try_from(file.length / PAGE_BYTES as u64)
            .ok()
            .filter(|blocks| *blocks <= SEGMENT_BLOCKS)
            .ok_or_else(|| malformed(file.path, "longer than a segment of 1 GiB"))?;
        let first = segment
            .checked_mul(SEGMENT_BLOCKS)
            .filter(|first| first.checked_add(blocks).is_some())
            .ok_or_else(|| malformed(file.path, "its blocks have numbers beyond 32 bits"))?;
        if relation.database != 0 {
            let directory = (relation.database, relation.tablespace);
            self.databases.entry(directory).or_insert(false);
        }
        self.segments.insert((relation, fork, segment), blocks);
        self.relation_pages += u64::from(blocks);
        let mut block = first;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = u64::from(blocks) * PAGE_BYTES as u64;
        while left > 0 {
            let part = fill(&mut buffer, left, file, reader)?;
            for page in part.chunks_exact(PAGE_BYTES) {
                let mut page: &[u8; PAGE_BYTES] = page.try_into().expect("chunks of a page");
                let key = PostgresKey::Block {
                    relation,
                    fork,
                    block,
                };
                if self.start.has_data_checksums && !self.verify(key, page, block, file)? {
                    page = &ZEROS;
                }
                if fork == Fork::VisibilityMap {
                    let start = self.start.start_lsn;
                    self.maps.keep(key, page, start, KeptFor::Maps);
                }
                put(sink, key, self.start.start_lsn, page)?;
                block += 1;
            }
            left -= part.len() as u64;
            self.file_bytes += part.len() as u64;
            sink.progress(self.file_bytes).map_err(ImportError::Sink)?;
        }
        self.buffer = buffer;
        let piece = file.length % PAGE_BYTES as u64;
        if piece > 0 {
            tracing::warn!(
                file = file.path,
                piece,
                "a piece of a block at the end of the file does not count"
            );
            self.file_bytes += piece;
            discard(piece, file, reader)?;
        }
        Ok(())
    }

    /// Whether the page is to be taken as it is; else it is one of zeros.
    fn verify(
        &mut self,
        key: PostgresKey,
        page: &[u8; PAGE_BYTES],
        block: u32,
        file: &SourceFile<'_>,
    ) -> Result<bool, ImportError> {
        let stored = u16_at(page, 8).expect("within the page");
        let computed = page::page_checksum(page, block);
        if stored == computed || page::is_zero(page) {
            return Ok(true);
        }
        let fork = match key {
            PostgresKey::Block { fork, .. } => Some(fork),
            _ => None,
        };
        if matches!(fork, Some(Fork::VisibilityMap | Fork::FreeSpaceMap)) {
            tracing::warn!(
                file = file.path,
                block,
                "a page of a map with a wrong checksum counts as zeros, as it does for Postgres"
            );
            return Ok(false);
        }
        let high = u32_at(page, 0).expect("within the page");
        let low = u32_at(page, 4).expect("within the page");
        let lsn = Lsn(u64::from(high) << 32 | u64::from(low));
        let damaged = ImportError::CorruptPage {
            file: file.path.to_owned(),
            block,
            lsn,
            stored,
            computed,
        };
        // Of a new page the end may be there before its beginning, which has the LSN.
        let is_begun = u16_at(page, UPPER_AT).expect("within the page") == 0;
        if lsn < self.start.start_lsn && !(is_begun && self.source == Source::AtWork) {
            return Err(damaged);
        }
        self.suspects.insert(key, damaged);
        Ok(true)
    }

    fn slru(
        &mut self,
        slru: Slru,
        segment: u64,
        file: &SourceFile<'_>,
        reader: &mut dyn Read,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        let pages = u32::try_from(file.length / PAGE_BYTES as u64)
            .ok()
            .filter(|pages| *pages <= SLRU_SEGMENT_PAGES)
            .filter(|_| {
                // One may be about to become longer.
                self.source == Source::AtWork || file.length.is_multiple_of(PAGE_BYTES as u64)
            })
            .ok_or_else(|| malformed(file.path, "not a segment of at most 32 pages of 8 KiB"))?;
        let content = self.small(file, reader)?;
        for (block, page) in (0u32..).zip(content.chunks_exact(PAGE_BYTES)) {
            let key = PostgresKey::SlruPage {
                slru,
                segment,
                block,
            };
            put(sink, key, self.start.start_lsn, page)?;
            let kept = &mut self.slrus[usize::from(slru.number())];
            let page: &[u8; PAGE_BYTES] = page.try_into().expect("chunks of a page");
            kept.insert((segment, block), Box::new(*page));
            if kept.len() > SLRU_PAGES_KEPT {
                kept.pop_first();
            }
        }
        self.slru_pages.insert((slru, segment), pages);
        let key = PostgresKey::SlruSegment { slru, segment };
        self.put(sink, key, &SlruSegment { pages }.encode())
    }

    fn plain(
        &mut self,
        file: &SourceFile<'_>,
        reader: &mut dyn Read,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        let path_hash = path_hash(file.path);
        if let Some(other) = self.plain_paths.insert(path_hash, file.path.to_owned()) {
            return Err(malformed(
                file.path,
                &format!("comes twice, or has the same hash as {other}: rename one of them"),
            ));
        }
        let value = PlainFile {
            length: file.length,
            mode: file.mode & 0o7777,
            path: file.path.to_owned(),
        };
        let encoded = value.encode();
        if encoded.len() > PAGE_BYTES {
            return Err(malformed(file.path, "the path is too long"));
        }
        self.put(sink, PostgresKey::PlainFile { path_hash }, &encoded)?;
        let key = |chunk| PostgresKey::PlainFileChunk { path_hash, chunk };
        self.chunks(file, reader, sink, key)
    }

    fn chunks(
        &mut self,
        file: &SourceFile<'_>,
        reader: &mut dyn Read,
        sink: &mut dyn ImportSink,
        key: impl Fn(u32) -> PostgresKey,
    ) -> Result<(), ImportError> {
        let mut left = file.length;
        for chunk in 0u32.. {
            let bytes = left.min(CHUNK_BYTES as u64);
            let part = fill(&mut self.buffer[..CHUNK_BYTES], bytes, file, reader)?;
            put(sink, key(chunk), self.start.start_lsn, part)?;
            left -= bytes;
            self.file_bytes += bytes;
            if bytes < CHUNK_BYTES as u64 {
                return Ok(());
            }
        }
        Err(malformed(file.path, "longer than 32 TiB"))
    }

    /// A whole file that is at most [`SMALL_FILE_BYTES_MAX`] long.
    fn small(
        &mut self,
        file: &SourceFile<'_>,
        reader: &mut dyn Read,
    ) -> Result<Vec<u8>, ImportError> {
        let length = usize::try_from(file.length)
            .ok()
            .filter(|length| *length <= SMALL_FILE_BYTES_MAX)
            .ok_or_else(|| malformed(file.path, "too long for what it is"))?;
        let mut content = vec![0; length];
        fill(&mut content, file.length, file, reader)?;
        self.file_bytes += file.length;
        let limit = match file.path.rsplit('/').next() {
            Some("pg_filenode.map") => PAGE_BYTES,
            Some("pg_control") => CONTROL_FILE_BYTES,
            _ => SMALL_FILE_BYTES_MAX,
        };
        if length > limit {
            return Err(malformed(file.path, "too long for what it is"));
        }
        Ok(content)
    }

    fn version_file(
        &mut self,
        file: &SourceFile<'_>,
        reader: &mut dyn Read,
    ) -> Result<(), ImportError> {
        let content = self.small(file, reader)?;
        let found = String::from_utf8_lossy(&content).trim().to_owned();
        if found == self.start.postgres_major.to_string() {
            return Ok(());
        }
        Err(ImportError::VersionFile {
            file: file.path.to_owned(),
            found,
            wanted: self.start.postgres_major,
        })
    }

    fn compare_with_start(&self, control: &ControlFile) -> Result<(), ImportError> {
        let start = &self.start;
        let same = start.system_identifier == control.system_identifier
            && start.postgres_major == control.postgres_major
            && start.wal_segment_bytes == control.wal_segment_bytes
            && start.has_data_checksums == control.has_data_checksums();
        if same {
            return Ok(());
        }
        Err(malformed(
            "global/pg_control",
            "contradicts what the source said at the beginning of the import",
        ))
    }

    /// Puts the lengths of forks. Answers them, and the blocks that were put and are behind them.
    fn put_sizes(
        &mut self,
        sink: &mut dyn ImportSink,
    ) -> Result<(ForkLengths, Vec<Behind>), ImportError> {
        let (mut forks, mut behind) = (BTreeMap::new(), Vec::new());
        let of_files = std::mem::take(&mut self.segments);
        let mut segments = of_files.iter().peekable();
        while let Some(&&(relation, fork, _)) = segments.peek().map(|(of, _)| of) {
            // Its length so far: that of full segments, and of the first that is not.
            let (mut blocks, mut is_there, mut is_full) = (0, false, true);
            while let Some((&(_, _, segment), &more)) =
                segments.next_if(|((r, f, _), _)| (*r, *f) == (relation, fork))
            {
                let next = blocks / SEGMENT_BLOCKS;
                if segment == next && is_full {
                    is_there = true;
                    blocks += more;
                    is_full = more == SEGMENT_BLOCKS;
                    continue;
                }
                // Truncation leaves empty segments behind; blocks in them would be unreachable.
                if self.source == Source::Stopped && (is_full || more > 0) {
                    let suffix = fork.suffix();
                    if is_full {
                        let missing = format!("segment {next} of {relation}{suffix}");
                        return Err(ImportError::Missing(missing));
                    }
                    let path = format!("segment {next} of {relation}{suffix}");
                    return Err(malformed(&path, "not full, and another follows"));
                }
                let first = segment * SEGMENT_BLOCKS;
                let blocks = first..first + more;
                behind.push(Behind {
                    relation,
                    fork,
                    blocks,
                });
            }
            if !is_there {
                continue;
            }
            let value = RelationSize {
                blocks,
                generation: Lsn::INVALID,
            };
            let key = PostgresKey::RelationSize { relation, fork };
            self.put(sink, key, &value.encode())?;
            forks.insert((relation, fork), blocks);
        }
        Ok((forks, behind))
    }
}

/// Blocks of a fork that were put, and are behind its end as the files have it.
pub(super) struct Behind {
    pub(super) relation: Relation,
    pub(super) fork: Fork,
    pub(super) blocks: Range<u32>,
}

impl Behind {
    fn contain(&self, key: &PostgresKey) -> bool {
        matches!(*key, PostgresKey::Block { relation, fork, block }
            if (relation, fork) == (self.relation, self.fork) && self.blocks.contains(&block))
    }
}

impl FinishedFiles {
    /// Puts what the backup says of itself.
    pub(super) fn put_facts(
        &self,
        stop: Lsn,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        let start = self.summary.start;
        let facts = BackupFacts {
            system_identifier: start.system_identifier,
            postgres_major: start.postgres_major.into(),
            timeline: start.timeline,
            start_lsn: start.start_lsn,
            stop_lsn: stop,
            wal_segment_bytes: start.wal_segment_bytes,
            data_checksum_version: self.data_checksum_version,
        };
        put(
            sink,
            PostgresKey::BackupFacts,
            start.start_lsn,
            &facts.encode(),
        )
    }
}

/// Whether files of this kind are state of the cluster and go to [`ClusterFiles::file`].
pub(super) fn is_state(kind: &DataFile) -> bool {
    !matches!(
        kind,
        DataFile::BackupLabel
            | DataFile::TablespaceMap
            | DataFile::Wal { .. }
            | DataFile::Ignored(_)
    )
}

/// Hands a whole value on.
pub(super) fn put(
    sink: &mut dyn ImportSink,
    key: PostgresKey,
    lsn: Lsn,
    value: &[u8],
) -> Result<(), ImportError> {
    sink.put(key.encode(), lsn, Value::Image(value))
        .map_err(ImportError::Sink)
}

/// Fills the front of `buffer` with the next bytes of the file, `left` of them if there is room.
fn fill<'b>(
    buffer: &'b mut [u8],
    left: u64,
    file: &SourceFile<'_>,
    reader: &mut dyn Read,
) -> Result<&'b [u8], ImportError> {
    let bytes = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    let part = &mut buffer[..bytes];
    reader
        .read_exact(part)
        .map_err(|error| malformed(file.path, &error.to_string()))?;
    Ok(part)
}

fn discard(bytes: u64, file: &SourceFile<'_>, reader: &mut dyn Read) -> Result<(), ImportError> {
    std::io::copy(&mut reader.take(bytes), &mut std::io::sink())
        .map(|_| ())
        .map_err(|error| malformed(file.path, &error.to_string()))
}

fn malformed(path: &str, reason: &str) -> ImportError {
    ImportError::MalformedFile {
        file: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Read at once; a multiple of a page.
const BUFFER_BYTES: usize = 64 * PAGE_BYTES;
const SLRU_SEGMENT_PAGES: u32 = 32;
/// Where a page says where its rows begin; zero until it is set up.
const UPPER_AT: usize = 14;
/// Pages of each SLRU that are kept for the WAL: the newest, 16 MiB of them.
const SLRU_PAGES_KEPT: usize = 2048;
const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
const SMALL_FILE_BYTES_MAX: usize = 32 * PAGE_BYTES;

#[cfg(test)]
mod tests;
