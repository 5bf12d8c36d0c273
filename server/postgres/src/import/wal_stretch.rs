//! The WAL of a backup: taken segment by segment as it comes, judged, and handed on up to the stop LSN.

use std::io::Read;

use engine::types::Lsn;

use super::{ImportError, ImportSink};
use crate::data_files::WalSegmentName;
use crate::wal::{Decoded, QuietCheck, WAL_PAGE_BYTES, WalDecoder, WalStream};

/// WAL from the start of a backup to where the check says it stops.
pub(super) struct WalStretch {
    start: Lsn,
    stream: WalStream,
    decoder: WalDecoder,
    check: QuietCheck,
    stop: Option<Lsn>,
}

impl WalStretch {
    pub(super) fn new(start: Lsn, stream: WalStream, check: QuietCheck) -> WalStretch {
        WalStretch {
            start,
            stream,
            decoder: WalDecoder::new(stream, start),
            check,
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

    /// Takes a segment file. Segments of other timelines and those before the wanted one or behind the stop are
    /// passed over.
    pub(super) fn segment(
        &mut self,
        timeline: u32,
        name: WalSegmentName,
        reader: &mut dyn Read,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        let first = u64::from(name.high) << 32
            | u64::from(name.low).wrapping_mul(u64::from(self.stream.segment_bytes));
        let wanted = self.next_segment();
        if timeline != self.stream.timeline || first < wanted.0 || self.stop.is_some() {
            return Ok(());
        }
        if first > wanted.0 {
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
                self.page(at, &page, sink)?;
            }
            at = Lsn(at.0 + WAL_PAGE_BYTES as u64);
        }
        Ok(())
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
                self.stop = self.check.observe(&record).map_err(ImportError::NotQuiet)?;
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
