//! WAL decoded into versions, and those handed to the cores.

use std::sync::Arc;

use engine::Engine;
use engine::ingest::{Frozen, VersionWriter};
use engine::layer::Value;
use engine::types::{BranchId, Key, Lsn, TenantId};
use postgres::record_versions::{RecordVersions, VersionSink};
use postgres::wal::{Decoded, WAL_PAGE_BYTES, WalDecoder, WalStream};

use super::copied_database::{Copying, Original};
use super::error::FollowError;

/// Takes WAL of one branch, in order.
pub(super) struct Intake {
    decoder: WalDecoder,
    records: RecordVersions,
    versions: VersionWriter<Arc<Engine>>,
    /// End of the last record that was put.
    last_end: Lsn,
    taken: u64,
    /// What databases that are copied are read from.
    engine: Arc<Engine>,
    place: (TenantId, BranchId),
    /// What the last record left to do.
    work: Option<Work>,
    /// Bytes that wait for that: what had arrived with the record.
    backlog: Vec<u8>,
}

/// What a record left to do.
struct Work {
    /// Its end.
    end: Lsn,
    copy: Option<Copying>,
}

struct Sink<'v>(&'v mut VersionWriter<Arc<Engine>>);

impl VersionSink for Sink<'_> {
    fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) {
        self.0.put(key, lsn, value);
    }
}

impl Intake {
    /// Of a branch that has everything up to `at`, which is where a record ends.
    pub(super) fn new(
        (stream, records): (WalStream, RecordVersions),
        at: Lsn,
        versions: VersionWriter<Arc<Engine>>,
        (engine, place): (&Arc<Engine>, (TenantId, BranchId)),
    ) -> Intake {
        Intake {
            decoder: WalDecoder::new(stream, at),
            records,
            versions,
            last_end: at,
            taken: 0,
            engine: Arc::clone(engine),
            place,
            work: None,
            backlog: Vec::new(),
        }
    }

    /// The next byte wanted: at first the beginning of the WAL page that holds the start.
    pub(super) fn position(&self) -> Lsn {
        self.decoder.position()
    }

    /// Timeline of the last page of WAL that was taken, if there was one.
    pub(super) fn timeline(&self) -> Option<u32> {
        Some(self.decoder.timeline()).filter(|timeline| *timeline > 0)
    }

    /// Records taken in so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Up to where everything can be read.
    pub(super) fn readable(&self) -> Lsn {
        self.versions.last_lsn()
    }

    /// Bytes of versions that the next freeze takes, and of those that wait for [`Intake::advance`].
    pub(super) fn memory_bytes(&self) -> usize {
        self.versions.active_bytes() + self.versions.pending_bytes()
    }

    /// Takes bytes that begin at `start`; those before the position are passed over. A record that makes much work stops it:
    /// what is behind that is kept until the work is done.
    pub(super) fn take(&mut self, start: Lsn, bytes: &[u8]) -> Result<(), FollowError> {
        let wanted = Lsn(self.position().0 + self.backlog.len() as u64);
        let gap = FollowError::Gap {
            found: start,
            wanted,
        };
        let before = wanted.bytes_since(start).ok_or(gap)?;
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        let rest = bytes.get(before..).unwrap_or_default();
        if self.work.is_some() {
            self.backlog.extend_from_slice(rest);
            return Ok(());
        }
        let taken = self.decode(rest)?;
        self.backlog.extend_from_slice(&rest[taken..]);
        Ok(())
    }

    /// Takes records until one makes much work; how many bytes that were.
    fn decode(&mut self, bytes: &[u8]) -> Result<usize, FollowError> {
        let mut rest = bytes;
        while !rest.is_empty() && self.work.is_none() {
            let decoded = self.decoder.decode(rest);
            let Decoded { consumed, record } = decoded.map_err(|source| match self.taken {
                0 => FollowError::NoRecord {
                    at: self.last_end,
                    source,
                },
                _ => source.into(),
            })?;
            rest = &rest[consumed..];
            let Some(record) = record else { continue };
            let end = record.end;
            let mut sink = Sink(&mut self.versions);
            let copied = self.records.record(&record, &mut sink)?;
            let has_more = self.records.put_emptied(EMPTIED_AT_ONCE, &mut sink);
            self.taken += 1;
            if copied.is_some() || has_more {
                self.work = Some(Work {
                    end,
                    copy: copied.map(|copied| Copying::begin(copied, &self.records)),
                });
            } else {
                self.last_end = end;
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Whether a record is not done yet.
    pub(super) fn has_work(&self) -> bool {
        self.work.is_some()
    }

    /// Does some of the work that a record made, and goes on behind it when it is done. What is put is handed to the cores,
    /// and readable with the record.
    pub(super) async fn work(&mut self) -> Result<(), FollowError> {
        let Some(work) = &mut self.work else {
            return Ok(());
        };
        // What is copied is what was there before the record.
        self.versions.advance(self.last_end).await?;
        let mut sink = Sink(&mut self.versions);
        let mut has_more = self.records.put_emptied(EMPTIED_AT_ONCE, &mut sink);
        if let Some(copy) = &mut work.copy {
            let original = Original {
                engine: &self.engine,
                place: self.place,
                at: self.last_end,
            };
            let copied = copy.some(&original, work.end, &mut self.records, &mut sink);
            has_more |= copied.await?;
        }
        if has_more {
            return Ok(());
        }
        self.last_end = work.end;
        self.work = None;
        let backlog = std::mem::take(&mut self.backlog);
        let taken = self.decode(&backlog)?;
        self.backlog.extend_from_slice(&backlog[taken..]);
        Ok(())
    }

    /// Begins to make readable what was taken, unless the like is under way; [`Intake::advanced`] brings it about.
    pub(super) fn begin_advance(&mut self) -> Result<(), FollowError> {
        if self.last_end > self.versions.last_lsn() && !self.versions.is_advancing() {
            self.versions.begin_advance(self.last_end)?;
        }
        Ok(())
    }

    /// Completes when that is done; never, if there is nothing to do.
    ///
    /// # Cancellation
    /// Safe: it goes on with the next call.
    pub(super) async fn advanced(&mut self) -> Result<(), FollowError> {
        if !self.versions.is_advancing() {
            return std::future::pending().await;
        }
        Ok(self.versions.advanced().await?)
    }

    /// Waits for what is on its way to the cores; whether it came there does not matter any more.
    pub(super) async fn settle(&mut self) {
        let _ = self.versions.advanced().await;
    }

    /// Makes readable what was taken.
    pub(super) async fn advance(&mut self) -> Result<(), FollowError> {
        if self.last_end > self.versions.last_lsn() {
            self.versions.advance(self.last_end).await?;
        }
        Ok(())
    }

    /// Freezes what is in memory, all of it readable.
    pub(super) async fn freeze(&mut self) -> Result<Frozen, FollowError> {
        Ok(self.versions.freeze().await?)
    }
}

/// Empty values that are put at once.
const EMPTIED_AT_ONCE: u32 = 8192;

/// The beginning of the page of WAL that holds `lsn`: from there on it is decoded.
pub(super) fn page_start(lsn: Lsn) -> Lsn {
    Lsn(lsn.0 - lsn.0 % WAL_PAGE_BYTES as u64)
}
