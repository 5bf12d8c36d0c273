//! The WAL of a backup: taken segment by segment as it comes, and handed on up to the stop LSN, as it is and record by record.

use std::io::Read;

use engine::types::Lsn;

use super::{ImportError, ImportSink};
use crate::bytes_at::u64_at;
use crate::data_files::WalSegmentName;
use crate::wal::{Decoded, Record, ResourceManager, WAL_PAGE_BYTES, WalDecoder, WalStream};

/// Where a stretch ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    /// With the record that ends the backup which started here.
    BackupEnd { start: Lsn },
    /// With a shutdown checkpoint, which is its first record.
    ShutdownCheckpoint,
}

/// Takes the records.
pub(super) type TakeRecord<'t> =
    &'t mut dyn FnMut(&Record<'_>, &mut dyn ImportSink) -> Result<(), ImportError>;

/// WAL from the start of a backup to its end.
pub(super) struct WalStretch {
    start: Lsn,
    stream: WalStream,
    decoder: WalDecoder,
    until: Until,
    stop: Option<Lsn>,
}

impl WalStretch {
    pub(super) fn new(start: Lsn, stream: WalStream, until: Until) -> WalStretch {
        WalStretch {
            start,
            stream,
            decoder: WalDecoder::new(stream, start),
            until,
            stop: None,
        }
    }

    /// The stop LSN, once the record that ends the stretch was seen.
    pub(super) fn stop(&self) -> Option<Lsn> {
        self.stop
    }

    /// First LSN of the segment wanted next.
    pub(super) fn next_segment(&self) -> Lsn {
        let at = self.decoder.position().0;
        Lsn(at - at % u64::from(self.stream.segment_bytes))
    }

    /// File name of the segment wanted next.
    pub(super) fn next_segment_name(&self) -> String {
        let segment = self.next_segment().0 / u64::from(self.stream.segment_bytes);
        let per_high = (1u64 << 32) / u64::from(self.stream.segment_bytes);
        format!(
            "{:08X}{:08X}{:08X}",
            self.stream.timeline,
            segment / per_high,
            segment % per_high
        )
    }

    /// Whether a segment is to be taken: not those of other timelines, nor those before the next one or behind the stop.
    pub(super) fn wants(&self, timeline: u32, name: WalSegmentName) -> bool {
        let is_old = self.first_of(name) < self.next_segment().0;
        timeline == self.stream.timeline && !is_old && self.stop.is_none()
    }

    /// Takes a segment file that is wanted.
    pub(super) fn segment(
        &mut self,
        name: WalSegmentName,
        reader: &mut dyn Read,
        sink: &mut dyn ImportSink,
        take: TakeRecord<'_>,
    ) -> Result<(), ImportError> {
        let first = self.first_of(name);
        if first > self.next_segment().0 {
            return Err(ImportError::Missing(format!(
                "WAL segment {} (they have to come in order)",
                self.next_segment_name()
            )));
        }
        let mut page = [0; WAL_PAGE_BYTES];
        let end = Lsn(first + u64::from(self.stream.segment_bytes));
        let mut at = Lsn(first);
        while at < end && self.stop.is_none() {
            reader
                .read_exact(&mut page)
                .map_err(|error| ImportError::MalformedFile {
                    file: format!("WAL segment at {}", Lsn(first)),
                    reason: error.to_string(),
                })?;
            if at == self.decoder.position() {
                self.page(at, &page, sink, take)?;
            }
            at = Lsn(at.0 + WAL_PAGE_BYTES as u64);
        }
        Ok(())
    }

    fn first_of(&self, name: WalSegmentName) -> u64 {
        u64::from(name.high) << 32
            | u64::from(name.low).wrapping_mul(u64::from(self.stream.segment_bytes))
    }

    /// The stop LSN.
    /// # Errors
    /// The WAL ended before it.
    pub(super) fn finish(&self) -> Result<Lsn, ImportError> {
        self.stop.ok_or_else(|| {
            ImportError::Missing(format!("WAL segment {}", self.next_segment_name()))
        })
    }

    fn page(
        &mut self,
        at: Lsn,
        page: &[u8; WAL_PAGE_BYTES],
        sink: &mut dyn ImportSink,
        take: TakeRecord<'_>,
    ) -> Result<(), ImportError> {
        let start = self.start;
        let mut rest = &page[..];
        while !rest.is_empty() {
            let Decoded { consumed, record } = self
                .decoder
                .decode(rest)
                .map_err(|source| ImportError::Wal { start, source })?;
            rest = &rest[consumed..];
            if let Some(record) = record {
                take(&record, sink)?;
                self.stop = self.until.is_last(&record)?.then_some(record.end);
            }
            if let Some(stop) = self.stop {
                let used = stop.bytes_since(at).and_then(|n| usize::try_from(n).ok());
                let used = used.expect("a record ends behind the start of its last page");
                return sink.wal(at, &page[..used]).map_err(ImportError::Sink);
            }
        }
        sink.wal(at, page).map_err(ImportError::Sink)
    }
}

impl Until {
    /// Whether a record is the last of its stretch.
    fn is_last(self, record: &Record<'_>) -> Result<bool, ImportError> {
        let is_xlog = record.manager == ResourceManager::XLOG;
        match self {
            Until::BackupEnd { start } => {
                let of = u64_at(record.main, 0);
                Ok(is_xlog && record.operation() == BACKUP_END && of == Some(start.0))
            }
            Until::ShutdownCheckpoint => {
                if is_xlog && record.operation() == CHECKPOINT_SHUTDOWN {
                    return Ok(true);
                }
                Err(ImportError::MalformedFile {
                    file: format!("WAL at {}", record.start),
                    reason: "no shutdown checkpoint is where the control file says".to_owned(),
                })
            }
        }
    }
}

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const BACKUP_END: u8 = 0x50;
